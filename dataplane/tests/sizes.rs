//! Packets that the link does not take, and how protected ones look: whole ways on a link of a given MTU.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::net::Ipv6Addr;
use std::num::NonZeroU16;
use std::time::Duration;

use dataplane::packet::{Headers, protocol};
use dataplane::{
    DontFragment, DropReason, FlowPadding, Fragment, Frame, LocalPolicy, Outlet, Oversize, Rule, RuleAction, Sizes, Way,
};
use keyferry_crypto::Integrity;
use keyferry_model::policy::{EspMode, EspTransform, Selector, TrafficPolicy};
use proptest::prelude::*;
use support::*;

const GROUPS: [&str; 2] = ["239.192.0.1", "ff15::1"];
const MTU: usize = 1_400;

/// What left, and what the host was told.
#[derive(Default)]
struct Seen {
    network: Vec<Vec<u8>>,
    host: Vec<Vec<u8>>,
}

impl Outlet for Seen {
    fn network(&mut self, burst: &[Frame]) {
        self.network.extend(burst.iter().map(|frame| frame.packet().to_vec()));
    }

    fn host(&mut self, packet: &[u8]) {
        self.host.push(packet.to_vec());
    }

    fn own_address(&mut self) -> Option<Ipv6Addr> {
        "fd00::99".parse().ok()
    }
}

/// A member with one SA behind a link.
struct Sender {
    member: Member,
    oversize: Oversize,
}

impl Sender {
    fn new(policy: &TrafficPolicy, sizes: Sizes, mtu: usize) -> Self {
        let mut member = Member::new(1);
        member.sad.set_sizes(sizes);
        member.sad.set_identification(0x0001_0203);
        member.sad.apply(registration(vec![new_sa(0x1001, policy, 7)], ids(&[1])), at(0)).unwrap();
        member.sad.snapshot().set_link_mtu(u32::try_from(mtu).unwrap());
        Self { member, oversize: Oversize::default() }
    }

    /// What an engine does with a packet.
    fn send(&mut self, packet: &[u8], now: u64) -> Seen {
        let mut seen = Seen::default();
        // Longer than the packet, and with something of an earlier one in it.
        let mut frame = Frame::new(10_000.max(packet.len()));
        frame.space().fill(0xee);
        frame.space()[..packet.len()].copy_from_slice(packet);
        frame.filled(packet.len());
        let snapshot = self.member.sad.snapshot();
        match snapshot.seal(&mut frame, &mut self.member.ivs) {
            Ok(_) => seen.network(std::slice::from_ref(&frame)),
            Err(DropReason::OutTooBig | DropReason::OutFragment) => {
                assert_eq!(frame.packet(), packet, "it is left as it was");
                let now = Duration::from_millis(now);
                self.oversize.relieve(&snapshot, &mut frame, &mut self.member.ivs, now, &mut seen);
            }
            Err(_) => {}
        }
        seen
    }

    fn too_big(&self) -> u64 {
        self.member.drops(DropReason::OutTooBig)
    }
}

fn sizes(fragment: Fragment, dont_fragment: DontFragment) -> Sizes {
    Sizes { fragment, dont_fragment, ..Sizes::default() }
}

/// A UDP packet of a given size, whose sender allows fragments if the IP version knows that.
fn packet(group: &str, len: usize) -> Vec<u8> {
    let header = if group == GROUPS[0] { 28 } else { 48 };
    let mut packet = udp(1, group, &(0..len - header).map(|n| n.to_le_bytes()[0]).collect::<Vec<_>>());
    if group == GROUPS[0] {
        packet[6] = 0;
        finish4(&mut packet);
    }
    packet
}

fn with_df(mut packet: Vec<u8>) -> Vec<u8> {
    packet[6] |= 0x40;
    finish4(&mut packet);
    packet
}

/// Puts fragments together as the network around a receiver does, if they are any.
fn together(seen: &[Vec<u8>], group: &str) -> Vec<u8> {
    match (seen, group == GROUPS[0]) {
        ([one], _) => one.clone(),
        (_, true) => support::reassembly::v4(seen),
        (_, false) => support::reassembly::v6(seen, 40, 6),
    }
}

#[test]
fn the_largest_packet_that_fits_fits() {
    for transform in transforms() {
        for mode in MODES {
            for group in GROUPS {
                let policy = policy(transform, mode, group);
                let mut sender = Sender::new(&policy, sizes(Fragment::Never, DontFragment::Copy), MTU);
                let fits = |len: &usize| sender.send(&packet(group, *len), 0).network.iter().any(|p| p.len() <= MTU);
                let sent: Vec<usize> = (MTU - 130..=MTU).filter(fits).collect();
                let largest = *sent.last().unwrap();
                assert!(sent.iter().copied().eq(MTU - 130..=largest), "{transform:?} {mode:?} {group}");
                assert_eq!(sender.too_big(), u64::try_from(MTU - largest).unwrap());
                // What a sender is told is just that.
                if group == GROUPS[1] {
                    let told = sender.send(&packet(group, 1_401), 10_000).host;
                    assert_eq!(u32::from_be_bytes(told[0][44..48].try_into().unwrap()) as usize, largest.max(1_280));
                }
            }
        }
    }
}

#[test]
fn before_each_fragment_is_protected_for_itself() {
    let policy = policy(GCM, EspMode::Tunnel, GROUPS[0]);
    let bob = Member::with(0x1001, &policy, 2);
    for df in [DontFragment::Copy, DontFragment::Clear, DontFragment::Set] {
        let mut sender = Sender::new(&policy, sizes(Fragment::Before, df), MTU);
        let plain = packet(GROUPS[0], 5_000);
        let seen = sender.send(&plain, 0);
        assert_eq!(seen.network.len(), 4);
        for sealed in &seen.network {
            assert!(sealed.len() <= MTU);
            assert_eq!(sealed[6..8], [if df == DontFragment::Set { 0x40 } else { 0 }, 0], "no fragments outside");
        }
        let opened: Vec<_> = seen.network.iter().map(|sealed| bob.open(sealed).unwrap()).collect();
        assert_eq!(support::reassembly::v4(&opened), plain);
        assert_eq!((sender.too_big(), sender.member.sad.status().sas[0].packets_sealed), (0, 4));
    }
}

#[test]
fn after_the_protected_packet_is_cut_up() {
    for (mode, group) in [(EspMode::Tunnel, 0), (EspMode::Tunnel, 1), (EspMode::Transport, 0), (EspMode::Transport, 1)]
    {
        let policy = policy(CBC, mode, GROUPS[group]);
        let bob = Member::with(0x1001, &policy, 2);
        let mut sender = Sender::new(&policy, sizes(Fragment::After, DontFragment::Copy), MTU);
        for (len, pieces) in [(1_390, 2), (3_000, 3), (9_000, 7)] {
            let plain = packet(GROUPS[group], len);
            let seen = sender.send(&plain, 0);
            assert_eq!(seen.network.len(), pieces, "{mode:?} {len}");
            assert!(seen.network.iter().all(|piece| piece.len() <= MTU));
            for piece in &seen.network {
                assert_eq!(bob.open(piece), Err(DropReason::InHdrError), "no fragment is opened by itself");
            }
            let opened = bob.open(&together(&seen.network, GROUPS[group])).unwrap();
            if mode == EspMode::Tunnel {
                assert_eq!(opened, plain);
            } else {
                assert_eq!(opened[20..], plain[20..]);
            }
        }
        assert_eq!((sender.too_big(), sender.member.sad.status().sas[0].packets_sealed), (0, 3));
        // Longer than any packet can be.
        assert!(sender.send(&packet(GROUPS[0], 65_530), 0).network.is_empty());
        assert_eq!(sender.member.drops(DropReason::OutBundleGenError), if group == 0 { 1 } else { 0 });
    }
}

#[test]
fn fragments_of_different_packets_are_told_apart() {
    let policy = policy(GCM, EspMode::Tunnel, GROUPS[0]);
    let mut sender = Sender::new(&policy, sizes(Fragment::After, DontFragment::Clear), MTU);
    let identified = |seen: Seen| u16::from_be_bytes([seen.network[0][4], seen.network[0][5]]);
    let used: Vec<u16> = (0..3).map(|_| identified(sender.send(&packet(GROUPS[0], 1_400), 0))).collect();
    assert_eq!(used, [0x0205, 0x0206, 0x0207]);
}

#[test]
fn transport_mode_and_ports_leave_only_what_comes_after() {
    let transport = policy(GCM, EspMode::Transport, GROUPS[0]);
    let mut by_port = policy(GCM, EspMode::Tunnel, GROUPS[0]);
    (by_port.destination.protocol, by_port.destination.port) = (17, 5_001);
    for policy in [transport, by_port] {
        let bob = Member::with(0x1001, &policy, 2);
        let mut sender = Sender::new(&policy, Sizes::default(), MTU);
        let plain = packet(GROUPS[0], 3_000);
        let seen = sender.send(&plain, 0);
        assert_eq!(seen.network.len(), 3);
        assert!(seen.network.iter().all(|piece| piece[9] == protocol::ESP && Headers::parse(piece).unwrap().fragment));
        assert_eq!(bob.open(&together(&seen.network, GROUPS[0])).unwrap()[20..], plain[20..]);
    }
}

/// Ports that only the first fragment shows decide about the whole packet, so no rule is asked about its parts.
#[test]
fn fragments_of_what_the_group_protects_are_protected_whatever_rules_say_of_packets_without_ports() {
    let group = GROUPS[0];
    let policy = policy(GCM, EspMode::Tunnel, group);
    let mut sender = Sender::new(&policy, sizes(Fragment::Before, DontFragment::Copy), MTU);
    let whole = packet(group, 4_000);
    let (_, port) = Headers::parse(&whole).unwrap().ports.unwrap();
    let to = |protocol, port| Selector { protocol, port, ..side(group, 32) };
    let rule = |destination, action| Rule { source: side("0.0.0.0", 0), destination, action, way: Way::Both };
    let yields = rule(to(17, port), RuleAction::Bypass);
    let unprotects = rule(to(0, 0), RuleAction::BypassProtected);
    sender.member.sad.set_local_policy(LocalPolicy { rules: vec![yields, unprotects], ..LocalPolicy::default() });
    sender.member.sad.snapshot().set_link_mtu(u32::try_from(MTU).unwrap());
    let seen = sender.send(&whole, 0);
    assert!(seen.network.len() > 2 && seen.network.iter().all(|packet| packet[9] == protocol::ESP));
}

#[test]
fn who_forbids_fragments_is_obeyed_or_told() {
    let policy = policy(GCM, EspMode::Tunnel, "198.51.100.7");
    let group = self::policy(GCM, EspMode::Tunnel, GROUPS[0]);
    for fragment in [Fragment::Before, Fragment::After, Fragment::Never] {
        for df in [DontFragment::Copy, DontFragment::Set] {
            let mut sender = Sender::new(&policy, sizes(fragment, df), MTU);
            let mut plain = with_df(packet(GROUPS[0], 1_400));
            plain[16..20].copy_from_slice(&[198, 51, 100, 7]);
            finish4(&mut plain);
            let seen = sender.send(&plain, 0);
            assert_eq!((seen.network.len(), seen.host.len(), sender.too_big()), (0, 1, 1));
            let told = &seen.host[0];
            // 20 of outer header, 16 of ESP and IV, 16 of ICV, a trailer of 2 in a multiple of 4.
            assert_eq!((&told[20..22], &told[26..28]), (&[3, 4][..], &1_346u16.to_be_bytes()[..]));
            assert_eq!(told[12..20], [192, 0, 0, 8, 10, 0, 0, 1]);
            // One of that size goes through.
            plain.truncate(1_346);
            finish4(&mut plain);
            assert_eq!(sender.send(&plain, 0).network.len(), 1);
            // About a packet to an IPv4 group nobody may be told.
            let mut sender = Sender::new(&group, sizes(fragment, df), MTU);
            let seen = sender.send(&with_df(packet(GROUPS[0], 1_400)), 0);
            assert_eq!((seen.network.len(), seen.host.len(), sender.too_big()), (0, 0, 1));
        }
    }
}

#[test]
fn df_does_not_count_where_it_is_cleared() {
    let policy = policy(GCM, EspMode::Tunnel, GROUPS[0]);
    let bob = Member::with(0x1001, &policy, 2);
    let plain = with_df(packet(GROUPS[0], 1_400));
    let mut before = Sender::new(&policy, sizes(Fragment::Before, DontFragment::Clear), MTU);
    let seen = before.send(&plain, 0);
    let opened: Vec<_> = seen.network.iter().map(|sealed| bob.open(sealed).unwrap()).collect();
    assert_eq!(support::reassembly::v4(&opened)[20..], plain[20..]);
    let mut after = Sender::new(&policy, sizes(Fragment::After, DontFragment::Clear), MTU);
    let seen = after.send(&plain, 0);
    assert_eq!(seen.network.len(), 2);
    assert_eq!(bob.open(&together(&seen.network, GROUPS[0])).unwrap(), plain);
    // In transport mode there is no other DF than the packet's own.
    let transport = self::policy(GCM, EspMode::Transport, GROUPS[0]);
    let mut sender = Sender::new(&transport, sizes(Fragment::After, DontFragment::Clear), MTU);
    assert!(sender.send(&plain, 0).network.is_empty());
}

/// RFC 4301 section 8.1: copied, cleared, set.
#[test]
fn the_outer_df_bit_is_what_is_configured() {
    let policy = policy(GCM, EspMode::Tunnel, GROUPS[0]);
    for (df, without, with) in
        [(DontFragment::Copy, 0, 0x40), (DontFragment::Clear, 0, 0), (DontFragment::Set, 0x40, 0x40)]
    {
        let mut sender = Sender::new(&policy, sizes(Fragment::Before, df), MTU);
        let plain = packet(GROUPS[0], 100);
        let mut outer = |plain: &[u8]| sender.send(plain, 0).network[0][6];
        assert_eq!((outer(&plain), outer(&with_df(plain.clone()))), (without, with), "{df:?}");
    }
}

#[test]
fn what_must_not_be_fragmented_is_dropped() {
    let policy = policy(GCM, EspMode::Tunnel, GROUPS[0]);
    for sizes in [sizes(Fragment::Never, DontFragment::Copy), sizes(Fragment::After, DontFragment::Set)] {
        let mut sender = Sender::new(&policy, sizes, MTU);
        let seen = sender.send(&packet(GROUPS[0], 1_400), 0);
        assert_eq!((seen.network.len(), seen.host.len(), sender.too_big()), (0, 0, 1));
    }
}

#[test]
fn senders_of_ipv6_are_told_and_small_packets_go_through_all_the_same() {
    for mode in MODES {
        let policy = policy(GCM, mode, GROUPS[1]);
        let mut sender = Sender::new(&policy, Sizes::default(), MTU);
        let seen = sender.send(&packet(GROUPS[1], 1_400), 0);
        assert_eq!((seen.network.len(), seen.host.len(), sender.too_big()), (0, 1, 1));
        assert_eq!(seen.host[0][40], 2);
        // On a link that takes less than 1,280 octets and the overhead.
        let bob = Member::with(0x1001, &policy, 2);
        let mut sender = Sender::new(&policy, Sizes::default(), 1_300);
        let plain = packet(GROUPS[1], 1_280);
        let seen = sender.send(&plain, 0);
        assert_eq!((seen.network.len(), sender.too_big()), (2, 0));
        assert_eq!(bob.open(&together(&seen.network, GROUPS[1])).unwrap(), plain);
        let seen = sender.send(&packet(GROUPS[1], 1_281), 0);
        assert_eq!((seen.network.len(), &seen.host[0][44..48]), (0, &1_280u32.to_be_bytes()[..]));
    }
}

#[test]
fn messages_are_limited_and_drops_are_counted_all_the_same() {
    let policy = policy(GCM, EspMode::Tunnel, GROUPS[1]);
    let mut sender = Sender::new(&policy, Sizes::default(), MTU);
    let told = (0..1_000).filter(|_| !sender.send(&packet(GROUPS[1], 1_400), 5_000).host.is_empty()).count();
    assert_eq!((told, sender.too_big()), (50, 1_000));
    assert_eq!(sender.send(&packet(GROUPS[1], 1_400), 6_000).host.len(), 1);
}

/// A fragment behind the first shows no ports: it goes by lines that do not look at them, and by no others, outbound and
/// inbound (RFC 4301 sections 7.1 and 7.3).
#[test]
fn later_fragments_match_only_selectors_without_ports() {
    let open = policy(GCM, EspMode::Tunnel, GROUPS[0]);
    let mut by_protocol = open.clone();
    by_protocol.destination.protocol = 17;
    let mut by_port = by_protocol.clone();
    by_port.destination.port = 5_001;
    let mut alice = Member::with(0x1001, &open, 1);
    let (by_protocol, mut by_port) = (Member::with(0x1001, &by_protocol, 2), Member::with(0x1001, &by_port, 3));
    for (word, expected) in [(0x2000u16, Ok(())), (0x2007, Err(())), (0x0007, Err(()))] {
        let mut fragment = packet(GROUPS[0], 100);
        fragment[6..8].copy_from_slice(&word.to_be_bytes());
        finish4(&mut fragment);
        let sealed = alice.seal(&fragment).unwrap();
        assert_eq!(by_protocol.open(&sealed).unwrap(), fragment);
        assert_eq!(by_port.open(&sealed).map(|_| ()).map_err(|_| ()), expected, "{word:#x}");
        assert_eq!(by_port.seal(&fragment).map(|_| ()).map_err(|_| ()), expected, "{word:#x}");
    }
    assert_eq!((by_port.drops(DropReason::InStateMismatch), by_port.drops(DropReason::OutNoPols)), (2, 2));
}

/// Where only whole packets can be protected, the fragments that the host makes are put together first.
#[test]
fn transport_mode_puts_fragments_together_before() {
    for group in GROUPS {
        let (tunnel, transport) = (policy(CBC, EspMode::Tunnel, group), policy(GCM, EspMode::Transport, group));
        let bob = Member::with(0x1001, &transport, 2);
        let plain = packet(group, 4_000);
        let fragments = fragments_of(&plain, &tunnel);
        assert!(fragments.len() > 2);
        for (fragment, mtu, sent) in [
            (Fragment::Before, MTU, 3),
            (Fragment::After, MTU, 3),
            (Fragment::Before, 9_000, 1),
            (Fragment::Never, 9_000, 1),
            (Fragment::Never, MTU, 0),
        ] {
            let mut sender = Sender::new(&transport, sizes(fragment, DontFragment::Copy), mtu);
            let wire: Vec<_> = fragments.iter().rev().flat_map(|part| sender.send(part, 0).network).collect();
            assert_eq!((wire.len(), sender.too_big()), (sent, u64::from(sent == 0)), "{group} {fragment:?} {mtu}");
            assert_eq!(sender.member.drops(DropReason::OutFragment), 0);
            if sent > 0 {
                let opened = bob.open(&together(&wire, group)).unwrap();
                assert_eq!(opened[20..], plain[20..], "{group} {fragment:?} {mtu}");
            }
        }
        // If one is missing the others are lost, which is counted when the next comes.
        let mut sender = Sender::new(&transport, Sizes::default(), MTU);
        for part in &fragments[1..] {
            assert!(sender.send(part, 0).network.is_empty());
        }
        assert_eq!(sender.member.drops(DropReason::OutFragment), 0);
        assert!(sender.send(&fragments[0], 6_000).network.is_empty());
        assert_eq!(sender.member.drops(DropReason::OutFragment), fragments.len() as u64 - 1);
    }
}

/// Plain fragments of a packet, as a sender with a narrower link makes them.
fn fragments_of(plain: &[u8], tunnel: &TrafficPolicy) -> Vec<Vec<u8>> {
    if plain[0] >> 4 == 4 {
        let bob = Member::with(0x1001, tunnel, 2);
        let mut sender = Sender::new(tunnel, sizes(Fragment::Before, DontFragment::Copy), 1_300);
        return sender.send(plain, 0).network.iter().map(|sealed| bob.open(sealed).unwrap()).collect();
    }
    let (header, payload) = plain.split_at(40);
    let last = payload.len().div_ceil(1_200) - 1;
    let part = |(number, body): (usize, &[u8])| {
        let mut packet = header.to_vec();
        let word = u16::try_from(number * 1_200).unwrap() | u16::from(number != last);
        packet.extend([17, 0, word.to_be_bytes()[0], word.to_be_bytes()[1], 0, 0, 0, 7]);
        packet.extend(body);
        packet[6] = 44;
        let len = u16::try_from(packet.len() - 40).unwrap();
        packet[4..6].copy_from_slice(&len.to_be_bytes());
        packet
    };
    payload.chunks(1_200).enumerate().map(part).collect()
}

fn padded(padding: FlowPadding) -> Sizes {
    Sizes { padding, ..Sizes::default() }
}

fn step(step: u16) -> FlowPadding {
    FlowPadding::Step(NonZeroU16::new(step).unwrap())
}

#[test]
fn padded_packets_have_few_lengths_and_open_as_they_were() {
    for transform in transforms() {
        for group in GROUPS {
            let policy = policy(transform, EspMode::Tunnel, group);
            let bob = Member::with(0x1001, &policy, 2);
            for (padding, most) in [
                (FlowPadding::Mtu, 1),
                (step(256), 6),
                (FlowPadding::Lengths([200, 600, 1_000].into()), 4),
                (FlowPadding::Lengths([2_000].into()), 1),
            ] {
                let mut sender = Sender::new(&policy, padded(padding.clone()), MTU);
                let mut lengths = BTreeSet::new();
                for len in (48..1_270).step_by(13) {
                    let plain = packet(group, len);
                    let sealed = sender.send(&plain, 0).network.remove(0);
                    assert_eq!(bob.open(&sealed).unwrap(), plain, "{transform:?} {padding:?} {len}");
                    lengths.insert(sealed.len());
                }
                assert!(lengths.len() <= most, "{transform:?} {padding:?}: {lengths:?}");
                // As near to what was wanted as whole blocks are.
                let wanted = match &padding {
                    FlowPadding::Step(_) => vec![256, 512, 768, 1_024, 1_280, MTU],
                    FlowPadding::Lengths(some) => {
                        some.iter().map(|n| usize::from(*n)).chain([MTU]).map(|n| n.min(MTU)).collect()
                    }
                    FlowPadding::Mtu | FlowPadding::None => vec![MTU],
                };
                let is_near = |len: &usize| wanted.iter().any(|wanted| len <= wanted && wanted - len < 16);
                assert!(lengths.iter().all(is_near), "{transform:?} {padding:?}: {lengths:?}");
            }
        }
    }
}

/// What is behind the packet inside is zeros, and not what the frame held before.
#[test]
fn padding_shows_nothing_of_other_packets() {
    let clear = EspTransform::NullHmac(Integrity::HmacSha256_128);
    for mode in MODES {
        let policy = policy(clear, mode, GROUPS[0]);
        let mut sender = Sender::new(&policy, padded(FlowPadding::Mtu), MTU);
        let mut plain = udp(1, GROUPS[0], &[1; 100]);
        plain[6] = 0;
        finish4(&mut plain);
        let sealed = sender.send(&plain, 0).network.remove(0);
        assert!(sealed.len() > MTU - 4);
        let behind = 20 + 8 + if mode == EspMode::Tunnel { plain.len() } else { plain.len() - 20 };
        let end = sealed.len() - 16;
        assert!(sealed[behind..end - 2].iter().all(|octet| *octet == 0));
        assert_eq!(sealed[end - 2..end], [0, if mode == EspMode::Tunnel { 4 } else { 17 }]);
    }
}

#[test]
fn in_transport_mode_only_whole_datagrams_are_padded() {
    for group in GROUPS {
        let policy = policy(GCM, EspMode::Transport, group);
        let bob = Member::with(0x1001, &policy, 2);
        let mut sender = Sender::new(&policy, padded(FlowPadding::Mtu), MTU);
        let (at, named_at) = if group == GROUPS[0] { (20, 9) } else { (40, 6) };
        let mut sealed_len = |plain: &[u8]| {
            let sealed = sender.send(plain, 0).network.remove(0);
            let opened = bob.open(&sealed).unwrap();
            assert_eq!(opened, plain);
            sealed.len()
        };
        let plain = packet(group, 200);
        assert!(sealed_len(&plain) > MTU - 4);
        // Datagrams that leave something behind them, or of other protocols.
        for (changed, to) in [(at + 5, plain[at + 5] - 1), (at + 5, plain[at + 5] + 1), (named_at, 6)] {
            let mut other = plain.clone();
            other[changed] = to;
            if group == GROUPS[0] {
                finish4(&mut other);
            }
            assert!(sealed_len(&other) < 260);
        }
    }
}

/// Padding does not make a packet too large that is not, nor its fragments.
#[test]
fn padding_ends_at_the_link() {
    let policy = policy(CBC, EspMode::Tunnel, GROUPS[0]);
    let bob = Member::with(0x1001, &policy, 2);
    for fragment in [Fragment::Before, Fragment::After] {
        let sizes = Sizes { fragment, ..padded(step(1_000)) };
        let mut sender = Sender::new(&policy, sizes, MTU);
        for len in [1_300, 1_340, 3_000] {
            let plain = packet(GROUPS[0], len);
            let wire = sender.send(&plain, 0).network;
            assert!(wire.iter().all(|packet| packet.len() <= MTU));
            let whole = if wire.iter().all(|packet| !Headers::parse(packet).unwrap().fragment) {
                let opened: Vec<_> = wire.iter().map(|packet| bob.open(packet).unwrap()).collect();
                together(&opened, GROUPS[0])
            } else {
                bob.open(&together(&wire, GROUPS[0])).unwrap()
            };
            assert_eq!(whole[20..], plain[20..], "{fragment:?} {len}");
        }
        assert_eq!(sender.too_big(), 0);
    }
}

/// IPv6's, too, whose Fragment header says the protocol.
#[test]
fn later_fragments_of_ipv6_match_only_selectors_without_ports() {
    let open = policy(GCM, EspMode::Tunnel, GROUPS[1]);
    let mut by_protocol = open.clone();
    by_protocol.destination.protocol = 17;
    let mut by_port = by_protocol.clone();
    by_port.destination.port = 5_001;
    let mut alice = Member::with(0x1001, &open, 1);
    let (by_protocol, by_port) = (Member::with(0x1001, &by_protocol, 2), Member::with(0x1001, &by_port, 3));
    for (word, expected) in [(0x0001u16, Ok(())), (0x0039, Err(DropReason::InStateMismatch))] {
        let mut fragment = packet(GROUPS[1], 200);
        fragment.splice(40..40, [17, 0, word.to_be_bytes()[0], word.to_be_bytes()[1], 0, 0, 0, 7]);
        fragment[5] += 8;
        fragment[6] = 44;
        let sealed = alice.seal(&fragment).unwrap();
        assert_eq!(by_protocol.open(&sealed).unwrap(), fragment);
        assert_eq!(by_port.open(&sealed).map(|_| ()), expected, "{word:#x}");
    }
}

/// Octets, and packets of which some are changed.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    let changes = proptest::collection::vec((0usize..80, any::<u8>()), 0..6);
    let changed = (0usize..2, 100usize..3_000, changes).prop_map(|(group, len, changes)| {
        let mut packet = packet(GROUPS[group], len);
        changes.into_iter().for_each(|(at, octet)| packet[at] = octet);
        packet
    });
    prop_oneof![1 => proptest::collection::vec(any::<u8>(), 0..100), 4 => changed]
}

proptest! {
    /// Whatever comes out of the TUN device: what goes to the network fits, is ESP or a fragment of it, and no message is about
    /// one that may not be answered.
    #[test]
    fn whatever_comes_nothing_too_large_and_nothing_in_clear_goes_out(
        packets in proptest::collection::vec(noise(), 1..8),
        mtu in 68usize..1_500,
        fragment in prop_oneof![Just(Fragment::Before), Just(Fragment::After), Just(Fragment::Never)],
        df in prop_oneof![Just(DontFragment::Copy), Just(DontFragment::Clear), Just(DontFragment::Set)],
        group in 0usize..2,
        transport in any::<bool>(),
        pads in any::<bool>(),
    ) {
        let mode = if transport { EspMode::Transport } else { EspMode::Tunnel };
        let padding = if pads { FlowPadding::Mtu } else { FlowPadding::None };
        let sizes = Sizes { padding, ..sizes(fragment, df) };
        let mut sender = Sender::new(&policy(CBC, mode, GROUPS[group]), sizes, mtu);
        for packet in packets {
            let seen = sender.send(&packet, 0);
            for sent in &seen.network {
                prop_assert!(sent.len() <= mtu, "{} of {mtu}", sent.len());
                let headers = Headers::parse(sent).unwrap();
                prop_assert_eq!(headers.upper, protocol::ESP);
                prop_assert_eq!(headers.total, sent.len());
            }
            for told in &seen.host {
                let (told, about) = (Headers::parse(told).unwrap(), Headers::parse(&packet).unwrap());
                prop_assert_eq!((told.destination, told.version), (about.source, about.version));
                prop_assert!(seen.network.is_empty() && about.total > mtu.min(1_280 - 150));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the sizes, the transform and the order of arrival, a packet that may be fragmented arrives whole.
    #[test]
    fn whatever_may_be_fragmented_arrives_whole(
        len in 60usize..12_000,
        mtu in 576usize..2_000,
        after in any::<bool>(),
        transport in any::<bool>(),
        transform in 0usize..transforms().len(),
        order in any::<u64>(),
    ) {
        let mode = if transport { EspMode::Transport } else { EspMode::Tunnel };
        let policy = policy(transforms()[transform], mode, GROUPS[0]);
        let bob = Member::with(0x1001, &policy, 2);
        let fragment = if after { Fragment::After } else { Fragment::Before };
        let mut sender = Sender::new(&policy, sizes(fragment, DontFragment::Copy), mtu);
        let plain = packet(GROUPS[0], len);
        let mut wire = sender.send(&plain, 0).network;
        prop_assert!(wire.iter().all(|packet| packet.len() <= mtu));
        wire.sort_by_key(|packet| packet.iter().fold(order, |hash, octet| (hash ^ u64::from(*octet)).wrapping_mul(0x0100_0000_01b3)));
        let arrived = if wire.iter().all(|packet| Headers::parse(packet).unwrap().fragment) {
            bob.open(&support::reassembly::v4(&wire)).unwrap()
        } else {
            let opened: Vec<_> = wire.iter().map(|packet| bob.open(packet).unwrap()).collect();
            together(&opened, GROUPS[0])
        };
        prop_assert_eq!(&arrived[20..], &plain[20..]);
        prop_assert_eq!(sender.too_big(), 0);
    }
}
