//! Algorithms by name, and their numbers in IKEv2.

use keyferry_crypto::{Aead, AeadMode, AesCtr, BlockCipher, Integrity, KeGroup, Prf};
use keyferry_model::policy::{EspTransform, RekeyProtection};

use crate::wire::registry::{TransformType, encr, integ, ke, kwa, prf};
use crate::wire::sa::Transform;

/// Encryption of the Encrypted payload, with its integrity: a combined mode (RFC 5282, RFC 7634), or AES-CBC and HMAC.
/// IKE SAs and Rekey SAs have the same choice.
pub type Protection = RekeyProtection;

/// A key wrap algorithm (RFC 9838 section 4.4.2.1.2): AES key wrap with padding (RFC 5649).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyWrap {
    /// KW_5649_128.
    Aes128,
    /// KW_5649_192.
    Aes192,
    /// KW_5649_256.
    Aes256,
}

impl KeyWrap {
    /// Octets of its keys.
    #[must_use]
    pub fn key_len(self) -> usize {
        match self {
            KeyWrap::Aes128 => 16,
            KeyWrap::Aes192 => 24,
            KeyWrap::Aes256 => 32,
        }
    }

    /// The algorithm with keys of so many octets.
    #[must_use]
    pub fn from_key_len(len: usize) -> Option<Self> {
        [KeyWrap::Aes128, KeyWrap::Aes192, KeyWrap::Aes256].into_iter().find(|k| k.key_len() == len)
    }

    /// The transform.
    #[must_use]
    pub fn transform(self) -> Transform<'static> {
        let id = match self {
            KeyWrap::Aes128 => kwa::KW_5649_128,
            KeyWrap::Aes192 => kwa::KW_5649_192,
            KeyWrap::Aes256 => kwa::KW_5649_256,
        };
        Transform::new(TransformType::KWA, id)
    }

    /// What a transform says.
    #[must_use]
    pub fn from_transform(t: &Transform<'_>) -> Option<Self> {
        if t.kind != TransformType::KWA || t.foreign || t.key_bits.is_some() {
            return None;
        }
        match t.id {
            kwa::KW_5649_128 => Some(KeyWrap::Aes128),
            kwa::KW_5649_192 => Some(KeyWrap::Aes192),
            kwa::KW_5649_256 => Some(KeyWrap::Aes256),
            _ => None,
        }
    }
}

/// Number of a key exchange group.
#[must_use]
pub fn ke_number(group: KeGroup) -> u16 {
    match group {
        KeGroup::Modp1024 => ke::MODP_1024,
        KeGroup::Modp1536 => ke::MODP_1536,
        KeGroup::Modp2048 => ke::MODP_2048,
        KeGroup::Modp3072 => ke::MODP_3072,
        KeGroup::Modp4096 => ke::MODP_4096,
        KeGroup::Ecp256 => ke::ECP_256,
        KeGroup::Ecp384 => ke::ECP_384,
        KeGroup::Ecp521 => ke::ECP_521,
        KeGroup::Modp2048s256 => ke::MODP_2048_256,
        KeGroup::Modp6144 => ke::MODP_6144,
        KeGroup::Modp8192 => ke::MODP_8192,
        KeGroup::Brainpool224 => ke::BRAINPOOL_P224R1,
        KeGroup::Brainpool256 => ke::BRAINPOOL_P256R1,
        KeGroup::Brainpool384 => ke::BRAINPOOL_P384R1,
        KeGroup::Brainpool512 => ke::BRAINPOOL_P512R1,
        KeGroup::X25519 => ke::CURVE25519,
        KeGroup::X448 => ke::CURVE448,
        KeGroup::MlKem512 => ke::ML_KEM_512,
        KeGroup::MlKem768 => ke::ML_KEM_768,
        KeGroup::MlKem1024 => ke::ML_KEM_1024,
    }
}

/// Transform of a PRF.
#[must_use]
pub fn prf_transform(p: Prf) -> Transform<'static> {
    let id = match p {
        Prf::HmacSha1 => prf::HMAC_SHA1,
        Prf::HmacSha256 => prf::HMAC_SHA2_256,
        Prf::HmacSha384 => prf::HMAC_SHA2_384,
        Prf::HmacSha512 => prf::HMAC_SHA2_512,
    };
    Transform::new(TransformType::PRF, id)
}

/// Transform of a combined mode.
#[must_use]
pub fn aead_transform(a: Aead) -> Transform<'static> {
    let id = match (a.mode(), a.icv_len()) {
        (AeadMode::Gcm, 8) => encr::AES_GCM_8,
        (AeadMode::Gcm, 12) => encr::AES_GCM_12,
        (AeadMode::Gcm, _) => encr::AES_GCM_16,
        (AeadMode::Ccm, 8) => encr::AES_CCM_8,
        (AeadMode::Ccm, 12) => encr::AES_CCM_12,
        (AeadMode::Ccm, _) => encr::AES_CCM_16,
        // Its key has one length only, which is not told (RFC 7634 section 4, RFC 7296 section 3.3.5).
        (AeadMode::ChaCha20Poly1305, _) => {
            return Transform::new(TransformType::ENCR, encr::CHACHA20_POLY1305);
        }
    };
    Transform::with_key(TransformType::ENCR, id, bits(a.key_len()))
}

/// Transform of a combined mode's MAC alone, for data SAs (RFC 4543 section 3).
#[must_use]
pub fn gmac_transform(a: Aead) -> Transform<'static> {
    Transform::with_key(TransformType::ENCR, encr::NULL_AUTH_AES_GMAC, bits(a.key_len()))
}

/// What the transforms of a data SA say together; `None` when it is nothing we can do.
#[must_use]
pub fn esp_from(transforms: &[Transform<'_>]) -> Option<EspTransform> {
    let gmac = [Aead::Aes128Gcm16, Aead::Aes192Gcm16, Aead::Aes256Gcm16]
        .into_iter()
        .find(|a| transforms.contains(&gmac_transform(*a)));
    if let Some(aead) = gmac {
        // It is cipher and MAC in one, so no other stands beside it.
        let others = |t: &&Transform<'_>| matches!(t.kind, TransformType::ENCR | TransformType::INTEG);
        let alone = transforms.iter().filter(others).all(|t| *t == gmac_transform(aead) || t.id == integ::NONE);
        let once = transforms.iter().filter(|t| t.kind == TransformType::ENCR).count() == 1;
        return (alone && once).then_some(EspTransform::Gmac(aead));
    }
    let (encryption, integrity) = encryption_and_integrity(transforms.iter())?;
    if *encryption == null_transform() {
        return integrity_from(integrity).map(EspTransform::NullHmac);
    }
    if let Some(cipher) = AesCtr::ALL.into_iter().find(|c| *encryption == ctr_transform(*c)) {
        return integrity_from(integrity).map(|mac| EspTransform::CtrHmac(cipher, mac));
    }
    Some(match protection_from(transforms.iter())? {
        Protection::Aead(a) => EspTransform::Aead(a),
        Protection::CbcHmac(c, i) => EspTransform::CbcHmac(c, i),
    })
}

/// Transform of AES in counter mode, for data SAs (RFC 3686 section 5.4).
#[must_use]
pub fn ctr_transform(c: AesCtr) -> Transform<'static> {
    Transform::with_key(TransformType::ENCR, encr::AES_CTR, bits(c.key_len()))
}

/// Transform of data SAs that are authenticated alone (RFC 2410).
#[must_use]
pub fn null_transform() -> Transform<'static> {
    Transform::new(TransformType::ENCR, encr::NULL)
}

/// Transform of a block cipher in CBC mode.
#[must_use]
pub fn cbc_transform(c: BlockCipher) -> Transform<'static> {
    match c {
        // Has a number, but is neither offered nor taken (RFC 8247 section 2.1).
        BlockCipher::TripleDesCbc => Transform::new(TransformType::ENCR, encr::TRIPLE_DES),
        BlockCipher::Aes128Cbc | BlockCipher::Aes192Cbc | BlockCipher::Aes256Cbc => {
            Transform::with_key(TransformType::ENCR, encr::AES_CBC, bits(c.key_len()))
        }
    }
}

/// Transform of an integrity algorithm.
#[must_use]
pub fn integ_transform(i: Integrity) -> Transform<'static> {
    let id = match i {
        Integrity::HmacSha1_96 => integ::HMAC_SHA1_96,
        Integrity::HmacSha256_128 => integ::HMAC_SHA2_256_128,
        Integrity::HmacSha384_192 => integ::HMAC_SHA2_384_192,
        Integrity::HmacSha512_256 => integ::HMAC_SHA2_512_256,
    };
    Transform::new(TransformType::INTEG, id)
}

/// ENCR, and INTEG where it is one of its own.
#[must_use]
pub fn protection_transforms(p: Protection) -> Vec<Transform<'static>> {
    match p {
        Protection::Aead(a) => vec![aead_transform(a)],
        Protection::CbcHmac(c, i) => vec![cbc_transform(c), integ_transform(i)],
    }
}

/// What exactly one ENCR and at most one INTEG transform say together; `None` when it is nothing we can do.
#[must_use]
pub fn protection_from<'t, 'w: 't>(transforms: impl Iterator<Item = &'t Transform<'w>>) -> Option<Protection> {
    let (encryption, integrity) = encryption_and_integrity(transforms)?;
    if let Some(aead) = Aead::ALL.into_iter().find(|a| *encryption == aead_transform(*a)) {
        // With a combined mode integrity is absent or NONE (RFC 5282 section 8).
        return integrity.is_none_or(|t| t.id == integ::NONE).then_some(Protection::Aead(aead));
    }
    let ciphers = [BlockCipher::Aes128Cbc, BlockCipher::Aes192Cbc, BlockCipher::Aes256Cbc];
    let cipher = ciphers.into_iter().find(|c| *encryption == cbc_transform(*c))?;
    integrity_from(integrity).map(|mac| Protection::CbcHmac(cipher, mac))
}

/// The integrity algorithm of a transform that must be there.
fn integrity_from(transform: Option<&Transform<'_>>) -> Option<Integrity> {
    let transform = transform?;
    Integrity::ALL.into_iter().find(|i| *transform == integ_transform(*i))
}

/// One ENCR and at most one INTEG transform, and nothing with attributes that are unknown.
fn encryption_and_integrity<'t, 'w: 't>(
    transforms: impl Iterator<Item = &'t Transform<'w>>,
) -> Option<(&'t Transform<'w>, Option<&'t Transform<'w>>)> {
    let (mut encryption, mut integrity) = (None, None);
    for t in transforms {
        if t.foreign {
            return None;
        }
        let slot = match t.kind {
            TransformType::ENCR => &mut encryption,
            TransformType::INTEG => &mut integrity,
            _ => continue,
        };
        if slot.replace(t).is_some() {
            return None;
        }
    }
    Some((encryption?, integrity))
}

fn bits(octets: usize) -> u16 {
    u16::try_from(octets * 8).expect("keys have at most 256 bits")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn transforms_name_what_they_came_from() {
        let separate = [
            Protection::CbcHmac(BlockCipher::Aes128Cbc, Integrity::HmacSha256_128),
            Protection::CbcHmac(BlockCipher::Aes256Cbc, Integrity::HmacSha512_256),
        ];
        for p in Aead::ALL.map(Protection::Aead).into_iter().chain(separate) {
            assert_eq!(protection_from(protection_transforms(p).iter()), Some(p));
        }
        for k in [KeyWrap::Aes128, KeyWrap::Aes192, KeyWrap::Aes256] {
            assert_eq!(KeyWrap::from_transform(&k.transform()), Some(k));
            assert_eq!(KeyWrap::from_key_len(k.key_len()), Some(k));
        }
    }

    #[test]
    fn combinations_that_mean_nothing_are_refused() {
        let gcm = aead_transform(Aead::Aes128Gcm16);
        let mac = || integ_transform(Integrity::HmacSha256_128);
        let none = Transform::new(TransformType::INTEG, integ::NONE);
        assert_eq!(protection_from([gcm.clone(), mac()].iter()), None);
        assert!(protection_from([gcm.clone(), none].iter()).is_some());
        assert_eq!(protection_from([gcm.clone(), gcm.clone()].iter()), None);
        assert_eq!(protection_from([cbc_transform(BlockCipher::Aes128Cbc)].iter()), None);
        assert_eq!(protection_from([mac()].iter()), None);
        let odd = Transform::with_key(TransformType::ENCR, encr::AES_GCM_16, 129);
        assert_eq!(protection_from([odd].iter()), None);
        assert_eq!(protection_from([cbc_transform(BlockCipher::TripleDesCbc), mac()].iter()), None);
        // Neither no encryption nor no integrity (RFC 7296 section 5), nor an implicit IV (RFC 9838 section 2.7).
        let none = Transform::new(TransformType::INTEG, integ::NONE);
        assert_eq!(protection_from([cbc_transform(BlockCipher::Aes128Cbc), none].iter()), None);
        assert_eq!(protection_from([Transform::new(TransformType::ENCR, 11), mac()].iter()), None);
        assert_eq!(protection_from([Transform::with_key(TransformType::ENCR, 30, 128)].iter()), None);
        let bare = Transform::new(TransformType::ENCR, encr::AES_GCM_16);
        assert_eq!(protection_from([bare].iter()), None);
        let long = Transform::with_key(TransformType::ENCR, encr::CHACHA20_POLY1305, 256);
        assert_eq!(protection_from([long].iter()), None, "its key length is not told");
    }

    #[test]
    fn counter_mode_and_null_are_for_data_and_want_a_mac() {
        let none = || Transform::new(TransformType::INTEG, integ::NONE);
        for mac in Integrity::ALL {
            let told = [null_transform(), integ_transform(mac)];
            assert_eq!(esp_from(&told), Some(EspTransform::NullHmac(mac)));
            assert_eq!(protection_from(told.iter()), None, "rekeys are encrypted");
            for cipher in AesCtr::ALL {
                let told = [ctr_transform(cipher), integ_transform(mac)];
                assert_eq!(esp_from(&told), Some(EspTransform::CtrHmac(cipher, mac)));
                assert_eq!(protection_from(told.iter()), None, "there is no telling its IVs apart");
            }
        }
        for alone in AesCtr::ALL.map(ctr_transform).into_iter().chain([null_transform()]) {
            let mac = integ_transform(Integrity::HmacSha256_128);
            assert_eq!(esp_from(std::slice::from_ref(&alone)), None, "nothing would be authenticated");
            assert_eq!(esp_from(&[alone.clone(), none()]), None);
            assert_eq!(esp_from(&[alone.clone(), mac.clone(), mac.clone()]), None);
            assert_eq!(esp_from(&[alone.clone(), alone, mac]), None);
        }
        let mac = || integ_transform(Integrity::HmacSha256_128);
        assert_eq!(esp_from(&[Transform::new(TransformType::ENCR, encr::AES_CTR), mac()]), None, "no key length");
        assert_eq!(esp_from(&[Transform::with_key(TransformType::ENCR, encr::AES_CTR, 160), mac()]), None);
        assert_eq!(esp_from(&[Transform::with_key(TransformType::ENCR, encr::NULL, 128), mac()]), None);
    }

    #[test]
    fn gmac_is_for_data_and_stands_alone() {
        for aead in [Aead::Aes128Gcm16, Aead::Aes192Gcm16, Aead::Aes256Gcm16] {
            let gmac = || gmac_transform(aead);
            assert_eq!(esp_from(&[gmac()]), Some(EspTransform::Gmac(aead)));
            assert_eq!(esp_from(&[gmac(), gmac()]), None);
            assert_eq!(esp_from(&[gmac(), aead_transform(aead)]), None);
            assert_eq!(esp_from(&[gmac(), integ_transform(Integrity::HmacSha256_128)]), None);
            assert_eq!(protection_from([gmac()].iter()), None, "rekeys are encrypted");
        }
        assert_eq!(esp_from(&[aead_transform(Aead::Aes128Gcm16)]), Some(EspTransform::Aead(Aead::Aes128Gcm16)));
    }
}
