//! The command line of `keyferry lab`.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use super::app::AppArgs;
use super::process::ExecArgs;

/// Most members the lab makes. Each is three processes' worth of memory and sends to all others.
pub(super) const MAX_MEMBERS: u16 = 50;

/// Options of `keyferry lab`.
#[derive(Clone, Debug, Parser)]
pub struct Args {
    /// Members that start with GDOI.
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub gdoi: u16,
    /// Members that start with G-IKEv2.
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub gikev2: u16,
    /// Packets per second that each member's application sends.
    #[arg(long, value_name = "PPS", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub rate: u32,
    /// Print the summary as one JSON object on standard output; progress goes to standard error.
    #[arg(long)]
    pub json: bool,
    /// Sabotage one thing, to see that the lab notices; `list` names what there is.
    #[arg(long = "break", value_name = "NAME")]
    pub sabotage: Option<BreakOption>,
    /// Write the capture of the segment and Wireshark's key files into this directory.
    #[arg(long, value_name = "DIR")]
    pub pcap: Option<PathBuf>,
    /// Leave everything running after the scenario, until Ctrl-C.
    #[arg(long)]
    pub keep: bool,
    /// Run over IPv6.
    #[arg(long)]
    pub ipv6: bool,
    #[command(subcommand)]
    pub(super) role: Option<Role>,
}

/// What the lab runs inside its namespaces besides `serve` and `member`.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum Role {
    /// Sends and receives the group's traffic in a member's namespace.
    #[command(hide = true)]
    App(AppArgs),
    /// Becomes another command that ends when the lab does.
    #[command(hide = true)]
    Exec(ExecArgs),
}

/// Value of `--break`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BreakOption {
    /// Print the names and what they do.
    List,
    /// Cut one member off from the gateway during the rekeys: it misses the new keys and traffic is lost.
    Rekey,
    /// Never tell the gateway to evict: the member goes on decrypting.
    Evict,
    /// One application sends on the wire, past the TUN device of a member without a packet filter: its packets are seen in clear.
    Clear,
    /// Start the killed gateway over an empty store: keys and registrations are lost.
    Restart,
    /// Start the killed gateway with a configuration that no longer knows the member that is to move.
    Move,
    /// Serve a policy that asks for no acknowledgements: none come.
    Ack,
    /// Serve a policy that rekeys nobody in band: the member that moves is not.
    InBand,
}

impl BreakOption {
    /// The sabotages, one line each.
    pub(super) fn list() -> String {
        Self::value_variants()
            .iter()
            .filter(|b| **b != BreakOption::List)
            .filter_map(BreakOption::to_possible_value)
            .map(|v| format!("{:8} {}\n", v.get_name(), v.get_help().map(ToString::to_string).unwrap_or_default()))
            .collect()
    }
}

impl Args {
    /// Number of members.
    pub(super) fn members(&self) -> u16 {
        self.gdoi.saturating_add(self.gikev2)
    }

    /// Why the lab cannot run like this, if it cannot.
    pub(super) fn objection(&self) -> Option<String> {
        let members = self.members();
        if members > MAX_MEMBERS {
            return Some(format!(
                "{members} members are too many: --gdoi and --gikev2 together may name {MAX_MEMBERS}"
            ));
        }
        if members < 2 {
            return Some("a group needs two members or more: one to send and one to receive".to_owned());
        }
        let needs = match self.sabotage {
            Some(BreakOption::Ack | BreakOption::Move | BreakOption::InBand) => ("--gdoi 1", self.gdoi >= 1),
            Some(BreakOption::Evict) => ("three members", members >= 3),
            Some(BreakOption::Rekey | BreakOption::Clear | BreakOption::Restart | BreakOption::List) | None => {
                ("", true)
            }
        };
        (!needs.1).then(|| format!("this --break needs at least {}", needs.0))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn args(line: &str) -> Args {
        Args::try_parse_from(std::iter::once("lab").chain(line.split_whitespace())).unwrap()
    }

    #[test]
    fn counts_of_members_are_bounded() {
        assert_eq!(args("").objection(), None);
        assert_eq!(args("--gdoi 0").objection(), None);
        assert_eq!(args("--gikev2 0").objection(), None);
        assert_eq!(args("--gdoi 25 --gikev2 25").objection(), None);
        assert!(args("--gdoi 26 --gikev2 25").objection().unwrap().contains("50"));
        assert!(args("--gdoi 65535 --gikev2 65535").objection().is_some());
        assert!(args("--gdoi 1 --gikev2 0").objection().is_some());
        assert!(args("--gdoi 0 --break ack").objection().is_some());
    }

    #[test]
    fn sabotages_are_listed_with_what_they_do() {
        let list = BreakOption::list();
        for name in ["rekey", "evict", "clear", "restart", "move", "ack", "in-band"] {
            assert!(list.lines().any(|l| l.starts_with(name) && l.len() > 30), "{name}");
        }
        assert!(!list.contains("list"));
    }
}
