//! The client's side, without a runtime: commands and test benches use it as it is.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use keyferry_gateway::{Delete, Reloaded};
use keyferry_model::id::{GroupId, Identity, Protocol};
use keyferry_model::view::RekeyView;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::protocol::{
    Drained, Explained, FlowOf, GatewayStatus, GroupMember, MemberStatus, RekeyStarted, Reply, Request, TraceFilter,
    TraceStarted, TracedPackets,
};

/// Longest reply, in octets: the members of a large fleet.
const MAX_REPLY: u64 = 256 << 20;

/// How long a reply may take. A move waits for the other key server's answer.
const PATIENCE: Duration = Duration::from_secs(120);

/// Why a request was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens at the socket.
    #[error("{socket}: {error}: is it running, is this its socket (--socket), and may this user use it?")]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The conversation broke off.
    #[error("{socket}: {error}")]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The reply makes no sense.
    #[error("{socket}: the reply is not understood ({error}): do both sides have the same version?")]
    Reply {
        /// The socket.
        socket: PathBuf,
        /// What is wrong with it.
        error: serde_json::Error,
    },
    /// The running process refused.
    #[error("{0}")]
    Refused(String),
}

/// A connection to a running gateway or member. Requests are answered in their order.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to a control socket.
    ///
    /// # Errors
    /// Nobody listens there, or this user may not.
    pub fn connect(socket: &Path) -> Result<Self, ClientError> {
        let connected = UnixStream::connect(socket).and_then(|s| {
            s.set_read_timeout(Some(PATIENCE))?;
            s.set_write_timeout(Some(PATIENCE))?;
            Ok(s)
        });
        match connected {
            Ok(stream) => Ok(Self { socket: socket.to_owned(), stream: BufReader::new(stream) }),
            Err(error) => Err(ClientError::Connect { socket: socket.to_owned(), error }),
        }
    }

    /// Sends a request and waits for its reply.
    ///
    /// # Errors
    /// The request was refused, or the conversation broke off.
    pub fn call(&mut self, request: &Request) -> Result<Value, ClientError> {
        let line =
            self.exchange(request).map_err(|error| ClientError::Broken { socket: self.socket.clone(), error })?;
        match serde_json::from_str(&line) {
            Ok(Reply::Ok(value)) => Ok(value),
            Ok(Reply::Error(why)) => Err(ClientError::Refused(why)),
            Err(error) => Err(ClientError::Reply { socket: self.socket.clone(), error }),
        }
    }

    fn exchange(&mut self, request: &Request) -> io::Result<String> {
        let mut line = serde_json::to_string(request)?;
        line.push('\n');
        self.stream.get_mut().write_all(line.as_bytes())?;
        let mut reply = String::new();
        self.stream.by_ref().take(MAX_REPLY).read_line(&mut reply)?;
        match reply.ends_with('\n') {
            true => Ok(reply),
            false => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it hung up without an answer")),
        }
    }

    /// Both answer to the same request, and people mix up their sockets.
    fn status_of<T: DeserializeOwned>(&mut self, wanted: &str) -> Result<T, ClientError> {
        let status = self.call(&Request::Status)?;
        match status.get("role").and_then(Value::as_str) {
            Some(role) if role != wanted => Err(ClientError::Refused(format!(
                "this is a {role}; {wanted}s do that (--socket names a {wanted}'s socket)"
            ))),
            _ => self.read(status),
        }
    }

    fn get<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, ClientError> {
        let value = self.call(request)?;
        self.read(value)
    }

    fn read<T: DeserializeOwned>(&self, value: Value) -> Result<T, ClientError> {
        serde_json::from_value(value).map_err(|error| ClientError::Reply { socket: self.socket.clone(), error })
    }

    /// Status of a gateway.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn status(&mut self) -> Result<GatewayStatus, ClientError> {
        self.status_of("gateway")
    }

    /// What monitoring reads of a gateway or member, in Prometheus' text format.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn metrics(&mut self) -> Result<String, ClientError> {
        self.get(&Request::Metrics)
    }

    /// Members of a gateway's group, or of all groups.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn members(&mut self, group: Option<&str>) -> Result<Vec<GroupMember>, ClientError> {
        self.get(&Request::Members { group: group.map(str::to_owned) })
    }

    /// The last rekeys of a gateway's group, oldest first.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn rekeys(&mut self, group: &str) -> Result<Vec<RekeyView>, ClientError> {
        self.get(&Request::Rekeys { group: group.to_owned() })
    }

    /// Rekeys a gateway's group; returns the number of the rekey.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn rekey(&mut self, group: &str) -> Result<u64, ClientError> {
        self.rekey_deleting(group, None)
    }

    /// The same, with keys deleted.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn rekey_deleting(&mut self, group: &str, delete: Option<Delete>) -> Result<u64, ClientError> {
        self.get::<RekeyStarted>(&Request::Rekey { group: group.to_owned(), delete }).map(|r| r.rekey)
    }

    /// Makes a gateway read its configuration again.
    ///
    /// # Errors
    /// As [`call`](Self::call); what is wrong with the configuration.
    pub fn reload(&mut self) -> Result<Reloaded, ClientError> {
        self.get(&Request::Reload)
    }

    /// Evicts a member of a gateway's group; returns the number of the rekey that excludes it.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn evict(&mut self, group: &str, member: &Identity) -> Result<u64, ClientError> {
        let request = Request::Evict { group: group.to_owned(), member: member.clone() };
        self.get::<RekeyStarted>(&request).map(|r| r.rekey)
    }

    /// Lets an evicted member of a gateway's group register again.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn readmit(&mut self, group: &str, member: &Identity) -> Result<(), ClientError> {
        self.call(&Request::Readmit { group: group.to_owned(), member: member.clone() }).map(|_| ())
    }

    /// Has a gateway send members to other gateways, or no more; returns how many are told over their IKE SAs.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn drain(&mut self, begin: bool) -> Result<usize, ClientError> {
        self.get::<Drained>(&Request::Drain { begin }).map(|d| d.told)
    }

    /// Status of a member.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn member_status(&mut self) -> Result<MemberStatus, ClientError> {
        self.status_of("member")
    }

    /// Moves a member to the other protocol; returns when it is registered there.
    ///
    /// # Errors
    /// As [`call`](Self::call). The member stays with its protocol then.
    pub fn move_to(&mut self, to: Protocol) -> Result<(), ClientError> {
        self.call(&Request::Move { to }).map(|_| ())
    }

    /// Has a member take note of packets.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn trace(&mut self, group: Option<&GroupId>, filter: TraceFilter) -> Result<TraceStarted, ClientError> {
        self.get(&Request::TraceStart { group: group.cloned(), filter })
    }

    /// What a trace has taken note of since the last time.
    ///
    /// # Errors
    /// As [`call`](Self::call); the trace has ended.
    pub fn traced(&mut self, trace: u64) -> Result<TracedPackets, ClientError> {
        self.get(&Request::TraceRead { trace })
    }

    /// Ends a trace.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn end_trace(&mut self, trace: u64) -> Result<(), ClientError> {
        self.call(&Request::TraceStop { trace }).map(|_| ())
    }

    /// What would become of a packet.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn explain(&mut self, group: Option<&GroupId>, flow: FlowOf) -> Result<Vec<Explained>, ClientError> {
        self.get(&Request::Explain { group: group.cloned(), flow })
    }

    /// Has a member log the keys of data SAs installed from now on, for a while, or no more; returns for how many groups.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn key_log(&mut self, directory: Option<&Path>, time: Duration) -> Result<usize, ClientError> {
        self.get(&Request::KeyLog { directory: directory.map(Path::to_owned), seconds: time.as_secs() })
    }

    /// Makes a member leave its group.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn leave(&mut self) -> Result<(), ClientError> {
        self.call(&Request::Leave).map(|_| ())
    }
}
