//! The way of a group's traffic: an engine, and where it has a TUN device the routes that lead into it.

use anyhow::{Context, bail};
use dataplane::engine::userspace::MAX_OVERHEAD;
use dataplane::engine::{Engine, EngineConfig, KeysOnly, Userspace};
use keyferry_model::time::Now;
use keyferry_model::tunnel::Tunnel;
use keyferry_model::update::GroupUpdate;
use rtnetlink::Handle;

use super::local;
use super::network::{self, Place, Routes};
use crate::config::{EngineChoice, MemberConfig, MemberGroup};
use crate::keylog::FileKeyLog;

/// An engine and what leads to it.
pub(super) struct Plane {
    pub(super) engine: Box<dyn Engine>,
    routes: Option<Routes>,
    /// Are new policies routed into the device?
    follows: bool,
}

/// What an engine is made of.
pub(super) struct Surroundings<'a> {
    pub(super) config: &'a MemberConfig,
    pub(super) place: &'a Place,
    pub(super) handle: &'a Handle,
    pub(super) key_log: Option<&'a FileKeyLog>,
}

impl Plane {
    /// Starts the engine that the configuration names.
    pub(super) async fn open(tun: &str, group: &MemberGroup, around: &Surroundings<'_>) -> anyhow::Result<Self> {
        match group.engine {
            EngineChoice::Auto | EngineChoice::Userspace => Self::userspace(tun, group, around).await,
            EngineChoice::None => {
                let engine = KeysOnly::new(around.tunnel(), around.key_log());
                tracing::info!(group = %group.id, "keys only: this member protects no traffic");
                Ok(Self { engine: Box::new(engine), routes: None, follows: false })
            }
        }
    }

    async fn userspace(tun: &str, group: &MemberGroup, around: &Surroundings<'_>) -> anyhow::Result<Self> {
        let (config, place) = (around.config, around.place);
        let mtu = match config.mtu {
            Some(mtu) => mtu,
            None => {
                let room = u32::try_from(MAX_OVERHEAD).unwrap_or(u32::MAX);
                let link = network::mtu(around.handle, &place.interface).await?;
                let mtu = link.min(config.path_mtu.map_or(link, u32::from)).saturating_sub(room);
                u16::try_from(mtu.min(9000)).unwrap_or(1400)
            }
        };
        if mtu < 576 {
            bail!("the MTU of {} leaves no room for ESP: set mtu in [member]", place.interface);
        }
        let mut engine = EngineConfig::new(tun, &place.interface, mtu);
        engine.queues = config.queues;
        engine.receivers = config.receive_threads;
        engine.wire = config.wire;
        engine.groups = group.join.clone();
        engine.receive_only = config.sender_ids == 0;
        engine.tunnel = around.tunnel();
        (engine.path_mtu, engine.sizes) = (config.path_mtu, config.sizes.clone());
        engine.dummies = config.dummies;
        engine.local = local::policy(group, &config.traffic.accept);
        engine.key_log = around.key_log();
        let engine = Userspace::start(engine).with_context(|| {
            format!("the TUN device {tun} cannot be made (it needs /dev/net/tun, CAP_NET_ADMIN and CAP_NET_RAW)")
        })?;
        network::relax_source_checks(tun)?;
        let mut routes = Routes::open(around.handle.clone(), tun, place.address)?;
        for (network, prefix) in &group.protect {
            routes.add(*network, *prefix).await?;
        }
        tracing::info!(group = %group.id, %tun, mtu, "TUN device is up");
        Ok(Self { engine: Box::new(engine), routes: Some(routes), follows: config.routes })
    }

    /// New keys: what they protect is routed into the TUN device first, so that nothing of it leaves in clear. A route that
    /// cannot be made is told.
    ///
    /// # Errors
    /// The engine refuses the keys; nothing of them is used.
    pub(super) async fn update(&mut self, update: GroupUpdate, now: Now) -> Result<Option<String>, String> {
        let mut problem = None;
        if let Some(routes) = self.routes.as_mut().filter(|_| self.follows) {
            for sa in &update.install {
                let destination = sa.policy.destination;
                if let Err(error) = routes.add(destination.address, destination.prefix).await {
                    problem = Some(format!("{error:#}"));
                }
            }
        }
        self.engine.apply(update, now).map(|()| problem).map_err(|error| error.to_string())
    }
}

impl Surroundings<'_> {
    /// The ends of tunnels that do not preserve all addresses.
    fn tunnel(&self) -> Tunnel {
        Tunnel { local: Some(self.place.address), remote: self.config.traffic.tunnel_destination }
    }

    fn key_log(&self) -> Option<Box<dyn dataplane::KeyLog + Send>> {
        self.key_log.cloned().map(|log| Box::new(log) as Box<dyn dataplane::KeyLog + Send>)
    }
}
