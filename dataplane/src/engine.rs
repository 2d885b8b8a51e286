//! Engines: the only part of the data plane that touches the system.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use keyferry_model::policy::Selector;
use keyferry_model::time::{Deadline, Now};
use keyferry_model::update::GroupUpdate;
use serde::Serialize;

use crate::key_log::KeyLog;
use crate::sad::{ApplyError, Explanation, Flow, Sad};
use crate::status::SadStatus;
use crate::trace::Tap;

mod joins;
pub mod kernel;
mod netlink;
pub mod none;
pub mod userspace;

pub use kernel::{Kernel, KernelConfig};
pub use none::KeysOnly;
pub use userspace::{EngineConfig, Userspace, Wire};

/// Something that protects a member's traffic as its [`GroupUpdate`]s say.
///
/// The owner calls [`Engine::expire`] when [`Engine::deadline`] is reached; nothing else keeps time.
pub trait Engine: Send + Sync {
    /// Applies an update, as a whole or not at all.
    fn apply(&self, update: GroupUpdate, now: Now) -> Result<(), ApplyError>;
    /// Removes all SAs at once. Nothing is sent or handed on afterwards but what the local policy lets pass in clear.
    fn flush(&self);
    /// Does what is due.
    fn expire(&self, now: Now);
    /// When [`Engine::expire`] is wanted next.
    fn deadline(&self) -> Option<Deadline>;
    /// Are sequence numbers or IVs running out?
    fn needs_rekey(&self) -> bool;
    /// Packets to this address come in clear, also where it lies in what is protected: those of rekeys. Only what keeps
    /// clear packets away has to know.
    fn leave_clear(&self, address: SocketAddr) {
        let _ = address;
    }
    /// Gives the SAs to another engine if that can be, with what was used and seen of their numbers. From then on it has none,
    /// and nothing that they protected leaves in clear until it is stopped.
    fn hand_over(&self) -> Option<Sad> {
        None
    }
    /// What the group protects, as [`Sad::named`] has it.
    fn named(&self) -> Arc<[(Selector, Selector)]>;
    /// The group has named these lines, source and destination, and their keys are not used. They are protected all the same.
    fn hold(&self, lines: &[(Selector, Selector)]);
    /// What each SA that is there is for, source and destination, by its SPI.
    fn purposes(&self) -> Vec<(u32, (Selector, Selector))>;
    /// What it does and has done.
    fn status(&self) -> EngineStatus;
    /// Has a tap take note of packets from now on, or nobody any more. False if packets do not pass through this process.
    fn set_tap(&self, _tap: Option<Arc<Tap>>) -> bool {
        false
    }
    /// What would become of a packet; `None` if there can be no such packet, or nothing is protected here.
    fn explain(&self, _flow: &Flow) -> Option<Explanation> {
        None
    }
    /// Gives the keys of SAs installed from now on to a log, or to nobody any more. False if it does not.
    fn set_key_log(&self, _log: Option<Box<dyn KeyLog + Send>>) -> bool {
        false
    }
    /// Ends it, and returns when nothing of it runs any more.
    fn stop(self: Box<Self>);
}

/// What an engine does and has done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EngineStatus {
    /// Name of the engine: `userspace`, `kernel` or `none`.
    pub engine: &'static str,
    /// TUN device on the plain side, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tun: Option<String>,
    /// Interface on the protected side, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Multicast groups joined there.
    pub joined: Vec<IpAddr>,
    /// Those of them whose packets are taken ahead of the host's IP stack.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub early: Vec<IpAddr>,
    /// Groups that could not be joined, and why.
    pub refused: BTreeMap<IpAddr, String>,
    /// What the engine tries again and again in vain, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// SPIs of SAs by which a device decrypts what comes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub offloaded: Vec<String>,
    /// SAs and drop counters.
    #[serde(flatten)]
    pub sad: SadStatus,
}
