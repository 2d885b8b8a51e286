//! Encrypted payloads of G-IKEv2, whole and in fragments, on a path where somebody changes them.

use std::sync::LazyLock;

use gikev2::algorithms::Protection;
use gikev2::reject::Reject;
use gikev2::wire::registry::PayloadKind;
use gikev2::wire::sk::{Fragment, SkKeys, datagrams};
use keyferry_crypto::{Aead, BlockCipher, Integrity, SeededRandom};
use keyferry_wire::Header;

use crate::script::Script;

/// Changes at most.
const CHANGES: usize = 8;
/// The shortest datagrams that fragments are cut for, in every protection.
const SHORTEST: usize = 148;

static KEYS: LazyLock<[SkKeys; 3]> = LazyLock::new(|| {
    let protections = [
        Protection::Aead(Aead::Aes128Gcm16),
        Protection::Aead(Aead::ChaCha20Poly1305),
        Protection::CbcHmac(BlockCipher::Aes128Cbc, Integrity::HmacSha256_128),
    ];
    protections.map(|protection| {
        let (encryption, integrity) = protection.key_lens();
        SkKeys::new(protection, &vec![1; encryption], &vec![2; integrity]).expect("keys have their lengths")
    })
});

/// Which keys, how long datagrams may be, what is inside; then what happens on the way.
pub fn target(data: &[u8]) {
    let mut script = Script::new(data);
    let keys = &KEYS[script.below(KEYS.len())];
    let limit = SHORTEST + usize::from(script.octet());
    let first = script.octet();
    let n = script.below(2_000);
    let inner = script.take(n);
    let header =
        Header { spi_i: [1; 8], spi_r: [2; 8], next: 0, major: 2, minor: 0, exchange: 39, flags: 8, message_id: 1 };
    let sealed = keys.seal_within(limit, &header, first, inner, 7, &mut SeededRandom::new(1));
    let (message, _) = sealed.expect("so little can be sealed");
    let opened = keys.open(&message).expect("what was sealed opens");
    assert_eq!((opened.first, opened.inner.expose()), (first, inner));
    assert_eq!((opened.header.next, opened.header.spi_pair()), (PayloadKind::SK.0, header.spi_pair()));

    let mut parts: Vec<Vec<u8>> = datagrams(&message).into_iter().map(<[u8]>::to_vec).collect();
    for (at, part) in parts.iter().enumerate() {
        let numbers = Fragment::of(part).map(|f| (usize::from(f.number), usize::from(f.total)));
        assert!(numbers.map_or(parts.len() == 1, |numbers| numbers == (at + 1, parts.len())));
        assert!(part.len() <= limit, "a datagram of {} octets", part.len());
    }
    for _ in 0..CHANGES {
        let Some(op) = script.more() else { break };
        change(&mut parts, op, &mut script);
    }
    let changed = parts.concat();
    assert_eq!(datagrams(&changed).concat(), changed, "nothing is lost between datagrams");
    match keys.open(&changed) {
        Ok(_) => assert_eq!(changed, message, "nothing but what was sealed opens"),
        Err(reject) => assert!(!matches!(reject, Reject::Misbehaved(_)), "{reject:?}: only who has keys misbehaves"),
    }
}

fn change(parts: &mut Vec<Vec<u8>>, op: u8, script: &mut Script<'_>) {
    let at = script.below(parts.len());
    match op % 7 {
        0 => {
            let Some(part) = parts.get_mut(at) else { return };
            let at = script.below(part.len());
            part.iter_mut().skip(at).take(1).for_each(|octet| *octet ^= script.octet().max(1));
        }
        1 => {
            let Some(part) = parts.get_mut(at) else { return };
            let end = script.below(part.len() + 1);
            part.truncate(end);
        }
        2 => {
            let n = usize::from(script.octet());
            parts.get_mut(at).into_iter().for_each(|part| part.extend_from_slice(script.take(n)));
        }
        3 => drop((at < parts.len()).then(|| parts.remove(at))),
        4 => parts.extend(parts.get(at).cloned()),
        5 => {
            let other = script.below(parts.len());
            if at < parts.len() {
                parts.swap(at, other);
            }
        }
        _ => {
            let n = usize::from(script.octet());
            parts.push(script.take(n).to_vec());
        }
    }
}
