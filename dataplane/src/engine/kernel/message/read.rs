//! What the kernel answers.

use std::io;
use std::net::IpAddr;

use super::{Direction, Scope, StateKey, V4, V6, attribute, kind};
#[cfg(any(test, feature = "fuzzing"))]
use crate::engine::netlink::Answers;
use crate::engine::netlink::{self, Attributes, octets, u16_at, u32_at};

/// One message.
#[derive(Debug)]
pub(in crate::engine::kernel) enum Answer {
    /// It was done, or all has been told.
    Done,
    /// It was not done.
    Failed(io::Error),
    State(KnownState),
    Policy(KnownPolicy),
    /// Something else.
    Other,
}

/// A state that the kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine::kernel) struct KnownState {
    pub(in crate::engine::kernel) key: StateKey,
    pub(in crate::engine::kernel) reqid: u32,
    /// Octets and packets, both ways together.
    pub(in crate::engine::kernel) octets: u64,
    pub(in crate::engine::kernel) packets: u64,
    /// Packets that were seen before or behind the window.
    pub(in crate::engine::kernel) replayed: u32,
    /// Packets whose ICV was wrong.
    pub(in crate::engine::kernel) forged: u32,
    pub(in crate::engine::kernel) sent: u32,
    pub(in crate::engine::kernel) seen: u32,
    /// Does a device decrypt what comes by it?
    pub(in crate::engine::kernel) offloaded: bool,
}

/// A policy that the kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine::kernel) struct KnownPolicy {
    /// `None` for packets that are forwarded, and what else there may be.
    pub(in crate::engine::kernel) direction: Option<Direction>,
    pub(in crate::engine::kernel) scope: Scope,
    pub(in crate::engine::kernel) priority: u32,
    pub(in crate::engine::kernel) blocks: bool,
    /// That of its first template.
    pub(in crate::engine::kernel) reqid: Option<u32>,
    pub(in crate::engine::kernel) spi: Option<u32>,
}

impl From<netlink::Answer<'_>> for Answer {
    fn from(answer: netlink::Answer<'_>) -> Self {
        match answer {
            netlink::Answer::Done => Self::Done,
            netlink::Answer::Failed(error) => Self::Failed(error),
            netlink::Answer::Told { kind, body } => told_of(kind, body).unwrap_or(Self::Other),
        }
    }
}

/// All of what was read, each message with its number.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn answers(octets: &[u8]) -> impl Iterator<Item = (u32, Answer)> {
    Answers(octets).map(|(number, answer)| (number, answer.into()))
}

/// How many messages the kernel has told.
#[cfg(feature = "fuzzing")]
pub(crate) fn told(octets: &[u8]) -> usize {
    answers(octets).count()
}

fn told_of(kind: u16, body: &[u8]) -> Option<Answer> {
    Some(match kind {
        kind::NEW_STATE => Answer::State(state(body)?),
        kind::NEW_POLICY => Answer::Policy(policy(body)?),
        _ => return None,
    })
}

/// struct xfrm_usersa_info and attributes.
fn state(body: &[u8]) -> Option<KnownState> {
    const LENGTH: usize = 224;
    let family = u16_at(body, 212)?;
    let key = StateKey { destination: address(body, 56, family)?, spi: u32::from_be_bytes(octets(body, 72)?) };
    let mut state = KnownState {
        key,
        reqid: u32_at(body, 208)?,
        octets: u64::from_ne_bytes(octets(body, 160)?),
        packets: u64::from_ne_bytes(octets(body, 168)?),
        replayed: u32_at(body, 192)?.saturating_add(u32_at(body, 196)?),
        forged: u32_at(body, 200)?,
        sent: 0,
        seen: 0,
        offloaded: false,
    };
    for (kind, value) in Attributes(body.get(LENGTH..)?) {
        match kind {
            attribute::REPLAY => (state.sent, state.seen) = (u32_at(value, 0)?, u32_at(value, 4)?),
            attribute::WIDE_REPLAY => (state.sent, state.seen) = (u32_at(value, 4)?, u32_at(value, 8)?),
            attribute::OFFLOAD => state.offloaded = true,
            _ => {}
        }
    }
    Some(state)
}

/// struct xfrm_userpolicy_info and attributes.
fn policy(body: &[u8]) -> Option<KnownPolicy> {
    const LENGTH: usize = 168;
    let [direction, action] = octets(body, 160)?;
    let direction = match direction {
        0 => Some(Direction::In),
        1 => Some(Direction::Out),
        _ => None,
    };
    let mut policy = KnownPolicy {
        direction,
        scope: scope(body)?,
        priority: u32_at(body, 152)?,
        blocks: action == 1,
        reqid: None,
        spi: None,
    };
    for (kind, value) in Attributes(body.get(LENGTH..)?) {
        if kind == attribute::TEMPLATE {
            policy.reqid = u32_at(value, 44);
            policy.spi = octets(value, 16).map(u32::from_be_bytes);
        }
    }
    Some(policy)
}

fn scope(body: &[u8]) -> Option<Scope> {
    let family = u16_at(body, 40)?;
    let [destination_prefix, source_prefix, protocol] = octets(body, 42)?;
    let port = |at: usize| {
        let [port, mask] = [octets(body, at)?, octets(body, at + 2)?].map(u16::from_be_bytes);
        Some((mask != 0).then_some(port))
    };
    Some(Scope {
        destination: (address(body, 0, family)?, destination_prefix),
        source: (address(body, 16, family)?, source_prefix),
        protocol,
        ports: (port(36)?, port(32)?),
    })
}

fn address(body: &[u8], at: usize, family: u16) -> Option<IpAddr> {
    match family {
        V4 => Some(IpAddr::from(octets::<4>(body, at)?)),
        V6 => Some(IpAddr::from(octets::<16>(body, at)?)),
        _ => None,
    }
}
