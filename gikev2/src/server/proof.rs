//! Authentication by certificate, responder's side: the peer's signature is checked and ours made by jobs, and the request
//! waits for their results.

use std::sync::Arc;

use keyferry_crypto::{CryptoError, Job, JobDone, PeerCheck, PeerError};
use keyferry_model::credentials::{Credentials, Ours, OwnCertificate};
use keyferry_model::drive::Ctx;
use keyferry_model::holder::Holder;
use keyferry_model::id::Identity;

use super::auth::{Claim, Evidence, ExpectAuth, FAILED, Peer, own_id};
use super::established::{By, Who};
use super::{Server, Spi, State};
use crate::ike_sa::certificates::Wanted;
use crate::ike_sa::signature::{Padding, Way};
use crate::wire::sk::first_datagram;

/// A request for authentication waits for a job. Nothing is answered until it is done; repeats and whatever else comes are
/// passed over.
pub(super) struct AwaitProof {
    pub(super) expect: Box<ExpectAuth>,
    claim: Claim,
    /// What the job began with. A result under others proves nothing any more.
    credentials: Arc<Credentials>,
    stage: Stage,
}

enum Stage {
    /// The peer's signature and certificate are being checked.
    Check(Identity, Padding),
    /// The peer is who it says it is; our signature is being made.
    Sign(Box<Peer>, Arc<OwnCertificate>, Way),
}

impl AwaitProof {
    /// Octets of requests that it keeps.
    pub(super) fn early_octets(&self) -> usize {
        self.expect.early_octets() + self.claim.octets()
    }

    /// Is this the request that waits?
    pub(super) fn is_of(&self, datagram: &[u8]) -> bool {
        first_datagram(&self.claim.request) == first_datagram(datagram)
    }
}

impl Server {
    /// Has a peer's signature and certificate checked.
    pub(super) fn begin_check(
        &mut self,
        ctx: &mut Ctx<'_>,
        spi: Spi,
        claim: Claim,
        (identity, padding): (Identity, Padding),
        check: Box<PeerCheck>,
    ) {
        self.wait(ctx, spi, claim, Stage::Check(identity, padding), Job::CheckPeer(check));
    }

    /// The peer is who it says it is: proves the same of us, if need be by a signature that is yet to be made.
    pub(super) fn prove(&mut self, ctx: &mut Ctx<'_>, spi: Spi, claim: Claim, peer: Peer) {
        if let Ours::Psk(psk) = &peer.ours {
            let evidence = Evidence::Psk(Arc::clone(psk));
            return self.establish(ctx, spi, claim, peer, &evidence);
        }
        let Some(State::ExpectAuth(expect)) = self.sas.get(&spi).map(|e| &e.state) else { return };
        let Some((own, way)) = self.own_for(&peer, expect, &claim) else {
            tracing::debug!(peer = %claim.path.peer, "no certificate of ours that the peer could check");
            return self.refuse_auth(ctx, spi, claim, &FAILED);
        };
        let evidence = Evidence::Signature { own: Arc::clone(&own), way, value: Vec::new() };
        let octets = expect.own_octets(&own_id(&self.config, &claim, &evidence));
        let job = Job::Sign { key: Arc::clone(&own.key), how: way.form, octets };
        self.wait(ctx, spi, claim, Stage::Sign(Box::new(peer), own, way), job);
    }

    /// Our certificate for a peer: one that it can check, if possible one that it asks for or with a key like its own, which
    /// is the best sign of what it can check (RFC 7427 section 5).
    fn own_for(&self, peer: &Peer, expect: &ExpectAuth, claim: &Claim) -> Option<(Arc<OwnCertificate>, Way)> {
        let credentials = &self.config.credentials;
        let danger = credentials.takes_sha1_signatures();
        let way = |own: &OwnCertificate| Way::of(own.key.kind(), &expect.announced, peer.padding, danger);
        let mut usable: Vec<&Arc<OwnCertificate>> = credentials.all_own().filter(|own| way(own).is_some()).collect();
        usable.sort_by_key(|own| Some(own.key.kind()) != peer.kind);
        let wanted = claim.read().and_then(|request| Wanted::read(&request.payloads)).unwrap_or_default();
        let own = wanted.choose(usable.into_iter(), credentials.trust())?;
        Some((Arc::clone(own), way(own)?))
    }

    fn wait(&mut self, ctx: &mut Ctx<'_>, spi: Spi, claim: Claim, stage: Stage, job: Job) {
        let Some(mut entry) = self.sas.remove(&spi) else { return };
        if let State::ExpectAuth(expect) = entry.state {
            let credentials = Arc::clone(&self.config.credentials);
            entry.state = State::AwaitProof(Box::new(AwaitProof { expect, claim, credentials, stage }));
            self.jobs.insert(ctx.out.job(job), spi);
        }
        self.sas.insert(spi, entry);
        self.note_early(spi);
    }

    /// A job of an authentication is done.
    pub(super) fn proof_done(&mut self, ctx: &mut Ctx<'_>, spi: Spi, done: JobDone) {
        let Some(mut entry) = self.sas.remove(&spi) else { return };
        let State::AwaitProof(waiting) = entry.state else {
            self.sas.insert(spi, entry);
            return;
        };
        let AwaitProof { expect, claim, credentials, stage } = *waiting;
        entry.state = State::ExpectAuth(expect);
        self.sas.insert(spi, entry);
        self.note_early(spi);
        if !Arc::ptr_eq(&credentials, &self.config.credentials) {
            tracing::debug!(peer = %claim.path.peer, "checked against credentials that hold no more");
            return;
        }
        match (stage, done) {
            // The peer repeats its request, and then there may be time for it.
            (_, JobDone::CheckPeer(Err(PeerError::NotDone)) | JobDone::Sign(Err(CryptoError::NotDone))) => {
                tracing::debug!(peer = %claim.path.peer, "no time for the signatures of an authentication");
            }
            (Stage::Check(identity, padding), JobDone::CheckPeer(Ok(checked))) => {
                let from = claim.path.peer.ip();
                match credentials.ikev2_certificate(from, &identity, &checked.certificate) {
                    Some(ours) => {
                        let certificate = &checked.certificate;
                        let by = By::Certificate(certificate.clone(), Arc::new(Holder::of(certificate)));
                        let left = certificate.not_after().saturating_sub(ctx.now.wall);
                        let who = Who { identity, by, ends: Some(ctx.now.mono + left) };
                        let kind = Some(certificate.public_key().kind());
                        self.prove(ctx, spi, claim, Peer { who, ours, padding, kind });
                    }
                    None => {
                        tracing::debug!(peer = %from, %identity, "identity is none of this certificate's");
                        self.refuse_auth(ctx, spi, claim, &FAILED);
                    }
                }
            }
            (Stage::Check(..), JobDone::CheckPeer(Err(error))) => {
                tracing::debug!(peer = %claim.path.peer, %error, "signature or certificate");
                self.refuse_auth(ctx, spi, claim, &FAILED);
            }
            (Stage::Sign(peer, own, way), JobDone::Sign(Ok(value))) => {
                self.establish(ctx, spi, claim, *peer, &Evidence::Signature { own, way, value });
            }
            (Stage::Sign(..), JobDone::Sign(Err(error))) => {
                tracing::error!(%error, "signature could not be made");
                self.refuse_auth(ctx, spi, claim, &FAILED);
            }
            // The result of another job than was given out.
            (Stage::Check(..) | Stage::Sign(..), _) => {}
        }
    }
}
