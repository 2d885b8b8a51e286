//! Algorithms of phase 1: offering, choosing, and finding out what was chosen.

use std::time::Duration;

use keyferry_crypto::{BlockCipher, Hash, KeGroup, Prf};
use keyferry_model::reading::{Reading, Readings};
use keyferry_wire::{Attribute, AttributeValue, Encode};

use super::method::Method;
use crate::wire::proposal::{Proposal, Transform};
use crate::wire::registry::{Doi, phase1, phase1_attribute as attribute};
use crate::wire::sa::Sa;

/// Algorithms of a phase 1 SA, and how its peers authenticate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Suite {
    pub(crate) cipher: BlockCipher,
    pub(crate) hash: Hash,
    pub(crate) group: KeGroup,
    pub(crate) method: Method,
}

impl Suite {
    /// The PRF is the HMAC of the hash (RFC 2409 section 4).
    pub(crate) fn prf(self) -> Prf {
        Prf::from_hash(self.hash)
    }

    /// Does it hold anything that is taken only from those who ask for danger?
    pub(crate) fn is_weak(self) -> bool {
        self.cipher.is_weak() || self.hash == Hash::Sha1 || self.group.is_weak()
    }
}

/// What one side takes, best first.
#[derive(Clone, Debug)]
pub(crate) struct Accepted {
    pub(crate) ciphers: Vec<BlockCipher>,
    pub(crate) hashes: Vec<Hash>,
    pub(crate) groups: Vec<KeGroup>,
    /// Take what is weak, too, where the lists name it.
    pub(crate) weak: bool,
}

impl Accepted {
    pub(crate) fn takes(&self, suite: Suite) -> bool {
        self.ciphers.contains(&suite.cipher)
            && self.hashes.contains(&suite.hash)
            && self.groups.contains(&suite.group)
            && (self.weak || !suite.is_weak())
    }

    /// All combinations that IKEv1 has numbers for, best first, as many as fit into a proposal.
    pub(crate) fn suites(&self, method: Method) -> Vec<Suite> {
        let mut suites = Vec::new();
        for &group in self.groups.iter().filter(|g| group_number(**g).is_some()) {
            for &hash in &self.hashes {
                suites.extend(self.ciphers.iter().map(|&cipher| Suite { cipher, hash, group, method }));
            }
        }
        suites.retain(|suite| self.takes(*suite));
        suites.truncate(255);
        suites
    }
}

/// Group descriptions (RFC 2409 section 6, RFC 3526, RFC 5903, RFC 5114).
const GROUPS: [(KeGroup, u16); 9] = [
    (KeGroup::Modp1024, 2),
    (KeGroup::Modp1536, 5),
    (KeGroup::Modp2048, 14),
    (KeGroup::Modp3072, 15),
    (KeGroup::Modp4096, 16),
    (KeGroup::Ecp256, 19),
    (KeGroup::Ecp384, 20),
    (KeGroup::Ecp521, 21),
    (KeGroup::Modp2048s256, 24),
];

const HASHES: [(Hash, u16); 4] = [(Hash::Sha1, 2), (Hash::Sha256, 4), (Hash::Sha384, 5), (Hash::Sha512, 6)];

/// Ciphers: encryption algorithm, and key length in bits where it is variable.
const CIPHERS: [(BlockCipher, u16, Option<u16>); 4] = [
    (BlockCipher::Aes128Cbc, phase1::AES_CBC, Some(128)),
    (BlockCipher::Aes192Cbc, phase1::AES_CBC, Some(192)),
    (BlockCipher::Aes256Cbc, phase1::AES_CBC, Some(256)),
    (BlockCipher::TripleDesCbc, phase1::TRIPLE_DES_CBC, None),
];

fn group_number(group: KeGroup) -> Option<u16> {
    GROUPS.iter().find(|(g, _)| *g == group).map(|(_, n)| *n)
}

fn hash_number(hash: Hash) -> u16 {
    HASHES.iter().find(|(h, _)| *h == hash).map_or(0, |(_, n)| *n)
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
    /// ISAKMP with situation 0 (RFC 2408 section 3.4). For key servers that want it.
    Isakmp,
}

impl Phase1Doi {
    fn numbers(self) -> (Doi, u32) {
        match self {
            Phase1Doi::Gdoi => (Doi::GDOI, 0),
            Phase1Doi::Ipsec => (Doi::IPSEC, Sa::IDENTITY_ONLY),
            Phase1Doi::Isakmp => (Doi::ISAKMP, 0),
        }
    }

    const READINGS: [(Reading, Self); 3] = [
        (Reading::Phase1DoiGdoi, Self::Gdoi),
        (Reading::Phase1DoiIpsec, Self::Ipsec),
        (Reading::Phase1DoiIsakmp, Self::Isakmp),
    ];
}

/// The SA payload of phase 1 as a key server answers it in these readings: as it was proposed, or under another DOI.
pub(crate) fn told<'a>(proposed: &Sa<'a>, readings: Readings) -> Sa<'a> {
    let other = Phase1Doi::READINGS.into_iter().find(|(reading, _)| readings.has(*reading));
    let (doi, situation) = other.map_or((proposed.doi, proposed.situation), |(_, doi)| doi.numbers());
    Sa { doi, situation, ..proposed.clone() }
}

/// The reading that its DOI is of, unless that is the `usual` one.
pub(crate) fn doi_seen(sa: &Sa<'_>, usual: Phase1Doi) -> Readings {
    let seen = Phase1Doi::READINGS.into_iter().filter(|(_, doi)| *doi != usual && doi.numbers().0 == sa.doi);
    seen.map(|(reading, _)| reading).collect()
}

/// The body of an SA payload that offers these suites.
pub(crate) fn offer(suites: &[Suite], lifetime: Duration, doi: Phase1Doi) -> Vec<u8> {
    let seconds = u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX).to_be_bytes();
    let transforms = (1u8..).zip(suites).map(|(number, suite)| Transform {
        number,
        id: phase1::KEY_IKE,
        attributes: attributes(*suite, &seconds),
    });
    let proposal = Proposal { number: 1, protocol: phase1::PROTO_ISAKMP, spi: &[], transforms: transforms.collect() };
    let (doi, situation) = doi.numbers();
    Sa { doi, situation, proposals: vec![proposal] }.to_vec()
}

fn attributes(suite: Suite, seconds: &[u8]) -> Vec<Attribute<'_>> {
    let short = |kind, v| Attribute { kind, value: AttributeValue::Short(v) };
    let cipher = CIPHERS.iter().find(|(c, ..)| *c == suite.cipher);
    let (encryption, bits) = cipher.map_or((0, None), |(_, encryption, bits)| (*encryption, *bits));
    let mut list = vec![short(attribute::ENCRYPTION, encryption)];
    list.extend(bits.map(|bits| short(attribute::KEY_LENGTH, bits)));
    list.extend([
        short(attribute::HASH, hash_number(suite.hash)),
        short(attribute::GROUP, group_number(suite.group).unwrap_or(0)),
        short(attribute::AUTHENTICATION, suite.method.number().unwrap_or(0)),
        short(attribute::LIFE_TYPE, phase1::SECONDS),
        // A TLV of four octets, which all peers take (RFC 2409 appendix A).
        Attribute { kind: attribute::LIFE_DURATION, value: AttributeValue::Long(seconds) },
    ]);
    list
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
    /// In which readings it was proposed.
    pub(crate) seen: Readings,
}

/// Chooses the initiator's first transform that fits. Those that hold anything unknown do not. The answer is written in the
/// readings told.
pub(crate) fn choose(sa: &Sa<'_>, sends: Readings, fits: impl Fn(Suite) -> bool) -> Option<Choice> {
    let proposals = sa.proposals.iter().filter(|p| p.protocol == phase1::PROTO_ISAKMP);
    for proposal in proposals {
        for transform in &proposal.transforms {
            let Some((suite, lifetime)) = read(transform).filter(|(s, _)| fits(*s)) else { continue };
            let chosen = Proposal { transforms: vec![transform.clone()], ..proposal.clone() };
            let answer = Sa { proposals: vec![chosen], ..told(sa, sends) }.to_vec();
            return Some(Choice { suite, lifetime, answer, seen: doi_seen(sa, Phase1Doi::Gdoi) });
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
                        let most = u64::from(u32::MAX);
                        lifetime = Some(Duration::from_secs(a.as_u64().map_or(most, |s| s.min(most))));
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
    if transform.id != phase1::KEY_IKE || lifetime == Some(Duration::ZERO) {
        return None;
    }
    let is = |number: u16, said: Option<u32>| said == Some(u32::from(number));
    let (cipher, ..) =
        CIPHERS.iter().find(|(_, number, bits)| is(*number, encryption) && bits.map(u32::from) == key_length)?;
    let (hash, _) = HASHES.iter().find(|(_, number)| is(*number, hash))?;
    let (group, _) = GROUPS.iter().find(|(_, number)| is(*number, group))?;
    let method = Method::ALL.into_iter().find(|m| m.number().is_some_and(|n| is(n, authentication)))?;
    Some((Suite { cipher: *cipher, hash: *hash, group: *group, method }, lifetime))
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
            weak: true,
        }
    }

    #[test]
    fn the_first_transform_that_both_take_is_chosen_and_echoed() {
        let mine = accepted().suites(Method::PreSharedKey);
        assert_eq!(mine.len(), 4, "Curve25519 has no number in IKEv1");
        let body = offer(&mine, Duration::from_secs(86_400), Phase1Doi::Gdoi);
        let sa = Sa::exact(&body).unwrap();
        let theirs = Accepted { ciphers: vec![BlockCipher::Aes128Cbc], ..accepted() };
        let choice = choose(&sa, Readings::NONE, |s| theirs.takes(s)).unwrap();
        assert_eq!(choice.suite, mine[1]);
        assert_eq!(choice.lifetime, Some(Duration::from_secs(86_400)));
        let answer = Sa::exact(&choice.answer).unwrap();
        assert_eq!(chosen(&answer, &mine).unwrap().0, mine[1]);
        assert_eq!(chosen(&answer, &mine[..1]), None);
        assert_eq!(chosen(&sa, &mine), None, "one transform, not all");
        let other = Accepted { hashes: vec![Hash::Sha384], ..accepted() };
        assert!(choose(&sa, Readings::NONE, |s| other.takes(s)).is_none());
    }

    #[test]
    fn lifetimes_are_taken_as_tv_and_tlv() {
        let body = offer(&accepted().suites(Method::PreSharedKey)[..1], Duration::from_secs(3600), Phase1Doi::Ipsec);
        let sa = Sa::exact(&body).unwrap();
        let mut transform = sa.proposals[0].transforms[0].clone();
        *transform.attributes.last_mut().unwrap() =
            Attribute { kind: attribute::LIFE_DURATION, value: AttributeValue::Short(3600) };
        assert_eq!(read(&transform), read(&sa.proposals[0].transforms[0]));
        transform.attributes.push(Attribute { kind: attribute::HASH, value: AttributeValue::Short(2) });
        assert_eq!(read(&transform), None, "said twice");
    }

    #[test]
    fn transforms_with_anything_unknown_are_passed_over() {
        let suites = accepted().suites(Method::PreSharedKey);
        let body = offer(&suites[..2], Duration::from_secs(3600), Phase1Doi::Gdoi);
        let sa = Sa::exact(&body).unwrap();
        let unknown = [
            Attribute { kind: 13, value: AttributeValue::Short(1) },
            Attribute { kind: 9999, value: AttributeValue::Long(&[1, 2, 3, 4]) },
            Attribute { kind: attribute::LIFE_TYPE, value: AttributeValue::Long(&[0; 9]) },
        ];
        for attribute in unknown {
            let mut altered = sa.clone();
            altered.proposals[0].transforms[0].attributes.push(attribute);
            assert_eq!(choose(&altered, Readings::NONE, |s| accepted().takes(s)).unwrap().suite, suites[1]);
        }
        // Values that are not known, and a cipher without the length of its key.
        for (kind, value) in [(1, 8), (2, 3), (3, 2), (4, 1), (14, 64)] {
            let mut altered = sa.clone();
            let attributes = &mut altered.proposals[0].transforms[0].attributes;
            attributes.retain(|a| a.kind != kind);
            assert_eq!(
                choose(&altered, Readings::NONE, |s| accepted().takes(s)).unwrap().suite,
                suites[1],
                "without {kind}"
            );
            let attributes = &mut altered.proposals[0].transforms[0].attributes;
            attributes.push(Attribute { kind, value: AttributeValue::Short(value) });
            assert_eq!(
                choose(&altered, Readings::NONE, |s| accepted().takes(s)).unwrap().suite,
                suites[1],
                "{kind}: {value}"
            );
        }
    }
}
