//! Options of the subcommands.

use std::path::PathBuf;

use keyferry_gateway::Delete;
use keyferry_model::id::GroupId;

use crate::config::{GATEWAY_SOCKET, IpProtocol, MEMBER_SOCKET, Network};

/// Where the configuration is.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ConfigArgs {
    /// The configuration; environment variables KEYFERRY__SECTION__KEY override its keys.
    #[arg(long, short, value_name = "FILE")]
    pub(super) config: PathBuf,
}

/// Options of `check`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct CheckArgs {
    /// The configuration, a gateway's or a member's.
    #[arg(value_name = "FILE")]
    pub(super) file: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    pub(super) json: bool,
}

/// What a rekey deletes.
#[derive(Clone, Copy, Debug, clap::Args)]
#[group(multiple = false)]
pub(super) struct DeleteArgs {
    /// Delete all traffic keys at once; new ones are used without delay.
    #[arg(long)]
    pub(super) delete_teks: bool,
    /// Delete the rekey SAs; all members register anew.
    #[arg(long)]
    pub(super) delete_kek: bool,
    /// Delete everything; all members register anew.
    #[arg(long)]
    pub(super) delete_all: bool,
}

impl DeleteArgs {
    pub(super) fn what(self) -> Option<Delete> {
        let wanted = [(self.delete_teks, Delete::Teks), (self.delete_kek, Delete::Kek), (self.delete_all, Delete::All)];
        wanted.into_iter().find_map(|(set, what)| set.then_some(what))
    }
}

/// How to reach a running gateway.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct GatewayArgs {
    /// The gateway's control socket.
    #[arg(long, value_name = "PATH", env = "KEYFERRY_SOCKET", default_value = GATEWAY_SOCKET)]
    pub(super) socket: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
}

/// How to reach a running member.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct MemberArgs {
    /// The member's control socket.
    #[arg(long, value_name = "PATH", env = "KEYFERRY_SOCKET", default_value = MEMBER_SOCKET)]
    pub(super) socket: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
}

/// How to reach whatever runs.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct EitherArgs {
    /// The control socket; the default is the gateway's, or the member's where no gateway has one.
    #[arg(long, value_name = "PATH", env = "KEYFERRY_SOCKET")]
    pub(super) socket: Option<PathBuf>,
}

impl EitherArgs {
    pub(super) fn socket(&self) -> PathBuf {
        let either = [GATEWAY_SOCKET, MEMBER_SOCKET].map(PathBuf::from);
        let there = || either.iter().find(|socket| socket.exists()).cloned();
        self.socket.clone().or_else(there).unwrap_or_else(|| PathBuf::from(GATEWAY_SOCKET))
    }
}

/// What `sa` shows.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct SaArgs {
    /// One group alone: a number, an address, or fqdn:NAME and its kin.
    #[arg(long, value_name = "GROUP")]
    pub(super) group: Option<GroupId>,
    /// Octets, directions and replay windows, too.
    #[arg(long)]
    pub(super) details: bool,
    #[command(flatten)]
    pub(super) member: MemberArgs,
}

/// Options of `key-log`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct KeyLogArgs {
    /// Where files named as Wireshark's tables go; made with mode 0700, or of that mode already.
    #[arg(value_name = "DIRECTORY", required_unless_present = "stop", conflicts_with = "stop")]
    pub(super) directory: Option<PathBuf>,
    /// How long: 30s, 5m, up to a day.
    #[arg(long, default_value = "10m", value_name = "TIME")]
    pub(super) time: humantime::Duration,
    /// End it before its time.
    #[arg(long)]
    pub(super) stop: bool,
    #[command(flatten)]
    pub(super) member: MemberArgs,
}

/// What `trace` looks at. What is left out matches everything.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct TraceArgs {
    /// One group alone.
    #[arg(long, value_name = "GROUP")]
    pub(super) group: Option<GroupId>,
    /// Where packets come from: an address or a network.
    #[arg(long, value_name = "NETWORK")]
    pub(super) source: Option<Network>,
    /// Where they go.
    #[arg(long, value_name = "NETWORK")]
    pub(super) destination: Option<Network>,
    /// Upper protocol: a number, udp, tcp, icmp, icmpv6 or sctp.
    #[arg(long)]
    pub(super) protocol: Option<IpProtocol>,
    /// Destination port.
    #[arg(long)]
    pub(super) port: Option<u16>,
    /// SPI of the protected packet, with 0x in hexadecimal.
    #[arg(long, value_parser = spi, conflicts_with = "dry_run")]
    pub(super) spi: Option<u32>,
    /// End after so many packets.
    #[arg(long, value_name = "N", conflicts_with = "dry_run")]
    pub(super) count: Option<u64>,
    /// End after this time: 30s, 5m.
    #[arg(long, value_name = "TIME", conflicts_with = "dry_run")]
    pub(super) timeout: Option<humantime::Duration>,
    /// Send nothing; say what would become of such a packet.
    #[arg(long, requires = "source", requires = "destination")]
    pub(super) dry_run: bool,
    /// Source port of a dry run; the default is the destination's.
    #[arg(long, value_name = "PORT", requires = "dry_run", requires = "port")]
    pub(super) source_port: Option<u16>,
    /// Octets of a dry run's packet.
    #[arg(long, value_name = "N", requires = "dry_run", default_value_t = 100)]
    pub(super) octets: usize,
    #[command(flatten)]
    pub(super) member: MemberArgs,
}

fn spi(text: &str) -> Result<u32, &'static str> {
    let number = text.strip_prefix("0x").map_or_else(|| text.parse(), |digits| u32::from_str_radix(digits, 16));
    number.map_err(|_| "it is no number of 32 bits, in hexadecimal with 0x")
}
