//! Responses to IKE_SA_INIT that are followed, and what was asked under the keys they led to.
//!
//! Nothing protects such a response, and its keys come from a part of it only: two that differ elsewhere, say in the key
//! wrap algorithm, have the same SK_ei. So messages belong to keys, not to responses: under one set of keys one request is
//! sealed in an attempt, and what comes after it goes on with the next IV. Only where two of them want different key exchanges
//! in IKE_INTERMEDIATE there are two requests, with IVs far apart.

use std::collections::VecDeque;
use std::time::Duration;

use keyferry_crypto::{Hash, KeGroup, Random, Secret};
use keyferry_model::credentials::OwnCertificate;
use keyferry_model::settings::{MemberSettings, OneSide, Ppk};
use keyferry_model::time::Now;

use crate::ike_sa::auth::{SignedOctets, shared_key_mac};
use crate::ike_sa::certificates::{self, Wanted};
use crate::ike_sa::init::{Nat, header};
use crate::ike_sa::int_auth::{IntAuth, Plain};
use crate::ike_sa::keymat::stir;
use crate::ike_sa::sa::IkeSa;
use crate::ike_sa::signature::{Announced, Padding, Signed, Way};
use crate::ike_sa::window::{Due, Repeating};
use crate::ike_sa::{IkeKeys, Role, Skeyseed};
use crate::keylog::KeyLog;
use crate::policy::identity::identity_from_wire;
use crate::reject::Reject;
use crate::wire::auth::Auth;
use crate::wire::id::Id;
use crate::wire::message::Payloads;
use crate::wire::registry::{AuthMethod, ExchangeType, NotifyType, PayloadKind, flags};
use crate::wire::rules;
use crate::wire::sk::Opened;

/// A request under one set of keys.
pub(super) struct Asked {
    /// Digest of SK_ei.
    pub(super) keys: Vec<u8>,
    /// IKE_INTERMEDIATE, IKE_AUTH or GSA_AUTH.
    pub(super) exchange: ExchangeType,
    pub(super) message_id: u32,
    /// The key exchange in IKE_INTERMEDIATE.
    pub(super) method: Option<KeGroup>,
    /// What is inside of IKE_INTERMEDIATE: kind of the first payload, payloads.
    pub(super) inner: (u8, Vec<u8>),
    /// What IKE_INTERMEDIATE led to: the answer, and the shared secret.
    pub(super) answer: Option<(Opened, Secret)>,
    /// IV of the next message under these keys.
    pub(super) next_iv: u64,
    /// `None` once it was answered, nobody answered, or the answer failed. The keys are not used again.
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
    pub(super) nonce_r: Vec<u8>,
    pub(super) nat: Nat,
    /// The key server takes postquantum preshared keys.
    pub(super) takes_ppk: bool,
    /// Digest of SK_ei.
    pub(super) keys: Vec<u8>,
    /// Additional key exchanges to come.
    pub(super) more: VecDeque<KeGroup>,
    pub(super) int_auth: IntAuth,
    /// Message ID of the request under its keys.
    pub(super) message_id: u32,
    /// What the response says of signatures.
    pub(super) announced: Announced,
    /// The authorities that it asks for certificates of.
    pub(super) wanted: Wanted,
    /// Which request was sent under its keys.
    pub(super) asked: usize,
}

/// What we prove ourselves by.
#[derive(Clone, Copy)]
pub(super) enum Means<'s> {
    Psk(&'s Secret),
    Signature(&'s OwnCertificate, Way),
}

/// Why a response to AUTH is not the key server's.
pub(super) enum Failure {
    /// It refuses, or cannot be read.
    NoAnswer(String),
    /// It does not prove what it should; whoever sent it believes that the IKE SA stands.
    NoProof(String),
}

/// It does not prove what it should.
pub(super) fn unproven(why: &str) -> Failure {
    Failure::NoProof(why.to_owned())
}

/// Names a set of keys.
pub(super) fn name(keys: &IkeKeys) -> Vec<u8> {
    Hash::Sha256.digest(&[keys.initiator.0.expose()])
}

impl Candidate {
    /// Goes on with the keys after an additional key exchange that was answered.
    pub(super) fn advance(
        self,
        nonce_i: &[u8],
        asked: &Asked,
        rng: &mut dyn Random,
        log: Option<&mut (dyn KeyLog + Send)>,
    ) -> Result<Self, Reject> {
        let (opened, shared) = asked.answer.as_ref().ok_or(Reject::Misbehaved("no answer"))?;
        let Self { sa, proof, mut more, int_auth, .. } = self;
        let (suite, spi_i, spi_r, limit) = (sa.suite, sa.spi_i, sa.spi_r, sa.limit());
        let header = header(asked.exchange, spi_i, spi_r, flags::INITIATOR, asked.message_id);
        let request = Plain { header, flags: 0, first: asked.inner.0, inner: &asked.inner.1 };
        let int_auth = int_auth.then(suite.prf, &proof, request, opened.into());
        let keys =
            Skeyseed::rekey(suite.prf, sa.derive(), suite, nonce_i, &self.nonce_r, shared).expand(&spi_i, &spi_r);
        let name = name(&keys);
        let (mut sa, proof) = IkeSa::new(Role::Initiator, suite, spi_i, spi_r, keys, rng, log)
            .map_err(|_| Reject::Misbehaved("keys of an IKE SA"))?;
        sa.set_limit(limit);
        more.pop_front();
        let message_id = asked.message_id + 1;
        Ok(Self { sa, proof, more, int_auth, keys: name, message_id, ..self })
    }

    /// How we prove ourselves: by certificate with one whose signatures it can check, if possible one that it asks for.
    pub(super) fn means<'s>(&self, settings: &'s MemberSettings) -> Result<Means<'s>, Reject> {
        if let OneSide::Psk(psk) = settings.auth.ours() {
            return Ok(Means::Psk(psk));
        }
        let danger = settings.ike2.danger_sha1_signatures;
        let way = |own: &OwnCertificate| Way::of(own.key.kind(), &self.announced, Padding::default(), danger);
        let trust = match settings.auth.gateway() {
            OneSide::Psk(_) => None,
            OneSide::Certificate(expected) => Some(expected.trust),
        };
        let own = self.wanted.choose(settings.auth.all_own().filter(|own| way(own).is_some()), trust);
        own.and_then(|own| Some(Means::Signature(own, way(own)?)))
            .ok_or(Reject::Misbehaved("the key server cannot check signatures of our key"))
    }

    /// Our postquantum preshared key, if it is used (RFC 8784 section 3).
    pub(super) fn ppk<'s>(&self, settings: &'s MemberSettings) -> Option<&'s Ppk> {
        settings.ike2.ppks.first().filter(|_| self.takes_ppk)
    }

    /// Is the key server who it should be? An answer without IDr and AUTH fails the whole (reading 21). With the PPK that it
    /// took, if any.
    pub(super) fn verify<'s>(
        &self,
        settings: &'s MemberSettings,
        nonce_i: &[u8],
        opened: &Opened,
        now: Now,
    ) -> Result<Option<&'s Ppk>, Failure> {
        let unread = |e: Reject| Failure::NoAnswer(e.to_string());
        let said = |e: Reject| Failure::NoProof(e.to_string());
        let payloads = Payloads::parse(opened.first, opened.inner.expose(), rules::AUTH_RESPONSE).map_err(unread)?;
        let id_body = payloads.body(PayloadKind::ID_R);
        let id: Option<Id<'_>> = payloads.get(PayloadKind::ID_R).map_err(unread)?;
        let auth: Option<Auth<'_>> = payloads.get(PayloadKind::AUTH).map_err(unread)?;
        let (Some(id_body), Some(id), Some(auth)) = (id_body, id, auth) else {
            return Err(match payloads.error() {
                Some(error) => Failure::NoAnswer(format!("{error:?}")),
                None => unproven("an answer without identity or AUTH"),
            });
        };
        let identity = identity_from_wire(&id);
        let expected = settings.gateway_identity();
        if expected.is_some() && identity.as_ref() != expected {
            return Err(unproven("the key server is somebody else"));
        }
        // What the notify holds means nothing (RFC 8784 section 3).
        let ppk = self.ppk(settings).filter(|_| payloads.notify(NotifyType::PPK_IDENTITY).is_some());
        if ppk.is_none() && settings.ike2.ppks.first().is_some_and(|ppk| ppk.required) {
            return Err(unproven("the key server does not use the postquantum preshared key"));
        }
        let stirred = ppk.map(|ppk| stir(self.sa.suite.prf, &ppk.key, &self.proof.1));
        let proof = stirred.as_ref().unwrap_or(&self.proof.1);
        let int_auth = &self.int_auth.octets(self.message_id);
        let signed = SignedOctets { message: &self.response, nonce: nonce_i, id: id_body, int_auth };
        let prf = self.sa.suite.prf;
        match settings.auth.gateway() {
            OneSide::Psk(psk) => {
                let mac = shared_key_mac(prf, psk, proof, signed);
                if auth.method != AuthMethod::SHARED_KEY || !mac.ct_eq(&auth.data) {
                    return Err(unproven("the key server did not authenticate"));
                }
            }
            OneSide::Certificate(expected) => {
                let signature =
                    Signed::read(&auth, &self.announced, settings.ike2.danger_sha1_signatures).map_err(said)?;
                let shown = certificates::shown(&payloads).map_err(said)?;
                let octets = signed.octets(prf, proof);
                let check = certificates::check(expected.trust, now.wall, &shown, &signature, &octets);
                let peer = check.run();
                let peer =
                    peer.map_err(|error| Failure::NoProof(format!("the key server did not authenticate: {error}")))?;
                if !identity.is_some_and(|identity| expected.allows(&identity, &peer.certificate)) {
                    return Err(unproven("the key server's certificate does not name it"));
                }
            }
        }
        Ok(ppk)
    }
}
