//! From one protocol to the other: both machines run until the new one is registered and none of its keys wait.

use std::collections::BTreeSet;
use std::time::Duration;

use keyferry_model::id::Protocol;
use keyferry_model::time::Now;
use tokio::sync::oneshot;

use super::{Runner, machine};
use crate::control::Reply;
use crate::member::machine::Machine;
use crate::random::OsRandom;

/// How long a move may take before the member stays where it is.
const MOVE_PATIENCE: Duration = Duration::from_secs(60);

/// Pause between two attempts to fall back to GDOI.
const FALLBACK_PAUSE: Duration = Duration::from_secs(60);

/// A move to the other protocol that is under way.
pub(super) struct Move {
    pub(super) machine: Machine,
    pub(super) reply: oneshot::Sender<Reply>,
    pub(super) until: Duration,
    /// Groups, by their places, that it has registered for.
    pub(super) registered: BTreeSet<usize>,
}

impl Runner {
    /// Goes on by GDOI when no key server serves the member by G-IKEv2, if its configuration says so. Whoever can keep datagrams
    /// away could otherwise choose the protocol. It does not come back by itself.
    pub(super) async fn fall_back(&mut self, now: Now) {
        let wanted = self.parts.config.fallback
            && self.present.protocol() == Protocol::Gikev2
            && self.present.key_servers().all_failed()
            && self.present.status().0 != "registered";
        let resting = self.fell_back.is_some_and(|at| now.mono < at + FALLBACK_PAUSE);
        if !wanted || resting || self.next.is_some() || !self.leaving.is_empty() {
            return;
        }
        tracing::warn!("no key server serves the member by G-IKEv2: it falls back to GDOI");
        self.fell_back = Some(now.mono);
        // Nobody waits for what becomes of it.
        self.begin_move(Protocol::Gdoi, oneshot::channel().0).await;
    }

    pub(super) async fn begin_move(&mut self, to: Protocol, reply: oneshot::Sender<Reply>) {
        let refusal = match (&self.next, self.present.protocol() == to) {
            (Some(next), _) => Some(format!("a move to {} is under way", next.machine.protocol())),
            (None, true) => Some(format!("the member speaks {to} already")),
            (None, false) => None,
        };
        if let Some(why) = refusal {
            drop(reply.send(Reply::Error(why)));
            return;
        }
        tracing::info!(from = %self.present.protocol(), %to, "member moves");
        let now = self.parts.clock.now();
        let mut machine = machine(&self.parts, to, self.present.key_servers().place());
        let outputs = machine.start(now, &mut OsRandom);
        self.next = Some(Move { machine, reply, until: now.mono + MOVE_PATIENCE, registered: BTreeSet::new() });
        self.carry_out(to, outputs).await;
    }

    /// The other protocol's machine takes over if it has registered and none of its keys can be refused any more. The old one
    /// closes its SA and says nothing to the group: a fresh registration replaces it at the key server.
    pub(super) async fn complete_move(&mut self) {
        let joined = &self.parts.joined;
        let is_there = |next: &mut Move| {
            let protocol = next.machine.protocol();
            !next.registered.is_empty() && !joined.iter().any(|joined| joined.awaits(protocol))
        };
        let Some(Move { machine, reply, .. }) = self.next.take_if(is_there) else { return };
        let mut old = std::mem::replace(&mut self.present, machine);
        for joined in &mut self.parts.joined {
            joined.forget(old.protocol()).await;
        }
        self.counters.moves += 1;
        tracing::info!(from = %old.protocol(), to = %self.present.protocol(), "member has moved");
        let outputs = old.disconnect(self.parts.clock.now(), &mut OsRandom);
        self.part(outputs).await;
        drop(reply.send(Reply::of(&self.present.protocol())));
    }

    /// Has the machine on its way in registered for a group? Its keys are that machine's then.
    pub(super) fn has_moved(&self, at: usize) -> bool {
        self.next.as_ref().is_some_and(|next| next.registered.contains(&at))
    }

    pub(super) async fn move_failed(&mut self, why: &str) {
        let Some(mut failed) = self.next.take() else { return };
        let to = failed.machine.protocol();
        for joined in &mut self.parts.joined {
            joined.forget(to).await;
        }
        let why = format!("the move to {to} failed, the member stays with {}: {why}", self.present.protocol());
        tracing::warn!("{why}");
        let outputs = failed.machine.disconnect(self.parts.clock.now(), &mut OsRandom);
        self.part(outputs).await;
        self.last_error = Some(why.clone());
        drop(failed.reply.send(Reply::Error(why)));
    }
}
