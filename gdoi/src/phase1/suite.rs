//! Algorithms of phase 1: offering, choosing, and finding out what was chosen.

use std::time::Duration;

use keyferry_crypto::{BlockCipher, Hash, KeGroup, Prf};
use keyferry_wire::{Attribute, AttributeValue, Encode};

use crate::wire::proposal::{Proposal, Transform};
use crate::wire::registry::{Doi, phase1, phase1_attribute as attribute};
use crate::wire::sa::Sa;

/// Algorithms of a phase 1 SA. The authentication is by pre-shared key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Suite {
    pub(crate) cipher: BlockCipher,
    pub(crate) hash: Hash,
    pub(crate) group: KeGroup,
}

impl Suite {
    /// The PRF is the HMAC of the hash (RFC 2409 section 4).
    pub(crate) fn prf(self) -> Prf {
        Prf::from_hash(self.hash)
    }
}

/// What one side takes, best first.
#[derive(Clone, Debug)]
pub(crate) struct Accepted {
    pub(crate) ciphers: Vec<BlockCipher>,
    pub(crate) hashes: Vec<Hash>,
    pub(crate) groups: Vec<KeGroup>,
}

impl Accepted {
    fn takes(&self, suite: Suite) -> bool {
        self.ciphers.contains(&suite.cipher) && self.hashes.contains(&suite.hash) && self.groups.contains(&suite.group)
    }

    /// All combinations that IKEv1 has numbers for, best first.
    pub(crate) fn suites(&self) -> Vec<Suite> {
        let mut suites = Vec::new();
        for &group in self.groups.iter().filter(|g| group_number(**g).is_some()) {
            for &hash in &self.hashes {
                suites.extend(self.ciphers.iter().map(|&cipher| Suite { cipher, hash, group }));
            }
        }
        suites.truncate(255);
        suites
    }
}

const CIPHERS: [BlockCipher; 4] =
    [BlockCipher::TripleDesCbc, BlockCipher::Aes128Cbc, BlockCipher::Aes192Cbc, BlockCipher::Aes256Cbc];

const GROUPS: [KeGroup; 9] = [
    KeGroup::Modp1024,
    KeGroup::Modp1536,
    KeGroup::Modp2048,
    KeGroup::Modp3072,
    KeGroup::Modp4096,
    KeGroup::Ecp256,
    KeGroup::Ecp384,
    KeGroup::Ecp521,
    KeGroup::Modp2048s256,
];

fn group_number(group: KeGroup) -> Option<u16> {
    match group {
        KeGroup::Modp1024 => Some(2),
        KeGroup::Modp1536 => Some(5),
        KeGroup::Modp2048 => Some(14),
        KeGroup::Modp3072 => Some(15),
        KeGroup::Modp4096 => Some(16),
        KeGroup::Ecp256 => Some(19),
        KeGroup::Ecp384 => Some(20),
        KeGroup::Ecp521 => Some(21),
        KeGroup::Modp2048s256 => Some(24),
        KeGroup::X25519 => None,
    }
}

fn hash_number(hash: Hash) -> u16 {
    match hash {
        Hash::Sha1 => 2,
        Hash::Sha256 => 4,
        Hash::Sha384 => 5,
        Hash::Sha512 => 6,
    }
}

/// Encryption Algorithm, and Key Length where it is not fixed (RFC 2409 appendix A).
fn cipher_numbers(cipher: BlockCipher) -> (u16, Option<u16>) {
    match cipher {
        BlockCipher::TripleDesCbc => (phase1::TRIPLE_DES_CBC, None),
        BlockCipher::Aes128Cbc => (phase1::AES_CBC, Some(128)),
        BlockCipher::Aes192Cbc => (phase1::AES_CBC, Some(192)),
        BlockCipher::Aes256Cbc => (phase1::AES_CBC, Some(256)),
    }
}

/// Under which domain of interpretation a member proposes phase 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase1Doi {
    /// GDOI with situation 0, as RFC 6407 section 2.1 wants it.
    #[default]
    Gdoi,
    /// IPsec with the situation "identity only", as in IKEv1 itself. For key servers that want it, and for Wireshark,
    /// which reads proposals, and so can decrypt, under this one only.
    Ipsec,
}

impl Phase1Doi {
    fn numbers(self) -> (Doi, u32) {
        match self {
            Phase1Doi::Gdoi => (Doi::GDOI, 0),
            Phase1Doi::Ipsec => (Doi::IPSEC, Sa::IDENTITY_ONLY),
        }
    }
}

/// The body of an SA payload that offers these suites.
pub(crate) fn offer(suites: &[Suite], lifetime: Duration, doi: Phase1Doi) -> Vec<u8> {
    let seconds = u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX).to_be_bytes();
    let short = |kind, v| Attribute { kind, value: AttributeValue::Short(v) };
    let transforms = (1u8..).zip(suites).map(|(number, suite)| {
        let (encryption, key_bits) = cipher_numbers(suite.cipher);
        let mut attributes = vec![short(attribute::ENCRYPTION, encryption)];
        attributes.extend(key_bits.map(|bits| short(attribute::KEY_LENGTH, bits)));
        attributes.extend([
            short(attribute::HASH, hash_number(suite.hash)),
            short(attribute::GROUP, group_number(suite.group).unwrap_or(0)),
            short(attribute::AUTHENTICATION, phase1::PRE_SHARED_KEY),
            short(attribute::LIFE_TYPE, phase1::SECONDS),
            // A TLV of four octets, which all peers take (RFC 2409 appendix A).
            Attribute { kind: attribute::LIFE_DURATION, value: AttributeValue::Long(&seconds) },
        ]);
        Transform { number, id: phase1::KEY_IKE, attributes }
    });
    let proposal = Proposal { number: 1, protocol: phase1::PROTO_ISAKMP, spi: &[], transforms: transforms.collect() };
    let (doi, situation) = doi.numbers();
    Sa { doi, situation, proposals: vec![proposal] }.to_vec()
}

/// Do DOI and situation of a phase 1 SA payload stand for what we do? GDOI wants its own DOI with situation 0
/// (RFC 6407 section 2.1); ISAKMP's and IPsec's are taken too, with the situation "identity only".
pub(crate) fn fits(sa: &Sa<'_>) -> bool {
    matches!(sa.doi, Doi::ISAKMP | Doi::IPSEC | Doi::GDOI) && matches!(sa.situation, 0 | Sa::IDENTITY_ONLY)
}

/// What a responder chose.
#[derive(Debug)]
pub(crate) struct Choice {
    pub(crate) suite: Suite,
    pub(crate) lifetime: Option<Duration>,
    /// Body of the SA payload to answer with: the chosen transform as it was offered.
    pub(crate) answer: Vec<u8>,
}

/// Chooses the initiator's first transform that we take.
pub(crate) fn choose(sa: &Sa<'_>, accepted: &Accepted) -> Option<Choice> {
    let proposals = sa.proposals.iter().filter(|p| p.protocol == phase1::PROTO_ISAKMP);
    for proposal in proposals {
        for transform in &proposal.transforms {
            let Some((suite, lifetime)) = read(transform).filter(|(s, _)| accepted.takes(*s)) else { continue };
            let chosen = Proposal { transforms: vec![transform.clone()], ..proposal.clone() };
            let answer = Sa { proposals: vec![chosen], ..sa.clone() }.to_vec();
            return Some(Choice { suite, lifetime, answer });
        }
    }
    None
}

/// What the responder chose out of our offer: exactly one transform, and one that we offered.
pub(crate) fn chosen(sa: &Sa<'_>, offered: &[Suite]) -> Option<(Suite, Option<Duration>)> {
    let [proposal] = sa.proposals.as_slice() else { return None };
    let [transform] = proposal.transforms.as_slice() else { return None };
    read(transform).filter(|(suite, _)| proposal.protocol == phase1::PROTO_ISAKMP && offered.contains(suite))
}

/// The suite of a transform and its lifetime; `None` if it says anything that we do not know, or says it twice.
fn read(transform: &Transform<'_>) -> Option<(Suite, Option<Duration>)> {
    let (mut encryption, mut key_length, mut hash, mut group, mut authentication) = (None, None, None, None, None);
    let (mut life_type, mut lifetime) = (None, None);
    for a in &transform.attributes {
        let slot = match a.kind {
            attribute::ENCRYPTION => &mut encryption,
            attribute::KEY_LENGTH => &mut key_length,
            attribute::HASH => &mut hash,
            attribute::GROUP => &mut group,
            attribute::AUTHENTICATION => &mut authentication,
            attribute::LIFE_TYPE => {
                life_type = Some(a.as_u32()?);
                continue;
            }
            // A duration belongs to the type in front of it; each type may have one (RFC 2409 appendix A).
            attribute::LIFE_DURATION => {
                match life_type.take()? {
                    t if t == u32::from(phase1::SECONDS) => {
                        lifetime = Some(Duration::from_secs(a.as_u64().unwrap_or(u64::from(u32::MAX))));
                    }
                    t if t == u32::from(phase1::KILOBYTES) => {}
                    _ => return None,
                }
                continue;
            }
            _ => return None,
        };
        if slot.replace(a.as_u32()?).is_some() {
            return None;
        }
    }
    let known = transform.id == phase1::KEY_IKE
        && authentication == Some(u32::from(phase1::PRE_SHARED_KEY))
        && lifetime != Some(Duration::ZERO);
    let cipher = CIPHERS.into_iter().find(|c| {
        let (number, bits) = cipher_numbers(*c);
        encryption == Some(u32::from(number)) && key_length == bits.map(u32::from)
    })?;
    let hash = [Hash::Sha1, Hash::Sha256, Hash::Sha384, Hash::Sha512]
        .into_iter()
        .find(|h| hash == Some(u32::from(hash_number(*h))))?;
    let group = GROUPS.into_iter().find(|g| group.is_some() && group_number(*g).map(u32::from) == group)?;
    known.then_some((Suite { cipher, hash, group }, lifetime))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use keyferry_wire::Decode;

    use super::*;

    fn accepted() -> Accepted {
        Accepted {
            ciphers: vec![BlockCipher::Aes256Cbc, BlockCipher::Aes128Cbc],
            hashes: vec![Hash::Sha256, Hash::Sha1],
            groups: vec![KeGroup::Ecp256, KeGroup::X25519],
        }
    }

    #[test]
    fn the_first_transform_that_both_take_is_chosen_and_echoed() {
        let mine = accepted().suites();
        assert_eq!(mine.len(), 4, "Curve25519 has no number in IKEv1");
        let body = offer(&mine, Duration::from_secs(86_400), Phase1Doi::Gdoi);
        let sa = Sa::exact(&body).unwrap();
        let theirs = Accepted { ciphers: vec![BlockCipher::Aes128Cbc], ..accepted() };
        let choice = choose(&sa, &theirs).unwrap();
        assert_eq!(choice.suite, mine[1]);
        assert_eq!(choice.lifetime, Some(Duration::from_secs(86_400)));
        let answer = Sa::exact(&choice.answer).unwrap();
        assert_eq!(chosen(&answer, &mine).unwrap().0, mine[1]);
        assert_eq!(chosen(&answer, &mine[..1]), None);
        assert_eq!(chosen(&sa, &mine), None, "one transform, not all");
        assert!(choose(&sa, &Accepted { hashes: vec![Hash::Sha384], ..accepted() }).is_none());
    }

    #[test]
    fn lifetimes_are_taken_as_tv_and_tlv() {
        let body = offer(&accepted().suites()[..1], Duration::from_secs(3600), Phase1Doi::Ipsec);
        let sa = Sa::exact(&body).unwrap();
        let mut transform = sa.proposals[0].transforms[0].clone();
        *transform.attributes.last_mut().unwrap() =
            Attribute { kind: attribute::LIFE_DURATION, value: AttributeValue::Short(3600) };
        assert_eq!(read(&transform), read(&sa.proposals[0].transforms[0]));
        transform.attributes.push(Attribute { kind: attribute::HASH, value: AttributeValue::Short(2) });
        assert_eq!(read(&transform), None, "said twice");
    }
}
