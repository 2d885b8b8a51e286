//! The serving side: requests of all connections go to the one task that owns the gateway or member.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::protocol::{MAX_LINE, Reply, Request};
use crate::store::make_parent;

/// Connections at one time.
const MAX_CONNECTIONS: usize = 32;

/// A connection without requests is closed after this time.
const IDLE: Duration = Duration::from_secs(300);

/// A request and where its reply goes.
#[derive(Debug)]
pub struct Call {
    /// What is asked.
    pub request: Request,
    /// Send the reply here.
    pub reply: oneshot::Sender<Reply>,
}

/// A control socket that is being served. Dropping it removes the socket.
#[derive(Debug)]
pub struct Server {
    socket: PathBuf,
    calls: mpsc::Sender<Call>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    /// Listens at `socket`; calls arrive at the returned receiver.
    ///
    /// A socket that nobody answers at is replaced, one that is in use is not, and neither is any other kind of file.
    ///
    /// # Errors
    /// Somebody else listens there, or the socket cannot be made.
    pub fn start(socket: &Path) -> io::Result<(Self, mpsc::Receiver<Call>)> {
        clear(socket)?;
        make_parent(socket)?;
        // Made under a name of its own and closed to others before anybody can find it.
        let fresh = socket.with_extension(format!("{}.new", std::process::id()));
        let _ = std::fs::remove_file(&fresh);
        let listener = UnixListener::bind(&fresh)?;
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&fresh, socket)?;
        let (calls, receiver) = mpsc::channel(MAX_CONNECTIONS);
        let task = tokio::spawn(accept(listener, calls.clone()));
        Ok((Self { socket: socket.to_owned(), calls, task }, receiver))
    }

    /// For calls that come another way, to the same receiver.
    #[must_use]
    pub fn calls(&self) -> mpsc::Sender<Call> {
        self.calls.clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// Removes a socket that nobody answers at.
fn clear(socket: &Path) -> io::Result<()> {
    let kind = match std::fs::symlink_metadata(socket) {
        Ok(meta) => meta.file_type(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    if !kind.is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket"));
    }
    match BlockingStream::connect(socket) {
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process answers there")),
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(socket),
        Err(e) => Err(e),
    }
}

async fn accept(listener: UnixListener, calls: mpsc::Sender<Call>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let calls = calls.clone();
                tokio::spawn(async move {
                    // A broken conversation is the client's business.
                    let _ = serve(stream, calls).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "control connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(stream: UnixStream, calls: mpsc::Sender<Call>) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut limited = (&mut read).take(MAX_LINE as u64);
        let length = match tokio::time::timeout(IDLE, limited.read_until(b'\n', &mut line)).await {
            Ok(length) => length?,
            Err(_) => return Ok(()),
        };
        if length == 0 {
            return Ok(());
        }
        let whole = line.ends_with(b"\n");
        let reply =
            if whole { answer(&line, &calls).await } else { Reply::Error("the request is too long".to_owned()) };
        let mut text = serde_json::to_vec(&reply)?;
        text.push(b'\n');
        write.write_all(&text).await?;
        if !whole {
            return Ok(());
        }
    }
}

async fn answer(line: &[u8], calls: &mpsc::Sender<Call>) -> Reply {
    let request = match serde_json::from_slice(line) {
        Ok(request) => request,
        Err(e) => return Reply::Error(format!("the request is not understood: {e}")),
    };
    let (reply, answer) = oneshot::channel();
    if calls.send(Call { request, reply }).await.is_err() {
        return Reply::Error("it is about to end".to_owned());
    }
    answer.await.unwrap_or_else(|_| Reply::Error("it ended before there was an answer".to_owned()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::control::Client;
    use crate::control::ClientError;
    use std::io::{Read, Write};

    /// A server that refuses everything but `status`, and the directory of its socket.
    async fn refusing(socket: &Path) -> Server {
        let (server, mut calls) = Server::start(socket).unwrap();
        tokio::spawn(async move {
            while let Some(call) = calls.recv().await {
                let reply = if let Request::Rekey { group, delete: None } = call.request {
                    Reply::of(&crate::control::RekeyStarted { rekey: group.len() as u64 })
                } else {
                    Reply::Error(format!("{:?}", call.request))
                };
                let _ = call.reply.send(reply);
            }
        });
        server
    }

    async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        tokio::task::spawn_blocking(work).await.unwrap()
    }

    #[tokio::test]
    async fn requests_are_answered_in_order_over_one_connection() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("deep/x.sock");
        let _server = refusing(&socket).await;
        assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::metadata(socket.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
        blocking(move || {
            let mut client = Client::connect(&socket).unwrap();
            assert_eq!(client.rekey("abc").unwrap(), 3);
            assert!(matches!(client.leave(), Err(ClientError::Refused(why)) if why == "Leave"));
            assert_eq!(client.rekey("ab").unwrap(), 2);
        })
        .await;
    }

    #[tokio::test]
    async fn nonsense_is_answered_and_endless_lines_are_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("x.sock");
        let _server = refusing(&socket).await;
        blocking(move || {
            let mut stream = BlockingStream::connect(&socket).unwrap();
            stream.write_all(b"{\"command\":\"rekey\"}\n").unwrap();
            let mut buffer = [0; 4096];
            let n = stream.read(&mut buffer).unwrap();
            assert!(std::str::from_utf8(&buffer[..n]).unwrap().contains("missing field `group`"));
            stream.write_all(b"{\"command\":\"rekey\",\"group\":\"x\",\"more\":1}\n").unwrap();
            let n = stream.read(&mut buffer).unwrap();
            assert!(std::str::from_utf8(&buffer[..n]).unwrap().contains("unknown field"));
            stream.write_all(&vec![b'x'; MAX_LINE]).unwrap();
            let mut rest = String::new();
            stream.read_to_string(&mut rest).unwrap();
            assert_eq!(rest, "{\"error\":\"the request is too long\"}\n");
        })
        .await;
    }

    #[tokio::test]
    async fn only_a_socket_that_nobody_answers_at_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("x.sock");
        let server = refusing(&socket).await;
        assert_eq!(Server::start(&socket).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(server);
        assert!(!socket.exists());
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        assert!(socket.exists());
        drop(Server::start(&socket).unwrap());
        std::fs::write(&socket, "precious").unwrap();
        assert_eq!(Server::start(&socket).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read_to_string(&socket).unwrap(), "precious");
    }
}
