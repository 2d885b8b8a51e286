//! New keys for an IKE SA: a CREATE_CHILD_SA exchange makes another one in its place (RFC 7296 sections 1.3.2, 2.8.2,
//! 2.18 and 2.25.2).
//!
//! ```text
//!  HDR, SK{SA, Ni, KEi}  -->                          over the old SA, by either end
//!                        <--  HDR, SK{SA, Nr, KEr}
//!  HDR, SK{D}            -->                          over the old SA, by who asked
//!                        <--  HDR, SK{}
//! ```
//!
//! The key wrap algorithm is negotiated again, and so are all others. Who asked is the new SA's initiator, and its SPIs
//! stand in the proposals. If both ask at once two SAs are made; the one with the lowest of the four nonces is deleted
//! by who asked for it, the replaced one by the other. Where more key exchanges follow (`followup`) none is made by then, and who
//! asked with the lowest nonce goes no further (RFC 9370 section 2.2.4).

use std::borrow::Cow;

use keyferry_crypto::{CryptoError, KeGroup, Random, Secret};
use keyferry_wire::{ChainWriter, Encode};

use super::init::NONCE_LEN;
use super::sa::IkeSa;
use super::suite::Choice;
use super::{Preferences, Role, Skeyseed, Suite};
use crate::algorithms::{KeyWrap, ke_number};
use crate::keylog::KeyLog;
use crate::reject::Reject;
use crate::wire::ke::Ke;
use crate::wire::message::{Init, Payloads};
use crate::wire::nonce::Nonce;
use crate::wire::notify::Notify;
use crate::wire::registry::{NotifyType, PayloadKind, TransformType};
use crate::wire::sa::{Proposal, Sa};

/// Octets of an SPI of an IKE SA.
const SPI_LEN: usize = 8;

/// What we ask for.
pub(crate) struct Proposed {
    /// Ours, of the new SA.
    pub(crate) spi: [u8; SPI_LEN],
    pub(crate) group: KeGroup,
    nonce: Vec<u8>,
    /// Without SPIs.
    offer: Sa<'static>,
    /// The peer has named the group.
    demanded: bool,
}

/// What the peer chose of it.
pub(crate) struct Accepted {
    suite: Suite,
    /// Its SPI of the new SA.
    spi: [u8; SPI_LEN],
    nonce: Vec<u8>,
    pub(crate) public: Vec<u8>,
    /// What it calls the exchange that is to follow.
    pub(super) link: Option<Vec<u8>>,
}

/// Why there is no new SA.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Declined {
    /// Not now.
    Later,
    /// With this group.
    Group(KeGroup),
    /// Not at all, in words.
    Never(String),
}

impl Proposed {
    /// Asks for what an IKE_SA_INIT request of ours would. The group is the one that the replaced SA has, unless it is
    /// not among them any more.
    pub(crate) fn draw(
        preferences: &Preferences,
        old: &Suite,
        group: Option<KeGroup>,
        spi: [u8; SPI_LEN],
        rng: &mut dyn Random,
    ) -> Self {
        let mut nonce = vec![0; NONCE_LEN];
        rng.fill(&mut nonce);
        let demanded = group.is_some();
        let ours = &preferences.groups;
        let known = group.into_iter().chain([old.group]).find(|g| ours.contains(g));
        let group = known.or(ours.first().copied()).unwrap_or(old.group);
        let offer = as_strong(preferences, old).initial_proposals(old.key_wrap.is_some());
        Self { spi, group, nonce, offer, demanded }
    }

    /// SA, Ni, KEi.
    pub(crate) fn chain(&self, public: &[u8]) -> ChainWriter {
        chain(with_spi(&self.offer, self.spi), &self.nonce, self.group, public)
    }

    /// What the peer says to it.
    pub(crate) fn accept(&self, preferences: &Preferences, payloads: Payloads<'_>) -> Result<Accepted, Declined> {
        if let Some(error) = payloads.error() {
            return Err(self.declined(preferences, error, &payloads));
        }
        let misbehaved = |reject: Reject| Declined::Never(reject.to_string());
        let init = Init::of(payloads).map_err(misbehaved)?;
        let (answer, spi) = without_spi(&init.sa).ok_or(Declined::Never("no SPI of an IKE SA".to_owned()))?;
        let suite = preferences.accept(&self.offer, &answer).map_err(misbehaved)?;
        if suite.group != self.group || init.ke.method != ke_number(suite.group) {
            return Err(Declined::Never("another key exchange group than ours".to_owned()));
        }
        let link = init.payloads.notify(NotifyType::ADDITIONAL_KEY_EXCHANGE).map(|n| n.data.to_vec());
        if suite.further().next().is_some() && link.is_none() {
            return Err(Declined::Never("no link to the key exchange that is to follow".to_owned()));
        }
        Ok(Accepted { suite, spi, nonce: init.nonce.0.to_vec(), public: init.ke.data.to_vec(), link })
    }

    fn declined(&self, preferences: &Preferences, error: NotifyType, payloads: &Payloads<'_>) -> Declined {
        let wanted = payloads.notify(NotifyType::INVALID_KE_PAYLOAD).map(|n| <[u8; 2]>::try_from(n.data.as_ref()));
        let group = match wanted {
            Some(Ok(number)) => {
                let number = u16::from_be_bytes(number);
                preferences.groups.iter().copied().find(|g| ke_number(*g) == number && *g != self.group)
            }
            Some(Err(_)) | None => None,
        };
        match (group, error) {
            // Once: who cannot make up its mind is asked again later.
            (Some(group), _) if !self.demanded => Declined::Group(group),
            (Some(_), _) => Declined::Later,
            (None, NotifyType::TEMPORARY_FAILURE) => Declined::Later,
            (None, error) => Declined::Never(format!("{error:?}")),
        }
    }

    /// The SA that replaces `old`, with the secrets of all key exchanges.
    pub(super) fn finish(
        &self,
        old: &IkeSa,
        accepted: &Accepted,
        shared: &[Secret],
        rng: &mut dyn Random,
        log: Option<&mut (dyn KeyLog + Send)>,
    ) -> Result<(IkeSa, Made), CryptoError> {
        let sides = Sides { spis: (self.spi, accepted.spi), nonces: (&self.nonce, &accepted.nonce) };
        let sa = sides.replace(old, Role::Initiator, accepted.suite, shared, rng, log)?;
        Ok((sa, Made { spi: self.spi, lowest: sides.lowest().to_vec() }))
    }

    /// The lower of both nonces.
    pub(super) fn lowest<'a>(&'a self, accepted: &'a Accepted) -> &'a [u8] {
        self.nonce.as_slice().min(&accepted.nonce)
    }
}

impl Accepted {
    pub(super) fn suite(&self) -> &Suite {
        &self.suite
    }
}

/// What the peer asks for, as far as we go along.
#[derive(Debug)]
pub(crate) struct Request {
    choice: Choice,
    /// The peer's, of the new SA.
    spi: [u8; SPI_LEN],
    nonce: Vec<u8>,
    /// Ours.
    answered: Vec<u8>,
    pub(crate) public: Vec<u8>,
}

impl Request {
    /// Chooses what is to take the place of `old`; or says why not.
    pub(crate) fn of(
        init: &Init<'_>,
        preferences: &Preferences,
        old: &Suite,
        rng: &mut dyn Random,
    ) -> Result<Self, Notify<'static>> {
        let no = || Notify::bare(NotifyType::NO_PROPOSAL_CHOSEN);
        let spis: Vec<_> = init.sa.proposals.iter().map(|p| spi_of(&p.spi)).collect();
        let offer = Sa {
            proposals: (init.sa.proposals.iter().zip(&spis))
                .filter(|(p, spi)| spi.is_some() && wraps_again(p, old))
                .map(|(p, _)| Proposal { spi: Cow::Borrowed(&[]), ..p.clone() })
                .collect(),
        };
        let choice = as_strong(preferences, old).choose_initial(&offer, true).ok_or_else(no)?;
        let chosen = init.sa.proposals.iter().zip(&spis).find(|(p, _)| p.number == choice.proposal.number);
        let spi = chosen.and_then(|(_, spi)| *spi).ok_or_else(no)?;
        let wanted = ke_number(choice.suite.group);
        if init.ke.method != wanted {
            return Err(Notify::new(NotifyType::INVALID_KE_PAYLOAD, wanted.to_be_bytes().to_vec()));
        }
        let mut answered = vec![0; NONCE_LEN];
        rng.fill(&mut answered);
        Ok(Self { choice, spi, nonce: init.nonce.0.to_vec(), answered, public: init.ke.data.to_vec() })
    }

    pub(super) fn suite(&self) -> &Suite {
        &self.choice.suite
    }

    /// SA, Nr, KEr, with `spi` as ours.
    pub(super) fn chain(&self, spi: [u8; SPI_LEN], public: &[u8]) -> ChainWriter {
        let answer = Sa { proposals: vec![self.choice.proposal.clone()] };
        chain(with_spi(&answer, spi), &self.answered, self.suite().group, public)
    }

    /// The SA that replaces `old`, with the secrets of all key exchanges.
    pub(super) fn finish(
        &self,
        old: &IkeSa,
        spi: [u8; SPI_LEN],
        shared: &[Secret],
        rng: &mut dyn Random,
        log: Option<&mut (dyn KeyLog + Send)>,
    ) -> Result<(IkeSa, Made), CryptoError> {
        let sides = Sides { spis: (self.spi, spi), nonces: (&self.nonce, &self.answered) };
        let sa = sides.replace(old, Role::Responder, self.choice.suite, shared, rng, log)?;
        Ok((sa, Made { spi, lowest: sides.lowest().to_vec() }))
    }

    /// The lower of both nonces.
    pub(super) fn lowest(&self) -> &[u8] {
        self.nonce.as_slice().min(&self.answered)
    }
}

/// What we take instead of an SA: keys that were good enough to wrap others are not given up for weaker ones
/// (RFC 9838 section 3.1), and where a key exchange followed the first one of its place does again.
fn as_strong(preferences: &Preferences, old: &Suite) -> Preferences {
    let mut preferences = preferences.clone();
    let before = old.key_wrap.map_or(0, KeyWrap::key_len);
    preferences.key_wraps.retain(|k| k.key_len() >= before);
    for (exchange, had) in preferences.additional.iter_mut().zip(old.additional) {
        exchange.required |= had.is_some();
    }
    preferences
}

/// Keys can be wrapped afterwards if they could be before.
fn wraps_again(proposal: &Proposal<'_>, old: &Suite) -> bool {
    old.key_wrap.is_none() || proposal.of(TransformType::KWA).next().is_some()
}

/// SPIs and nonces of an exchange, the initiator's first.
struct Sides<'a> {
    spis: ([u8; SPI_LEN], [u8; SPI_LEN]),
    nonces: (&'a [u8], &'a [u8]),
}

impl Sides<'_> {
    fn replace(
        &self,
        old: &IkeSa,
        role: Role,
        suite: Suite,
        shared: &[Secret],
        rng: &mut dyn Random,
        log: Option<&mut (dyn KeyLog + Send)>,
    ) -> Result<IkeSa, CryptoError> {
        let (first, more) = shared.split_first().ok_or(CryptoError::Length("shared secrets"))?;
        let seed = Skeyseed::replace(old.suite.prf, old.derive(), suite, self.nonces, (first, more));
        let keys = seed.expand(&self.spis.0, &self.spis.1);
        let (mut sa, _) = IkeSa::new(role, suite, self.spis.0, self.spis.1, keys, rng, log)?;
        sa.set_limit(old.limit());
        Ok(sa)
    }

    fn lowest(&self) -> &[u8] {
        self.nonces.0.min(self.nonces.1)
    }
}

fn chain(sa: Sa<'_>, nonce: &[u8], group: KeGroup, public: &[u8]) -> ChainWriter {
    let mut chain = ChainWriter::new();
    chain.push(PayloadKind::SA.0, &sa.to_vec());
    chain.push(PayloadKind::NONCE.0, &Nonce(Cow::Borrowed(nonce)).to_vec());
    chain.push(PayloadKind::KE.0, &Ke { method: ke_number(group), data: Cow::Borrowed(public) }.to_vec());
    chain
}

fn with_spi(sa: &Sa<'static>, spi: [u8; SPI_LEN]) -> Sa<'static> {
    let mut sa = sa.clone();
    sa.proposals.iter_mut().for_each(|p| p.spi = Cow::Owned(spi.to_vec()));
    sa
}

/// The only proposal of an answer without its SPI, and that.
fn without_spi<'a>(sa: &Sa<'a>) -> Option<(Sa<'a>, [u8; SPI_LEN])> {
    let mut sa = sa.clone();
    let [proposal] = sa.proposals.as_mut_slice() else { return None };
    let spi = spi_of(&proposal.spi)?;
    proposal.spi = Cow::Borrowed(&[]);
    Some((sa, spi))
}

/// Zero is no SPI.
fn spi_of(octets: &[u8]) -> Option<[u8; SPI_LEN]> {
    <[u8; SPI_LEN]>::try_from(octets).ok().filter(|spi| *spi != [0; SPI_LEN])
}

/// There are no Child SAs here: neither new ones, nor one that could be replaced (RFC 7296 section 2.25).
pub(crate) fn no_child<'m>(replaced: Option<Notify<'m>>) -> Notify<'m> {
    match replaced {
        None => Notify::bare(NotifyType::NO_ADDITIONAL_SAS),
        Some(of) => Notify { kind: NotifyType::CHILD_SA_NOT_FOUND, data: Vec::new().into(), ..of },
    }
}

/// An SA that an exchange made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Made {
    /// Our SPI.
    pub(crate) spi: [u8; SPI_LEN],
    /// The lower of the exchange's nonces.
    pub(crate) lowest: Vec<u8>,
}

/// What became of an IKE SA that was replaced.
#[derive(Debug, Default)]
pub(crate) struct Succession {
    /// What our own exchange made.
    pub(crate) ours: Option<Made>,
    /// What the peer's made.
    pub(crate) theirs: Option<Made>,
}

/// Which of the SAs that were made is kept, by our SPIs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heir {
    /// Ours: we delete the replaced SA, and the peer the one it made.
    Ours { kept: [u8; SPI_LEN], other: Option<[u8; SPI_LEN]> },
    /// The peer's: it deletes the replaced SA, and we the one we made.
    Theirs { kept: [u8; SPI_LEN], other: Option<[u8; SPI_LEN]> },
}

impl Succession {
    /// Once no exchange is under way any more: who inherits? Nonces are compared octet by octet, and of two that begin
    /// alike the shorter is the lower one.
    pub(crate) fn heir(&self) -> Option<Heir> {
        let spi = |made: &Made| made.spi;
        match (&self.ours, &self.theirs) {
            (None, None) => None,
            (Some(ours), Some(theirs)) if ours.lowest < theirs.lowest => {
                Some(Heir::Theirs { kept: theirs.spi, other: Some(ours.spi) })
            }
            (Some(ours), theirs) => Some(Heir::Ours { kept: ours.spi, other: theirs.as_ref().map(spi) }),
            (None, Some(theirs)) => Some(Heir::Theirs { kept: theirs.spi, other: None }),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn made(n: u8, lowest: &[u8]) -> Option<Made> {
        Some(Made { spi: [n; 8], lowest: lowest.to_vec() })
    }

    /// A peer that demands one group after the other is not followed for ever.
    #[test]
    fn a_group_is_demanded_once() {
        let mut rng = keyferry_crypto::SeededRandom::new(1);
        let preferences = Preferences::default();
        let old = preferences.choose(&preferences.proposals(true)).unwrap().suite;
        let (first, other) = (preferences.groups[0], preferences.groups[1]);
        for (group, demanded, says) in [
            (None, other, Declined::Group(other)),
            (Some(other), first, Declined::Later),
            (None, KeGroup::Modp1024, Declined::Never("INVALID_KE_PAYLOAD".to_owned())),
        ] {
            let proposed = Proposed::draw(&preferences, &old, group, [1; 8], &mut rng);
            let wanted = ke_number(demanded).to_be_bytes().to_vec();
            let mut chain = ChainWriter::new();
            chain.push(PayloadKind::NOTIFY.0, &Notify::new(NotifyType::INVALID_KE_PAYLOAD, wanted).to_vec());
            let (kind, body) = chain.finish().unwrap();
            let payloads = Payloads::parse(kind, &body, &[]).unwrap();
            assert_eq!(proposed.accept(&preferences, payloads).err(), Some(says));
        }
    }

    /// RFC 7296 section 2.8.1: the end of a nonce is lower than any octet.
    #[test]
    fn the_lowest_nonce_loses() {
        let heir = |ours, theirs| Succession { ours, theirs }.heir();
        assert_eq!(heir(None, None), None);
        assert_eq!(heir(made(1, &[9]), None), Some(Heir::Ours { kept: [1; 8], other: None }));
        assert_eq!(heir(None, made(2, &[0])), Some(Heir::Theirs { kept: [2; 8], other: None }));
        let both = |ours: &[u8], theirs: &[u8]| heir(made(1, ours), made(2, theirs));
        assert_eq!(both(&[1, 9], &[2, 0]), Some(Heir::Theirs { kept: [2; 8], other: Some([1; 8]) }));
        assert_eq!(both(&[2, 0], &[1, 9]), Some(Heir::Ours { kept: [1; 8], other: Some([2; 8]) }));
        assert_eq!(both(&[1], &[1, 0]), Some(Heir::Theirs { kept: [2; 8], other: Some([1; 8]) }));
    }
}
