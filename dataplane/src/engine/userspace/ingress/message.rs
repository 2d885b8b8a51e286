//! Messages of the kernel's nf_tables, as `include/uapi/linux/netfilter/nf_tables.h` and `nfnetlink.h` lay them out. Octets only.
//!
//! Numbers are in network order here. A rule is a list of expressions that hand values on in registers; the first that does not
//! match ends it.

use std::net::IpAddr;

use crate::engine::netlink::Message;
use crate::packet::{IpVersion, ipv4, ipv6, protocol};

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

/// Number of nf_tables among the subsystems.
const NF_TABLES: u16 = 10;

/// Message types of nf_tables.
mod kind {
    pub(super) const NEW_TABLE: u16 = 0;
    pub(super) const NEW_CHAIN: u16 = 3;
    pub(super) const NEW_RULE: u16 = 6;
    pub(super) const DELETE_RULE: u16 = 8;
    pub(super) const NEW_SET: u16 = 9;
    pub(super) const NEW_ELEMENTS: u16 = 12;
}

/// Flags of the netlink header when something is made.
const EXCLUSIVE: u16 = 0x200;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

/// Of attributes that consist of attributes.
const NESTED: u16 = 0x8000;
const LIST_ITEM: u16 = NESTED | 1;

/// Family of tables that see packets at an interface, before there is any protocol.
const NETDEV: u8 = 5;
const INGRESS: u32 = 0;
/// Behind all other chains at the hook: they count, copy and redirect what they did before.
const LAST: i32 = i32::MAX;
const ACCEPT: u32 = 1;
const DROP: u32 = 0;

const OWNER: u32 = 0x2;

const CHAIN: &str = "early";
/// The kernel gives it a number of its own.
const SET: &str = "__set%d";
/// It goes with its rule (anonymous), and does not change until then.
const SET_OF_RULE: u32 = 0x3;

/// So many in a message: those of IPv6 have 28 octets each, and an attribute takes less than 65,536.
const ELEMENTS: usize = 1_024;

/// Where an expression begins to count.
#[derive(Clone, Copy)]
enum Base {
    Link = 0,
    Network = 1,
}

/// The one that is used, of 16 octets, and the one whose value is a verdict.
const REGISTER: u32 = 1;
const VERDICT: u32 = 0;

/// The type of an Ethernet frame.
const TYPE_AT: usize = 12;

/// A transaction of messages, of which the last is acknowledged.
pub(super) fn transaction(mut messages: Vec<Message>) -> Vec<Message> {
    let mark = |kind| {
        let mut message = Message::new(kind, 0);
        message.octets(&[0, 0]);
        message.octets(&NF_TABLES.to_be_bytes());
        message
    };
    let last = messages.pop().map(Message::acknowledged);
    [mark(BATCH_BEGIN)].into_iter().chain(messages).chain(last).chain([mark(BATCH_END)]).collect()
}

/// A table with one chain, whose rules drop what goes to groups: one rule for each IP version, with a set of groups.
pub(super) struct Table {
    name: String,
}

impl Table {
    pub(super) fn named(name: &str) -> Self {
        Self { name: name.to_owned() }
    }

    /// Makes it, unless there is one of this name.
    pub(super) fn make(&self) -> Message {
        let mut message = self.message(kind::NEW_TABLE, CREATE | EXCLUSIVE);
        number(&mut message, 2, OWNER);
        message
    }

    /// Adds the chain.
    pub(super) fn chain(&self, interface: &str) -> Message {
        let mut message = self.message(kind::NEW_CHAIN, CREATE | EXCLUSIVE);
        text(&mut message, 3, CHAIN);
        text(&mut message, 7, "filter");
        number(&mut message, 5, ACCEPT);
        message.attribute(NESTED | 4, |message| {
            number(message, 1, INGRESS);
            message.attribute(2, |message| message.octets(&LAST.to_be_bytes()));
            text(message, 3, interface);
        });
        message
    }

    /// Removes all rules.
    pub(super) fn forget(&self) -> Message {
        let mut message = self.message(kind::DELETE_RULE, 0);
        text(&mut message, 2, CHAIN);
        message
    }

    /// Adds the set that the rule for this version looks into, of so many groups.
    pub(super) fn set(&self, version: IpVersion, groups: usize) -> Message {
        let layout = Layout::of(version);
        let mut message = self.message(kind::NEW_SET, CREATE);
        text(&mut message, 2, SET);
        number(&mut message, 3, SET_OF_RULE);
        number(&mut message, 4, layout.key_type);
        size(&mut message, 5, layout.address.1);
        number(&mut message, 10, layout.set);
        message.attribute(NESTED | 9, |message| size(message, 1, groups));
        message
    }

    /// Puts groups of this version into its set.
    pub(super) fn elements(&self, version: IpVersion, groups: &[IpAddr]) -> impl Iterator<Item = Message> {
        groups.chunks(ELEMENTS).map(move |groups| {
            let mut message = self.message(kind::NEW_ELEMENTS, CREATE);
            text(&mut message, 2, SET);
            number(&mut message, 4, Layout::of(version).set);
            message.attribute(NESTED | 3, |message| {
                for group in groups {
                    message.attribute(LIST_ITEM, |message| match group {
                        IpAddr::V4(group) => value(message, 1, &group.octets()),
                        IpAddr::V6(group) => value(message, 1, &group.octets()),
                    });
                }
            });
            message
        })
    }

    /// Adds the rule for this version.
    pub(super) fn rule(&self, version: IpVersion) -> Message {
        let layout = Layout::of(version);
        let mut message = self.message(kind::NEW_RULE, CREATE | APPEND);
        text(&mut message, 2, CHAIN);
        message.attribute(NESTED | 4, |message| {
            load(message, Base::Link, (TYPE_AT, 2));
            equal(message, &layout.frame_type);
            if let Some((place, mask)) = layout.fragment {
                load(message, Base::Network, place);
                mask_with(message, mask);
                equal(message, &[0, 0]);
            }
            load(message, Base::Network, (layout.protocol_at, 1));
            equal(message, &[protocol::ESP]);
            load(message, Base::Network, layout.address);
            expression(message, "lookup", |message| {
                number(message, 2, REGISTER);
                text(message, 1, SET);
                number(message, 4, layout.set);
            });
            expression(message, "immediate", |message| {
                number(message, 1, VERDICT);
                message.attribute(NESTED | 2, |message| {
                    message.attribute(NESTED | 2, |message| number(message, 1, DROP));
                });
            });
        });
        message
    }

    fn message(&self, kind: u16, flags: u16) -> Message {
        let mut message = Message::new(NF_TABLES << 8 | kind, flags);
        message.octets(&[NETDEV, 0, 0, 0]);
        text(&mut message, 1, &self.name);
        message
    }
}

/// What tells a version's packets, as places (offset, octets) in the IP header.
struct Layout {
    frame_type: [u8; 2],
    /// More fragments, and the offset of this one (RFC 791, section 3.1). IPv6 tells by another protocol.
    fragment: Option<((usize, usize), [u8; 2])>,
    protocol_at: usize,
    /// The destination.
    address: (usize, usize),
    /// What `nft` takes the set's keys for when it shows them.
    key_type: u32,
    /// Number of its set in a transaction.
    set: u32,
}

impl Layout {
    fn of(version: IpVersion) -> Self {
        match version {
            IpVersion::V4 => Self {
                frame_type: [0x08, 0x00],
                fragment: Some(((ipv4::FLAGS, 2), (ipv4::MORE_FRAGMENTS | ipv4::OFFSET).to_be_bytes())),
                protocol_at: ipv4::PROTOCOL,
                address: (ipv4::DESTINATION, 4),
                key_type: 7,
                set: 1,
            },
            IpVersion::V6 => Self {
                frame_type: [0x86, 0xdd],
                fragment: None,
                protocol_at: ipv6::NEXT_HEADER,
                address: (ipv6::DESTINATION, 16),
                key_type: 8,
                set: 2,
            },
        }
    }
}

/// Part of the packet into the register.
fn load(message: &mut Message, base: Base, (offset, octets): (usize, usize)) {
    expression(message, "payload", |message| {
        number(message, 1, REGISTER);
        number(message, 2, base as u32);
        size(message, 3, offset);
        size(message, 4, octets);
    });
}

/// Leaves these bits in the register.
fn mask_with(message: &mut Message, mask: [u8; 2]) {
    const MASK_AND_INVERT: u32 = 0;
    expression(message, "bitwise", |message| {
        number(message, 1, REGISTER);
        number(message, 2, REGISTER);
        number(message, 6, MASK_AND_INVERT);
        number(message, 3, 2);
        value(message, 4, &mask);
        value(message, 5, &[0, 0]);
    });
}

/// Goes on if this is in the register.
fn equal(message: &mut Message, octets: &[u8]) {
    const EQUAL: u32 = 0;
    expression(message, "cmp", |message| {
        number(message, 1, REGISTER);
        number(message, 2, EQUAL);
        value(message, 3, octets);
    });
}

fn expression(message: &mut Message, name: &str, write: impl FnOnce(&mut Message)) {
    message.attribute(LIST_ITEM, |message| {
        text(message, 1, name);
        message.attribute(NESTED | 2, write);
    });
}

fn value(message: &mut Message, kind: u16, octets: &[u8]) {
    message.attribute(NESTED | kind, |message| message.attribute(1, |message| message.octets(octets)));
}

fn number(message: &mut Message, kind: u16, n: u32) {
    message.attribute(kind, |message| message.octets(&n.to_be_bytes()));
}

/// [`number`] of something that has its place or size in memory.
fn size(message: &mut Message, kind: u16, n: usize) {
    number(message, kind, u32::try_from(n).unwrap_or(u32::MAX));
}

/// Zero-terminated.
fn text(message: &mut Message, kind: u16, text: &str) {
    message.attribute(kind, |message| {
        message.octets(text.as_bytes());
        message.octets(&[0]);
    });
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
