use proptest::prelude::*;

use keyferry_model::drive::Via;

use super::*;
use crate::message;

const FROM: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 9));

fn message(len: usize) -> Vec<u8> {
    let header = message::header(&[7; 16], exchange::PULL, 1, 9, payload::HASH);
    let body: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
    header.encode(&body)
}

fn transmit(bytes: Vec<u8>, v6: bool, marker: bool) -> Transmit {
    let to = if v6 { "[2001:db8::1]:848" } else { "10.0.0.1:848" };
    Transmit { from: None, to: to.parse().unwrap(), via: Via::udp(marker), bytes }
}

fn fragments(bytes: &[u8]) -> Vec<Vec<u8>> {
    split(transmit(bytes.to_vec(), false, false), 576).into_iter().map(|t| t.bytes).collect()
}

fn add(reassembly: &mut Reassembly, fragment: &[u8], mono: u64) -> Vec<Vec<u8>> {
    let (header, body) = Header::decode(fragment).unwrap();
    let fragment = read(&header, body).unwrap();
    reassembly.add(&header, FROM, &fragment, Duration::from_secs(mono))
}

/// The same fragment with other data.
fn forged(fragment: &[u8]) -> Vec<u8> {
    let mut forged = fragment.to_vec();
    let last = forged.len() - 1;
    forged[last] ^= 0xff;
    forged
}

#[test]
fn packets_are_no_longer_than_asked_for_and_the_same_each_time() {
    for (v6, marker) in [(false, false), (false, true), (true, false), (true, true)] {
        for size in [576, 1280, 1500] {
            let whole = transmit(message(4000), v6, marker);
            let cut = split(whole.clone(), size);
            let overhead = ip_overhead(whole.to) + if marker { 4 } else { 0 };
            let longest = cut.iter().map(|t| t.bytes.len() + overhead).max().unwrap();
            assert_eq!(longest, size);
            assert_eq!(split(whole.clone(), size), cut);
            assert!(cut.iter().all(|t| (t.to, t.via, t.from) == (whole.to, whole.via, whole.from)));
            let fits = transmit(message(size - overhead - 28), v6, marker);
            assert_eq!(split(fits.clone(), size), [fits]);
        }
    }
}

#[test]
fn a_fragment_has_the_form_that_peers_know() {
    let cut = fragments(&message(600));
    assert_eq!(cut.len(), 2);
    assert_eq!(cut[0][..16], [7; 16]);
    assert_eq!(cut[0][16..24], [132, 0x10, exchange::MAIN_MODE, 0, 0, 0, 0, 0]);
    assert_eq!(cut[0][28..32], [0, 0, 2, 8]);
    assert_eq!(cut[0][34..36], [1, 0]);
    assert_eq!(cut[1][34..36], [2, 1]);
}

/// charon takes no main mode, so no fragment of it either, while an aggressive mode is under way.
#[test]
fn fragments_of_phase_1_are_of_its_exchange_and_others_of_main_mode() {
    for (whole, of) in [
        (exchange::MAIN_MODE, exchange::MAIN_MODE),
        (exchange::AGGRESSIVE, exchange::AGGRESSIVE),
        (exchange::PULL, exchange::MAIN_MODE),
        (exchange::INFORMATIONAL, exchange::MAIN_MODE),
    ] {
        let mut bytes = message(4000);
        bytes[18] = whole;
        assert!(fragments(&bytes).iter().all(|f| f[18..24] == [of, 0, 0, 0, 0, 0]), "{whole}");
    }
}

#[test]
fn pushes_and_acknowledgements_stay_whole() {
    for kind in [exchange::PUSH, exchange::PUSH_ACK] {
        let mut bytes = message(4000);
        bytes[18] = kind;
        assert_eq!(split(transmit(bytes.clone(), false, false), 576).len(), 1);
    }
}

#[test]
fn fragments_come_in_any_order_and_more_than_once() {
    let whole = message(2000);
    let cut = fragments(&whole);
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]] {
        let mut reassembly = Reassembly::default();
        for (i, n) in order.into_iter().enumerate() {
            for repeat in 0..2 {
                let made = add(&mut reassembly, &cut[n], 0);
                assert!(made == if i == 3 { vec![whole.clone()] } else { Vec::new() }, "{order:?} {n} {repeat}");
            }
        }
    }
}

/// Somebody who sees the fragments adds one with garbage for each, in front of the true one or behind it.
#[test]
fn forged_fragments_do_not_keep_the_true_message_away() {
    let whole = message(2000);
    for in_front in [false, true] {
        let mut reassembly = Reassembly::default();
        let mut made = Vec::new();
        for fragment in fragments(&whole) {
            // Not the header in the first one, which would have to fit.
            let mut pair = [fragment.clone(), forged(&fragment)];
            if in_front {
                pair.reverse();
            }
            for one in &pair {
                made.extend(add(&mut reassembly, one, 0));
            }
        }
        assert!(made.contains(&whole), "{in_front}");
        assert!(made.len() <= 2 * MAX_WAYS);
    }
}

/// More garbage than is kept: the next repetition of the message gets through.
#[test]
fn after_a_flood_of_forgeries_a_repetition_gets_through() {
    let whole = message(2000);
    let cut = fragments(&whole);
    let mut reassembly = Reassembly::default();
    for i in 0..1000usize {
        let mut garbage = cut[i % 4].clone();
        garbage[40..48].copy_from_slice(&i.to_be_bytes());
        garbage[35] ^= u8::from(i % 3 == 0);
        add(&mut reassembly, &garbage, 0);
    }
    let made = cut.iter().map(|f| add(&mut reassembly, f, 0)).last().unwrap();
    assert!(made[0] == whole, "newest first");
}

#[test]
fn what_was_taken_is_forgotten_and_what_is_not_whole_in_time() {
    let whole = message(600);
    let cut = fragments(&whole);
    let mut reassembly = Reassembly::default();
    add(&mut reassembly, &cut[0], 0);
    assert!(add(&mut reassembly, &cut[1], 29) == [whole]);
    let (header, body) = Header::decode(&cut[0]).unwrap();
    reassembly.taken(&header, FROM, read(&header, body).unwrap().id);
    assert!(reassembly.sets.is_empty());

    add(&mut reassembly, &cut[0], 100);
    assert!(add(&mut reassembly, &cut[1], 130).is_empty());
}

#[test]
fn sets_are_few_and_bounded() {
    let mut reassembly = Reassembly::default();
    for n in 0..10_000u32 {
        let mut cookies = [7; 16];
        cookies[..4].copy_from_slice(&(n / 8).to_be_bytes());
        let header = message::header(&cookies, exchange::MAIN_MODE, 0, 0, payload::FRAGMENT);
        let id = u16::try_from(n % 8).unwrap();
        let data = vec![0; 60_000];
        let from = IpAddr::from((n / 64).to_be_bytes());
        for number in [1, 2] {
            reassembly.add(&header, from, &Fragment { id, number, last: false, data: &data }, Duration::ZERO);
        }
        let count = |of: &dyn Fn(&Set) -> bool| reassembly.sets.iter().filter(|s| of(s)).count();
        assert!(count(&|s| s.cookies == cookies) <= MAX_SETS);
        assert!(count(&|s| s.source == from) <= MAX_SETS_PER_SOURCE);
        assert!(reassembly.sets.iter().all(|s| s.pieces.iter().map(|p| p.data.len()).sum::<usize>() <= MAX_DATAGRAM));
    }
    assert_eq!(reassembly.sets.len(), MAX_SETS_IN_ALL);
}

#[test]
fn a_fragment_of_a_fragment_and_one_with_company_mean_nothing() {
    let mut inner = message(1100);
    inner[16] = payload::FRAGMENT;
    let mut reassembly = Reassembly::default();
    for fragment in fragments(&inner) {
        assert!(add(&mut reassembly, &fragment, 0).is_empty());
    }
    let header = message::header(&[7; 16], exchange::MAIN_MODE, 0, 0, payload::FRAGMENT);
    assert!(read(&header, &[13, 0, 0, 9, 0, 1, 1, 1, 5, 0, 0, 0, 5, 1]).is_err());
    let encrypted = message::header(&[7; 16], exchange::MAIN_MODE, 1, 0, payload::FRAGMENT);
    assert!(read(&encrypted, &[0, 0, 0, 9, 0, 1, 1, 1, 5]).is_err());
}

proptest! {
    /// Whatever the fragments are, nothing but whole messages under their cookies comes of them, and few at a time.
    #[test]
    fn any_fragments_are_survived(pieces in prop::collection::vec((0u8..4, any::<bool>(), 0usize..3, 1usize..80), 1..60)) {
        let whole = message(100);
        let mut reassembly = Reassembly::default();
        for (number, last, start, len) in pieces {
            let data = &whole[start * 40..(start * 40 + len).min(whole.len())];
            let fragment = Fragment { id: 1, number: number + 1, last, data };
            let (header, _) = Header::decode(&whole).unwrap();
            let made = reassembly.add(&header, FROM, &fragment, Duration::ZERO);
            prop_assert!(made.len() <= MAX_WAYS);
            let sound = |m: &Vec<u8>| Header::decode(m).is_ok_and(|(h, _)| h.spi_pair() == header.spi_pair());
            prop_assert!(made.iter().all(sound));
        }
    }
}
