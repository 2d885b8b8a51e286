//! IKE_INTERMEDIATE, initiator's side: additional key exchanges before AUTH (RFC 9242; RFC 9370 section 2.2.2).

use std::borrow::Cow;
use std::collections::btree_map::Entry;

use keyferry_crypto::{KeGroup, KeyPair, Secret};
use keyferry_wire::{ChainWriter, Encode, Header};

use super::Step;
use super::candidate::Candidate;
use super::connecting::{Connecting, Next, Outcome, Wish};
use crate::algorithms::ke_number;
use crate::keylog::KeyLog;
use crate::reject::Reject;
use crate::wire::ke::Ke;
use crate::wire::message::Payloads;
use crate::wire::registry::PayloadKind;
use crate::wire::rules;
use crate::wire::sk::Opened;

/// What an answer is to a candidate.
enum Answer {
    /// The shared secret.
    Agreed(Secret),
    /// The end.
    Failed(String),
    /// Made for another one, whose keys are the same but which wants another method.
    NotMine,
}

impl Connecting {
    /// Our public value for an additional key exchange. Like the first one it serves all candidates.
    pub(super) fn key_exchange(&mut self, method: KeGroup, step: &mut Step<'_>) -> Result<ChainWriter, Reject> {
        let pair = match self.pairs.entry(method) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(vacant) => {
                let pair = KeyPair::generate(method, step.rng).map_err(|_| Reject::Misbehaved("key pair"))?;
                vacant.insert(pair)
            }
        };
        let mut chain = ChainWriter::new();
        let ke = Ke { method: ke_number(method), data: Cow::Borrowed(pair.public()) };
        chain.push(PayloadKind::KE.0, &ke.to_vec());
        Ok(chain)
    }

    /// Takes an IKE_INTERMEDIATE response: what to send next, and what it led to. What does not verify under a candidate's keys
    /// changes nothing.
    pub(super) fn intermediate_response(
        &mut self,
        wish: &Wish<'_>,
        header: &Header,
        datagram: &[u8],
        step: &mut Step<'_>,
        mut log: Option<&mut (dyn KeyLog + Send)>,
    ) -> Result<(Vec<Vec<u8>>, Outcome), Reject> {
        let mut found = None;
        for c in self.candidates.iter().filter(|c| c.sa.is_named_by(header) && self.awaits(c, header)) {
            match c.sa.open(datagram) {
                Ok(opened) => match self.answer(c, &opened) {
                    Answer::NotMine => {}
                    answer @ (Answer::Agreed(_) | Answer::Failed(_)) => {
                        found = Some((c.asked, opened, answer));
                        break;
                    }
                },
                Err(reject @ Reject::Malformed(_)) => return Err(reject),
                Err(_) => {}
            }
        }
        let (at, opened, answer) = found.ok_or(Reject::Unauthenticated("under no keys of ours"))?;
        let shared = match answer {
            Answer::Agreed(shared) => shared,
            Answer::Failed(why) => return Ok((Vec::new(), self.give_up(at, why))),
            Answer::NotMine => return Err(Reject::Misbehaved("another key exchange than ours")),
        };
        if let Some(asked) = self.asked.get_mut(at) {
            (asked.message, asked.answer) = (None, Some((opened, shared)));
        }
        let (moving, others): (Vec<Candidate>, Vec<Candidate>) =
            std::mem::take(&mut self.candidates).into_iter().partition(|c| c.asked == at);
        self.candidates = others;
        let mut requests = Vec::new();
        let mut failed = None;
        for candidate in moving {
            match self.ask(wish, candidate, step, log.as_mut().map(|l| &mut **l as _)) {
                Ok(Next::Send(bytes)) => requests.push(bytes),
                Ok(Next::Wait | Next::Elsewhere(_)) => {}
                Err(reject) => failed = Some(reject.to_string()),
            }
        }
        let outcome = match failed {
            Some(why) if self.candidates.is_empty() => Outcome::Failed(why),
            _ => Outcome::Wait,
        };
        Ok((requests, outcome))
    }

    fn answer(&self, candidate: &Candidate, opened: &Opened) -> Answer {
        let failed = |what: &str| Answer::Failed(format!("an additional key exchange failed: {what}"));
        let payloads = match Payloads::parse(opened.first, opened.inner.expose(), rules::INTERMEDIATE) {
            Ok(payloads) => payloads,
            Err(reject) => return failed(&reject.to_string()),
        };
        if let Some(error) = payloads.error() {
            return failed(&format!("{error:?}"));
        }
        let said: Option<Ke<'_>> = payloads.get(PayloadKind::KE).ok().flatten();
        let Some(said) = said else { return failed("no key exchange in the answer") };
        let Some(method) = candidate.more.front().filter(|method| ke_number(**method) == said.method) else {
            return Answer::NotMine;
        };
        match self.pairs.get(method).map(|pair| pair.agree(&said.data)) {
            Some(Ok(shared)) => Answer::Agreed(shared),
            Some(Err(_)) | None => failed("an unacceptable public value"),
        }
    }
}
