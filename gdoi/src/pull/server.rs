//! GROUPKEY-PULL as key server.
//!
//! ```text
//!  state          | message 1          | message 3                | time out
//!  ---------------+--------------------+--------------------------+---------
//!  (none)         | answer or refuse   | -                        | -
//!  ExpectConfirm  | same answer        | admit, answer or refuse  | forget
//!  Done           | same answer        | same answer              | forget
//! ```

use std::time::Duration;

use keyferry_crypto::{Hash, Random};
use keyferry_model::admission::{Admission, Issued, Offer};
use keyferry_model::id::{GroupId, Identity};
use keyferry_model::reading::Reading;
use keyferry_wire::{Decode, Header};

use crate::identity;
use crate::message::{Iv, Payloads};
use crate::phase1::ike_sa::IkeSa;
use crate::phase1::responder::Path;
use crate::policy::tell::{KdParts, SaParts};
use crate::reject::Reject;
use crate::wire::gap::Gap;
use crate::wire::id::Id;
use crate::wire::nonce::Nonce;
use crate::wire::registry::{NotifyType, exchange, gap_attribute, payload};
use crate::wire::rules::{self, PULL_1, PULL_3};
use crate::wire::seq::Seq;

/// ATTRIBUTES-NOT-SUPPORTED.
const ATTRIBUTES_NOT_SUPPORTED: NotifyType = NotifyType(13);

/// One exchange, known by its message ID.
#[derive(Debug)]
pub(crate) struct Exchange {
    /// Requests by their hashes, each with its answer.
    answered: Vec<(Vec<u8>, Vec<u8>)>,
    /// What the last answer told, if that is keys.
    issued: Option<Issued>,
    pub(crate) state: State,
    /// When it is forgotten.
    pub(crate) expires: Duration,
}

#[derive(Debug)]
pub(crate) enum State {
    /// Message 2 is out.
    ExpectConfirm(Box<ExpectConfirm>),
    /// Keys or a refusal are out.
    Done,
}

impl Exchange {
    pub(crate) fn new(request: &[u8], answer: Vec<u8>, state: State, expires: Duration) -> Self {
        Self { answered: vec![(digest(request), answer)], issued: None, state, expires }
    }

    /// The answer that this request got before, and what it told, if that is keys.
    pub(crate) fn repeat(&self, request: &[u8]) -> Option<(&[u8], Option<&Issued>)> {
        let digest = digest(request);
        let at = self.answered.iter().position(|(d, _)| *d == digest)?;
        let is_last = at + 1 == self.answered.len();
        Some((&self.answered[at].1, self.issued.as_ref().filter(|_| is_last)))
    }

    /// Ends the exchange with this answer, which may tell keys.
    pub(crate) fn finish(&mut self, request: &[u8], answer: Vec<u8>, issued: Option<Issued>) {
        self.answered.push((digest(request), answer));
        self.issued = issued;
        self.state = State::Done;
    }
}

fn digest(octets: &[u8]) -> Vec<u8> {
    Hash::Sha256.digest(&[octets])
}

/// Message 1, verified.
#[derive(Debug)]
pub(crate) struct Request {
    /// The group asked for; `None` if its identity has a form that no group has.
    pub(crate) group: Option<GroupId>,
    nonce_i: Vec<u8>,
    iv: Iv,
}

impl Request {
    /// Opens message 1.
    pub(crate) fn verify(sa: &IkeSa, header: &Header, body: &[u8]) -> Result<Self, Reject> {
        let plain = sa.open(header, body, &sa.iv(header.message_id), &[], &PULL_1)?;
        let parts = plain.parts()?;
        let nonce = Nonce::exact(rules::body(&parts.payloads, payload::NONCE).unwrap_or_default())?;
        if !nonce.fits_gdoi() {
            return Err(Reject::Unacceptable("length of the nonce", NotifyType::INVALID_ID_INFORMATION));
        }
        let id = Id::exact(rules::body(&parts.payloads, payload::ID).unwrap_or_default())?;
        Ok(Self { group: identity::to_group(&id), nonce_i: nonce.0.to_vec(), iv: plain.last_block })
    }

    /// Message 2, and what is expected then.
    pub(crate) fn answer(
        self,
        sa: &IkeSa,
        message_id: u32,
        told: Told<'_>,
        rng: &mut dyn Random,
    ) -> Result<(Vec<u8>, ExpectConfirm), String> {
        let mut nonce_r = vec![0; Nonce::OWN_LEN];
        rng.fill(&mut nonce_r);
        let policy = SaParts::of_offer(told.offer, told.member, told.wall, told.path.to, told.path.from)
            .map_err(|e| e.to_string())?;
        let mut payloads = policy.append_to(Payloads::new().with(payload::NONCE, &Nonce(&nonce_r)));
        if seq_in_message_2(told.offer) {
            payloads = payloads.with(payload::SEQ, &Seq(told.offer.last_seq()));
        }
        let sealed = sa.seal(exchange::PULL, message_id, &self.iv, &[&self.nonce_i], payloads);
        let (answer, iv) = sealed.map_err(|e| e.to_string())?;
        let generation = told.offer.generation;
        Ok((answer, ExpectConfirm { group: told.group, nonce_i: self.nonce_i, nonce_r, iv, generation }))
    }
}

/// Does SEQ stand in message 2 rather than in message 4? The number is the same: a rekey in between begins anew.
fn seq_in_message_2(offer: &Offer) -> bool {
    offer.policy.gdoi.as_ref().is_some_and(|g| g.sends.has(Reading::SeqInMessage2))
}

/// What message 2 tells, and to whom.
#[derive(Debug)]
pub(crate) struct Told<'a> {
    pub(crate) group: GroupId,
    pub(crate) offer: &'a Offer,
    pub(crate) member: &'a Identity,
    /// How the member talks to us.
    pub(crate) path: Path,
    /// The present on the wall clock: lifetimes are told as what remains.
    pub(crate) wall: Duration,
}

/// An exchange in which the policy has been told.
#[derive(Debug)]
pub(crate) struct ExpectConfirm {
    pub(crate) group: GroupId,
    nonce_i: Vec<u8>,
    nonce_r: Vec<u8>,
    iv: Iv,
    pub(crate) generation: u64,
}

/// Message 3, verified: the member is alive and has taken the policy.
#[derive(Debug)]
pub(crate) struct Confirmed {
    /// Sender IDs asked for. A member that asks for none gets one if it needs it (RFC 6407 section 3.5).
    pub(crate) sender_ids: u32,
    iv: Iv,
}

impl ExpectConfirm {
    /// Opens message 3. The inner error is that of an authentic message.
    pub(crate) fn verify(&self, sa: &IkeSa, header: &Header, body: &[u8]) -> Result<Result<Confirmed, Reject>, Reject> {
        let plain = sa.open(header, body, &self.iv, &[&self.nonce_i, &self.nonce_r], &PULL_3)?;
        let parts = plain.parts()?;
        let gap = rules::body(&parts.payloads, payload::GAP);
        Ok(requested(gap).map(|sender_ids| Confirmed { sender_ids, iv: plain.last_block }))
    }

    /// Message 4.
    pub(crate) fn answer(
        &self,
        sa: &IkeSa,
        message_id: u32,
        confirmed: &Confirmed,
        admission: &Admission,
    ) -> Result<Vec<u8>, String> {
        let keys = KdParts::of_admission(admission).map_err(|e| e.to_string())?;
        let mut payloads = Payloads::new();
        if !seq_in_message_2(&admission.offer) {
            payloads = payloads.with(payload::SEQ, &Seq(admission.offer.last_seq()));
        }
        let payloads = keys.append_to(payloads);
        let nonces: [&[u8]; 2] = [&self.nonce_i, &self.nonce_r];
        let sealed = sa.seal(exchange::PULL, message_id, &confirmed.iv, &nonces, payloads);
        sealed.map(|(answer, _)| answer).map_err(|e| e.to_string())
    }
}

/// Sender IDs that a GAP payload asks for. Anything else in it is refused (RFC 6407 section 5.4).
fn requested(gap: Option<&[u8]>) -> Result<u32, Reject> {
    let Some(gap) = gap.map(Gap::exact).transpose()? else { return Ok(0) };
    let unknown = Reject::Unacceptable("attribute of a GAP payload", ATTRIBUTES_NOT_SUPPORTED);
    match gap.attributes.as_slice() {
        [] => Ok(0),
        [one] if one.kind == gap_attribute::SENDER_ID_REQUEST => one.as_u32().ok_or(unknown),
        _ => Err(unknown),
    }
}
