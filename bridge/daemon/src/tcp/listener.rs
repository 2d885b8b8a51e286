//! Where connections are taken.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use keyferry_model::drive::ConnectionId;
use keyferry_wire::Deframer;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

use super::{Event, carry};

/// Connections that wait to be taken.
const BACKLOG: i32 = 1024;

/// Connections that are being closed, besides those that are counted.
const CLOSING: usize = 64;

/// What all listeners of a process share.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    ids: Arc<AtomicU64>,
    slots: Arc<Semaphore>,
    events: mpsc::Sender<Event>,
}

impl Shared {
    /// The gateway counts connections and says which are to be closed; this keeps descriptors from running out meanwhile.
    pub(crate) fn new(most: usize, events: mpsc::Sender<Event>) -> Self {
        let slots = Arc::new(Semaphore::new(most.saturating_add(CLOSING).min(Semaphore::MAX_PERMITS)));
        Self { ids: Arc::default(), slots, events }
    }
}

/// A bound socket.
#[derive(Debug)]
pub(crate) struct Listener {
    listener: TcpListener,
    local: SocketAddr,
}

impl Listener {
    /// Binds to an address of this machine, or to all of one family.
    pub(crate) fn bind(local: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(local), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        // Connections of an earlier process may still be waiting for their end.
        socket.set_reuse_address(true)?;
        if local.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&local.into())?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from_std(socket.into())?;
        Ok(Self { local: listener.local_addr()?, listener })
    }

    /// The address it is bound to.
    pub(crate) fn local(&self) -> SocketAddr {
        self.local
    }

    /// Takes connections until nobody wants their messages.
    pub(crate) fn run(self, shared: Shared) -> JoinHandle<()> {
        tokio::spawn(async move {
            while !shared.events.is_closed() {
                let Ok(slot) = Arc::clone(&shared.slots).acquire_owned().await else { return };
                match self.listener.accept().await {
                    Ok((stream, _)) => {
                        let id = ConnectionId(shared.ids.fetch_add(1, Ordering::Relaxed));
                        let events = shared.events.clone();
                        tokio::spawn(async move {
                            if stream.set_nodelay(true).is_ok() {
                                carry(stream, id, Deframer::responder(), &events).await;
                            }
                            drop(events.send(Event::Closed(id)).await);
                            drop(slot);
                        });
                    }
                    Err(error) => {
                        tracing::debug!(%error, local = %self.local, "not accepted");
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                }
            }
        })
    }
}
