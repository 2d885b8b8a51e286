//! `[[member.rule]]`: the member's own rules about traffic, and the selectors that they share with lines of a group's policy.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dataplane::{Rule, RuleAction, Way};
use keyferry_model::policy::Selector;

use super::checks;
use super::section::Section;
use super::values::{IpProtocol, Network};

/// Rules of one group at most.
const MAX_RULES: usize = 1024;

const WAYS: &[(&str, Way)] = &[("both", Way::Both), ("out", Way::Out), ("in", Way::In)];

/// Rules, in the order in which they are tried.
pub(super) fn read(group: &mut Section<'_>) -> Vec<Rule> {
    let sections = group.sections("rule");
    if sections.len() > MAX_RULES {
        group.error("rule", format!("these are more than {MAX_RULES} rules"), "cover more by each");
    }
    let mut rules: Vec<Rule> = Vec::new();
    for mut section in sections.into_iter().take(MAX_RULES) {
        let rule = rule(&mut section);
        if let Some(rule) = rule
            && let Some(at) = rules.iter().position(|before| hides(before, &rule))
        {
            let what = format!("is of no use: rule {} is about all of this and comes first", at + 1);
            section.error("destination", what, "remove one of the two, or change their order");
        }
        rules.extend(rule);
        section.finish();
    }
    rules
}

fn rule(section: &mut Section<'_>) -> Option<Rule> {
    let selectors = selectors(section);
    let way = section.choice("direction", WAYS, Way::Both);
    let unprotect = section.flag("danger_unprotect", false);
    let named = section.required_text("action", "bypass");
    let names = [("bypass", RuleAction::Bypass), ("discard", RuleAction::Discard)];
    let action = named.and_then(|name| section.named("action", &name, &names));
    if unprotect && action == Some(RuleAction::Discard) {
        let what = "is about traffic that passes in clear, and the rule discards it";
        section.error("danger_unprotect", what, "remove it, or write action = \"bypass\"");
    }
    if way == Way::In && action == Some(RuleAction::Bypass) {
        let what = "is of no use: what comes in clear does not come through the TUN device";
        section.error("direction", what, "remove it, or write action = \"discard\"");
    }
    let action = action?;
    let action = if unprotect && action == RuleAction::Bypass { RuleAction::BypassProtected } else { action };
    let (source, destination) = selectors?;
    Some(Rule { source, destination, action, way })
}

/// Does a rule decide about everything that another one is about?
fn hides(first: &Rule, second: &Rule) -> bool {
    let within = |outer: &Selector, inner: &Selector| {
        let (from, to) = inner.range();
        outer.contains(from)
            && outer.contains(to)
            && (outer.protocol == 0 || outer.protocol == inner.protocol)
            && (outer.port == 0 || outer.port == inner.port)
    };
    (first.way == Way::Both || first.way == second.way)
        && within(&first.source, &second.source)
        && within(&first.destination, &second.destination)
}

/// Source and destination of a line or rule: networks, protocol and ports.
pub(super) fn selectors(section: &mut Section<'_>) -> Option<(Selector, Selector)> {
    let destination: Option<Network> = section.required("destination", "239.192.0.1");
    let source: Option<Network> = section.parsed("source", "10.0.0.0/8");
    let protocol = section.parsed::<IpProtocol>("protocol", "udp").map_or(0, |p| p.0);
    let [port, source_port] =
        ["port", "source_port"].map(|k| u16::try_from(section.number(k, 0..=65_535, 0)).unwrap_or(0));
    if (port != 0 || source_port != 0) && !matches!(protocol, 6 | 17 | 132) {
        section.error("port", "the protocol has no ports", "add protocol = \"udp\", or remove the port");
    }
    let destination = destination?;
    let source = source.unwrap_or(match destination.address {
        IpAddr::V4(_) => Network { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), prefix: 0 },
        IpAddr::V6(_) => Network { address: IpAddr::V6(Ipv6Addr::UNSPECIFIED), prefix: 0 },
    });
    checks::traffic(section, source, destination);
    let selector = |n: Network, port| Selector { address: n.address, prefix: n.prefix, protocol, port };
    Some((selector(source, source_port), selector(destination, port)))
}
