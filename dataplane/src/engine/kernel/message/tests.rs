//! Layouts by their offsets in the kernel's headers, and back again.

use keyferry_crypto::{Aead, AesCtr, BlockCipher, Integrity};
use proptest::prelude::*;

use super::read::answers;
use super::*;
use crate::engine::netlink::{HEADER, ROOM};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn scope(destination: &str, prefix: u8) -> Scope {
    let destination = ip(destination);
    Scope {
        source: (unspecified(destination), 0),
        destination: (destination, prefix),
        protocol: 0,
        ports: (None, None),
    }
}

fn state<'k>(destination: &str, transform: EspTransform, keymat: &'k [u8]) -> NewState<'k> {
    let destination = ip(destination);
    NewState {
        key: StateKey { destination, spi: 0x0102_0304 },
        source: unspecified(destination),
        reqid: 0x8000_0002,
        mode: EspMode::Transport,
        scope: scope("239.1.1.1", 32),
        transform,
        keymat,
        lifetime: Duration::from_secs(100),
        window: 0,
        numbers: Numbers::default(),
        offload: None,
    }
}

/// Attributes of a message behind its fixed part.
fn attributes(octets: &[u8], fixed: usize) -> Vec<(u16, Vec<u8>)> {
    let (mut at, mut found) = (HEADER + fixed, Vec::new());
    while at < octets.len() {
        let length = usize::from(u16::from_ne_bytes(octets[at..at + 2].try_into().unwrap()));
        let kind = u16::from_ne_bytes(octets[at + 2..at + 4].try_into().unwrap());
        found.push((kind, octets[at + 4..at + length].to_vec()));
        at += length.next_multiple_of(4);
    }
    found
}

/// The body of a message to the kernel is that of its answer.
fn answer(message: Message) -> Answer {
    let octets = message.finish(7);
    let mut answers = answers(&octets);
    let (number, answer) = answers.next().unwrap();
    assert_eq!(number, 7);
    assert!(answers.next().is_none());
    answer
}

#[test]
fn a_state_has_its_parts_where_the_kernel_looks_for_them() {
    let keymat: Vec<u8> = (0..48).collect();
    let cbc = EspTransform::CbcHmac(BlockCipher::Aes128Cbc, Integrity::HmacSha256_128);
    let mut new = state("239.1.1.1", cbc, &keymat);
    (new.mode, new.source) = (EspMode::Tunnel, ip("10.0.0.1"));
    let octets = Message::new_state(&new).unwrap().finish(0x0a0b_0c0d);
    assert_eq!(usize::try_from(u32::from_ne_bytes(octets[..4].try_into().unwrap())).unwrap(), octets.len());
    assert_eq!(octets[4..8], [0x10u16.to_ne_bytes(), 0x5u16.to_ne_bytes()].concat());
    assert_eq!(octets[8..12], 0x0a0b_0c0du32.to_ne_bytes());
    let body = &octets[HEADER..];
    // sel.daddr, sel.family, sel.prefixlen_d
    assert_eq!((&body[..4], &body[40..42], body[42]), (&[239, 1, 1, 1][..], &2u16.to_ne_bytes()[..], 32));
    // id.daddr, id.spi, id.proto, saddr
    assert_eq!((&body[56..60], &body[72..76], body[76]), (&[239, 1, 1, 1][..], &[1, 2, 3, 4][..], 50));
    assert_eq!(body[80..84], [10, 0, 0, 1]);
    // lft: octets and packets without limit, soft before hard
    assert!(body[96..128].iter().all(|octet| *octet == 0xff));
    assert_eq!(body[128..136], 101u64.to_ne_bytes());
    assert_eq!(body[136..144], 161u64.to_ne_bytes());
    // reqid, family, mode, replay_window, flags
    assert_eq!(body[208..212], 0x8000_0002u32.to_ne_bytes());
    assert_eq!((&body[212..214], &body[214..217]), (&2u16.to_ne_bytes()[..], &[1, 0, 0][..]));
    let [cipher, mac, replay] = &attributes(&octets, 224)[..] else { panic!("three attributes") };
    assert_eq!((cipher.0, &cipher.1[..9], &cipher.1[64..68]), (2, &b"cbc(aes)\0"[..], &128u32.to_ne_bytes()[..]));
    assert_eq!(cipher.1[68..], keymat[..16]);
    assert_eq!((mac.0, &mac.1[..13], &mac.1[64..68]), (20, &b"hmac(sha256)\0"[..], &256u32.to_ne_bytes()[..]));
    assert_eq!((&mac.1[68..72], &mac.1[72..]), (&128u32.to_ne_bytes()[..], &keymat[16..]));
    assert_eq!(replay, &(10, vec![0; 12]));
}

#[test]
fn keying_material_is_divided_as_the_kernel_wants_it() {
    let keymat = [7; 128];
    for (transform, names, lens) in [
        (EspTransform::Aead(Aead::Aes256Gcm12), vec!["rfc4106(gcm(aes))"], vec![36]),
        (EspTransform::Aead(Aead::Aes128Ccm16), vec!["rfc4309(ccm(aes))"], vec![19]),
        (EspTransform::Aead(Aead::ChaCha20Poly1305), vec!["rfc7539esp(chacha20,poly1305)"], vec![36]),
        (EspTransform::Gmac(Aead::Aes192Gcm16), vec!["rfc4543(gcm(aes))"], vec![28]),
        (
            EspTransform::CtrHmac(AesCtr::Aes192Ctr, Integrity::HmacSha1_96),
            vec!["rfc3686(ctr(aes))", "hmac(sha1)"],
            vec![28, 20],
        ),
        (EspTransform::NullHmac(Integrity::HmacSha512_256), vec!["ecb(cipher_null)", "hmac(sha512)"], vec![0, 64]),
    ] {
        let new = state("239.1.1.1", transform, &keymat[..transform.keymat_len()]);
        let octets = Message::new_state(&new).unwrap().finish(1);
        let all = attributes(&octets, 224);
        for ((kind, value), (name, len)) in all.iter().zip(names.iter().zip(&lens)) {
            assert!(value.starts_with(name.as_bytes()), "{transform:?}");
            assert_eq!(value[64..68], u32::try_from(len * 8).unwrap().to_ne_bytes(), "{transform:?}");
            let fixed = if *kind == attribute::CIPHER { 68 } else { 72 };
            assert_eq!(value.len(), fixed + len);
        }
        assert_eq!(all.len(), names.len() + 1);
        assert!(octets.capacity() == ROOM, "it did not grow, and left no copy of the keys");
    }
    let widest = EspTransform::NullHmac(Integrity::HmacSha512_256);
    let mut new = state("ff15::1", widest, &keymat[..64]);
    new.window = 4_096;
    assert_eq!(Message::new_state(&new).unwrap().finish(1).capacity(), ROOM);
    let triple = EspTransform::CbcHmac(BlockCipher::TripleDesCbc, Integrity::HmacSha1_96);
    assert!(Message::new_state(&state("239.1.1.1", triple, &keymat[..44])).is_none());
}

#[test]
fn states_are_read_as_they_are_written() {
    let keymat = [1; 20];
    for (destination, window, offload) in [("239.1.1.1", 0, None), ("ff15::1", 128, Some(3))] {
        let mut new = state(destination, EspTransform::Aead(Aead::Aes128Gcm16), &keymat);
        new.scope = scope(destination, 32);
        new.window = window;
        new.numbers = Numbers { sent: 5, seen: if window > 0 { 9 } else { 0 } };
        new.offload = offload;
        let octets = Message::new_state(&new).unwrap().finish(1);
        let all = attributes(&octets, 224);
        if window > 0 {
            // bmp_len, oseq, seq, oseq_hi, seq_hi, replay_window; all behind the highest number was seen.
            let words = [4u32, 5, 9, 0, 0, 128, u32::MAX, u32::MAX, u32::MAX, u32::MAX];
            assert_eq!(all[1], (23, words.iter().flat_map(|word| word.to_ne_bytes()).collect()));
            // Inbound, IPv6.
            assert_eq!(all[2], (28, [&3u32.to_ne_bytes()[..], &[3, 0, 0, 0]].concat()));
        }
        let Answer::State(known) = answer(Message::new_state(&new).unwrap()) else { panic!("no state") };
        let wanted = KnownState {
            key: new.key,
            reqid: new.reqid,
            octets: 0,
            packets: 0,
            replayed: 0,
            forged: 0,
            sent: 5,
            seen: new.numbers.seen,
            offloaded: offload.is_some(),
        };
        assert_eq!(known, wanted);
    }
}

#[test]
fn policies_are_read_as_they_are_written() {
    let scopes = [
        scope("239.0.0.0", 8),
        Scope { source: (ip("fd00::"), 16), destination: (ip("ff15::1"), 128), protocol: 58, ports: (Some(131), None) },
    ];
    let template = Template { mode: EspMode::Tunnel, spi: 0x1001, reqid: 77, outer: None };
    for (direction, scope) in [(Direction::In, scopes[0]), (Direction::Out, scopes[1])] {
        for (action, reqid, spi) in [
            (Action::Pass, None, None),
            (Action::Block, Some(42), Some(0)),
            (Action::Protect(template), Some(77), Some(0x1001)),
        ] {
            let policy = Policy { priority: 0x4c00_0001, action };
            let message = Message::new_policy((direction, scope), &policy, 42);
            let Answer::Policy(known) = answer(message) else { panic!("no policy") };
            let blocks = action == Action::Block;
            let wanted = KnownPolicy { direction: Some(direction), scope, priority: 0x4c00_0001, blocks, reqid, spi };
            assert_eq!(known, wanted);
        }
    }
}

#[test]
fn outcomes_are_told_from_each_other() {
    let error = |code: i32| {
        let mut octets = [20u32.to_ne_bytes().to_vec(), 2u16.to_ne_bytes().to_vec(), vec![0; 10]].concat();
        octets.extend(code.to_ne_bytes());
        let (_, answer) = answers(&octets).next().unwrap();
        answer
    };
    assert!(matches!(error(0), Answer::Done));
    assert!(matches!(error(-17), Answer::Failed(e) if e.raw_os_error() == Some(17)));
    assert!(matches!(error(i32::MIN), Answer::Failed(_)));
}

proptest! {
    /// The kernel is believed, but nothing that is read ends in a panic or without end.
    #[test]
    fn whatever_is_read_comes_to_an_end(mut octets in proptest::collection::vec(any::<u8>(), 0..600), kind in 0u16..0x20) {
        if octets.len() > 6 {
            let length = u32::try_from(octets.len()).unwrap();
            octets[..4].copy_from_slice(&length.to_ne_bytes());
            octets[4..6].copy_from_slice(&kind.to_ne_bytes());
        }
        prop_assert!(answers(&octets).count() <= octets.len() / HEADER + 1);
        for cut in 0..octets.len() {
            answers(&octets[cut..]).for_each(drop);
        }
    }

    /// Wherever a sound message is cut, what is left of it is told apart or ignored.
    #[test]
    fn cut_messages_are_no_trouble(cut in 0usize..400) {
        let keymat = [1; 20];
        let new = state("239.1.1.1", EspTransform::Aead(Aead::Aes128Gcm16), &keymat);
        let mut octets = Message::new_state(&new).unwrap().finish(1).to_vec();
        octets.truncate(cut.max(4));
        let length = u32::try_from(octets.len()).unwrap();
        octets[..4].copy_from_slice(&length.to_ne_bytes());
        answers(&octets).for_each(drop);
    }
}
