//! GROUPKEY-PULL as member.
//!
//! ```text
//!  state         | message 2             | message 4     | notice
//!  --------------+-----------------------+---------------+--------
//!  ExpectPolicy  | send 3, or refuse     | -             | failed
//!  ExpectKeys    | nothing (repeat)      | registered    | failed
//! ```

use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::{Random, Secret, VerifyingKey};
use keyferry_model::id::GroupId;
use keyferry_model::reading::{Reading, Readings};
use keyferry_model::update::{NewSa, NewStream, SenderIds};
use keyferry_wire::{Attribute, AttributeValue, Decode, Header};

use crate::identity;
use crate::message::{Iv, Payloads, SealError};
use crate::phase1::ike_sa::IkeSa;
use crate::policy::take::{Decree, Download, KekSource, RekeyKeys, RekeyPolicy, Taking, signature_key};
use crate::policy::tree::{Tree, keymat_len};
use crate::reject::Reject;
use crate::wire::gap::Gap;
use crate::wire::kd::Kd;
use crate::wire::nonce::Nonce;
use crate::wire::registry::{NotifyType, exchange, gap_attribute, payload};
use crate::wire::rules::{self, PULL_2, PULL_4};
use crate::wire::seq::Seq;

fn refused(what: &'static str) -> Reject {
    Reject::Unacceptable(what, NotifyType(13))
}

/// A registration under way.
#[derive(Debug)]
pub(crate) struct Pull {
    message_id: u32,
    nonce_i: Vec<u8>,
    iv: Iv,
    message: Vec<u8>,
    state: State,
}

#[derive(Debug)]
enum State {
    ExpectPolicy,
    ExpectKeys(Box<ExpectKeys>),
}

#[derive(Debug)]
struct ExpectKeys {
    nonce_r: Vec<u8>,
    decree: Decree,
    seq: Option<u32>,
}

/// Message 2, verified and acceptable.
#[derive(Debug)]
pub(crate) struct Policy {
    nonce_r: Vec<u8>,
    decree: Decree,
    seq: Option<u32>,
    iv: Iv,
}

/// A rekey SA with everything that belongs to it.
#[derive(Debug)]
pub(crate) struct NewRekey {
    pub(crate) policy: RekeyPolicy,
    /// IV and KEK.
    pub(crate) keymat: Secret,
    pub(crate) verifier: Arc<VerifyingKey>,
    /// The last SEQ used under it.
    pub(crate) seq: u32,
}

/// What a registration brought.
#[derive(Debug)]
pub(crate) struct Registration {
    pub(crate) rekey: Option<NewRekey>,
    pub(crate) tree: Tree,
    pub(crate) data: Vec<NewSa>,
    /// IEC 61850 streams.
    pub(crate) streams: Vec<NewStream>,
    pub(crate) sender_ids: Option<SenderIds>,
    pub(crate) activation_delay: Duration,
    pub(crate) deactivation_delay: Duration,
    /// In which readings it came.
    pub(crate) readings: Readings,
}

/// The last SEQ under a rekey SA that a member has already.
pub(crate) type LastSeq<'a> = &'a dyn Fn(&[u8; 16]) -> Option<u32>;

/// What a member makes of a message of this exchange.
pub(crate) enum Step {
    Policy(Box<Policy>),
    Keys(Box<Registration>),
}

impl Pull {
    /// Begins with message 1.
    pub(crate) fn start(sa: &IkeSa, group: &GroupId, rng: &mut dyn Random) -> Result<Self, SealError> {
        let message_id = rng.u32().max(1);
        let mut nonce_i = vec![0; Nonce::OWN_LEN];
        rng.fill(&mut nonce_i);
        let payloads = Payloads::new()
            .with(payload::NONCE, &Nonce(&nonce_i))
            .with_body(payload::ID, Secret::new(identity::of_group(group)));
        let (message, iv) = sa.seal(exchange::PULL, message_id, &sa.iv(message_id), &[], payloads)?;
        Ok(Self { message_id, nonce_i, iv, message, state: State::ExpectPolicy })
    }

    /// The message to repeat until it is answered.
    pub(crate) fn message(&self) -> &[u8] {
        &self.message
    }

    /// Opens the message that comes next. The inner error is that of an authentic message: the policy is not acceptable.
    /// `last_seq` tells the last SEQ under a rekey SA that we have already.
    pub(crate) fn verify(
        &self,
        sa: &IkeSa,
        header: &Header,
        body: &[u8],
        taking: Taking,
        last_seq: LastSeq<'_>,
    ) -> Result<Result<Step, Reject>, Reject> {
        if header.message_id != self.message_id {
            return Err(Reject::Unauthenticated("no such exchange"));
        }
        match &self.state {
            State::ExpectPolicy => {
                let plain = sa.open(header, body, &self.iv, &[&self.nonce_i], &PULL_2)?;
                let parts = plain.parts()?;
                Ok((|| {
                    let nonce = Nonce::exact(rules::body(&parts.payloads, payload::NONCE).unwrap_or_default())?;
                    if !nonce.fits_gdoi() {
                        return Err(refused("length of the nonce"));
                    }
                    let mut decree = Decree::of_message(&parts.payloads, taking)?;
                    let seq = rules::body(&parts.payloads, payload::SEQ).map(Seq::exact).transpose()?;
                    let seq = seq.map(|s| s.0);
                    decree.readings.add_if(seq.is_some(), Reading::SeqInMessage2);
                    let policy = Policy { nonce_r: nonce.0.to_vec(), decree, seq, iv: plain.last_block };
                    Ok(Step::Policy(Box::new(policy)))
                })())
            }
            State::ExpectKeys(expect) => {
                let plain = sa.open(header, body, &self.iv, &[&self.nonce_i, &expect.nonce_r], &PULL_4)?;
                let parts = plain.parts()?;
                Ok((|| {
                    let seq = rules::body(&parts.payloads, payload::SEQ).map(Seq::exact).transpose()?;
                    let kd = Kd::exact(rules::body(&parts.payloads, payload::KD).unwrap_or_default())?;
                    expect.register(&kd, seq.map(|s| s.0), taking.sender, last_seq).map(Box::new).map(Step::Keys)
                })())
            }
        }
    }

    /// Goes on with message 3, which asks for sender IDs where it makes sense to.
    pub(crate) fn confirm(&mut self, sa: &IkeSa, policy: Policy, sender_ids: u32) -> Result<(), SealError> {
        let mut payloads = Payloads::new();
        if sender_ids > 0 && policy.decree.uses_sender_ids() {
            let count = u16::try_from(sender_ids).unwrap_or(u16::MAX);
            let request = Attribute { kind: gap_attribute::SENDER_ID_REQUEST, value: AttributeValue::Short(count) };
            payloads = payloads.with(payload::GAP, &Gap { attributes: vec![request] });
        }
        let nonces: [&[u8]; 2] = [&self.nonce_i, &policy.nonce_r];
        let (message, iv) = sa.seal(exchange::PULL, self.message_id, &policy.iv, &nonces, payloads)?;
        self.message = message;
        self.iv = iv;
        let Policy { nonce_r, decree, seq, .. } = policy;
        self.state = State::ExpectKeys(Box::new(ExpectKeys { nonce_r, decree, seq }));
        Ok(())
    }
}

impl ExpectKeys {
    fn register(
        &self,
        kd: &Kd<'_>,
        seq: Option<u32>,
        sender: bool,
        last_seq: LastSeq<'_>,
    ) -> Result<Registration, Reject> {
        let mut download = Download::read(kd)?;
        let data = download.data_sas(&self.decree)?;
        let streams = download.streams(&self.decree)?;
        let mut readings = self.decree.readings.union(download.readings);
        let (rekey, tree) = match (&self.decree.rekey, &download.rekey) {
            (Some(policy), Some(keys)) => {
                // Without a number every push that was ever sent under the KEK could come again.
                let seq = seq.or(self.seq).or_else(|| last_seq(&policy.spi)).ok_or(refused("a KEK without SEQ"))?;
                let (rekey, tree) = rekey(policy, keys, seq, &mut readings)?;
                (Some(rekey), tree)
            }
            (None, None) => (None, Tree::default()),
            (Some(_), None) => return Err(refused("a KEK without keys")),
            (None, Some(_)) => return Err(refused("keys of no KEK")),
        };
        let given = download.sender_ids;
        let missing = given.as_ref().is_none_or(|s| s.ids.is_empty());
        if sender && missing && self.decree.needs_sender_ids() {
            return Err(refused("no sender ID"));
        }
        // A receiver has no use for an ID, but for their width.
        let sender_ids = given.map(|s| if sender { s } else { SenderIds { ids: Vec::new(), ..s } });
        Ok(Registration {
            rekey,
            tree,
            data,
            streams,
            sender_ids,
            activation_delay: self.decree.activation_delay,
            deactivation_delay: self.decree.deactivation_delay,
            readings,
        })
    }
}

fn rekey(
    policy: &RekeyPolicy,
    keys: &RekeyKeys<'_>,
    seq: u32,
    readings: &mut Readings,
) -> Result<(NewRekey, Tree), Reject> {
    if keys.spi != policy.spi {
        return Err(refused("keys of another KEK"));
    }
    let (keymat, tree) = match &keys.kek {
        KekSource::Key(key) if key.len() == keymat_len(policy.cipher) => (Secret::copy_from(key), Tree::default()),
        KekSource::Key(_) => return Err(refused("length of the KEK")),
        KekSource::Path(path) => {
            let (tree, kek) = Tree::learn(path, policy.cipher).ok_or(refused("keys of the tree"))?;
            (kek, tree)
        }
        KekSource::Changes(_) => return Err(refused("changes of a tree at registration")),
    };
    let (verifier, form) = signature_key(keys.signature_key.ok_or(refused("no signature key"))?, policy.scheme)?;
    *readings = readings.union(form);
    let rekey = NewRekey { policy: policy.clone(), keymat, verifier, seq };
    Ok((rekey, tree))
}
