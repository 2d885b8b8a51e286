//! Endpoints of either protocol, both roles.

use std::sync::Arc;

use keyferry_crypto::{JobDone, KeGroup};
use keyferry_model::credentials::Credentials;
use keyferry_model::drive::{Ctx, Datagram, JobId};
use keyferry_model::id::Protocol;
use keyferry_model::settings::{AdditionalKe, MemberSettings};
use keyferry_model::update::MemberCtx;

/// The key server's, which does ML-KEM-768 after the first key exchange for those that want it.
pub(crate) enum Responder {
    Gdoi(Box<gdoi::Server>),
    Gikev2(Box<gikev2::Server>),
}

impl Responder {
    pub(crate) fn new(protocol: Protocol, credentials: Arc<Credentials>) -> Self {
        match protocol {
            Protocol::Gdoi => Self::Gdoi(Box::new(gdoi::Server::new(gdoi::ServerConfig::new(credentials)))),
            Protocol::Gikev2 => {
                let mut config = gikev2::ServerConfig::new(credentials);
                let kem = AdditionalKe { methods: vec![KeGroup::MlKem768], required: false };
                config.preferences.additional = vec![kem];
                Self::Gikev2(Box::new(gikev2::Server::new(config)))
            }
        }
    }

    pub(crate) fn receive(&mut self, ctx: &mut Ctx<'_>, datagram: Datagram<'_>) {
        match self {
            Self::Gdoi(s) => s.receive(ctx, datagram),
            Self::Gikev2(s) => s.receive(ctx, datagram),
        }
    }

    pub(crate) fn complete(&mut self, ctx: &mut Ctx<'_>, job: JobId, done: JobDone) {
        match self {
            Self::Gdoi(s) => s.complete(ctx, job, done),
            Self::Gikev2(s) => s.complete(ctx, job, done),
        }
    }

    pub(crate) fn expire(&mut self, ctx: &mut Ctx<'_>) {
        match self {
            Self::Gdoi(s) => s.expire(ctx),
            Self::Gikev2(s) => s.expire(ctx),
        }
    }

    /// Acknowledgements of pushes that were taken.
    pub(crate) fn acknowledged(&self) -> u64 {
        match self {
            Self::Gdoi(s) => s.counters().acknowledged,
            Self::Gikev2(_) => 0,
        }
    }
}

/// A member's.
pub(crate) enum Initiator {
    Gdoi(Box<gdoi::Member>),
    Gikev2(Box<gikev2::Member>),
}

impl Initiator {
    pub(crate) fn new(protocol: Protocol, settings: MemberSettings) -> Self {
        match protocol {
            Protocol::Gdoi => Self::Gdoi(Box::new(gdoi::Member::new(settings))),
            Protocol::Gikev2 => Self::Gikev2(Box::new(gikev2::Member::new(settings))),
        }
    }

    pub(crate) fn start(&mut self, ctx: &mut MemberCtx<'_>) {
        match self {
            Self::Gdoi(m) => m.start(ctx),
            Self::Gikev2(m) => m.start(ctx),
        }
    }

    pub(crate) fn receive(&mut self, ctx: &mut MemberCtx<'_>, datagram: Datagram<'_>) {
        match self {
            Self::Gdoi(m) => m.receive(ctx, datagram),
            Self::Gikev2(m) => m.receive(ctx, datagram),
        }
    }

    pub(crate) fn expire(&mut self, ctx: &mut MemberCtx<'_>) {
        match self {
            Self::Gdoi(m) => m.expire(ctx),
            Self::Gikev2(m) => m.expire(ctx),
        }
    }
}
