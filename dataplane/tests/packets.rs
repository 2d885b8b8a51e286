//! Single packets: round trips, headers, damage.
#![allow(clippy::unwrap_used)]

mod support;

use dataplane::{DropReason, Frame};
use keyferry_model::policy::{AddressPreservation, EspMode, EspTransform, SaDirection, SequenceNumbers, TrafficPolicy};
use keyferry_model::tunnel::Tunnel;
use keyferry_model::update::{NewSa, Removal, SenderIds};
use proptest::prelude::*;
use support::*;

const GROUPS: [&str; 2] = ["239.192.0.1", "ff15::1"];

#[test]
fn every_transform_mode_and_version_round_trips() {
    for transform in transforms() {
        for mode in MODES {
            for group in GROUPS {
                let policy = policy(transform, mode, group);
                let (mut alice, bob) = (Member::with(0x1001, &policy, 1), Member::with(0x1001, &policy, 2));
                for len in (0..40).chain([255, 1400, 9000]) {
                    let plain = udp(1, group, &vec![0x5a; len]);
                    let sealed = alice.seal(&plain).unwrap();
                    assert_ne!(sealed, plain);
                    assert_eq!(bob.open(&sealed).unwrap(), plain, "{transform:?} {mode:?} {group} {len}");
                    // Authentication alone leaves packets readable.
                    let readable = len >= 16 && matches!(transform, EspTransform::Gmac(_) | EspTransform::NullHmac(_));
                    assert_eq!(
                        sealed.windows(16).any(|w| w == [0x5a; 16]),
                        readable,
                        "{transform:?}: clear text inside"
                    );
                }
                let status = serde_json::to_value(bob.sad.status()).unwrap();
                assert_eq!(
                    (&status["sas"][0]["spi"], &status["sas"][0]["packets_opened"]),
                    (&"0x00001001".into(), &43.into())
                );
            }
        }
    }
}

#[test]
fn the_largest_packets_fit_or_are_counted() {
    for mode in MODES {
        let policy = policy(GCM, mode, GROUPS[0]);
        let (mut alice, bob) = (Member::with(0x1001, &policy, 1), Member::with(0x1001, &policy, 2));
        let fits = udp(1, GROUPS[0], &vec![1; 65_535 - 28 - 20 - 8 - 8 - 5 - 16]);
        assert_eq!(bob.open(&alice.seal(&fits).unwrap()).unwrap(), fits);
        let long = udp(1, GROUPS[0], &vec![1; 65_535 - 28]);
        assert_eq!(alice.seal(&long), Err(DropReason::OutBundleGenError));
        assert_eq!(alice.drops(DropReason::OutBundleGenError), 1);
        assert_eq!(alice.sad.status().sas[0].sequence, 1, "a refused packet takes no number");
    }
}

#[test]
fn the_outer_ipv4_header_repeats_the_inner_one() {
    let policy = policy(GCM, EspMode::Tunnel, GROUPS[0]);
    let mut alice = Member::with(0x1001, &policy, 1);
    let mut plain = udp(1, GROUPS[0], &[1, 2, 3]);
    // Four octets of options in front of the UDP header.
    plain.splice(20..20, [0x94, 4, 0, 0]);
    plain[0] = 0x46;
    finish4(&mut plain);
    let sealed = alice.seal(&plain).unwrap();
    assert_eq!(sealed[0], 0x45, "options are not copied");
    assert_eq!((sealed[1], sealed[8], sealed[9]), (0xb8, 17, 50), "DS and ECN, TTL, protocol");
    assert_eq!(sealed[4..8], [0, 0, 0x40, 0], "the kernel gives the ID; DF is copied");
    assert_eq!(sealed[12..20], plain[12..20], "addresses are preserved");
    assert_eq!(dataplane::packet::ipv4::checksum(&sealed[..20]), 0);
    plain[6] = 0;
    finish4(&mut plain);
    assert_eq!(alice.seal(&plain).unwrap()[6], 0, "no DF inside, none outside");
}

#[test]
fn the_outer_ipv6_header_repeats_the_inner_one_but_for_the_flow_label() {
    let policy = policy(GCM, EspMode::Tunnel, GROUPS[1]);
    let mut alice = Member::with(0x1001, &policy, 1);
    let mut plain = udp(1, GROUPS[1], &[1, 2, 3]);
    plain[1..4].copy_from_slice(&[0x8f, 0xee, 0xdd]);
    let sealed = alice.seal(&plain).unwrap();
    assert_eq!(sealed[..4], [0x6b, 0x80, 0, 0]);
    assert_eq!((sealed[6], sealed[7]), (50, 17));
    assert_eq!(sealed[8..40], plain[8..40]);
}

#[test]
fn transport_mode_keeps_options_and_extension_headers_outside() {
    let policy4 = policy(CBC, EspMode::Transport, GROUPS[0]);
    let (mut alice, bob) = (Member::with(0x1001, &policy4, 1), Member::with(0x1001, &policy4, 2));
    let mut plain = udp(1, GROUPS[0], &[1, 2, 3]);
    plain.splice(20..20, [0x94, 4, 0, 0]);
    plain[0] = 0x46;
    finish4(&mut plain);
    let sealed = alice.seal(&plain).unwrap();
    assert_eq!((sealed[0], sealed[9], &sealed[20..24]), (0x46, 50, &plain[20..24]));
    assert_eq!(bob.open(&sealed).unwrap(), plain);

    let policy6 = policy(GCM, EspMode::Transport, GROUPS[1]);
    let (mut alice, bob) = (Member::with(0x1001, &policy6, 1), Member::with(0x1001, &policy6, 2));
    let mut plain = udp(1, GROUPS[1], &[1, 2, 3]);
    // Hop-by-hop options with a router alert, then destination options: the first stays outside, the second goes
    // inside.
    plain.splice(40..40, [60, 0, 5, 2, 0, 0, 1, 0, 17, 0, 1, 4, 0, 0, 0, 0]);
    plain[6] = 0;
    plain[5] += 16;
    let sealed = alice.seal(&plain).unwrap();
    assert_eq!((sealed[6], sealed[40], sealed.len() % 4), (0, 50, 0));
    assert_eq!(bob.open(&sealed).unwrap(), plain);
    // On its way a packet may have gained destination options in front of ESP.
    let mut longer = sealed.clone();
    longer.splice(48..48, [50, 0, 1, 4, 0, 0, 0, 0]);
    longer[40] = 60;
    longer[5] += 8;
    let mut expected = plain.clone();
    expected.splice(48..48, [60, 0, 1, 4, 0, 0, 0, 0]);
    expected[5] += 8;
    assert_eq!(bob.open(&longer).unwrap(), expected);
}

/// The table of RFC 6040 section 4.2: a row for each packet inside, a column for each mark outside; `None` is dropped.
const CONGESTION: [[Option<u8>; 4]; 4] = [
    [Some(0), Some(0), Some(0), None],
    [Some(1), Some(1), Some(1), Some(3)],
    [Some(2), Some(1), Some(2), Some(3)],
    [Some(3), Some(3), Some(3), Some(3)],
];

#[test]
fn congestion_on_the_way_is_told_to_packets_that_understand_it() {
    for (group, shift) in [(GROUPS[0], 0), (GROUPS[1], 4)] {
        let policy = policy(GCM, EspMode::Tunnel, group);
        let (mut alice, bob) = (Member::with(0x1001, &policy, 1), Member::with(0x1001, &policy, 2));
        for (inside, row) in (0u8..).zip(CONGESTION) {
            for (outside, expected) in (0u8..).zip(row) {
                let mut plain = udp(1, group, &[9]);
                plain[1] = plain[1] & !(3 << shift) | inside << shift;
                if group == GROUPS[0] {
                    finish4(&mut plain);
                }
                let mut sealed = alice.seal(&plain).unwrap();
                assert_eq!(sealed[1], plain[1], "DS and ECN are copied");
                sealed[1] = sealed[1] & !(3 << shift) | outside << shift;
                let opened = bob.open(&sealed);
                let Some(expected) = expected else {
                    assert_eq!(opened, Err(DropReason::InCongested));
                    continue;
                };
                plain[1] = plain[1] & !(3 << shift) | expected << shift;
                if group == GROUPS[0] {
                    finish4(&mut plain);
                }
                assert_eq!(opened.unwrap(), plain, "{group}: {inside} inside, {outside} outside");
            }
        }
        assert_eq!(bob.drops(DropReason::InCongested), 1);
    }
}

#[test]
fn every_flipped_bit_is_refused() {
    for transform in [GCM, CBC] {
        for mode in MODES {
            for group in GROUPS {
                let policy = policy(transform, mode, group);
                let (mut alice, bob) = (Member::with(0x1001, &policy, 1), Member::with(0x1001, &policy, 2));
                let sealed = alice.seal(&udp(1, group, b"some payload")).unwrap();
                for bit in esp_at(&sealed) * 8..sealed.len() * 8 {
                    let mut damaged = sealed.clone();
                    damaged[bit / 8] ^= 1 << (bit % 8);
                    let reason = bob.open(&damaged).unwrap_err();
                    assert!(matches!(reason, DropReason::InStateProtoError | DropReason::InNoStates), "{reason:?}");
                }
                for len in 0..sealed.len() {
                    assert!(bob.open(&sealed[..len]).is_err(), "cut to {len}");
                }
                assert!(bob.open(&sealed).is_ok());
                assert_eq!(bob.sad.status().sas[0].packets_opened, 1);
            }
        }
    }
}

#[test]
fn tunnelled_packets_must_bear_the_outer_addresses() {
    let policy = policy(GCM, EspMode::Tunnel, "239.192.0.0");
    let mut wide = policy.clone();
    wide.destination = side("239.192.0.0", 16);
    let (mut alice, bob) = (Member::with(0x1001, &wide, 1), Member::with(0x1001, &wide, 2));
    let sealed = alice.seal(&udp(1, "239.192.0.7", b"x")).unwrap();
    for (at, value) in [(15, 2), (19, 8)] {
        let mut moved = sealed.clone();
        moved[at] = value;
        finish4(&mut moved);
        assert_eq!(bob.open(&moved), Err(DropReason::InStateModeError));
    }
    let mut elsewhere = sealed.clone();
    elsewhere[16] = 238;
    finish4(&mut elsewhere);
    assert_eq!(bob.open(&elsewhere), Err(DropReason::InNoStates));
    assert!(bob.open(&sealed).is_ok());
}

#[test]
fn what_is_inside_must_match_the_selectors() {
    for mode in MODES {
        let open = policy(GCM, mode, GROUPS[0]);
        let mut narrow = open.clone();
        (narrow.source, narrow.destination.protocol, narrow.destination.port) = (side("10.0.0.0", 30), 17, 5001);
        let (mut alice, bob) = (Member::with(0x1001, &open, 1), Member::with(0x1001, &narrow, 2));
        assert!(bob.open(&alice.seal(&udp(1, GROUPS[0], b"x")).unwrap()).is_ok());
        assert_eq!(bob.open(&alice.seal(&udp(9, GROUPS[0], b"x")).unwrap()), Err(DropReason::InStateMismatch));
        let mut other_port = udp(1, GROUPS[0], b"x");
        other_port[23] ^= 1;
        assert_eq!(bob.open(&alice.seal(&other_port).unwrap()), Err(DropReason::InStateMismatch));
        // The same selectors stop it on the way out.
        let mut carol = Member::with(0x1001, &narrow, 3);
        assert_eq!(carol.seal(&other_port), Err(DropReason::OutNoPols));
        assert_eq!(carol.seal(&udp(9, GROUPS[0], b"x")), Err(DropReason::OutNoPols));
        assert!(carol.seal(&udp(1, GROUPS[0], b"x")).is_ok());
    }
}

#[test]
fn fragments_go_through_tunnels_only() {
    let mut fragment = udp(1, GROUPS[0], b"first half");
    fragment[6] = 0x20;
    finish4(&mut fragment);
    let tunnel = policy(GCM, EspMode::Tunnel, GROUPS[0]);
    let (mut alice, bob) = (Member::with(0x1001, &tunnel, 1), Member::with(0x1001, &tunnel, 2));
    let sealed = alice.seal(&fragment).unwrap();
    assert_eq!(sealed[6] & 0x20, 0);
    assert_eq!(bob.open(&sealed).unwrap(), fragment);
    let mut carol = Member::with(0x1001, &policy(GCM, EspMode::Transport, GROUPS[0]), 3);
    assert_eq!(carol.seal(&fragment), Err(DropReason::OutFragment));
    let mut outer_fragment = sealed;
    outer_fragment[6] = 0x20;
    finish4(&mut outer_fragment);
    assert_eq!(bob.open(&outer_fragment), Err(DropReason::InHdrError));
}

#[test]
fn modes_do_not_mix() {
    let (tunnel, transport) = (policy(GCM, EspMode::Tunnel, GROUPS[0]), policy(GCM, EspMode::Transport, GROUPS[0]));
    let (mut alice, bob) = (Member::with(0x1001, &transport, 1), Member::with(0x1001, &tunnel, 2));
    assert_eq!(bob.open(&alice.seal(&udp(1, GROUPS[0], b"x")).unwrap()), Err(DropReason::InStateModeError));
}

#[test]
fn without_a_sender_id_counter_modes_do_not_send() {
    let policy = policy(GCM, EspMode::Tunnel, GROUPS[0]);
    let mut alice = Member::new(1);
    alice.sad.apply(registration(vec![new_sa(0x1001, &policy, 7)], None), at(0)).unwrap();
    assert_eq!(alice.seal(&udp(1, GROUPS[0], b"x")), Err(DropReason::OutNoSenderId));
    // But it receives, and sends once it has one.
    let mut bob = Member::with(0x1001, &policy, 2);
    assert!(alice.open(&bob.seal(&udp(2, GROUPS[0], b"x")).unwrap()).is_ok());
    let mut update = registration(vec![new_sa(0x1001, &policy, 7)], ids(&[9]));
    update.remove = Removal::Spis(vec![]);
    alice.sad.apply(update, at(0)).unwrap();
    let sealed = alice.seal(&udp(1, GROUPS[0], b"x")).unwrap();
    assert_eq!(sealed[28..36], [0, 9, 0, 0, 0, 0, 0, 1]);
    // CBC needs none.
    let mut carol = Member::new(3);
    let cbc = support::policy(CBC, EspMode::Tunnel, GROUPS[0]);
    carol.sad.apply(registration(vec![new_sa(0x1001, &cbc, 7)], None), at(0)).unwrap();
    assert!(carol.seal(&udp(1, GROUPS[0], b"x")).is_ok());
}

#[test]
fn a_receiver_sends_under_no_transform() {
    for transform in [GCM, CBC] {
        let line = policy(transform, EspMode::Tunnel, GROUPS[0]);
        let mut alice = Member::new(1);
        alice.sad = dataplane::Sad::receive_only();
        alice.sad.apply(registration(vec![new_sa(0x1001, &line, 7)], ids(&[9])), at(0)).unwrap();
        assert_eq!(alice.seal(&udp(1, GROUPS[0], b"x")), Err(DropReason::OutNoPols));
        let mut bob = Member::with(0x1001, &line, 2);
        assert!(alice.open(&bob.seal(&udp(2, GROUPS[0], b"x")).unwrap()).is_ok());
    }
}

#[test]
fn sender_ids_stand_left_in_the_iv_in_any_width() {
    for (bits, id, expected) in
        [(8, 0xab, 0xab00_0000_0000_0001u64), (12, 0xabc, 0xabc0_0000_0000_0001), (32, u32::MAX, 0xffff_ffff_0000_0001)]
    {
        let policy = policy(GCM, EspMode::Transport, GROUPS[0]);
        let mut alice = Member::new(1);
        let sender_ids = Some(SenderIds { bits, ids: vec![id] });
        alice.sad.apply(registration(vec![new_sa(0x1001, &policy, 7)], sender_ids), at(0)).unwrap();
        let sealed = alice.seal(&udp(1, GROUPS[0], b"x")).unwrap();
        assert_eq!(sealed[28..36], expected.to_be_bytes());
    }
}

#[test]
fn an_empty_or_foreign_packet_is_counted_by_its_reason() {
    let mut alice = Member::with(0x1001, &policy(GCM, EspMode::Tunnel, GROUPS[0]), 1);
    assert_eq!(alice.seal(&[]), Err(DropReason::OutHdrError));
    assert_eq!(alice.seal(&udp(1, "239.192.0.2", b"x")), Err(DropReason::OutNoPols));
    assert_eq!(alice.open(&udp(1, GROUPS[0], b"x")), Err(DropReason::InHdrError));
    for reason in [DropReason::OutHdrError, DropReason::OutNoPols, DropReason::InHdrError] {
        assert_eq!(alice.drops(reason), 1);
    }
}

proptest! {
    #[test]
    fn no_input_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), shape in 0..6u8) {
        // Some of them look like IP, or like ESP of a known SA.
        if bytes.len() >= 60 {
            let (first, protocol_at, esp_at) = if shape % 2 == 0 { (0x45, 9, 20) } else { (0x60, 6, 40) };
            if shape < 4 {
                bytes[0] = first;
            }
            if shape < 2 {
                bytes[protocol_at] = 50;
                bytes[esp_at..esp_at + 4].copy_from_slice(&[0, 0, 0x10, 1]);
                let len = u16::try_from(bytes.len() - if shape == 0 { 0 } else { 40 }).unwrap();
                let at = if shape == 0 { 2 } else { 4 };
                bytes[at..at + 2].copy_from_slice(&len.to_be_bytes());
                bytes[6 + usize::from(shape)] &= if shape == 0 { 0x40 } else { 0xff };
            }
        }
        for transform in [GCM, CBC] {
            for mode in MODES {
                let mut any = policy(transform, mode, GROUPS[0]);
                any.destination = side("0.0.0.0", 0);
                let mut member = Member::with(0x1001, &any, 1);
                let _ = member.seal(&bytes);
                prop_assert!(member.open(&bytes).is_err());
            }
        }
    }

    #[test]
    fn any_packet_of_the_group_survives_the_way(
        payload in proptest::collection::vec(any::<u8>(), 0..1500),
        host in any::<u8>(), which in 0..8usize,
    ) {
        let (transform, mode, group) = ([GCM, CBC][which & 1], MODES[which >> 1 & 1], GROUPS[which >> 2]);
        let policy = policy(transform, mode, group);
        let (mut alice, bob) = (Member::with(0x1001, &policy, 1), Member::with(0x1001, &policy, 2));
        let plain = udp(host, group, &payload);
        prop_assert_eq!(bob.open(&alice.seal(&plain).unwrap()).unwrap(), plain);
    }
}

#[test]
fn a_frame_without_room_is_a_drop() {
    let policy = policy(CBC, EspMode::Tunnel, GROUPS[1]);
    let mut alice = Member::with(0x1001, &policy, 1);
    let plain = udp(1, GROUPS[1], &[1; 100]);
    let mut frame = Frame::holding(&plain);
    alice.sad.snapshot().seal(&mut frame, &mut alice.ivs).unwrap();
    // Sealing what is sealed needs room that this frame no longer has.
    assert_eq!(alice.sad.snapshot().seal(&mut frame, &mut alice.ivs), Err(DropReason::OutBundleGenError));
}

/// A member of a tunnel with these ends.
fn at_end(local: &str, remote: Option<&str>, policy: &TrafficPolicy, id: u32) -> Member {
    let mut member = Member::new(u64::from(id));
    let remote = remote.map(|r| r.parse().unwrap());
    member.sad.set_tunnel(Tunnel { local: local.parse().ok(), remote });
    member.sad.apply(registration(vec![new_sa(0x1001, policy, 7)], ids(&[id])), at(0)).unwrap();
    member
}

#[test]
fn the_outer_header_bears_what_is_preserved_and_the_tunnels_ends_for_the_rest() {
    let versions =
        [(GROUPS[0], "192.0.2.1", "192.0.2.2", "239.255.0.1"), (GROUPS[1], "fd01::1", "fd01::2", "ff15::fe")];
    for (group, own, other, common) in versions {
        let (from, len, hops) = if group == GROUPS[0] { (12, 4, 8) } else { (8, 16, 7) };
        let octets = |ip: &str| match ip.parse().unwrap() {
            std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
            std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        for preservation in [
            AddressPreservation::None,
            AddressPreservation::Source,
            AddressPreservation::Destination,
            AddressPreservation::Both,
        ] {
            let policy = TrafficPolicy { preservation, ..policy(GCM, EspMode::Tunnel, group) };
            // To an address that all have in common, and from gateway to gateway.
            for (remote, back) in [(common, common), (other, own)] {
                let (mut alice, bob) = (at_end(own, Some(remote), &policy, 1), at_end(other, Some(back), &policy, 2));
                let plain = udp(1, group, &[5; 40]);
                let sealed = alice.seal(&plain).unwrap();
                let source = if preservation.keeps_source() { plain[from..from + len].to_vec() } else { octets(own) };
                let to = if preservation.keeps_destination() { octets(group) } else { octets(remote) };
                assert_eq!(sealed[from..from + 2 * len], [source, to].concat(), "{preservation:?} {group}");
                assert_eq!(sealed[hops], if preservation.keeps_destination() { 17 } else { 64 });
                if group == GROUPS[0] {
                    assert_eq!(dataplane::packet::ipv4::checksum(&sealed[..20]), 0);
                }
                assert_eq!(bob.open(&sealed).unwrap(), plain, "{preservation:?} {group}");
                // A preserved address is the inner one, and what is sent elsewhere is not ours.
                let mut moved = sealed.clone();
                moved[from + len - 1] ^= 0x40;
                let wrong = if preservation.keeps_source() { Err(DropReason::InStateModeError) } else { Ok(plain) };
                assert_eq!(bob.open(&moved), wrong, "{preservation:?} {group}");
                let mut strayed = sealed;
                strayed[from + 2 * len - 1] ^= 0x40;
                assert_eq!(bob.open(&strayed), Err(DropReason::InNoStates), "{preservation:?} {group}");
            }
            let comes_to = bob_joins(&policy, own, common);
            let expected = if preservation.keeps_destination() { group } else { common };
            assert_eq!(comes_to, [expected.parse::<std::net::IpAddr>().unwrap()]);
        }
    }
}

fn bob_joins(policy: &TrafficPolicy, own: &str, common: &str) -> Vec<std::net::IpAddr> {
    at_end(own, Some(common), policy, 2).sad.destinations()
}

#[test]
fn a_tunnel_without_addresses_is_not_installed() {
    for (preservation, local, remote) in [
        (AddressPreservation::None, "192.0.2.1", None),
        (AddressPreservation::Source, "192.0.2.1", Some("ff15::1")),
        (AddressPreservation::Destination, "fd01::1", None),
        (AddressPreservation::Destination, "none", Some("239.255.0.1")),
    ] {
        let policy = TrafficPolicy { preservation, ..policy(GCM, EspMode::Tunnel, GROUPS[0]) };
        let mut member = Member::new(1);
        member.sad.set_tunnel(Tunnel { local: local.parse().ok(), remote: remote.map(|r| r.parse().unwrap()) });
        let refused = member.sad.apply(registration(vec![new_sa(0x1001, &policy, 7)], ids(&[1])), at(0));
        assert!(refused.is_err(), "{preservation:?}");
        assert!(member.sad.status().sas.is_empty());
    }
}

/// An outer source that is not preserved is anybody's to write: another one must not make an old packet new.
#[test]
fn a_replay_from_another_outer_source_is_a_replay() {
    for preservation in [AddressPreservation::Destination, AddressPreservation::None, AddressPreservation::Both] {
        for transform in [GCM, CBC] {
            let mut policy = policy(transform, EspMode::Tunnel, GROUPS[0]);
            (policy.sequence, policy.replay_window) = (SequenceNumbers::Sequential, 64);
            policy.preservation = preservation;
            let mut alice = at_end("192.0.2.1", Some("239.255.0.1"), &policy, 1);
            let bob = at_end("192.0.2.2", Some("239.255.0.1"), &policy, 2);
            let sealed = alice.seal(&udp(1, GROUPS[0], &[9])).unwrap();
            assert!(bob.open(&sealed).is_ok());
            assert_eq!(bob.open(&sealed), Err(DropReason::InStateSeqError));
            for n in 1..200 {
                let mut forged = sealed.clone();
                forged[15] = forged[15].wrapping_add(n);
                let reason = bob.open(&forged).unwrap_err();
                // Before it is opened, the sender ID may tell.
                let told = reason == DropReason::InStateSeqError && (transform == GCM || !preservation.keeps_source());
                let fails = reason == DropReason::InStateModeError && preservation.keeps_source();
                assert!(told || fails, "{reason:?}, {preservation:?}");
            }
            assert_eq!(bob.sad.status().sas[0].replay_senders, Some(1), "no window for senders there are not");
            // Two hosts behind one gateway do not disturb each other.
            for n in 0..70 {
                for from in [3, 4] {
                    let sealed = alice.seal(&numbered(from, GROUPS[0], n)).unwrap();
                    assert!(bob.open(&sealed).is_ok());
                }
            }
        }
    }
}

#[test]
fn a_sender_only_sa_never_opens_and_a_receiver_only_sa_never_seals() {
    for mode in MODES {
        for group in GROUPS {
            let policy = policy(GCM, mode, group);
            let with = |direction| {
                let mut member = Member::new(1);
                let sa = NewSa { direction, ..new_sa(0x1001, &policy, 7) };
                member.sad.apply(registration(vec![sa], ids(&[1])), at(0)).unwrap();
                member
            };
            let plain = udp(1, group, &[9]);
            let (mut sender, mut receiver) = (with(SaDirection::SenderOnly), with(SaDirection::ReceiverOnly));
            let sealed = sender.seal(&plain).unwrap();
            assert_eq!(receiver.open(&sealed).unwrap(), plain);
            assert_eq!(sender.open(&sealed), Err(DropReason::InNoStates));
            assert_eq!(receiver.seal(&plain), Err(DropReason::OutNoPols));
            assert!(sender.sad.destinations().is_empty(), "who only sends joins no group");
            assert_eq!(receiver.sad.destinations().len(), 1);
            // A registration may tell the same SA anew with another role.
            for (direction, opens, seals) in [
                (SaDirection::Symmetric, true, true),
                (SaDirection::ReceiverOnly, true, false),
                (SaDirection::SenderOnly, false, true),
            ] {
                let sa = NewSa { direction, ..new_sa(0x1001, &policy, 7) };
                sender.sad.apply(registration(vec![sa], None), at(0)).unwrap();
                let sealed = receiver_of(&policy, &plain);
                assert_eq!(
                    (sender.open(&sealed).is_ok(), sender.seal(&plain).is_ok()),
                    (opens, seals),
                    "{direction:?}"
                );
            }
        }
    }
}

/// A packet of another sender.
fn receiver_of(policy: &TrafficPolicy, plain: &[u8]) -> Vec<u8> {
    Member::with(0x1001, policy, 9).seal(plain).unwrap()
}
