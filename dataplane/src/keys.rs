//! The transforms: how octets between an ESP header and its end are protected.

use keyferry_crypto::{Aead, AeadKey, AeadMode, BlockCipher, CryptoError, IntegrityKey, Secret};
use keyferry_model::policy::EspTransform;

use crate::iv::IvSource;
use crate::packet::esp::HEADER_LEN;

const AEAD_IV: usize = Aead::IV;
const CBC_BLOCK: usize = 16;
/// The longest ICV of any transform.
pub(crate) const MAX_ICV: usize = 32;

/// Where an ESP packet's parts are, in octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// IV, behind SPI and sequence number.
    pub(crate) iv: usize,
    /// What payload and trailer are padded to.
    pub(crate) block: usize,
    /// ICV at the end.
    pub(crate) icv: usize,
}

impl Layout {
    /// Where the encrypted octets begin.
    pub(crate) fn body(self) -> usize {
        HEADER_LEN + self.iv
    }
}

/// Keys of one SA, prepared for packets.
pub(crate) enum Keys {
    /// A combined mode (RFC 4106, RFC 4309, RFC 7634): salt and IV make the nonce, SPI and sequence number are authenticated.
    Aead {
        /// Prepared key.
        key: AeadKey,
        /// Salt, as secret as the key.
        salt: Secret,
    },
    /// AES-GMAC (RFC 4543): nonces as with GCM, and everything in front of the ICV is authenticated in clear.
    Gmac {
        /// Prepared key.
        key: AeadKey,
        /// Salt, as secret as the key.
        salt: Secret,
    },
    /// CBC (RFC 3602), then HMAC over everything before the ICV (RFC 4868).
    Cbc {
        /// Cipher.
        cipher: BlockCipher,
        /// Its key.
        key: Secret,
        /// Prepared key of the MAC.
        mac: Box<IntegrityKey>,
        /// Octets of the ICV.
        icv: usize,
    },
}

impl Keys {
    /// Prepares keys. The material is the encryption key (with its salt), then the integrity key (RFC 7296 section
    /// 2.17).
    pub(crate) fn new(transform: EspTransform, keymat: &[u8]) -> Result<Self, CryptoError> {
        match transform {
            EspTransform::Aead(aead) => {
                let (key, salt) = keymat.split_at(keymat.len().saturating_sub(aead.salt_len()));
                Ok(Keys::Aead { key: AeadKey::new(aead, key)?, salt: Secret::copy_from(salt) })
            }
            EspTransform::Gmac(aead) if (aead.mode(), aead.icv_len()) != (AeadMode::Gcm, 16) => {
                Err(CryptoError::BadKey("GMAC is the MAC of AES-GCM, in full"))
            }
            EspTransform::Gmac(aead) => {
                let (key, salt) = keymat.split_at(keymat.len().saturating_sub(aead.salt_len()));
                Ok(Keys::Gmac { key: AeadKey::new(aead, key)?, salt: Secret::copy_from(salt) })
            }
            EspTransform::CbcHmac(BlockCipher::TripleDesCbc, _) => {
                Err(CryptoError::BadKey("Triple DES is not offered"))
            }
            EspTransform::CbcHmac(
                cipher @ (BlockCipher::Aes128Cbc | BlockCipher::Aes192Cbc | BlockCipher::Aes256Cbc),
                integrity,
            ) => {
                let (key, mac) = keymat.split_at(cipher.key_len().min(keymat.len()));
                Ok(Keys::Cbc {
                    cipher,
                    key: Secret::copy_from(key),
                    mac: Box::new(IntegrityKey::new(integrity, mac)),
                    icv: integrity.icv_len(),
                })
            }
        }
    }

    pub(crate) fn layout(&self) -> Layout {
        match self {
            Keys::Aead { key, .. } | Keys::Gmac { key, .. } => {
                Layout { iv: AEAD_IV, block: 4, icv: key.algorithm().icv_len() }
            }
            Keys::Cbc { icv, .. } => Layout { iv: CBC_BLOCK, block: CBC_BLOCK, icv: *icv },
        }
    }

    /// Protects an ESP packet in place. SPI and sequence number are written; between [`Layout::body`] and the ICV stand
    /// payload and trailer. `iv` is the counter-mode IV; CBC draws its own from `ivs`.
    pub(crate) fn seal(&self, esp: &mut [u8], iv: Option<u64>, ivs: &mut IvSource) -> Result<(), CryptoError> {
        let layout = self.layout();
        let icv_at = esp.len().saturating_sub(layout.icv);
        match self {
            Keys::Aead { key, salt } => {
                let iv = iv.ok_or(CryptoError::Unauthentic)?.to_be_bytes();
                let (protected, tag) = esp.split_at_mut(icv_at);
                let Some((header, rest)) = protected.split_first_chunk_mut::<HEADER_LEN>() else {
                    return Err(CryptoError::Unauthentic);
                };
                let Some((iv_field, body)) = rest.split_first_chunk_mut::<AEAD_IV>() else {
                    return Err(CryptoError::Unauthentic);
                };
                *iv_field = iv;
                let mut buffer = [0; Aead::MAX_NONCE];
                let nonce = key.algorithm().nonce(salt.expose(), &iv, &mut buffer)?;
                key.seal(nonce, header, body, tag)
            }
            Keys::Gmac { key, salt } => {
                let iv = iv.ok_or(CryptoError::Unauthentic)?.to_be_bytes();
                let (clear, tag) = esp.split_at_mut(icv_at);
                let Some(iv_field) = clear.get_mut(HEADER_LEN..HEADER_LEN + AEAD_IV) else {
                    return Err(CryptoError::Unauthentic);
                };
                iv_field.copy_from_slice(&iv);
                let mut buffer = [0; Aead::MAX_NONCE];
                let nonce = key.algorithm().nonce(salt.expose(), &iv, &mut buffer)?;
                key.seal(nonce, clear, &mut [], tag)
            }
            Keys::Cbc { cipher, key, mac, .. } => {
                let iv = ivs.next()?;
                let (protected, icv) = esp.split_at_mut(icv_at);
                let (_, body) = protected.split_at_mut(HEADER_LEN);
                let (iv_field, body) = body.split_at_mut(CBC_BLOCK);
                iv_field.copy_from_slice(&iv);
                cipher.encrypt(key.expose(), &iv, body)?;
                mac.compute_into(&[protected], icv);
                Ok(())
            }
        }
    }

    /// Verifies and decrypts an ESP packet in place. The caller has checked that the layout's parts and at least a
    /// trailer are there, and whole blocks.
    pub(crate) fn open(&self, esp: &mut [u8]) -> Result<(), CryptoError> {
        let layout = self.layout();
        let icv_at = esp.len().saturating_sub(layout.icv);
        match self {
            Keys::Aead { key, salt } => {
                let (protected, tag) = esp.split_at_mut(icv_at);
                let Some((header, rest)) = protected.split_first_chunk_mut::<HEADER_LEN>() else {
                    return Err(CryptoError::Unauthentic);
                };
                let Some((iv, body)) = rest.split_first_chunk_mut::<AEAD_IV>() else {
                    return Err(CryptoError::Unauthentic);
                };
                let mut buffer = [0; Aead::MAX_NONCE];
                let nonce = key.algorithm().nonce(salt.expose(), iv, &mut buffer)?;
                key.open(nonce, header, body, tag)
            }
            Keys::Gmac { key, salt } => {
                let (clear, tag) = esp.split_at(icv_at);
                let Some(iv) = clear.get(HEADER_LEN..).and_then(|b| b.first_chunk::<AEAD_IV>()) else {
                    return Err(CryptoError::Unauthentic);
                };
                let mut buffer = [0; Aead::MAX_NONCE];
                let nonce = key.algorithm().nonce(salt.expose(), iv, &mut buffer)?;
                key.open(nonce, clear, &mut [], tag)
            }
            Keys::Cbc { cipher, key, mac, .. } => {
                let (protected, icv) = esp.split_at_mut(icv_at);
                if !mac.verify(&[protected], icv) {
                    return Err(CryptoError::Unauthentic);
                }
                let Some((iv, body)) =
                    protected.get_mut(HEADER_LEN..).and_then(|b| b.split_first_chunk_mut::<CBC_BLOCK>())
                else {
                    return Err(CryptoError::Unauthentic);
                };
                cipher.decrypt(key.expose(), iv, body)
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use keyferry_crypto::{Integrity, SeededRandom};

    use super::*;
    use crate::packet::esp::read_trailer;

    #[test]
    fn the_vectors_of_draft_mcgrew_gcm_test() {
        let mut ivs = IvSource::new(&mut SeededRandom::new(1));
        let mut seen = 0;
        let lines = include_str!("../tests/vectors/draft-mcgrew-gcm-test-01.txt").lines();
        for line in lines.filter(|line| !line.starts_with('#')) {
            let fields: Vec<Vec<u8>> = line.split(' ').map(|field| hex::decode(field).unwrap()).collect();
            let [keymat, header, iv, plain, ciphertext, icv] = &fields[..] else { panic!("malformed line: {line}") };
            let aead = match keymat.len() {
                20 => Aead::Aes128Gcm16,
                28 => Aead::Aes192Gcm16,
                _ => Aead::Aes256Gcm16,
            };
            let keys = Keys::new(EspTransform::Aead(aead), keymat).unwrap();
            let sealed = [&header[..], iv, ciphertext, icv].concat();
            let mut esp = [&header[..], &[0; 8], plain, &[0; 16]].concat();
            let iv = u64::from_be_bytes(iv[..].try_into().unwrap());
            keys.seal(&mut esp, Some(iv), &mut ivs).unwrap();
            assert_eq!(esp, sealed);
            keys.open(&mut esp).unwrap();
            assert_eq!(esp[keys.layout().body()..][..plain.len()], plain[..]);
            // The vectors call ICMP the next header, and pad as RFC 4303 says.
            assert_eq!(read_trailer(plain).map(|(_, next)| next), Some(1));
            seen += 1;
        }
        assert_eq!(seen, 3);
    }

    /// Known answers of tests/vectors/aead.py for what is not AES-GCM-16.
    #[test]
    fn combined_modes_are_those_of_an_independent_computation() {
        let mode = |a: &Aead| match a.mode() {
            AeadMode::Gcm => "gcm",
            AeadMode::Ccm => "ccm",
            AeadMode::ChaCha20Poly1305 => "chacha20poly1305",
        };
        let named = |name: &str| {
            let is = |a: &Aead| format!("{}-{}-{}", mode(a), a.key_len(), a.icv_len()) == name;
            Aead::ALL.into_iter().find(is).unwrap()
        };
        let mut ivs = IvSource::new(&mut SeededRandom::new(1));
        let mut seen = 0;
        for line in include_str!("../tests/vectors/aead.txt").lines() {
            let (name, fields) = line.split_once(' ').unwrap();
            let fields: Vec<Vec<u8>> = fields.split(' ').map(|field| hex::decode(field).unwrap()).collect();
            let [keymat, sealed, clear] = &fields[..] else { panic!("malformed line: {line}") };
            let transform = EspTransform::Aead(named(name));
            assert_eq!(keymat.len(), transform.keymat_len());
            let keys = Keys::new(transform, keymat).unwrap();
            let layout = keys.layout();
            assert_eq!(layout.body() + clear.len() + layout.icv, sealed.len());
            let iv = u64::from_be_bytes(sealed[8..16].try_into().unwrap());
            let mut esp = [&sealed[..8], &[0; 8], clear, &vec![0; layout.icv]].concat();
            keys.seal(&mut esp, Some(iv), &mut ivs).unwrap();
            assert_eq!(esp, *sealed, "{name}");
            for at in 0..esp.len() {
                let mut changed = esp.clone();
                changed[at] ^= 1;
                assert!(keys.open(&mut changed).is_err(), "{name}, octet {at}");
            }
            keys.open(&mut esp).unwrap();
            assert_eq!(esp[layout.body()..][..clear.len()], clear[..]);
            seen += 1;
        }
        assert_eq!(seen, 16);
    }

    /// RFC 4543 has no vectors for ESP: these are tests/vectors/gmac.py's.
    #[test]
    fn gmac_is_that_of_an_independent_computation() {
        let mut ivs = IvSource::new(&mut SeededRandom::new(1));
        let mut seen = 0;
        for line in include_str!("../tests/vectors/gmac.txt").lines() {
            let fields: Vec<Vec<u8>> = line.split(' ').map(|field| hex::decode(field).unwrap()).collect();
            let [keymat, sealed] = &fields[..] else { panic!("malformed line: {line}") };
            let aead = match keymat.len() {
                20 => Aead::Aes128Gcm16,
                28 => Aead::Aes192Gcm16,
                _ => Aead::Aes256Gcm16,
            };
            let keys = Keys::new(EspTransform::Gmac(aead), keymat).unwrap();
            let iv = u64::from_be_bytes(sealed[8..16].try_into().unwrap());
            let mut esp = sealed.clone();
            esp[8..16].fill(0);
            let end = esp.len() - 16;
            esp[end..].fill(0);
            keys.seal(&mut esp, Some(iv), &mut ivs).unwrap();
            assert_eq!(esp, *sealed);
            keys.open(&mut esp).unwrap();
            assert_eq!(esp, *sealed, "readable before and after");
            for at in 0..esp.len() {
                esp[at] ^= 1;
                assert!(keys.open(&mut esp).is_err(), "octet {at}");
                esp[at] ^= 1;
            }
            seen += 1;
        }
        assert_eq!(seen, 6);
    }

    #[test]
    fn cbc_ivs_differ_from_packet_to_packet() {
        let mut ivs = IvSource::new(&mut SeededRandom::new(1));
        let transform = EspTransform::CbcHmac(BlockCipher::Aes128Cbc, Integrity::HmacSha256_128);
        let keys = Keys::new(transform, &[7; 48]).unwrap();
        let mut sealed: Vec<Vec<u8>> = Vec::new();
        for _ in 0..100 {
            let mut esp = vec![0; 8 + 16 + 16 + 16];
            keys.seal(&mut esp, None, &mut ivs).unwrap();
            assert!(sealed.iter().all(|other| other[8..24] != esp[8..24] && other[24..40] != esp[24..40]));
            sealed.push(esp);
        }
    }
}
