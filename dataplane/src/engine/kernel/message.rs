//! Messages of the kernel's NETLINK_XFRM, as `include/uapi/linux/xfrm.h` lays them out. Octets only.
//!
//! Numbers are in the machine's order, but for SPIs, ports and addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use keyferry_model::policy::{EspMode, EspTransform};

use super::algorithms::{self, Algorithms};
use crate::engine::netlink::{Message, flag};
use crate::packet::protocol;

pub(super) mod device;
mod read;

#[cfg(feature = "fuzzing")]
pub(crate) use read::told;
pub(super) use read::{Answer, KnownPolicy, KnownState};

const ALGORITHM_NAME: usize = 64;

/// Message types.
mod kind {
    pub(super) const NEW_STATE: u16 = 0x10;
    pub(super) const DELETE_STATE: u16 = 0x11;
    pub(super) const GET_STATE: u16 = 0x12;
    pub(super) const NEW_POLICY: u16 = 0x13;
    pub(super) const DELETE_POLICY: u16 = 0x14;
    pub(super) const GET_POLICY: u16 = 0x15;
    pub(super) const UPDATE_POLICY: u16 = 0x19;
}

/// Attribute types.
mod attribute {
    pub(super) const CIPHER: u16 = 2;
    pub(super) const TEMPLATE: u16 = 5;
    pub(super) const REPLAY: u16 = 10;
    pub(super) const AEAD: u16 = 18;
    pub(super) const MAC: u16 = 20;
    pub(super) const WIDE_REPLAY: u16 = 23;
    pub(super) const OFFLOAD: u16 = 28;
}

/// Flag of an offload; the lowest is that of IPv6.
const INBOUND: u8 = 2;

const V4: u16 = 2;
const V6: u16 = 10;

/// Which packets (struct xfrm_selector).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Scope {
    pub(super) source: (IpAddr, u8),
    pub(super) destination: (IpAddr, u8),
    /// Zero is any.
    pub(super) protocol: u8,
    /// Source port and destination port, or type and code of ICMPv6; `None` is any.
    pub(super) ports: (Option<u16>, Option<u16>),
}

/// Which way packets go that a policy is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Direction {
    In,
    Out,
}

/// What becomes of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// They pass as they are.
    Pass,
    /// They are dropped.
    Block,
    /// Outbound they are protected by this state, inbound they must have come by one like it.
    Protect(Template),
}

/// By what packets are protected (struct xfrm_user_tmpl).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Template {
    pub(super) mode: EspMode,
    /// Zero is any.
    pub(super) spi: u32,
    pub(super) reqid: u32,
    /// Outer source and destination of tunnel mode, outbound.
    pub(super) outer: Option<(IpAddr, IpAddr)>,
}

/// A policy, but for the packets it is about. The lower its priority's number, the sooner it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Policy {
    pub(super) priority: u32,
    pub(super) action: Action,
}

/// What names a policy. There is one at most.
pub(super) type PolicyKey = (Direction, Scope);

/// What names a state: where packets of it go, and its SPI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct StateKey {
    pub(super) destination: IpAddr,
    pub(super) spi: u32,
}

/// A state to install.
pub(super) struct NewState<'k> {
    pub(super) key: StateKey,
    /// Outer source of tunnel mode; unspecified is any.
    pub(super) source: IpAddr,
    pub(super) reqid: u32,
    pub(super) mode: EspMode,
    /// What its packets must be inside.
    pub(super) scope: Scope,
    pub(super) transform: EspTransform,
    pub(super) keymat: &'k [u8],
    pub(super) lifetime: Duration,
    /// Replay window in packets; zero is none.
    pub(super) window: u32,
    pub(super) numbers: Numbers,
    /// Index of a device that is asked to do the cryptography of what comes.
    pub(super) offload: Option<u32>,
}

/// Sequence numbers used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Numbers {
    /// The last one sent.
    pub(super) sent: u32,
    /// The highest one received.
    pub(super) seen: u32,
}

impl Message {
    /// Installs a state, unless there is one of this key. `None` where the kernel has no name for its transform.
    pub(super) fn new_state(state: &NewState<'_>) -> Option<Self> {
        let algorithms = algorithms::of(state.transform)?;
        let mut message = Self::new(kind::NEW_STATE, flag::ACKNOWLEDGE);
        message.scope(&state.scope);
        message.state_id(state.key);
        message.address(state.source);
        // Octets and packets without limit. A soft end before the hard one keeps jumps of the clock from ending it.
        message.u64s(&[u64::MAX; 4]);
        let seconds = state.lifetime.as_secs().saturating_add(1);
        message.u64s(&[seconds, seconds.saturating_add(GRACE), 0, 0]);
        // Lifetime used, statistics, sequence number of an acquisition.
        message.zeros(32 + 12 + 4);
        message.u32(state.reqid);
        message.u16(family(state.key.destination));
        // Window and flags; windows of these widths go into an attribute.
        message.octets(&[mode(state.mode), 0, 0]);
        message.pad(8);
        let (own, mac) = match algorithms {
            Algorithms::Combined(name, icv) => {
                message.algorithm(attribute::AEAD, name, state.keymat, Some(icv));
                return Some(message.rest_of_state(state));
            }
            Algorithms::Separate(name, len, mac, icv) => ((name, len), (mac, icv)),
        };
        let (key, mac_key) = state.keymat.split_at(own.1.min(state.keymat.len()));
        message.algorithm(attribute::CIPHER, own.0, key, None);
        message.algorithm(attribute::MAC, mac.0, mac_key, Some(mac.1));
        Some(message.rest_of_state(state))
    }

    fn rest_of_state(mut self, state: &NewState<'_>) -> Self {
        let Numbers { sent, seen } = state.numbers;
        if state.window > 0 {
            let words = state.window.div_ceil(32);
            self.attribute(attribute::WIDE_REPLAY, |message| {
                message.u32s(&[words, sent, seen, 0, 0, state.window]);
                // What is behind the highest number counts as seen.
                let bits = if seen > 0 { u32::MAX } else { 0 };
                (0..words).for_each(|_| message.u32(bits));
            });
        } else {
            self.attribute(attribute::REPLAY, |message| message.u32s(&[sent, 0, 0]));
        }
        if let Some(interface) = state.offload {
            self.attribute(attribute::OFFLOAD, |message| {
                message.u32(interface);
                message.octets(&[INBOUND | u8::from(state.key.destination.is_ipv6())]);
                message.pad(4);
            });
        }
        self
    }

    /// Removes a state.
    pub(super) fn delete_state(key: StateKey) -> Self {
        Self::of_state(kind::DELETE_STATE, flag::ACKNOWLEDGE, key)
    }

    /// Asks for a state.
    pub(super) fn get_state(key: StateKey) -> Self {
        Self::of_state(kind::GET_STATE, 0, key)
    }

    fn of_state(kind: u16, flags: u16, key: StateKey) -> Self {
        let mut message = Self::new(kind, flags);
        message.address(key.destination);
        message.spi(key.spi);
        message.u16(family(key.destination));
        message.octets(&[protocol::ESP, 0]);
        message
    }

    /// Asks for all states.
    pub(super) fn all_states() -> Self {
        Self::new(kind::GET_STATE, flag::DUMP)
    }

    /// Asks for all policies.
    pub(super) fn all_policies() -> Self {
        Self::new(kind::GET_POLICY, flag::DUMP)
    }

    /// Installs a policy, unless there is one of this key.
    pub(super) fn new_policy(key: PolicyKey, policy: &Policy, label: u32) -> Self {
        Self::policy(kind::NEW_POLICY, key, policy, label)
    }

    /// Installs a policy in place of the one of this key.
    pub(super) fn update_policy(key: PolicyKey, policy: &Policy, label: u32) -> Self {
        Self::policy(kind::UPDATE_POLICY, key, policy, label)
    }

    fn policy(kind: u16, (direction, scope): PolicyKey, policy: &Policy, label: u32) -> Self {
        let mut message = Self::new(kind, flag::ACKNOWLEDGE);
        message.scope(&scope);
        // Limits in octets and packets, none; times, none; what was used of them.
        message.u64s(&[u64::MAX; 4]);
        message.zeros(32 + 32);
        message.u32(policy.priority);
        message.u32(0);
        let block = u8::from(policy.action == Action::Block);
        message.octets(&[direction_number(direction), block, 0, 0]);
        message.pad(8);
        // The kernel looks at no template of a policy that blocks: it is there to tell whose the policy is.
        let labelled = Template { mode: EspMode::Transport, spi: 0, reqid: label, outer: None };
        let template = match policy.action {
            Action::Pass => return message,
            Action::Block => labelled,
            Action::Protect(template) => template,
        };
        let any = unspecified(scope.destination.0);
        let (source, destination) = template.outer.unwrap_or((any, any));
        message.attribute(attribute::TEMPLATE, |message| {
            message.state_id(StateKey { destination, spi: template.spi });
            message.u16(family(destination));
            message.zeros(2);
            message.address(source);
            message.u32(template.reqid);
            message.octets(&[mode(template.mode), 0, 0, 0]);
            // Any algorithms.
            message.u32s(&[u32::MAX; 3]);
        });
        message
    }

    /// Removes a policy.
    pub(super) fn delete_policy((direction, scope): PolicyKey) -> Self {
        let mut message = Self::new(kind::DELETE_POLICY, flag::ACKNOWLEDGE);
        message.policy_id((direction, scope));
        message
    }

    /// Asks for a policy.
    pub(super) fn get_policy(key: PolicyKey) -> Self {
        let mut message = Self::new(kind::GET_POLICY, 0);
        message.policy_id(key);
        message
    }

    fn policy_id(&mut self, (direction, scope): PolicyKey) {
        self.scope(&scope);
        self.u32(0);
        self.octets(&[direction_number(direction), 0, 0, 0]);
    }

    fn scope(&mut self, scope: &Scope) {
        self.address(scope.destination.0);
        self.address(scope.source.0);
        for port in [scope.ports.1, scope.ports.0] {
            self.octets(&port.unwrap_or(0).to_be_bytes());
            self.octets(&port.map_or(0, |_| u16::MAX).to_be_bytes());
        }
        self.u16(family(scope.destination.0));
        self.octets(&[scope.destination.1, scope.source.1, scope.protocol]);
        self.pad(4);
        // Every interface, every user.
        self.zeros(8);
    }

    fn state_id(&mut self, key: StateKey) {
        self.address(key.destination);
        self.spi(key.spi);
        self.octets(&[protocol::ESP, 0, 0, 0]);
    }

    fn algorithm(&mut self, kind: u16, name: &str, key: &[u8], icv: Option<usize>) {
        self.attribute(kind, |message| {
            message.octets(name.as_bytes());
            message.zeros(ALGORITHM_NAME - name.len());
            message.u32(bits(key.len()));
            if let Some(icv) = icv {
                message.u32(bits(icv));
            }
            message.octets(key);
        });
    }

    fn address(&mut self, ip: IpAddr) {
        match ip {
            IpAddr::V4(ip) => {
                self.octets(&ip.octets());
                self.zeros(12);
            }
            IpAddr::V6(ip) => self.octets(&ip.octets()),
        }
    }

    fn spi(&mut self, spi: u32) {
        self.octets(&spi.to_be_bytes());
    }
}

/// So much longer than its lifetime a state lasts in the kernel, in seconds, should this process not remove it.
const GRACE: u64 = 60;

fn family(ip: IpAddr) -> u16 {
    if ip.is_ipv4() { V4 } else { V6 }
}

/// Any address of the same IP version.
pub(super) fn unspecified(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn mode(mode: EspMode) -> u8 {
    match mode {
        EspMode::Transport => 0,
        EspMode::Tunnel => 1,
    }
}

fn direction_number(direction: Direction) -> u8 {
    match direction {
        Direction::In => 0,
        Direction::Out => 1,
    }
}

fn bits(octets: usize) -> u32 {
    u32::try_from(octets * 8).unwrap_or(0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
