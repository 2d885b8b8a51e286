//! The control socket: how `keyferry status`, `rekey`, `move` and their kin talk to a running gateway or member.
//!
//! A Unix stream socket of mode 0600. Each request is one line of JSON, each reply is one line of JSON:
//!
//! ```text
//!  {"command":"rekey","group":"branches"}            -> {"ok":7}
//!  {"command":"evict","group":"x","member":"10.0.0.9"} -> {"error":"there is no group \"x\" here"}
//! ```
//!
//! Programs use [`Client`]: `Client::connect(path)?.members(Some("branches"))?`.

mod client;
mod protocol;
mod server;

pub use client::{Client, ClientError};
pub use protocol::{
    DatagramCounters, Drained, Explained, FlowOf, GatewayStatus, GroupMember, GuardStatus, IkeSas, JoinedStatus,
    KeyLogStatus, MAX_LINE, MemberCounters, MemberStatus, NOT_SHOWN, RekeyStarted, Reply, Request, StreamStatus,
    TraceFilter, TraceStarted, TracedPacket, TracedPackets,
};
pub use server::{Call, Server};
