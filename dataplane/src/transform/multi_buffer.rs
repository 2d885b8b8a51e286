//! What Intel's multi-buffer library for IPsec does faster: it works upon several packets at once.
//!
//! Each thread has an instance of the library, made when it is first wanted. Where the processor lacks what the library
//! needs there is none, and what is usual stays.

use std::cell::RefCell;

use arrayvec::ArrayVec;
use keyferry_crypto::{Aead, AeadMode, AesCtr, BlockCipher, Integrity, ct_eq};
use keyferry_ipsec_mb::{AesKey, ChaChaKey, Direction, GcmKey, Hash, HmacKey, Manager, Mode, Packet};
use keyferry_model::policy::EspTransform;
use zeroize::Zeroizing;

use super::{HEADER_LEN, IvSource, Job, Layout, Transform};
use crate::burst::BURST;

const BLOCK: usize = 16;
const SALT: usize = 4;

/// Packets from which on a burst is the library's: with fewer, more than half of the lanes that it has for the hash are empty, and
/// the usual implementation is faster.
fn half_of_lanes(integrity: Integrity) -> usize {
    match integrity {
        Integrity::HmacSha1_96 | Integrity::HmacSha256_128 => 8,
        Integrity::HmacSha384_192 | Integrity::HmacSha512_256 => 4,
    }
}

thread_local! {
    static MANAGER: RefCell<Option<Manager>> = RefCell::new(Manager::new());
}

/// Runs something with this thread's instance; `None` if there is none.
fn with<R>(run: impl FnOnce(&mut Manager) -> R) -> Option<R> {
    MANAGER.with_borrow_mut(|manager| manager.as_mut().map(run))
}

/// The library's implementation of a transform, or the usual one, where that is better or the only one.
pub(super) fn prepare(transform: EspTransform, keymat: &[u8], usual: Box<dyn Transform>) -> Box<dyn Transform> {
    prepare_from(transform, keymat, usual, half_of_lanes).unwrap_or_else(|usual| usual)
}

/// Likewise, where `from` says how many packets are enough for a hash. What is usual comes back where it stays.
pub(super) fn prepare_from(
    transform: EspTransform,
    keymat: &[u8],
    usual: Box<dyn Transform>,
    from: fn(Integrity) -> usize,
) -> Result<Box<dyn Transform>, Box<dyn Transform>> {
    match transform {
        EspTransform::Aead(aead) => Combined::new(aead, HEADER_LEN, usual.layout(), keymat).map(boxed).ok_or(usual),
        EspTransform::Gmac(aead) => Combined::new(aead, usize::MAX, usual.layout(), keymat).map(boxed).ok_or(usual),
        EspTransform::CbcHmac(_, mac) | EspTransform::CtrHmac(_, mac) | EspTransform::NullHmac(mac) => {
            match Keys::new(transform, keymat) {
                Some(keys) => Ok(Box::new(Separate { keys, layout: usual.layout(), usual, enough: from(mac) })),
                None => Err(usual),
            }
        }
    }
}

fn boxed(transform: impl Transform + 'static) -> Box<dyn Transform> {
    Box::new(transform)
}

/// What the library is given of jobs, and where to say that they are done.
struct Burst<'j> {
    packets: ArrayVec<Packet<'j>, BURST>,
    done: ArrayVec<&'j mut bool, BURST>,
}

impl<'j> Burst<'j> {
    /// Jobs without the parts of `layout` are left out, and so not done.
    fn of(
        jobs: &'j mut [Job<'_>],
        body: usize,
        icv: usize,
        mut iv: impl FnMut(&mut [u8], Option<u64>) -> Option<[u8; 16]>,
    ) -> Self {
        let mut burst = Self { packets: ArrayVec::new(), done: ArrayVec::new() };
        for job in jobs.iter_mut().take(BURST) {
            let body = body.min(job.esp.len().saturating_sub(icv));
            if let Some(iv) = iv(job.esp, job.iv)
                && let Some(packet) = Packet::new(job.esp, body, icv, iv)
            {
                burst.packets.push(packet);
                burst.done.push(&mut job.done);
            }
        }
        burst
    }

    /// All were done, or none.
    fn seal(mut self, done: Option<bool>) {
        if done == Some(true) {
            self.packets.iter_mut().for_each(Packet::put_tag);
            self.done.iter_mut().for_each(|done| **done = true);
        }
    }
}

/// AES-GCM (RFC 4106), and as GMAC (RFC 4543), with an ICV of any length; ChaCha20-Poly1305 (RFC 7634).
struct Combined {
    key: CombinedKey,
    salt: Zeroizing<[u8; SALT]>,
    layout: Layout,
    /// Where what is enciphered begins. In GMAC nothing is.
    body: usize,
    /// Octets in front of the body that are authenticated.
    associated: usize,
}

enum CombinedKey {
    Gcm(GcmKey),
    ChaCha20Poly1305(ChaChaKey),
}

impl Combined {
    fn new(aead: Aead, associated: usize, layout: Layout, keymat: &[u8]) -> Option<Self> {
        let (key, salt) = keymat.split_at_checked(aead.key_len())?;
        let salt = Zeroizing::new(salt.try_into().ok()?);
        let body = if associated == HEADER_LEN { layout.body() } else { usize::MAX };
        let key = with(|manager| match aead.mode() {
            AeadMode::Gcm => GcmKey::new(manager, key).map(CombinedKey::Gcm),
            AeadMode::ChaCha20Poly1305 => ChaChaKey::new(key).map(CombinedKey::ChaCha20Poly1305),
            AeadMode::Ccm => None,
        })??;
        Some(Self { key, salt, layout, body, associated })
    }

    /// Enciphers or deciphers, and computes tags. `Some(true)` if it was done.
    fn run(&self, way: Direction, packets: &mut [Packet<'_>]) -> Option<bool> {
        with(|manager| match &self.key {
            CombinedKey::Gcm(key) => manager.gcm(key, way, self.associated, packets),
            CombinedKey::ChaCha20Poly1305(key) => manager.chacha20_poly1305(key, way, self.associated, packets),
        })
    }

    /// The nonce of a packet, in the first octets.
    fn nonce(&self, iv: [u8; Aead::IV]) -> [u8; 16] {
        let mut nonce = [0; 16];
        nonce[..SALT].copy_from_slice(&self.salt[..]);
        nonce[SALT..SALT + Aead::IV].copy_from_slice(&iv);
        nonce
    }
}

impl Transform for Combined {
    fn layout(&self) -> Layout {
        self.layout
    }

    fn library(&self) -> &'static str {
        "IPsec-MB"
    }

    fn seal(&self, jobs: &mut [Job<'_>], _: &mut IvSource) {
        for jobs in jobs.chunks_mut(BURST) {
            let mut burst = Burst::of(jobs, self.body, self.layout.icv, |esp, iv| {
                let iv = iv?.to_be_bytes();
                *esp.get_mut(HEADER_LEN..)?.first_chunk_mut()? = iv;
                Some(self.nonce(iv))
            });
            let done = self.run(Direction::Encrypt, &mut burst.packets);
            burst.seal(done);
        }
    }

    fn open(&self, jobs: &mut [Job<'_>]) {
        for jobs in jobs.chunks_mut(BURST) {
            let mut burst = Burst::of(jobs, self.body, self.layout.icv, |esp, _| {
                Some(self.nonce(*esp.get(HEADER_LEN..)?.first_chunk()?))
            });
            if self.run(Direction::Decrypt, &mut burst.packets) != Some(true) {
                // What was deciphered of it was not compared with anything.
                burst.packets.iter_mut().for_each(|packet| packet.body().fill(0));
                continue;
            }
            for (packet, done) in burst.packets.iter_mut().zip(burst.done) {
                *done = is_authentic(packet);
                if !*done {
                    // It is deciphered already.
                    packet.body().fill(0);
                }
            }
        }
    }
}

/// A cipher, or none, and a MAC over everything in front of the ICV: AES-CBC (RFC 3602) and AES-CTR (RFC 3686) with HMAC
/// (RFC 2404, RFC 4868).
struct Separate {
    keys: Keys,
    layout: Layout,
    /// For bursts of fewer than `enough` packets.
    usual: Box<dyn Transform>,
    enough: usize,
}

struct Keys {
    cipher: Option<AesKey>,
    /// Of counter mode.
    nonce: Zeroizing<[u8; AesCtr::NONCE]>,
    mac: HmacKey,
}

impl Keys {
    fn new(transform: EspTransform, keymat: &[u8]) -> Option<Self> {
        let (cipher, nonce, integrity, mac) = match transform {
            EspTransform::CbcHmac(
                cipher @ (BlockCipher::Aes128Cbc | BlockCipher::Aes192Cbc | BlockCipher::Aes256Cbc),
                integrity,
            ) => {
                let (key, mac) = keymat.split_at_checked(cipher.key_len())?;
                (Some((Mode::Cbc, key)), None, integrity, mac)
            }
            EspTransform::CtrHmac(cipher, integrity) => {
                let (key, rest) = keymat.split_at_checked(cipher.key_len())?;
                let (nonce, mac) = rest.split_first_chunk()?;
                (Some((Mode::Ctr, key)), Some(nonce), integrity, mac)
            }
            EspTransform::NullHmac(integrity) => (None, None, integrity, keymat),
            EspTransform::CbcHmac(BlockCipher::TripleDesCbc, _) | EspTransform::Aead(_) | EspTransform::Gmac(_) => {
                return None;
            }
        };
        with(|manager| {
            let cipher = match cipher {
                Some((mode, key)) => Some(AesKey::new(manager, mode, key)?),
                None => None,
            };
            let mac = HmacKey::new(manager, hash(integrity), mac)?;
            Some(Self { cipher, nonce: Zeroizing::new(nonce.copied().unwrap_or_default()), mac })
        })?
    }

    /// What the library takes for the IV of a packet of counter mode.
    fn counter_block(&self, iv: [u8; AesCtr::IV]) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        block[..AesCtr::NONCE].copy_from_slice(&self.nonce[..]);
        block[AesCtr::NONCE..AesCtr::NONCE + AesCtr::IV].copy_from_slice(&iv);
        block
    }

    /// Gives a packet its IV, from its counter or from `ivs`.
    fn give_iv(&self, esp: &mut [u8], counter: Option<u64>, ivs: &mut IvSource) -> Option<[u8; BLOCK]> {
        let rest = esp.get_mut(HEADER_LEN..)?;
        match self.cipher.as_ref().map(AesKey::mode) {
            Some(Mode::Cbc) => {
                let iv = ivs.next().ok()?;
                *rest.first_chunk_mut()? = iv;
                Some(iv)
            }
            Some(Mode::Ctr) => {
                let iv = counter?.to_be_bytes();
                *rest.first_chunk_mut()? = iv;
                Some(self.counter_block(iv))
            }
            None => Some([0; BLOCK]),
        }
    }

    fn read_iv(&self, esp: &[u8]) -> Option<[u8; BLOCK]> {
        let rest = esp.get(HEADER_LEN..)?;
        match self.cipher.as_ref().map(AesKey::mode) {
            Some(Mode::Cbc) => rest.first_chunk().copied(),
            Some(Mode::Ctr) => rest.first_chunk().map(|iv| self.counter_block(*iv)),
            None => Some([0; BLOCK]),
        }
    }

    /// Enciphers or deciphers, where there is a cipher.
    fn apply(&self, manager: &mut Manager, way: Direction, packets: &mut [Packet<'_>]) -> bool {
        self.cipher.as_ref().is_none_or(|key| manager.cipher(key, way, packets))
    }
}

impl Transform for Separate {
    fn layout(&self) -> Layout {
        self.layout
    }

    fn library(&self) -> &'static str {
        "IPsec-MB"
    }

    fn seal(&self, jobs: &mut [Job<'_>], ivs: &mut IvSource) {
        if jobs.len() < self.enough {
            return self.usual.seal(jobs, ivs);
        }
        for jobs in jobs.chunks_mut(BURST) {
            let iv = |esp: &mut [u8], counter| self.keys.give_iv(esp, counter, ivs);
            let mut burst = Burst::of(jobs, self.layout.body(), self.layout.icv, iv);
            let packets = &mut burst.packets;
            let done = with(|manager| {
                self.keys.apply(manager, Direction::Encrypt, packets) && manager.hmac(&self.keys.mac, packets)
            });
            burst.seal(done);
        }
    }

    fn open(&self, jobs: &mut [Job<'_>]) {
        if jobs.len() < self.enough {
            return self.usual.open(jobs);
        }
        for jobs in jobs.chunks_mut(BURST) {
            let iv = |esp: &mut [u8], _| self.keys.read_iv(esp);
            let Burst { mut packets, mut done } = Burst::of(jobs, self.layout.body(), self.layout.icv, iv);
            let opened = with(|manager| {
                if !manager.hmac(&self.keys.mac, &mut packets) {
                    return false;
                }
                let mut verdicts = done.iter_mut();
                packets.retain(|packet| {
                    let authentic = is_authentic(packet);
                    verdicts.next().into_iter().for_each(|done| **done = authentic);
                    authentic
                });
                packets.is_empty() || self.keys.apply(manager, Direction::Decrypt, &mut packets)
            });
            if opened != Some(true) {
                done.into_iter().for_each(|done| *done = false);
            }
        }
    }
}

/// Does a packet bear the ICV that was computed?
fn is_authentic(packet: &Packet<'_>) -> bool {
    ct_eq(packet.tag(), packet.icv())
}

fn hash(integrity: Integrity) -> Hash {
    match integrity {
        Integrity::HmacSha1_96 => Hash::Sha1,
        Integrity::HmacSha256_128 => Hash::Sha256,
        Integrity::HmacSha384_192 => Hash::Sha384,
        Integrity::HmacSha512_256 => Hash::Sha512,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
