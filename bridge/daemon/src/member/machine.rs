//! A member's protocol machine, whichever protocol it speaks.

use std::net::SocketAddr;

use keyferry_crypto::Random;
use keyferry_model::credentials::Trust;
use keyferry_model::drive::{ConnectionId, Datagram};
use keyferry_model::id::{GroupId, Protocol};
use keyferry_model::key_server::KeyServers;
use keyferry_model::settings::MemberSettings;
use keyferry_model::time::{Deadline, Now};
use keyferry_model::update::{MemberCtx, MemberOutput};

use crate::keylog::FileKeyLog;

/// One of the two machines, with the outputs it has made.
pub(super) enum Machine {
    Gdoi(Box<gdoi::Member>),
    Gikev2(Box<gikev2::Member>),
}

/// Calls a method of whichever machine it is.
macro_rules! either {
    ($self:expr, $member:ident => $call:expr) => {
        match $self {
            Machine::Gdoi($member) => $call,
            Machine::Gikev2($member) => $call,
        }
    };
}

impl Machine {
    /// A machine that has not started.
    pub(super) fn new(
        protocol: Protocol,
        settings: MemberSettings,
        further: &[GroupId],
        (phase1, ike): (gdoi::Phase1Options, gikev2::IkeOptions),
        key_log: Option<&FileKeyLog>,
    ) -> Self {
        let mut machine = match protocol {
            Protocol::Gdoi => {
                let mut member = gdoi::Member::new(settings);
                member.set_phase1(phase1);
                further.iter().for_each(|group| member.add_group(group.clone()));
                Machine::Gdoi(Box::new(member))
            }
            Protocol::Gikev2 => {
                let mut member = gikev2::Member::new(settings);
                member.set_ike_options(ike);
                further.iter().for_each(|group| member.add_group(group.clone()));
                Machine::Gikev2(Box::new(member))
            }
        };
        if let Some(log) = key_log {
            either!(&mut machine, m => m.set_key_log(Box::new(log.clone())));
        }
        machine
    }

    /// Holds the key server's certificate against another trust store from the next time on.
    pub(super) fn set_trust(&mut self, trust: &Trust) {
        either!(self, m => m.set_trust(trust.clone()));
    }

    pub(super) fn protocol(&self) -> Protocol {
        match self {
            Machine::Gdoi(_) => Protocol::Gdoi,
            Machine::Gikev2(_) => Protocol::Gikev2,
        }
    }

    pub(super) fn start(&mut self, now: Now, rng: &mut dyn Random) -> Vec<MemberOutput> {
        step(now, rng, |ctx| either!(self, m => m.start(ctx)))
    }

    pub(super) fn receive(&mut self, now: Now, rng: &mut dyn Random, datagram: Datagram<'_>) -> Vec<MemberOutput> {
        step(now, rng, |ctx| either!(self, m => m.receive(ctx, datagram)))
    }

    /// A TCP connection stands, between these addresses. GDOI opens none.
    pub(super) fn connected(
        &mut self,
        now: Now,
        rng: &mut dyn Random,
        id: ConnectionId,
        (local, peer): (SocketAddr, SocketAddr),
    ) -> Vec<MemberOutput> {
        match self {
            Machine::Gdoi(_) => Vec::new(),
            Machine::Gikev2(m) => step(now, rng, |ctx| m.connected(ctx, id, local, peer)),
        }
    }

    /// A TCP connection is there no more.
    pub(super) fn disconnected(&mut self, now: Now, rng: &mut dyn Random, id: ConnectionId) -> Vec<MemberOutput> {
        match self {
            Machine::Gdoi(_) => Vec::new(),
            Machine::Gikev2(m) => step(now, rng, |ctx| m.disconnected(ctx, id)),
        }
    }

    pub(super) fn expire(&mut self, now: Now, rng: &mut dyn Random) -> Vec<MemberOutput> {
        step(now, rng, |ctx| either!(self, m => m.expire(ctx)))
    }

    pub(super) fn leave(&mut self, now: Now, rng: &mut dyn Random) -> Vec<MemberOutput> {
        step(now, rng, |ctx| either!(self, m => m.leave(ctx)))
    }

    /// Closes the phase 1 or IKE SA and stays a member of the group.
    pub(super) fn disconnect(&mut self, now: Now, rng: &mut dyn Random) -> Vec<MemberOutput> {
        step(now, rng, |ctx| either!(self, m => m.disconnect(ctx)))
    }

    /// Registers anew soon, because sequence numbers or IVs run out.
    pub(super) fn reregister(&mut self, now: Now, rng: &mut dyn Random) -> Vec<MemberOutput> {
        step(now, rng, |ctx| either!(self, m => m.reregister(ctx)))
    }

    /// The key servers, and which of them is in use.
    pub(super) fn key_servers(&self) -> &KeyServers {
        either!(self, m => m.key_servers())
    }

    pub(super) fn deadline(&self) -> Option<Deadline> {
        either!(self, m => m.deadline())
    }

    /// The machine's state in a word or two, and all it says of itself.
    pub(super) fn status(&self) -> (String, serde_json::Value) {
        either!(self, m => {
            let status = m.status();
            (status.state.to_owned(), serde_json::to_value(&status).unwrap_or_default())
        })
    }
}

fn step(now: Now, rng: &mut dyn Random, work: impl FnOnce(&mut MemberCtx<'_>)) -> Vec<MemberOutput> {
    let mut out = Vec::new();
    work(&mut MemberCtx { now, rng, out: &mut out });
    out
}
