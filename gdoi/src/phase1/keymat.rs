//! Keying material of phase 1 (RFC 2409 section 5 and appendix B).

use keyferry_crypto::{Hash, Prf, Random, Secret};

use super::suite::Suite;
use crate::message::Iv;

/// What both sides have said in the clear, under one suite.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transcript<'a> {
    pub(crate) suite: Suite,
    /// Initiator's cookie, then the responder's.
    pub(crate) cookies: &'a [u8; 16],
    /// Body of the initiator's SA payload.
    pub(crate) sa_i: &'a [u8],
    /// Public values, as in the KE payloads.
    pub(crate) ke_i: &'a [u8],
    pub(crate) ke_r: &'a [u8],
    pub(crate) nonce_i: &'a [u8],
    pub(crate) nonce_r: &'a [u8],
}

/// Keys of a phase 1 exchange.
#[derive(Debug)]
pub(crate) struct Keys {
    pub(crate) suite: Suite,
    skeyid: Secret,
    /// Authenticates phase 2.
    pub(crate) skeyid_a: Secret,
    /// Encrypts (appendix B's Ka).
    pub(crate) encryption: Secret,
    /// IV of the first encrypted message.
    pub(crate) iv: Iv,
}

/// What the keys are made of beside the key exchange.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Basis<'a> {
    /// A pre-shared key (RFC 2409 section 5.4).
    PreShared(&'a Secret),
    /// Nothing, where signatures authenticate (section 5.1).
    Signatures,
}

impl Transcript<'_> {
    /// Derives keys.
    pub(crate) fn keys(&self, basis: Basis<'_>, shared: &Secret) -> Keys {
        let prf = self.suite.prf();
        let skeyid = match basis {
            Basis::PreShared(psk) => prf.compute(psk.expose(), &[self.nonce_i, self.nonce_r]),
            Basis::Signatures => prf.compute(&[self.nonce_i, self.nonce_r].concat(), &[shared.expose()]),
        };
        let of = |before: &[u8], n: u8| prf.compute(skeyid.expose(), &[before, shared.expose(), self.cookies, &[n]]);
        let skeyid_d = of(&[], 0);
        let skeyid_a = of(skeyid_d.expose(), 1);
        let skeyid_e = of(skeyid_a.expose(), 2);
        let iv = first_iv(self.suite, &[self.ke_i, self.ke_r]);
        Keys { suite: self.suite, encryption: lengthen(self.suite, skeyid_e), skeyid, skeyid_a, iv }
    }

    /// HASH_I: what the initiator proves itself with; the hash is the negotiated one, but where a signature has its own.
    pub(crate) fn hash_i(&self, keys: &Keys, id: &[u8], hash: Hash) -> Secret {
        let (i, r) = self.cookies.split_at(8);
        let prf = Prf::from_hash(hash);
        prf.compute(keys.skeyid.expose(), &[self.ke_i, self.ke_r, i, r, self.sa_i, id])
    }

    /// HASH_R: what the responder proves itself with.
    pub(crate) fn hash_r(&self, keys: &Keys, id: &[u8], hash: Hash) -> Secret {
        let (i, r) = self.cookies.split_at(8);
        let prf = Prf::from_hash(hash);
        prf.compute(keys.skeyid.expose(), &[self.ke_r, self.ke_i, r, i, self.sa_i, id])
    }
}

/// Cuts or stretches SKEYID_e to the cipher's key (RFC 2409 appendix B).
fn lengthen(suite: Suite, skeyid_e: Secret) -> Secret {
    let want = suite.cipher.key_len();
    if skeyid_e.len() >= want {
        return Secret::copy_from(&skeyid_e.expose()[..want]);
    }
    let prf = suite.prf();
    let mut key = Vec::with_capacity(want + prf.output_len());
    let mut last = prf.compute(skeyid_e.expose(), &[&[0]]);
    loop {
        key.extend_from_slice(last.expose());
        if key.len() >= want {
            key.truncate(want);
            return Secret::new(key);
        }
        last = prf.compute(skeyid_e.expose(), &[last.expose()]);
    }
}

/// The first IV of an exchange under the phase 1 SA (RFC 2409 appendix B).
pub(crate) fn phase2_iv(suite: Suite, last_block: &Iv, message_id: u32) -> Iv {
    first_iv(suite, &[last_block.octets(), &message_id.to_be_bytes()])
}

/// As much of a hash as the cipher has a block.
fn first_iv(suite: Suite, parts: &[&[u8]]) -> Iv {
    Iv::front(suite.cipher, &suite.hash.digest(parts)).expect("every hash is longer than a block")
}

/// A cookie, not zero.
pub(crate) fn cookie(rng: &mut dyn Random) -> [u8; 8] {
    let mut cookie = [0; 8];
    // Four zero octets in front would read as a non-ESP marker.
    while cookie[..4] == [0; 4] {
        rng.fill(&mut cookie);
    }
    cookie
}

#[cfg(test)]
mod tests {
    use keyferry_crypto::{BlockCipher, Hash, KeGroup};

    use crate::phase1::method::Method;

    use super::*;

    fn keys(cipher: BlockCipher, hash: Hash) -> (String, String, String, String) {
        let cookies: Vec<u8> = (0x10..0x20).collect();
        let cookies = cookies.as_slice().try_into().expect("16 octets");
        let transcript = Transcript {
            suite: Suite { cipher, hash, group: KeGroup::Ecp256, method: Method::PreSharedKey },
            cookies,
            sa_i: b"the SA payload",
            ke_i: &[1; 64],
            ke_r: &[2; 64],
            nonce_i: &[3; 16],
            nonce_r: &[4; 24],
        };
        let psk = Secret::copy_from(b"preshared");
        let keys = transcript.keys(Basis::PreShared(&psk), &Secret::copy_from(&[5; 32]));
        (
            hex::encode(keys.skeyid_a.expose()),
            hex::encode(keys.encryption.expose()),
            hex::encode(keys.iv.octets()),
            hex::encode(transcript.hash_i(&keys, b"id", hash).expose())
                + &hex::encode(transcript.hash_r(&keys, b"id", hash).expose()),
        )
    }

    // Expected values: tests/vectors/phase1.py at the top of this crate, with Python's hmac and hashlib.
    #[test]
    fn keys_are_those_of_an_independent_computation() {
        for line in include_str!("../../tests/vectors/phase1.txt").lines() {
            let mut fields = line.split(' ');
            let mut next = || fields.next().expect("six fields");
            let cipher = if next() == "16" { BlockCipher::Aes128Cbc } else { BlockCipher::Aes256Cbc };
            let hash = match next() {
                "sha1" => Hash::Sha1,
                "sha256" => Hash::Sha256,
                "sha384" => Hash::Sha384,
                other => panic!("unknown hash {other}"),
            };
            let expected = (next().to_owned(), next().to_owned(), next().to_owned(), next().to_owned());
            assert_eq!(keys(cipher, hash), expected);
        }
    }

    #[test]
    fn phase_2_ivs_depend_on_the_message_id() {
        let (cipher, hash, group) = (BlockCipher::Aes128Cbc, Hash::Sha1, KeGroup::Ecp256);
        let suite = Suite { cipher, hash, group, method: Method::PreSharedKey };
        let last = Iv::front(suite.cipher, &[1; 16]).expect("a block");
        // sha1(16 * 0x01 | 0x00000007), first 16 octets, by Python's hashlib.
        assert_eq!(
            hex::encode(phase2_iv(suite, &last, 7).octets()),
            include_str!("../../tests/vectors/phase2_iv.txt").trim()
        );
        assert_ne!(phase2_iv(suite, &last, 7), phase2_iv(suite, &last, 8));
    }
}
