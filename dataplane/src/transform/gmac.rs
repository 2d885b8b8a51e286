//! AES-GMAC (RFC 4543): packets stay readable, everything in front of the ICV is authenticated.

use aws_lc_rs::aead::{Aad, Algorithm, LessSafeKey};
use keyferry_crypto::{Aead, CryptoError};

use super::combined::Salted;
use super::{HEADER_LEN, IvSource, Layout, Single, split_icv};

/// Nonces as with GCM.
pub(super) struct Gmac(Salted);

impl Gmac {
    pub(super) fn new(algorithm: &'static Algorithm, key: &[u8], salt: &[u8]) -> Result<Self, CryptoError> {
        Salted::new(algorithm, key, salt).map(Self)
    }

    fn key(&self) -> &LessSafeKey {
        &self.0.key
    }
}

impl Single for Gmac {
    const LIBRARY: &'static str = "AWS-LC";

    fn layout(&self) -> Layout {
        Layout { iv: Aead::IV, block: 4, icv: self.key().algorithm().tag_len() }
    }

    fn seal(&self, esp: &mut [u8], iv: Option<u64>, _: &mut IvSource) -> Result<(), CryptoError> {
        let iv = iv.ok_or(CryptoError::Unauthentic)?.to_be_bytes();
        let (clear, icv) = split_icv(esp, self.key().algorithm().tag_len());
        clear.get_mut(HEADER_LEN..HEADER_LEN + Aead::IV).ok_or(CryptoError::Unauthentic)?.copy_from_slice(&iv);
        let tag = self
            .key()
            .seal_in_place_separate_tag(self.0.nonce(iv), Aad::from(clear), &mut [])
            .map_err(|_| CryptoError::Unauthentic)?;
        icv.copy_from_slice(tag.as_ref());
        Ok(())
    }

    fn open(&self, esp: &mut [u8]) -> Result<(), CryptoError> {
        let (clear, icv) = split_icv(esp, self.key().algorithm().tag_len());
        let iv = clear.get(HEADER_LEN..).and_then(|b| b.first_chunk()).copied().ok_or(CryptoError::Unauthentic)?;
        match self.key().open_in_place(self.0.nonce(iv), Aad::from(clear), icv) {
            Ok(_) => Ok(()),
            Err(_) => Err(CryptoError::Unauthentic),
        }
    }
}
