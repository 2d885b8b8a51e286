//! ESP by the kernel: states and policies of its XFRM framework, by netlink. There is no device and there are no routes: what
//! the host sends to the groups through any interface is protected where it leaves, and applications join the groups on
//! the interface itself.
//!
//! ```text
//!  GroupUpdate, flush, time -> [Sad] -> [plan: policies and states that shall be] -> [difference] -> netlink
//! ```
//!
//! Keys are installed for receiving at once. Outbound policies name the state that sends, by its SPI, and are replaced in
//! one step when the activation delay is over; states go after the deactivation delay. Beneath all of it lie policies
//! that block everything else to what the group's policy names, both ways: nothing leaves in clear before there are keys,
//! between them or after a flush, and clear packets that others send to the groups reach no application. Only memberships
//! (IGMP, MLD) and rekeys pass. When the process dies without a word, policies and states stay until the states expire, and then
//! the policies block; the next start takes them over.
//!
//! What the kernel would do unsafely is refused before anything changes: sending by a counter mode (its IVs have no
//! sender ID), more than one source behind a tunnel that preserves it, a replay window for several senders or for two
//! addresses. Extended sequence numbers and encapsulation in UDP are never asked for. A device that can do the
//! cryptography is asked to, for SAs that only receive.

use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use keyferry_model::policy::Selector;
use keyferry_model::time::{Deadline, Now};
use keyferry_model::tunnel::Tunnel;
use keyferry_model::update::GroupUpdate;
use nix::net::if_::if_nametoindex;

use super::joins::Joins;
use super::{Engine, EngineStatus};
use crate::key_log::KeyLog;
use crate::sad::{ApplyError, Explanation, Flow, Sad};
use crate::sizes::Sizes;

mod algorithms;
mod control;
mod counters;
mod explain;
mod message;
mod owner;
mod plan;
mod socket;
mod states;
mod suitable;
#[cfg(test)]
mod testing;

use control::Control;
pub use counters::COUNTERS;
#[cfg(feature = "fuzzing")]
pub(crate) use message::told;
use plan::{Ground, Label};
use socket::Xfrm;
use suitable::Rules;

/// What an engine is started with.
pub struct KernelConfig {
    /// Tells its states and policies from those of other members on the host. One engine at a time has a name in a
    /// network namespace.
    pub name: String,
    /// Directory for a file of each name that is taken, to which this user and root alone may write. It is made if it is missing.
    pub names: PathBuf,
    /// Interface on which the groups are joined, and whose device may do the cryptography of what comes.
    pub interface: String,
    /// Multicast networks to which nothing leaves in clear, from the start on.
    pub networks: Vec<(IpAddr, u8)>,
    /// Groups to join besides those of the policies.
    pub groups: Vec<IpAddr>,
    /// Install inbound SAs only: the member did not register as a sender.
    pub receive_only: bool,
    /// Where tunnels begin and end whose outer headers do not repeat all addresses.
    pub tunnel: Tunnel,
    /// What the engine that may go on with the SAs does about sizes; the kernel has its own ways.
    pub sizes: Sizes,
    /// Refuse also what the kernel does safely, but not as the RFCs want it: it does not compare the source inside of a
    /// tunnel with that outside (RFC 5374 section 5.2).
    pub strict: bool,
    /// Where keys are logged for Wireshark, if at all.
    pub key_log: Option<Box<dyn KeyLog + Send>>,
}

/// The kernel engine. Dropping it removes what it installed.
pub struct Kernel {
    interface: String,
    control: Mutex<Control>,
    /// Nobody else has it while this engine lasts.
    _name: File,
}

impl Kernel {
    /// Tries whether the kernel has ESP, takes over what an engine of the same name may have left, and blocks clear
    /// traffic to the networks (CAP_NET_ADMIN).
    ///
    /// # Errors
    /// Why this system has no kernel engine. Nothing is installed then.
    pub fn start(config: KernelConfig) -> io::Result<Self> {
        let KernelConfig { name, names, interface, networks, groups, receive_only, tunnel, sizes, strict, key_log } =
            config;
        let index = if_nametoindex(interface.as_str())
            .map_err(|e| io::Error::new(io::Error::from(e).kind(), format!("interface {interface}: {e}")))?;
        let owned = owner::own(&names, &name)?;
        let mut xfrm = Xfrm::open().map_err(|error| control::in_words(&error, "the kernel has no XFRM (xfrm_user)"))?;
        control::probe(&mut xfrm)?;
        let mut sad = if receive_only { Sad::receive_only() } else { Sad::new() };
        sad.set_tunnel(tunnel);
        sad.set_sizes(sizes);
        if let Some(log) = key_log {
            sad.set_key_log(log);
        }
        let ground = Ground::new(Label::of(&name), tunnel, &networks);
        let rules = Rules { receive_only, strict };
        let control = Control::new(sad, Joins::open(index)?, xfrm, ground, rules, (index, groups));
        let engine = Self { interface, control: Mutex::new(control), _name: owned };
        engine.control().begin()?;
        Ok(engine)
    }

    fn control(&self) -> MutexGuard<'_, Control> {
        // A poisoned lock means a panic in a control operation. What is installed is compared with what shall be at the next.
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.control().end();
    }
}

impl Engine for Kernel {
    fn apply(&self, update: GroupUpdate, now: Now) -> Result<(), ApplyError> {
        self.control().apply(update, now)
    }

    fn flush(&self) {
        self.control().flush();
    }

    fn expire(&self, now: Now) {
        self.control().expire(now);
    }

    fn deadline(&self) -> Option<Deadline> {
        self.control().deadline()
    }

    fn needs_rekey(&self) -> bool {
        self.control().needs_rekey()
    }

    fn leave_clear(&self, address: SocketAddr) {
        self.control().leave_clear(address);
    }

    fn hand_over(&self) -> Option<Sad> {
        Some(self.control().hand_over())
    }

    fn named(&self) -> Arc<[(Selector, Selector)]> {
        self.control().named()
    }

    fn hold(&self, lines: &[(Selector, Selector)]) {
        self.control().hold(lines);
    }

    fn purposes(&self) -> Vec<(u32, (Selector, Selector))> {
        self.control().purposes()
    }

    fn status(&self) -> EngineStatus {
        self.control().status(&self.interface)
    }

    fn explain(&self, flow: &Flow) -> Option<Explanation> {
        self.control().explain(flow)
    }

    fn set_key_log(&self, log: Option<Box<dyn KeyLog + Send>>) -> bool {
        self.control().set_key_log(log);
        true
    }

    fn stop(self: Box<Self>) {
        drop(self);
    }
}
