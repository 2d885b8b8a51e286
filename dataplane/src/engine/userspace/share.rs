//! Filters by which sockets share packets: each gets those of some senders, and nobody gets a packet twice.
//!
//! Every raw socket is offered every packet of its protocol, and every packet socket every packet of its interface. By a sender's address its packets stay together, so they
//! stay in order, and its replay window is one thread's business: a thread gets whole strands. The kernel has put
//! fragments together by then.

use std::num::NonZeroU8;

use nix::libc::{
    BPF_ABS, BPF_ALU, BPF_IMM, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_LDX, BPF_MISC, BPF_MOD, BPF_MUL, BPF_RET, BPF_RSH,
    BPF_TAX, BPF_W, BPF_X, BPF_XOR, SKF_NET_OFF,
};
use socket2::SockFilter;

use crate::packet::{IpVersion, ipv4, ipv6};
use crate::replay::Strand;

/// One of several shares.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    pub(super) number: u8,
    pub(super) of: NonZeroU8,
}

impl Share {
    /// All there are.
    pub(super) fn all(of: NonZeroU8) -> impl Iterator<Item = Self> {
        (0..of.get()).map(move |number| Self { number, of })
    }

    /// The filter of a raw socket, if there is anything to be filtered.
    pub(super) fn filter(self, version: IpVersion) -> Option<Vec<SockFilter>> {
        // For one version data begin with the IP header, for the other behind it.
        let mut program = self.condition(version, SKF_NET_OFF.cast_unsigned());
        if program.is_empty() {
            return None;
        }
        program.push(step(BPF_RET | BPF_K, u32::MAX));
        Some(program)
    }

    /// Instructions that refuse what others take, and go on otherwise. The IP header is at `base`.
    pub(super) fn condition(self, version: IpVersion, base: u32) -> Vec<SockFilter> {
        if self.of == NonZeroU8::MIN {
            return Vec::new();
        }
        let (source, len) = match version {
            IpVersion::V4 => (ipv4::SOURCE, 4),
            IpVersion::V6 => (ipv6::SOURCE, 16),
        };
        let mut program = vec![step(BPF_LDX | BPF_IMM, 0)];
        for at in (source..source + len).step_by(4) {
            program.push(load(BPF_W, base, at));
            program.push(step(BPF_ALU | BPF_XOR | BPF_X, 0));
            program.push(step(BPF_MISC | BPF_TAX, 0));
        }
        program.push(step(BPF_ALU | BPF_MUL | BPF_K, Strand::SPREAD));
        program.push(step(BPF_ALU | BPF_RSH | BPF_K, Strand::SHIFT));
        program.push(step(BPF_ALU | BPF_MOD | BPF_K, u32::from(Strand::COUNT)));
        program.push(step(BPF_ALU | BPF_MOD | BPF_K, u32::from(self.of.get())));
        program.push(jump(BPF_JEQ, u32::from(self.number), 1, 0));
        program.push(step(BPF_RET | BPF_K, 0));
        program
    }
}

/// What stands so many octets behind `base`.
pub(super) fn load(size: u32, base: u32, at: usize) -> SockFilter {
    step(BPF_LD | size | BPF_ABS, base.saturating_add(u32::try_from(at).unwrap_or(u32::MAX)))
}

pub(super) fn step(operation: u32, operand: u32) -> SockFilter {
    SockFilter::new(code(operation), 0, 0, operand)
}

/// Leaves so many instructions out if the comparison with the operand `holds`, or if not.
pub(super) fn jump(comparison: u32, operand: u32, holds: u8, otherwise: u8) -> SockFilter {
    SockFilter::new(code(BPF_JMP | comparison | BPF_K), holds, otherwise, operand)
}

fn code(operation: u32) -> u16 {
    u16::try_from(operation).unwrap_or(u16::MAX)
}
