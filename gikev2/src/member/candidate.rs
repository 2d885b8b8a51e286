//! Responses to IKE_SA_INIT that are followed, and what was asked under the keys they led to.
//!
//! Nothing protects such a response, and its keys come from a part of it only: two that differ elsewhere, say in the key
//! wrap algorithm, have the same SK_ei. So messages belong to keys, not to responses: under one set of keys one request is
//! sealed in an attempt, and what comes after it goes on with the next IV.

use std::time::Duration;

use keyferry_crypto::{Random, Secret};
use keyferry_model::settings::MemberSettings;

use crate::ike_sa::auth::{SignedOctets, shared_key_mac};
use crate::ike_sa::sa::IkeSa;
use crate::ike_sa::window::{Due, Repeating};
use crate::policy::identity::identity_from_wire;
use crate::reject::Reject;
use crate::wire::auth::Auth;
use crate::wire::id::Id;
use crate::wire::message::Payloads;
use crate::wire::registry::{AuthMethod, ExchangeType, PayloadKind};
use crate::wire::rules;
use crate::wire::sk::Opened;

/// A request under one set of keys.
pub(super) struct Asked {
    /// Digest of SK_ei.
    pub(super) keys: Vec<u8>,
    /// IKE_AUTH or GSA_AUTH.
    pub(super) exchange: ExchangeType,
    /// IV of the next message under these keys.
    pub(super) next_iv: u64,
    /// `None` once nobody answered, or the answer failed. The keys are not used again.
    pub(super) message: Option<Repeating>,
}

impl Asked {
    pub(super) fn is_pending(&self) -> bool {
        self.message.is_some()
    }

    pub(super) fn due_at(&self) -> Option<Duration> {
        self.message.as_ref().map(Repeating::due_at)
    }

    /// The message, if it is to be sent again.
    pub(super) fn expire(&mut self, now: Duration, rng: &mut dyn Random) -> Option<Vec<u8>> {
        let message = self.message.as_mut()?;
        match message.expire(now, rng) {
            Due::Wait => None,
            Due::Repeat => Some(message.bytes.clone()),
            Due::GiveUp => {
                self.message = None;
                None
            }
        }
    }
}

/// A response that may be the key server's.
pub(super) struct Candidate {
    pub(super) sa: IkeSa,
    /// SK_pi, SK_pr.
    pub(super) proof: (Secret, Secret),
    pub(super) response: Vec<u8>,
    pub(super) behind_nat: bool,
    /// Which request was sent under its keys.
    pub(super) asked: usize,
}

impl Candidate {
    /// Is the key server who it should be? An answer without IDr and AUTH fails the whole (reading 21).
    pub(super) fn verify(&self, settings: &MemberSettings, nonce_i: &[u8], opened: &Opened) -> Result<(), String> {
        let said = |e: Reject| e.to_string();
        let payloads = Payloads::parse(opened.first, opened.inner.expose(), rules::AUTH_RESPONSE).map_err(said)?;
        let id_body = payloads.body(PayloadKind::ID_R);
        let id: Option<Id<'_>> = payloads.get(PayloadKind::ID_R).map_err(said)?;
        let auth: Option<Auth<'_>> = payloads.get(PayloadKind::AUTH).map_err(said)?;
        let (Some(id_body), Some(id), Some(auth)) = (id_body, id, auth) else {
            return Err(match payloads.error() {
                Some(error) => format!("{error:?}"),
                None => "an answer without identity or AUTH".to_owned(),
            });
        };
        let identity = identity_from_wire(&id);
        let expected = settings.gateway_identity();
        if expected.is_some() && identity.as_ref() != expected {
            return Err("the key server is somebody else".to_owned());
        }
        let signed = SignedOctets { message: &self.response, nonce: nonce_i, id: id_body };
        let psk = settings.auth.psk().ok_or("there is no pre-shared key")?;
        let mac = shared_key_mac(self.sa.suite.prf, psk, &self.proof.1, signed);
        if auth.method != AuthMethod::SHARED_KEY || !mac.ct_eq(&auth.data) {
            return Err("the key server did not authenticate".to_owned());
        }
        Ok(())
    }
}
