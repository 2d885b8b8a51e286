//! What a packet socket lets through, as a program of the kernel's classic packet filter.

use std::collections::BTreeSet;
use std::net::IpAddr;

use nix::libc::{
    BPF_ABS, BPF_B, BPF_H, BPF_JA, BPF_JEQ, BPF_JGT, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W, ETH_P_IP,
    ETH_P_IPV6, PACKET_MULTICAST, SKF_AD_OFF, SKF_AD_PKTTYPE, SKF_AD_PROTOCOL, SKF_AD_VLAN_TAG_PRESENT, SKF_NET_OFF,
};
use socket2::SockFilter;

use super::super::share::{Share, jump, step};
use crate::packet::{IpVersion, ipv4, ipv6, protocol};

const REFUSE: (u32, u32) = (BPF_RET | BPF_K, 0);
const TAKE: (u32, u32) = (BPF_RET | BPF_K, u32::MAX);
/// Octets of a word.
const WORD: usize = 4;

/// Lets nothing through.
pub(in crate::engine::userspace) fn refuse() -> [SockFilter; 1] {
    [step(REFUSE.0, REFUSE.1)]
}

/// Lets through what a share has of the unfragmented ESP packets to `groups`. Nothing that a card in promiscuous mode overhears, that this
/// host sends itself, or that belongs to a VLAN.
pub(super) fn of_groups(groups: &BTreeSet<IpAddr>, share: Share) -> Vec<SockFilter> {
    let mut program = vec![about(SKF_AD_PKTTYPE, BPF_B)];
    program.extend(refuse_if(BPF_JGT, u32::from(PACKET_MULTICAST)));
    program.push(about(SKF_AD_VLAN_TAG_PRESENT, BPF_B));
    program.extend(refuse_unless(0));
    program.push(about(SKF_AD_PROTOCOL, BPF_H));
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
    let (mut block, destination) = match version {
        IpVersion::V4 => {
            let mut block = vec![load(BPF_B, ipv4::PROTOCOL)];
            block.extend(refuse_unless(u32::from(protocol::ESP)));
            block.push(load(BPF_H, ipv4::FLAGS));
            block.extend(refuse_if(BPF_JSET, u32::from(ipv4::MORE_FRAGMENTS | ipv4::OFFSET)));
            (block, ipv4::DESTINATION)
        }
        IpVersion::V6 => {
            let mut block = vec![load(BPF_B, ipv6::NEXT_HEADER)];
            block.extend(refuse_unless(u32::from(protocol::ESP)));
            (block, ipv6::DESTINATION)
        }
    };
    let tests: Vec<Vec<SockFilter>> =
        groups.iter().filter(|ip| IpVersion::of(**ip) == version).map(|ip| is(destination, *ip)).collect();
    // Behind each test stands a jump that leaves the rest of them out, and the refusal behind them.
    let mut rest: usize = tests.iter().map(|test| test.len() + 1).sum();
    for test in tests {
        rest -= test.len() + 1;
        block.extend(test);
        block.push(step(BPF_JMP | BPF_JA, u32::try_from(rest).unwrap_or(u32::MAX) + 1));
    }
    block.push(step(REFUSE.0, REFUSE.1));
    block.extend(share.condition(version));
    block.push(step(TAKE.0, TAKE.1));
    block
}

/// Goes on if the address is this, otherwise leaves out the next instruction behind it.
fn is(place: usize, address: IpAddr) -> Vec<SockFilter> {
    let octets = match address {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let words = octets.as_chunks::<WORD>().0;
    let mut test = Vec::new();
    for (at, word) in words.iter().enumerate() {
        let behind = u8::try_from(2 * (words.len() - at - 1) + 1).unwrap_or(u8::MAX);
        test.push(load(BPF_W, place + WORD * at));
        test.push(jump(BPF_JEQ, u32::from_be_bytes(*word), 0, behind));
    }
    test
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

/// Something that stands in the IP header.
fn load(size: u32, at: usize) -> SockFilter {
    step(BPF_LD | size | BPF_ABS, SKF_NET_OFF.cast_unsigned() + u32::try_from(at).unwrap_or(u32::MAX))
}

fn length(block: &[SockFilter]) -> u32 {
    u32::try_from(block.len()).unwrap_or(u32::MAX)
}
