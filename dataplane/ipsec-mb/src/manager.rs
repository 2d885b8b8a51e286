//! A thread's own instance of the library.

use std::ptr::NonNull;

use crate::ffi::{self, RawManager};
use crate::keys::{AesKey, ChaChaKey, GcmKey, HmacKey, Mode};
use crate::packet::Packet;

/// Packets that the library is given at a time.
const BURST: usize = 64;

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Plain text becomes cipher text.
    Encrypt,
    /// And back.
    Decrypt,
}

/// An instance of the library. Each thread has its own: calls change it.
///
/// Nothing of a packet stays in it between calls. Keys prepared by one serve all.
pub struct Manager(NonNull<RawManager>);

impl Manager {
    /// `None` where the processor lacks what makes the library worth using (AVX-512, VAES, VPCLMULQDQ), and where its
    /// implementations fail the test that the library puts them to.
    #[must_use]
    pub fn new() -> Option<Self> {
        #[allow(unsafe_code)]
        // SAFETY: it may be called at any time.
        let raw = unsafe { ffi::kf_manager_new() };
        NonNull::new(raw).map(Self)
    }

    pub(crate) fn raw(&mut self) -> *mut RawManager {
        self.0.as_ptr()
    }

    /// AES-GCM: enciphers or deciphers the bodies and computes tags of 8, 12 or 16 octets. Of each packet the first
    /// `associated` octets, never more than stand in front of the body, are authenticated with it. What is deciphered is not
    /// authentic before the tag was compared. False, and nothing done, if an ICV has another length.
    #[must_use]
    pub fn gcm(&mut self, key: &GcmKey, way: Direction, associated: usize, packets: &mut [Packet<'_>]) -> bool {
        if !packets.iter().all(|packet| matches!(packet.icv_len(), 8 | 12 | 16)) {
            return false;
        }
        #[allow(unsafe_code)]
        // SAFETY: `key` is one that the library prepared for its length; each packet holds a slice of its own, for as long as it
        // lives, which `Packet::new` has found to have the parts that it names.
        unsafe {
            ffi::kf_gcm(
                self.raw(),
                i32::from(way == Direction::Decrypt),
                &raw const *key.octets,
                key.len,
                associated,
                packets.as_mut_ptr(),
                packets.len(),
            );
        }
        true
    }

    /// ChaCha20-Poly1305 with tags of 16 octets, otherwise as [`Self::gcm`]. False, too, if it failed, after which bodies and tags
    /// are of no use.
    #[must_use]
    pub fn chacha20_poly1305(
        &mut self,
        key: &ChaChaKey,
        way: Direction,
        associated: usize,
        packets: &mut [Packet<'_>],
    ) -> bool {
        if !packets.iter().all(|packet| packet.icv_len() == 16) {
            return false;
        }
        #[allow(unsafe_code)]
        // SAFETY: as in `gcm`; the key has its 32 octets.
        let done = unsafe {
            ffi::kf_chacha20_poly1305(
                self.raw(),
                i32::from(way == Direction::Decrypt),
                key.0.as_ptr(),
                associated,
                packets.as_mut_ptr(),
                packets.len(),
            )
        };
        done == packets.len()
    }

    /// AES in the key's mode: enciphers or deciphers the bodies. False if that failed, after which they are of no use; bodies
    /// that are not whole blocks of CBC, or empty, are refused before.
    #[must_use]
    pub fn cipher(&mut self, key: &AesKey, way: Direction, packets: &mut [Packet<'_>]) -> bool {
        if key.mode == Mode::Cbc && !packets.iter().all(Packet::is_whole) {
            return false;
        }
        let raw = self.raw();
        packets.chunks_mut(BURST).all(|packets| {
            #[allow(unsafe_code)]
            // SAFETY: as in `gcm`; there are no more packets than the manager has jobs.
            let done = unsafe {
                ffi::kf_cipher(
                    raw,
                    i32::from(key.mode == Mode::Ctr),
                    i32::from(way == Direction::Decrypt),
                    &raw const *key.encrypting,
                    &raw const *key.decrypting,
                    key.len,
                    packets.as_mut_ptr(),
                    packets.len(),
                )
            };
            done == packets.len()
        })
    }

    /// HMAC over everything in front of the ICVs. False if that failed, after which tags are of no use; ICVs of another length
    /// than IPsec's are refused before.
    #[must_use]
    pub fn hmac(&mut self, key: &HmacKey, packets: &mut [Packet<'_>]) -> bool {
        if !packets.iter().all(|packet| packet.icv_len() == key.hash.icv_len()) {
            return false;
        }
        let raw = self.raw();
        packets.chunks_mut(BURST).all(|packets| {
            #[allow(unsafe_code)]
            // SAFETY: as in `gcm`; there are no more packets than the manager has jobs; tags have room for the longest.
            let done = unsafe {
                ffi::kf_hmac(
                    raw,
                    key.hash as u32,
                    &raw const *key.inner,
                    &raw const *key.outer,
                    packets.as_mut_ptr(),
                    packets.len(),
                )
            };
            done == packets.len()
        })
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        #[allow(unsafe_code)]
        // SAFETY: it came from `kf_manager_new` and goes once.
        unsafe {
            ffi::kf_manager_free(self.raw());
        }
    }
}
