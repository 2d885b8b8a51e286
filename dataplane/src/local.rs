//! This member's own part of the security policy database (RFC 4301 section 4.4.1): rules that stand in front of the
//! group's policy, and what holds for protected traffic while there are no keys.
//!
//! ```text
//!   plain packet -> first rule that matches -> group's lines -> no keys? -> dropped
//!                    |           |     |         |                |
//!                    discard     |     |         protect          drop, or clear where that was chosen
//!                                |     bypass, unless the group protects it
//!                                bypass, though the group protects it
//! ```
//!
//! A group's policy comes from its key server, so a rule that was written without knowing it yields to it: a plain
//! bypass is for what the group has never said that it protects, and waits until the group has said anything. Only
//! [`RuleAction::BypassProtected`] takes traffic from the group. Selectors of multicast are the same in both directions
//! (RFC 5374 section 4.1.1): a rule's source is the packet's, whoever sends it.

use std::sync::Arc;

use keyferry_model::policy::Selector;

use crate::classify::Classifier;
use crate::packet::Headers;
use crate::sa::Traffic;
use crate::status::RuleStatus;

/// A local policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalPolicy {
    /// In the order in which they are tried; the first that matches decides.
    pub rules: Vec<Rule>,
    /// What holds for protected traffic while there are no keys.
    pub without_keys: WithoutKeys,
}

/// A rule about packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Senders; an all-zero address with prefix 0 is any.
    pub source: Selector,
    /// Receivers.
    pub destination: Selector,
    /// What becomes of them.
    pub action: RuleAction,
    /// Which packets it is about.
    pub way: Way,
}

/// What becomes of packets that a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RuleAction {
    /// Dropped, whether the group protects them or not.
    Discard,
    /// Sent in clear, unless the group protects them.
    Bypass,
    /// Sent in clear, though the group protects them.
    BypassProtected,
}

impl RuleAction {
    /// Name in status reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            RuleAction::Discard => "discard",
            RuleAction::Bypass => "bypass",
            RuleAction::BypassProtected => "bypass even if protected",
        }
    }
}

/// Which packets a rule is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Way {
    /// Those that this host sends.
    Out,
    /// Those that were opened.
    In,
    /// Both.
    #[default]
    Both,
}

impl Way {
    fn is_out(self) -> bool {
        self != Way::In
    }

    fn is_in(self) -> bool {
        self != Way::Out
    }

    /// Name in status reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Way::Out => "out",
            Way::In => "in",
            Way::Both => "both",
        }
    }
}

/// What becomes of packets that the group protects while there are no keys for them: before the first registration, after the
/// end of their lifetime, after an exclusion.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum WithoutKeys {
    /// They are dropped: fail-closed.
    #[default]
    Drop,
    /// They are sent in clear: fail-open. Until the group has told what it protects, that is this: source and destination.
    Clear(Vec<Selectors>),
}

/// Source and destination.
pub(crate) type Selectors = (Selector, Selector);

/// Rules ready for look-ups, with what they have counted.
pub(crate) struct Rules {
    rules: Box<[Counted]>,
    outbound: Directed,
    inbound: Directed,
    /// Packets sent in clear because there were no keys; `None` where those are dropped.
    clear: Option<Traffic>,
}

struct Counted {
    rule: Rule,
    packets: Traffic,
}

/// The rules of one direction, and their places among all.
struct Directed {
    classifier: Classifier,
    places: Box<[usize]>,
}

impl Directed {
    fn new(rules: &[Rule], holds: impl Fn(Way) -> bool) -> Self {
        let places: Box<[usize]> = (0..rules.len()).filter(|at| holds(rules[*at].way)).collect();
        let classifier = Classifier::new(places.iter().map(|at| (rules[*at].source, rules[*at].destination)));
        Self { classifier, places }
    }

    fn find<'r>(&self, rules: &'r [Counted], packet: &Headers) -> Option<&'r Counted> {
        rules.get(*self.places.get(self.classifier.find(packet)?)?)
    }
}

impl Rules {
    /// `None` where they change nothing: then packets need not be held against them.
    pub(crate) fn new(policy: &LocalPolicy) -> Option<Self> {
        let clear = match policy.without_keys {
            WithoutKeys::Drop => None,
            WithoutKeys::Clear(_) => Some(Traffic::default()),
        };
        if policy.rules.is_empty() && clear.is_none() {
            return None;
        }
        let counted = |rule: &Rule| Counted { rule: *rule, packets: Traffic::default() };
        Some(Self {
            rules: policy.rules.iter().map(counted).collect(),
            outbound: Directed::new(&policy.rules, Way::is_out),
            inbound: Directed::new(&policy.rules, Way::is_in),
            clear,
        })
    }

    /// Rules and what they have counted.
    pub(crate) fn status(&self) -> Vec<RuleStatus> {
        self.rules.iter().map(|counted| RuleStatus::of(&counted.rule, &counted.packets)).collect()
    }

    /// Is traffic without keys sent in clear?
    pub(crate) fn is_open(&self) -> bool {
        self.clear.is_some()
    }

    /// Packets sent in clear for want of keys.
    pub(crate) fn sent_without_keys(&self) -> u64 {
        self.clear.as_ref().map_or(0, |clear| clear.get().0)
    }
}

/// What the group has said that it protects, whether there are keys for it or not.
pub(crate) struct Told {
    classifier: Classifier,
    /// The same lines without what a later fragment does not show: ports, and of IPv6 what it is a fragment of.
    hiding: Classifier,
    /// Of each line: is there an SA, whichever way it goes?
    keyed: Box<[bool]>,
    /// Has the group said anything yet?
    known: bool,
}

impl Told {
    pub(crate) fn new(lines: &[Selectors], known: bool, is_keyed: impl Fn(&Selectors) -> bool) -> Self {
        Self {
            classifier: Classifier::new(lines.iter().copied()),
            hiding: Classifier::new(lines.iter().map(|(source, destination)| (shown(source), shown(destination)))),
            keyed: lines.iter().map(is_keyed).collect(),
            known,
        }
    }

    /// May a packet be of something that the group protects?
    fn concerns(&self, packet: &Headers) -> bool {
        let hides = packet.fragment && packet.ports.is_none();
        self.find(packet).is_some() || hides && self.hiding.find(packet).is_some()
    }

    /// Of the line that a packet falls under: has it an SA?
    fn find(&self, packet: &Headers) -> Option<bool> {
        self.keyed.get(self.classifier.find(packet)?).copied()
    }
}

/// A selector as far as a later fragment shows what it is about.
fn shown(selector: &Selector) -> Selector {
    let protocol = if selector.address.is_ipv6() { 0 } else { selector.protocol };
    Selector { protocol, port: 0, ..*selector }
}

/// A picture of the local policy, for workers.
pub(crate) struct Local {
    pub(crate) rules: Arc<Rules>,
    pub(crate) told: Told,
}

/// What becomes of a plain packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// What the group's policy says.
    Group,
    /// It is sent in clear.
    Clear,
    /// It is dropped.
    Discard,
}

impl Local {
    /// Decides about a packet that is to be sent, which the group's SAs protect or not, and counts it.
    pub(crate) fn outbound(&self, packet: &Headers, protected: bool) -> Verdict {
        let (verdict, counted) = self.decide(packet, protected);
        counted.into_iter().for_each(|counted| counted.count(1, packet.total));
        verdict
    }

    /// The same without counting, and where it is to be counted.
    pub(crate) fn decide(&self, packet: &Headers, protected: bool) -> (Verdict, Option<&Traffic>) {
        let told = || self.told.find(packet);
        if let Some(counted) = self.rules.outbound.find(&self.rules.rules, packet) {
            let verdict = match counted.rule.action {
                RuleAction::Discard => Verdict::Discard,
                RuleAction::BypassProtected => Verdict::Clear,
                RuleAction::Bypass if protected || !self.told.known || self.told.concerns(packet) => Verdict::Group,
                RuleAction::Bypass => Verdict::Clear,
            };
            if verdict != Verdict::Group {
                return (verdict, Some(&counted.packets));
            }
        }
        match &self.rules.clear {
            Some(clear) if !protected && told() == Some(false) => (Verdict::Clear, Some(clear)),
            Some(_) | None => (Verdict::Group, None),
        }
    }

    /// Does a rule drop a packet that was opened?
    pub(crate) fn blocks(&self, packet: &Headers) -> bool {
        let found = self.rules.inbound.find(&self.rules.rules, packet);
        let Some(counted) = found.filter(|counted| counted.rule.action == RuleAction::Discard) else { return false };
        counted.packets.count(1, packet.total);
        true
    }

    /// Are there rules that opened packets must be held against?
    pub(crate) fn watches_inbound(&self) -> bool {
        !self.rules.inbound.places.is_empty()
    }
}
