//! Whole registrations with known keys, against an independent computation.
#![allow(clippy::unwrap_used)]

use std::sync::LazyLock;

use keyferry_crypto::{BlockCipher, Hash, KeGroup, Random, Secret};
use keyferry_model::id::GroupId;
use keyferry_wire::Header;

use super::member::{Pull, Registration, Step};
use super::server::Request;
use crate::message::Iv;
use crate::phase1::ike_sa::IkeSa;
use crate::phase1::keymat::{Basis, Transcript};
use crate::phase1::method::Method;
use crate::phase1::suite::Suite;
use crate::policy::take::Taking;
use crate::reject::Reject;

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

const TAKING: Taking = Taking { sender: true, weak: false, unknown_kek_attributes: false, registering: true };

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
