//! One run of the lab, from the arguments to the exit code.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;

use super::args::{Args, BreakOption};
use super::fleet::Fleet;
use super::keys;
use super::netns::{self, Rights};
use super::patience::{Interrupted, Patience};
use super::plan::{GROUP_NAME, Plan};
use super::scenario::Scenario;
use super::view::View;

const CANNOT_RUN: u8 = 2;
const INTERRUPTED: u8 = 130;

/// Runs the lab.
pub(super) fn run(args: &Args) -> ExitCode {
    if args.sabotage == Some(BreakOption::List) {
        print!("{}", BreakOption::list());
        return ExitCode::SUCCESS;
    }
    let refusal = match args.objection() {
        Some(objection) => Err(objection),
        None => netns::isolate(),
    };
    let rights = match refusal {
        Ok(rights) => rights,
        Err(text) => {
            eprintln!("keyferry lab cannot run: {text}");
            return ExitCode::from(CANNOT_RUN);
        }
    };
    match play(args, rights) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) if error.is::<Interrupted>() => {
            eprintln!("interrupted");
            ExitCode::from(INTERRUPTED)
        }
        Err(error) => {
            eprintln!("keyferry lab cannot run: {error:#}");
            ExitCode::from(CANNOT_RUN)
        }
    }
}

fn play(args: &Args, rights: Rights) -> anyhow::Result<bool> {
    let patience = Patience::over_signals()?;
    let view = View::new(args.json)?;
    if rights == Rights::UserNamespace {
        view.say("not root: running in a user namespace");
    }
    if let Some(directory) = &args.pcap {
        fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    }
    let plan = Plan::new(args);
    view.stage(&format!("building the network: gateway {}, {} members", plan.gateway, plan.members.len()));
    let capture = args.pcap.as_ref().map(|d| d.join("lab.pcap"));
    let fleet = Fleet::build(args, plan, patience, capture)?;
    let mut scenario = Scenario::new(args, fleet, &view);
    let summary = scenario.play()?;
    let mut fleet = scenario.into_fleet();
    if args.keep {
        fleet.resume()?;
    }
    view.finish();
    match args.json {
        true => println!("{}", serde_json::to_string(&summary)?),
        false => print!("{}", summary.text()),
    }
    if args.keep {
        eprint!("{}", directions(&fleet, rights));
        fleet.patience.forever();
    }
    let key_log = fleet.files.key_log();
    fleet.stop_listening()?;
    if let Some(directory) = &args.pcap {
        collect_keys(&key_log, directory)?;
        eprintln!("capture and key files are in {}", directory.display());
    }
    Ok(summary.ok)
}

fn collect_keys(from: &Path, to: &Path) -> anyhow::Result<()> {
    keys::collect(from, to).with_context(|| format!("collecting key files in {}", to.display()))?;
    Ok(())
}

/// How to look around in a lab that was kept.
fn directions(fleet: &Fleet, rights: Rights) -> String {
    let program = std::env::current_exe().map(|p| p.display().to_string()).unwrap_or_else(|_| "keyferry".to_owned());
    let enter = match rights {
        Rights::Root => "nsenter --net",
        Rights::UserNamespace => "nsenter --user --preserve-credentials --net",
    };
    let mut text = format!(
        "\nThe lab goes on until Ctrl-C. The gateway listens at {} in its namespace.\n\n  {program} status --socket {}\n  {program} members --socket {1}\n  {program} rekey {GROUP_NAME} --socket {1}\n",
        fleet.plan.gateway_socket(),
        fleet.files.gateway_socket().display(),
    );
    for (name, pid) in fleet.process_ids() {
        text.push_str(&format!("  {enter} --target {pid:<8} # the namespace of {name}\n"));
    }
    text
}
