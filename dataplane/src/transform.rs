//! The transforms: how octets between an ESP header and its end are protected.
//!
//! Packets are worked upon in bursts of one SA's, so that what can do several at once (a multi-buffer library) sees them
//! together. What cannot implements [`Single`] and is given them one by one.

use keyferry_crypto::{AeadMode, AesCtr, BlockCipher, CryptoError};
use keyferry_model::policy::EspTransform;

use crate::iv::IvSource;
use crate::packet::esp::HEADER_LEN;

mod combined;
mod counter;
mod gmac;
mod lanes;
mod mac;
#[cfg(feature = "ipsec-mb")]
mod multi_buffer;
mod null;
mod separate;

/// The longest ICV of any transform.
pub(crate) const MAX_ICV: usize = 32;

/// Where an ESP packet's parts are, in octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// IV, behind SPI and sequence number.
    pub(crate) iv: usize,
    /// What payload and trailer are padded to, a power of two.
    pub(crate) block: usize,
    /// ICV at the end.
    pub(crate) icv: usize,
}

impl Layout {
    /// Where the encrypted octets begin.
    pub(crate) fn body(self) -> usize {
        HEADER_LEN + self.iv
    }

    /// Octets that are not encrypted.
    pub(crate) fn around(self) -> usize {
        self.body() + self.icv
    }
}

/// One ESP packet to protect or to open, in place.
///
/// To protect: SPI and sequence number are written; between [`Layout::body`] and the ICV stand payload and trailer. To
/// open: the layout's parts and at least a trailer are there, and whole blocks.
pub(crate) struct Job<'p> {
    /// The packet from its SPI to its end.
    pub(crate) esp: &'p mut [u8],
    /// IV of a counter mode, for a packet to protect.
    pub(crate) iv: Option<u64>,
    /// Is it protected, or authentic and readable?
    pub(crate) done: bool,
}

impl<'p> Job<'p> {
    pub(crate) fn new(esp: &'p mut [u8], iv: Option<u64>) -> Self {
        Self { esp, iv, done: false }
    }
}

/// What stands in front of an ICV of so many octets, and the ICV; of a packet that is shorter all is the ICV's.
#[inline]
fn split_icv(esp: &mut [u8], icv: usize) -> (&mut [u8], &mut [u8]) {
    esp.split_at_mut(esp.len().saturating_sub(icv))
}

/// The keys of one SA, prepared for packets. Workers share it.
pub(crate) trait Transform: Send + Sync {
    /// Where the parts of its packets are.
    fn layout(&self) -> Layout;
    /// Whose implementation it is, for people.
    fn library(&self) -> &'static str;
    /// Protects packets. Transforms without counters draw their IVs from `ivs`.
    fn seal(&self, burst: &mut [Job<'_>], ivs: &mut IvSource);
    /// Verifies and decrypts packets. What is not authentic is not readable afterwards either.
    fn open(&self, burst: &mut [Job<'_>]);
}

/// A transform that knows nothing better than one packet after the other.
trait Single: Send + Sync {
    /// [`Transform::library`].
    const LIBRARY: &'static str;
    fn layout(&self) -> Layout;
    fn seal(&self, esp: &mut [u8], iv: Option<u64>, ivs: &mut IvSource) -> Result<(), CryptoError>;
    fn open(&self, esp: &mut [u8]) -> Result<(), CryptoError>;
}

impl<T: Single> Transform for T {
    fn layout(&self) -> Layout {
        Single::layout(self)
    }

    fn library(&self) -> &'static str {
        Self::LIBRARY
    }

    fn seal(&self, burst: &mut [Job<'_>], ivs: &mut IvSource) {
        for job in burst {
            job.done = Single::seal(self, job.esp, job.iv, ivs).is_ok();
        }
    }

    fn open(&self, burst: &mut [Job<'_>]) {
        for job in burst {
            job.done = Single::open(self, job.esp).is_ok();
        }
    }
}

/// Prepares keys. The material is the encryption key (with its salt), then the integrity key (RFC 7296 section 2.17).
///
/// # Errors
/// Material of the wrong length, or a combination that is not offered.
pub(crate) fn prepare(transform: EspTransform, keymat: &[u8]) -> Result<Box<dyn Transform>, CryptoError> {
    let usual = prepare_usual(transform, keymat)?;
    #[cfg(feature = "ipsec-mb")]
    let usual = multi_buffer::prepare(transform, keymat, usual);
    Ok(usual)
}

/// By AWS-LC, OpenSSL and RustCrypto, which are everywhere.
fn prepare_usual(transform: EspTransform, keymat: &[u8]) -> Result<Box<dyn Transform>, CryptoError> {
    if keymat.len() != transform.keymat_len() {
        return Err(CryptoError::Length("keying material"));
    }
    match transform {
        EspTransform::Aead(aead) => {
            let (key, salt) = keymat.split_at(aead.key_len());
            Ok(match combined::by_aws_lc(aead) {
                Some(algorithm) => Box::new(combined::Fast::new(algorithm, key, salt)?),
                None => Box::new(combined::Any::new(aead, key, salt)?),
            })
        }
        EspTransform::Gmac(aead) => {
            let (key, salt) = keymat.split_at(aead.key_len());
            match combined::by_aws_lc(aead).filter(|_| aead.mode() == AeadMode::Gcm) {
                Some(algorithm) => Ok(Box::new(gmac::Gmac::new(algorithm, key, salt)?)),
                None => Err(CryptoError::BadKey("GMAC is the MAC of AES-GCM, in full")),
            }
        }
        EspTransform::CbcHmac(BlockCipher::TripleDesCbc, _) => Err(CryptoError::BadKey("Triple DES is not offered")),
        EspTransform::CbcHmac(
            cipher @ (BlockCipher::Aes128Cbc | BlockCipher::Aes192Cbc | BlockCipher::Aes256Cbc),
            integrity,
        ) => {
            let (key, mac) = keymat.split_at(cipher.key_len());
            Ok(Box::new(separate::CbcHmac::new(key, integrity, mac)?))
        }
        EspTransform::CtrHmac(cipher, integrity) => {
            let (key, rest) = keymat.split_at(cipher.key_len());
            let (nonce, mac) = rest.split_at(AesCtr::NONCE);
            Ok(Box::new(counter::CtrHmac::new(key, nonce, integrity, mac)?))
        }
        EspTransform::NullHmac(integrity) => Ok(Box::new(null::NullHmac::new(integrity, keymat))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use keyferry_crypto::{Aead, Integrity, SeededRandom};

    use super::*;
    use crate::packet::esp::read_trailer;

    /// All implementations there are here.
    fn implementations(transform: EspTransform, keymat: &[u8]) -> Vec<Box<dyn Transform>> {
        let usual = prepare_usual(transform, keymat).unwrap();
        #[cfg(feature = "ipsec-mb")]
        if let Ok(other) =
            multi_buffer::prepare_from(transform, keymat, prepare_usual(transform, keymat).unwrap(), |_| 0)
        {
            return vec![usual, other];
        }
        vec![usual]
    }

    fn seal(keys: &dyn Transform, esp: &mut [u8], iv: Option<u64>, ivs: &mut IvSource) -> Result<(), CryptoError> {
        let mut job = [Job::new(esp, iv)];
        keys.seal(&mut job, ivs);
        if job[0].done { Ok(()) } else { Err(CryptoError::NotDone) }
    }

    fn open(keys: &dyn Transform, esp: &mut [u8]) -> Result<(), CryptoError> {
        let mut job = [Job::new(esp, None)];
        keys.open(&mut job);
        if job[0].done { Ok(()) } else { Err(CryptoError::Unauthentic) }
    }

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
            for keys in implementations(EspTransform::Aead(aead), keymat) {
                let sealed = [&header[..], iv, ciphertext, icv].concat();
                let mut esp = [&header[..], &[0; 8], plain, &[0; 16]].concat();
                let iv = u64::from_be_bytes(iv[..].try_into().unwrap());
                seal(&*keys, &mut esp, Some(iv), &mut ivs).unwrap();
                assert_eq!(esp, sealed);
                open(&*keys, &mut esp).unwrap();
                assert_eq!(esp[keys.layout().body()..][..plain.len()], plain[..]);
                // The vectors call ICMP the next header, and pad as RFC 4303 says.
                assert_eq!(read_trailer(plain).map(|(_, next)| next), Some(1));
            }
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
            for keys in implementations(transform, keymat) {
                let layout = keys.layout();
                assert_eq!(layout.body() + clear.len() + layout.icv, sealed.len());
                let iv = u64::from_be_bytes(sealed[8..16].try_into().unwrap());
                let mut esp = [&sealed[..8], &[0; 8], clear, &vec![0; layout.icv]].concat();
                seal(&*keys, &mut esp, Some(iv), &mut ivs).unwrap();
                assert_eq!(esp, *sealed, "{name}");
                for at in 0..esp.len() {
                    let mut changed = esp.clone();
                    changed[at] ^= 1;
                    assert!(open(&*keys, &mut changed).is_err(), "{name}, octet {at}");
                }
                open(&*keys, &mut esp).unwrap();
                assert_eq!(esp[layout.body()..][..clear.len()], clear[..]);
            }
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
            for keys in implementations(EspTransform::Gmac(aead), keymat) {
                let iv = u64::from_be_bytes(sealed[8..16].try_into().unwrap());
                let mut esp = sealed.clone();
                esp[8..16].fill(0);
                let end = esp.len() - 16;
                esp[end..].fill(0);
                seal(&*keys, &mut esp, Some(iv), &mut ivs).unwrap();
                assert_eq!(esp, *sealed);
                open(&*keys, &mut esp).unwrap();
                assert_eq!(esp, *sealed, "readable before and after");
                for at in 0..esp.len() {
                    esp[at] ^= 1;
                    assert!(open(&*keys, &mut esp).is_err(), "octet {at}");
                    esp[at] ^= 1;
                }
            }
            seen += 1;
        }
        assert_eq!(seen, 6);
    }

    fn separate(cipher: &str, mac: &str) -> EspTransform {
        let mac = match mac {
            "sha1" => Integrity::HmacSha1_96,
            "sha256" => Integrity::HmacSha256_128,
            "sha384" => Integrity::HmacSha384_192,
            _ => Integrity::HmacSha512_256,
        };
        match cipher {
            "cbc-16" => EspTransform::CbcHmac(BlockCipher::Aes128Cbc, mac),
            "cbc-24" => EspTransform::CbcHmac(BlockCipher::Aes192Cbc, mac),
            "cbc-32" => EspTransform::CbcHmac(BlockCipher::Aes256Cbc, mac),
            "ctr-16" => EspTransform::CtrHmac(AesCtr::Aes128Ctr, mac),
            "ctr-24" => EspTransform::CtrHmac(AesCtr::Aes192Ctr, mac),
            "ctr-32" => EspTransform::CtrHmac(AesCtr::Aes256Ctr, mac),
            _ => EspTransform::NullHmac(mac),
        }
    }

    /// Known answers of tests/vectors/separate.py, both ways. What AES-CBC seals has an IV that nobody can choose: OpenSSL
    /// decrypts it.
    #[test]
    fn ciphers_with_hmac_are_those_of_an_independent_computation() {
        let mut ivs = IvSource::new(&mut SeededRandom::new(1));
        let mut seen = 0;
        for line in include_str!("../tests/vectors/separate.txt").lines() {
            let [cipher, mac, keymat, sealed, clear] = line.split(' ').collect::<Vec<_>>()[..] else {
                panic!("{line}")
            };
            let [keymat, sealed, clear] = [keymat, sealed, clear].map(|field| hex::decode(field).unwrap());
            let transform = separate(cipher, mac);
            assert_eq!(keymat.len(), transform.keymat_len());
            for keys in implementations(transform, &keymat) {
                let Layout { iv, block, icv } = keys.layout();
                assert_eq!((HEADER_LEN + iv + clear.len() + icv, clear.len() % block), (sealed.len(), 0));
                let mut esp = [&sealed[..HEADER_LEN], &vec![0; iv], &clear, &vec![0; icv]].concat();
                let counter = sealed[HEADER_LEN..].first_chunk().copied().map(u64::from_be_bytes);
                seal(&*keys, &mut esp, counter.filter(|_| transform.is_counter_mode()), &mut ivs).unwrap();
                if let EspTransform::CbcHmac(cipher, _) = transform {
                    let (iv, body) = esp[HEADER_LEN..sealed.len() - icv].split_at(iv);
                    let mut body = body.to_vec();
                    cipher.decrypt(&keymat[..cipher.key_len()], iv, &mut body).unwrap();
                    assert_eq!(body, clear, "{line}");
                    open(&*keys, &mut esp).unwrap();
                    esp = sealed.clone();
                }
                assert_eq!(esp, sealed, "{line}");
                for at in 0..esp.len() {
                    let mut changed = esp.clone();
                    changed[at] ^= 1;
                    assert!(open(&*keys, &mut changed).is_err(), "{cipher} {mac}, octet {at}");
                }
                open(&*keys, &mut esp).unwrap();
                assert_eq!(esp[keys.layout().body()..][..clear.len()], clear[..]);
            }
            seen += 1;
        }
        assert_eq!(seen, 28);
    }

    /// RFC 3686 section 6, test vectors 1 to 9: key, nonce, IV, plain text, cipher text.
    #[test]
    fn rfc_3686_vectors() {
        let mut ivs = IvSource::new(&mut SeededRandom::new(1));
        let mut seen = 0;
        let lines = include_str!("../tests/vectors/rfc3686.txt").lines();
        for line in lines.filter(|line| !line.starts_with('#')) {
            let fields: Vec<Vec<u8>> = line.split(' ').map(|field| hex::decode(field).unwrap()).collect();
            let [key, nonce, iv, plain, cipher] = &fields[..] else { panic!("malformed line: {line}") };
            let transform = separate(&format!("ctr-{}", key.len()), "sha256");
            for keys in implementations(transform, &[&key[..], nonce, &[9; 32]].concat()) {
                let mut esp = [&[0; HEADER_LEN + AesCtr::IV], &plain[..], &[0; 16]].concat();
                let iv = u64::from_be_bytes(iv[..].try_into().unwrap());
                seal(&*keys, &mut esp, Some(iv), &mut ivs).unwrap();
                assert_eq!(esp[HEADER_LEN + AesCtr::IV..][..plain.len()], cipher[..]);
                open(&*keys, &mut esp).unwrap();
                assert_eq!(esp[HEADER_LEN + AesCtr::IV..][..plain.len()], plain[..]);
            }
            seen += 1;
        }
        assert_eq!(seen, 9);
    }

    #[test]
    fn cbc_ivs_differ_from_packet_to_packet() {
        let mut ivs = IvSource::new(&mut SeededRandom::new(1));
        let transform = EspTransform::CbcHmac(BlockCipher::Aes128Cbc, Integrity::HmacSha256_128);
        for keys in implementations(transform, &[7; 48]) {
            let mut sealed: Vec<Vec<u8>> = Vec::new();
            for _ in 0..100 {
                let mut esp = vec![0; 8 + 16 + 16 + 16];
                seal(&*keys, &mut esp, None, &mut ivs).unwrap();
                assert!(sealed.iter().all(|other| other[8..24] != esp[8..24] && other[24..40] != esp[24..40]));
                sealed.push(esp);
            }
        }
    }
}
