//! ESP by this process: a TUN device on the plain side, raw sockets of IP protocol 50 on the protected side.
//!
//! ```text
//!  application -> route -> TUN -> [tx threads: seal] -> Ethernet frames, or raw socket with header -> interface
//!  application <- TUN <- [rx threads: open] <- raw sockets (IPv4, IPv6) <- joined groups <- interface
//! ```
//!
//! The owner gives the TUN device its addresses and routes the protected groups into it. Whatever comes out of the TUN
//! device is protected or dropped, unless the [`LocalPolicy`] lets it pass in clear: it then leaves through the same raw
//! socket, as it is. Two things of the host's own IP stack are out of reach here, and the owner's
//! to prevent, as the daemon does by a packet filter: an application that names the interface itself, or binds
//! its socket to that interface's address, sends multicast past all routes and in clear; and since the groups are
//! joined on the interface, clear packets that others send to them are delivered to applications too. Threads and
//! sockets live in the network namespace of the thread that calls [`Userspace::start`]; the other calls may come from
//! any.
//!
//! The sockets take and give bursts of packets, one system call for each. A TUN device has no such call: it needs one for
//! each packet, or with its segmentation offloads for several of one flow. What goes to groups is sent as whole frames,
//! which takes little more than half the time of raw sockets;
//! by the figures in `docs/BENCHMARKS.md` (*Wire*) nothing that safe code can do is better. Rings shared with the kernel
//! would save another fifth when sending. Receiving they save the thread most of its work and the machine a fifth, at
//! the price of unsafe code, of a delay until a block of the ring is given away, and of putting fragments together here.
//!
//! With several queues the TUN device has a tx thread for each, and the kernel keeps the packets of a flow in one
//! queue. Sequence numbers are common to them, so packets of different flows can leave out of the order of their
//! numbers, by a burst of each queue and more where a thread has to wait for its turn: receivers need a replay window
//! of several hundred packets. With several rx threads each has raw sockets of its own, and filters on them share out
//! the packets by the senders' addresses.
//!
//! With [`Wire::Link`] packets to the groups are taken from an Ethernet ahead of the host's IP stack, by packet sockets, and kept from it; raw
//! sockets have what is left over.
//!
//! Fragments of protected packets are put together by the kernel before they come here. With a TUN device whose MTU is smaller
//! than the interface's by [`MAX_OVERHEAD`] the host's own stack sees to it that protected packets fit; what becomes of those
//! that do not, [`Sizes`] says. The interface's MTU is looked up at the start, with each control operation, and when a packet
//! turns out to be too large for it; a packet that finds this out is lost. Dummies are the work of a thread of their own, which
//! is there if they are wanted.

use std::io;
use std::net::IpAddr;
use std::num::{NonZeroU8, NonZeroU32};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use keyferry_crypto::Random;
use keyferry_model::policy::Selector;
use keyferry_model::time::{Deadline, Now};
use keyferry_model::tunnel::Tunnel;
use keyferry_model::update::GroupUpdate;
use nix::net::if_::if_nametoindex;
use nix::sys::eventfd::EventFd;

use super::joins::Joins;
use super::{Engine, EngineStatus};
use crate::drops::DropReason;
use crate::key_log::KeyLog;
use crate::local::LocalPolicy;
use crate::packet::esp::{HEADER_LEN, TRAILER_LEN};
use crate::packet::ipv6;
use crate::sad::{ApplyError, Explanation, Flow, Sad, Snapshot};
use crate::sizes::Sizes;
use crate::trace::Tap;

mod early;
mod incoming;
mod ingress;
mod link;
mod outgoing;
mod passage;
mod share;
mod sockets;
mod tun;
mod workers;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

pub use passage::{Passage, Workers};
use sockets::{Gauge, Sockets};
#[cfg(feature = "fuzzing")]
pub(crate) use tun::fuzzing;

/// Octets by which protection can lengthen a packet: IPv6 tunnel, AES-CBC and HMAC-SHA2-512-256. AES-GCM in an IPv4
/// tunnel adds at most 57.
pub const MAX_OVERHEAD: usize = ipv6::HEADER_LEN + HEADER_LEN + 16 + 15 + TRAILER_LEN + crate::transform::MAX_ICV;

/// Packets that each queue of the TUN device keeps: what comes in 2.5 ms at 400,000 packets per second, since a thread may have to wait so
/// long for a core that others use. With the kernel's 500 such a wait costs packets. What an application hands over in one piece counts as
/// one packet, so with many more an overload would wait for half a second, in a quarter of a gigabyte.
const QUEUED: u32 = 1_024;

/// What an engine is started with.
pub struct EngineConfig {
    /// Name of the TUN device to make (up to 15 octets). It is brought up with `mtu`, without addresses or routes.
    pub tun: String,
    /// Interface that the protected packets go through.
    pub interface: String,
    /// MTU of the TUN device.
    pub mtu: u16,
    /// Queues of the TUN device, each with a thread that seals. With more than one, the device must not exist before.
    pub queues: NonZeroU8,
    /// Shall the TUN device's segmentation offloads be used? Threads that receive much then also wait a little for more, which
    /// brings packets that go to the host together.
    pub offloads: bool,
    /// Threads that open what is received, each the packets of some senders.
    pub receivers: NonZeroU8,
    /// How protected packets go out and come in.
    pub wire: Wire,
    /// Groups to join besides the single multicast addresses of the policies, for policies about whole networks.
    pub groups: Vec<IpAddr>,
    /// Install inbound SAs only: the member did not register as a sender.
    pub receive_only: bool,
    /// Where tunnels begin and end whose outer headers do not repeat all addresses.
    pub tunnel: Tunnel,
    /// Octets of the largest IP packet that the path to all receivers takes, where that is less than the interface does.
    pub path_mtu: Option<u16>,
    /// What is done about the sizes of what is sent.
    pub sizes: Sizes,
    /// Packets a second that leave at least by each SA that sends: a thread makes dummies where there are fewer.
    pub dummies: Option<NonZeroU32>,
    /// The member's own rules, in front of the group's policy.
    pub local: LocalPolicy,
    /// Where keys are logged for Wireshark, if at all.
    pub key_log: Option<Box<dyn KeyLog + Send>>,
}

/// Ways of protected packets to the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wire {
    /// To multicast groups on an Ethernet as whole frames, otherwise through raw sockets.
    #[default]
    Auto,
    /// As [`Wire::Auto`]; and packets to the groups that are joined are taken from an Ethernet ahead of the host's IP stack, where the kernel's nf_tables
    /// can keep them from it. No packet filter, multicast router or other ESP of the host gets them.
    Link,
    /// Through raw sockets, which is also through the packet filters of the host's IP stack.
    Raw,
}

impl EngineConfig {
    /// A configuration with one queue and one thread that receives, without additional groups, rules and a key log.
    #[must_use]
    pub fn new(tun: impl Into<String>, interface: impl Into<String>, mtu: u16) -> Self {
        Self {
            tun: tun.into(),
            interface: interface.into(),
            mtu,
            queues: NonZeroU8::MIN,
            offloads: true,
            receivers: NonZeroU8::MIN,
            wire: Wire::Auto,
            groups: Vec::new(),
            receive_only: false,
            tunnel: Tunnel::default(),
            path_mtu: None,
            sizes: Sizes::default(),
            dummies: None,
            local: LocalPolicy::default(),
            key_log: None,
        }
    }
}

/// The user-space engine. Dropping it stops it.
pub struct Userspace {
    tun_name: String,
    interface: String,
    groups: Vec<IpAddr>,
    control: Mutex<Control>,
    snapshot: Arc<ArcSwap<Snapshot>>,
}

/// What control operations share.
struct Control {
    sad: Sad,
    joins: Joins,
    gauge: Gauge,
    /// Ends after the SAD has been flushed.
    workers: Workers,
}

/// What the workers share.
struct Shared<P> {
    sockets: Arc<Sockets>,
    gauge: Gauge,
    interface: String,
    passage: Arc<P>,
    stop: Arc<EventFd>,
}

impl Userspace {
    /// Makes the TUN device and the sockets (CAP_NET_ADMIN and CAP_NET_RAW) and starts the workers.
    ///
    /// # Errors
    /// No such interface, no such privilege, or the TUN device exists and is in use.
    pub fn start(config: EngineConfig) -> io::Result<Self> {
        let mut sad = if config.receive_only { Sad::receive_only() } else { Sad::new() };
        sad.set_tunnel(config.tunnel);
        sad.set_sizes(config.sizes.clone());
        sad.set_identification(identification());
        sad.set_local_policy(config.local.clone());
        let gauge = Gauge::open(&config.interface, config.path_mtu)?;
        let joins = Joins::open(index_of(&config.interface)?)?;
        let snapshot = Arc::new(ArcSwap::new(sad.snapshot()));
        let workers = Workers::start(&config, Arc::clone(&snapshot))?;
        let EngineConfig { tun: tun_name, interface, groups, key_log, .. } = config;
        if let Some(log) = key_log {
            sad.set_key_log(log);
        }
        let control = Mutex::new(Control { sad, joins, gauge, workers });
        let engine = Self { tun_name, interface, groups, control, snapshot };
        engine.settle(&mut engine.control());
        Ok(engine)
    }

    /// Applies an update, as a whole or not at all, and joins the groups that it is about.
    pub fn apply(&self, update: GroupUpdate, now: Now) -> Result<(), ApplyError> {
        let mut control = self.control();
        let named: Vec<_> = update.install.iter().map(|new| (new.policy.source, new.policy.destination)).collect();
        let applied = control.sad.apply(update, now);
        if applied.is_err() {
            control.sad.hold(&named);
        }
        self.settle(&mut control);
        applied
    }

    /// Removes all SAs at once.
    pub fn flush(&self) {
        let mut control = self.control();
        control.sad.flush();
        self.settle(&mut control);
    }

    /// Does what is due.
    pub fn expire(&self, now: Now) {
        let mut control = self.control();
        control.sad.expire(now);
        self.settle(&mut control);
    }

    /// When [`Userspace::expire`] is wanted next.
    #[must_use]
    pub fn deadline(&self) -> Option<Deadline> {
        self.control().sad.deadline()
    }

    /// Are sequence numbers or IVs running out?
    #[must_use]
    pub fn needs_rekey(&self) -> bool {
        self.control().sad.needs_rekey()
    }

    /// What it does and has done.
    #[must_use]
    pub fn status(&self) -> EngineStatus {
        let control = self.control();
        control.sad.drop_counters().set(DropReason::InQueueFull, control.workers.unread());
        EngineStatus {
            engine: "userspace",
            tun: Some(self.tun_name.clone()),
            interface: Some(self.interface.clone()),
            joined: control.joins.joined(),
            early: control.workers.taken_early(),
            refused: control.joins.refused(),
            problem: None,
            offloaded: Vec::new(),
            sad: control.sad.status(),
        }
    }

    /// Ends it: no packet is sent or handed on after the return, keys and the TUN device are gone.
    pub fn stop(self) {
        drop(self);
    }

    /// Goes on with the SAD of another engine in place of its own. The local policy stays.
    pub fn adopt(&self, mut sad: Sad) {
        let mut control = self.control();
        sad.inherit_local_policy(&control.sad);
        control.sad.flush();
        control.sad = sad;
        control.sad.set_identification(identification());
        self.settle(&mut control);
    }

    /// Publishes the SAD's picture, joins and leaves groups accordingly, and looks what the link takes.
    fn settle(&self, control: &mut Control) {
        self.snapshot.store(control.sad.snapshot());
        if let Ok(mtu) = control.gauge.read() {
            control.sad.snapshot().set_link_mtu(mtu);
        }
        let mut wanted = control.sad.destinations();
        wanted.extend(&self.groups);
        // First where they are taken, then that they come: so of new groups none comes both ways. While there are no
        // keys another engine may have them, and get its packets by the IP stack.
        let opens = control.sad.installed().any(|(_, direction)| direction.receives());
        control.workers.take_early(wanted.iter().copied().filter(|ip| opens && ip.is_multicast()));
        control.joins.set(&wanted);
    }

    fn control(&self) -> MutexGuard<'_, Control> {
        // A poisoned lock means a panic in a control operation; the SAD changes only after its checks, so it is whole.
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where identifications of fragmented packets begin.
fn identification() -> u32 {
    u32::try_from(SystemRandom.below(u64::from(u32::MAX))).unwrap_or(0)
}

fn index_of(interface: &str) -> io::Result<u32> {
    if_nametoindex(interface)
        .map_err(|e| io::Error::new(io::Error::from(e).kind(), format!("interface {interface}: {e}")))
}

impl Drop for Userspace {
    fn drop(&mut self) {
        self.control().sad.flush();
    }
}

impl Engine for Userspace {
    fn apply(&self, update: GroupUpdate, now: Now) -> Result<(), ApplyError> {
        Userspace::apply(self, update, now)
    }

    fn flush(&self) {
        Userspace::flush(self);
    }

    fn expire(&self, now: Now) {
        Userspace::expire(self, now);
    }

    fn deadline(&self) -> Option<Deadline> {
        Userspace::deadline(self)
    }

    fn needs_rekey(&self) -> bool {
        Userspace::needs_rekey(self)
    }

    fn named(&self) -> Arc<[(Selector, Selector)]> {
        self.control().sad.named()
    }

    fn hold(&self, lines: &[(Selector, Selector)]) {
        let mut control = self.control();
        control.sad.hold(lines);
        self.settle(&mut control);
    }

    fn purposes(&self) -> Vec<(u32, (Selector, Selector))> {
        self.control().sad.purposes()
    }

    fn status(&self) -> EngineStatus {
        Userspace::status(self)
    }

    fn set_tap(&self, tap: Option<Arc<Tap>>) -> bool {
        let mut control = self.control();
        control.sad.set_tap(tap);
        self.settle(&mut control);
        true
    }

    fn explain(&self, flow: &Flow) -> Option<Explanation> {
        self.snapshot.load().explain(flow)
    }

    fn set_key_log(&self, log: Option<Box<dyn KeyLog + Send>>) -> bool {
        let sad = &mut self.control().sad;
        match log {
            Some(log) => sad.set_key_log(log),
            None => sad.end_key_log(),
        }
        true
    }

    fn stop(self: Box<Self>) {
        Userspace::stop(*self);
    }
}

/// The kernel's random source, which seeds the IVs of CBC.
struct SystemRandom;

impl Random for SystemRandom {
    fn fill(&mut self, out: &mut [u8]) {
        getrandom::fill(out).expect("the kernel's random source is there on every system that has TUN devices");
    }
}
