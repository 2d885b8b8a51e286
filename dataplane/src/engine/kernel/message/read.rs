//! What the kernel answers.

use std::io;
use std::net::IpAddr;

use super::{Direction, HEADER, Scope, StateKey, V4, V6, attribute, kind};

const ERROR: u16 = 2;
const DONE: u16 = 3;

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

/// The messages in what was read, each with its number. What is malformed ends them.
pub(in crate::engine::kernel) struct Answers<'o>(pub(in crate::engine::kernel) &'o [u8]);

impl Iterator for Answers<'_> {
    type Item = (u32, Answer);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::try_from(u32_at(self.0, 0)?).ok()?;
        let message = self.0.get(..length).filter(|message| message.len() >= HEADER)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        let (kind, number) = (u16_at(message, 4)?, u32_at(message, 8)?);
        Some((number, answer(kind, &message[HEADER..]).unwrap_or(Answer::Other)))
    }
}

/// How many messages the kernel has told.
#[cfg(feature = "fuzzing")]
pub(crate) fn told(octets: &[u8]) -> usize {
    Answers(octets).count()
}

fn answer(kind: u16, body: &[u8]) -> Option<Answer> {
    Some(match kind {
        DONE => Answer::Done,
        ERROR => match i32::from_ne_bytes(octets(body, 0)?) {
            0 => Answer::Done,
            code => Answer::Failed(io::Error::from_raw_os_error(code.saturating_neg())),
        },
        kind::NEW_STATE => Answer::State(state(body)?),
        kind::NEW_POLICY => Answer::Policy(policy(body)?),
        _ => return None,
    })
}

/// Does a message tell that something was not done?
pub(super) fn is_error(message: &[u8]) -> bool {
    u16_at(message, 4) == Some(ERROR)
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

pub(super) struct Attributes<'o>(pub(super) &'o [u8]);

impl<'o> Iterator for Attributes<'o> {
    type Item = (u16, &'o [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (length, kind) = (usize::from(u16_at(self.0, 0)?), u16_at(self.0, 2)?);
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

fn address(body: &[u8], at: usize, family: u16) -> Option<IpAddr> {
    match family {
        V4 => Some(IpAddr::from(octets::<4>(body, at)?)),
        V6 => Some(IpAddr::from(octets::<16>(body, at)?)),
        _ => None,
    }
}

fn octets<const N: usize>(body: &[u8], at: usize) -> Option<[u8; N]> {
    body.get(at..at.checked_add(N)?)?.try_into().ok()
}

pub(super) fn u16_at(body: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(octets(body, at)?))
}

pub(super) fn u32_at(body: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(octets(body, at)?))
}
