//! Whole registrations with known keys, against an independent computation.
#![allow(clippy::unwrap_used)]

use std::sync::LazyLock;

use keyferry_crypto::{BlockCipher, Hash, KeGroup, Random, Secret};
use keyferry_model::id::GroupId;
use keyferry_wire::Header;
use proptest::prelude::*;

use super::member::{Pull, Registration, Step};
use super::server::Request;
use crate::message::{self, Iv};
use crate::phase1::ike_sa::IkeSa;
use crate::phase1::keymat::{Basis, Transcript};
use crate::phase1::method::Method;
use crate::phase1::suite::Suite;
use crate::policy::take::Taking;
use crate::reject::Reject;
use crate::wire::registry::{exchange, flag, payload};

/// Messages 1 to 4, then 2 and 4 with SEQ in message 2, then 4 without any: tests/vectors/groupkey.py.
static MESSAGES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    include_str!("../../tests/vectors/pull.txt").lines().map(|line| hex::decode(line).unwrap()).collect()
});

/// Message ID 05050505, a nonce of octets 05.
struct Fives;

impl Random for Fives {
    fn fill(&mut self, out: &mut [u8]) {
        out.fill(5);
    }
}

fn ike_sa() -> IkeSa {
    let cookies: [u8; 16] = std::array::from_fn(|i| u8::try_from(i).unwrap() + 0x10);
    let transcript = Transcript {
        suite: Suite {
            cipher: BlockCipher::Aes128Cbc,
            hash: Hash::Sha256,
            group: KeGroup::Ecp256,
            method: Method::PreSharedKey,
        },
        cookies: &cookies,
        sa_i: b"",
        ke_i: &[1; 64],
        ke_r: &[2; 64],
        nonce_i: &[3; 16],
        nonce_r: &[4; 24],
    };
    let keys = transcript.keys(Basis::PreShared(&Secret::copy_from(b"preshared")), &Secret::copy_from(&[5; 32]));
    let mut sa = IkeSa::new(cookies, keys);
    sa.chain_to(Iv::front(BlockCipher::Aes128Cbc, &[0x23; 16]).unwrap());
    sa
}

const TAKING: Taking = Taking {
    sender: true,
    weak: false,
    unknown_kek_attributes: false,
    registering: true,
    tunnel: keyferry_model::tunnel::Tunnel { local: None, remote: None },
};

type Outcome = Result<Result<Step, Reject>, Reject>;

fn verify(pull: &Pull, sa: &IkeSa, datagram: &[u8], held: Option<u32>) -> Outcome {
    let (header, body) = Header::decode(datagram).unwrap();
    pull.verify(sa, &header, body, TAKING, &|_| held)
}

/// A member's registration, with these messages 2 and 4 and the SEQ of a rekey SA that it has already.
fn register(two: usize, four: usize, held: Option<u32>) -> Result<Registration, Reject> {
    let sa = ike_sa();
    let mut pull = Pull::start(&sa, &GroupId::Number(1234), &mut Fives).unwrap();
    let Step::Policy(policy) = verify(&pull, &sa, &MESSAGES[two], None).unwrap().unwrap() else { panic!("no policy") };
    pull.confirm(&sa, *policy, 2).unwrap();
    match verify(&pull, &sa, &MESSAGES[four], held).unwrap()? {
        Step::Keys(registration) => Ok(*registration),
        Step::Policy(_) => panic!("policy again"),
    }
}

#[test]
fn messages_are_those_of_an_independent_computation() {
    let sa = ike_sa();
    let mut pull = Pull::start(&sa, &GroupId::Number(1234), &mut Fives).unwrap();
    assert_eq!(hex::encode(pull.message()), hex::encode(&MESSAGES[0]));
    let Step::Policy(policy) = verify(&pull, &sa, &MESSAGES[1], None).unwrap().unwrap() else { panic!("no policy") };
    pull.confirm(&sa, *policy, 2).unwrap();
    assert_eq!(hex::encode(pull.message()), hex::encode(&MESSAGES[2]));
    // And the key server takes them.
    let (header, body) = Header::decode(&MESSAGES[0]).unwrap();
    let request = Request::verify(&sa, &header, body).unwrap();
    assert_eq!(request.group, Some(GroupId::Number(1234)));
    let (header, body) = Header::decode(&MESSAGES[2]).unwrap();
    assert!(Request::verify(&sa, &header, body).is_err(), "HASH(3) covers both nonces, HASH(1) none");

    let registration = register(1, 3, None).unwrap();
    let rekey = registration.rekey.unwrap();
    assert_eq!((rekey.seq, rekey.policy.spi[0], rekey.policy.spi[15]), (4, 0x30, 0x3f));
    assert_eq!(rekey.keymat.expose(), [[0x41; 16], [0x42; 16]].concat());
    assert_eq!(rekey.policy.destination, Some("239.192.84.1:848".parse().unwrap()));
    let [data] = registration.data.as_slice() else { panic!("one data SA") };
    assert_eq!((data.spi, data.keymat.expose()), (0x1001, [0x51; 20].as_slice()));
    assert_eq!(registration.sender_ids.unwrap().ids, [7, 8]);
}

#[test]
fn every_changed_octet_of_a_message_is_noticed() {
    let sa = ike_sa();
    let mut pull = Pull::start(&sa, &GroupId::Number(1234), &mut Fives).unwrap();
    for at in 28..MESSAGES[1].len() {
        let mut changed = MESSAGES[1].clone();
        changed[at] ^= 1;
        assert!(verify(&pull, &sa, &changed, None).is_err(), "octet {at} of message 2");
    }
    let Step::Policy(policy) = verify(&pull, &sa, &MESSAGES[1], None).unwrap().unwrap() else { panic!("no policy") };
    pull.confirm(&sa, *policy, 2).unwrap();
    for at in 28..MESSAGES[3].len() {
        let mut changed = MESSAGES[3].clone();
        changed[at] ^= 1;
        assert!(verify(&pull, &sa, &changed, None).is_err(), "octet {at} of message 4");
    }
}

#[test]
fn the_number_may_stand_in_message_2() {
    assert_eq!(register(4, 5, None).unwrap().rekey.unwrap().seq, 4);
}

/// Without a number, every push that was ever sent under the KEK could come again; unless the KEK is there already.
#[test]
fn a_kek_without_a_number_is_refused_unless_it_is_known() {
    assert!(matches!(register(1, 6, None), Err(Reject::Unacceptable("a KEK without SEQ", _))));
    assert_eq!(register(1, 6, Some(9)).unwrap().rekey.unwrap().seq, 9);
}

/// Message ID of the exchange.
const ID: u32 = 0x0505_0505;

/// The nonces: our own, and the key server's.
const NONCES: (&[u8], &[u8]) = (&[5; 32], &[6; 24]);

/// What a key server's message says behind its HASH, decrypted with the IV that it has.
fn plain(sa: &IkeSa, datagram: &[u8], iv: &Iv) -> (u8, Vec<u8>) {
    let (header, body) = Header::decode(datagram).unwrap();
    let keys = sa.keys();
    let plain = message::open(keys.suite.cipher, keys.encryption.expose(), iv, &header, body).unwrap();
    let parts = plain.parts().unwrap();
    let hash = parts.payloads[0].body.len();
    (parts.payloads[0].next, parts.octets[4 + hash..].to_vec())
}

/// A message with these octets behind a right HASH: as a key server sends it that means no good.
fn sealed(sa: &IkeSa, iv: &Iv, nonces: &[u8], first: u8, octets: &[u8]) -> Vec<u8> {
    let keys = sa.keys();
    let hash = keys.suite.prf().compute(keys.skeyid_a.expose(), &[&ID.to_be_bytes(), nonces, octets]);
    let length = u8::try_from(4 + hash.len()).unwrap();
    let chain = [&[first, 0, 0, length], hash.expose(), octets].concat();
    let header = message::header(sa.cookies(), exchange::PULL, flag::ENCRYPTED, ID, payload::HASH);
    message::seal(keys.suite.cipher, keys.encryption.expose(), iv, &header, &Secret::new(chain)).unwrap().0
}

fn last_block(datagram: &[u8]) -> Iv {
    Iv::back(BlockCipher::Aes128Cbc, datagram).unwrap()
}

/// An exchange whose next message is 2, or 4; and what that says when it is genuine.
fn exchange_at(sa: &IkeSa, four: bool) -> (Pull, Iv, Vec<u8>, u8, Vec<u8>) {
    let mut pull = Pull::start(sa, &GroupId::Number(1234), &mut Fives).unwrap();
    let iv = last_block(pull.message());
    if !four {
        let (first, octets) = plain(sa, &MESSAGES[1], &iv);
        return (pull, iv, NONCES.0.to_vec(), first, octets);
    }
    let Step::Policy(policy) = verify(&pull, sa, &MESSAGES[1], None).unwrap().unwrap() else { panic!("no policy") };
    pull.confirm(sa, *policy, 2).unwrap();
    let iv = last_block(pull.message());
    let (first, octets) = plain(sa, &MESSAGES[3], &iv);
    (pull, iv, [NONCES.0, NONCES.1].concat(), first, octets)
}

fn is_sound(registration: &Registration) {
    for sa in &registration.data {
        assert_eq!(sa.keymat.len(), sa.policy.transform.keymat_len());
        assert!(sa.spi >= 256 && !sa.lifetime.is_zero());
    }
    if let Some(rekey) = &registration.rekey {
        let cipher = rekey.policy.cipher;
        assert_eq!(rekey.keymat.len(), cipher.block_len() + cipher.key_len());
        assert_eq!(rekey.verifier.kind(), rekey.policy.scheme.kind());
    }
    assert!(registration.sender_ids.iter().all(|s| s.ids.len() <= 1024 && (1..=32).contains(&s.bits)));
}

/// A hostile key server changes any octet of messages 2 and 4 and hashes and encrypts them as it should: what is taken is
/// sound, and what is not leaves the exchange where it was.
#[test]
fn every_octet_of_policy_and_keys_may_be_a_lie() {
    let sa = ike_sa();
    for four in [false, true] {
        let (pull, iv, nonces, first, octets) = exchange_at(&sa, four);
        let genuine = sealed(&sa, &iv, &nonces, first, &octets);
        assert_eq!(genuine, MESSAGES[if four { 3 } else { 1 }], "the genuine message is made anew");
        let (mut taken, mut refused) = (0, 0);
        for at in 0..octets.len() {
            for value in [octets[at] ^ 1, octets[at] ^ 0x80, octets[at].wrapping_add(4), 0, 0xff] {
                let mut lie = octets.clone();
                lie[at] = value;
                match verify(&pull, &sa, &sealed(&sa, &iv, &nonces, first, &lie), None) {
                    Ok(Ok(Step::Keys(registration))) => {
                        is_sound(&registration);
                        taken += 1;
                    }
                    Ok(Ok(Step::Policy(_))) => taken += 1,
                    Ok(Err(_)) | Err(_) => refused += 1,
                }
            }
        }
        assert!(taken > 100 && refused > 100, "message {}: {taken} taken, {refused} refused", if four { 4 } else { 2 });
        assert!(matches!(verify(&pull, &sa, &genuine, None), Ok(Ok(_))));
    }
}

proptest! {
    /// Octets of its own choice, or pieces of genuine messages in any order.
    #[test]
    fn any_octets_of_a_key_server_are_survived(
        four in any::<bool>(),
        first in any::<u8>(),
        octets in prop::collection::vec(any::<u8>(), 0..120),
        cut in (0usize..400, 0usize..400),
    ) {
        let sa = ike_sa();
        let (pull, iv, nonces, genuine_first, genuine) = exchange_at(&sa, four);
        let (from, to) = (cut.0.min(genuine.len()), cut.1.min(genuine.len()));
        let mixed = [&genuine[..from], &octets, &genuine[to..]].concat();
        for (first, octets) in [(first, &octets), (genuine_first, &mixed)] {
            if let Ok(Ok(Step::Keys(registration))) = verify(&pull, &sa, &sealed(&sa, &iv, &nonces, first, octets), None) {
                is_sound(&registration);
            }
        }
    }
}
