//! Each message of G-IKEv2 behind its decryption.

use gikev2::wire::delete::Delete;
use gikev2::wire::ke::Ke;
use gikev2::wire::message::{AuthRequest, ChildRequest, GroupKeys, Init, Payloads, Registration, Resume};
use gikev2::wire::nonce::Nonce;
use gikev2::wire::redirect::{GatewayId, Redirect};
use gikev2::wire::registry::{NotifyType, PayloadKind};
use gikev2::wire::rules;
use gikev2::wire::ticket::TicketGrant;
use keyferry_wire::Decode;

/// The first octet says which message, the second the type of its first payload; the others are the chain.
pub fn target(data: &[u8]) {
    let [kind, first, octets @ ..] = data else { return };
    let keys = |rules| {
        if let Ok(payloads) = Payloads::parse(*first, octets, rules) {
            let _ = GroupKeys::of(&payloads);
        }
    };
    let exchanged = |rules| {
        if let Ok(payloads) = Payloads::parse(*first, octets, rules) {
            let _: Result<Option<Ke<'_>>, _> = payloads.get(PayloadKind::KE);
        }
    };
    match kind % 16 {
        0 => drop(Init::request(*first, octets)),
        1 => drop(Payloads::parse(*first, octets, rules::INIT_RESPONSE).and_then(Init::of)),
        2 => drop(AuthRequest::ike(*first, octets)),
        3 => drop(AuthRequest::group(*first, octets)),
        4 => drop(Registration::request(*first, octets)),
        5 => keys(rules::AUTH_RESPONSE),
        6 => keys(rules::REGISTRATION_RESPONSE),
        7 => keys(rules::REKEY),
        8 => exchanged(rules::INTERMEDIATE),
        9 => drop(Resume::request(*first, octets)),
        10 => {
            if let Ok(payloads) = Payloads::parse(*first, octets, rules::RESUME_RESPONSE) {
                let _: Result<Option<Nonce<'_>>, _> = payloads.get(PayloadKind::NONCE);
                redirect(&payloads);
            }
        }
        11 => {
            if let Ok(payloads) = Payloads::parse(*first, octets, rules::INFORMATIONAL) {
                let _: Result<Vec<Delete<'_>>, _> = payloads.all(PayloadKind::DELETE);
                redirect(&payloads);
                if let Some(notify) = payloads.notify(NotifyType::TICKET_LT_OPAQUE) {
                    let _ = TicketGrant::exact(&notify.data);
                }
            }
        }
        12 => drop(ChildRequest::of(*first, octets)),
        13 => drop(Payloads::parse(*first, octets, rules::CHILD_RESPONSE).and_then(Init::of)),
        14 => keys(rules::INBAND_REKEY),
        _ => exchanged(rules::FOLLOWUP_KE),
    }
}

fn redirect(payloads: &Payloads<'_>) {
    if let Some(notify) = payloads.notify(NotifyType::REDIRECT) {
        let _ = Redirect::exact(&notify.data);
    }
    if let Some(notify) = payloads.notify(NotifyType::REDIRECTED_FROM) {
        let _ = GatewayId::exact(&notify.data);
    }
}
