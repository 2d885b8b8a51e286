//! Evidence: our own, and the key server's.

use std::net::SocketAddr;
use std::time::Duration;

use keyferry_crypto::{CryptoError, ct_eq};
use keyferry_model::drive::{Datagram, Via};
use keyferry_model::id::Identity;
use keyferry_model::reading::Readings;
use keyferry_model::time::Now;
use keyferry_wire::{DecodeError, RawPayload};

use super::{Auth, Initiator};
use crate::message::{Payloads, SealError};
use crate::phase1::auth::{self, Evidence, Own};
use crate::phase1::keymat::{Basis, Keys, Transcript};
use crate::phase1::method::{Way, ways};
use crate::phase1::{HOLD, MAX_RIVALS};
use crate::reject::Reject;
use crate::wire::registry::{NotifyType, payload};
use crate::wire::rules;

/// Why a message is not taken, and what it took to find out.
#[derive(Debug)]
pub(crate) struct Rejected {
    pub(crate) why: Reject,
    pub(crate) cost: Cost,
}

/// What it took to find out that a message is not to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cost {
    /// Next to nothing.
    Little,
    /// Public-key work.
    Work,
    /// Nothing yet: it wants public-key work for which it is not the time. Messages of one continuation have one number.
    Postponed(usize),
}

impl Rejected {
    pub(super) fn cheap(why: Reject) -> Self {
        Self { why, cost: Cost::Little }
    }

    pub(super) fn costly(why: Reject) -> Self {
        Self { why, cost: Cost::Work }
    }

    /// The same, if it is postponed as a message of this continuation.
    pub(super) fn of(self, continuation: usize) -> Self {
        match self.cost {
            Cost::Postponed(_) => Self { cost: Cost::Postponed(continuation), ..self },
            Cost::Little | Cost::Work => self,
        }
    }
}

/// A message whose turn comes later.
#[derive(Debug)]
pub(crate) struct Postponed {
    continuation: usize,
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) via: Via,
    pub(crate) bytes: Vec<u8>,
}

impl From<Reject> for Rejected {
    fn from(why: Reject) -> Self {
        Self::cheap(why)
    }
}

impl From<DecodeError> for Rejected {
    fn from(e: DecodeError) -> Self {
        Self::cheap(e.into())
    }
}

/// Public-key work for messages that may be anybody's: a few at once, then one every [`HOLD`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Budget {
    spent: usize,
    next: Duration,
}

impl Budget {
    fn allows(self, mono: Duration) -> bool {
        self.spent < MAX_RIVALS || mono >= self.next
    }

    fn spend(&mut self, mono: Duration) {
        self.spent = self.spent.saturating_add(1);
        self.next = mono + HOLD;
    }
}

impl Initiator {
    /// Notes what it took to reject a message: what there was no time for gets its turn later, of each continuation the
    /// latest.
    pub(crate) fn note(&mut self, cost: Cost, dgram: &Datagram<'_>, mono: Duration) {
        match cost {
            Cost::Little => {}
            Cost::Work => self.budget.spend(mono),
            Cost::Postponed(continuation) => {
                self.postponed.retain(|p| p.continuation != continuation);
                if self.postponed.len() == MAX_RIVALS {
                    self.postponed.remove(0);
                }
                let Datagram { from, to, via, bytes } = *dgram;
                self.postponed.push(Postponed { continuation, from, to, via, bytes: bytes.to_vec() });
            }
        }
    }

    /// The messages that were postponed, if there is time for one of them now. Those behind it are postponed again.
    pub(crate) fn resume(&mut self, mono: Duration) -> Vec<Postponed> {
        if self.budget.allows(mono) { std::mem::take(&mut self.postponed) } else { Vec::new() }
    }

    /// When a message that was postponed has its turn.
    pub(super) fn resumes(&self) -> Option<Duration> {
        (!self.postponed.is_empty()).then_some(self.budget.next)
    }

    /// May public-key work be done for a message that may be anybody's?
    pub(super) fn affords(&self, now: Now) -> Result<(), Rejected> {
        let why = Reject::Unauthenticated("too many messages that prove nothing");
        if self.budget.allows(now.mono) { Ok(()) } else { Err(Rejected { why, cost: Cost::Postponed(0) }) }
    }

    pub(super) fn basis(&self) -> Basis<'_> {
        match &self.auth {
            Auth::Psk(psk) => Basis::PreShared(psk),
            Auth::Certificate(_) => Basis::Signatures,
        }
    }

    /// Appends a request for certificates, where signatures authenticate.
    pub(super) fn ask_for_certificates(&self, payloads: Payloads) -> Payloads {
        match &self.auth {
            Auth::Psk(_) => payloads,
            Auth::Certificate(c) => auth::request_certificates(payloads, &c.trust),
        }
    }

    /// Appends our own evidence. Our certificates always go along: whoever has them already passes them over.
    pub(super) fn evidence(
        &self,
        payloads: Payloads,
        transcript: &Transcript<'_>,
        keys: &Keys,
    ) -> Result<Payloads, SealError> {
        match &self.auth {
            Auth::Psk(_) => Ok(Own::Hash(&transcript.hash_i(keys, &self.id_i, transcript.suite.hash)).put(payloads)),
            Auth::Certificate(c) => {
                let way = Way::of(transcript.suite, c.own.key.kind(), self.sends);
                let way = way.ok_or(CryptoError::SignatureKey("IKEv1 has no way to sign by it"))?;
                let hash = transcript.hash_i(keys, &self.id_i, way.hmac);
                let signature = c.own.key.sign_digest(way.how, hash.expose())?;
                Ok(Own::Signature { signature: &signature, chain: Some(&c.own) }.put(payloads))
            }
        }
    }

    /// Checks the key server's evidence: who it is, in which readings it writes, and whether it is who it must be.
    pub(super) fn peer_of(
        &self,
        payloads: &[RawPayload<'_>],
        transcript: &Transcript<'_>,
        keys: &Keys,
        now: Now,
    ) -> Result<(Identity, Readings), Rejected> {
        const NOT_EXPECTED: Reject =
            Reject::Unacceptable("identity of the key server", NotifyType::INVALID_ID_INFORMATION);
        let id = rules::body(payloads, payload::ID).unwrap_or_default();
        let expected = |identity: &Identity| self.peer.as_ref().is_none_or(|e| e == identity);
        let suite = transcript.suite;
        match (&self.auth, Evidence::read(payloads, suite.method)?) {
            (Auth::Psk(_), Evidence::Hash(hash)) => {
                if !ct_eq(transcript.hash_r(keys, id, suite.hash).expose(), hash) {
                    return Err(Reject::Unauthenticated("HASH_R").into());
                }
                let identity = auth::identity(id)?;
                if expected(&identity) { Ok((identity, auth::id_readings(id))) } else { Err(NOT_EXPECTED.into()) }
            }
            (Auth::Certificate(own), Evidence::Signature { signature, certificates }) => {
                self.affords(now)?;
                let kind = own.own.key.kind();
                let ways = ways(suite, kind, self.seen);
                let hashes = ways.iter().map(|(_, way)| (way.how, transcript.hash_r(keys, id, way.hmac)));
                let check = auth::check(&own.trust, now.wall, kind, &certificates, hashes.collect(), signature);
                let peer = check.run().map_err(|error| {
                    tracing::debug!(%error, "key server's signature or certificate");
                    Rejected::costly(Reject::Unauthenticated("signature or certificate of the key server"))
                })?;
                let identity = auth::identity(id).map_err(Rejected::costly)?;
                let bound = own.gateway().allows(&identity, &peer.certificate);
                let signed = ways.get(peer.reading).map_or(Readings::NONE, |(readings, _)| *readings);
                let seen = auth::id_readings(id).union(signed);
                if bound && expected(&identity) { Ok((identity, seen)) } else { Err(Rejected::costly(NOT_EXPECTED)) }
            }
            _ => Err(Reject::Unauthenticated("evidence of another method").into()),
        }
    }
}
