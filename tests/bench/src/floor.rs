//! The bare operations that a key server cannot avoid, as OpenSSL (and the crate `ml-kem`) does them best: what depends on no peer
//! is prepared.

use ml_kem::kem::KeyExport;
use ml_kem::{B32, DecapsulationKey, EncapsulationKey, Key, MlKem768, Seed};
use openssl::bn::{BigNum, BigNumContext};
use openssl::derive::Deriver;
use openssl::dh::Dh;
use openssl::ec::{EcGroup, EcKey, EcPoint, PointConversionForm};
use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::pkey::{Id, PKey, Params};

use keyferry_crypto::{KeGroup, Random};

use crate::random::OsRandom;

/// A key exchange: a key pair of our own, its public value, and agreement with a public value that came as octets.
pub(crate) enum KeyExchange {
    Modp { params: Dh<Params>, peer: BigNum },
    Ec { group: EcGroup, order: BigNum, peer: Vec<u8> },
    X25519 { peer: Vec<u8> },
    MlKem768 { peer: Vec<u8> },
}

impl KeyExchange {
    /// What is needed for this group; `None` for one that is not measured.
    pub(crate) fn new(group: KeGroup) -> Result<Option<Self>, ErrorStack> {
        if group == KeGroup::Modp2048 {
            return modp().map(Some);
        }
        if group == KeGroup::X25519 {
            return Ok(Some(KeyExchange::X25519 { peer: PKey::generate_x25519()?.raw_public_key()? }));
        }
        if group == KeGroup::MlKem768 {
            let mut seed = Seed::default();
            OsRandom.fill(&mut seed);
            let key = DecapsulationKey::<MlKem768>::from_seed(seed);
            return Ok(Some(KeyExchange::MlKem768 { peer: key.encapsulation_key().to_bytes().to_vec() }));
        }
        let curves = [(KeGroup::Ecp256, Nid::X9_62_PRIME256V1), (KeGroup::Ecp384, Nid::SECP384R1)];
        let Some((_, curve)) = curves.into_iter().find(|(of, _)| *of == group) else { return Ok(None) };
        let group = EcGroup::from_curve_name(curve)?;
        let key = EcKey::generate(&group)?;
        let peer = key.public_key().to_bytes(&group, PointConversionForm::UNCOMPRESSED, &mut *BigNumContext::new()?)?;
        let mut order = BigNum::new()?;
        group.order(&mut order, &mut *BigNumContext::new()?)?;
        Ok(Some(KeyExchange::Ec { group, order, peer }))
    }

    /// Once; the octets are the public value and the shared secret.
    pub(crate) fn run(&self) -> Result<(Vec<u8>, Vec<u8>), ErrorStack> {
        match self {
            KeyExchange::Modp { params, peer } => {
                let own = again(params)?.generate_key()?;
                Ok((own.public_key().to_vec(), own.compute_key(peer)?))
            }
            KeyExchange::X25519 { peer } => {
                let own = PKey::generate_x25519()?;
                let peer = PKey::public_key_from_raw_bytes(peer, Id::X25519)?;
                let mut deriver = Deriver::new(&own)?;
                deriver.set_peer(&peer)?;
                Ok((own.raw_public_key()?, deriver.derive_to_vec()?))
            }
            KeyExchange::MlKem768 { peer } => {
                let mut message = B32::default();
                OsRandom.fill(&mut message);
                let peer = Key::<EncapsulationKey<MlKem768>>::try_from(&peer[..]).map_err(|_| ErrorStack::get())?;
                let peer = EncapsulationKey::<MlKem768>::new(&peer).map_err(|_| ErrorStack::get())?;
                let (ciphertext, shared) = peer.encapsulate_deterministic(&message);
                Ok((ciphertext.to_vec(), shared.to_vec()))
            }
            KeyExchange::Ec { group, order, peer } => {
                let mut context = BigNumContext::new_secure()?;
                let mut scalar = BigNum::new_secure()?;
                order.rand_range(&mut scalar)?;
                let mut own = EcPoint::new(group)?;
                own.mul_generator2(group, &scalar, &mut context)?;
                let octets = own.to_bytes(group, PointConversionForm::UNCOMPRESSED, &mut context)?;
                // Refuses what is not on the curve.
                let peer = EcPoint::from_bytes(group, peer, &mut context)?;
                let mut shared = EcPoint::new(group)?;
                shared.mul2(group, &peer, &scalar, &mut context)?;
                let (mut x, mut y) = (BigNum::new()?, BigNum::new()?);
                shared.affine_coordinates(group, &mut x, &mut y, &mut context)?;
                Ok((octets, x.to_vec_padded(i32::try_from(group.degree().div_ceil(8)).unwrap_or(i32::MAX))?))
            }
        }
    }
}

fn modp() -> Result<KeyExchange, ErrorStack> {
    let params = Dh::from_pqg(BigNum::get_rfc3526_prime_2048()?, None, BigNum::from_u32(2)?)?;
    let peer = again(&params)?.generate_key()?.public_key().to_owned()?;
    Ok(KeyExchange::Modp { params, peer })
}

/// The parameters once more: making a key uses them up.
fn again(params: &Dh<Params>) -> Result<Dh<Params>, ErrorStack> {
    Dh::from_pqg(params.prime_p().to_owned()?, None, params.generator().to_owned()?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_makes_keys_of_the_right_length() {
        for (group, public, shared) in [
            (KeGroup::Modp2048, 256, 256),
            (KeGroup::Ecp256, 65, 32),
            (KeGroup::Ecp384, 97, 48),
            (KeGroup::X25519, 32, 32),
            (KeGroup::MlKem768, 1088, 32),
        ] {
            let (octets, secret) = KeyExchange::new(group).unwrap().unwrap().run().unwrap();
            // A leading zero of a MODP value is not written.
            assert!(octets.len() <= public && octets.len() + 4 > public);
            assert!(secret.len() <= shared && secret.len() + 4 > shared);
        }
    }
}
