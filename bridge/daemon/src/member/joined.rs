//! A group that a member has joined, and what its keys are for: traffic with an engine of the data plane behind it, a file
//! for IEC 61850 streams, or both. Each group has its own, for no group may touch the SAs or sender IDs of another.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use dataplane::engine::{Engine, EngineStatus};
use keyferry_model::flows::Flows;
use keyferry_model::id::{GroupId, Protocol};
use keyferry_model::time::{Deadline, Now};
use keyferry_model::update::{GroupUpdate, MemberOutput, StreamUpdate};

use super::guard::News;
use super::plane::{Outcome, Plane, Surroundings, lines};
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
    /// An update that waits for the guard.
    waits: Option<Waits>,
    /// What came behind it, and by which protocol: it comes when the update is finished.
    behind: VecDeque<(Protocol, MemberOutput)>,
    pub(super) registered: bool,
}

/// What is known of an update before it is finished.
struct Waits {
    protocol: Protocol,
    brings_keys: bool,
    /// What is the matter with it.
    problem: Option<String>,
    /// It is not wanted any more.
    void: bool,
}

/// What has become of an update.
pub(super) struct Updated {
    /// By which protocol it came.
    pub(super) protocol: Protocol,
    pub(super) brings_keys: bool,
    pub(super) outcome: Outcome,
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
        Ok(Self {
            id: group.id.clone(),
            plane,
            streams,
            accept,
            replay_window,
            problem: None,
            waits: None,
            behind: VecDeque::new(),
            registered: false,
        })
    }

    /// New keys. Policies about traffic that is none of the key server's business are left out (RFC 5374 section 4.1.3.5). A
    /// problem that keeps nobody from the other keys is told. `None` is told later, by [`Self::take`].
    pub(super) async fn update(&mut self, protocol: Protocol, mut update: GroupUpdate, now: Now) -> Option<Updated> {
        let brings_keys = !update.install.is_empty();
        let declined = self.accept.confine(&mut update);
        let problem = declined.first().map(|policy| {
            let (from, to) = (policy.source, policy.destination);
            format!(
                "group {}: its key server decides about {} kinds of traffic that accept_traffic does not name, the first from \
                 {}/{} to {}/{}: they are left out",
                self.id, declined.len(), from.address, from.prefix, to.address, to.prefix
            )
        });
        let waits = Waits { protocol, brings_keys, problem, void: false };
        let Some(plane) = &mut self.plane else {
            let protected = update.install.len();
            let outcome = match protected {
                0 => Ok(waits.problem),
                _ => Err(format!("group {} protects traffic, {protected} SAs, and streams_only takes none", self.id)),
            };
            return Some(Updated { protocol, brings_keys, outcome });
        };
        size_windows(&mut update, self.replay_window);
        match plane.update(update, now).await {
            Some(outcome) => Some(self.updated(waits, outcome)),
            None => {
                self.waits = Some(waits);
                None
            }
        }
    }

    /// Something of the guard has ended, and perhaps an update with it.
    pub(super) async fn take(&mut self, news: News, now: Now) -> Option<Updated> {
        let outcome = self.plane.as_mut()?.take(news, now).await?;
        let waits = self.waits.take().filter(|waits| !waits.void)?;
        Some(self.updated(waits, outcome))
    }

    fn updated(&self, waits: Waits, outcome: Outcome) -> Updated {
        let Waits { protocol, brings_keys, problem, .. } = waits;
        let outcome = match outcome {
            Ok(unrouted) => Ok(unrouted.or(problem)),
            Err(why) => Err(format!("the data plane refuses the keys of group {}: {why}", self.id)),
        };
        Updated { protocol, brings_keys, outcome }
    }

    /// Has what comes now to come behind an update?
    pub(super) fn is_waiting(&self) -> bool {
        self.waits.is_some() || !self.behind.is_empty()
    }

    /// Does anything wait that came by this protocol?
    pub(super) fn awaits(&self, protocol: Protocol) -> bool {
        let update = self.waits.iter().map(|waits| waits.protocol);
        update.chain(self.behind.iter().map(|(by, _)| *by)).any(|by| by == protocol)
    }

    /// Comes behind an update; keys that go with nothing in their place do not wait for that.
    pub(super) fn queue(&mut self, protocol: Protocol, output: MemberOutput, now: Now) {
        if let (MemberOutput::Update(update), Some(plane)) = (&output, &self.plane)
            && update.install.is_empty()
        {
            plane.remove_early(update, now);
        }
        self.behind.push_back((protocol, output));
    }

    /// What came behind an update that is finished.
    pub(super) fn next_behind(&mut self) -> Option<(Protocol, MemberOutput)> {
        if self.waits.is_some() { None } else { self.behind.pop_front() }
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

    /// Everything is gone at once; so are the keys that wait, if they came by this protocol or any.
    pub(super) async fn flush(&mut self, protocol: Option<Protocol>, now: Now) {
        let goes = |by: Protocol| protocol.is_none_or(|protocol| protocol == by);
        self.plane.iter_mut().for_each(Plane::flush);
        self.streams.flush(now);
        self.problem = None;
        self.void(|by, output| goes(by) && output.is_none_or(|output| matches!(output, MemberOutput::Update(_)))).await;
    }

    /// Nothing is waited for that the machine of this protocol wanted: it has gone, or has lost the group.
    pub(super) async fn forget(&mut self, protocol: Protocol) {
        self.void(|by, _| by == protocol).await;
    }

    /// Whether an update that waits for the guard `goes`, and each thing that comes behind it, which is given then. What their
    /// keys were for is protected on.
    async fn void(&mut self, goes: impl Fn(Protocol, Option<&MemberOutput>) -> bool) {
        let behind = std::mem::take(&mut self.behind).into_iter();
        let (gone, stays) = behind.partition::<VecDeque<_>, _>(|(by, output)| goes(*by, Some(output)));
        self.behind = stays;
        if let Some(waits) = self.waits.as_mut().filter(|waits| goes(waits.protocol, None)) {
            waits.void = true;
            self.plane.iter_mut().for_each(Plane::void);
        }
        let Some(plane) = &mut self.plane else { return };
        let mut named = Vec::new();
        for (_, output) in gone {
            if let MemberOutput::Update(mut update) = output {
                self.accept.confine(&mut update);
                named.extend(lines(&update));
            }
        }
        plane.hold(&named).await;
    }

    pub(super) async fn expire(&mut self, now: Now) {
        if let Some(plane) = &mut self.plane {
            plane.expire(now).await;
        }
        self.streams.expire(now);
    }

    pub(super) fn deadline(&self, now: Now) -> Option<Deadline> {
        let plane = self.plane.as_ref().and_then(Plane::deadline);
        Deadline::earlier(plane, self.streams.deadline(now))
    }

    /// Are new keys needed?
    pub(super) fn needs_keys(&self) -> bool {
        self.plane.as_ref().is_some_and(Plane::needs_keys)
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
            guard: self.plane.as_ref().and_then(Plane::guard),
            tun: status.as_ref().and_then(|status| status.tun.clone()),
            streams: self.streams.status(now),
            dataplane: status.map(|status| serde_json::to_value(status).unwrap_or_default()).unwrap_or_default(),
        }
    }

    /// The member ends: nothing is left behind.
    pub(super) async fn end(mut self) {
        self.streams.end();
        if let Some(plane) = self.plane {
            plane.end().await;
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
pub(super) mod tests;
