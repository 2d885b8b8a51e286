//! The ciphers alone, on the octets that the packet engine gives them.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{
    AES_128, AES_256, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext, UnboundCipherKey,
};
use keyferry_crypto::{Aead, AeadMode, BlockCipher, IntegrityKey};
use keyferry_model::policy::EspTransform;

use super::BURST;
use super::clock::Clock;

const ICV: usize = 16;
const HEADER: usize = 8;

/// Prepared keys.
pub(crate) enum Cipher {
    Combined(LessSafeKey),
    Separate(Box<(EncryptingKey, DecryptingKey, IntegrityKey)>),
}

impl Cipher {
    pub(crate) fn new(transform: EspTransform) -> Self {
        match transform {
            EspTransform::Aead(aead) => {
                let algorithm = match (aead.mode(), aead.key_len()) {
                    (AeadMode::ChaCha20Poly1305, _) => &CHACHA20_POLY1305,
                    (_, 16) => &AES_128_GCM,
                    _ => &AES_256_GCM,
                };
                Cipher::Combined(LessSafeKey::new(UnboundKey::new(algorithm, &vec![1; aead.key_len()]).unwrap()))
            }
            EspTransform::CbcHmac(cipher, integrity) => {
                let algorithm = if cipher == BlockCipher::Aes128Cbc { &AES_128 } else { &AES_256 };
                let key = || UnboundCipherKey::new(algorithm, &vec![1; cipher.key_len()]).unwrap();
                let mac = IntegrityKey::new(integrity, &vec![2; integrity.key_len()]);
                let (encrypting, decrypting) = (EncryptingKey::cbc(key()), DecryptingKey::cbc(key()));
                Cipher::Separate(Box::new((encrypting.unwrap(), decrypting.unwrap(), mac)))
            }
            EspTransform::Gmac(_) | EspTransform::CtrHmac(..) | EspTransform::NullHmac(_) => {
                unreachable!("not measured")
            }
        }
    }

    /// Whose it is.
    pub(crate) fn library(&self) -> &'static str {
        match self {
            Cipher::Combined(_) => "AWS-LC",
            Cipher::Separate(_) => "AWS-LC and OpenSSL",
        }
    }

    /// Octets that the cipher sees of a packet in a tunnel: with padding and trailer.
    fn body(&self, len: usize) -> usize {
        match self {
            Cipher::Combined(_) => (len + 2).next_multiple_of(4),
            Cipher::Separate(_) => (len + 2).next_multiple_of(16),
        }
    }

    /// Nanoseconds per packet.
    pub(crate) fn seal(&self, clock: &Clock, len: usize) -> f64 {
        let body = self.body(len);
        let mut buffers = vec![vec![0x5a; HEADER + 16 + body + ICV]; BURST];
        let mut number = 0u64;
        let per_burst = clock.per_call(|| {
            for buffer in &mut buffers {
                number += 1;
                self.seal_one(buffer, body, number);
            }
        });
        per_burst / BURST as f64
    }

    /// Likewise.
    pub(crate) fn open(&self, clock: &Clock, len: usize) -> f64 {
        let body = self.body(len);
        let mut best = f64::MAX;
        for _ in 0..clock.rounds() {
            let mut buffers = vec![vec![0x5a; HEADER + 16 + body + ICV]; BURST * super::ROUNDS];
            buffers.iter_mut().for_each(|buffer| self.seal_one(buffer, body, 1));
            best = best.min(clock.once(|| {
                for buffer in &mut buffers {
                    self.open_one(buffer, body);
                }
            }));
        }
        best / (BURST * super::ROUNDS) as f64
    }

    fn seal_one(&self, buffer: &mut [u8], body: usize, number: u64) {
        match self {
            Cipher::Combined(key) => {
                let (header, rest) = buffer.split_first_chunk_mut::<HEADER>().unwrap();
                let (data, icv) = rest[16..].split_at_mut(body);
                key.seal_in_place_scatter(nonce(number), Aad::from(&*header), data, &[], icv).unwrap();
            }
            Cipher::Separate(keys) => {
                let (encrypting, _, mac) = &**keys;
                let iv = EncryptionContext::Iv128([3; 16].into());
                encrypting.less_safe_encrypt(&mut buffer[HEADER + 16..][..body], iv).unwrap();
                let mut icv = [0; 32];
                mac.compute_into(&[&buffer[..HEADER + 16 + body]], &mut icv[..mac.algorithm().icv_len()]);
                buffer[HEADER + 16 + body..].copy_from_slice(&icv[..ICV]);
            }
        }
    }

    fn open_one(&self, buffer: &mut [u8], body: usize) {
        match self {
            Cipher::Combined(key) => {
                let (header, rest) = buffer.split_first_chunk_mut::<HEADER>().unwrap();
                let (data, icv) = rest[16..].split_at_mut(body);
                key.open_in_place_separate_tag(nonce(1), Aad::from(&*header), icv, data).unwrap();
            }
            Cipher::Separate(keys) => {
                let (_, decrypting, mac) = &**keys;
                let mut icv = [0; 32];
                mac.compute_into(&[&buffer[..HEADER + 16 + body]], &mut icv[..mac.algorithm().icv_len()]);
                assert_eq!(&buffer[HEADER + 16 + body..], &icv[..ICV]);
                let iv = DecryptionContext::Iv128([3; 16].into());
                decrypting.decrypt(&mut buffer[HEADER + 16..][..body], iv).unwrap();
            }
        }
    }
}

fn nonce(number: u64) -> Nonce {
    let mut nonce = [0; Aead::MAX_NONCE];
    nonce[4..].copy_from_slice(&number.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}
