//! What the kernel calls the transforms (`include/uapi/linux/xfrm.h`, `net/xfrm/xfrm_algo.c`).

use keyferry_crypto::{Aead, AeadMode, AesCtr, BlockCipher, Integrity};
use keyferry_model::policy::EspTransform;

/// Algorithms of a state, by the kernel's names. Keying material is divided between them in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithms {
    /// Name, octets of the ICV. All keying material is its.
    Combined(&'static str, usize),
    /// Cipher and octets of its keying material; MAC and octets of its ICV.
    Separate(&'static str, usize, &'static str, usize),
}

/// `None` for what the kernel has no name for.
pub(super) fn of(transform: EspTransform) -> Option<Algorithms> {
    Some(match transform {
        EspTransform::Aead(aead) => Algorithms::Combined(combined(aead), aead.icv_len()),
        EspTransform::Gmac(aead) if aead.mode() == AeadMode::Gcm => {
            Algorithms::Combined("rfc4543(gcm(aes))", aead.icv_len())
        }
        EspTransform::Gmac(_) => return None,
        EspTransform::CbcHmac(cipher, mac) => {
            let name = match cipher {
                BlockCipher::Aes128Cbc | BlockCipher::Aes192Cbc | BlockCipher::Aes256Cbc => "cbc(aes)",
                BlockCipher::TripleDesCbc => return None,
            };
            Algorithms::Separate(name, cipher.key_len(), hmac(mac), mac.icv_len())
        }
        EspTransform::CtrHmac(cipher, mac) => {
            Algorithms::Separate("rfc3686(ctr(aes))", cipher.key_len() + AesCtr::NONCE, hmac(mac), mac.icv_len())
        }
        EspTransform::NullHmac(mac) => Algorithms::Separate("ecb(cipher_null)", 0, hmac(mac), mac.icv_len()),
    })
}

fn combined(aead: Aead) -> &'static str {
    match aead.mode() {
        AeadMode::Gcm => "rfc4106(gcm(aes))",
        AeadMode::Ccm => "rfc4309(ccm(aes))",
        AeadMode::ChaCha20Poly1305 => "rfc7539esp(chacha20,poly1305)",
    }
}

fn hmac(mac: Integrity) -> &'static str {
    match mac {
        Integrity::HmacSha1_96 => "hmac(sha1)",
        Integrity::HmacSha256_128 => "hmac(sha256)",
        Integrity::HmacSha384_192 => "hmac(sha384)",
        Integrity::HmacSha512_256 => "hmac(sha512)",
    }
}
