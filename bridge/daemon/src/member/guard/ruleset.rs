//! What a guard's packet filter says, in nft's words.

use std::collections::{BTreeSet, HashSet};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use dataplane::{Rule, RuleAction, Way};
use keyferry_model::policy::Selector;

use super::Line;
use crate::member::network::multicast;

/// Before the filters that an operator usually writes, which have priority 0.
const PRIORITY: i8 = -10;

/// What takes a table away.
pub(super) fn deletion(table: &str) -> String {
    format!("delete table inet {table}\n")
}

/// The table of a device, whose name has characters that those of tables have not.
pub(super) fn table_of(tun: &str) -> String {
    tun.bytes().fold("keyferry-".to_owned(), |mut table, octet| {
        match octet {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'.' => table.push(octet.into()),
            _ => drop(write!(table, "_{octet:02x}")),
        }
        table
    })
}

/// Names of the counters, and of the chains that count.
pub(super) const COUNTERS: [&str; 2] = ["arriving", "leaving"];

/// A chain that nothing leads to, whose one rule goes when somebody takes away all rules and leaves the table.
pub(super) const WITNESS: &str = "stands";

/// What the filter says.
pub(super) struct Ruleset {
    pub(super) table: String,
    interface: u32,
    rules: Vec<Rule>,
    /// Networks that are protected whatever the group says.
    networks: BTreeSet<(IpAddr, u8)>,
    /// What the group has said that it protects.
    pub(super) named: HashSet<Line>,
    /// Where rekeys come.
    pub(super) clear: BTreeSet<SocketAddr>,
}

impl Ruleset {
    pub(super) fn new(tun: &str, interface: u32, rules: &[Rule], networks: &[(IpAddr, u8)]) -> Self {
        Self {
            table: table_of(tun),
            interface,
            rules: rules.to_vec(),
            networks: networks.iter().filter_map(|(network, prefix)| multicast(&whole(*network, *prefix))).collect(),
            named: HashSet::new(),
            clear: BTreeSet::new(),
        }
    }

    /// What it is about, without networks that lie within others.
    fn held(&self) -> Vec<(IpAddr, u8)> {
        let named = self.named.iter().filter_map(|(_, to)| multicast(to));
        let all: BTreeSet<(IpAddr, u8)> = self.networks.iter().copied().chain(named).collect();
        let mut held: Vec<(IpAddr, u8)> = Vec::new();
        // Whatever lies within a network comes behind it.
        for (network, prefix) in all {
            let last = held.last().map(|(address, prefix)| whole(*address, *prefix));
            if last.is_none_or(|last| !last.contains(network)) {
                held.push((network, prefix));
            }
        }
        held
    }

    /// What nft takes: it makes what is missing, and puts these rules in the place of those that are there, in one step.
    pub(super) fn text(&self) -> String {
        let Self { table, interface, .. } = self;
        let mut out = format!("add table inet {table}\n");
        for name in COUNTERS {
            let _ = writeln!(
                out,
                "add counter inet {table} {name}\nadd chain inet {table} {name}\nadd chain inet {table} told-{name}"
            );
        }
        for hook in ["input", "output", "forward"] {
            let base = format!("type filter hook {hook} priority {PRIORITY}; policy accept;");
            let _ = writeln!(out, "add chain inet {table} {hook} {{ {base} }}");
        }
        let _ =
            writeln!(out, "flush table inet {table}\ntable inet {table} {{\n  chain {WITNESS} {{\n    return\n  }}");
        for (name, way) in COUNTERS.into_iter().zip([Way::In, Way::Out]) {
            self.told(&mut out, name);
            self.judge(&mut out, name, way);
        }
        let held = self.held();
        for (hook, sides) in [
            ("input", &[("iif", "arriving")][..]),
            ("output", &[("oif", "leaving")]),
            ("forward", &[("iif", "arriving"), ("oif", "leaving")]),
        ] {
            let _ = writeln!(out, "  chain {hook} {{");
            if hook == "input" {
                // IPv6 puts fragments together behind it, and they are nothing without the first. What is forwarded stays in pieces.
                let _ = writeln!(out, "    iif {interface} frag frag-off != 0 return");
            }
            for (side, chain) in sides {
                for (family, v4) in [("ip", true), ("ip6", false)] {
                    let networks = held.iter().filter(|(network, _)| network.is_ipv4() == v4);
                    let networks: Vec<String> =
                        networks.map(|(network, prefix)| format!("{network}/{prefix}")).collect();
                    if !networks.is_empty() {
                        let networks = networks.join(", ");
                        let _ = writeln!(out, "    {side} {interface} {family} daddr {{ {networks} }} jump {chain}");
                    }
                }
            }
            out.push_str("  }\n");
        }
        out.push_str("}\n");
        out
    }

    /// The chain for packets that a bypass is about: it yields to the group.
    fn told(&self, out: &mut String, name: &str) {
        let yields = self.rules.iter().any(|rule| rule.action == RuleAction::Bypass);
        let named = self.named.iter().filter(|_| yields);
        let mut lines: Vec<String> = named.filter_map(|(source, destination)| matching(source, destination)).collect();
        lines.sort_unstable();
        let _ = writeln!(out, "  chain told-{name} {{");
        for packets in lines {
            let _ = writeln!(out, "    {packets} counter name {name} drop");
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
                RuleAction::Discard => drop(writeln!(out, "    {packets} counter name {name} drop")),
                RuleAction::BypassProtected => drop(writeln!(out, "    {packets} return")),
                RuleAction::Bypass => drop(writeln!(out, "    {packets} jump told-{name}\n    {packets} return")),
            }
        }
        let _ = writeln!(out, "    counter name {name} drop\n  }}");
    }
}

/// All packets to a network.
fn whole(address: IpAddr, prefix: u8) -> Selector {
    Selector { address, prefix, protocol: 0, port: 0 }
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

    fn chain<'t>(text: &'t str, name: &str) -> &'t str {
        let from = text.find(&format!("  chain {name} {{")).unwrap();
        &text[from..from + text[from..].find("  }\n").unwrap()]
    }

    #[test]
    fn everything_to_the_networks_is_dropped_but_what_must_pass() {
        let networks = [("239.192.0.0", 16), ("ff15::", 16), ("239.192.7.0", 24), ("239.193.0.1", 32)];
        let networks = networks.map(|(network, prefix)| (network.parse().unwrap(), prefix));
        let mut rules = Ruleset::new("kf0", 7, &[], &networks);
        rules.clear.insert("239.192.9.9:848".parse().unwrap());
        // As a policy may write it: the address need not be that of the network, nor a group's.
        for (to, prefix) in [("239.200.1.9", 24), ("10.0.0.0", 8)] {
            rules.named.insert((selector("0.0.0.0", 0, 0, 0), selector(to, prefix, 17, 5_001)));
        }
        let text = rules.text();
        assert!(text.starts_with("add table inet keyferry-kf0\nadd counter inet keyferry-kf0 arriving\n"), "{text}");
        assert_eq!(text.matches("flush table inet keyferry-kf0\ntable inet keyferry-kf0 {").count(), 1);
        assert_eq!(chain(&text, WITNESS), "  chain stands {\n    return\n");
        assert_eq!(text.matches("ip daddr 239.192.9.9 udp dport 848 return").count(), 2, "{text}");
        let held = "ip daddr { 239.192.0.0/16, 239.193.0.1/32, 239.200.1.0/24 }";
        for (hook, side, of) in [
            ("input", "iif", "arriving"),
            ("output", "oif", "leaving"),
            ("forward", "iif", "arriving"),
            ("forward", "oif", "leaving"),
        ] {
            let chain = chain(&text, hook);
            assert!(chain.contains(&format!("    {side} 7 {held} jump {of}\n")), "{chain}");
            assert!(chain.contains(&format!("    {side} 7 ip6 daddr {{ ff15::/16 }} jump {of}\n")), "{chain}");
        }
        for name in COUNTERS {
            assert!(chain(&text, name).ends_with(&format!("    counter name {name} drop\n")), "{text}");
        }
        assert_eq!(text.matches("frag-off").count(), 1, "{text}");
        assert!(chain(&text, "input").contains("iif 7 frag frag-off != 0 return\n"), "{text}");
    }

    #[test]
    fn rules_stand_in_their_order_and_a_bypass_yields_to_the_group() {
        let one = selector("239.192.0.1", 32, 17, 5_001);
        let network = selector("239.192.0.0", 16, 0, 0);
        let list = [
            rule(RuleAction::Discard, Way::Both, one),
            rule(RuleAction::Bypass, Way::In, network),
            rule(RuleAction::BypassProtected, Way::Out, one),
        ];
        let mut rules = Ruleset::new("kf0", 7, &list, &[]);
        rules.named.insert((selector("10.0.0.0", 8, 17, 0), selector("239.192.0.7", 32, 17, 0)));
        let text = rules.text();
        let told = "ip daddr 239.192.0.7/32 ip saddr 10.0.0.0/8 meta l4proto 17 counter name arriving drop";
        assert!(chain(&text, "told-arriving").contains(told), "{text}");
        let arriving = chain(&text, "arriving");
        let discard = "ip daddr 239.192.0.1/32 meta l4proto 17 th dport 5001 counter name arriving drop";
        let bypass = "ip daddr 239.192.0.0/16 jump told-arriving\n    ip daddr 239.192.0.0/16 return";
        assert!(arriving.find(discard).unwrap() < arriving.find(bypass).unwrap(), "{arriving}");
        let leaving = chain(&text, "leaving");
        assert!(
            leaving.contains("dport 5001 counter name leaving drop") && !leaving.contains("239.192.0.0/16"),
            "{leaving}"
        );
        assert!(leaving.contains("ip daddr 239.192.0.1/32 meta l4proto 17 th dport 5001 return"), "{leaving}");
    }

    #[test]
    fn names_of_devices_become_names_of_tables() {
        assert_eq!(table_of("kf-1 \"x\""), "keyferry-kf_2d1_20_22x_22");
        assert_eq!(matching(&selector("::", 0, 1, 0), &selector("ff15::1", 128, 1, 8)), None);
    }
}
