//! Algorithms by name and by GDOI's numbers.

use keyferry_crypto::{Aead, AeadMode, AesCtr, BlockCipher, Hash, Integrity, SignatureScheme};
use keyferry_model::policy::{AckType, AddressPreservation, EspTransform, GroupPolicy, SaDirection};

use crate::wire::registry::{esp, kek};

/// Bits of a cipher's key, for KEK_KEY_LENGTH and ESP's Key Length; `None` where its length is fixed, so that the attribute
/// is absent (RFC 6407 section 5.3.3, RFC 2407 section 4.5).
pub(crate) fn cipher_bits(cipher: BlockCipher) -> Option<u16> {
    match cipher {
        BlockCipher::TripleDesCbc => None,
        BlockCipher::Aes128Cbc => Some(128),
        BlockCipher::Aes192Cbc => Some(192),
        BlockCipher::Aes256Cbc => Some(256),
    }
}

/// Octets of what a cipher's key is worth: Triple DES has keys of 24 octets, but the strength of 14.
pub(crate) fn cipher_strength(cipher: BlockCipher) -> usize {
    match cipher {
        BlockCipher::TripleDesCbc => 14,
        BlockCipher::Aes128Cbc | BlockCipher::Aes192Cbc | BlockCipher::Aes256Cbc => cipher.key_len(),
    }
}

/// Octets of what the strongest encryption key is worth that a registration brings: what carries it is to be as strong
/// (RFC 6407 section 7.1.2).
pub(crate) fn strength(policy: &GroupPolicy) -> usize {
    let traffic = policy.traffic.iter().map(|line| match line.transform {
        EspTransform::Aead(a) | EspTransform::Gmac(a) => a.key_len(),
        EspTransform::CbcHmac(c, _) => cipher_strength(c),
        EspTransform::CtrHmac(c, _) => c.key_len(),
        EspTransform::NullHmac(_) => 0,
    });
    let rekey = policy.gdoi.iter().map(|g| cipher_strength(g.cipher));
    let streams = policy.streams.iter().map(|stream| {
        let (encryption, authentication) = (stream.protection.encryption(), stream.protection.authentication());
        // As with traffic, the key of an HMAC says nothing about a cipher, that of a GMAC is one.
        let gmac = if authentication.salt_len() > 0 { authentication.key_len() } else { 0 };
        encryption.key_len().max(gmac)
    });
    traffic.chain(rekey).chain(streams).max().unwrap_or(0)
}

/// KEK_ALGORITHM.
pub(crate) fn kek_algorithm(cipher: BlockCipher) -> u16 {
    match cipher {
        BlockCipher::TripleDesCbc => kek::TRIPLE_DES,
        BlockCipher::Aes128Cbc | BlockCipher::Aes192Cbc | BlockCipher::Aes256Cbc => kek::AES,
    }
}

/// The AES-CBC cipher with a key of so many bits.
pub(crate) fn cipher_of_bits(bits: u32) -> Option<BlockCipher> {
    [BlockCipher::Aes128Cbc, BlockCipher::Aes192Cbc, BlockCipher::Aes256Cbc]
        .into_iter()
        .find(|c| cipher_bits(*c).map(u32::from) == Some(bits))
}

/// Transform of a combined mode; `None` for one that has no number here.
fn aead_number(aead: Aead) -> Option<u8> {
    match (aead.mode(), aead.icv_len()) {
        (AeadMode::Gcm, 8) => Some(esp::AES_GCM_8),
        (AeadMode::Gcm, 12) => Some(esp::AES_GCM_12),
        (AeadMode::Gcm, _) => Some(esp::AES_GCM_16),
        (AeadMode::Ccm, 8) => Some(esp::AES_CCM_8),
        (AeadMode::Ccm, 12) => Some(esp::AES_CCM_12),
        (AeadMode::Ccm, _) => Some(esp::AES_CCM_16),
        (AeadMode::ChaCha20Poly1305, _) => None,
    }
}

/// Bits of a key without salt (RFC 4106 section 8.3, RFC 4309 section 7.3).
fn aead_bits(aead: Aead) -> Option<u16> {
    u16::try_from(aead.key_len() * 8).ok()
}

fn aead_of(number: u8, bits: u32) -> Option<Aead> {
    let is = |a: &Aead| aead_number(*a) == Some(number) && aead_bits(*a).map(u32::from) == Some(bits);
    Aead::ALL.into_iter().find(is)
}

/// Has GDOI a number for a transform? ChaCha20-Poly1305 came too late for IKEv1.
#[must_use]
pub fn can_tell(transform: EspTransform) -> bool {
    esp_numbers(transform).is_some()
}

fn integrity_number(integrity: Integrity) -> u16 {
    match integrity {
        Integrity::HmacSha1_96 => esp::HMAC_SHA1,
        Integrity::HmacSha256_128 => esp::HMAC_SHA2_256,
        Integrity::HmacSha384_192 => esp::HMAC_SHA2_384,
        Integrity::HmacSha512_256 => esp::HMAC_SHA2_512,
    }
}

/// Numbers of an ESP transform.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct EspNumbers {
    pub(crate) transform: u8,
    pub(crate) key_bits: Option<u16>,
    pub(crate) authentication: Option<u16>,
}

pub(crate) fn esp_numbers(transform: EspTransform) -> Option<EspNumbers> {
    Some(match transform {
        EspTransform::Aead(aead) => {
            EspNumbers { transform: aead_number(aead)?, key_bits: aead_bits(aead), authentication: None }
        }
        EspTransform::Gmac(aead) => {
            EspNumbers { transform: esp::NULL_AES_GMAC, key_bits: aead_bits(aead), authentication: None }
        }
        EspTransform::CbcHmac(cipher, integrity) => EspNumbers {
            transform: match cipher {
                BlockCipher::TripleDesCbc => esp::TRIPLE_DES,
                BlockCipher::Aes128Cbc | BlockCipher::Aes192Cbc | BlockCipher::Aes256Cbc => esp::AES_CBC,
            },
            key_bits: cipher_bits(cipher),
            authentication: Some(integrity_number(integrity)),
        },
        EspTransform::CtrHmac(cipher, integrity) => EspNumbers {
            transform: esp::AES_CTR,
            key_bits: ctr_bits(cipher),
            authentication: Some(integrity_number(integrity)),
        },
        EspTransform::NullHmac(integrity) => {
            EspNumbers { transform: esp::NULL, key_bits: None, authentication: Some(integrity_number(integrity)) }
        }
    })
}

/// Bits of a key without nonce (RFC 3686 section 5.4).
fn ctr_bits(cipher: AesCtr) -> Option<u16> {
    u16::try_from(cipher.key_len() * 8).ok()
}

/// The ESP transform of these numbers. AES is not known without a key length, and NULL has none.
pub(crate) fn esp_transform(transform: u8, bits: Option<u32>, authentication: Option<u32>) -> Option<EspTransform> {
    let integrity = |number| Integrity::ALL.into_iter().find(|i| u32::from(integrity_number(*i)) == number);
    match (transform, bits, authentication) {
        (esp::NULL_AES_GMAC, Some(bits), None) => aead_of(esp::AES_GCM_16, bits).map(EspTransform::Gmac),
        (number, Some(bits), None) => aead_of(number, bits).map(EspTransform::Aead),
        (esp::AES_CBC, Some(bits), Some(mac)) => Some(EspTransform::CbcHmac(cipher_of_bits(bits)?, integrity(mac)?)),
        (esp::AES_CTR, Some(bits), Some(mac)) => {
            let cipher = AesCtr::ALL.into_iter().find(|c| ctr_bits(*c).map(u32::from) == Some(bits))?;
            Some(EspTransform::CtrHmac(cipher, integrity(mac)?))
        }
        (esp::NULL, None, Some(mac)) => integrity(mac).map(EspTransform::NullHmac),
        _ => None,
    }
}

/// SIG_ALGORITHM, and SIG_HASH_ALGORITHM where the algorithm does not imply it (RFC 6407 section 5.3.6).
pub(crate) fn signature_numbers(scheme: SignatureScheme) -> (u16, Option<u16>) {
    match scheme {
        SignatureScheme::RsaPkcs1Sha1 => (kek::RSA, Some(kek::SHA1)),
        SignatureScheme::RsaPkcs1Sha256 => (kek::RSA, Some(kek::SHA256)),
        SignatureScheme::RsaPkcs1Sha384 => (kek::RSA, Some(kek::SHA384)),
        SignatureScheme::RsaPkcs1Sha512 => (kek::RSA, Some(kek::SHA512)),
        SignatureScheme::EcdsaP256Sha256 => (kek::ECDSA_256, None),
        SignatureScheme::EcdsaP384Sha384 => (kek::ECDSA_384, None),
        SignatureScheme::EcdsaP521Sha512 => (kek::ECDSA_521, None),
    }
}

/// The signature scheme of SIG_ALGORITHM and SIG_HASH_ALGORITHM. With ECDSA the hash may be absent, but not another one
/// than the curve's. DSS and the older ECDSS have no hash that is sound.
pub(crate) fn signature_scheme(algorithm: u32, hash: Option<u32>) -> Option<SignatureScheme> {
    SignatureScheme::ALL.into_iter().find(|s| {
        let (number, told) = signature_numbers(*s);
        let fits = match (told, hash) {
            (Some(_), _) => told.map(u32::from) == hash,
            (None, None) => true,
            (None, Some(hash)) => hash == u32::from(hash_number(s.hash())),
        };
        u32::from(number) == algorithm && fits
    })
}

/// SIG_HASH_ALGORITHM of a hash.
fn hash_number(hash: Hash) -> u16 {
    match hash {
        Hash::Sha1 => kek::SHA1,
        Hash::Sha256 => kek::SHA256,
        Hash::Sha384 => kek::SHA384,
        Hash::Sha512 => kek::SHA512,
    }
}

/// The cipher of KEK_ALGORITHM and KEK_KEY_LENGTH. The length of 3DES is fixed; it may be told, with or without parity.
pub(crate) fn kek_cipher(algorithm: u32, bits: Option<u32>) -> Option<BlockCipher> {
    match (u16::try_from(algorithm).ok()?, bits) {
        (kek::TRIPLE_DES, None | Some(168 | 192)) => Some(BlockCipher::TripleDesCbc),
        (kek::AES, Some(bits)) => cipher_of_bits(bits),
        _ => None,
    }
}

const ACK_TYPES: [(AckType, u16); 4] = [
    (AckType::Kek(Hash::Sha256), kek::ACK_KEK_SHA256),
    (AckType::Lkh(Hash::Sha256), kek::ACK_LKH_SHA256),
    (AckType::Kek(Hash::Sha512), kek::ACK_KEK_SHA512),
    (AckType::Lkh(Hash::Sha512), kek::ACK_LKH_SHA512),
];

/// KEK_ACK_REQUESTED's value; `None` for a hash that RFC 8263 has no type for.
pub(crate) fn ack_number(ack: AckType) -> Option<u16> {
    ACK_TYPES.iter().find(|(a, _)| *a == ack).map(|(_, n)| *n)
}

/// The acknowledgement of a value of KEK_ACK_REQUESTED.
pub(crate) fn ack_type(number: u32) -> Option<AckType> {
    ACK_TYPES.iter().find(|(_, n)| u32::from(*n) == number).map(|(a, _)| *a)
}

/// The number of an Address Preservation (RFC 6407 section 5.5.1.1.1).
pub(crate) fn preservation_number(preservation: AddressPreservation) -> u16 {
    match preservation {
        AddressPreservation::None => esp::PRESERVE_NONE,
        AddressPreservation::Source => esp::SOURCE_ONLY,
        AddressPreservation::Destination => esp::DESTINATION_ONLY,
        AddressPreservation::Both => esp::SOURCE_AND_DESTINATION,
    }
}

/// The Address Preservation of a number.
pub(crate) fn preservation(number: u32) -> Option<AddressPreservation> {
    use AddressPreservation::{Both, Destination, None as Neither, Source};
    [Neither, Source, Destination, Both].into_iter().find(|p| u32::from(preservation_number(*p)) == number)
}

/// The number of an SA Direction (RFC 6407 section 5.5.1.1.2).
pub(crate) fn direction_number(direction: SaDirection) -> u16 {
    match direction {
        SaDirection::SenderOnly => esp::SENDER_ONLY,
        SaDirection::ReceiverOnly => esp::RECEIVER_ONLY,
        SaDirection::Symmetric => esp::SYMMETRIC,
    }
}

/// The SA Direction of a number.
pub(crate) fn direction(number: u32) -> Option<SaDirection> {
    use SaDirection::{ReceiverOnly, SenderOnly, Symmetric};
    [SenderOnly, ReceiverOnly, Symmetric].into_iter().find(|d| u32::from(direction_number(*d)) == number)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_fit() {
        let combined = Aead::ALL.into_iter().map(EspTransform::Aead).filter(|t| can_tell(*t));
        assert_eq!(combined.clone().count(), Aead::ALL.len() - 1, "all but ChaCha20-Poly1305");
        let separate = Integrity::ALL.into_iter().flat_map(|mac| {
            let ctr = AesCtr::ALL.map(|c| EspTransform::CtrHmac(c, mac));
            let cbc = [BlockCipher::Aes128Cbc, BlockCipher::Aes192Cbc, BlockCipher::Aes256Cbc];
            let cbc = cbc.map(|c| EspTransform::CbcHmac(c, mac));
            ctr.into_iter().chain(cbc).chain([EspTransform::NullHmac(mac)])
        });
        for transform in combined.chain([EspTransform::Gmac(Aead::Aes192Gcm16)]).chain(separate) {
            let n = esp_numbers(transform).unwrap();
            let back = esp_transform(n.transform, n.key_bits.map(u32::from), n.authentication.map(u32::from));
            assert_eq!(back, Some(transform));
        }
        assert_eq!(esp_transform(esp::AES_GCM_16, None, None), None);
        assert_eq!(esp_transform(esp::AES_CBC, Some(128), None), None);
        assert_eq!(esp_transform(esp::AES_CTR, Some(128), None), None, "nothing would be authenticated");
        assert_eq!(esp_transform(esp::AES_CTR, None, Some(5)), None);
        assert_eq!(esp_transform(esp::AES_CTR, Some(160), Some(5)), None, "the nonce does not count");
        assert_eq!(esp_transform(esp::NULL, None, None), None, "neither encrypted nor authenticated");
        assert_eq!(esp_transform(esp::NULL, Some(128), Some(5)), None);
        let numbers = esp_numbers(EspTransform::CtrHmac(AesCtr::Aes192Ctr, Integrity::HmacSha512_256)).unwrap();
        assert_eq!(numbers, EspNumbers { transform: 13, key_bits: Some(192), authentication: Some(7) });
        let numbers = esp_numbers(EspTransform::NullHmac(Integrity::HmacSha1_96)).unwrap();
        assert_eq!(numbers, EspNumbers { transform: 11, key_bits: None, authentication: Some(2) });
        for (ack, number) in ACK_TYPES {
            assert_eq!((ack_number(ack), ack_type(number.into())), (Some(number), Some(ack)));
        }
        assert_eq!(ack_number(AckType::Kek(Hash::Sha1)), None);
    }

    #[test]
    fn signatures_and_keks_have_their_numbers() {
        for scheme in SignatureScheme::ALL {
            let (number, hash) = signature_numbers(scheme);
            assert_eq!(signature_scheme(number.into(), hash.map(u32::from)), Some(scheme));
        }
        // The hash of ECDSA may be told, if it is the curve's (RFC 6407 section 5.3.5).
        for (number, hash, scheme) in
            [(4, 3, SignatureScheme::EcdsaP256Sha256), (6, 5, SignatureScheme::EcdsaP521Sha512)]
        {
            assert_eq!(signature_scheme(number, Some(hash)), Some(scheme));
            assert_eq!(signature_scheme(number, Some(4)), None);
        }
        assert_eq!(signature_scheme(1, None), None);
        assert_eq!(signature_scheme(1, Some(1)), None, "MD5");
        for other in [0, 2, 3, 7] {
            assert_eq!(signature_scheme(other, Some(3)), None);
        }
        assert_eq!(kek_cipher(2, None), Some(BlockCipher::TripleDesCbc));
        assert_eq!(kek_cipher(2, Some(192)), Some(BlockCipher::TripleDesCbc));
        assert_eq!(kek_cipher(3, Some(192)), Some(BlockCipher::Aes192Cbc));
        for (algorithm, bits) in [(1, None), (2, Some(128)), (3, None), (3, Some(64)), (4, Some(128))] {
            assert_eq!(kek_cipher(algorithm, bits), None);
        }
    }
}
