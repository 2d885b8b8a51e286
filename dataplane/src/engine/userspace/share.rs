//! Filters by which raw sockets share packets: each gets those of some senders, and nobody gets a packet twice.
//!
//! Every raw socket is offered every packet of its protocol. By a sender's address its packets stay together, so they
//! stay in order, and its replay window is one thread's business: a thread gets whole strands. The kernel has put
//! fragments together by then.

use std::num::NonZeroU8;

use nix::libc::{
    BPF_ABS, BPF_ALU, BPF_IMM, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_LDX, BPF_MISC, BPF_MOD, BPF_MUL, BPF_RET, BPF_RSH,
    BPF_TAX, BPF_W, BPF_X, BPF_XOR, SKF_NET_OFF,
};
use socket2::SockFilter;

use crate::packet::IpVersion;
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

    /// The filter, if there is anything to be filtered.
    pub(super) fn filter(self, version: IpVersion) -> Option<Vec<SockFilter>> {
        if self.of == NonZeroU8::MIN {
            return None;
        }
        let (source, len) = match version {
            IpVersion::V4 => (12, 4),
            IpVersion::V6 => (8, 16),
        };
        let mut program = vec![step(BPF_LDX | BPF_IMM, 0)];
        for at in (source..source + len).step_by(4) {
            // Offsets from the network layer's header; where data begin is not the same for both versions.
            program.push(step(BPF_LD | BPF_W | BPF_ABS, SKF_NET_OFF.cast_unsigned() + at));
            program.push(step(BPF_ALU | BPF_XOR | BPF_X, 0));
            program.push(step(BPF_MISC | BPF_TAX, 0));
        }
        program.push(step(BPF_ALU | BPF_MUL | BPF_K, Strand::SPREAD));
        program.push(step(BPF_ALU | BPF_RSH | BPF_K, Strand::SHIFT));
        program.push(step(BPF_ALU | BPF_MOD | BPF_K, u32::from(Strand::COUNT)));
        program.push(step(BPF_ALU | BPF_MOD | BPF_K, u32::from(self.of.get())));
        program.push(SockFilter::new(code(BPF_JMP | BPF_JEQ | BPF_K), 0, 1, u32::from(self.number)));
        program.push(step(BPF_RET | BPF_K, u32::MAX));
        program.push(step(BPF_RET | BPF_K, 0));
        Some(program)
    }
}

fn step(operation: u32, operand: u32) -> SockFilter {
    SockFilter::new(code(operation), 0, 0, operand)
}

fn code(operation: u32) -> u16 {
    u16::try_from(operation).unwrap_or(u16::MAX)
}
