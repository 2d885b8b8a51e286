//! Where a member receives: its own address, and the multicast addresses of rekeys.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use keyferry_model::drive::Transmit;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::udp::{MulticastOut, Received, Udp, pump};

/// Datagrams that may wait.
const QUEUE: usize = 1024;

/// All sockets of a member, whose datagrams come out of one queue.
pub(super) struct Listening {
    own: Arc<Udp>,
    /// For the way through a translator.
    nat: Option<Arc<Udp>>,
    interface: u32,
    groups: BTreeMap<SocketAddr, JoinHandle<()>>,
    queue: mpsc::Sender<Received>,
    overrun: Arc<AtomicU64>,
}

impl Listening {
    /// Receives at the member's own socket; multicast addresses are joined on `interface`.
    pub(super) fn new(own: Arc<Udp>, interface: u32) -> (Self, mpsc::Receiver<Received>) {
        let (queue, receiver) = mpsc::channel(QUEUE);
        let overrun = Arc::new(AtomicU64::new(0));
        pump(Arc::clone(&own), queue.clone(), Arc::clone(&overrun));
        (Self { own, nat: None, interface, groups: BTreeMap::new(), queue, overrun }, receiver)
    }

    /// Receives also at the port for the way through a translator (RFC 3947): the usual one, or where that is taken another,
    /// which a translator does not mind. Tells which.
    pub(super) fn open_nat_port(&mut self, port: u16) -> std::io::Result<u16> {
        let at = |port| Udp::bind(SocketAddr::new(self.own.local().ip(), port), MulticastOut::default());
        let socket = Arc::new(at(port).or_else(|_| at(0))?);
        pump(Arc::clone(&socket), self.queue.clone(), Arc::clone(&self.overrun));
        let port = socket.local().port();
        self.nat = Some(socket);
        Ok(port)
    }

    /// Is it the port for the way through a translator?
    pub(super) fn is_nat_port(&self, port: u16) -> bool {
        self.nat.as_ref().is_some_and(|nat| nat.local().port() == port)
    }

    /// The member's own address and port.
    pub(super) fn local(&self) -> SocketAddr {
        self.own.local()
    }

    /// Multicast addresses that are joined.
    pub(super) fn groups(&self) -> Vec<SocketAddr> {
        self.groups.keys().copied().collect()
    }

    /// Datagrams dropped because too many were waiting.
    pub(super) fn overrun(&self) -> u64 {
        self.overrun.load(Ordering::Relaxed)
    }

    /// Receives what is sent to this address, too.
    pub(super) fn listen(&mut self, address: SocketAddr) {
        if !address.ip().is_multicast() || self.groups.contains_key(&address) {
            return;
        }
        match Udp::join(address, self.interface) {
            Ok(socket) => {
                tracing::info!(%address, "listens for rekeys");
                let task = pump(Arc::new(socket), self.queue.clone(), Arc::clone(&self.overrun));
                self.groups.insert(address, task);
            }
            Err(error) => {
                tracing::error!(%address, %error, "cannot listen for rekeys: the member must register anew for each");
            }
        }
    }

    /// Sends from the member's own address.
    pub(super) async fn send(&self, transmit: &Transmit) {
        let port = transmit.from.map(|from| from.port());
        let nat = self.nat.as_ref().filter(|nat| port == Some(nat.local().port()));
        if let Err(error) = nat.unwrap_or(&self.own).send(transmit).await {
            tracing::debug!(to = %transmit.to, %error, "not sent");
        }
    }
}
