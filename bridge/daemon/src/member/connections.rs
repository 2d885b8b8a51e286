//! A member's TCP connections to its key server: one, and those that are coming and going.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use keyferry_model::drive::{ConnectionId, Transmit};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::tcp::{Connection, Event, dial};

/// Events that may wait.
const QUEUE: usize = 64;

/// How long a member that ends waits until its last messages have gone.
const FAREWELL: Duration = Duration::from_secs(1);

/// All connections that somebody wants.
pub(super) struct Connections {
    tasks: BTreeMap<ConnectionId, JoinHandle<()>>,
    open: BTreeMap<ConnectionId, Connection>,
    /// Those that nobody wants any more, until they have ended.
    leaving: Vec<JoinHandle<()>>,
    events: mpsc::Sender<Event>,
}

impl Connections {
    pub(super) fn new() -> (Self, mpsc::Receiver<Event>) {
        let (events, receiver) = mpsc::channel(QUEUE);
        (Self { tasks: BTreeMap::new(), open: BTreeMap::new(), leaving: Vec::new(), events }, receiver)
    }

    pub(super) fn dial(&mut self, id: ConnectionId, from: IpAddr, to: SocketAddr) {
        self.tasks.insert(id, dial(id, from, to, self.events.clone()));
    }

    /// One stands: between which addresses, if somebody wants it.
    pub(super) fn opened(&mut self, connection: Connection) -> Option<(SocketAddr, SocketAddr)> {
        let ends = (connection.local, connection.peer);
        self.tasks.contains_key(&connection.id).then(|| self.open.insert(connection.id, connection)).map(|_| ends)
    }

    /// One is there no more; says whether somebody wanted it.
    pub(super) fn closed(&mut self, id: ConnectionId) -> bool {
        self.open.remove(&id);
        self.tasks.remove(&id).is_some()
    }

    /// Between which addresses one is that is open.
    pub(super) fn ends(&self, id: ConnectionId) -> Option<(SocketAddr, SocketAddr)> {
        self.open.get(&id).map(|c| (c.local, c.peer))
    }

    pub(super) fn send(&mut self, id: ConnectionId, transmit: &Transmit) {
        if !self.open.get(&id).is_some_and(|c| c.send(&transmit.bytes)) {
            tracing::debug!(to = %transmit.to, "not sent");
        }
    }

    /// Closes one, behind what was sent.
    pub(super) fn hang_up(&mut self, id: ConnectionId) {
        self.leaving.retain(|task| !task.is_finished());
        let Some(task) = self.tasks.remove(&id) else { return };
        match self.open.remove(&id) {
            Some(_) => self.leaving.push(task),
            None => task.abort(),
        }
    }

    /// Closes all, and waits a little until the last messages have gone.
    pub(super) async fn end(mut self, events: &mut mpsc::Receiver<Event>) {
        events.close();
        self.tasks.retain(|id, _| self.open.contains_key(id));
        self.open.clear();
        for task in self.leaving.into_iter().chain(self.tasks.into_values()) {
            drop(timeout(FAREWELL, task).await);
        }
    }
}
