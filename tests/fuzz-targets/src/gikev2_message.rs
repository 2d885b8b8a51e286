//! Each message of G-IKEv2 behind its decryption.

use gikev2::wire::ke::Ke;
use gikev2::wire::message::{AuthRequest, GroupKeys, Init, Payloads, Registration};
use gikev2::wire::registry::PayloadKind;
use gikev2::wire::rules;

/// The first octet says which message, the second the type of its first payload; the others are the chain.
pub fn target(data: &[u8]) {
    let [kind, first, octets @ ..] = data else { return };
    let keys = |rules| {
        if let Ok(payloads) = Payloads::parse(*first, octets, rules) {
            let _ = GroupKeys::of(&payloads);
        }
    };
    match kind % 9 {
        0 => drop(Init::request(*first, octets)),
        1 => drop(Payloads::parse(*first, octets, rules::INIT_RESPONSE).and_then(Init::of)),
        2 => drop(AuthRequest::ike(*first, octets)),
        3 => drop(AuthRequest::group(*first, octets)),
        4 => drop(Registration::request(*first, octets)),
        5 => keys(rules::AUTH_RESPONSE),
        6 => keys(rules::REGISTRATION_RESPONSE),
        7 => keys(rules::REKEY),
        _ => {
            if let Ok(payloads) = Payloads::parse(*first, octets, rules::INTERMEDIATE) {
                let _: Result<Option<Ke<'_>>, _> = payloads.get(PayloadKind::KE);
            }
        }
    }
}
