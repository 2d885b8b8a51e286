//! The gateway's TCP connections, which its one task owns the other ends of.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use keyferry_gateway::Gateway;
use keyferry_model::drive::{ConnectionId, Transmit};
use keyferry_model::time::Now;

use crate::random::OsRandom;
use crate::tcp::{Connection, Event};

/// All that are open.
#[derive(Debug, Default)]
pub(super) struct Connections {
    open: BTreeMap<ConnectionId, Connection>,
    /// Where they are taken.
    listen: Vec<SocketAddr>,
}

impl Connections {
    pub(super) fn new(listen: Vec<SocketAddr>) -> Self {
        Self { open: BTreeMap::new(), listen }
    }

    pub(super) fn listen(&self) -> &[SocketAddr] {
        &self.listen
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// Tells the gateway what has happened.
    pub(super) fn take(&mut self, event: Event, gateway: &mut Gateway, now: Now) {
        match event {
            Event::Opened(connection) => {
                gateway.connected(now, &mut OsRandom, connection.id, connection.peer);
                self.open.insert(connection.id, connection);
            }
            Event::Came(id, frame) => {
                // What the gateway has closed it hears no more of.
                if let Some(Connection { peer, local, .. }) = self.open.get(&id) {
                    gateway.receive_frame(now, &mut OsRandom, (id, *peer, *local), &frame);
                }
            }
            Event::Closed(id) => {
                if self.open.remove(&id).is_some() {
                    gateway.disconnected(id);
                }
            }
        }
    }

    /// Sends a message; says whether it could be. Who does not read loses the connection.
    pub(super) fn send(&mut self, id: ConnectionId, transmit: &Transmit, gateway: &mut Gateway) -> bool {
        let Some(connection) = self.open.get(&id) else { return false };
        let sent = connection.send(&transmit.bytes);
        if !sent {
            tracing::debug!(to = %transmit.to, "a connection takes nothing any more");
            self.close(id);
            gateway.disconnected(id);
        }
        sent
    }

    /// Closes one, behind what was sent.
    pub(super) fn close(&mut self, id: ConnectionId) {
        self.open.remove(&id);
    }
}
