//! What the signature of a GSA_REKEY covers (RFC 9838 section 2.4.1.1).
//!
//! ```text
//!  A: IKE header with AdjustedLen | SK header with AdjustedPldLen     (as if nothing were encrypted or padded)
//!  P: the payloads inside, AUTH complete but for the signature value
//! ```

use keyferry_crypto::{KeyKind, Secret, SignatureAlgorithm, SigningKey, VerifyingKey};
use keyferry_wire::{Decode, Header};

use crate::reject::Reject;
use crate::rekey::group::Authentication;
use crate::wire::auth::{Auth, SignatureData};
use crate::wire::registry::{AuthMethod, PayloadKind};
use crate::wire::sk::{Opened, PAYLOAD_HEADER};

/// Octets of a signature value that a message is prepared for. ECDSA values are DER here, whose length varies; this is the
/// likeliest (reading 2).
pub(crate) fn value_len(signer: &SigningKey) -> usize {
    match signer.kind() {
        KeyKind::EcP256 => 71,
        KeyKind::EcP384 => 103,
        KeyKind::EcP521 => 139,
        KeyKind::Rsa | KeyKind::Ed25519 | KeyKind::Ed448 => signer.signature_len(),
    }
}

/// The chunk A for `inner_len` octets of payloads. `flags` is the second octet of the Encrypted payload's header.
pub(crate) fn chunk_a(header: &Header, first: u8, flags: u8, inner_len: usize) -> Vec<u8> {
    let header = Header { next: PayloadKind::SK.0, ..*header };
    let total = Header::LEN + PAYLOAD_HEADER + inner_len;
    let mut chunk = header.octets(u32::try_from(total).unwrap_or(u32::MAX)).to_vec();
    chunk.extend([first, flags]);
    // A message whose payloads exceed this cannot have been sent.
    chunk.extend(u16::try_from(PAYLOAD_HEADER + inner_len).unwrap_or(u16::MAX).to_be_bytes());
    chunk
}

/// Checks the AUTH payload that stands at `auth_at` (its generic header) of the payloads inside, with `auth_body`.
///
/// RFC 7427 puts the algorithm into Authentication Data, so "zeroed" can be read in three ways; all are taken, and the
/// one met is logged (reading 1).
pub(crate) fn verify(
    opened: &Opened,
    auth_at: usize,
    auth_body: &[u8],
    authentication: &Authentication,
) -> Result<(), Reject> {
    const FORGED: Reject = Reject::Unauthenticated("wrong signature");
    let Authentication::Signature { algorithm, key } = authentication else {
        return Err(Reject::Misbehaved("AUTH under implicit authentication"));
    };
    let auth = Auth::exact(auth_body)?;
    if auth.method != AuthMethod::DIGITAL_SIGNATURE {
        return Err(Reject::Unauthenticated("not a digital signature"));
    }
    let data = SignatureData::exact(&auth.data)?;
    if SignatureAlgorithm::from_der(data.algorithm) != Some(*algorithm) {
        return Err(Reject::Unauthenticated("not the group's signature algorithm"));
    }
    let inner = opened.inner.expose();
    let body_at = auth_at + PAYLOAD_HEADER;
    let end = body_at + auth_body.len();
    let value_at = end - data.value.len();
    // Method and three reserved octets stand before Authentication Data.
    let data_at = body_at + 4;
    let zeroed = |from: usize| {
        let mut p = inner.to_vec();
        p[from..end].fill(0);
        p
    };
    let readings: [(&str, &dyn Fn() -> Vec<u8>); 3] = [
        ("value zeroed", &|| zeroed(value_at)),
        ("value absent", &|| [&inner[..value_at], &inner[end..]].concat()),
        ("data zeroed", &|| zeroed(data_at)),
    ];
    for (reading, p) in readings {
        if check(key, *algorithm, opened, p(), data.value) {
            tracing::debug!(reading, "rekey signature verified");
            return Ok(());
        }
    }
    Err(FORGED)
}

/// An ECDSA value may have any length: what is signed has the length that came.
fn check(key: &VerifyingKey, algorithm: SignatureAlgorithm, opened: &Opened, p: Vec<u8>, value: &[u8]) -> bool {
    let a = chunk_a(&opened.header, opened.first, opened.flags, opened.inner.len());
    let octets = Secret::new([a, p].concat());
    key.verify_named(algorithm, octets.expose(), value)
}
