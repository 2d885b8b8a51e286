//! Negotiating the algorithms of an IKE SA (RFC 7296 sections 2.7 and 3.3; the key wrap algorithm: RFC 9838
//! section 4.5.4).

use std::borrow::Cow;

use keyferry_crypto::{Aead, BlockCipher, Integrity, KeGroup, Prf};

use crate::algorithms::{KeyWrap, Protection, ke_number, prf_transform, protection_from, protection_transforms};
use crate::reject::Reject;
use crate::wire::registry::{NotifyType, ProtocolId, TransformType, integ};
use crate::wire::sa::{Proposal, Sa, Transform};

/// The algorithms of an IKE SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suite {
    /// Encryption and integrity.
    pub protection: Protection,
    /// PRF.
    pub prf: Prf,
    /// Key exchange group.
    pub group: KeGroup,
    /// Key wrap algorithm; without one nobody can register over the SA.
    pub key_wrap: Option<KeyWrap>,
}

/// What we offer or accept, best first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preferences {
    /// Encryption and integrity.
    pub protections: Vec<Protection>,
    /// PRFs.
    pub prfs: Vec<Prf>,
    /// Key exchange groups.
    pub groups: Vec<KeGroup>,
    /// Key wrap algorithms.
    pub key_wraps: Vec<KeyWrap>,
}

impl Default for Preferences {
    /// All that is sound: AES-GCM before AES-CBC, 256 bits before 128, Curve25519 first.
    fn default() -> Self {
        Self {
            protections: vec![
                Protection::Aead(Aead::Aes256Gcm16),
                Protection::Aead(Aead::Aes128Gcm16),
                Protection::CbcHmac(BlockCipher::Aes256Cbc, Integrity::HmacSha256_128),
                Protection::CbcHmac(BlockCipher::Aes128Cbc, Integrity::HmacSha256_128),
            ],
            prfs: vec![Prf::HmacSha256, Prf::HmacSha384, Prf::HmacSha512],
            groups: vec![KeGroup::X25519, KeGroup::Ecp256, KeGroup::Ecp384, KeGroup::Modp2048],
            key_wraps: vec![KeyWrap::Aes256, KeyWrap::Aes192, KeyWrap::Aes128],
        }
    }
}

/// A server's choice.
#[derive(Debug)]
pub struct Choice {
    /// The algorithms.
    pub suite: Suite,
    /// The proposal to answer with.
    pub proposal: Proposal<'static>,
}

impl Preferences {
    /// Proposals to offer: combined modes and CBC with HMAC apart, as RFC 7296 section 3.3 wants it.
    #[must_use]
    pub fn proposals(&self, with_key_wrap: bool) -> Sa<'static> {
        let mut proposals: Vec<Proposal<'static>> = Vec::new();
        for combined in [true, false] {
            let mut transforms: Vec<Transform<'static>> = Vec::new();
            let ours = self.protections.iter().filter(|p| matches!(p, Protection::Aead(_)) == combined);
            for t in ours.flat_map(|p| protection_transforms(*p)) {
                if !transforms.contains(&t) {
                    transforms.push(t);
                }
            }
            if transforms.is_empty() {
                continue;
            }
            transforms.sort_by_key(|t| t.kind);
            transforms.extend(self.prfs.iter().map(|p| prf_transform(*p)));
            transforms.extend(self.groups.iter().map(|g| Transform::new(TransformType::KE, ke_number(*g))));
            if with_key_wrap {
                transforms.extend(self.key_wraps.iter().map(|k| k.transform()));
            }
            let number = u8::try_from(proposals.len() + 1).expect("at most two proposals");
            proposals.push(Proposal { number, protocol: ProtocolId::IKE, spi: Cow::Borrowed(&[]), transforms });
        }
        Sa { proposals }
    }

    /// Chooses from an offer: of each type what we like best. That goes for the group as well, whichever the KE payload
    /// was made for: AUTH covers the offer, so nobody can talk both ends into one that they like less.
    #[must_use]
    pub fn choose(&self, offer: &Sa<'_>) -> Option<Choice> {
        offer.proposals.iter().find_map(|p| self.choose_from(p))
    }

    fn choose_from(&self, p: &Proposal<'_>) -> Option<Choice> {
        let known =
            [TransformType::ENCR, TransformType::PRF, TransformType::INTEG, TransformType::KE, TransformType::KWA];
        // A proposal with a transform type we do not know must not be chosen (RFC 7296 section 3.3.6).
        if p.protocol != ProtocolId::IKE || !p.spi.is_empty() || p.transforms.iter().any(|t| !known.contains(&t.kind)) {
            return None;
        }
        let offered = |t: &Transform<'_>| p.transforms.iter().any(|o| o == t);
        let protection = *self.protections.iter().find(|protection| {
            let all = protection_transforms(**protection);
            let integrity =
                p.of(TransformType::INTEG).count() == 0 || p.of(TransformType::INTEG).any(|t| t.id == integ::NONE);
            all.iter().all(offered) && (integrity || matches!(protection, Protection::CbcHmac(..)))
        })?;
        let prf = *self.prfs.iter().find(|prf| offered(&prf_transform(**prf)))?;
        let group = *self.groups.iter().find(|g| offered(&Transform::new(TransformType::KE, ke_number(**g))))?;
        let key_wrap = match p.of(TransformType::KWA).next() {
            None => None,
            Some(_) => Some(*self.key_wraps.iter().find(|k| offered(&k.transform()))?),
        };
        let suite = Suite { protection, prf, group, key_wrap };
        let mut transforms = suite.transforms();
        let none = Transform::new(TransformType::INTEG, integ::NONE);
        if matches!(protection, Protection::Aead(_)) && offered(&none) {
            // One transform of each type that was offered (RFC 7296 section 2.7).
            transforms.push(none);
            transforms.sort_by_key(|t| t.kind);
        }
        let proposal = Proposal { number: p.number, protocol: ProtocolId::IKE, spi: Cow::Borrowed(&[]), transforms };
        Some(Choice { suite, proposal })
    }

    /// Checks a server's choice: one proposal, out of what was offered, and a combination we prefer at all.
    ///
    /// # Errors
    /// [`Reject::Unacceptable`] with NO_PROPOSAL_CHOSEN.
    pub fn accept(&self, offer: &Sa<'_>, answer: &Sa<'_>) -> Result<Suite, Reject> {
        const NO: Reject = Reject::Unacceptable(NotifyType::NO_PROPOSAL_CHOSEN);
        let [chosen] = answer.proposals.as_slice() else { return Err(NO) };
        let offered = offer.proposals.iter().find(|p| p.number == chosen.number).ok_or(NO)?;
        let integrity_none = Transform::new(TransformType::INTEG, integ::NONE);
        let ours = chosen.transforms.iter().all(|t| offered.transforms.contains(t) || *t == integrity_none);
        if chosen.protocol != ProtocolId::IKE || !chosen.spi.is_empty() || !ours {
            return Err(NO);
        }
        let one = |kind| {
            let mut of = chosen.of(kind);
            of.next().filter(|_| of.next().is_none()).ok_or(NO)
        };
        let protection = protection_from(chosen.transforms.iter()).ok_or(NO)?;
        let prf = one(TransformType::PRF)?;
        let prf = *self.prfs.iter().find(|p| prf_transform(**p) == *prf).ok_or(NO)?;
        let method = one(TransformType::KE)?.id;
        let group = *self.groups.iter().find(|g| ke_number(**g) == method).ok_or(NO)?;
        let key_wrap = match offered.of(TransformType::KWA).next() {
            None => None,
            Some(_) => Some(KeyWrap::from_transform(one(TransformType::KWA)?).ok_or(NO)?),
        };
        if !self.protections.contains(&protection) {
            return Err(NO);
        }
        Ok(Suite { protection, prf, group, key_wrap })
    }
}

impl Suite {
    fn transforms(&self) -> Vec<Transform<'static>> {
        let mut all = protection_transforms(self.protection);
        all.push(prf_transform(self.prf));
        all.push(Transform::new(TransformType::KE, ke_number(self.group)));
        all.extend(self.key_wrap.map(KeyWrap::transform));
        all.sort_by_key(|t| t.kind);
        all
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_agree() {
        let prefs = Preferences::default();
        let offer = prefs.proposals(true);
        let choice = prefs.choose(&offer).unwrap();
        assert_eq!(choice.suite.group, KeGroup::X25519);
        assert_eq!(choice.suite.key_wrap, Some(KeyWrap::Aes256));
        let answer = Sa { proposals: vec![choice.proposal] };
        assert_eq!(prefs.accept(&offer, &answer).unwrap(), choice.suite);
    }

    /// Ours counts among those that were offered, whatever the KE payload was made for.
    #[test]
    fn the_group_is_the_one_we_like_best() {
        let (ours, theirs) = ([KeGroup::Ecp384, KeGroup::Ecp256], [KeGroup::X25519, KeGroup::Ecp256, KeGroup::Ecp384]);
        let ours = Preferences { groups: ours.to_vec(), ..Preferences::default() };
        let theirs = Preferences { groups: theirs.to_vec(), ..Preferences::default() };
        let offer = theirs.proposals(true);
        assert_eq!(ours.choose(&offer).unwrap().suite.group, KeGroup::Ecp384);
        let only = Preferences { groups: vec![KeGroup::Modp2048], ..Preferences::default() };
        assert!(only.choose(&offer).is_none());
    }

    /// Integrity NONE beside a combined mode is a type like any other: it is answered.
    #[test]
    fn integrity_none_is_echoed() {
        let prefs = Preferences::default();
        let none = Transform::new(TransformType::INTEG, integ::NONE);
        let mut offer = prefs.proposals(true);
        assert!(!prefs.choose(&offer).unwrap().proposal.transforms.contains(&none));
        offer.proposals[0].transforms.push(none.clone());
        let choice = prefs.choose(&offer).unwrap();
        assert_eq!(choice.proposal.of(TransformType::INTEG).collect::<Vec<_>>(), [&none]);
        assert_eq!(prefs.accept(&offer, &Sa { proposals: vec![choice.proposal] }).unwrap(), choice.suite);
        // With CBC there is a real one, and NONE is not it.
        let cbc = Preferences { protections: prefs.protections[2..].to_vec(), ..prefs.clone() };
        let mut offer = cbc.proposals(true);
        offer.proposals[0].transforms.push(none.clone());
        assert!(!cbc.choose(&offer).unwrap().proposal.transforms.contains(&none));
    }

    #[test]
    fn without_key_wrap_there_is_a_plain_suite() {
        let prefs = Preferences::default();
        assert_eq!(prefs.choose(&prefs.proposals(false)).unwrap().suite.key_wrap, None);
    }

    #[test]
    fn a_choice_that_was_not_offered_is_refused() {
        let small = Preferences { prfs: vec![Prf::HmacSha256], ..Preferences::default() };
        let large = Preferences::default();
        let offer = small.proposals(true);
        let mut choice = large.choose(&offer).unwrap().proposal;
        assert!(small.accept(&offer, &Sa { proposals: vec![choice.clone(), choice.clone()] }).is_err());
        assert!(small.accept(&offer, &Sa { proposals: Vec::new() }).is_err());
        let mut other = choice.clone();
        other.transforms.iter_mut().filter(|t| t.kind == TransformType::PRF).for_each(|t| t.id = 7);
        assert!(small.accept(&offer, &Sa { proposals: vec![other] }).is_err());
        choice.transforms.retain(|t| t.kind != TransformType::KWA);
        assert!(small.accept(&offer, &Sa { proposals: vec![choice] }).is_err());
    }

    #[test]
    fn unknown_transform_types_spoil_a_proposal() {
        let prefs = Preferences::default();
        let mut offer = prefs.proposals(true);
        offer.proposals[0].transforms.push(Transform::new(TransformType(6), 35));
        let choice = prefs.choose(&offer).unwrap();
        assert_eq!(choice.proposal.number, 2);
    }
}
