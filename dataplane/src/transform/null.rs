//! A MAC alone (RFC 2410 with RFC 2404 or RFC 4868): packets stay readable, everything in front of the ICV is authenticated.

use keyferry_crypto::{CryptoError, Integrity, IntegrityKey};

use super::{IvSource, Layout, Single, split_icv};

/// No cipher, and so no IV.
pub(super) struct NullHmac(IntegrityKey);

impl NullHmac {
    pub(super) fn new(integrity: Integrity, key: &[u8]) -> Self {
        Self(IntegrityKey::new(integrity, key))
    }
}

impl Single for NullHmac {
    const LIBRARY: &'static str = "OpenSSL";

    fn layout(&self) -> Layout {
        Layout { iv: 0, block: 4, icv: self.0.algorithm().icv_len() }
    }

    fn seal(&self, esp: &mut [u8], _: Option<u64>, _: &mut IvSource) -> Result<(), CryptoError> {
        if esp.len() < self.0.algorithm().icv_len() {
            return Err(CryptoError::Length("data"));
        }
        let (clear, icv) = split_icv(esp, self.0.algorithm().icv_len());
        self.0.compute_into(&[clear], icv);
        Ok(())
    }

    fn open(&self, esp: &mut [u8]) -> Result<(), CryptoError> {
        let (clear, icv) = split_icv(esp, self.0.algorithm().icv_len());
        if self.0.verify(&[clear], icv) { Ok(()) } else { Err(CryptoError::Unauthentic) }
    }
}
