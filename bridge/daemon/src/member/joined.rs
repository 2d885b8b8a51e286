//! A group that a member has joined, and what its keys are for: traffic with an engine of the data plane behind it, a file
//! for IEC 61850 streams, or both. Each group has its own, for no group may touch the SAs or sender IDs of another.

use std::net::SocketAddr;
use std::sync::Arc;

use dataplane::engine::{Engine, EngineStatus};
use keyferry_model::flows::Flows;
use keyferry_model::id::GroupId;
use keyferry_model::time::{Deadline, Now};
use keyferry_model::update::{GroupUpdate, StreamUpdate};

use super::plane::{Plane, Surroundings};
use super::stream_keys::StreamKeys;
use crate::config::MemberGroup;
use crate::control::JoinedStatus;

/// One of a member's groups.
pub(super) struct Joined {
    id: GroupId,
    plane: Option<Plane>,
    streams: StreamKeys,
    accept: Flows,
    /// Packets of a replay window.
    replay_window: u32,
    /// What is wrong with its keys.
    problem: Option<String>,
    pub(super) registered: bool,
}

impl Joined {
    /// Starts the engine, unless the group brings streams alone.
    pub(super) async fn open(group: &MemberGroup, around: &Surroundings<'_>) -> anyhow::Result<Self> {
        let plane = match &group.tun {
            Some(tun) => Some(Plane::open(tun, group, around).await?),
            None => None,
        };
        let streams =
            StreamKeys::new(group.stream_keys.clone(), group.id.to_string(), group.danger_unprotected_streams);
        let (accept, replay_window) = (around.config.traffic.accept.clone(), around.config.replay_window);
        Ok(Self { id: group.id.clone(), plane, streams, accept, replay_window, problem: None, registered: false })
    }

    /// New keys. Policies about traffic that is none of the key server's business are left out (RFC 5374 section 4.1.3.5). A
    /// problem that keeps nobody from the other keys is told.
    ///
    /// # Errors
    /// The data plane refuses the keys; nothing of them is used.
    pub(super) async fn update(&mut self, mut update: GroupUpdate, now: Now) -> Result<Option<String>, String> {
        let declined = self.accept.confine(&mut update);
        let problem = declined.first().map(|policy| {
            let (from, to) = (policy.source, policy.destination);
            format!(
                "group {}: its key server decides about {} kinds of traffic that accept_traffic does not name, the first from \
                 {}/{} to {}/{}: they are left out",
                self.id, declined.len(), from.address, from.prefix, to.address, to.prefix
            )
        });
        let Some(plane) = &mut self.plane else {
            let protected = update.install.len();
            return if protected == 0 {
                Ok(problem)
            } else {
                Err(format!("group {} protects traffic, {protected} SAs, and streams_only takes none", self.id))
            };
        };
        size_windows(&mut update, self.replay_window);
        match plane.update(update, now).await {
            Ok(unrouted) => Ok(unrouted.or(problem)),
            Err(why) => Err(format!("the data plane refuses the keys of group {}: {why}", self.id)),
        }
    }

    /// Rekeys come to this address, in clear.
    pub(super) fn leave_clear(&mut self, address: SocketAddr) {
        if let Some(plane) = &mut self.plane {
            plane.leave_clear(address);
        }
    }

    pub(super) fn apply_streams(&mut self, update: StreamUpdate, now: Now) {
        self.streams.apply(update, now);
    }

    /// Everything is gone at once.
    pub(super) fn flush(&mut self, now: Now) {
        if let Some(plane) = &self.plane {
            plane.engine.flush();
        }
        self.streams.flush(now);
        self.problem = None;
    }

    pub(super) async fn expire(&mut self, now: Now) {
        if let Some(plane) = &mut self.plane {
            plane.expire(now).await;
        }
        self.streams.expire(now);
    }

    pub(super) fn deadline(&self, now: Now) -> Option<Deadline> {
        let plane = self.plane.as_ref().and_then(|plane| plane.engine.deadline());
        Deadline::earlier(plane, self.streams.deadline(now))
    }

    /// Do sequence numbers or IVs run out?
    pub(super) fn needs_rekey(&self) -> bool {
        self.plane.as_ref().is_some_and(|plane| plane.engine.needs_rekey())
    }

    /// Why something of it is of no use, if so.
    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref().or_else(|| self.streams.problem())
    }

    /// Says what is wrong with its present keys, if anything is.
    pub(super) fn complain(&mut self, problem: Option<String>) {
        self.problem = problem;
    }

    pub(super) fn id(&self) -> &GroupId {
        &self.id
    }

    pub(super) fn engine(&self) -> Option<&dyn Engine> {
        self.plane.as_ref().map(|plane| &*plane.engine)
    }

    /// What its data plane does and has done, if it has one.
    pub(super) fn dataplane(&self) -> Option<EngineStatus> {
        self.plane.as_ref().map(|plane| plane.engine.status())
    }

    pub(super) fn status(&self, now: Now) -> JoinedStatus {
        let status = self.dataplane();
        JoinedStatus {
            group: self.id.clone(),
            registered: self.registered,
            engine: status.as_ref().map(|status| status.engine.to_owned()),
            declined: self.plane.as_ref().and_then(|plane| plane.declined.clone()),
            unguarded: self.plane.as_ref().and_then(|plane| plane.unguarded().map(str::to_owned)),
            tun: status.as_ref().and_then(|status| status.tun.clone()),
            streams: self.streams.status(now),
            dataplane: status.map(|status| serde_json::to_value(status).unwrap_or_default()).unwrap_or_default(),
        }
    }

    /// The member ends: nothing is left behind.
    pub(super) fn end(mut self) {
        self.streams.end();
        if let Some(plane) = self.plane {
            plane.engine.stop();
        }
    }
}

/// No protocol tells how wide replay windows are, for that is a receiver's own matter (RFC 4303 section 3.4.3); where there are any is
/// the key server's.
fn size_windows(update: &mut GroupUpdate, packets: u32) {
    for new in update.install.iter_mut().filter(|new| new.policy.replay_window > 0) {
        Arc::make_mut(&mut new.policy).replay_window = packets;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
