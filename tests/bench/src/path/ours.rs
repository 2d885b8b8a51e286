//! The engine between two namespaces, and the same threads without cryptography.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use dataplane::engine::userspace::Workers;
use dataplane::engine::{EngineConfig, Userspace, Wire};
use keyferry_crypto::{Aead, BlockCipher, Integrity, Secret, SeededRandom};
use keyferry_model::policy::{
    AddressPreservation, EspMode, EspTransform, SaDirection, Selector, SequenceNumbers, TrafficPolicy,
};
use keyferry_model::time::Now;
use keyferry_model::update::{GroupUpdate, NewSa, Removal, SenderIds};
use nix::net::if_::if_nametoindex;
use socket2::{Domain, InterfaceIndexOrAddress, Socket, Type};

use super::bare::Bare;
use super::load::{Course, Flow, Receiver, Sender};
use super::net::{Namespace, Net, WIRE};
use super::{Load, Ways};
use crate::Wired;

/// The group.
pub(super) const GROUP: Ipv4Addr = Ipv4Addr::new(239, 192, 0, 1);
/// The first sender.
pub(super) const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 92, 1, 0);
/// TUN device at either end.
pub(super) const TUN: &str = "kf0";
pub(super) const MTU: u16 = 1_400;

pub(super) const GCM: EspTransform = EspTransform::Aead(Aead::Aes128Gcm16);
pub(super) const CBC: EspTransform = EspTransform::CbcHmac(BlockCipher::Aes128Cbc, Integrity::HmacSha256_128);

/// Both ends of a path. Dropping it ends its threads.
pub(super) enum Ends {
    Engines { _from: Box<Userspace>, _to: Box<Userspace> },
    Bare { _from: Box<Workers>, _to: Box<Workers>, _joined: Socket },
}

impl Ends {
    /// Engines that share an SA.
    pub(super) fn engines(net: &Net, transform: EspTransform, ways: Ways) -> Result<Self> {
        let from = net.from.within(|| Ok(Userspace::start(config(ways))?))?;
        let to = net.to.within(|| Ok(Userspace::start(config(ways))?))?;
        from.apply(update(transform, 1), START)?;
        to.apply(update(transform, 2), START)?;
        attach(&net.from, 1)?;
        attach(&net.to, 2)?;
        Ok(Self::Engines { _from: Box::new(from), _to: Box::new(to) })
    }

    /// Threads that protect nothing, with packets of the same length on the wire.
    pub(super) fn bare(net: &Net, transform: EspTransform, ways: Ways) -> Result<Self> {
        let (iv, block) = if transform == CBC { (16, 16) } else { (8, 4) };
        let start = || Ok(Workers::start(&config(ways), Arc::new(Bare { front: 8 + iv, block, icv: 16 }))?);
        let from = net.from.within(start)?;
        let mut to = net.to.within(start)?;
        // The engine joins its groups itself, and takes their packets as it is told to.
        let joined = join(&net.to)?;
        to.take_early([GROUP.into()].into_iter());
        attach(&net.from, 1)?;
        attach(&net.to, 2)?;
        Ok(Self::Bare { _from: Box::new(from), _to: Box::new(to), _joined: joined })
    }
}

/// From the TUN device of one end to that of the other.
pub(super) fn course(net: &Net, load: Load) -> Result<Course<'_>> {
    let Load { octets, senders, handing } = load;
    let flow = Flow { octets, senders, source: SOURCE, destination: GROUP, handing };
    let sender = net.from.within(|| Sender::new(flow, Some(TUN)))?;
    let receiver = net.to.within(|| Receiver::new(flow, Some(TUN)))?;
    Ok(Course { from: &net.from, to: &net.to, sender, receiver })
}

/// Joins the group for whom does not do it himself, as long as the socket is there.
pub(super) fn join(namespace: &Namespace) -> Result<Socket> {
    namespace.within(|| {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
        let index = if_nametoindex(WIRE)?;
        socket.join_multicast_v4_n(&GROUP, &InterfaceIndexOrAddress::Index(index))?;
        Ok(socket)
    })
}

pub(super) const START: Now = Now { mono: Duration::ZERO, wall: Duration::ZERO };

fn config(ways: Ways) -> EngineConfig {
    let mut config = EngineConfig::new(TUN, WIRE, MTU);
    config.offloads = ways.offloads;
    config.wire = match ways.wire {
        Wired::Auto => Wire::Auto,
        Wired::Link => Wire::Link,
        Wired::Raw => Wire::Raw,
    };
    config
}

/// Lets the host have a TUN device.
pub(super) fn attach(namespace: &Namespace, host: u8) -> Result<()> {
    namespace.ip(&format!("addr add {}/16 dev {TUN}", Ipv4Addr::new(10, 92, 0, host)))
}

/// One SA of the whole group, as all members have it, and a sender ID.
pub(super) fn update(transform: EspTransform, sender_id: u32) -> GroupUpdate {
    let any = Selector { address: Ipv4Addr::UNSPECIFIED.into(), prefix: 0, protocol: 0, port: 0 };
    let policy = TrafficPolicy {
        source: any,
        destination: Selector { address: GROUP.into(), prefix: 32, ..any },
        mode: EspMode::Tunnel,
        transform,
        sequence: SequenceNumbers::Sequential,
        replay_window: 1_024,
        preservation: AddressPreservation::Both,
        only_sender: None,
        lifetime_octets: None,
    };
    let sa = NewSa {
        spi: 0x1001,
        keymat: Secret::random(transform.keymat_len(), &mut SeededRandom::new(1)),
        policy: Arc::new(policy),
        lifetime: Duration::from_secs(86_400),
        direction: SaDirection::Symmetric,
    };
    GroupUpdate {
        install: vec![sa],
        remove: Removal::All,
        sender_ids: Some(SenderIds { bits: 16, ids: vec![sender_id] }),
        activation_delay: Duration::ZERO,
        deactivation_delay: Duration::ZERO,
    }
}
