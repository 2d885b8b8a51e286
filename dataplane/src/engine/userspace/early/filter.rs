//! What a packet socket lets through, as a program of the kernel's classic packet filter.

use std::collections::BTreeSet;
use std::net::IpAddr;

use nix::libc::{
    BPF_ABS, BPF_B, BPF_H, BPF_JA, BPF_JEQ, BPF_JGT, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_MEM, BPF_RET, BPF_ST, BPF_W,
    ETH_P_IP, ETH_P_IPV6, PACKET_MULTICAST, SKF_AD_OFF, SKF_AD_PKTTYPE, SKF_AD_VLAN_TAG_PRESENT,
};
use socket2::SockFilter;

use super::super::link;
use super::super::share::{Share, jump, load, step};
use crate::packet::{IpVersion, ipv4, ipv6, protocol};

const REFUSE: (u32, u32) = (BPF_RET | BPF_K, 0);
const TAKE: (u32, u32) = (BPF_RET | BPF_K, u32::MAX);
/// Octets of a word.
const WORD: usize = 4;
/// Words of an IPv6 address.
const WORDS: u8 = 4;

/// Where data of these sockets begin: with the frame. What is counted from there is found wherever the kernel has it,
/// while kernels before Linux 6.15 find what is counted from the IP header (`SKF_NET_OFF`) only where the driver has
/// laid it behind the frame's header in one piece.
const FRAME: u32 = 0;
/// Of the frame, in its header of usual length: it tells those apart that have a VLAN tag in it.
const TYPE: usize = link::HEADER - 2;
const PACKET: u32 = link::HEADER as u32;

/// Lets nothing through.
pub(in crate::engine::userspace) fn refuse() -> [SockFilter; 1] {
    [step(REFUSE.0, REFUSE.1)]
}

/// Lets through what a share has of the unfragmented ESP packets to `groups`. Nothing that a card in promiscuous mode
/// overhears, that this host sends itself, or that belongs to a VLAN.
pub(super) fn of_groups(groups: &BTreeSet<IpAddr>, share: Share) -> Vec<SockFilter> {
    let mut program = vec![about(SKF_AD_PKTTYPE, BPF_B)];
    program.extend(refuse_if(BPF_JGT, u32::from(PACKET_MULTICAST)));
    program.push(about(SKF_AD_VLAN_TAG_PRESENT, BPF_B));
    program.extend(refuse_unless(0));
    program.push(load(BPF_H, FRAME, TYPE));
    let v4 = of_version(IpVersion::V4, groups, share);
    program.push(jump(BPF_JEQ, ETH_P_IP as u32, 1, 0));
    program.push(step(BPF_JMP | BPF_JA, length(&v4)));
    program.extend(v4);
    program.extend(refuse_unless(ETH_P_IPV6 as u32));
    program.extend(of_version(IpVersion::V6, groups, share));
    program
}

/// A block that ends with a verdict.
fn of_version(version: IpVersion, groups: &BTreeSet<IpAddr>, share: Share) -> Vec<SockFilter> {
    let mut block = match version {
        IpVersion::V4 => {
            let mut block = vec![load(BPF_B, PACKET, ipv4::PROTOCOL)];
            block.extend(refuse_unless(u32::from(protocol::ESP)));
            block.push(load(BPF_H, PACKET, ipv4::FLAGS));
            block.extend(refuse_if(BPF_JSET, u32::from(ipv4::MORE_FRAGMENTS | ipv4::OFFSET)));
            block.push(load(BPF_W, PACKET, ipv4::DESTINATION));
            block
        }
        IpVersion::V6 => {
            let mut block = vec![load(BPF_B, PACKET, ipv6::NEXT_HEADER)];
            block.extend(refuse_unless(u32::from(protocol::ESP)));
            for (word, at) in (0..WORDS).zip((ipv6::DESTINATION..).step_by(WORD)) {
                block.extend([load(BPF_W, PACKET, at), step(BPF_ST, u32::from(word))]);
            }
            block
        }
    };
    let tests: Vec<Vec<SockFilter>> =
        groups.iter().filter(|ip| IpVersion::of(**ip) == version).map(|ip| is(*ip)).collect();
    // Behind each test stands a jump that leaves the rest of them out, and the refusal behind them.
    let mut rest: usize = tests.iter().map(|test| test.len() + 1).sum();
    for test in tests {
        rest -= test.len() + 1;
        block.extend(test);
        block.push(step(BPF_JMP | BPF_JA, u32::try_from(rest).unwrap_or(u32::MAX) + 1));
    }
    block.push(step(REFUSE.0, REFUSE.1));
    block.extend(share.condition(version, PACKET));
    block.push(step(TAKE.0, TAKE.1));
    block
}

/// Goes on if the destination is this, otherwise leaves out the next instruction behind it. That of IPv4 is loaded
/// already, that of IPv6 lies in memory; there is a limit to how long a filter can be, and loading from the packet is
/// long.
fn is(address: IpAddr) -> Vec<SockFilter> {
    match address {
        IpAddr::V4(ip) => vec![jump(BPF_JEQ, ip.to_bits(), 0, 1)],
        IpAddr::V6(ip) => {
            let octets = ip.octets();
            // Groups mostly differ in the last word.
            let words = (0..WORDS).zip(octets.as_chunks::<WORD>().0).rev();
            let compare = |(at, word): (u8, &[u8; WORD])| {
                let load = step(BPF_LD | BPF_MEM, u32::from(at));
                // Those words are still to come that stand before it.
                [load, jump(BPF_JEQ, u32::from_be_bytes(*word), 0, 2 * at + 1)]
            };
            words.flat_map(compare).collect()
        }
    }
}

fn refuse_if(comparison: u32, operand: u32) -> [SockFilter; 2] {
    [jump(comparison, operand, 0, 1), step(REFUSE.0, REFUSE.1)]
}

fn refuse_unless(operand: u32) -> [SockFilter; 2] {
    [jump(BPF_JEQ, operand, 1, 0), step(REFUSE.0, REFUSE.1)]
}

/// Something that the kernel knows of the packet.
fn about(what: i32, size: u32) -> SockFilter {
    step(BPF_LD | size | BPF_ABS, (SKF_AD_OFF + what).cast_unsigned())
}

fn length(block: &[SockFilter]) -> u32 {
    u32::try_from(block.len()).unwrap_or(u32::MAX)
}
