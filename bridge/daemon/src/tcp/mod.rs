//! TCP connections that carry IKE messages (RFC 9329), at either end.
//!
//! ```text
//!  listener --+                  +-- reader: octets -> frames --(bounded queue)--> owner
//!             +--> a connection--+
//!  dial ------+                  +-- writer <--(bounded queue of its own)--------- owner
//! ```
//!
//! One task for each connection. A reader waits until its owner has room, and its peer with it; a peer that does not read,
//! or takes too long over a frame, is cut off.

mod listener;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use keyferry_model::drive::ConnectionId;
use keyferry_wire::{Deframer, Frame, STREAM_PREFIX, frame};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

pub(crate) use listener::{Listener, Shared};

/// Messages that wait for a peer to read.
const UNREAD: usize = 16;

/// Octets read at once.
const READING: usize = 4096;

/// A peer has to finish what it has begun to send, be it the prefix, in this time, and to read what it is sent.
const PATIENCE: Duration = Duration::from_secs(10);

/// After our last message a peer may close first.
const FAREWELL: Duration = Duration::from_secs(2);

/// What became of a connection.
#[derive(Debug)]
pub(crate) enum Event {
    /// It stands.
    Opened(Connection),
    /// Something came.
    Came(ConnectionId, Frame),
    /// It is there no more, or did not come to be.
    Closed(ConnectionId),
}

/// The owner's end of an open connection; who drops it closes the connection behind what was sent.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    pub(crate) local: SocketAddr,
    pub(crate) peer: SocketAddr,
    unread: mpsc::Sender<Vec<u8>>,
}

impl Connection {
    /// Sends an IKE message; says whether there was room.
    pub(crate) fn send(&self, message: &[u8]) -> bool {
        frame(message).is_some_and(|octets| self.unread.try_send(octets).is_ok())
    }
}

/// Opens a connection from an address of ours.
pub(crate) fn dial(id: ConnectionId, from: IpAddr, to: SocketAddr, events: mpsc::Sender<Event>) -> JoinHandle<()> {
    tokio::spawn(async move {
        match timeout(PATIENCE, connect(from, to)).await.unwrap_or_else(|late| Err(late.into())) {
            Ok(stream) => carry(stream, id, Deframer::originator(), &events).await,
            Err(error) => tracing::debug!(%to, %error, "no connection"),
        }
        // Whoever owned it may have gone.
        drop(events.send(Event::Closed(id)).await);
    })
}

async fn connect(from: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind(SocketAddr::new(from, 0))?;
    let mut stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    stream.write_all(&STREAM_PREFIX).await?;
    Ok(stream)
}

/// Moves messages both ways until the connection ends.
async fn carry(stream: TcpStream, id: ConnectionId, deframer: Deframer, events: &mpsc::Sender<Event>) {
    let (Ok(local), Ok(peer)) = (stream.local_addr(), stream.peer_addr()) else { return };
    let (unread, queue) = mpsc::channel(UNREAD);
    if events.send(Event::Opened(Connection { id, local, peer, unread })).await.is_err() {
        return;
    }
    let (reader, writer) = stream.into_split();
    let reading = read(reader, id, deframer, events);
    tokio::pin!(reading);
    tokio::select! {
        why = &mut reading => tracing::debug!(%peer, %why, "connection ends"),
        done = write(writer, queue) => match done {
            // Closing with octets unread would take back what was sent last.
            Ok(_open) => drop(timeout(FAREWELL, &mut reading).await),
            Err(error) => tracing::debug!(%peer, %error, "connection ends"),
        },
    }
}

/// Hands on frames; returns, in words, why there are no more.
async fn read(
    mut reader: impl AsyncRead + Unpin,
    id: ConnectionId,
    mut deframer: Deframer,
    events: &mpsc::Sender<Event>,
) -> String {
    let mut buffer = [0; READING];
    // When what is incomplete has to be whole.
    let mut due = Instant::now() + PATIENCE;
    loop {
        let reading = reader.read(&mut buffer);
        let read = match deframer.is_within() {
            true => timeout_at(due, reading).await.unwrap_or_else(|late| Err(late.into())),
            false => reading.await,
        };
        let octets = match read {
            Ok(0) => return "closed by the peer".to_owned(),
            Ok(n) => &buffer[..n],
            Err(error) => return error.to_string(),
        };
        if !deframer.is_within() {
            due = Instant::now() + PATIENCE;
        }
        deframer.push(octets);
        loop {
            match deframer.take() {
                Ok(Some(frame)) => {
                    if events.send(Event::Came(id, frame)).await.is_err() {
                        return "nobody listens".to_owned();
                    }
                    due = Instant::now() + PATIENCE;
                }
                Ok(None) => break,
                Err(error) => return error.to_string(),
            }
        }
    }
}

/// Writes what is queued until nobody can queue any more, and says so to the peer.
async fn write<W: AsyncWrite + Unpin>(mut writer: W, mut queue: mpsc::Receiver<Vec<u8>>) -> io::Result<W> {
    while let Some(octets) = queue.recv().await {
        timeout(PATIENCE, writer.write_all(&octets)).await??;
    }
    timeout(PATIENCE, writer.shutdown()).await??;
    Ok(writer)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
