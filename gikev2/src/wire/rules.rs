//! Which payloads a message must and may contain, for each exchange and direction.
//!
//! A payload that is known but not expected is skipped (RFC 7296 section 2.5 asks receivers to be liberal), so the tables
//! name only what counts. What is protected and what is not follows from the exchange: only IKE_SA_INIT is bare.

use keyferry_wire::RawPayload;

use super::registry::{CRITICAL, PayloadKind};
use crate::reject::Reject;

/// How often a payload may occur.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// The payload.
    pub payload: PayloadKind,
    /// At least so many.
    pub min: usize,
    /// At most so many.
    pub max: usize,
}

const fn rule(payload: PayloadKind, min: usize, max: usize) -> Rule {
    Rule { payload, min, max }
}

/// Notifies in one message, at most.
const NOTIFIES: usize = 32;

/// Certificates, or requests for them, in one message, at most.
const CERTIFICATES: usize = 32;

/// IKE_SA_INIT request (RFC 7296 section 1.2).
pub const INIT_REQUEST: &[Rule] = &[
    rule(PayloadKind::SA, 1, 1),
    rule(PayloadKind::KE, 1, 1),
    rule(PayloadKind::NONCE, 1, 1),
    rule(PayloadKind::NOTIFY, 0, NOTIFIES),
];

/// IKE_SA_INIT response; one without SA, KE and nonce must bear a notify.
pub const INIT_RESPONSE: &[Rule] = &[
    rule(PayloadKind::SA, 0, 1),
    rule(PayloadKind::KE, 0, 1),
    rule(PayloadKind::NONCE, 0, 1),
    rule(PayloadKind::CERTREQ, 0, CERTIFICATES),
    rule(PayloadKind::NOTIFY, 0, NOTIFIES),
];

/// IKE_SESSION_RESUME request (RFC 5723 section 4.3.2).
pub const RESUME_REQUEST: &[Rule] = &[rule(PayloadKind::NONCE, 1, 1), rule(PayloadKind::NOTIFY, 1, NOTIFIES)];

/// IKE_SESSION_RESUME response; one without a nonce must bear a notify.
pub const RESUME_RESPONSE: &[Rule] = &[rule(PayloadKind::NONCE, 0, 1), rule(PayloadKind::NOTIFY, 0, NOTIFIES)];

/// IKE_INTERMEDIATE that carries an additional key exchange, both ways (RFC 9370 section 2.2.2).
pub const INTERMEDIATE: &[Rule] = &[rule(PayloadKind::KE, 0, 1), rule(PayloadKind::NOTIFY, 0, NOTIFIES)];

/// IKE_AUTH request, with or without a Child SA (RFC 7296 section 1.2, RFC 6023 section 5).
pub const IKE_AUTH_REQUEST: &[Rule] = &[
    rule(PayloadKind::ID_I, 1, 1),
    rule(PayloadKind::ID_R, 0, 1),
    rule(PayloadKind::CERT, 0, CERTIFICATES),
    rule(PayloadKind::CERTREQ, 0, CERTIFICATES),
    rule(PayloadKind::AUTH, 0, 1),
    rule(PayloadKind::SA, 0, 1),
    rule(PayloadKind::NOTIFY, 0, NOTIFIES),
];

/// GSA_AUTH request (RFC 9838 section 2.3.1).
pub const GSA_AUTH_REQUEST: &[Rule] = &[
    rule(PayloadKind::ID_I, 1, 1),
    rule(PayloadKind::ID_R, 0, 1),
    rule(PayloadKind::CERT, 0, CERTIFICATES),
    rule(PayloadKind::CERTREQ, 0, CERTIFICATES),
    rule(PayloadKind::AUTH, 0, 1),
    rule(PayloadKind::ID_G, 1, 1),
    rule(PayloadKind::SA, 0, 1),
    rule(PayloadKind::NOTIFY, 0, NOTIFIES),
];

/// IKE_AUTH and GSA_AUTH response.
pub const AUTH_RESPONSE: &[Rule] = &[
    rule(PayloadKind::ID_R, 0, 1),
    rule(PayloadKind::CERT, 0, CERTIFICATES),
    rule(PayloadKind::AUTH, 0, 1),
    rule(PayloadKind::GSA, 0, 1),
    rule(PayloadKind::KD, 0, 1),
    rule(PayloadKind::NOTIFY, 0, NOTIFIES),
];

/// GSA_REGISTRATION request (RFC 9838 section 2.3.2).
pub const REGISTRATION_REQUEST: &[Rule] =
    &[rule(PayloadKind::ID_G, 1, 1), rule(PayloadKind::SA, 0, 1), rule(PayloadKind::NOTIFY, 0, NOTIFIES)];

/// GSA_REGISTRATION response.
pub const REGISTRATION_RESPONSE: &[Rule] =
    &[rule(PayloadKind::GSA, 0, 1), rule(PayloadKind::KD, 0, 1), rule(PayloadKind::NOTIFY, 0, NOTIFIES)];

/// CREATE_CHILD_SA request (RFC 7296 section 1.3).
pub const CHILD_REQUEST: &[Rule] = &[
    rule(PayloadKind::SA, 1, 1),
    rule(PayloadKind::KE, 0, 1),
    rule(PayloadKind::NONCE, 1, 1),
    rule(PayloadKind::TS_I, 0, 1),
    rule(PayloadKind::TS_R, 0, 1),
    rule(PayloadKind::NOTIFY, 0, NOTIFIES),
];

/// CREATE_CHILD_SA response; one without SA, KE and nonce must bear a notify.
pub const CHILD_RESPONSE: &[Rule] = &[
    rule(PayloadKind::SA, 0, 1),
    rule(PayloadKind::KE, 0, 1),
    rule(PayloadKind::NONCE, 0, 1),
    rule(PayloadKind::NOTIFY, 0, NOTIFIES),
];

/// IKE_FOLLOWUP_KE, both ways; one without KE must bear a notify (RFC 9370 section 2.2.4).
pub const FOLLOWUP_KE: &[Rule] = &[rule(PayloadKind::KE, 0, 1), rule(PayloadKind::NOTIFY, 0, NOTIFIES)];

/// INFORMATIONAL, both ways (RFC 7296 section 1.4).
pub const INFORMATIONAL: &[Rule] = &[rule(PayloadKind::DELETE, 0, 8), rule(PayloadKind::NOTIFY, 0, NOTIFIES)];

/// GSA_REKEY (RFC 9838 section 2.4.1; reading 18: Delete in any mix).
pub const REKEY: &[Rule] = &[
    rule(PayloadKind::GSA, 0, 1),
    rule(PayloadKind::KD, 0, 1),
    rule(PayloadKind::DELETE, 0, 8),
    rule(PayloadKind::AUTH, 0, 1),
    rule(PayloadKind::NOTIFY, 0, NOTIFIES),
];

/// GSA_INBAND_REKEY request (RFC 9838 sections 2.4.2 and 2.4.3).
pub const INBAND_REKEY: &[Rule] = &[
    rule(PayloadKind::GSA, 0, 1),
    rule(PayloadKind::KD, 0, 1),
    rule(PayloadKind::DELETE, 0, 8),
    rule(PayloadKind::NOTIFY, 0, NOTIFIES),
];

/// Refuses what the table forbids, unknown payloads whose critical bit is set (RFC 7296 section 2.5), and an Encrypted payload
/// among those that were in one, or in a message that has none (section 3.1).
///
/// # Errors
/// [`Reject::UnsupportedCritical`] first, else [`Reject::Malformed`].
pub fn check(rules: &[Rule], payloads: &[RawPayload<'_>]) -> Result<(), Reject> {
    if let Some(p) = payloads.iter().find(|p| p.flags & CRITICAL != 0 && !PayloadKind(p.kind).is_known()) {
        return Err(Reject::UnsupportedCritical(PayloadKind(p.kind)));
    }
    if payloads.iter().any(|p| [PayloadKind::SK.0, PayloadKind::SKF.0].contains(&p.kind)) {
        return Err(Reject::Malformed("an Encrypted payload where none can be"));
    }
    for rule in rules {
        let count = payloads.iter().filter(|p| p.kind == rule.payload.0).count();
        if count < rule.min || count > rule.max {
            return Err(Reject::Malformed("a payload is missing or occurs too often"));
        }
    }
    Ok(())
}
