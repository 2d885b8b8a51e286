//! Keys only: SAs come, roll over and go as everywhere, and no packet is touched.
//!
//! For a member that is to take part in a group without protecting traffic: one that watches rekeys, acknowledges them
//! or logs keys. It makes no device, opens no socket and needs no privilege. It keeps nothing from leaving in clear
//! either, since it has no hand in what the system sends.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use keyferry_model::policy::Selector;
use keyferry_model::time::{Deadline, Now};
use keyferry_model::tunnel::Tunnel;
use keyferry_model::update::GroupUpdate;

use super::{Engine, EngineStatus};
use crate::key_log::KeyLog;
use crate::sad::{ApplyError, Sad};

/// The engine that protects nothing.
pub struct KeysOnly {
    sad: Mutex<Sad>,
}

impl KeysOnly {
    /// One without SAs. What it refuses is what the others refuse, so it wants to know the ends of tunnels, too.
    #[must_use]
    pub fn new(tunnel: Tunnel, key_log: Option<Box<dyn KeyLog + Send>>) -> Self {
        // No SA of it ever sends, and its status says so.
        let mut sad = Sad::receive_only();
        sad.set_tunnel(tunnel);
        if let Some(log) = key_log {
            sad.set_key_log(log);
        }
        Self { sad: Mutex::new(sad) }
    }

    fn sad(&self) -> MutexGuard<'_, Sad> {
        // A poisoned lock means a panic in a control operation; the SAD changes only after its checks, so it is whole.
        self.sad.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine for KeysOnly {
    fn apply(&self, update: GroupUpdate, now: Now) -> Result<(), ApplyError> {
        self.sad().apply(update, now)
    }

    fn flush(&self) {
        self.sad().flush();
    }

    fn expire(&self, now: Now) {
        self.sad().expire(now);
    }

    fn deadline(&self) -> Option<Deadline> {
        self.sad().deadline()
    }

    fn needs_rekey(&self) -> bool {
        false
    }

    fn named(&self) -> Arc<[(Selector, Selector)]> {
        self.sad().named()
    }

    fn hold(&self, lines: &[(Selector, Selector)]) {
        self.sad().hold(lines);
    }

    fn purposes(&self) -> Vec<(u32, (Selector, Selector))> {
        self.sad().purposes()
    }

    fn status(&self) -> EngineStatus {
        EngineStatus {
            engine: "none",
            tun: None,
            interface: None,
            joined: Vec::new(),
            early: Vec::new(),
            refused: BTreeMap::new(),
            problem: None,
            offloaded: Vec::new(),
            sad: self.sad().status(),
        }
    }

    fn set_key_log(&self, log: Option<Box<dyn KeyLog + Send>>) -> bool {
        let mut sad = self.sad();
        match log {
            Some(log) => sad.set_key_log(log),
            None => sad.end_key_log(),
        }
        true
    }

    fn stop(self: Box<Self>) {
        self.flush();
    }
}
