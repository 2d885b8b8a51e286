//! Keys of an IKE SA (RFC 7296 section 2.14; additional key exchanges: RFC 9370 section 2.2.2; postquantum preshared
//! keys: RFC 8784 section 3; the default key wrap key: RFC 9838 section 3.1.1).
//!
//! ```text
//!  Ni, Nr, g^ir -> SKEYSEED -> SK_d | SK_ai | SK_ar | SK_ei | SK_er | SK_pi | SK_pr
//!                              SK_d -> GSK_w
//!  SK_d, Ni, Nr, g^ir -> SKEYSEED of the SA that replaces this one (section 2.18)
//!  SK_d, SK(0), Ni, Nr, SK(1), ..., SK(n) -> the same after additional key exchanges (RFC 9370 section 2.2.4)
//!  SK_d(n-1), Ni, Nr, SK(n) -> SKEYSEED(n), by the same formula
//!  SK_d (of a ticket), Ni, Nr -> SKEYSEED (RFC 5723 section 5.1)
//!  PPK, SK_d', SK_pi', SK_pr' -> SK_d, SK_pi, SK_pr
//! ```

use keyferry_crypto::{Prf, Secret};

use super::Suite;

/// What the default key wrap key of an IKE SA is derived with.
const KEY_WRAP_LABEL: &[u8] = b"Key Wrap for G-IKEv2";

/// What tells keys of a resumed IKE SA from all others that come from SK_d.
const RESUMPTION_LABEL: &[u8] = b"Resumption";

/// SKEYSEED: known once both nonces and the shared secret are.
pub struct Skeyseed {
    seed: Secret,
    suite: Suite,
    nonces: Vec<u8>,
}

/// All keys of an IKE SA.
pub struct IkeKeys {
    /// Encryption (with salt) and integrity, initiator to responder.
    pub initiator: (Secret, Secret),
    /// The same, responder to initiator.
    pub responder: (Secret, Secret),
    /// SK_pi and SK_pr, for AUTH.
    pub proof: (Secret, Secret),
    /// SK_d, which the keys of the SA that replaces this one come from.
    pub derive: Secret,
    /// GSK_w, if a key wrap algorithm was negotiated.
    pub wrap: Option<Secret>,
}

impl Skeyseed {
    /// prf(Ni | Nr, g^ir).
    #[must_use]
    pub fn derive(suite: Suite, nonce_i: &[u8], nonce_r: &[u8], shared: &Secret) -> Self {
        let nonces = [nonce_i, nonce_r].concat();
        Self { seed: suite.prf.compute(&nonces, &[shared.expose()]), suite, nonces }
    }

    /// prf(SK_d (old), g^ir | Ni | Nr), by the PRF `old` of the SA that is replaced (RFC 7296 section 2.18).
    #[must_use]
    pub fn rekey(old: Prf, derive: &Secret, suite: Suite, nonce_i: &[u8], nonce_r: &[u8], shared: &Secret) -> Self {
        Self::replace(old, derive, suite, (nonce_i, nonce_r), (shared, &[]))
    }

    /// The same where more key exchanges followed: prf(SK_d (old), SK(0) | Ni | Nr | SK(1) | ... | SK(n)) (RFC 9370 section 2.2.4).
    #[must_use]
    pub fn replace(
        old: Prf,
        derive: &Secret,
        suite: Suite,
        nonces: (&[u8], &[u8]),
        (first, more): (&Secret, &[Secret]),
    ) -> Self {
        let nonces = [nonces.0, nonces.1].concat();
        let mut parts = vec![first.expose(), &nonces];
        parts.extend(more.iter().map(Secret::expose));
        Self { seed: old.compute(derive.expose(), &parts), suite, nonces }
    }

    /// prf(SK_d (old), "Resumption" | Ni | Nr) of a resumed IKE SA (RFC 5723 section 5.1).
    #[must_use]
    pub fn resume(suite: Suite, derive: &Secret, nonce_i: &[u8], nonce_r: &[u8]) -> Self {
        let nonces = [nonce_i, nonce_r].concat();
        Self { seed: suite.prf.compute(derive.expose(), &[RESUMPTION_LABEL, &nonces]), suite, nonces }
    }

    /// prf+(SKEYSEED, Ni | Nr | SPIi | SPIr), cut into keys.
    #[must_use]
    pub fn expand(self, spi_i: &[u8; 8], spi_r: &[u8; 8]) -> IkeKeys {
        let prf = self.suite.prf;
        let (e, a) = self.suite.protection.key_lens();
        let p = prf.output_len();
        let keys = prf.expand(self.seed.expose(), &[&self.nonces, spi_i, spi_r], 3 * p + 2 * (a + e));
        let mut rest = keys.expose();
        let mut take = |len: usize| {
            let (key, after) = rest.split_at(len);
            rest = after;
            Secret::copy_from(key)
        };
        let (d, ai, ar, ei, er, pi, pr) = (take(p), take(a), take(a), take(e), take(e), take(p), take(p));
        IkeKeys {
            initiator: (ei, ai),
            responder: (er, ar),
            proof: (pi, pr),
            wrap: self.suite.key_wrap.map(|k| key_wrap_key(prf, &d, k.key_len())),
            derive: d,
        }
    }
}

/// A key that a postquantum preshared key is stirred into: prf+(PPK, key), as long as the key (RFC 8784 section 3).
pub(crate) fn stir(prf: Prf, ppk: &Secret, key: &Secret) -> Secret {
    prf.expand(ppk.expose(), &[key.expose()], key.len())
}

/// GSK_w = prf+(SK_d, "Key Wrap for G-IKEv2").
pub(crate) fn key_wrap_key(prf: Prf, d: &Secret, len: usize) -> Secret {
    prf.expand(d.expose(), &[KEY_WRAP_LABEL], len)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
