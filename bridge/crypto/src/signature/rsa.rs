//! RSA signatures (RFC 8017, section 8): encoded here, computed by OpenSSL. Its interface for named signatures looks up key and
//! algorithms anew for each, which costs as much as verifying does.

use openssl::bn::{BigNum, MsbOption};
use openssl::pkey::{HasPrivate, HasPublic};
use openssl::rsa::{Padding, RsaRef};
use zeroize::Zeroizing;

use super::{DigestSignature, OTHER_KIND, SignatureAlgorithm};
use crate::hash::{HashState, MAX_HASH};
use crate::secret::ct_eq;
use crate::{CryptoError, Hash};

/// How what is signed becomes a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// EMSA-PKCS1-v1_5 (section 9.2), where the octets stand in for the DigestInfo, as RFC 2409 wants it.
    Raw,
    /// EMSA-PKCS1-v1_5 of a digest.
    Pkcs1(Hash),
    /// EMSA-PSS (section 9.1) with MGF1 by the same hash and a salt as long as its output.
    Pss(Hash),
}

const TOO_LONG: CryptoError = CryptoError::SignatureKey("more octets than the RSA key signs");

impl Encoding {
    /// Of an algorithm; also its hash of the content. `None` for algorithms of other kinds of keys.
    pub(super) fn of_named(algorithm: SignatureAlgorithm) -> Option<(Self, Hash)> {
        match algorithm {
            SignatureAlgorithm::RsaPkcs1(hash) => Some((Encoding::Pkcs1(hash), hash)),
            SignatureAlgorithm::RsaPss(hash) => Some((Encoding::Pss(hash), hash)),
            SignatureAlgorithm::Ecdsa(_) | SignatureAlgorithm::Ed25519 | SignatureAlgorithm::Ed448 => None,
        }
    }

    /// Of IKEv1's ways to sign a hash; `None` for those of other kinds of keys.
    pub(super) fn of_digest(how: DigestSignature) -> Option<Self> {
        match how {
            DigestSignature::RsaRaw => Some(Encoding::Raw),
            DigestSignature::RsaDigestInfo(hash) => Some(Encoding::Pkcs1(hash)),
            DigestSignature::EcdsaDigest | DigestSignature::EcdsaHashed(_) => None,
        }
    }
}

/// What stands in front of a digest in a DigestInfo (section 9.2, note 1).
fn digest_info(hash: Hash) -> &'static [u8] {
    match hash {
        Hash::Sha1 => b"\x30\x21\x30\x09\x06\x05\x2b\x0e\x03\x02\x1a\x05\x00\x04\x14",
        Hash::Sha256 => b"\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20",
        Hash::Sha384 => b"\x30\x41\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x02\x05\x00\x04\x30",
        Hash::Sha512 => b"\x30\x51\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x03\x05\x00\x04\x40",
    }
}

/// Signs octets: a digest, but for [`Encoding::Raw`]. PSS draws its salt from OpenSSL's own generator.
///
/// # Errors
/// [`CryptoError::SignatureKey`] for octets that are no digest of the hash, or more than the key signs;
/// [`CryptoError::OpenSsl`].
pub(super) fn sign<T: HasPrivate>(key: &RsaRef<T>, encoding: Encoding, octets: &[u8]) -> Result<Vec<u8>, CryptoError> {
    let encoded = match encoding {
        Encoding::Raw => pkcs1(key.size() as usize, &[octets]),
        Encoding::Pkcs1(hash) if octets.len() == hash.len() => pkcs1(key.size() as usize, &[digest_info(hash), octets]),
        Encoding::Pss(hash) if octets.len() == hash.len() => {
            let mut salt = BigNum::new()?;
            salt.rand(bits(hash.len()), MsbOption::MAYBE_ZERO, false)?;
            pss(key, hash, octets, &salt.to_vec_padded(i32::try_from(hash.len()).unwrap_or(0))?)
        }
        Encoding::Pkcs1(_) | Encoding::Pss(_) => return Err(OTHER_KIND),
    };
    let mut value = vec![0; key.size() as usize];
    let len = key.private_encrypt(&encoded.ok_or(TOO_LONG)?, &mut value, Padding::NONE)?;
    value.truncate(len);
    Ok(value)
}

fn bits(octets: usize) -> i32 {
    i32::try_from(octets * 8).unwrap_or(i32::MAX)
}

/// Is this a signature of the octets, which are a digest but for [`Encoding::Raw`]? Whatever goes wrong means no.
pub(super) fn verify<T: HasPublic>(key: &RsaRef<T>, encoding: Encoding, octets: &[u8], value: &[u8]) -> bool {
    let size = key.size() as usize;
    let mut encoded = vec![0; size];
    // Refuses numbers that are not below the modulus.
    if value.len() != size || key.public_decrypt(value, &mut encoded, Padding::NONE).ok() != Some(size) {
        return false;
    }
    // What a signer must have encoded is compared whole: nothing is read that a forger could have made up.
    match encoding {
        Encoding::Raw => pkcs1(size, &[octets]).is_some_and(|expected| expected == encoded),
        Encoding::Pkcs1(hash) if octets.len() == hash.len() => {
            pkcs1(size, &[digest_info(hash), octets]).is_some_and(|expected| expected == encoded)
        }
        Encoding::Pss(hash) if octets.len() == hash.len() => is_pss(key, hash, octets, &mut encoded),
        Encoding::Pkcs1(_) | Encoding::Pss(_) => false,
    }
}

/// 0, 1, at least eight times 255, 0, the parts; `None` if they are too long.
fn pkcs1(size: usize, parts: &[&[u8]]) -> Option<Vec<u8>> {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let padding = size.checked_sub(len + 3).filter(|padding| *padding >= 8)?;
    let mut encoded = Vec::with_capacity(size);
    encoded.extend([0, 1]);
    encoded.resize(2 + padding, 0xff);
    encoded.push(0);
    parts.iter().for_each(|part| encoded.extend_from_slice(part));
    Some(encoded)
}

/// Where an encoding for PSS begins in the octets of the number, and the bits that are used of its first octet: it is a bit
/// shorter than the modulus (section 8.1.1).
fn pss_room<T: HasPublic>(key: &RsaRef<T>) -> (usize, u8) {
    match usize::try_from(key.n().num_bits()).unwrap_or(0).saturating_sub(1) % 8 {
        0 => (1, 0xff),
        bits => (0, 0xff >> (8 - bits)),
    }
}

/// ```text
///  maskedDB = (0 .. 0 | 1 | salt) xor MGF1(H) | H = hash(eight 0 | digest | salt) | 0xbc
/// ```
fn pss<T: HasPublic>(key: &RsaRef<T>, hash: Hash, digest: &[u8], salt: &[u8]) -> Option<Vec<u8>> {
    let (start, first) = pss_room(key);
    let mut encoded = vec![0; key.size() as usize];
    let (last, rest) = encoded.get_mut(start..)?.split_last_mut()?;
    let (block, h) = rest.split_at_mut_checked(rest.len().checked_sub(hash.len())?)?;
    *last = 0xbc;
    let one = block.len().checked_sub(salt.len() + 1)?;
    block[one] = 1;
    block[one + 1..].copy_from_slice(salt);
    h.copy_from_slice(&hash.digest(&[&[0; 8], digest, salt]));
    mask(hash, h, block);
    block[0] &= first;
    Some(encoded)
}

fn is_pss<T: HasPublic>(key: &RsaRef<T>, hash: Hash, digest: &[u8], encoded: &mut [u8]) -> bool {
    let (start, first) = pss_room(key);
    let (above, rest) = encoded.split_at_mut(start);
    let Some((0xbc, rest)) = rest.split_last_mut().map(|(last, rest)| (*last, rest)) else { return false };
    let Some(len) = rest.len().checked_sub(hash.len()) else { return false };
    let (block, h) = rest.split_at_mut(len);
    let Some(one) = block.len().checked_sub(hash.len() + 1) else { return false };
    if above.iter().any(|octet| *octet != 0) || block[0] & !first != 0 {
        return false;
    }
    mask(hash, h, block);
    block[0] &= first;
    let (padding, salt) = block.split_at(one + 1);
    let Some((1, zeros)) = padding.split_last() else { return false };
    zeros.iter().all(|octet| *octet == 0) && ct_eq(h, &hash.digest(&[&[0; 8], digest, salt]))
}

/// Exclusive or with MGF1 of a seed (appendix B.2.1).
fn mask(hash: Hash, seed: &[u8], octets: &mut [u8]) {
    let mut state = HashState::new(hash);
    state.update(seed);
    let mut out = Zeroizing::new([0; MAX_HASH]);
    for (counter, chunk) in (0u32..).zip(octets.chunks_mut(hash.len())) {
        let mut state = state.clone();
        state.update(&counter.to_be_bytes());
        state.finish(&mut out);
        chunk.iter_mut().zip(out.iter()).for_each(|(octet, with)| *octet ^= with);
    }
}
