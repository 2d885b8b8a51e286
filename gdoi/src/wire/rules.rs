//! Which payloads a message has: a table for each message of each exchange.

use keyferry_wire::{DecodeError, RawPayload};

use super::registry::payload::{
    CERT, CERT_REQUEST, DELETE, GAP, HASH, ID, KD, KE, NAT_D, NONCE, NOTIFICATION, SA, SAK, SAT, SEQ, SIG, VENDOR_ID,
};

/// How often a payload stands in a message.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Payload type.
    pub payload: u8,
    /// At least so often.
    pub min: usize,
    /// At most so often.
    pub max: usize,
}

/// The payloads of one message.
#[derive(Clone, Copy, Debug)]
pub struct Message {
    /// Name for people.
    pub name: &'static str,
    /// Must it be encrypted? If not it must not.
    pub protected: bool,
    /// Type of the payload that comes first; `None` leaves the order open.
    pub first: Option<u8>,
    /// Type of the payload that comes last.
    pub last: Option<u8>,
    /// Payloads. Others are refused, but vendors' own and those of phase 1's extensions are ignored where
    /// [`tolerant`](Self::tolerant).
    pub rules: &'static [Rule],
    /// Ignore payloads of types that are not in the table.
    pub tolerant: bool,
}

const fn rule(payload: u8, min: usize, max: usize) -> Rule {
    Rule { payload, min, max }
}

/// Main mode messages 1 and 2 (RFC 2409 section 5): HDR, SA.
pub const MAIN_SA: Message = Message {
    name: "main mode SA",
    protected: false,
    first: Some(SA),
    last: None,
    rules: &[rule(SA, 1, 1), rule(VENDOR_ID, 0, 64)],
    tolerant: true,
};

/// Main mode messages 3 and 4: HDR, KE, N.
pub const MAIN_KE: Message = Message {
    name: "main mode KE",
    protected: false,
    first: None,
    last: None,
    rules: &[rule(KE, 1, 1), rule(NONCE, 1, 1), rule(VENDOR_ID, 0, 64), rule(NAT_D, 0, 8), rule(CERT_REQUEST, 0, 64)],
    tolerant: true,
};

/// Main mode messages 5 and 6 with a pre-shared key (RFC 2409 section 5.4): HDR*, ID, HASH.
pub const MAIN_HASH: Message = Message {
    name: "main mode ID and hash",
    protected: true,
    first: Some(ID),
    last: None,
    rules: &[rule(ID, 1, 1), rule(HASH, 1, 1), rule(NOTIFICATION, 0, 8), rule(CERT, 0, 16), rule(SIG, 0, 0)],
    tolerant: true,
};

/// Main mode messages 5 and 6 with signatures (RFC 2409 section 5.1): HDR*, ID, \[CERT,\] SIG.
pub const MAIN_SIG: Message = Message {
    name: "main mode ID and signature",
    protected: true,
    first: Some(ID),
    last: None,
    rules: &[
        rule(ID, 1, 1),
        rule(SIG, 1, 1),
        rule(CERT, 0, 16),
        rule(CERT_REQUEST, 0, 64),
        rule(NOTIFICATION, 0, 8),
        rule(HASH, 0, 0),
    ],
    tolerant: true,
};

/// Aggressive mode message 1 (RFC 2409 section 5): HDR, SA, KE, N, ID.
pub const AGGRESSIVE_1: Message = Message {
    name: "aggressive mode 1",
    protected: false,
    first: Some(SA),
    last: None,
    rules: &[
        rule(SA, 1, 1),
        rule(KE, 1, 1),
        rule(NONCE, 1, 1),
        rule(ID, 1, 1),
        rule(CERT_REQUEST, 0, 64),
        rule(VENDOR_ID, 0, 64),
    ],
    tolerant: true,
};

/// Aggressive mode message 2: HDR, SA, KE, N, ID, HASH, or with signatures \[CERT,\] SIG in its place.
pub const AGGRESSIVE_2: Message = Message {
    name: "aggressive mode 2",
    protected: false,
    first: Some(SA),
    last: None,
    rules: &[
        rule(SA, 1, 1),
        rule(KE, 1, 1),
        rule(NONCE, 1, 1),
        rule(ID, 1, 1),
        rule(HASH, 0, 1),
        rule(SIG, 0, 1),
        rule(CERT, 0, 16),
        rule(CERT_REQUEST, 0, 64),
        rule(VENDOR_ID, 0, 64),
        rule(NAT_D, 0, 8),
    ],
    tolerant: true,
};

/// Aggressive mode message 3: HDR, HASH, or \[CERT,\] SIG. It may be encrypted.
pub const AGGRESSIVE_3: Message = Message {
    name: "aggressive mode 3",
    protected: false,
    first: None,
    last: None,
    rules: &[
        rule(HASH, 0, 1),
        rule(SIG, 0, 1),
        rule(CERT, 0, 16),
        rule(NOTIFICATION, 0, 8),
        rule(VENDOR_ID, 0, 64),
        rule(NAT_D, 0, 8),
    ],
    tolerant: true,
};

/// Informational exchange in clear (RFC 2409 section 5.7): HDR, N/D.
pub const NOTICE_CLEAR: Message = Message {
    name: "notice in clear",
    protected: false,
    first: None,
    last: None,
    rules: &[rule(NOTIFICATION, 0, 8), rule(DELETE, 0, 8)],
    tolerant: true,
};

/// Informational exchange: HDR*, HASH(1), N/D.
pub const NOTICE: Message = Message {
    name: "notice",
    protected: true,
    first: Some(HASH),
    last: None,
    rules: &[rule(HASH, 1, 1), rule(NOTIFICATION, 0, 8), rule(DELETE, 0, 8)],
    tolerant: true,
};

/// GROUPKEY-PULL message 1 (RFC 6407 section 3.2): HDR*, HASH(1), Ni, ID.
pub const PULL_1: Message = Message {
    name: "GROUPKEY-PULL 1",
    protected: true,
    first: Some(HASH),
    last: None,
    rules: &[rule(HASH, 1, 1), rule(NONCE, 1, 1), rule(ID, 1, 1), rule(VENDOR_ID, 0, 64)],
    tolerant: false,
};

/// GROUPKEY-PULL message 2: HDR*, HASH(2), Nr, SA. The SEQ may stand here or in message 4.
pub const PULL_2: Message = Message {
    name: "GROUPKEY-PULL 2",
    protected: true,
    first: Some(HASH),
    last: None,
    rules: &[
        rule(HASH, 1, 1),
        rule(NONCE, 1, 1),
        rule(SA, 1, 1),
        rule(SAK, 0, 1),
        rule(GAP, 0, 1),
        rule(SAT, 0, 1000),
        rule(SEQ, 0, 1),
        rule(VENDOR_ID, 0, 64),
    ],
    tolerant: false,
};

/// GROUPKEY-PULL message 3: HDR*, HASH(3) \[, GAP\].
pub const PULL_3: Message = Message {
    name: "GROUPKEY-PULL 3",
    protected: true,
    first: Some(HASH),
    last: None,
    rules: &[rule(HASH, 1, 1), rule(GAP, 0, 1), rule(VENDOR_ID, 0, 64)],
    tolerant: false,
};

/// GROUPKEY-PULL message 4: HDR*, HASH(4), \[SEQ,\] KD.
pub const PULL_4: Message = Message {
    name: "GROUPKEY-PULL 4",
    protected: true,
    first: Some(HASH),
    last: None,
    rules: &[rule(HASH, 1, 1), rule(SEQ, 0, 1), rule(KD, 1, 1), rule(VENDOR_ID, 0, 64)],
    tolerant: false,
};

/// GROUPKEY-PUSH (RFC 6407 section 4): HDR*, SEQ, \[D,\] SA, KD, SIG. Without SA and KD it only deletes.
pub const PUSH: Message = Message {
    name: "GROUPKEY-PUSH",
    protected: true,
    first: Some(SEQ),
    last: Some(SIG),
    rules: &[
        rule(SEQ, 1, 1),
        rule(DELETE, 0, 64),
        rule(SA, 0, 1),
        rule(SAK, 0, 1),
        rule(GAP, 0, 1),
        rule(SAT, 0, 1000),
        rule(KD, 0, 1),
        rule(SIG, 1, 1),
        rule(VENDOR_ID, 0, 64),
    ],
    tolerant: false,
};

/// GROUPKEY-PUSH acknowledgement (RFC 8263 section 3): HDR, HASH, SEQ, ID.
pub const PUSH_ACK: Message = Message {
    name: "GROUPKEY-PUSH-ACK",
    protected: false,
    first: Some(HASH),
    last: Some(ID),
    rules: &[rule(HASH, 1, 1), rule(SEQ, 1, 1), rule(ID, 1, 1)],
    tolerant: false,
};

impl Message {
    /// Does a message with these payloads follow the table?
    ///
    /// # Errors
    /// Which payload is missing, too many, or out of place.
    pub fn check(&self, payloads: &[RawPayload<'_>]) -> Result<(), DecodeError> {
        let misplaced = |what| Err(DecodeError { at: 0, what });
        if self.first.is_some_and(|kind| payloads.first().map(|p| p.kind) != Some(kind)) {
            return misplaced("another payload should come first");
        }
        if self.last.is_some_and(|kind| payloads.last().map(|p| p.kind) != Some(kind)) {
            return misplaced("another payload should come last");
        }
        for rule in self.rules {
            let count = payloads.iter().filter(|p| p.kind == rule.payload).count();
            if count < rule.min {
                return misplaced("a payload is missing");
            }
            if count > rule.max {
                return misplaced("too many payloads of a type");
            }
        }
        let unknown = |p: &&RawPayload<'_>| self.rules.iter().all(|r| r.payload != p.kind);
        match payloads.iter().find(unknown) {
            Some(p) if !self.tolerant => Err(DecodeError { at: p.at, what: "a payload that may not stand here" }),
            Some(_) | None => Ok(()),
        }
    }
}

/// The body of the first payload of a type.
#[must_use]
pub fn body<'a>(payloads: &[RawPayload<'a>], kind: u8) -> Option<&'a [u8]> {
    payloads.iter().find(|p| p.kind == kind).map(|p| p.body)
}

/// The bodies of all payloads of a type, in order.
pub fn bodies<'a, 'p>(payloads: &'p [RawPayload<'a>], kind: u8) -> impl Iterator<Item = &'a [u8]> + use<'a, 'p> {
    payloads.iter().filter(move |p| p.kind == kind).map(|p| p.body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payloads(kinds: &[u8]) -> Vec<RawPayload<'static>> {
        kinds.iter().map(|k| RawPayload { kind: *k, next: 0, flags: 0, body: &[], at: 0 }).collect()
    }

    #[test]
    fn messages_follow_their_tables() {
        assert!(PULL_1.check(&payloads(&[HASH, NONCE, ID])).is_ok());
        assert!(PULL_1.check(&payloads(&[HASH, ID, NONCE])).is_ok());
        assert!(PULL_1.check(&payloads(&[NONCE, HASH, ID])).is_err());
        assert!(PULL_1.check(&payloads(&[HASH, NONCE])).is_err());
        assert!(PULL_1.check(&payloads(&[HASH, NONCE, ID, ID])).is_err());
        assert!(PULL_1.check(&payloads(&[HASH, NONCE, ID, KD])).is_err());
        assert!(MAIN_SA.check(&payloads(&[SA, VENDOR_ID, 130])).is_ok());
        assert!(PUSH.check(&payloads(&[SEQ, DELETE, SA, KD, SIG])).is_ok());
        assert!(PUSH.check(&payloads(&[SEQ, SA, KD, SIG, DELETE])).is_err());
        assert!(PUSH_ACK.check(&payloads(&[HASH, SEQ, ID])).is_ok());
    }
}
