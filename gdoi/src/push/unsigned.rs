//! A GROUPKEY-PUSH that is made but for its signature, and so neither encrypted nor sent.
//!
//! It can be stored: what a plan has decided must reach the members, whatever happens before the signature is there.

use std::sync::Arc;

use keyferry_crypto::{BlockCipher, Secret, SignatureScheme, SigningKey, ToSign};
use keyferry_model::policy::GdoiRekey;
use keyferry_model::reading::Readings;
use keyferry_model::store::SecretRecord;
use keyferry_wire::Header;
use serde::{Deserialize, Serialize};

use super::envelope::Sealing;
use super::render::RenderError;

/// The length that a header without a body says.
#[allow(clippy::cast_possible_truncation)]
const HEADER_ALONE: u32 = Header::LEN as u32;

/// A message that waits for its signature.
#[derive(Serialize, Deserialize)]
pub struct Unsigned {
    header: Vec<u8>,
    /// The payloads in front of SIG.
    chain: SecretRecord,
    cipher: BlockCipher,
    /// IV and KEK.
    keymat: SecretRecord,
    sends: Readings,
    scheme: SignatureScheme,
    /// Octets of the signature.
    len: usize,
    /// The key that signs, in PEM: it may have been replaced when the record is read.
    pem: SecretRecord,
    /// The key, where it is still at hand.
    #[serde(skip)]
    key: Option<Arc<SigningKey>>,
}

impl Unsigned {
    pub(super) fn new(gdoi: &GdoiRekey, keymat: &Secret, sends: Readings, header: &Header, chain: &Secret) -> Self {
        Self {
            header: header.octets(HEADER_ALONE).to_vec(),
            chain: SecretRecord::of(chain),
            cipher: gdoi.cipher,
            keymat: SecretRecord::of(keymat),
            sends,
            scheme: gdoi.scheme,
            len: gdoi.signer.signature_len(),
            pem: SecretRecord::of(&gdoi.signer.to_pem()),
            key: Some(Arc::clone(&gdoi.signer)),
        }
    }

    fn sealing(&self) -> Sealing<'_> {
        Sealing { cipher: self.cipher, keymat: self.keymat.expose(), scheme: self.scheme, sends: self.sends }
    }

    fn header(&self) -> Result<Header, RenderError> {
        Header::decode(&self.header).map(|(header, _)| header).map_err(|_| RenderError::NotPrepared)
    }

    /// The signature to make.
    ///
    /// # Errors
    /// A record that is none of ours.
    pub fn to_sign(&self) -> Result<ToSign, RenderError> {
        let key = match &self.key {
            Some(key) => Arc::clone(key),
            None => Arc::new(SigningKey::from_pem(self.pem.expose())?),
        };
        let (how, octets) = self.sealing().covered(&self.header()?, self.chain.expose(), self.len);
        Ok(ToSign { key, how, octets, len: self.len })
    }

    /// The message, encrypted.
    ///
    /// # Errors
    /// It cannot be encrypted.
    pub fn finish(&self, signature: &[u8]) -> Result<Vec<u8>, RenderError> {
        Ok(self.sealing().seal(&self.header()?, self.chain.expose(), signature)?)
    }
}
