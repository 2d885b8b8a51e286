//! Messages as `nft` 1.0.6 sends them for
//!
//! ```text
//! table netdev keyferry-early-1-0 {
//!   flags owner
//!   chain early {
//!     type filter hook ingress device "lo" priority 2147483647; policy accept;
//!     ether type ip ip frag-off & 0x3fff == 0 ip protocol 50 ip daddr { 239.192.0.1, 239.192.0.2 } drop
//!     ether type ip6 ip6 nexthdr 50 ip6 daddr { ff02::1:1, ff15::2 } drop
//!   }
//! }
//! ```
//!
//! which strace shows; but for what `nft` keeps with a set for itself, and for what it adds in front of a rule, that the
//! interface is an Ethernet.

use super::*;
use crate::engine::netlink::{Attributes, HEADER, u16_at, u32_at};

const LOAD_TYPE: &str = "340001800c0001007061796c6f61640024000280080001000000000108000200000000000800030000\
    00000c0800040000000002";
const DROPPED: &str =
    "300001800e000100696d6d6564696174650000001c0002800800010000000000100002800c0002800800010000000000";

fn table() -> Table {
    Table::named("keyferry-early-1-0")
}

/// Type and flags of a message, and its attributes but for the first, which is the table's name.
fn read(message: Message) -> ((u16, u16), Vec<(u16, String)>) {
    let octets = message.finish(3);
    assert_eq!(usize::try_from(u32_at(&octets, 0).unwrap()).unwrap(), octets.len());
    assert_eq!((u32_at(&octets, 8), octets.len() % 4), (Some(3), 0));
    assert_eq!(octets[HEADER..HEADER + 4], [5, 0, 0, 0], "NFPROTO_NETDEV, NFNETLINK_V0");
    let mut attributes = Attributes(&octets[HEADER + 4..]).map(|(kind, value)| (kind, hex::encode(value)));
    assert_eq!(attributes.next(), Some((1, hex::encode("keyferry-early-1-0\0"))));
    ((u16_at(&octets, 4).unwrap(), u16_at(&octets, 6).unwrap()), attributes.collect())
}

fn captured(attributes: &[(u16, &str)]) -> Vec<(u16, String)> {
    attributes.iter().map(|(kind, value)| (*kind, (*value).to_owned())).collect()
}

#[test]
fn a_table_has_an_owner() {
    assert_eq!(read(table().make()), ((0x0a00, 0x601), captured(&[(2, "00000002")])));
}

#[test]
fn a_chain_is_the_last_at_ingress() {
    let attributes = captured(&[
        (3, "6561726c7900"),
        (7, "66696c74657200"),
        (5, "00000001"),
        (0x8004, "0800010000000000080002007fffffff070003006c6f0000"),
    ]);
    assert_eq!(read(table().chain("lo")), ((0x0a03, 0x601), attributes));
}

#[test]
fn sets_hold_the_groups() {
    let cases = [
        (
            IpVersion::V4,
            ["239.192.0.1", "239.192.0.2"],
            ["00000007", "00000004", "00000001"],
            "100001800c00018008000100efc00001100001800c00018008000100efc00002",
        ),
        (
            IpVersion::V6,
            ["ff02::1:1", "ff15::2"],
            ["00000008", "00000010", "00000002"],
            "1c0001801800018014000100ff0200000000000000000000000100011c0001801800018014000100ff150000000000000000000000000002",
        ),
    ];
    for (version, groups, [key_type, octets, set], elements) in cases {
        let name = "5f5f736574256400";
        let attributes = captured(&[
            (2, name),
            (3, "00000003"),
            (4, key_type),
            (5, octets),
            (10, set),
            (0x8009, "0800010000000002"),
        ]);
        assert_eq!(read(table().set(version, 2)), ((0x0a09, 0x401), attributes));
        let messages: Vec<_> = table().elements(version, &groups.map(|ip| ip.parse().unwrap())).map(read).collect();
        assert_eq!(messages, [((0x0a0c, 0x401), captured(&[(2, name), (4, set), (0x8003, elements)]))]);
    }
}

#[test]
fn many_groups_take_several_messages() {
    let groups: Vec<IpAddr> = (0..2_500u128).map(|n| IpAddr::V6((n | 0xff15 << 112).into())).collect();
    let lengths: Vec<_> = table()
        .elements(IpVersion::V6, &groups)
        .map(|message| read(message).1.last().map(|(_, elements)| elements.len() / 2))
        .collect();
    assert_eq!(lengths, [Some(1_024 * 28), Some(1_024 * 28), Some(452 * 28)]);
}

#[test]
fn rules_drop_unfragmented_esp_to_groups() {
    let four = "2c00018008000100636d700020000280080001000000000108000200000000000c0003800600010008000000\
        340001800c0001007061796c6f61640024000280080001000000000108000200000000010800030000000006080004000000\
        00024c0001800c00010062697477697365003c00028008000100000000010800020000000001080006000000000008000300\
        000000020c000480060001003fff00000c00058006000100000000002c00018008000100636d700020000280080001000000\
        000108000200000000000c0003800600010000000000340001800c0001007061796c6f616400240002800800010000000001\
        0800020000000001080003000000000908000400000000012c00018008000100636d70002000028008000100000000010800\
        0200000000000c0003800500010032000000340001800c0001007061796c6f61640024000280080001000000000108000200\
        0000000108000300000000100800040000000004300001800b0001006c6f6f6b757000002000028008000200000000010c00\
        01005f5f7365742564000800040000000001";
    let six = "2c00018008000100636d700020000280080001000000000108000200000000000c0003800600010086dd0000\
        340001800c0001007061796c6f61640024000280080001000000000108000200000000010800030000000006080004000000\
        00012c00018008000100636d700020000280080001000000000108000200000000000c000380050001003200000034000180\
        0c0001007061796c6f6164002400028008000100000000010800020000000001080003000000001808000400000000103000\
        01800b0001006c6f6f6b757000002000028008000200000000010c0001005f5f7365742564000800040000000002";
    for (version, rule) in [(IpVersion::V4, four), (IpVersion::V6, six)] {
        let expressions = [LOAD_TYPE, rule, DROPPED].concat();
        let attributes = captured(&[(2, "6561726c7900"), (0x8004, &expressions)]);
        assert_eq!(read(table().rule(version)), ((0x0a06, 0xc01), attributes));
    }
}

#[test]
fn the_last_message_of_a_transaction_is_acknowledged() {
    let messages = transaction(vec![table().forget(), table().rule(IpVersion::V4), table().rule(IpVersion::V6)]);
    let octets: Vec<_> = messages.into_iter().map(|message| message.finish(0)).collect();
    let seen: Vec<_> = octets.iter().map(|octets| (u16_at(octets, 4).unwrap(), u16_at(octets, 6).unwrap())).collect();
    assert_eq!(seen, [(0x10, 1), (0x0a08, 1), (0x0a06, 0xc01), (0x0a06, 0xc05), (0x11, 1)]);
    for mark in [&octets[0], &octets[4]] {
        assert_eq!((mark.len(), &mark[HEADER..]), (20, &[0, 0, 0, 10][..]));
    }
}
