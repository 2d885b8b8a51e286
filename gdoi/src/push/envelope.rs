//! The envelope of a push: its encryption and its signature, in every reading of RFC 6407 that is safe.
//!
//! Whatever the reading, the KEK encrypts and the signature covers "rekey", the cookie pair and all payloads in front of
//! it, so that no reading lets a signature stand for anything else. The order of steps when a push is opened is that of
//! RFC 6407 section 7.3.5: decryption and form, number, signature.

use keyferry_crypto::{
    BlockCipher, CryptoError, DigestSignature, KeyKind, Secret, SignatureForm, SignatureScheme, VerifyingKey,
};
use keyferry_model::reading::{Reading, Readings};
use keyferry_wire::{Decode, Header, RawPayload};

use crate::message::{self, Iv, Plain, SealError};
use crate::policy::tree::secret_part;
use crate::reject::Reject;
use crate::wire::registry::{flag, payload};
use crate::wire::rules::{self, PUSH};
use crate::wire::seq::Seq;

/// What stands in front of everything that is signed (RFC 6407 section 4).
const SIGNED_PREFIX: &[u8] = b"rekey";

/// Readings that say what a signature covers; all combinations are tried.
const COVERAGE: [Reading; 5] =
    [Reading::SigNul, Reading::SigUnpaddedLength, Reading::SigClearFlags, Reading::SigHashedTwice, Reading::SigRaw];

/// What protects a push: the cipher, IV and key, the way to sign.
pub(crate) struct Sealing<'a> {
    pub(crate) cipher: BlockCipher,
    /// IV and KEK.
    pub(crate) keymat: &'a [u8],
    pub(crate) scheme: SignatureScheme,
    pub(crate) sends: Readings,
}

impl Sealing<'_> {
    /// What is signed, and how, of a chain of payloads whose last one names SIG as the next.
    pub(crate) fn covered(&self, header: &Header, chain: &[u8], signature_len: usize) -> (SignatureForm, Secret) {
        let plain_len = chain.len() + 4 + signature_len;
        let wire_len = message::sealed_len(self.cipher, plain_len);
        let octets = covered_header(self.sends, header, wire_len, plain_len);
        let parts = [SIGNED_PREFIX, nul(self.sends), &octets, chain];
        let digest = || Secret::new(self.scheme.hash().digest(&parts));
        if self.sends.has(Reading::SigRaw) {
            (SignatureForm::Digest(DigestSignature::RsaRaw), digest())
        } else if self.sends.has(Reading::SigHashedTwice) {
            (SignatureForm::Scheme(self.scheme), digest())
        } else {
            (SignatureForm::Scheme(self.scheme), Secret::new(parts.concat()))
        }
    }

    /// Encrypts the chain with its signature behind it.
    pub(crate) fn seal(&self, header: &Header, chain: &[u8], signature: &[u8]) -> Result<Vec<u8>, SealError> {
        let length = u16::try_from(4 + signature.len()).map_err(|_| SealError::TooLong)?;
        let mut signed = Vec::with_capacity(chain.len() + 4 + signature.len());
        signed.extend_from_slice(chain);
        signed.extend([0, 0]);
        signed.extend_from_slice(&length.to_be_bytes());
        signed.extend_from_slice(signature);
        let zeros = [0; BlockCipher::MAX_BLOCK];
        let iv = if self.sends.has(Reading::ZeroIv) { &zeros } else { self.keymat };
        let iv = Iv::front(self.cipher, iv).ok_or(CryptoError::Length("the KEK"))?;
        let key = secret_part(self.cipher, self.keymat);
        message::seal(self.cipher, key, &iv, header, &Secret::new(signed)).map(|(datagram, _)| datagram)
    }
}

/// The header as a signature covers it.
fn covered_header(readings: Readings, header: &Header, wire_len: usize, plain_len: usize) -> [u8; Header::LEN] {
    let unpadded = readings.has(Reading::SigUnpaddedLength);
    let len = if unpadded { Header::LEN + plain_len } else { wire_len };
    let flags = if readings.has(Reading::SigClearFlags) { header.flags & !flag::ENCRYPTED } else { header.flags };
    Header { flags, ..*header }.octets(u32::try_from(len).unwrap_or(u32::MAX))
}

fn nul(readings: Readings) -> &'static [u8] {
    if readings.has(Reading::SigNul) { b"\0" } else { b"" }
}

/// What opens a push.
pub(crate) struct Opening<'a> {
    pub(crate) cipher: BlockCipher,
    /// IV and KEK.
    pub(crate) keymat: &'a Secret,
    /// The last block of the push before, if there was one.
    pub(crate) last_block: Option<Iv>,
    pub(crate) verifier: &'a VerifyingKey,
    pub(crate) scheme: SignatureScheme,
    /// Readings in which the key server was seen before; they are tried first.
    pub(crate) known: Readings,
}

/// A push that is what it says.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) plain: Plain,
    pub(crate) seq: u32,
    pub(crate) readings: Readings,
}

impl Opening<'_> {
    /// Opens a push. `is_new` looks at its number and payloads before the signature is checked.
    pub(crate) fn open(
        &self,
        header: &Header,
        datagram: &[u8],
        is_new: impl FnOnce(u32, &[RawPayload<'_>]) -> bool,
    ) -> Result<Opened, Reject> {
        let noise = Reject::Unauthenticated("push does not decrypt");
        let (plain, mut readings) = self.decrypt(header, &datagram[Header::LEN..]).ok_or(noise)?;
        let seq = {
            let parts = plain.parts().map_err(|_| noise)?;
            let seq = Seq::exact(rules::body(&parts.payloads, payload::SEQ).unwrap_or_default())?.0;
            if !is_new(seq, &parts.payloads) {
                return Err(Reject::Replayed);
            }
            let signature = rules::body(&parts.payloads, payload::SIG).unwrap_or_default();
            let signed = &parts.octets[..parts.octets.len() - 4 - signature.len()];
            let covered = |r: &Readings| {
                let octets = covered_header(*r, header, datagram.len(), parts.octets.len());
                self.is_signed(*r, &[SIGNED_PREFIX, nul(*r), &octets, signed], signature)
            };
            let reading = self.coverages().find(covered).ok_or(Reject::Unauthenticated("signature of a push"))?;
            readings = readings.union(reading);
            seq
        };
        Ok(Opened { plain, seq, readings })
    }

    /// Decrypts, with each IV that there may be. A chain of payloads that begins with SEQ says which is right: another IV
    /// changes the first block alone.
    fn decrypt(&self, header: &Header, body: &[u8]) -> Option<(Plain, Readings)> {
        let keymat = self.keymat.expose();
        let iv = Iv::front(self.cipher, keymat)?;
        let plain = message::open(self.cipher, secret_part(self.cipher, keymat), &iv, header, body).ok()?;
        let fits = |plain: &Plain| plain.parts().is_ok_and(|parts| PUSH.check(&parts.payloads).is_ok());
        if fits(&plain) {
            return Some((plain, Readings::NONE));
        }
        let zeros = [0; BlockCipher::MAX_BLOCK];
        let others = [
            (Reading::ZeroIv, Some(plain.under_iv(&iv, &zeros))),
            (Reading::ChainedIv, self.last_block.as_ref().map(|last| plain.under_iv(&iv, last.octets()))),
            (Reading::PrefixedIv, plain.behind_iv()),
        ];
        let found = others.into_iter().find_map(|(reading, plain)| Some((plain.filter(fits)?, reading)));
        found.map(|(plain, reading)| (plain, Readings::from_iter([reading])))
    }

    /// Readings of what a signature covers: the one seen before, the usual one, then all.
    fn coverages(&self) -> impl Iterator<Item = Readings> + use<> {
        let known: Readings = COVERAGE.into_iter().filter(|r| self.known.has(*r)).collect();
        let all = (0..1u8 << COVERAGE.len()).map(|bits| {
            COVERAGE.into_iter().enumerate().filter(|(i, _)| bits & (1 << i) != 0).map(|(_, r)| r).collect::<Readings>()
        });
        std::iter::once(known).chain(all.filter(move |r| *r != known))
    }

    fn is_signed(&self, readings: Readings, parts: &[&[u8]], signature: &[u8]) -> bool {
        match (readings.has(Reading::SigRaw), readings.has(Reading::SigHashedTwice)) {
            (false, false) => self.verifier.verify(self.scheme, parts, signature),
            (false, true) => {
                let digest = self.scheme.hash().digest(parts);
                self.verifier.verify(self.scheme, &[&digest], signature)
            }
            (true, false) if self.scheme.kind() == KeyKind::Rsa => {
                let digest = self.scheme.hash().digest(parts);
                self.verifier.verify_digest(DigestSignature::RsaRaw, &digest, signature)
            }
            (true, _) => false,
        }
    }
}
