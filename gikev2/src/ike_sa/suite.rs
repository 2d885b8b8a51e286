//! Negotiating the algorithms of an IKE SA (RFC 7296 sections 2.7 and 3.3; the key wrap algorithm: RFC 9838
//! section 4.5.4; additional key exchanges: RFC 9370 section 2.2.1).

use std::borrow::Cow;

use keyferry_crypto::{Aead, BlockCipher, Integrity, KeGroup, Prf};
use keyferry_model::settings::{AdditionalKe, Ike2Settings, MAX_ADDITIONAL_KE};

use crate::algorithms::{KeyWrap, Protection, ke_number, prf_transform, protection_from, protection_transforms};
use crate::reject::Reject;
use crate::wire::registry::{NotifyType, ProtocolId, TransformType, integ, ke};
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
    /// Key exchanges after the first, in the order of their transform types; `None` is one that does not take place.
    pub additional: [Option<KeGroup>; MAX_ADDITIONAL_KE],
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
    /// Key exchanges after the first.
    pub additional: Vec<AdditionalKe>,
}

impl Default for Preferences {
    /// All that is sound: combined modes before AES-CBC, 256 bits before 128, Curve25519 first. MODP beyond 4096 bits costs a
    /// key server more than it is worth, and is not among them; nor are additional key exchanges.
    fn default() -> Self {
        Self {
            protections: vec![
                Protection::Aead(Aead::Aes256Gcm16),
                Protection::Aead(Aead::Aes128Gcm16),
                Protection::Aead(Aead::ChaCha20Poly1305),
                Protection::Aead(Aead::Aes256Ccm16),
                Protection::Aead(Aead::Aes128Ccm16),
                Protection::CbcHmac(BlockCipher::Aes256Cbc, Integrity::HmacSha256_128),
                Protection::CbcHmac(BlockCipher::Aes128Cbc, Integrity::HmacSha256_128),
            ],
            prfs: vec![Prf::HmacSha256, Prf::HmacSha384, Prf::HmacSha512],
            groups: vec![
                KeGroup::X25519,
                KeGroup::Ecp256,
                KeGroup::Ecp384,
                KeGroup::X448,
                KeGroup::Ecp521,
                KeGroup::Brainpool256,
                KeGroup::Brainpool384,
                KeGroup::Brainpool512,
                KeGroup::Modp3072,
                KeGroup::Modp2048,
                KeGroup::Modp4096,
            ],
            key_wraps: vec![KeyWrap::Aes256, KeyWrap::Aes192, KeyWrap::Aes128],
            additional: Vec::new(),
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
    /// What a configuration says; empty lists leave the usual.
    #[must_use]
    pub fn configured(settings: &Ike2Settings) -> Self {
        let mut preferences = Self::default();
        if !settings.protections.is_empty() {
            preferences.protections.clone_from(&settings.protections);
        }
        if !settings.prfs.is_empty() {
            preferences.prfs = settings.prfs.iter().map(|hash| Prf::from_hash(*hash)).collect();
        }
        if !settings.groups.is_empty() {
            preferences.groups.clone_from(&settings.groups);
        }
        preferences.additional = settings.additional.iter().take(MAX_ADDITIONAL_KE).cloned().collect();
        preferences
    }

    /// Proposals of IKE_SA_INIT, and for new keys of an IKE SA: those with additional key exchanges, if there are any, and unless one of these is required the
    /// same without, for peers that know no such thing (RFC 9370 section 2.2.1).
    #[must_use]
    pub fn initial_proposals(&self, with_key_wrap: bool) -> Sa<'static> {
        let plain = self.proposals(with_key_wrap);
        if self.additional.is_empty() {
            return plain;
        }
        let further = self.additional.iter().enumerate().flat_map(|(place, exchange)| {
            let kind = TransformType::additional_ke(place);
            let none = (!exchange.required).then_some(ke::NONE);
            let methods = exchange.methods.iter().map(|method| ke_number(*method)).chain(none);
            kind.into_iter().flat_map(move |kind| methods.clone().map(move |id| Transform::new(kind, id)))
        });
        let further: Vec<Transform<'static>> = further.collect();
        let mut proposals = plain.proposals.clone();
        for proposal in &mut proposals {
            proposal.transforms.extend(further.iter().cloned());
            proposal.transforms.sort_by_key(|t| t.kind);
        }
        if self.additional.iter().all(|exchange| !exchange.required) {
            proposals.extend(plain.proposals);
        }
        for (number, proposal) in (1..).zip(&mut proposals) {
            proposal.number = number;
        }
        Sa { proposals }
    }

    /// Proposals to offer: combined modes and CBC with HMAC apart, as RFC 7296 section 3.3 wants it; without additional key
    /// exchanges.
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
    /// was made for: AUTH covers the offer, so nobody can talk both ends into one that they like less. There will be no
    /// additional key exchange.
    #[must_use]
    pub fn choose(&self, offer: &Sa<'_>) -> Option<Choice> {
        offer.proposals.iter().find_map(|p| self.choose_from(p, &[]))
    }

    /// The same where additional key exchanges may follow: in IKE_SA_INIT if the peer can do IKE_INTERMEDIATE, and for new keys of
    /// an IKE SA always. If they may, preferably with them. Where we require one there is no choice without it.
    #[must_use]
    pub fn choose_initial(&self, offer: &Sa<'_>, intermediate: bool) -> Option<Choice> {
        if !intermediate {
            return self.choose(offer).filter(|_| self.additional.iter().all(|a| !a.required));
        }
        let choices = || offer.proposals.iter().filter_map(|p| self.choose_from(p, &self.additional));
        let richer = choices().find(|c| c.suite.additional.iter().any(Option::is_some));
        let enough =
            |c: &Choice| self.additional.iter().zip(c.suite.additional).all(|(a, got)| !a.required || got.is_some());
        richer.or_else(|| choices().next()).filter(enough)
    }

    fn choose_from(&self, p: &Proposal<'_>, additional: &[AdditionalKe]) -> Option<Choice> {
        let known =
            [TransformType::ENCR, TransformType::PRF, TransformType::INTEG, TransformType::KE, TransformType::KWA];
        // A proposal with a transform type we do not know must not be chosen (RFC 7296 section 3.3.6).
        let knows = |t: &Transform<'_>| known.contains(&t.kind) || t.kind.is_additional_ke();
        if p.protocol != ProtocolId::IKE || !p.spi.is_empty() || !p.transforms.iter().all(knows) {
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
        let additional = choose_additional(p, group, additional)?;
        let suite = Suite { protection, prf, group, key_wrap, additional };
        let mut transforms = suite.transforms();
        // One transform of each type that was offered (RFC 7296 section 2.7).
        let none = Transform::new(TransformType::INTEG, integ::NONE);
        if matches!(protection, Protection::Aead(_)) && offered(&none) {
            transforms.push(none);
        }
        for kind in (0..MAX_ADDITIONAL_KE).filter_map(TransformType::additional_ke) {
            if p.of(kind).next().is_some() && !transforms.iter().any(|t| t.kind == kind) {
                transforms.push(Transform::new(kind, ke::NONE));
            }
        }
        transforms.sort_by_key(|t| t.kind);
        let proposal = Proposal { number: p.number, protocol: ProtocolId::IKE, spi: Cow::Borrowed(&[]), transforms };
        Some(Choice { suite, proposal })
    }

    /// The suite that a ticket tells ([`Suite::to_sa`]), if it is one that we would choose still.
    #[must_use]
    pub fn recall(&self, told: &Sa<'_>) -> Option<Suite> {
        self.choose_initial(told, true).map(|choice| choice.suite)
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
        let additional = accept_additional(chosen, offered, group).ok_or(NO)?;
        Ok(Suite { protection, prf, group, key_wrap, additional })
    }
}

/// Chooses the methods of additional key exchanges: of each type that is offered ours if there is one, otherwise NONE if that
/// is offered, too. No method runs twice (RFC 9370 section 2.2.1).
fn choose_additional(
    p: &Proposal<'_>,
    first: KeGroup,
    ours: &[AdditionalKe],
) -> Option<[Option<KeGroup>; MAX_ADDITIONAL_KE]> {
    let mut chosen = [None; MAX_ADDITIONAL_KE];
    let mut used = vec![first];
    for (place, slot) in chosen.iter_mut().enumerate() {
        let kind = TransformType::additional_ke(place)?;
        let offered = |id| p.of(kind).any(|t| *t == Transform::new(kind, id));
        if p.of(kind).next().is_none() {
            continue;
        }
        let methods = ours.get(place).map_or(&[][..], |a| &a.methods);
        *slot = methods.iter().copied().find(|m| offered(ke_number(*m)) && !used.contains(m));
        match slot {
            Some(method) => used.push(*method),
            None if offered(ke::NONE) => {}
            None => return None,
        }
    }
    Some(chosen)
}

/// What a server chose of the additional key exchanges: one method for each type that was in the proposal, none of them twice.
fn accept_additional(
    chosen: &Proposal<'_>,
    offered: &Proposal<'_>,
    first: KeGroup,
) -> Option<[Option<KeGroup>; MAX_ADDITIONAL_KE]> {
    let mut accepted = [None; MAX_ADDITIONAL_KE];
    let mut used = vec![first];
    for (place, slot) in accepted.iter_mut().enumerate() {
        let kind = TransformType::additional_ke(place)?;
        let mut of = chosen.of(kind);
        match (of.next(), of.next(), offered.of(kind).next()) {
            (None, _, None) => {}
            (Some(t), None, Some(_)) if t.id == ke::NONE => {}
            (Some(t), None, Some(_)) => {
                let method = KeGroup::ALL.into_iter().find(|m| ke_number(*m) == t.id).filter(|m| !used.contains(m))?;
                used.push(method);
                *slot = Some(method);
            }
            _ => return None,
        }
    }
    Some(accepted)
}

impl Suite {
    /// Key exchanges that follow the first, in their order (RFC 9370 section 2.2.1).
    pub(crate) fn further(&self) -> impl Iterator<Item = KeGroup> {
        self.additional.into_iter().flatten()
    }

    /// The suite alone, as an SA payload.
    #[must_use]
    pub fn to_sa(&self) -> Sa<'static> {
        let transforms = self.transforms();
        Sa { proposals: vec![Proposal { number: 1, protocol: ProtocolId::IKE, spi: Cow::Borrowed(&[]), transforms }] }
    }

    fn transforms(&self) -> Vec<Transform<'static>> {
        let mut all = protection_transforms(self.protection);
        all.push(prf_transform(self.prf));
        all.push(Transform::new(TransformType::KE, ke_number(self.group)));
        all.extend(self.key_wrap.map(KeyWrap::transform));
        let further = self.additional.iter().enumerate();
        all.extend(further.filter_map(|(place, method)| {
            Some(Transform::new(TransformType::additional_ke(place)?, ke_number((*method)?)))
        }));
        all.sort_by_key(|t| t.kind);
        all
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::algorithms::aead_transform;

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
        let separate = prefs.protections.iter().copied().filter(|p| matches!(p, Protection::CbcHmac(..)));
        let cbc = Preferences { protections: separate.collect(), ..prefs.clone() };
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
        offer.proposals[0].transforms.push(Transform::new(TransformType(99), 35));
        let choice = prefs.choose(&offer).unwrap();
        assert_eq!(choice.proposal.number, 2);
    }

    fn hybrid(methods: &[&[KeGroup]], required: bool) -> Preferences {
        let additional = methods.iter().map(|m| AdditionalKe { methods: m.to_vec(), required }).collect();
        Preferences { additional, ..Preferences::default() }
    }

    fn agreed(ours: &Preferences, theirs: &Preferences, intermediate: bool) -> Option<Vec<KeGroup>> {
        let offer = theirs.initial_proposals(true);
        let choice = ours.choose_initial(&offer, intermediate)?;
        let answer = Sa { proposals: vec![choice.proposal] };
        assert_eq!(theirs.accept(&offer, &answer).unwrap(), choice.suite);
        Some(choice.suite.additional.into_iter().flatten().collect())
    }

    /// RFC 9370 section 2.2.1.
    #[test]
    fn additional_key_exchanges_are_negotiated_by_their_types() {
        let (kem, large) = (KeGroup::MlKem768, KeGroup::MlKem1024);
        let one = hybrid(&[&[kem, large]], false);
        assert_eq!(agreed(&one, &one, true).unwrap(), [kem]);
        assert_eq!(agreed(&hybrid(&[&[large]], false), &one, true).unwrap(), [large], "ours counts");
        let two = hybrid(&[&[kem], &[KeGroup::Brainpool384]], true);
        assert_eq!(agreed(&two, &two, true).unwrap(), [kem, KeGroup::Brainpool384]);
        // Who knows none, or cannot do IKE_INTERMEDIATE, goes without, if the other lets it.
        let plain = Preferences::default();
        assert_eq!(agreed(&plain, &one, true).unwrap(), []);
        assert_eq!(agreed(&one, &plain, true).unwrap(), []);
        assert_eq!(agreed(&one, &one, false).unwrap(), []);
        assert_eq!(agreed(&plain, &two, true), None);
        assert_eq!(agreed(&two, &plain, true), None, "required here");
        assert_eq!(agreed(&two, &one, true), None);
        assert_eq!(agreed(&two, &two, false), None);
        // The second of two has no partner: NONE.
        let optional = hybrid(&[&[kem], &[KeGroup::Brainpool384]], false);
        assert_eq!(agreed(&one, &optional, true).unwrap(), [kem]);
        // Where none can follow, those that insist get nothing.
        assert!(plain.choose(&two.initial_proposals(true)).is_none());
        assert_eq!(two.choose(&plain.proposals(true)).unwrap().suite.additional, [None; MAX_ADDITIONAL_KE]);
    }

    /// No method runs twice in one IKE SA.
    #[test]
    fn a_method_is_chosen_once() {
        let (kem, x) = (KeGroup::MlKem768, KeGroup::X25519);
        let twice = hybrid(&[&[kem], &[kem, KeGroup::Brainpool256]], true);
        assert_eq!(agreed(&twice, &twice, true).unwrap(), [kem, KeGroup::Brainpool256]);
        assert_eq!(agreed(&hybrid(&[&[x]], true), &hybrid(&[&[x]], true), true), None, "it was the first");
        let offer = twice.initial_proposals(true);
        let mut choice = twice.choose_initial(&offer, true).unwrap().proposal;
        let second = TransformType(TransformType::ADDKE1.0 + 1);
        choice.transforms.iter_mut().filter(|t| t.kind == second).for_each(|t| t.id = ke::ML_KEM_768);
        assert!(twice.accept(&offer, &Sa { proposals: vec![choice.clone()] }).is_err());
        choice.transforms.retain(|t| t.kind != second);
        assert!(twice.accept(&offer, &Sa { proposals: vec![choice] }).is_err(), "a type left out");
    }

    /// A server that answers NONE where that was not offered.
    #[test]
    fn what_is_required_cannot_be_declined() {
        let ours = hybrid(&[&[KeGroup::MlKem768]], true);
        let offer = ours.initial_proposals(true);
        assert_eq!(offer.proposals.len(), 2);
        let mut choice = ours.choose_initial(&offer, true).unwrap().proposal;
        choice.transforms.iter_mut().filter(|t| t.kind == TransformType::ADDKE1).for_each(|t| t.id = ke::NONE);
        assert!(ours.accept(&offer, &Sa { proposals: vec![choice] }).is_err());
    }

    /// RFC 7296 section 3.3: numbered from one, and combined modes stand apart from ciphers that need an integrity algorithm.
    #[test]
    fn proposals_are_numbered_and_modes_kept_apart() {
        let prefs = Preferences::default();
        for offer in [prefs.proposals(true), hybrid(&[&[KeGroup::MlKem768]], false).initial_proposals(true)] {
            let numbers: Vec<usize> = offer.proposals.iter().map(|p| p.number.into()).collect();
            assert_eq!(numbers, (1..=offer.proposals.len()).collect::<Vec<_>>());
            for p in &offer.proposals {
                let combined = |t: &Transform<'_>| Aead::ALL.into_iter().any(|a| *t == aead_transform(a));
                let modes: std::collections::BTreeSet<bool> = p.of(TransformType::ENCR).map(combined).collect();
                assert_eq!(modes.len(), 1);
                assert_eq!(p.of(TransformType::INTEG).count() == 0, modes.contains(&true));
                assert!(p.of(TransformType::KE).all(|t| t.id != ke::NONE));
            }
        }
    }

    /// RFC 7296 section 2.18: no key exchange is none to choose; nor is a proposal chosen that lacks a type that must be there (3.3.6).
    #[test]
    fn no_proposal_without_a_key_exchange_is_chosen() {
        let prefs = Preferences::default();
        let mut offer = prefs.proposals(true);
        for p in &mut offer.proposals {
            p.transforms.retain(|t| t.kind != TransformType::KE);
        }
        assert!(prefs.choose(&offer).is_none());
        offer.proposals.iter_mut().for_each(|p| p.transforms.push(Transform::new(TransformType::KE, ke::NONE)));
        assert!(prefs.choose(&offer).is_none());
        for kind in [TransformType::ENCR, TransformType::PRF] {
            let mut offer = prefs.proposals(true);
            offer.proposals.iter_mut().for_each(|p| p.transforms.retain(|t| t.kind != kind));
            assert!(prefs.choose(&offer).is_none());
        }
    }
}
