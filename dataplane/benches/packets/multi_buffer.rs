//! Intel's multi-buffer library for IPsec alone, on the octets that the packet engine gives it.

use keyferry_crypto::{AeadMode, Integrity};
use keyferry_ipsec_mb::{AesKey, ChaChaKey, Direction, GcmKey, Hash, HmacKey, Manager, Mode, Packet};
use keyferry_model::policy::EspTransform;

use super::clock::Clock;
use super::{BURST, ROUNDS};

const HEADER: usize = 8;

/// Prepared keys.
pub(crate) struct Cipher {
    manager: Manager,
    keys: Keys,
}

enum Keys {
    Gcm(GcmKey),
    ChaCha(ChaChaKey),
    Separate(AesKey, HmacKey),
}

impl Cipher {
    /// `None` where the library is not used.
    pub(crate) fn new(transform: EspTransform) -> Option<Self> {
        let mut manager = Manager::new()?;
        let keys = match transform {
            EspTransform::Aead(aead) if aead.mode() == AeadMode::ChaCha20Poly1305 => {
                Keys::ChaCha(ChaChaKey::new(&vec![1; aead.key_len()])?)
            }
            EspTransform::Aead(aead) => Keys::Gcm(GcmKey::new(&mut manager, &vec![1; aead.key_len()])?),
            EspTransform::CbcHmac(cipher, integrity) => {
                let hash = match integrity {
                    Integrity::HmacSha1_96 => Hash::Sha1,
                    Integrity::HmacSha256_128 => Hash::Sha256,
                    Integrity::HmacSha384_192 => Hash::Sha384,
                    Integrity::HmacSha512_256 => Hash::Sha512,
                };
                let cipher = AesKey::new(&mut manager, Mode::Cbc, &vec![1; cipher.key_len()])?;
                Keys::Separate(cipher, HmacKey::new(&mut manager, hash, &vec![2; integrity.key_len()])?)
            }
            EspTransform::Gmac(_) | EspTransform::CtrHmac(..) | EspTransform::NullHmac(_) => return None,
        };
        Some(Self { manager, keys })
    }

    /// Nanoseconds per packet.
    pub(crate) fn seal(&mut self, clock: &Clock, len: usize) -> f64 {
        let mut buffers = self.buffers(len, BURST);
        let mut number = 0u64;
        let per_burst = clock.per_call(|| {
            number += 1;
            self.run(&mut buffers, Direction::Encrypt, number);
        });
        per_burst / BURST as f64
    }

    /// Likewise.
    pub(crate) fn open(&mut self, clock: &Clock, len: usize) -> f64 {
        let mut best = f64::MAX;
        for _ in 0..clock.rounds() {
            let mut bursts: Vec<Vec<Vec<u8>>> = (0..ROUNDS).map(|_| self.buffers(len, BURST)).collect();
            bursts.iter_mut().for_each(|buffers| self.run(buffers, Direction::Encrypt, 1));
            best = best.min(clock.once(|| {
                for buffers in &mut bursts {
                    self.run(buffers, Direction::Decrypt, 1);
                }
            }));
        }
        best / (BURST * ROUNDS) as f64
    }

    /// What the library sees of packets in a tunnel: with padding and trailer.
    fn buffers(&self, len: usize, count: usize) -> Vec<Vec<u8>> {
        let (iv, block, icv) = match &self.keys {
            Keys::Gcm(_) | Keys::ChaCha(_) => (8, 4, 16),
            Keys::Separate(_, mac) => (16, 16, mac.hash().icv_len()),
        };
        vec![vec![0x5a; HEADER + iv + (len + 2).next_multiple_of(block) + icv]; count]
    }

    fn run(&mut self, buffers: &mut [Vec<u8>], way: Direction, number: u64) {
        let (body, icv_len) = match &self.keys {
            Keys::Gcm(_) | Keys::ChaCha(_) => (HEADER + 8, 16),
            Keys::Separate(_, mac) => (HEADER + 16, mac.hash().icv_len()),
        };
        let mut iv = [0; 16];
        iv[4..12].copy_from_slice(&number.to_be_bytes());
        let mut packets: Vec<Packet<'_>> =
            buffers.iter_mut().map(|buffer| Packet::new(buffer, body, icv_len, iv).unwrap()).collect();
        let manager = &mut self.manager;
        match (&self.keys, way) {
            (Keys::Gcm(key), _) => assert!(manager.gcm(key, way, HEADER, &mut packets)),
            (Keys::ChaCha(key), _) => assert!(manager.chacha20_poly1305(key, way, HEADER, &mut packets)),
            (Keys::Separate(cipher, mac), Direction::Encrypt) => {
                assert!(manager.cipher(cipher, way, &mut packets) && manager.hmac(mac, &mut packets));
            }
            (Keys::Separate(cipher, mac), Direction::Decrypt) => {
                assert!(manager.hmac(mac, &mut packets) && manager.cipher(cipher, way, &mut packets));
            }
        }
        match way {
            Direction::Encrypt => packets.iter_mut().for_each(Packet::put_tag),
            Direction::Decrypt => assert!(packets.iter().all(|packet| packet.tag() == packet.icv())),
        }
    }
}
