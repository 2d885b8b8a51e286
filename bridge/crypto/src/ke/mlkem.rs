//! ML-KEM (FIPS 203): a key encapsulation mechanism in the place of a key exchange. The initiator's public value is an
//! encapsulation key, the responder's a ciphertext.

use ml_kem::kem::{Decapsulate, KeyExport};
use ml_kem::{B32, DecapsulationKey, EncapsulationKey, Key, MlKem512, MlKem768, MlKem1024, Seed};
use zeroize::Zeroize;

use crate::error::CryptoError;
use crate::secret::Secret;

/// A parameter set.
#[derive(Clone, Copy)]
pub(super) enum Set {
    MlKem512,
    MlKem768,
    MlKem1024,
}

/// Octets of a seed: d and z (FIPS 203 section 7.1).
pub(super) const SEED: usize = 64;
/// Octets of what a responder draws: m (FIPS 203 section 7.2).
const MESSAGE: usize = 32;

/// The initiator's secret: a decapsulation key.
pub(super) enum Private {
    MlKem512(Box<DecapsulationKey<MlKem512>>),
    MlKem768(Box<DecapsulationKey<MlKem768>>),
    MlKem1024(Box<DecapsulationKey<MlKem1024>>),
}

/// The key pair of a seed: encapsulation key, decapsulation key (FIPS 203, algorithm 16).
pub(super) fn key_pair(set: Set, seed: &[u8]) -> Result<(Vec<u8>, Private), CryptoError> {
    let mut seed = Seed::try_from(seed).map_err(|_| CryptoError::Length("seed"))?;
    macro_rules! key_pair {
        ($set:ident) => {{
            let key = Box::new(DecapsulationKey::<$set>::from_seed(seed));
            (key.encapsulation_key().to_bytes().to_vec(), Private::$set(key))
        }};
    }
    let pair = match set {
        Set::MlKem512 => key_pair!(MlKem512),
        Set::MlKem768 => key_pair!(MlKem768),
        Set::MlKem1024 => key_pair!(MlKem1024),
    };
    seed.zeroize();
    Ok(pair)
}

impl Private {
    /// The shared secret of a ciphertext. One that was not made for this key gives a secret that nobody else knows
    /// (FIPS 203, algorithm 18).
    pub(super) fn decapsulate(&self, ciphertext: &[u8]) -> Result<Secret, CryptoError> {
        macro_rules! decapsulate {
            ($key:expr) => {{
                let mut shared = $key.decapsulate_slice(ciphertext).map_err(|_| CryptoError::BadPublicValue)?;
                let secret = Secret::copy_from(&shared);
                shared.zeroize();
                secret
            }};
        }
        Ok(match self {
            Private::MlKem512(key) => decapsulate!(key),
            Private::MlKem768(key) => decapsulate!(key),
            Private::MlKem1024(key) => decapsulate!(key),
        })
    }
}

/// Makes a secret for the holder of an encapsulation key: ciphertext and secret (FIPS 203, algorithm 17). A key that is not
/// in canonical form is refused (section 7.2).
pub(super) fn encapsulate(set: Set, seed: &[u8], key: &[u8]) -> Result<(Vec<u8>, Secret), CryptoError> {
    let drawn = seed.get(..MESSAGE).ok_or(CryptoError::Length("seed"))?;
    let mut message = B32::try_from(drawn).map_err(|_| CryptoError::Length("seed"))?;
    macro_rules! encapsulate {
        ($set:ident) => {{
            let key = Key::<EncapsulationKey<$set>>::try_from(key).map_err(|_| CryptoError::BadPublicValue)?;
            let key = EncapsulationKey::<$set>::new(&key).map_err(|_| CryptoError::BadPublicValue)?;
            let (ciphertext, mut shared) = key.encapsulate_deterministic(&message);
            let secret = Secret::copy_from(&shared);
            shared.zeroize();
            (ciphertext.to_vec(), secret)
        }};
    }
    let both = match set {
        Set::MlKem512 => encapsulate!(MlKem512),
        Set::MlKem768 => encapsulate!(MlKem768),
        Set::MlKem1024 => encapsulate!(MlKem1024),
    };
    message.zeroize();
    Ok(both)
}
