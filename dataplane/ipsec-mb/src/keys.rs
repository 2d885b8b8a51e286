//! Keys, prepared once for many packets. They are wiped when they go.

use zeroize::Zeroize;

use crate::ffi::{self, AES_KEY, AesOctets, GCM_KEY, GcmOctets, HASH_STATE, HashOctets};
use crate::manager::Manager;

/// A key of AES-GCM.
pub struct GcmKey {
    pub(crate) octets: Box<GcmOctets>,
    pub(crate) len: usize,
}

impl GcmKey {
    /// Prepares a key of 16, 24 or 32 octets; `None` for another length.
    #[must_use]
    pub fn new(manager: &mut Manager, key: &[u8]) -> Option<Self> {
        let mut octets = is_aes(key).then(|| Box::new(GcmOctets([0; GCM_KEY])))?;
        #[allow(unsafe_code)]
        // SAFETY: the manager is there; `key` has the length that is said; `octets` has the size and alignment that shim.c
        // checks against the library's structure.
        unsafe {
            ffi::kf_gcm_key(manager.raw(), key.as_ptr(), key.len(), &raw mut *octets);
        }
        Some(Self { octets, len: key.len() })
    }
}

impl Drop for GcmKey {
    fn drop(&mut self) {
        self.octets.0.zeroize();
    }
}

/// A key of ChaCha20-Poly1305.
pub struct ChaChaKey(pub(crate) Box<[u8; ChaChaKey::LEN]>);

impl ChaChaKey {
    pub(crate) const LEN: usize = 32;

    /// Takes a key of 32 octets; `None` for another length.
    #[must_use]
    pub fn new(key: &[u8]) -> Option<Self> {
        let mut octets = (key.len() == Self::LEN).then(|| Box::new([0; Self::LEN]))?;
        octets.copy_from_slice(key);
        Some(Self(octets))
    }
}

impl Drop for ChaChaKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// How AES is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Cipher block chaining, of whole blocks.
    Cbc,
    /// Counter mode with twelve octets of nonce and a counter of blocks from 1 (RFC 3686 section 4).
    Ctr,
}

/// An AES key for one mode, both ways.
pub struct AesKey {
    pub(crate) encrypting: Box<AesOctets>,
    pub(crate) decrypting: Box<AesOctets>,
    pub(crate) len: usize,
    pub(crate) mode: Mode,
}

impl AesKey {
    /// Prepares a key of 16, 24 or 32 octets; `None` for another length.
    #[must_use]
    pub fn new(manager: &mut Manager, mode: Mode, key: &[u8]) -> Option<Self> {
        let fresh = || Box::new(AesOctets([0; AES_KEY]));
        let (mut encrypting, mut decrypting) = is_aes(key).then(|| (fresh(), fresh()))?;
        #[allow(unsafe_code)]
        // SAFETY: the manager is there; `key` has the length that is said; both outputs have a block for each round of the
        // longest key, and its alignment.
        unsafe {
            ffi::kf_aes_keys(manager.raw(), key.as_ptr(), key.len(), &raw mut *encrypting, &raw mut *decrypting);
        }
        Some(Self { encrypting, decrypting, len: key.len(), mode })
    }

    /// How it is used.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }
}

impl Drop for AesKey {
    fn drop(&mut self) {
        self.encrypting.0.zeroize();
        self.decrypting.0.zeroize();
    }
}

/// A hash under an HMAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Hash {
    /// SHA-1.
    Sha1 = 1,
    /// SHA-256.
    Sha256 = 256,
    /// SHA-384.
    Sha384 = 384,
    /// SHA-512.
    Sha512 = 512,
}

impl Hash {
    /// Octets of a block.
    fn block(self) -> usize {
        match self {
            Hash::Sha1 | Hash::Sha256 => 64,
            Hash::Sha384 | Hash::Sha512 => 128,
        }
    }

    /// Octets that IPsec keeps of an HMAC (RFC 2404, RFC 4868).
    #[must_use]
    pub fn icv_len(self) -> usize {
        match self {
            Hash::Sha1 => 12,
            Hash::Sha256 => 16,
            Hash::Sha384 => 24,
            Hash::Sha512 => 32,
        }
    }
}

/// A key of an HMAC.
pub struct HmacKey {
    pub(crate) inner: Box<HashOctets>,
    pub(crate) outer: Box<HashOctets>,
    pub(crate) hash: Hash,
}

impl HmacKey {
    /// Prepares a key; `None` if it is longer than a block of the hash.
    #[must_use]
    pub fn new(manager: &mut Manager, hash: Hash, key: &[u8]) -> Option<Self> {
        let fresh = || Box::new(HashOctets([0; HASH_STATE]));
        let (mut inner, mut outer) = (key.len() <= hash.block()).then(|| (fresh(), fresh()))?;
        #[allow(unsafe_code)]
        // SAFETY: the manager is there; `key` has the length that is said and fits the block that shim.c pads; both outputs
        // have room for a state of the longest hash.
        unsafe {
            ffi::kf_hmac_key(manager.raw(), hash as u32, key.as_ptr(), key.len(), &raw mut *inner, &raw mut *outer);
        }
        Some(Self { inner, outer, hash })
    }

    /// The hash.
    #[must_use]
    pub fn hash(&self) -> Hash {
        self.hash
    }
}

impl Drop for HmacKey {
    fn drop(&mut self) {
        self.inner.0.zeroize();
        self.outer.0.zeroize();
    }
}

fn is_aes(key: &[u8]) -> bool {
    matches!(key.len(), 16 | 24 | 32)
}
