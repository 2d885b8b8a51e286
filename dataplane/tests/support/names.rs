//! Short names of transforms, for vectors and for programs that others are held against.

use keyferry_crypto::{Aead, AesCtr, BlockCipher, Integrity};
use keyferry_model::policy::EspTransform;

/// The transform of a name: `aes128gcm16` and its kin, `aes128ccm16`, `chacha20poly1305`, `aes128gmac`; `aes128`, `aes128ctr` or
/// `null`, each with `-sha1`, `-sha256`, `-sha384` or `-sha512`.
pub(crate) fn transform(name: &str) -> Option<EspTransform> {
    if let Some((cipher, mac)) = name.split_once('-') {
        let mac = match mac {
            "sha1" => Integrity::HmacSha1_96,
            "sha256" => Integrity::HmacSha256_128,
            "sha384" => Integrity::HmacSha384_192,
            "sha512" => Integrity::HmacSha512_256,
            _ => return None,
        };
        return Some(match cipher {
            "aes128" => EspTransform::CbcHmac(BlockCipher::Aes128Cbc, mac),
            "aes192" => EspTransform::CbcHmac(BlockCipher::Aes192Cbc, mac),
            "aes256" => EspTransform::CbcHmac(BlockCipher::Aes256Cbc, mac),
            "aes128ctr" => EspTransform::CtrHmac(AesCtr::Aes128Ctr, mac),
            "aes192ctr" => EspTransform::CtrHmac(AesCtr::Aes192Ctr, mac),
            "aes256ctr" => EspTransform::CtrHmac(AesCtr::Aes256Ctr, mac),
            "null" => EspTransform::NullHmac(mac),
            _ => return None,
        });
    }
    if let Some(of) = name.strip_suffix("gmac") {
        let gmacs = [("aes128", Aead::Aes128Gcm16), ("aes192", Aead::Aes192Gcm16), ("aes256", Aead::Aes256Gcm16)];
        return gmacs.into_iter().find(|(name, _)| *name == of).map(|(_, aead)| EspTransform::Gmac(aead));
    }
    let is = |a: &Aead| format!("{a:?}").to_lowercase() == name;
    Aead::ALL.into_iter().find(is).map(EspTransform::Aead)
}
