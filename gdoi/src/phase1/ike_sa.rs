//! The SA that phase 1 makes: what is sent under it is encrypted and begins with a hash.

use keyferry_crypto::{Random, Secret, ct_eq};
use keyferry_wire::Header;

use super::keymat::{Keys, phase2_iv};
use crate::keylog::hex;
use crate::message::{self, Iv, Payloads, Plain, SealError};
use crate::reject::Reject;
use crate::wire::delete::Delete;
use crate::wire::notification::Notification;
use crate::wire::opaque::Hash;
use crate::wire::registry::{Doi, NotifyType, exchange, flag, payload, phase1};
use crate::wire::rules::{self, Message};

/// A phase 1 SA, and during phase 1 what is about to become one.
#[derive(Debug)]
pub(crate) struct IkeSa {
    cookies: [u8; 16],
    keys: Keys,
    /// Last block of ciphertext of phase 1; IVs of phase 2 come from it.
    last_block: Iv,
}

impl IkeSa {
    pub(crate) fn new(cookies: [u8; 16], keys: Keys) -> Self {
        Self { cookies, last_block: keys.iv, keys }
    }

    pub(crate) fn cookies(&self) -> &[u8; 16] {
        &self.cookies
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Phase 1 has gone on to this block of ciphertext.
    pub(crate) fn chain_to(&mut self, last_block: Iv) {
        self.last_block = last_block;
    }

    /// Line for tshark's `ikev1_decryption_table`: initiator's cookie and Ka.
    pub(crate) fn key_log_line(&self) -> String {
        format!("{},{}", hex(&self.cookies[..8]), hex(self.keys.encryption.expose()))
    }

    /// Encrypts a message of phase 1 with the chain's present IV.
    pub(crate) fn seal_phase1(&self, kind: u8, iv: &Iv, payloads: &Payloads) -> Result<(Vec<u8>, Iv), SealError> {
        let header = message::header(&self.cookies, kind, flag::ENCRYPTED, 0, payloads.first());
        message::seal(self.keys.suite.cipher, self.keys.encryption.expose(), iv, &header, &payloads.chain(0)?)
    }

    /// Decrypts a message of phase 1 with the chain's present IV.
    pub(crate) fn open_phase1(&self, header: &Header, body: &[u8]) -> Result<Plain, Reject> {
        let (cipher, key) = (self.keys.suite.cipher, self.keys.encryption.expose());
        Ok(message::open(cipher, key, &self.last_block, header, body)?)
    }

    /// The first IV of an exchange under this SA.
    pub(crate) fn iv(&self, message_id: u32) -> Iv {
        phase2_iv(self.keys.suite, &self.last_block, message_id)
    }

    /// Encrypts a message of phase 2, behind a hash over its message ID, nonces of earlier messages and its payloads.
    /// Returns the datagram and the IV of the next message of the exchange.
    pub(crate) fn seal(
        &self,
        kind: u8,
        message_id: u32,
        iv: &Iv,
        nonces: &[&[u8]],
        payloads: Payloads,
    ) -> Result<(Vec<u8>, Iv), SealError> {
        #[cfg(feature = "fuzzing")]
        let payloads = crate::fuzzing::tampered(kind, payloads);
        let hash = self.hash(message_id, nonces, payloads.chain(0)?.expose());
        let payloads = payloads.behind(payload::HASH, &Hash(hash.expose()));
        let header = message::header(&self.cookies, kind, flag::ENCRYPTED, message_id, payloads.first());
        message::seal(self.keys.suite.cipher, self.keys.encryption.expose(), iv, &header, &payloads.chain(0)?)
    }

    /// Decrypts a message of phase 2, checks which payloads it has and its hash.
    pub(crate) fn open(
        &self,
        header: &Header,
        body: &[u8],
        iv: &Iv,
        nonces: &[&[u8]],
        form: &Message,
    ) -> Result<Plain, Reject> {
        let plain = message::open(self.keys.suite.cipher, self.keys.encryption.expose(), iv, header, body)?;
        {
            let parts = plain.parts()?;
            form.check(&parts.payloads)?;
            let hash = rules::body(&parts.payloads, payload::HASH).unwrap_or_default();
            let expected = self.hash(header.message_id, nonces, &parts.octets[4 + hash.len()..]);
            if !ct_eq(hash, expected.expose()) {
                return Err(Reject::Unauthenticated(form.name));
            }
        }
        Ok(plain)
    }

    fn hash(&self, message_id: u32, nonces: &[&[u8]], payloads: &[u8]) -> Secret {
        let id = message_id.to_be_bytes();
        let mut parts: Vec<&[u8]> = vec![&id];
        parts.extend_from_slice(nonces);
        parts.push(payloads);
        self.keys.suite.prf().compute(self.keys.skeyid_a.expose(), &parts)
    }

    /// A message of the Informational exchange (RFC 2409 section 5.7).
    pub(crate) fn notice(&self, payloads: Payloads, rng: &mut dyn Random) -> Result<Vec<u8>, SealError> {
        self.notice_after(&self.last_block, payloads, rng)
    }

    /// One that follows a message of phase 1 that ended with this block.
    pub(crate) fn notice_after(
        &self,
        last_block: &Iv,
        payloads: Payloads,
        rng: &mut dyn Random,
    ) -> Result<Vec<u8>, SealError> {
        let id = rng.u32().max(1);
        let iv = phase2_iv(self.keys.suite, last_block, id);
        self.seal(exchange::INFORMATIONAL, id, &iv, &[], payloads).map(|(datagram, _)| datagram)
    }

    /// A status notification about this SA.
    pub(crate) fn status<'a>(&'a self, kind: NotifyType, data: &'a [u8]) -> Notification<'a> {
        Notification { doi: Doi::IPSEC, protocol: phase1::PROTO_ISAKMP, kind, spi: &self.cookies, data }
    }

    /// A notification about this SA.
    pub(crate) fn notification(&self, kind: NotifyType, doi: Doi) -> Payloads {
        let n = Notification { doi, protocol: phase1::PROTO_ISAKMP, kind, spi: &self.cookies, data: &[] };
        Payloads::new().with(payload::NOTIFICATION, &n)
    }

    /// A Delete of this SA: DOI ISAKMP, protocol ISAKMP, the cookie pair.
    pub(crate) fn delete(&self) -> Payloads {
        Payloads::new().with(payload::DELETE, &Delete::new(Doi::ISAKMP, phase1::PROTO_ISAKMP, 16, &self.cookies))
    }
}

/// A message of the Informational exchange that nothing protects.
pub(crate) fn notice_in_clear(
    cookies: &[u8; 16],
    payloads: &Payloads,
    rng: &mut dyn Random,
) -> Result<Vec<u8>, SealError> {
    let id = rng.u32().max(1);
    message::clear(&message::header(cookies, exchange::INFORMATIONAL, 0, id, payloads.first()), payloads)
}
