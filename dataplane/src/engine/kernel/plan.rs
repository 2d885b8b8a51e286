//! Which policies the kernel is to have, and the way there. Pure.
//!
//! ```text
//!  first   pass      IGMP and MLD of the groups, rekeys to them           (so that the network brings them at all)
//!    |     protect   the lines of the group's policy that have an SA      (outbound: one state; inbound: any of ours)
//!  last    block     everything else to the groups, both ways
//! ```
//!
//! What blocks stays until another policy, which does not name it, has rolled over, or the engine ends. So nothing leaves
//! in clear before there are keys, between them, or after a flush. The newest active SA of a line is the one that its
//! outbound policy names: the policy is replaced when the activation delay is over, in one step.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use keyferry_crypto::Hash;
use keyferry_model::policy::{AddressPreservation, EspMode, SaDirection, Selector, TrafficPolicy};
use keyferry_model::tunnel::Tunnel;

use super::message::{Action, Direction, Policy, PolicyKey, Scope, Template, unspecified};
use super::suitable::{scope_of, single};
use crate::packet::{Headers, protocol};
use crate::sa::Sa;
use crate::sad::Sad;

const IGMP: u8 = 2;
const ICMPV6: u8 = 58;
/// MLD's queries, reports and farewells that go to the group itself (RFC 2710 section 3).
const MLD: [u16; 3] = [130, 131, 132];

/// Priorities of the three kinds, all behind what an operator sets by hand.
const PASS: u32 = 0x4b00_0000;
const PROTECT: u32 = 0x4c00_0000;
const BLOCK: u32 = 0x4d00_0000;

/// Unlike every policy that is wanted.
pub(super) const UNKNOWN: Policy = Policy { priority: 0, action: Action::Pass };

/// Policies by what they are about.
pub(super) type Policies = BTreeMap<PolicyKey, Policy>;

/// How an engine's states and policies are told from those of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Label {
    /// Request ID of states and templates.
    pub(super) reqid: u32,
    /// That of SAs which only send: no inbound policy takes what comes by them.
    pub(super) sending: u32,
    /// Policies that let packets pass have no template, but this priority.
    pub(super) pass: u32,
}

impl Label {
    /// The label of an engine with this name.
    pub(super) fn of(name: &str) -> Self {
        let digest = Hash::Sha256.digest(&[b"keyferry engine", name.as_bytes()]);
        let octets = digest.first_chunk().copied().unwrap_or_default();
        // Others count their request IDs from one.
        let reqid = u32::from_be_bytes(octets) & !1 | 0x8000_0000;
        Self { reqid, sending: reqid | 1, pass: PASS | reqid >> 8 & 0xff_ffff }
    }

    pub(super) fn of_state(self, direction: SaDirection) -> u32 {
        if direction.receives() { self.reqid } else { self.sending }
    }

    /// Is a state or template with this request ID ours?
    pub(super) fn is_ours(self, reqid: u32) -> bool {
        reqid == self.reqid || reqid == self.sending
    }
}

/// What a plan is made of besides the SAD.
pub(super) struct Ground {
    pub(super) label: Label,
    pub(super) tunnel: Tunnel,
    /// Networks to which nothing goes in clear, whatever the group's policy is.
    pub(super) networks: BTreeSet<(IpAddr, u8)>,
    /// Where rekeys come, in clear.
    pub(super) clear: BTreeSet<SocketAddr>,
}

impl Ground {
    pub(super) fn new(label: Label, tunnel: Tunnel, networks: &[(IpAddr, u8)]) -> Self {
        Self { label, tunnel, networks: networks.iter().copied().collect(), clear: BTreeSet::new() }
    }

    /// The keys of the policies that a line of the group's policy brings.
    pub(super) fn keys_of(&self, policy: &TrafficPolicy) -> Vec<PolicyKey> {
        let network = (policy.destination.address, policy.destination.prefix);
        let scopes = scope_of(policy).into_iter().chain([towards(network.0, network.1)]);
        scopes.flat_map(|scope| [(Direction::In, scope), (Direction::Out, scope)]).collect()
    }

    /// The policies for a SAD.
    pub(super) fn policies(&self, sad: &Sad) -> Policies {
        let mut policies = Policies::new();
        let held = self.held(sad);
        for (network, prefix) in &held {
            let scope = towards(*network, *prefix);
            for direction in [Direction::In, Direction::Out] {
                policies.insert((direction, scope), Policy { priority: BLOCK, action: Action::Block });
                for scope in memberships(scope) {
                    policies.insert((direction, scope), self.pass());
                }
            }
        }
        let is_held = |ip| held.iter().any(|network| contains(*network, ip));
        for address in self.clear.iter().filter(|address| is_held(address.ip())) {
            let ports = (None, Some(address.port()));
            let scope = Scope { protocol: protocol::UDP, ports, ..towards(address.ip(), whole(address.ip())) };
            policies.insert((Direction::In, scope), self.pass());
        }
        let mut lines = BTreeSet::new();
        for (at, line) in (PROTECT..BLOCK).zip(sad.sending_lines()) {
            // Numbers end before keys do where somebody sends much.
            let sa = line.iter().find(|sa| !sa.is_out_of_numbers()).or(line.first());
            let Some((sa, scope)) = sa.and_then(|sa| Some((sa, scope_of(&sa.policy)?))) else { continue };
            if lines.insert(scope) {
                let direction = sad.direction(sa.spi).unwrap_or_default();
                let template = self.outbound(sa, direction);
                let policy = Policy { priority: at, action: Action::Protect(template) };
                policies.insert((Direction::Out, scope), policy);
            }
        }
        for (sa, _) in sad.installed().filter(|(_, direction)| direction.receives()) {
            let Some(scope) = scope_of(&sa.policy) else { continue };
            let template = Template { mode: sa.policy.mode, spi: 0, reqid: self.label.reqid, outer: None };
            let policy = Policy { priority: PROTECT, action: Action::Protect(template) };
            policies.insert((Direction::In, scope), policy);
        }
        policies
    }

    fn pass(&self) -> Policy {
        Policy { priority: self.label.pass, action: Action::Pass }
    }

    /// Multicast networks to which nothing goes in clear.
    fn held(&self, sad: &Sad) -> BTreeSet<(IpAddr, u8)> {
        let named = sad.named();
        let multicast = named.iter().map(|(_, to)| to).filter(|to| to.address.is_multicast());
        self.networks.iter().copied().chain(multicast.map(|to| (to.range().0, to.prefix))).collect()
    }

    fn outbound(&self, sa: &Arc<Sa>, direction: SaDirection) -> Template {
        let outer = match sa.policy.mode {
            EspMode::Transport => None,
            EspMode::Tunnel => self.outer_destination(&sa.policy).map(|to| (self.outer_source(&sa.policy), to)),
        };
        Template { mode: sa.policy.mode, spi: sa.spi, reqid: self.label.of_state(direction), outer }
    }

    /// Where the states of an SA are: what packets are addressed to that go out by it, and that come by it.
    pub(super) fn addresses(&self, policy: &TrafficPolicy, direction: SaDirection) -> BTreeSet<IpAddr> {
        if keeps(policy).keeps_destination() {
            return single(&policy.destination).into_iter().collect();
        }
        let out = self.tunnel.remote.filter(|ip| direction.sends() || ip.is_multicast());
        let back = self.tunnel.local.filter(|_| direction.receives());
        out.into_iter().chain(back).collect()
    }

    fn outer_destination(&self, policy: &TrafficPolicy) -> Option<IpAddr> {
        if keeps(policy).keeps_destination() { single(&policy.destination) } else { self.tunnel.remote }
    }

    /// The outer source of an SA's states: its only one, or any where it only receives.
    pub(super) fn outer_source(&self, policy: &TrafficPolicy) -> IpAddr {
        let source = match (policy.mode, keeps(policy).keeps_source()) {
            (EspMode::Transport, _) => None,
            (EspMode::Tunnel, true) => single(&policy.source),
            (EspMode::Tunnel, false) => self.tunnel.local,
        };
        source.unwrap_or_else(|| unspecified(policy.destination.address))
    }
}

/// Which addresses of a packet are to be seen outside; in transport mode both are.
fn keeps(policy: &TrafficPolicy) -> AddressPreservation {
    match policy.mode {
        EspMode::Tunnel => policy.preservation,
        EspMode::Transport => AddressPreservation::Both,
    }
}

/// One change of policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Installs one, where there is none.
    Add(PolicyKey, Policy),
    /// Puts one in the place of another.
    Replace(PolicyKey, Policy),
    Remove(PolicyKey),
}

/// The way from the policies there are to those that are wanted. What takes over comes first, what blocks before what
/// protects; what has become needless goes last.
pub(super) fn steps(there: &Policies, wanted: &Policies) -> Vec<Step> {
    let mut steps: Vec<(u32, Step)> = Vec::new();
    for (key, policy) in wanted {
        let order = u32::MAX - policy.priority;
        match there.get(key) {
            None => steps.push((order, Step::Add(*key, *policy))),
            Some(before) if before != policy => steps.push((order, Step::Replace(*key, *policy))),
            Some(_) => {}
        }
    }
    steps.sort_by_key(|(order, _)| *order);
    let gone = there.keys().filter(|key| !wanted.contains_key(key)).map(|key| Step::Remove(*key));
    steps.into_iter().map(|(_, step)| step).chain(gone).collect()
}

/// The policy that decides about a packet, as the kernel finds it: the first by priority that is about it.
pub(super) fn decides<'p>(policies: &'p Policies, direction: Direction, packet: &Headers) -> Option<&'p Policy> {
    let about = policies.iter().filter(|((way, scope), _)| *way == direction && is_about(scope, packet));
    about.map(|(_, policy)| policy).min_by_key(|policy| policy.priority)
}

/// Ports that a packet does not show match only "any". Those of ICMPv6 are type and code.
fn is_about(scope: &Scope, packet: &Headers) -> bool {
    let (from, to) = packet.ports.unzip();
    contains(scope.source, packet.source)
        && contains(scope.destination, packet.destination)
        && (scope.protocol == 0 || scope.protocol == packet.upper)
        && (scope.ports.0.is_none() || scope.ports.0 == from)
        && (scope.ports.1.is_none() || scope.ports.1 == to)
}

/// All packets to a network.
fn towards(network: IpAddr, prefix: u8) -> Scope {
    Scope { source: (unspecified(network), 0), destination: (network, prefix), protocol: 0, ports: (None, None) }
}

/// What routers and switches must hear and say of a group's members.
fn memberships(scope: Scope) -> Vec<Scope> {
    match scope.destination.0 {
        IpAddr::V4(_) => vec![Scope { protocol: IGMP, ..scope }],
        IpAddr::V6(_) => {
            MLD.into_iter().map(|kind| Scope { protocol: ICMPV6, ports: (Some(kind), None), ..scope }).collect()
        }
    }
}

fn whole(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

fn contains((address, prefix): (IpAddr, u8), ip: IpAddr) -> bool {
    Selector { address, prefix, protocol: 0, port: 0 }.contains(ip)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
