//! A cipher, then a MAC over everything in front of the ICV: AES-CBC (RFC 3602) with HMAC (RFC 2404, RFC 4868).

use arrayvec::ArrayVec;
use aws_lc_rs::cipher::{AES_128, AES_192, AES_256, Algorithm, DecryptingKey, DecryptionContext, UnboundCipherKey};
use keyferry_crypto::{CryptoError, Integrity};

use super::lanes::cbc::{BLOCK, Encrypting, Lane};
use super::mac::BurstMac;
use super::{HEADER_LEN, IvSource, Job, Layout, Transform, split_icv};
use crate::burst::BURST;

/// AES-CBC with HMAC. Its IVs are unpredictable.
pub(super) struct CbcHmac {
    encrypting: Encrypting,
    decrypting: DecryptingKey,
    mac: BurstMac,
}

impl CbcHmac {
    pub(super) fn new(key: &[u8], integrity: Integrity, mac: &[u8]) -> Result<Self, CryptoError> {
        let unbound = UnboundCipherKey::new(aes(key.len())?, key).map_err(|_| CryptoError::Length("key"))?;
        Ok(Self {
            encrypting: Encrypting::new(key)?,
            decrypting: DecryptingKey::cbc(unbound).map_err(|_| CryptoError::Length("key"))?,
            mac: BurstMac::new(integrity, mac),
        })
    }

    /// Encrypts up to a burst side by side.
    fn encrypt(&self, burst: &mut [Job<'_>], ivs: &mut IvSource) {
        let mut lanes: ArrayVec<Lane<'_>, BURST> = ArrayVec::new();
        for job in burst {
            let (protected, _) = split_icv(job.esp, self.mac.icv_len());
            let lane = parts(protected).and_then(|(field, body)| {
                let iv = ivs.next()?;
                *field = iv;
                match body.as_chunks_mut() {
                    (blocks, []) => Ok(Lane { iv, blocks }),
                    _ => Err(CryptoError::Length("data")),
                }
            });
            job.done = lane.is_ok();
            lanes.extend(lane);
        }
        self.encrypting.cbc(&mut lanes);
    }

    /// Decrypts what is behind the header of an authentic packet.
    fn decrypt(&self, esp: &mut [u8]) -> Result<(), CryptoError> {
        let (protected, _) = split_icv(esp, self.mac.icv_len());
        let (iv, body) = parts(protected)?;
        self.decrypting
            .decrypt(body, DecryptionContext::Iv128((&*iv).into()))
            .map_err(|_| CryptoError::Length("data"))?;
        Ok(())
    }
}

impl Transform for CbcHmac {
    fn layout(&self) -> Layout {
        Layout { iv: BLOCK, block: BLOCK, icv: self.mac.icv_len() }
    }

    fn library(&self) -> &'static str {
        self.mac.library("RustCrypto, AWS-LC and OpenSSL", "RustCrypto, AWS-LC and OpenSSL; hashes side by side")
    }

    fn seal(&self, burst: &mut [Job<'_>], ivs: &mut IvSource) {
        self.mac.seal(burst, |burst| self.encrypt(burst, ivs));
    }

    fn open(&self, burst: &mut [Job<'_>]) {
        self.mac.open(burst, |esp| self.decrypt(esp));
    }
}

/// The IV and what stands behind it.
pub(super) fn parts<const IV: usize>(protected: &mut [u8]) -> Result<(&mut [u8; IV], &mut [u8]), CryptoError> {
    let esp = protected.get_mut(HEADER_LEN..).ok_or(CryptoError::Unauthentic)?;
    esp.split_first_chunk_mut().ok_or(CryptoError::Unauthentic)
}

pub(super) fn aes(key_len: usize) -> Result<&'static Algorithm, CryptoError> {
    match key_len {
        16 => Ok(&AES_128),
        24 => Ok(&AES_192),
        32 => Ok(&AES_256),
        _ => Err(CryptoError::Length("key")),
    }
}
