//! Requests, replies and what is in them.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use keyferry_gateway::Delete;
use keyferry_model::id::{GroupId, Identity, Protocol};
use keyferry_model::view::{GroupView, MemberView};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Longest request, in octets with its line end.
pub const MAX_LINE: usize = 16 * 1024;

/// What can be asked of a running gateway or member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// A gateway's [`GatewayStatus`], or a member's [`MemberStatus`].
    Status,
    /// What monitoring reads of either, in Prometheus' text format: one text.
    Metrics,
    /// Gateway: members of one group or of all, as a list of [`GroupMember`].
    Members {
        /// Name of the group; none is all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        group: Option<String>,
    },
    /// Gateway: the last rekeys of a group, as a list of [`RekeyView`](keyferry_model::view::RekeyView), oldest first.
    Rekeys {
        /// Name of the group.
        group: String,
    },
    /// Gateway: rekey now; answered by [`RekeyStarted`].
    Rekey {
        /// Name of the group.
        group: String,
        /// What is deleted; none is an ordinary rekey.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        delete: Option<Delete>,
    },
    /// Gateway: read the configuration again; answered by [`Reloaded`](keyferry_gateway::Reloaded).
    Reload,
    /// Gateway: exclude a member for good; answered by [`RekeyStarted`].
    Evict {
        /// Name of the group.
        group: String,
        /// The member.
        member: Identity,
    },
    /// Gateway: let an evicted member register again.
    Readmit {
        /// Name of the group.
        group: String,
        /// The member.
        member: Identity,
    },
    /// Gateway: send members to other gateways, or no more; answered by [`Drained`].
    Drain {
        /// Begin, or end?
        begin: bool,
    },
    /// Member: change to the other protocol without losing a packet. Answered when it is done or has failed.
    Move {
        /// The protocol to change to.
        to: Protocol,
    },
    /// Member: take note of packets from now on; answered by [`TraceStarted`]. It ends when nobody reads for a few seconds.
    TraceStart {
        /// One group alone.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        group: Option<GroupId>,
        /// Which packets.
        #[serde(default)]
        filter: TraceFilter,
    },
    /// Member: what came since the last time; answered by [`TracedPackets`].
    TraceRead {
        /// Which trace.
        trace: u64,
    },
    /// Member: end a trace.
    TraceStop {
        /// Which trace.
        trace: u64,
    },
    /// Member: what would become of a packet, without sending one, as a list of [`Explained`].
    Explain {
        /// One group alone.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        group: Option<GroupId>,
        /// The packet.
        flow: FlowOf,
    },
    /// Member: give the keys of data SAs installed from now on to a log for Wireshark, or end that; answered by the number of
    /// groups. Whoever may use the control socket is who runs the process, and could read its keys anyway.
    KeyLog {
        /// Directory of this process' user alone; none ends it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        directory: Option<PathBuf>,
        /// Seconds until it ends by itself.
        #[serde(default)]
        seconds: u64,
    },
    /// Member: leave the group; the process stays until it is stopped.
    Leave,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reply {
    /// It was done; what was asked for.
    Ok(Value),
    /// It was not done; why.
    Error(String),
}

impl Reply {
    /// A reply that carries a value.
    #[must_use]
    pub fn of<T: Serialize>(value: &T) -> Self {
        match serde_json::to_value(value) {
            Ok(value) => Reply::Ok(value),
            Err(e) => Reply::Error(format!("the answer cannot be put into words: {e}")),
        }
    }
}

impl<T: Serialize, E: std::fmt::Display> From<Result<T, E>> for Reply {
    fn from(result: Result<T, E>) -> Self {
        match result {
            Ok(value) => Reply::of(&value),
            Err(e) => Reply::Error(e.to_string()),
        }
    }
}

/// What became of a wish to send members elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    /// Members with an IKE SA that are told.
    pub told: usize,
}

/// A gateway at a glance.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GatewayStatus {
    /// Always `gateway`.
    pub role: String,
    /// Version of the program.
    pub version: String,
    /// Seconds since it was started.
    pub uptime: u64,
    /// Addresses it receives at.
    pub listen: Vec<SocketAddr>,
    /// Are members sent to other gateways?
    pub drained: bool,
    /// Rekeys of one protocol that could not be told, or not whole, since the start: members must register anew.
    #[serde(default)]
    pub rekeys_unmade: u64,
    /// Addresses it takes TCP connections at.
    #[serde(default)]
    pub listen_tcp: Vec<SocketAddr>,
    /// TCP connections that are open.
    #[serde(default)]
    pub connections: usize,
    /// SAs that members have with it.
    #[serde(default)]
    pub ike_sas: IkeSas,
    /// Its groups.
    pub groups: Vec<GroupView>,
    /// What it received and what became of it.
    pub datagrams: DatagramCounters,
}

/// SAs of the protocols themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IkeSas {
    /// Phase 1 SAs of GDOI.
    pub gdoi: usize,
    /// IKE SAs of G-IKEv2.
    pub gikev2: usize,
}

/// Datagrams of a gateway. The protocols' counters are objects of names and numbers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DatagramCounters {
    /// GDOI endpoint.
    pub gdoi: Value,
    /// G-IKEv2 endpoint.
    pub gikev2: Value,
    /// Belonged to neither.
    pub neither: u64,
    /// Dropped because too many were waiting.
    pub overrun: u64,
    /// Could not be sent.
    pub unsent: u64,
}

/// A member and its group.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GroupMember {
    /// Name of the group.
    pub group: String,
    /// The member.
    #[serde(flatten)]
    pub member: MemberView,
}

/// A rekey that was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RekeyStarted {
    /// Its number within the group, for `keyferry rekeys`.
    pub rekey: u64,
}

/// A member at a glance.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Always `member`.
    pub role: String,
    /// Version of the program.
    pub version: String,
    /// Seconds since it was started.
    pub uptime: u64,
    /// Protocol it registered by, or is trying to.
    pub protocol: Protocol,
    /// Protocol it is moving to, while it does.
    pub moving_to: Option<Protocol>,
    /// State of the protocol's machine, in a word or two.
    pub state: String,
    /// Does it have the keys of all its groups?
    pub registered: bool,
    /// Who it is.
    pub identity: Identity,
    /// Its address and port.
    pub local: SocketAddr,
    /// The key server in use.
    pub gateway: SocketAddr,
    /// All key servers, in the order in which they are tried.
    pub gateways: Vec<SocketAddr>,
    /// Where it listens for rekeys besides its own address.
    pub listening: Vec<SocketAddr>,
    /// Datagrams dropped because too many were waiting.
    pub overrun: u64,
    /// What happened so far.
    pub counters: MemberCounters,
    /// Why the last attempt failed, if it did.
    pub last_error: Option<String>,
    /// Where keys of data SAs go for a while, since somebody asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_log: Option<KeyLogStatus>,
    /// The protocol machine's own view.
    pub machine: Value,
    /// Its groups, in the configuration's order.
    pub groups: Vec<JoinedStatus>,
}

/// Keys that are logged for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyLogStatus {
    /// Where.
    pub directory: PathBuf,
    /// Seconds left.
    pub remaining: u64,
}

/// A group of a member.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JoinedStatus {
    /// Its identity.
    pub group: GroupId,
    /// Are there keys of it?
    pub registered: bool,
    /// What protects its traffic, by name; `None` takes streams alone.
    pub engine: Option<String>,
    /// Why it is not the kernel's ESP, where it might have been.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub declined: Option<String>,
    /// Why nothing keeps clear packets of protected groups away that go past the TUN device, where something should.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unguarded: Option<String>,
    /// The packet filter that keeps them away, where one is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<GuardStatus>,
    /// Its TUN device, if its engine has one.
    pub tun: Option<String>,
    /// IEC 61850 streams whose keys are handed on, oldest first.
    pub streams: Vec<StreamStatus>,
    /// The data plane: its SAs and what they carried; `null` without one.
    pub dataplane: Value,
}

/// A packet filter that keeps clear packets away, and what it has dropped since the member's start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardStatus {
    /// Name of its table in nftables.
    pub table: String,
    /// Packets that came in clear.
    pub dropped_in: u64,
    /// Packets that were to leave in clear.
    pub dropped_out: u64,
    /// Why these numbers are not up to date, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uncounted: Option<String>,
}

/// An IEC 61850 stream of a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamStatus {
    /// SPI in hexadecimal with `0x`.
    pub spi: String,
    /// OID and payload.
    pub name: String,
    /// Name of the cipher.
    pub encryption: String,
    /// Name of the authentication.
    pub authentication: String,
    /// May the keys be used yet?
    pub active: bool,
    /// Seconds left; `None` never ends.
    pub remaining: Option<u64>,
    /// Per cent of the members that have the keys, if the key server said so.
    pub delivered: Option<u8>,
}

/// Packets to take note of. What is left out matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TraceFilter {
    /// Network they come from: address and prefix length.
    pub source: Option<(IpAddr, u8)>,
    /// Network they go to.
    pub destination: Option<(IpAddr, u8)>,
    /// Upper protocol; 0 is any.
    pub protocol: u8,
    /// Destination port; 0 is any.
    pub port: u16,
    /// SPI of the protected packet.
    pub spi: Option<u32>,
}

/// A trace that was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceStarted {
    /// Which.
    pub trace: u64,
    /// The groups whose packets are taken note of.
    pub groups: Vec<GroupId>,
    /// Those whose packets this process never sees.
    #[serde(default)]
    pub without: Vec<GroupId>,
}

/// Why there is no trace where the kernel protects the traffic, and what there is instead.
pub const NOT_SHOWN: &str = "the kernel shows no packet on its way to this process. keyferry trace --dry-run says what would \
    become of one, keyferry sa counts them by SA, and tcpdump -ni INTERFACE esp shows them on the wire";

/// Packets, oldest first.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TracedPackets {
    /// What became of each.
    pub packets: Vec<TracedPacket>,
    /// Further ones that there was no room for.
    pub missed: u64,
}

/// A packet and what the data plane did with it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TracedPacket {
    /// The group.
    pub group: GroupId,
    /// What the data plane says of it (`TracedStatus`).
    #[serde(flatten)]
    pub packet: Value,
}

/// A packet that there might be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowOf {
    /// Source.
    pub source: IpAddr,
    /// Destination.
    pub destination: IpAddr,
    /// Upper protocol.
    pub protocol: u8,
    /// Source and destination port, of protocols that have them.
    pub ports: Option<(u16, u16)>,
    /// Octets of the whole packet.
    pub octets: usize,
}

/// What would become of a packet in a group.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Explained {
    /// The group.
    pub group: GroupId,
    /// What the data plane says (`Explanation`); `null` if it is not this process that decides.
    pub explanation: Value,
}

/// What happened to a member since it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberCounters {
    /// Registrations that succeeded.
    pub registrations: u64,
    /// Rekey messages accepted.
    pub rekeys: u64,
    /// Rekey messages acknowledged.
    pub acknowledgements: u64,
    /// Exclusions and deletions of everything by the key server.
    pub exclusions: u64,
    /// Refusals by the key server.
    pub refusals: u64,
    /// Exchanges that the key server never answered.
    pub unanswered: u64,
    /// Moves to the other protocol.
    pub moves: u64,
}
