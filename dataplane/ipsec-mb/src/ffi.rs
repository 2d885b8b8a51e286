//! What `shim.c` offers, in its order.

use crate::packet::Packet;

/// Octets of a prepared key of AES-GCM.
pub(crate) const GCM_KEY: usize = 1_024;

/// Octets of an expanded AES key: a block for each round of the longest.
pub(crate) const AES_KEY: usize = 15 * 16;

/// Octets of a state of the longest hash.
pub(crate) const HASH_STATE: usize = 64;

/// The library's manager with its jobs.
#[repr(C)]
pub(crate) struct RawManager {
    opaque: [u8; 0],
}

/// A prepared key of AES-GCM.
#[repr(C, align(64))]
pub(crate) struct GcmOctets(pub(crate) [u8; GCM_KEY]);

/// An expanded AES key.
#[repr(C, align(16))]
pub(crate) struct AesOctets(pub(crate) [u8; AES_KEY]);

/// A state of a hash.
#[repr(C, align(16))]
pub(crate) struct HashOctets(pub(crate) [u8; HASH_STATE]);

#[allow(unsafe_code)]
// SAFETY: the declarations are those of shim.c; `Packet` is its struct kf_packet.
unsafe extern "C" {
    pub(crate) fn kf_manager_new() -> *mut RawManager;
    pub(crate) fn kf_manager_free(manager: *mut RawManager);
    pub(crate) fn kf_gcm_key(manager: *mut RawManager, key: *const u8, key_len: usize, out: *mut GcmOctets);
    pub(crate) fn kf_aes_keys(
        manager: *mut RawManager,
        key: *const u8,
        key_len: usize,
        encrypting: *mut AesOctets,
        decrypting: *mut AesOctets,
    );
    pub(crate) fn kf_hmac_key(
        manager: *mut RawManager,
        hash: u32,
        key: *const u8,
        key_len: usize,
        inner: *mut HashOctets,
        outer: *mut HashOctets,
    );
    pub(crate) fn kf_gcm(
        manager: *mut RawManager,
        decrypt: i32,
        key: *const GcmOctets,
        key_len: usize,
        associated: usize,
        packets: *mut Packet<'_>,
        count: usize,
    );
    pub(crate) fn kf_chacha20_poly1305(
        manager: *mut RawManager,
        decrypt: i32,
        key: *const u8,
        associated: usize,
        packets: *mut Packet<'_>,
        count: usize,
    ) -> usize;
    pub(crate) fn kf_cipher(
        manager: *mut RawManager,
        counter: i32,
        decrypt: i32,
        encrypting: *const AesOctets,
        decrypting: *const AesOctets,
        key_len: usize,
        packets: *mut Packet<'_>,
        count: usize,
    ) -> usize;
    pub(crate) fn kf_hmac(
        manager: *mut RawManager,
        hash: u32,
        inner: *const HashOctets,
        outer: *const HashOctets,
        packets: *mut Packet<'_>,
        count: usize,
    ) -> usize;
}
