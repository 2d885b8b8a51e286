//! The command line.

mod args;
mod client;
mod sa;
mod tables;
mod trace;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use keyferry_model::id::{Identity, Protocol};

use self::args::{
    CheckArgs, ConfigArgs, DeleteArgs, EitherArgs, GatewayArgs, KeyLogArgs, MemberArgs, SaArgs, TraceArgs,
};
use crate::config::{self, Problems};
use crate::logging::LogArgs;
use crate::{lab, member, serve};

/// The exit code for a command line or a configuration that cannot be used.
const EXIT_USAGE: u8 = 2;

const EXAMPLES: &str = "\
Examples:
  keyferry lab                               See it all work on this machine
  keyferry check /etc/keyferry/gateway.toml  Look for mistakes before starting
  keyferry serve --config /etc/keyferry/gateway.toml
  keyferry members branches                  Who is in the group, and how
  keyferry rekey branches && keyferry rekeys branches
  keyferry evict branches 10.0.0.9
  keyferry move --to gikev2                  On a member: change the protocol
  keyferry sa                                On a member: SAs, packets, drops

Exit codes:
  0  done    1  failed    2  the command line or the configuration is wrong";

/// A key server and member that moves multicast IPsec groups from GDOI to G-IKEv2.
#[derive(Debug, Parser)]
#[command(name = "keyferry", version, after_help = EXAMPLES, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    log: LogArgs,
}

/// Subcommands.
#[derive(Debug, Subcommand)]
enum Command {
    /// Run the key server of the configured groups, for GDOI and G-IKEv2 at once.
    #[command(after_help = "Example:\n  keyferry serve --config /etc/keyferry/gateway.toml\n\n\
        It ends on SIGTERM and SIGINT. Keys, members and counters go on from the store at the next start.")]
    Serve(ConfigArgs),
    /// Join a group and protect its traffic through a TUN device.
    #[command(after_help = "Example:\n  keyferry member --config /etc/keyferry/member.toml\n\n\
        It needs root, or CAP_NET_ADMIN, CAP_NET_RAW and CAP_NET_BIND_SERVICE.")]
    Member(ConfigArgs),
    /// Run a whole group on this machine: a gateway and members in network namespaces.
    Lab(lab::Args),
    /// Look for mistakes in a configuration, all of them at once.
    #[command(after_help = "Example:\n  keyferry check docs/examples/gateway.toml\n\n\
        The exit code is 2 if there is any error; warnings do not count.")]
    Check(CheckArgs),
    /// Show a running gateway and its groups.
    Status(GatewayArgs),
    /// List the members of a group, or of all groups.
    #[command(after_help = "Examples:\n  keyferry members\n  keyferry members branches --json")]
    Members {
        /// Name of the group.
        group: Option<String>,
        #[command(flatten)]
        gateway: GatewayArgs,
    },
    /// List the last rekeys of a group: who acknowledged, how fast, who is missing.
    Rekeys {
        /// Name of the group.
        group: String,
        #[command(flatten)]
        gateway: GatewayArgs,
    },
    /// Rekey a group now, or have its keys deleted.
    #[command(after_help = "Examples:\n  keyferry rekey branches\n  keyferry rekey branches --delete-teks\n\n\
        An ordinary rekey loses no packet. The others are for keys that are not trusted any more.")]
    Rekey {
        /// Name of the group.
        group: String,
        #[command(flatten)]
        delete: DeleteArgs,
        #[command(flatten)]
        gateway: GatewayArgs,
    },
    /// Read the configuration again: groups, peers, algorithms and keys that have changed, are new or are gone.
    #[command(after_help = "Example:\n  keyferry check gateway.toml && keyferry reload\n\n\
        Members are told by rekeys, without losing a packet where the protocols allow it. SIGHUP does the same.")]
    Reload(GatewayArgs),
    /// Exclude a member: the others get new keys, and it may not come back.
    #[command(
        after_help = "Examples:\n  keyferry evict branches 10.0.0.9\n  keyferry evict branches fqdn:gm7.example.org"
    )]
    Evict {
        /// Name of the group.
        group: String,
        /// The member's identity, as `keyferry members` shows it.
        member: Identity,
        #[command(flatten)]
        gateway: GatewayArgs,
    },
    /// Let an evicted member register again.
    Readmit {
        /// Name of the group.
        group: String,
        /// The member's identity, as `keyferry members` shows it.
        member: Identity,
        #[command(flatten)]
        gateway: GatewayArgs,
    },
    /// Send G-IKEv2 members to the gateways of [gateway.redirect], to empty this one before maintenance.
    #[command(after_help = "Examples:\n  keyferry drain\n  keyferry drain --stop\n\n\
        Members that cannot be redirected stay, as do those of GDOI. It ends with the process, too.")]
    Drain {
        /// Serve everybody again.
        #[arg(long)]
        stop: bool,
        #[command(flatten)]
        gateway: GatewayArgs,
    },
    /// Show a running member: its keys, and what they carried.
    MemberStatus(MemberArgs),
    /// Show the SAs of a running member: what they protected and opened, what was dropped, and why.
    #[command(after_help = "Examples:\n  keyferry sa\n  keyferry sa --group 1234 --details\n  keyferry sa --json\n\n\
        Reasons are named as in /proc/net/xfrm_stat where the kernel has the like.")]
    Sa(SaArgs),
    /// Follow packets through a running member: policy, SA, numbers, sizes, or why they were dropped.
    #[command(
        after_help = "Examples:\n  keyferry trace --destination 239.192.0.1 --protocol udp --port 5000 --count 10\n  \
        keyferry trace --spi 0x79f28435 --timeout 1m\n  \
        keyferry trace --dry-run --source 10.0.0.1 --destination 239.1.1.1 --port 5000\n\n\
        It shows neither payload nor keys, and at most a thousand packets a second; further ones are counted."
    )]
    Trace(TraceArgs),
    /// Have a running member log the keys of new data SAs for Wireshark, for a while.
    #[command(after_help = "Examples:\n  keyferry key-log /root/keys --time 5m\n  \
        WIRESHARK_CONFIG_DIR=/root/keys tshark -r capture.pcap \\\n    \
        -o esp.enable_encryption_decode:TRUE\n  \
        keyferry key-log --stop\n\n\
        Whoever reads the files reads everything. Keys of SAs that are there already are not kept, so it \
        takes a rekey. key_log in [member] logs the keys of GDOI and G-IKEv2 too, from the start.")]
    KeyLog(KeyLogArgs),
    /// Print what monitoring reads of a running gateway or member, in Prometheus' text format.
    #[command(after_help = "Example, for the textfile collector of node_exporter:\n  \
        cd /var/lib/node_exporter\n  \
        keyferry metrics > keyferry.$$ && mv keyferry.$$ keyferry.prom\n\n\
        metrics = \"9848\" in [control] offers the same over HTTP.")]
    Metrics(EitherArgs),
    /// Change a running member to the other protocol, without losing a packet.
    #[command(after_help = "Example:\n  keyferry move --to gikev2\n\n\
        The member keeps its keys while it registers by the other protocol. If that fails, it stays where it is.")]
    Move {
        /// The protocol to change to: gdoi or gikev2.
        #[arg(long, value_name = "PROTOCOL")]
        to: Protocol,
        #[command(flatten)]
        member: MemberArgs,
    },
    /// Make a running member leave its group.
    Leave(MemberArgs),
    /// Print completions for a shell.
    #[command(after_help = "Example:\n  keyferry completions bash > /etc/bash_completion.d/keyferry")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print a manual page, as man(1) reads it.
    #[command(after_help = "Example:\n  keyferry man trace | man -l -")]
    Man {
        /// The command that it is about; the default is all of them in short.
        command: Option<String>,
    },
}

/// Parses the command line of this process and does what it says.
///
/// # Errors
/// Whatever made it fail, for standard error; the exit code is 1 then.
pub fn run() -> anyhow::Result<ExitCode> {
    let Cli { command, log } = Cli::parse();
    log.start();
    match command {
        // Before any thread exists: it may enter namespaces of its own.
        Command::Lab(args) => lab::run(args),
        Command::Serve(args) => {
            let read = || config::gateway(&args.config, config::environment());
            configured(read(), |config| serve::run(config, &args.config))
        }
        Command::Member(args) => configured(config::member(&args.config, config::environment()), member::run),
        Command::Check(args) => check(&args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "keyferry", &mut script);
            print(&String::from_utf8_lossy(&script))
        }
        Command::Man { command } => match manual(command.as_deref()) {
            Some(page) => print(&page?),
            None => Ok(misused("there is no such command")),
        },
        Command::Status(a) => print(&client::status(&a)?),
        Command::Members { group, gateway } => print(&client::members(&gateway, group.as_deref())?),
        Command::Rekeys { group, gateway } => print(&client::rekeys(&gateway, &group)?),
        Command::Rekey { group, delete, gateway } => print(&client::rekey(&gateway, &group, delete.what())?),
        Command::Reload(a) => print(&client::reload(&a)?),
        Command::Evict { group, member, gateway } => print(&client::evict(&gateway, &group, &member)?),
        Command::Readmit { group, member, gateway } => print(&client::readmit(&gateway, &group, &member)?),
        Command::Drain { stop, gateway } => print(&client::drain(&gateway, !stop)?),
        Command::MemberStatus(a) => print(&client::member_status(&a)?),
        Command::Sa(a) => print(&client::sa(&a)?),
        Command::KeyLog(a) => print(&client::key_log(&a)?),
        Command::Trace(a) if a.dry_run => match trace::flow(&a) {
            Ok(flow) => print(&trace::dry(&a, flow)?),
            Err(why) => Ok(misused(&why)),
        },
        Command::Trace(a) => trace::live(&a).map(|()| ExitCode::SUCCESS),
        Command::Metrics(a) => print(&client::metrics(&a.socket())?),
        Command::Move { to, member } => print(&client::move_to(&member, to)?),
        Command::Leave(a) => print(&client::leave(&a)?),
    }
}

/// Says what is wrong with a command line.
fn misused(why: &str) -> ExitCode {
    eprintln!("error: {why}");
    ExitCode::from(EXIT_USAGE)
}

/// The manual page of a command, or of them all; `None` if there is no such command.
fn manual(command: Option<&str>) -> Option<std::io::Result<String>> {
    let mut all = Cli::command();
    all.build();
    let about = match command {
        Some(name) => all.find_subcommand(name)?.clone(),
        None => all,
    };
    let mut page = Vec::new();
    let rendered = clap_mangen::Man::new(about).render(&mut page);
    Some(rendered.map(|()| String::from_utf8_lossy(&page).into_owned()))
}

/// Runs something over its configuration, or says what is wrong with that.
fn configured<T>(
    checked: Result<config::Checked<T>, Problems>,
    work: impl FnOnce(T) -> anyhow::Result<()>,
) -> anyhow::Result<ExitCode> {
    match checked {
        Ok(config::Checked { config, warnings }) => {
            for problem in warnings {
                tracing::warn!("{problem}");
            }
            work(config).map(|()| ExitCode::SUCCESS)
        }
        Err(problems) => {
            eprintln!("{problems}");
            Ok(ExitCode::from(EXIT_USAGE))
        }
    }
}

fn check(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let (role, problems) = match config::check(&args.file, config::environment()) {
        Ok(config::Checked { config: config::Role::Gateway(_), warnings }) => (Some("gateway"), warnings),
        Ok(config::Checked { config: config::Role::Member(_), warnings }) => (Some("member"), warnings),
        Err(Problems(problems)) => (None, problems),
    };
    if args.json {
        print(&client::json(&serde_json::json!({ "ok": role.is_some(), "role": role, "problems": problems }))?)?;
    } else {
        let mut text = String::new();
        for problem in &problems {
            text.push_str(&format!("{problem}\n"));
        }
        if let Some(role) = role {
            text.push_str(&format!("{}: a {role}'s configuration that can be used\n", args.file.display()));
        }
        print(&text)?;
    }
    Ok(if role.is_some() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_USAGE) })
}

/// Prints to standard output. A reader that has gone away, as `head` does, is no failure.
fn print(text: &str) -> anyhow::Result<ExitCode> {
    write_out(text).map(|_| ExitCode::SUCCESS)
}

/// Prints what more will follow. False if the reader has gone away.
fn write_out(text: &str) -> anyhow::Result<bool> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::PathBuf;

    use keyferry_gateway::Delete;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn commands_take_what_their_help_says() {
        let evict = Cli::try_parse_from(["keyferry", "evict", "g", "10.0.0.9", "--json", "--socket", "/x"]).unwrap();
        let Command::Evict { group, member, gateway } = evict.command else { panic!("another command") };
        assert_eq!((group.as_str(), member), ("g", "10.0.0.9".parse().unwrap()));
        assert_eq!((gateway.json, gateway.socket), (true, PathBuf::from("/x")));
        let rekey = Cli::try_parse_from(["keyferry", "rekey", "g", "--delete-kek"]).unwrap();
        let Command::Rekey { delete, .. } = rekey.command else { panic!("another command") };
        assert_eq!(delete.what(), Some(Delete::Kek));
        let drain = Cli::try_parse_from(["keyferry", "drain", "--stop"]).unwrap();
        assert!(matches!(drain.command, Command::Drain { stop: true, .. }));
        let traced =
            ["keyferry", "trace", "--source", "10.0.0.0/8", "--spi", "0x1f", "--timeout", "1m", "--protocol", "udp"];
        let Command::Trace(traced) = Cli::try_parse_from(traced).unwrap().command else { panic!("another command") };
        assert_eq!((traced.spi, traced.timeout.map(|t| t.as_secs())), (Some(0x1f), Some(60)));
        assert_eq!(traced.source.map(|n| n.prefix), Some(8));
        let moved = Cli::try_parse_from(["keyferry", "move", "--to", "gdoi"]).unwrap();
        assert!(matches!(moved.command, Command::Move { to: Protocol::Gdoi, .. }));
    }

    #[test]
    fn what_is_wrong_is_an_error_of_usage() {
        for args in [
            &["evict", "g", "nonsense"][..],
            &["move", "--to", "ike"],
            &["serve"],
            &["members", "a", "b"],
            &[],
            &["rekey", "g", "--delete-kek", "--delete-all"],
            &["trace", "--dry-run", "--source", "10.0.0.1"],
            &["trace", "--dry-run", "--source", "10.0.0.1", "--destination", "239.0.0.1", "--count", "2"],
            &["trace", "--spi", "0xg"],
            &["key-log"],
            &["key-log", "/root/keys", "--stop"],
            &["trace", "--source-port", "5"],
        ] {
            let error = Cli::try_parse_from(std::iter::once(&"keyferry").chain(args)).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{args:?}");
        }
    }

    #[test]
    fn a_dry_run_is_of_one_packet() {
        let flow = |args: &str| {
            let args = format!("keyferry trace --dry-run {args}");
            let Command::Trace(args) = Cli::try_parse_from(args.split(' ')).unwrap().command else {
                panic!("another command")
            };
            trace::flow(&args)
        };
        let packet = flow("--source 10.0.0.1 --destination 239.1.1.1 --port 5").unwrap();
        assert_eq!((packet.protocol, packet.ports, packet.octets), (17, Some((5, 5)), 100));
        assert!(flow("--source 10.0.0.0/8 --destination 239.1.1.1").unwrap_err().contains("--source"));
        assert!(flow("--source 10.0.0.1 --destination 239.1.1.0/24").unwrap_err().contains("--destination"));
        assert!(flow("--source fd00::1 --destination 239.1.1.1").is_err());
    }

    #[test]
    fn each_command_has_a_manual_page() {
        for name in Cli::command().get_subcommands().map(|command| command.get_name().to_owned()) {
            let page = manual(Some(&name)).unwrap().unwrap();
            assert!(page.contains(&format!("keyferry\\-{}", name.replace('-', "\\-"))), "{page}");
        }
        assert!(manual(Some("trace")).unwrap().unwrap().contains("dry\\-run"));
        assert!(manual(None).unwrap().unwrap().contains("trace"));
        assert!(manual(Some("no-such")).is_none());
    }

    #[test]
    fn help_fits_eighty_columns() {
        for command in std::iter::once(Cli::command()).chain(Cli::command().get_subcommands().cloned()) {
            let help = command.clone().term_width(80).render_help().to_string();
            assert!(help.lines().all(|l| l.chars().count() <= 80), "{help}");
            // Examples that were wrapped could not be copied.
            let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let mut examples = examples.lines().filter(|line| line.starts_with("  "));
            assert_eq!(examples.find(|line| line.chars().count() > 80), None);
        }
    }
}
