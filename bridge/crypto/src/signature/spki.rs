//! Keys that are for one algorithm alone, as SubjectPublicKeyInfo says it (RFC 4055, section 1.2; RFC 9838, section 4.5.3.2).

use super::{SignatureAlgorithm, SigningKey, VerifyingKey};
use crate::CryptoError;
use crate::der::{self, tag};

const OTHER: CryptoError = CryptoError::SignatureKey("the key is for another algorithm");

impl SignatureAlgorithm {
    /// The SubjectPublicKeyInfo of a key of ours for this algorithm: with PSS it has id-RSASSA-PSS with its parameters in place
    /// of rsaEncryption.
    ///
    /// # Errors
    ///
    /// [`CryptoError::SignatureKey`] if it is no key for this algorithm.
    pub fn spki_to_der(self, key: &SigningKey) -> Result<Vec<u8>, CryptoError> {
        if !self.is_for(key.kind()) {
            return Err(OTHER);
        }
        match self {
            Self::RsaPss(_) => {
                let mut fields = der::only_sequence(&key.spki)?;
                fields.whole_sequence()?;
                let bits = der::encode(tag::BIT_STRING, &[&[0], fields.octet_bits()?]);
                Ok(der::encode(tag::SEQUENCE, &[&self.to_der(), &bits]))
            }
            Self::RsaPkcs1(_) | Self::Ecdsa(_) | Self::Ed25519 | Self::Ed448 => Ok(key.spki.clone()),
        }
    }

    /// Reads a SubjectPublicKeyInfo whose key is for this algorithm. For RSASSA-PSS rsaEncryption is taken too.
    ///
    /// # Errors
    ///
    /// As [`VerifyingKey::from_spki`]; [`CryptoError::SignatureKey`] if it is for another algorithm.
    pub fn spki_from_der(self, spki: &[u8]) -> Result<VerifyingKey, CryptoError> {
        if let Self::RsaPss(_) = self {
            let mut fields = der::only_sequence(spki)?;
            if Self::from_der(fields.whole_sequence()?) == Some(self) {
                let key = VerifyingKey::from_pkcs1_der(fields.octet_bits()?)?;
                fields.end()?;
                return Ok(key);
            }
        }
        VerifyingKey::from_spki(spki).and_then(|key| if self.is_for(key.kind()) { Ok(key) } else { Err(OTHER) })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{Hash, KeyKind};

    #[test]
    fn keys_name_their_algorithm_and_are_taken_for_no_other() {
        let rsa_key = SigningKey::generate_rsa(2048).unwrap();
        let ec_key = SigningKey::generate_ec(KeyKind::EcP256).unwrap();
        let (rsa, ec) = (rsa_key.public_spki(), ec_key.public_spki());
        let pss = SignatureAlgorithm::RsaPss(Hash::Sha256);
        let told = pss.spki_to_der(&rsa_key).unwrap();
        assert_ne!(told, rsa);
        // OpenSSL reads it as a key for RSASSA-PSS.
        let read = openssl::pkey::PKey::public_key_from_der(&told).unwrap();
        assert_eq!(read.id(), openssl::pkey::Id::RSA_PSS);
        assert_eq!(pss.spki_from_der(&told).unwrap().spki(), rsa);
        assert_eq!(pss.spki_from_der(&rsa).unwrap().spki(), rsa);
        for other in [SignatureAlgorithm::RsaPss(Hash::Sha384), SignatureAlgorithm::RsaPkcs1(Hash::Sha256)] {
            assert!(other.spki_from_der(&told).is_err());
        }
        let pkcs1 = SignatureAlgorithm::RsaPkcs1(Hash::Sha256);
        assert_eq!(pkcs1.spki_to_der(&rsa_key).unwrap(), rsa);
        assert!(pkcs1.spki_to_der(&ec_key).is_err() && pkcs1.spki_from_der(&ec).is_err());
        let ecdsa = SignatureAlgorithm::Ecdsa(Hash::Sha256);
        assert_eq!(ecdsa.spki_from_der(&ecdsa.spki_to_der(&ec_key).unwrap()).unwrap().spki(), ec);
        for n in 0..told.len() {
            assert!(pss.spki_from_der(&told[..n]).is_err());
        }
    }
}
