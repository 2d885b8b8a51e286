//! A group that a member has joined, and what its keys are for: a TUN device with the data plane behind it, a file for
//! IEC 61850 streams, or both. Each group has its own, for no group may touch the SAs or sender IDs of another.

use anyhow::{Context, bail};
use dataplane::engine::userspace::MAX_OVERHEAD;
use dataplane::engine::{EngineConfig, Userspace};
use keyferry_model::flows::Flows;
use keyferry_model::id::GroupId;
use keyferry_model::time::{Deadline, Now};
use keyferry_model::tunnel::Tunnel;
use keyferry_model::update::{GroupUpdate, StreamUpdate};
use rtnetlink::Handle;

use super::network::{self, Place, Routes};
use super::stream_keys::StreamKeys;
use crate::config::{MemberConfig, MemberGroup};
use crate::control::JoinedStatus;
use crate::keylog::FileKeyLog;

/// One of a member's groups.
pub(super) struct Joined {
    id: GroupId,
    plane: Option<Plane>,
    streams: StreamKeys,
    accept: Flows,
    pub(super) registered: bool,
}

/// The way of its traffic.
struct Plane {
    tun: String,
    engine: Userspace,
    routes: Routes,
    /// Are new policies routed into the device?
    follows: bool,
}

impl Joined {
    /// Makes the TUN device, unless the group brings streams alone.
    pub(super) async fn open(
        group: &MemberGroup,
        config: &MemberConfig,
        place: &Place,
        handle: &Handle,
        key_log: Option<&FileKeyLog>,
    ) -> anyhow::Result<Self> {
        let plane = match &group.tun {
            Some(tun) => Some(Plane::open(tun, group, config, place, handle, key_log).await?),
            None => None,
        };
        let streams =
            StreamKeys::new(group.stream_keys.clone(), group.id.to_string(), group.danger_unprotected_streams);
        let accept = config.traffic.accept.clone();
        Ok(Self { id: group.id.clone(), plane, streams, accept, registered: false })
    }

    /// New keys: what they protect is routed into the TUN device first, so that nothing of it leaves in clear. Policies about
    /// traffic that is none of the key server's business are left out (RFC 5374 section 4.1.3.5). A problem that keeps
    /// nobody from the other keys is told.
    ///
    /// # Errors
    /// The data plane refuses the keys; nothing of them is used.
    pub(super) async fn update(&mut self, mut update: GroupUpdate, now: Now) -> Result<Option<String>, String> {
        let declined = self.accept.confine(&mut update);
        let mut problem = declined.first().map(|policy| {
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
        if plane.follows {
            for sa in &update.install {
                let destination = sa.policy.destination;
                if let Err(error) = plane.routes.add(destination.address, destination.prefix).await {
                    problem = Some(format!("{error:#}"));
                }
            }
        }
        match plane.engine.apply(update, now) {
            Ok(()) => Ok(problem),
            Err(error) => Err(format!("the data plane refuses the keys of group {}: {error}", self.id)),
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
    }

    pub(super) fn expire(&mut self, now: Now) {
        if let Some(plane) = &self.plane {
            plane.engine.expire(now);
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
        self.streams.problem()
    }

    pub(super) fn status(&self, now: Now) -> JoinedStatus {
        let plane = self.plane.as_ref();
        JoinedStatus {
            group: self.id.clone(),
            registered: self.registered,
            tun: plane.map(|plane| plane.tun.clone()),
            streams: self.streams.status(now),
            dataplane: plane.map(|p| serde_json::to_value(p.engine.status()).unwrap_or_default()).unwrap_or_default(),
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

impl Plane {
    async fn open(
        tun: &str,
        group: &MemberGroup,
        config: &MemberConfig,
        place: &Place,
        handle: &Handle,
        key_log: Option<&FileKeyLog>,
    ) -> anyhow::Result<Self> {
        let mtu = match config.mtu {
            Some(mtu) => mtu,
            None => {
                let room = u32::try_from(MAX_OVERHEAD).unwrap_or(u32::MAX);
                let mtu = network::mtu(handle, &place.interface).await?.saturating_sub(room);
                u16::try_from(mtu.min(9000)).unwrap_or(1400)
            }
        };
        if mtu < 576 {
            bail!("the MTU of {} leaves no room for ESP: set mtu in [member]", place.interface);
        }
        let mut engine = EngineConfig::new(tun, &place.interface, mtu);
        engine.queues = config.queues;
        engine.groups = group.join.clone();
        engine.receive_only = config.sender_ids == 0;
        engine.tunnel = Tunnel { local: Some(place.address), remote: config.traffic.tunnel_destination };
        engine.key_log = key_log.cloned().map(|log| Box::new(log) as Box<dyn dataplane::KeyLog + Send>);
        let engine = Userspace::start(engine).with_context(|| {
            format!("the TUN device {tun} cannot be made (it needs /dev/net/tun, CAP_NET_ADMIN and CAP_NET_RAW)")
        })?;
        network::relax_source_checks(tun)?;
        let mut routes = Routes::open(handle.clone(), tun, place.address)?;
        for (network, prefix) in &group.protect {
            routes.add(*network, *prefix).await?;
        }
        tracing::info!(group = %group.id, %tun, mtu, "TUN device is up");
        Ok(Self { tun: tun.to_owned(), engine, routes, follows: config.routes })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
