//! Aggressive mode as initiator: one message, one answer, and the proof that goes back.

use std::time::Duration;

use keyferry_crypto::{KeGroup, Random};
use keyferry_model::reading::Reading;
use keyferry_model::time::Now;
use keyferry_wire::{Header, chain};

use super::{At, Choice, Initiator, Rejected, Verified, place};
use crate::message::{self, Payloads};
use crate::phase1::auth;
use crate::phase1::extensions::Extensions;
use crate::phase1::ike_sa::IkeSa;
use crate::phase1::keymat::Transcript;
use crate::phase1::nat::Nat;
use crate::phase1::responder::read_ke;
use crate::reject::Reject;
use crate::wire::nonce::Nonce;
use crate::wire::opaque::Ke;
use crate::wire::registry::{NotifyType, exchange, flag, payload};
use crate::wire::rules::AGGRESSIVE_2;

/// What message 2 has led to.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) sa: IkeSa,
    pub(super) lifetime: Option<Duration>,
    pub(super) extensions: Extensions,
    pub(super) nat: Nat,
    pub(super) message3: Vec<u8>,
}

impl Initiator {
    /// Appends what message 1 has beside the SA payload: KE, Ni, IDii.
    pub(super) fn hello(&mut self, payloads: Payloads, group: KeGroup, rng: &mut dyn Random) -> Option<Payloads> {
        let pair = self.pair(group, rng)?;
        let payloads = payloads.with(payload::KE, &Ke(pair.public())).with(payload::NONCE, &Nonce(&self.nonce_i));
        Some(self.ask_for_certificates(auth::id_payload(payloads, &self.id_i)))
    }

    /// Message 2: does it prove the peer, and is it who it must be?
    pub(crate) fn verify_aggressive(&self, header: &Header, body: &[u8], now: Now) -> Result<Verified, Rejected> {
        let refused = |what| Reject::Unacceptable(what, NotifyType::NO_PROPOSAL_CHOSEN);
        if header.flags & flag::ENCRYPTED != 0 || header.message_id != 0 {
            return Err(Reject::Unauthenticated("not a message of this state").into());
        }
        let payloads = chain(header.next, body)?;
        AGGRESSIVE_2.check(&payloads)?;
        let Choice { cookies, suite, lifetime, extensions, seen: told } = self.choice(header, &payloads)?;
        let (ke, nonce) = read_ke(&payloads)?;
        let pair = self.pairs.iter().find(|p| p.group() == suite.group);
        let pair = pair.filter(|_| ke.0.len() == suite.group.public_len());
        let pair = pair.ok_or(Reject::Unauthenticated("length of the public value"))?;
        self.affords(now)?;
        let shared = pair.agree(ke.0).map_err(|_| Rejected::costly(Reject::Unauthenticated("public value")))?;
        let transcript = Transcript {
            suite,
            cookies: &cookies,
            sa_i: &self.sa_i,
            ke_i: pair.public(),
            ke_r: ke.0,
            nonce_i: &self.nonce_i,
            nonce_r: nonce.0,
        };
        let mut sa = IkeSa::new(cookies, transcript.keys(self.basis(), &shared));
        let (identity, seen) =
            self.peer_of(&payloads, &transcript, sa.keys(), now).map_err(|r| Rejected::costly(r.why))?;
        let places = extensions.nat_traversal.then_some([self.path, self.floated]);
        let places = places.map(|paths| paths.map(|path| place(path, suite.hash, &cookies)));
        let nat = places.and_then(|[present, _]| present.find(&payloads)).unwrap_or_default();
        let message3 = self.evidence(Payloads::new(), &transcript, sa.keys()).and_then(|payloads| {
            // It says where it comes from and goes to, which is port 4500 behind a translator.
            let payloads = match places {
                Some([present, floated]) => (if nat.is_there() { floated } else { present }).announce(payloads),
                None => payloads,
            };
            if self.sends.has(Reading::Message3Clear) {
                let header = message::header(&cookies, exchange::AGGRESSIVE, 0, 0, payloads.first());
                return Ok((message::clear(&header, &payloads)?, sa.keys().iv));
            }
            // Encrypted: with the first IV, since no block came before (RFC 2409 section 5 and appendix B).
            sa.seal_phase1(exchange::AGGRESSIVE, &sa.keys().iv, &payloads)
        });
        let (message3, last_block) = message3.map_err(|_| Rejected::costly(refused("message 3 cannot be made")))?;
        sa.chain_to(last_block);
        let seen = seen.union(told);
        Ok(Verified { at: At::Aggressive(Box::new(Done { sa, lifetime, extensions, nat, message3 })), identity, seen })
    }
}
