//! `keyferry lab`

mod app;
mod apps;
mod args;
mod checks;
mod files;
mod frame;
mod link;
mod netns;
mod pcap;
mod plan;
mod process;
mod report;
mod sniffer;
mod talk;
mod tally;
mod topology;
mod view;

use std::process::ExitCode;

pub use args::Args;

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match &args.role {
        Some(args::Role::App(a)) => app::run(a)?,
        Some(args::Role::Exec(a)) => process::exec(a)?,
        None => {}
    }
    Ok(ExitCode::SUCCESS)
}
