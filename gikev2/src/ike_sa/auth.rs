//! AUTH by a shared key (RFC 7296 section 2.15).

use keyferry_crypto::{Prf, Secret};

const KEY_PAD: &[u8] = b"Key Pad for IKEv2";

/// What one side's AUTH is computed over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SignedOctets<'a> {
    /// The side's own IKE_SA_INIT message, as sent last.
    pub(crate) message: &'a [u8],
    /// The other side's nonce.
    pub(crate) nonce: &'a [u8],
    /// The side's ID payload, without the generic header.
    pub(crate) id: &'a [u8],
}

/// prf(prf(shared key, "Key Pad for IKEv2"), message | nonce | prf(SK_p, id)).
pub(crate) fn shared_key_mac(prf: Prf, psk: &Secret, proof: &Secret, signed: SignedOctets<'_>) -> Secret {
    let key = prf.compute(psk.expose(), &[KEY_PAD]);
    let id = prf.compute(proof.expose(), &[signed.id]);
    prf.compute(key.expose(), &[signed.message, signed.nonce, id.expose()])
}
