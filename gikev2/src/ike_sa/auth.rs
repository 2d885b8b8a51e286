//! What AUTH covers, and AUTH by a shared key (RFC 7296 section 2.15).

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
    /// What is covered of IKE_INTERMEDIATE (RFC 9242 section 3.3.2).
    pub(crate) int_auth: &'a [u8],
}

impl SignedOctets<'_> {
    /// message | nonce | prf(SK_p, id) | IntAuth: what is signed.
    pub(crate) fn octets(&self, prf: Prf, proof: &Secret) -> Secret {
        let id = prf.compute(proof.expose(), &[self.id]);
        Secret::new([self.message, self.nonce, id.expose(), self.int_auth].concat())
    }
}

/// prf(prf(shared key, "Key Pad for IKEv2"), message | nonce | prf(SK_p, id) | IntAuth).
pub(crate) fn shared_key_mac(prf: Prf, psk: &Secret, proof: &Secret, signed: SignedOctets<'_>) -> Secret {
    let key = prf.compute(psk.expose(), &[KEY_PAD]);
    let SignedOctets { message, nonce, id, int_auth } = signed;
    prf.compute(key.expose(), &[message, nonce, prf.compute(proof.expose(), &[id]).expose(), int_auth])
}

/// prf(SK_p, message | nonce | prf(SK_p, id)): AUTH of a resumed IKE SA (RFC 5723 section 4.3.3).
pub(crate) fn resumed_mac(prf: Prf, proof: &Secret, signed: SignedOctets<'_>) -> Secret {
    prf.compute(proof.expose(), &[signed.octets(prf, proof).expose()])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Computed with Python's `hmac` by the formula of RFC 7296 section 2.15.
    #[test]
    fn the_mac_is_that_computed_elsewhere() {
        let nonce: Vec<u8> = (100..132).collect();
        let id = [&[2, 0, 0, 0], b"gm1.example".as_slice()].concat();
        let signed = SignedOctets { message: b"message one", nonce: &nonce, id: &id, int_auth: &[] };
        let psk = Secret::copy_from(b"a secret shared by two");
        let mac = shared_key_mac(Prf::HmacSha256, &psk, &Secret::new(vec![9; 32]), signed);
        assert_eq!(hex::encode(mac.expose()), "62d9e489d47dd6b813feebf3d98dfe647dae20f73bc12361f75eb37dbdfea931");
    }

    /// The same of the formula of RFC 5723 section 4.3.3.
    #[test]
    fn the_mac_of_a_resumed_sa_is_that_computed_elsewhere() {
        let nonce: Vec<u8> = (100..132).collect();
        let id = [&[2, 0, 0, 0], b"gm1.example".as_slice()].concat();
        let signed = SignedOctets { message: b"message one", nonce: &nonce, id: &id, int_auth: &[] };
        let mac = resumed_mac(Prf::HmacSha256, &Secret::new(vec![9; 32]), signed);
        assert_eq!(hex::encode(mac.expose()), "6680d1620c050589f61e7b3dbf171a5ca687fb3e329496dce7b8be543e8660ff");
    }
}
