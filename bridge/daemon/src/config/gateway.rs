//! `[gateway]` and what belongs to it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use keyferry_gateway::ConnectionLimits;
use keyferry_model::credentials::Credentials;
use keyferry_model::id::Identity;
use keyferry_model::settings::Ike2Settings;

use super::certificates::{self, Certificates};
use super::checks;
use super::group::{self, GroupPlan};
use super::ike2;
use super::life::{self, GatewayLife};
use super::peers;
use super::phase1::{self, GatewayPhase1};
use super::redirect;
use super::section::Section;
use super::trust::TrustFiles;
use super::values::{Endpoint, PORT, TcpEndpoint};
use super::{GATEWAY_SOCKET, control};

/// Configuration of `keyferry serve`.
#[derive(Debug)]
pub struct GatewayConfig {
    /// Addresses to receive at.
    pub listen: Vec<SocketAddr>,
    /// Addresses to take TCP connections at; none takes none.
    pub listen_tcp: Vec<SocketAddr>,
    /// How many of them.
    pub connections: ConnectionLimits,
    /// Who the gateway says it is; `None` is the address it was reached at.
    pub identity: Option<Identity>,
    /// The store.
    pub store: PathBuf,
    /// The file of the master key that seals the store.
    pub master_key: PathBuf,
    /// The control socket.
    pub socket: PathBuf,
    /// Where metrics are offered, if at all.
    pub metrics: Option<SocketAddr>,
    /// IKE SAs without traffic are closed after this time.
    pub idle: Duration,
    /// The life of GDOI's phase 1.
    pub life: GatewayLife,
    /// How multicast rekeys leave.
    pub rekey: RekeySending,
    /// Bits of the RSA keys that sign rekeys.
    pub signing_bits: u32,
    /// What is taken in phase 1 of IKEv1 beyond the usual.
    pub phase1: GatewayPhase1,
    /// Algorithms of IKEv2.
    pub ike2: Ike2Settings,
    /// Where to write keys for Wireshark.
    pub key_log: Option<PathBuf>,
    /// Who may authenticate, and what we have to show.
    pub credentials: Credentials,
    /// Files that say whose certificates are trusted.
    pub trust: Option<TrustFiles>,
    /// The groups.
    pub groups: Vec<GroupPlan>,
}

/// How multicast rekeys leave the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RekeySending {
    /// Interface; `None` leaves it to the routes.
    pub interface: Option<String>,
    /// Source addresses, at most one of each family; none leaves it to the interface.
    pub source: Vec<IpAddr>,
    /// Routers that a rekey may pass, plus one.
    pub ttl: u8,
}

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

pub(super) fn read(root: &mut Section<'_>) -> Option<GatewayConfig> {
    let dangers = root.dangers();
    let (socket, metrics) = control(root, GATEWAY_SOCKET);
    let (peers, all_peers) = peers::read(root);
    let groups = group::read_all(root);
    let ike2 = ike2::gateway(root);
    let Some(mut section) = root.section("gateway") else {
        root.error("gateway", "the [gateway] table is missing", "add [gateway] with store = \"FILE\"");
        return None;
    };
    let default = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    let listen: Vec<SocketAddr> = match section.parsed_list::<Endpoint>("listen", "0.0.0.0:848") {
        Some(list) => list.into_iter().map(|e| e.0).collect(),
        // Rekeys leave by the first that fits.
        None => [PORT, gdoi::NAT_PORT].into_iter().flat_map(|p| default.map(|ip| SocketAddr::new(ip, p))).collect(),
    };
    checks::listen(&section, "listen", &listen);
    let listen_tcp: Option<Vec<TcpEndpoint>> = section.parsed_list("listen_tcp", "0.0.0.0:4500");
    let listen_tcp: Vec<SocketAddr> = listen_tcp.unwrap_or_default().into_iter().map(|e| e.0).collect();
    checks::listen(&section, "listen_tcp", &listen_tcp);
    let count = |n| usize::try_from(n).unwrap_or(usize::MAX);
    let connections = ConnectionLimits {
        total: count(section.number("tcp_connections", 1..=65_536, 4096)),
        per_address: count(section.number("tcp_connections_per_address", 1..=65_536, 64)),
    };
    let identity = section.parsed("identity", "gateway.example.org");
    let store = section.path("store").unwrap_or_else(|| PathBuf::from("/var/lib/keyferry/gateway.redb"));
    let master_key = section.path("master_key").unwrap_or_else(|| store.with_file_name("master.key"));
    let config = GatewayConfig {
        identity,
        master_key,
        socket,
        metrics,
        idle: section.duration("idle", Duration::from_secs(1)..=DAY, 5 * MINUTE),
        life: life::gateway(&mut section),
        rekey: RekeySending {
            interface: section.text("rekey_interface"),
            source: section.parsed_list("rekey_source", "192.0.2.1").unwrap_or_default(),
            ttl: u8::try_from(section.number("rekey_ttl", 1..=255, 16)).unwrap_or(u8::MAX),
        },
        signing_bits: section.number("signing_bits", 2048..=4096, 3072),
        phase1: phase1::gateway(&mut section, &dangers),
        ike2: Ike2Settings {
            redirect: redirect::gateway(&mut section),
            ticket_lifetime: life::ticket_lifetime(&mut section),
            ..ike2
        },
        key_log: section.path("key_log"),
        store,
        listen,
        listen_tcp,
        connections,
        credentials: Credentials::default(),
        trust: None,
        groups: Vec::new(),
    };
    let certificates = certificates::read(&mut section, peers.iter().any(checks::is_mixed));
    certificates.check_identity(&section, config.identity.as_ref());
    checks::certificates(&section, &certificates, &peers, all_peers);
    if !config.signing_bits.is_multiple_of(256) {
        section.error("signing_bits", "is an odd size for an RSA key", "2048, 3072 or 4096");
    }
    if config.master_key == config.store {
        section.error("master_key", "is the store itself", "name another file, best on another volume");
    }
    checks::rekey_sending(&section, &config.rekey);
    if config.key_log.is_some() {
        section.warning("key_log", "whoever reads that directory reads everything", "remove it outside the laboratory");
    }
    section.finish();
    checks::groups(root, &groups, &config);
    if all_peers {
        checks::members(&groups, &peers);
    }
    let Certificates { own, trust, files } = certificates;
    let credentials =
        Credentials::new(peers).with_own(own).with_danger_sha1_signatures(config.ike2.danger_sha1_signatures);
    Some(GatewayConfig {
        credentials: match trust {
            Some(trust) => credentials.with_trust(trust),
            None => credentials,
        },
        trust: files,
        groups: groups.into_iter().map(|g| g.plan).collect(),
        ..config
    })
}
