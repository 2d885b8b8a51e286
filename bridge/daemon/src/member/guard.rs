//! Keeps what a group protects from leaving and arriving in clear beside the TUN device, by packet filter (nftables).
//!
//! ```text
//!  application -> names the interface itself -> [output] -> interface      dropped, if in clear
//!  application <- has joined the group       <- [input]  <- interface      dropped, if in clear
//!  other hosts <------- forwards ----------> [forward] <-> interface       dropped, if in clear
//! ```
//!
//! Routes lead into the TUN device whatever does not name another one; and the engine joins the groups on the interface, so that clear
//! packets that others send to them are delivered, too. RFC 4301 section 5.2 wants those dropped which should have been protected. Only ESP,
//! memberships (IGMP, MLD), rekeys, and what the member's own rules let pass in clear go through.
//!
//! XFRM's policies, which do this for the kernel engine, cannot tell the interface from the TUN device where they look at what arrives: the
//! route of a packet to a group is that of the loopback device.
//!
//! One table for each TUN device, replaced as a whole. It goes when the member ends, and stays when the process is killed: a start with the
//! same device takes it over.

use std::collections::{BTreeSet, HashSet};
use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use dataplane::{LocalPolicy, Rule, RuleAction, Way, WithoutKeys, are_sound};
use keyferry_model::policy::Selector;

use super::network::multicast;
use crate::config::GuardChoice;

/// Where the program is; services seldom have the first two on their path.
const PROGRAMS: [&str; 3] = ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft"];
/// Before the filters that an operator usually writes, which have priority 0.
const PRIORITY: i8 = -10;

/// Source and destination.
pub(super) type Line = (Selector, Selector);

/// A packet filter that stands or shall stand.
pub(super) struct Guard {
    rules: Ruleset,
    choice: GuardChoice,
    /// What stands.
    standing: Option<String>,
    /// Why it does not, or not as it shall.
    problem: Option<String>,
}

impl Guard {
    /// Puts it up for networks that are protected from the start. `None` where it is not wanted: by the configuration, or because clear traffic
    /// is wanted while there are no keys.
    ///
    /// # Errors
    /// It is required, and cannot be.
    pub(super) fn open(
        choice: GuardChoice,
        (tun, interface): (&str, u32),
        local: &LocalPolicy,
        networks: &[(IpAddr, u8)],
    ) -> anyhow::Result<Option<Self>> {
        if choice == GuardChoice::Off || matches!(local.without_keys, WithoutKeys::Clear(_)) {
            Self::clear_away(tun);
            return Ok(None);
        }
        let rules = Ruleset::new(tun, interface, &local.rules, networks);
        let mut guard = Self { rules, choice, standing: None, problem: None };
        guard.put_up().context("guard = \"required\"")?;
        Ok(Some(guard))
    }

    /// Takes away what a member with this device may have left when it was killed, where no filter is wanted now.
    pub(super) fn clear_away(tun: &str) {
        let table = table_of(tun);
        match nft(&format!("delete table inet {table}\n")) {
            Ok(()) => tracing::info!(%table, "the packet filter of a member that was killed is gone"),
            Err(error) => tracing::debug!(error = %format!("{error:#}"), "no packet filter was left"),
        }
    }

    /// Is about these lines of the group's policy as well.
    ///
    /// # Errors
    /// As [`Guard::open`].
    pub(super) fn extend(&mut self, lines: impl Iterator<Item = Line>) -> anyhow::Result<()> {
        self.rules.named.extend(lines.filter(are_sound));
        self.put_up()
    }

    /// Is about these lines and no others.
    pub(super) fn follow(&mut self, lines: &[Line]) {
        self.rules.named = lines.iter().copied().collect();
        if let Err(error) = self.put_up() {
            tracing::error!(error = %format!("{error:#}"), "what the group protects no more may be guarded still");
        }
    }

    /// Is about what another engine has kept from leaving in clear, and lets the rekeys pass that it did.
    ///
    /// # Errors
    /// As [`Guard::open`].
    pub(super) fn take_over(&mut self, lines: &[Line], clear: &BTreeSet<SocketAddr>) -> anyhow::Result<()> {
        self.rules.clear.extend(clear);
        self.extend(lines.iter().copied())
    }

    /// Lets rekeys pass.
    pub(super) fn leave_clear(&mut self, address: SocketAddr) {
        if self.rules.clear.insert(address)
            && let Err(error) = self.put_up()
        {
            tracing::error!(error = %format!("{error:#}"), %address, "rekeys may be kept away");
        }
    }

    /// Why clear packets are not kept away, if so.
    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Brings the filter to what it shall be.
    fn put_up(&mut self) -> anyhow::Result<()> {
        let wanted = self.rules.to_string();
        if self.standing.as_ref() == Some(&wanted) {
            return Ok(());
        }
        match nft(&wanted) {
            Ok(()) => {
                if self.standing.is_none() {
                    tracing::info!(table = %self.rules.table, "clear packets of protected groups are kept away");
                }
                (self.standing, self.problem) = (Some(wanted), None);
                Ok(())
            }
            Err(error) if self.choice == GuardChoice::Required => Err(error),
            Err(error) => {
                let why = format!("{error:#}");
                if self.problem.as_ref() != Some(&why) {
                    tracing::warn!(%why, "nothing keeps clear packets of protected groups from applications that go past the TUN device");
                }
                self.problem = Some(why);
                Ok(())
            }
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let table = &self.rules.table;
        if self.standing.is_some()
            && let Err(error) = nft(&format!("delete table inet {table}\n"))
        {
            tracing::warn!(error = %format!("{error:#}"), %table, "the packet filter stays");
        }
    }
}

/// Has the program take a file, as a whole or not at all.
fn nft(text: &str) -> anyhow::Result<()> {
    let program = PROGRAMS.into_iter().find(|program| Path::new(program).exists()).unwrap_or("nft");
    let mut child = Command::new(program)
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("the program nft does not start (package nftables)")?;
    if let Some(mut input) = child.stdin.take() {
        // It says itself why it wants no more.
        drop(input.write_all(text.as_bytes()));
    }
    let output = child.wait_with_output().context("nft")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("nft: {}", said.lines().next().unwrap_or("failed without a word"));
    }
    Ok(())
}

/// The table of a device, whose name has characters that those of tables have not.
fn table_of(tun: &str) -> String {
    tun.bytes().fold("keyferry-".to_owned(), |mut table, octet| {
        match octet {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'.' => table.push(octet.into()),
            _ => drop(write!(table, "_{octet:02x}")),
        }
        table
    })
}

/// What the filter says. Its text is what nft takes.
struct Ruleset {
    table: String,
    interface: u32,
    rules: Vec<Rule>,
    /// Networks that are protected whatever the group says.
    networks: BTreeSet<(IpAddr, u8)>,
    /// What the group has said that it protects.
    named: HashSet<Line>,
    /// Where rekeys come.
    clear: BTreeSet<SocketAddr>,
}

impl Ruleset {
    fn new(tun: &str, interface: u32, rules: &[Rule], networks: &[(IpAddr, u8)]) -> Self {
        Self {
            table: table_of(tun),
            interface,
            rules: rules.to_vec(),
            networks: networks.iter().copied().collect(),
            named: HashSet::new(),
            clear: BTreeSet::new(),
        }
    }

    /// Multicast networks to which nothing goes in clear.
    fn held(&self) -> BTreeSet<(IpAddr, u8)> {
        let named = self.named.iter().filter_map(|(_, to)| multicast(to));
        self.networks.iter().copied().chain(named).collect()
    }

    /// Is there a rule that yields to the group?
    fn has_bypass(&self) -> bool {
        self.rules.iter().any(|rule| rule.action == RuleAction::Bypass)
    }

    fn elements(&self, out: &mut String, v4: bool) {
        let (name, kind) = if v4 { ("held4", "ipv4_addr") } else { ("held6", "ipv6_addr") };
        let held = self.held();
        let networks = held.iter().filter(|(network, _)| network.is_ipv4() == v4);
        let networks: Vec<String> = networks.map(|(network, prefix)| format!("{network}/{prefix}")).collect();
        let _ = writeln!(out, "  set {name} {{ type {kind}; flags interval; auto-merge;");
        if !networks.is_empty() {
            let _ = writeln!(out, "    elements = {{ {} }}", networks.join(", "));
        }
        out.push_str("  }\n");
    }

    /// The chain for packets of one direction to the networks.
    fn judge(&self, out: &mut String, name: &str, way: Way) {
        let _ = writeln!(out, "  chain {name} {{");
        // ESP and IGMP; MLD (RFC 2710, RFC 3810).
        out.push_str("    meta l4proto { 2, 50 } return\n    icmpv6 type { 130, 131, 132, 143 } return\n");
        for address in &self.clear {
            let _ = writeln!(out, "    {} udp dport {} return", to(address.ip(), None), address.port());
        }
        let applies = |rule: &&Rule| rule.way == Way::Both || rule.way == way;
        for rule in self.rules.iter().filter(applies) {
            let Some(packets) = matching(&rule.source, &rule.destination) else { continue };
            match rule.action {
                RuleAction::Discard => drop(writeln!(out, "    {packets} counter drop")),
                RuleAction::BypassProtected => drop(writeln!(out, "    {packets} return")),
                RuleAction::Bypass => drop(writeln!(out, "    {packets} jump told\n    {packets} return")),
            }
        }
        out.push_str("    counter drop\n  }\n");
    }
}

impl fmt::Display for Ruleset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, interface, .. } = self;
        let mut out = String::new();
        // So one takes the place of the other in one step.
        let _ = writeln!(out, "add table inet {table}\ndelete table inet {table}\ntable inet {table} {{");
        self.elements(&mut out, true);
        self.elements(&mut out, false);
        out.push_str("  chain told {\n");
        let named = self.named.iter().filter(|_| self.has_bypass());
        let mut lines: Vec<String> = named.filter_map(|(source, destination)| matching(source, destination)).collect();
        lines.sort_unstable();
        for packets in lines {
            let _ = writeln!(out, "    {packets} counter drop");
        }
        out.push_str("  }\n");
        self.judge(&mut out, "arriving", Way::In);
        self.judge(&mut out, "leaving", Way::Out);
        for (hook, sides) in [
            ("input", &[("iif", "arriving")][..]),
            ("output", &[("oif", "leaving")]),
            ("forward", &[("iif", "arriving"), ("oif", "leaving")]),
        ] {
            let _ = writeln!(out, "  chain {hook} {{ type filter hook {hook} priority {PRIORITY}; policy accept;");
            if hook == "input" {
                // IPv6 puts fragments together behind it, and they are nothing without the first. What is forwarded stays in pieces.
                let _ = writeln!(out, "    iif {interface} frag frag-off != 0 return");
            }
            for (side, chain) in sides {
                let _ = writeln!(out, "    {side} {interface} ip daddr @held4 jump {chain}");
                let _ = writeln!(out, "    {side} {interface} ip6 daddr @held6 jump {chain}");
            }
            out.push_str("  }\n");
        }
        out.push_str("}\n");
        f.write_str(&out)
    }
}

/// Protocols with ports, as the field that nft calls `th` has them: TCP, UDP, DCCP, SCTP, UDP-Lite.
const WITH_PORTS: [u8; 5] = [6, 17, 33, 132, 136];

/// The packets that selectors are about, in nft's words. `None` where it has none: a port of a protocol without ports.
fn matching(source: &Selector, destination: &Selector) -> Option<String> {
    let mut words = vec![to(destination.address, Some(destination.prefix))];
    // A network of all addresses stands for those of both IP versions.
    if source.prefix > 0 {
        let family = if source.address.is_ipv4() { "ip" } else { "ip6" };
        words.push(format!("{family} saddr {}/{}", source.address, source.prefix));
    }
    let protocol = source.protocol.max(destination.protocol);
    if protocol > 0 {
        words.push(format!("meta l4proto {protocol}"));
    }
    for (side, selector) in [("sport", source), ("dport", destination)] {
        if selector.port > 0 {
            if !WITH_PORTS.contains(&protocol) {
                return None;
            }
            words.push(format!("th {side} {}", selector.port));
        }
    }
    Some(words.join(" "))
}

fn to(address: IpAddr, prefix: Option<u8>) -> String {
    let family = if address.is_ipv4() { "ip" } else { "ip6" };
    let prefix = prefix.map_or_else(String::new, |prefix| format!("/{prefix}"));
    format!("{family} daddr {address}{prefix}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn selector(address: &str, prefix: u8, protocol: u8, port: u16) -> Selector {
        Selector { address: address.parse().unwrap(), prefix, protocol, port }
    }

    fn rule(action: RuleAction, way: Way, destination: Selector) -> Rule {
        Rule { source: selector("0.0.0.0", 0, destination.protocol, 0), destination, action, way }
    }

    #[test]
    fn everything_to_the_networks_is_dropped_but_what_must_pass() {
        let networks =
            [("239.192.0.0", 16), ("ff15::", 16)].map(|(network, prefix)| (network.parse().unwrap(), prefix));
        let mut rules = Ruleset::new("kf0", 7, &[], &networks);
        // As a policy may write it: the address need not be that of the network, nor a group's.
        for (to, prefix) in [("239.200.1.9", 24), ("10.0.0.0", 8)] {
            rules.named.insert((selector("0.0.0.0", 0, 0, 0), selector(to, prefix, 17, 5_001)));
        }
        rules.clear.insert("239.192.9.9:848".parse().unwrap());
        let text = rules.to_string();
        assert!(
            text.starts_with("add table inet keyferry-kf0\ndelete table inet keyferry-kf0\ntable inet keyferry-kf0 {")
        );
        assert!(text.contains("elements = { 239.192.0.0/16, 239.200.1.0/24 }"), "{text}");
        assert!(text.contains("elements = { ff15::/16 }"), "{text}");
        assert_eq!(text.matches("ip daddr 239.192.9.9 udp dport 848 return").count(), 2, "{text}");
        assert_eq!(text.matches("iif 7 ip daddr @held4 jump arriving").count(), 2, "input and forward");
        assert_eq!(text.matches("oif 7 ip6 daddr @held6 jump leaving").count(), 2, "output and forward");
        assert_eq!(text.matches("    counter drop\n  }").count(), 2, "{text}");
        assert_eq!(text.matches("frag-off").count(), 1, "{text}");
        assert!(
            text.contains("hook input priority -10; policy accept;\n    iif 7 frag frag-off != 0 return\n"),
            "{text}"
        );
    }

    #[test]
    fn rules_stand_in_their_order_and_a_bypass_yields_to_the_group() {
        let one = selector("239.192.0.1", 32, 17, 5_001);
        let whole = selector("239.192.0.0", 16, 0, 0);
        let list = [
            rule(RuleAction::Discard, Way::Both, one),
            rule(RuleAction::Bypass, Way::In, whole),
            rule(RuleAction::BypassProtected, Way::Out, one),
        ];
        let mut rules = Ruleset::new("kf0", 7, &list, &[]);
        rules.named.insert((selector("10.0.0.0", 8, 17, 0), selector("239.192.0.7", 32, 17, 0)));
        let text = rules.to_string();
        let chain = |name: &str| {
            let from = text.find(&format!("chain {name} {{")).unwrap();
            &text[from..from + text[from..].find("  }\n").unwrap()]
        };
        let discard = "ip daddr 239.192.0.1/32 meta l4proto 17 th dport 5001 counter drop";
        assert!(chain("told").contains("ip daddr 239.192.0.7/32 ip saddr 10.0.0.0/8 meta l4proto 17 counter drop"));
        let arriving = chain("arriving");
        let bypass = "ip daddr 239.192.0.0/16 jump told\n    ip daddr 239.192.0.0/16 return";
        assert!(arriving.find(discard).unwrap() < arriving.find(bypass).unwrap(), "{arriving}");
        let leaving = chain("leaving");
        assert!(leaving.contains(discard) && !leaving.contains("239.192.0.0/16"), "{leaving}");
        assert!(leaving.contains("ip daddr 239.192.0.1/32 meta l4proto 17 th dport 5001 return"), "{leaving}");
    }

    #[test]
    fn names_of_devices_become_names_of_tables() {
        assert_eq!(table_of("kf-1 \"x\""), "keyferry-kf_2d1_20_22x_22");
        assert_eq!(matching(&selector("::", 0, 1, 0), &selector("ff15::1", 128, 1, 8)), None);
    }

    #[test]
    fn it_is_not_there_where_nobody_wants_it() {
        let open = LocalPolicy { rules: Vec::new(), without_keys: WithoutKeys::Clear(Vec::new()) };
        assert!(Guard::open(GuardChoice::Required, ("kf0", 1), &open, &[]).unwrap().is_none());
        assert!(Guard::open(GuardChoice::Off, ("kf0", 1), &LocalPolicy::default(), &[]).unwrap().is_none());
    }
}
