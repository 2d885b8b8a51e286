//! `[member]`.

use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU8, NonZeroU32};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dataplane::engine::Wire;
use dataplane::{MAX_WINDOW, MIN_WINDOW, Rule, Sizes};
use keyferry_crypto::x509::DistinguishedName;
use keyferry_crypto::{Hash, KeGroup, KeyKind, Secret};
use keyferry_model::credentials::OwnCertificate;
use keyferry_model::flows::Flows;
use keyferry_model::id::{GroupId, Identity, Protocol};
use keyferry_model::key_server::KeyServer;
use keyferry_model::settings::{
    CertificateAuth, GdoiSettings, Gikev2Settings, Ike2Settings, MemberAuth, MixedAuth, Phase1Settings,
    TrafficSettings, Transport,
};

use super::certificates::{self, Certificates};
use super::ike2;
use super::phase1;
use super::redirect;
use super::rules;
use super::section::Section;
use super::trust::TrustFiles;
use super::values::{Accepted, Endpoint, Network, PORT, Subject, TCP_PORT};
use super::{MEMBER_SOCKET, control, life, secrets, sizes};

/// Configuration of `keyferry member`.
#[derive(Debug)]
pub struct MemberConfig {
    /// The key servers, in the order in which they are tried. Each must be who the configuration says; its address unless
    /// said otherwise, so that another holder of the key is not taken for it.
    pub gateways: Vec<KeyServer>,
    /// Further ones, which are turned to only when one of them says so.
    pub reserve: Vec<KeyServer>,
    /// The groups to join, the first of them first, over one phase 1 SA or IKE SA.
    pub groups: Vec<MemberGroup>,
    /// The protocol to start with.
    pub protocol: Protocol,
    /// Go on by GDOI when nobody serves us by G-IKEv2.
    pub fallback: bool,
    /// Who we are; `None` is the local address.
    pub identity: Option<Identity>,
    /// How we and the key server prove who we are.
    pub auth: MemberAuth,
    /// Files that say whose certificates are trusted.
    pub trust: Option<TrustFiles>,
    /// Local address; `None` is the one that the routes give to what goes to the gateway.
    pub address: Option<IpAddr>,
    /// Local port.
    pub port: u16,
    /// Sender IDs to ask for; zero only receives.
    pub sender_ids: u32,
    /// Interface that protected traffic uses; `None` is the one with the local address.
    pub interface: Option<String>,
    /// MTU of TUN devices; `None` leaves room for ESP in the interface's.
    pub mtu: Option<u16>,
    /// The largest IP packet that the path takes, where that is less than the interface does.
    pub path_mtu: Option<u16>,
    /// What is done about the sizes of protected packets.
    pub sizes: Sizes,
    /// Packets a second that leave at least by each SA.
    pub dummies: Option<NonZeroU32>,
    /// Packets of the replay windows, where there are any.
    pub replay_window: u32,
    /// Queues of TUN devices, each with a thread.
    pub queues: NonZeroU8,
    /// Use the segmentation offloads of TUN devices?
    pub tun_offloads: bool,
    /// Threads that open what is received.
    pub receive_threads: NonZeroU8,
    /// How protected packets go out.
    pub wire: Wire,
    /// Keep clear packets away that go past the TUN device?
    pub guard: GuardChoice,
    /// Route what the group's policy protects into the TUN device?
    pub routes: bool,
    /// Leave the group when the process ends?
    pub leave_on_exit: bool,
    /// Key exchange groups, best first.
    pub ke_groups: Vec<KeGroup>,
    /// Hashes, best first.
    pub hashes: Vec<Hash>,
    /// What is particular to IKEv1's phase 1.
    pub phase1: Phase1Settings,
    /// Put a non-ESP marker in front of what is sent.
    pub marker: bool,
    /// What is taken from a key server of GDOI beyond the usual.
    pub gdoi: GdoiSettings,
    /// What is offered to a key server of G-IKEv2 beyond the usual.
    pub gikev2: Gikev2Settings,
    /// Establish the phase 1 or IKE SA and stop there.
    pub connect_only: bool,
    /// First retransmission after this long.
    pub retransmit: Duration,
    /// Retransmissions before an exchange is given up.
    pub tries: u8,
    /// Least pause before registering again after a failure.
    pub retry: Duration,
    /// Most delay of an acknowledgement.
    pub ack_jitter: Duration,
    /// How GDOI's phase 1 is made and kept.
    pub life: gdoi::Phase1Options,
    /// What the key server may decide about traffic.
    pub traffic: TrafficSettings,
    /// How IKE SAs of G-IKEv2 are kept.
    pub ike: gikev2::IkeOptions,
    /// Algorithms of IKEv2.
    pub ike2: Ike2Settings,
    /// The control socket.
    pub socket: PathBuf,
    /// Where metrics are offered, if at all.
    pub metrics: Option<SocketAddr>,
    /// Where to write keys for Wireshark.
    pub key_log: Option<PathBuf>,
}

/// A group that a member joins, and where its traffic and its keys go.
#[derive(Clone, Debug)]
pub struct MemberGroup {
    /// Its identity.
    pub id: GroupId,
    /// What protects its traffic.
    pub engine: EngineChoice,
    /// Name of its TUN device, if its engine makes one; `None` takes no traffic, but IEC 61850 streams alone.
    pub tun: Option<String>,
    /// Networks routed into the TUN device from the start, so that nothing for them leaves in clear before keys are there.
    pub protect: Vec<(IpAddr, u8)>,
    /// The member's own rules, in front of the group's policy.
    pub rules: Vec<Rule>,
    /// Send what the group protects in clear while there are no keys for it?
    pub danger_clear_without_keys: bool,
    /// Multicast addresses to receive when the group's policy covers whole networks; it says the single ones itself.
    pub join: Vec<IpAddr>,
    /// Where keys of IEC 61850 streams are handed on.
    pub stream_keys: Option<PathBuf>,
    /// Hand on streams that nothing protects?
    pub danger_unprotected_streams: bool,
}

/// Whether a packet filter keeps clear packets of protected groups away that go past the TUN device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GuardChoice {
    /// If it can be.
    #[default]
    Auto,
    /// Without it nothing is protected.
    Required,
    /// The owner sees to it.
    Off,
}

impl GuardChoice {
    const NAMES: [(&str, Self); 3] = [("auto", Self::Auto), ("required", Self::Required), ("off", Self::Off)];
}

/// What protects a group's traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// The kernel where it has ESP and can do what the group's policy wants, else this process.
    #[default]
    Auto,
    /// This process, by a TUN device.
    Userspace,
    /// The kernel, or nothing.
    Kernel,
    /// Nothing: the member has keys alone.
    None,
}

impl EngineChoice {
    const NAMES: [(&str, Self); 4] =
        [("auto", Self::Auto), ("userspace", Self::Userspace), ("kernel", Self::Kernel), ("none", Self::None)];

    /// May there be a TUN device?
    fn has_device(self) -> bool {
        matches!(self, Self::Auto | Self::Userspace)
    }
}

/// Groups of one member at most.
const MAX_GROUPS: usize = 64;

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

pub(super) fn read(root: &mut Section<'_>) -> Option<MemberConfig> {
    let dangers = root.dangers();
    let (socket, metrics) = control(root, MEMBER_SOCKET);
    let ike2 = ike2::member(root);
    let Some(mut section) = root.section("member") else {
        let remedy = "add [member] with gateway = \"ADDRESS\", group = NUMBER and psk_file = \"FILE\"";
        root.error("member", "the [member] table is missing", remedy);
        return None;
    };
    if !section.has("gateway") {
        // Says that it is missing.
        let _: Option<Endpoint> = section.required("gateway", "192.0.2.1");
    }
    let gateways = key_servers(&mut section, "gateway", "gateway_identity");
    let reserve = key_servers(&mut section, "redirect_gateway", "redirect_gateway_identity");
    let protocol =
        section.choice("protocol", &[("gikev2", Protocol::Gikev2), ("gdoi", Protocol::Gdoi)], Protocol::Gikev2);
    let groups = groups(&mut section, protocol);
    let identity: Option<Identity> = section.parsed("identity", "10.0.0.1");
    let (auth, trust) = auth(&mut section, protocol, identity.as_ref());
    let sender = section.flag("sender", true);
    let sender_ids = section.number("sender_ids", 1..=1024, 1);
    let address: Option<IpAddr> = section.parsed("address", "10.0.0.1");
    let phase1 = phase1::member(&mut section, &dangers);
    let life = life::member(&mut section);
    let (sizes, path_mtu) = sizes::member(&mut section);
    let follows = redirect::member(&mut section, protocol, (&gateways, &reserve));
    let config = MemberConfig {
        gateways,
        reserve,
        groups,
        protocol,
        fallback: section.choice("fallback", &[("none", false), ("gdoi", true)], false),
        identity,
        auth: auth.clone().unwrap_or_else(|| MemberAuth::Psk(Arc::new(Secret::new(Vec::new())))),
        trust,
        address,
        port: u16::try_from(section.number("port", 1..=65_535, u32::from(PORT))).unwrap_or(PORT),
        sender_ids: if sender { sender_ids } else { 0 },
        interface: section.text("interface"),
        // Zero is no MTU, so it says that there is none.
        mtu: u16::try_from(section.number("mtu", 576..=9000, 0)).ok().filter(|m| *m > 0),
        path_mtu,
        sizes,
        dummies: NonZeroU32::new(section.number("dummies", 0..=10_000, 0)),
        replay_window: section.number("replay_window", MIN_WINDOW..=MAX_WINDOW, MIN_WINDOW),
        queues: threads(&mut section, "queues"),
        tun_offloads: section.flag("tun_offloads", true),
        receive_threads: threads(&mut section, "receive_threads"),
        wire: section.choice("wire", &[("auto", Wire::Auto), ("link", Wire::Link), ("raw", Wire::Raw)], Wire::Auto),
        guard: section.choice("guard", &GuardChoice::NAMES, GuardChoice::Auto),
        routes: section.flag("routes", true),
        leave_on_exit: section.flag("leave_on_exit", false),
        ke_groups: phase1.ke_groups,
        hashes: phase1.hashes,
        phase1: phase1.settings,
        gdoi: GdoiSettings {
            danger_weak_rekey: section.flag("danger_weak_rekey", false),
            accept_unknown_kek_attributes: section.flag("accept_unknown_kek_attributes", false),
        },
        gikev2: Gikev2Settings { ack: section.flag("ack_rekeys", false), transport: transport(&mut section) },
        marker: section.flag("marker", false),
        connect_only: section.flag("connect_only", false),
        retransmit: section.duration("retransmit", 100 * MILLISECOND..=60 * SECOND, SECOND),
        tries: u8::try_from(section.number("tries", 1..=20, 5)).unwrap_or(5),
        retry: section.duration("retry", 100 * MILLISECOND..=3600 * SECOND, 10 * SECOND),
        // RFC 8263 section 6 allows five seconds at most.
        ack_jitter: section.duration("ack_jitter", Duration::ZERO..=5 * SECOND, SECOND),
        traffic: TrafficSettings {
            tunnel_destination: section.parsed("tunnel_destination", "239.255.0.1"),
            accept: accept(&mut section),
        },
        ike: life::member_ike(&mut section, &life),
        life,
        ike2: Ike2Settings { follows, resume: section.flag("resume", false), ..ike2 },
        socket,
        metrics,
        key_log: section.path("key_log"),
    };
    check(&section, &config);
    phase1::check_member_sends(&section, config.phase1.sends, &config.auth, config.life.nat_port.is_some());
    section.finish();
    (!config.gateways.is_empty() && !config.groups.is_empty() && auth.is_some()).then_some(config)
}

fn threads(section: &mut Section<'_>, key: &'static str) -> NonZeroU8 {
    let number = u8::try_from(section.number(key, 1..=8, 1));
    number.ok().and_then(NonZeroU8::new).unwrap_or(NonZeroU8::MIN)
}

/// What IKE SAs go over.
fn transport(section: &mut Section<'_>) -> Transport {
    let port = u16::try_from(section.number("tcp_port", 1..=65_535, u32::from(TCP_PORT))).unwrap_or(TCP_PORT);
    let kinds = [("udp", Transport::Udp), ("tcp", Transport::Tcp(port)), ("auto", Transport::UdpThenTcp(port))];
    let transport = section.choice("transport", &kinds, Transport::Udp);
    if transport == Transport::Udp && section.named_key("tcp_port") {
        section.error("tcp_port", "is of no use over UDP", "add transport = \"auto\" or \"tcp\", or remove the key");
    }
    transport
}

/// What the key server may decide about.
fn accept(section: &mut Section<'_>) -> Flows {
    if !section.has("accept_traffic") {
        section.ignore("accept_traffic");
        return Flows::default();
    }
    let accepted: Vec<Accepted> = section.parsed_list("accept_traffic", "multicast").unwrap_or_default();
    Flows(accepted.into_iter().flat_map(|a| a.0).collect())
}

/// The group of `[member]` itself, and those of `[[member.further]]`.
fn groups(section: &mut Section<'_>, protocol: Protocol) -> Vec<MemberGroup> {
    let further = section.sections("further");
    if further.len() >= MAX_GROUPS {
        section.error("further", format!("these are more than {MAX_GROUPS} groups"), "run another member for the rest");
    }
    let mut groups: Vec<MemberGroup> = Vec::new();
    let engine = section.choice("engine", &EngineChoice::NAMES, EngineChoice::Auto);
    groups.extend(group(section, (protocol, engine), 0, &[]));
    for (i, mut section) in further.into_iter().enumerate() {
        let engine = section.choice("engine", &EngineChoice::NAMES, engine);
        groups.extend(group(&mut section, (protocol, engine), i + 1, &groups));
        section.finish();
    }
    // Whoever says how the device is to be wants one.
    let shapes = [
        "mtu",
        "queues",
        "tun_offloads",
        "receive_threads",
        "wire",
        "routes",
        "path_mtu",
        "fragment",
        "df",
        "tfc",
        "dummies",
    ];
    if shapes.iter().any(|key| section.named_key(key)) {
        let device = |group: &mut MemberGroup| {
            if group.engine == EngineChoice::Auto {
                group.engine = EngineChoice::Userspace;
            }
        };
        groups.iter_mut().for_each(device);
    }
    if groups.iter().all(|g| g.tun.is_none() || !g.engine.has_device()) {
        for key in shapes.into_iter().filter(|key| section.named_key(key)) {
            section.error(key, "is about TUN devices, and there are none", "remove it");
        }
    }
    groups
}

fn group(
    section: &mut Section<'_>,
    (protocol, engine): (Protocol, EngineChoice),
    at: usize,
    others: &[MemberGroup],
) -> Option<MemberGroup> {
    let id: Option<GroupId> = section.required("group", "1234");
    let streams_only = section.flag("streams_only", false);
    let given = section.text("tun");
    let tun = given.clone().unwrap_or_else(|| format!("kf{at}"));
    let networks: Vec<Network> = section.parsed_list("protect", "239.192.0.0/16").unwrap_or_default();
    let mut group = MemberGroup {
        id: id?,
        engine,
        tun: (!streams_only).then_some(tun),
        protect: networks.iter().map(|n| (n.address, n.prefix)).collect(),
        join: section.parsed_list("join", "239.192.0.7").unwrap_or_default(),
        rules: rules::read(section),
        danger_clear_without_keys: section.flag("danger_clear_without_keys", false),
        stream_keys: section.path("stream_keys"),
        danger_unprotected_streams: section.flag("danger_unprotected_streams", false),
    };
    // Whoever names the device wants one, and rules of one's own are about it.
    let own = !group.rules.is_empty() || group.danger_clear_without_keys;
    if engine == EngineChoice::Auto && (given.is_some() || own) {
        group.engine = EngineChoice::Userspace;
    }
    if engine == EngineChoice::Kernel && own {
        let key = if group.rules.is_empty() { "danger_clear_without_keys" } else { "rule" };
        section.error(key, "is for the user-space engine", "write engine = \"userspace\", or use ip xfrm policy");
    }
    if group.tun.as_ref().is_some_and(|tun| !is_interface(tun)) {
        section.error("tun", "is no name of an interface", INTERFACE);
    }
    if group.protect.iter().any(|(ip, prefix)| !ip.is_multicast() || *prefix < 4) {
        section.error(
            "protect",
            "holds a network that is not multicast",
            "route other networks into the TUN device yourself",
        );
    }
    if group.join.iter().any(|ip| !ip.is_multicast()) {
        section.error("join", "holds an address that is not multicast", "remove it: only multicast is joined");
    }
    if protocol == Protocol::Gikev2 {
        if matches!(group.id, GroupId::Oid(_)) {
            let what = "an OID names a group to GDOI alone (RFC 8052)";
            section.error("group", what, "add protocol = \"gdoi\", or ask for the group by its number");
        }
        if group.stream_keys.is_some() {
            let what = "IEC 61850 streams come by GDOI alone";
            section.error("stream_keys", what, "add protocol = \"gdoi\", or remove the key");
        }
    }
    if group.danger_unprotected_streams && group.stream_keys.is_none() {
        section.error("danger_unprotected_streams", "there is nobody to hand streams to", "add stream_keys = \"FILE\"");
    }
    let traffic = [
        ("tun", given.is_some()),
        ("protect", !group.protect.is_empty()),
        ("join", !group.join.is_empty()),
        ("rule", !group.rules.is_empty()),
        ("danger_clear_without_keys", group.danger_clear_without_keys),
    ];
    if engine == EngineChoice::None {
        for (key, _) in traffic.into_iter().filter(|(_, given)| *given) {
            section.error(key, "is about traffic, and the engine is \"none\"", "remove one of the two");
        }
    }
    if streams_only {
        if group.stream_keys.is_none() {
            section.error("streams_only", "there is nobody to hand streams to", "add stream_keys = \"FILE\"");
        }
        let engine_named = ("engine", at > 0 && section.named_key("engine"));
        let traffic = traffic.into_iter().chain([engine_named]);
        for (key, _) in traffic.filter(|(_, given)| *given) {
            section.error(key, "is about traffic, and streams_only takes none", "remove one of the two");
        }
    }
    if group.danger_clear_without_keys {
        let what = "whoever keeps the key server's messages away from the member reads what it sends";
        section.warning("danger_clear_without_keys", what, "remove it: without keys nothing is then sent");
    }
    for other in others {
        if other.id == group.id {
            section.error("group", "is joined already", "name each group once");
        }
        if other.tun.is_some() && other.tun == group.tun {
            section.error("tun", "is another group's device", "give each group a device of its own");
        }
        if other.stream_keys.is_some() && other.stream_keys == group.stream_keys {
            section.error("stream_keys", "is another group's file", "give each group a file of its own");
        }
    }
    Some(group)
}

const INTERFACE: &str = "use up to 15 letters and digits, as ip link shows them";

fn is_interface(name: &str) -> bool {
    !name.is_empty() && name.len() <= 15 && !name.contains(['/', ' ', ':']) && name != "." && name != ".."
}

/// A pre-shared key, or certificates if one of ours is named; of the key server what `gateway_auth` says.
fn auth(
    section: &mut Section<'_>,
    protocol: Protocol,
    identity: Option<&Identity>,
) -> (Option<MemberAuth>, Option<TrustFiles>) {
    let certified = ["certificate", "private_key", "trust"].into_iter().any(|key| section.has(key));
    let ours = section.has("certificate") || section.has("private_key");
    let told = section.has("gateway_auth");
    let mixed = section.choice("gateway_auth", &[("psk", false), ("certificate", true)], ours) != ours && told;
    let certificates = certificates::read(section, mixed);
    certificates.check_identity(section, identity);
    certificates.check_one_identity(section, identity);
    let given = section.has("gateway_subject");
    let gateway_subject = section.parsed::<Subject>("gateway_subject", "CN=gateway,O=Example,C=DE").map(|s| s.0);
    if given && gateway_subject.is_none() {
        return (None, None);
    }
    if mixed {
        return mixed_auth(section, protocol, (ours, certificates), gateway_subject);
    }
    if !certified {
        if given {
            section.error("gateway_subject", "stands without certificate", "add certificate, private_key and trust");
        }
        return (secrets::psk(section).map(MemberAuth::Psk), None);
    }
    for key in ["psk", "psk_file", "danger_short_psk"] {
        if section.has(key) {
            section.error(key, "stands beside a certificate", "keep one of the two");
        }
        section.ignore(key);
    }
    let Certificates { own, trust, files } = certificates;
    let (Some((own, others)), Some(trust)) = (first(own), trust) else { return (None, None) };
    if protocol == Protocol::Gdoi && matches!(own.key.kind(), KeyKind::Ed25519 | KeyKind::Ed448) {
        let what = "is an Edwards key, and GDOI has no signatures by one";
        section.error("private_key", what, "name an RSA or ECDSA key, or write protocol = \"gikev2\"");
    }
    (Some(MemberAuth::Certificate(Box::new(CertificateAuth { own, others, trust, gateway_subject }))), files)
}

/// We by certificate and the key server by a pre-shared key, or the other way round.
fn mixed_auth(
    section: &mut Section<'_>,
    protocol: Protocol,
    (ours, certificates): (bool, Certificates),
    gateway_subject: Option<DistinguishedName>,
) -> (Option<MemberAuth>, Option<TrustFiles>) {
    if protocol == Protocol::Gdoi {
        let what = "is not how we prove ourselves, and with GDOI both sides do so alike";
        section.error("gateway_auth", what, "remove it, or write protocol = \"gikev2\"");
    }
    let Certificates { own, trust, files } = certificates;
    let psk = secrets::psk(section);
    if ours {
        for key in ["trust", "gateway_subject"] {
            if section.named_key(key) {
                section.error(key, "is of no use: the key server proves itself by a pre-shared key", "remove it");
            }
        }
        let auth = first(own).zip(psk);
        let auth = auth.map(|((own, others), psk)| MixedAuth::CertificateForPsk { own, others, psk });
        return (auth.map(Box::new).map(MemberAuth::Mixed), None);
    }
    if !section.named_key("trust") {
        let what = "is missing: the key server proves itself by a certificate, and nobody's is trusted";
        section.error("trust", what, "add trust = [\"FILE\"] with the certificate of the CA that issues for it");
    }
    let auth = psk.zip(trust).map(|(psk, trust)| MixedAuth::PskForCertificate { psk, trust, gateway_subject });
    (auth.map(Box::new).map(MemberAuth::Mixed), files)
}

/// The best of our certificates, and the others.
fn first(own: Vec<OwnCertificate>) -> Option<(OwnCertificate, Vec<OwnCertificate>)> {
    let mut own = own.into_iter();
    Some((own.next()?, own.collect()))
}

fn check(section: &Section<'_>, config: &MemberConfig) {
    if config.fallback && config.protocol == Protocol::Gdoi {
        section.error("fallback", "is what the member speaks already", "remove it, or write protocol = \"gikev2\"");
    }
    if config.interface.as_ref().is_some_and(|name| !is_interface(name)) {
        section.error("interface", "is no name of an interface", INTERFACE);
    }
    if config.groups.iter().any(|g| g.tun.is_some() && g.tun == config.interface) {
        section.error("tun", "is the interface itself", "choose a name that no interface has, as \"kf0\"");
    }
    let v4 = |g: &KeyServer| g.address.is_ipv4();
    let gateways: Vec<&KeyServer> = config.gateways.iter().chain(&config.reserve).collect();
    if config.address.is_some_and(|a| gateways.iter().any(|g| a.is_ipv4() != v4(g))) {
        section.error("address", "is not of the gateway's family", "use IPv4 or IPv6 for both");
    }
    if gateways.iter().any(|g| config.gateways.first().map(v4) != Some(v4(g))) {
        section.error("gateway", "mixes IPv4 and IPv6", "the member has one address: use one family");
    }
    if gateways.iter().any(|g| g.address.ip().is_multicast() || g.address.port() == 0) {
        section.error("gateway", "is no address that can be reached", "write the gateway's own address");
    }
    let twice = |(i, g): (usize, &&KeyServer)| gateways[..i].iter().any(|b| b.address == g.address);
    if gateways.iter().enumerate().any(twice) {
        section.error("gateway", "names an address twice", "name each key server once");
    }
    if config.traffic.tunnel_destination.is_some_and(|ip| config.gateways.iter().any(|g| ip.is_ipv4() != v4(g))) {
        section.error("tunnel_destination", "is not of the gateway's family", "use IPv4 or IPv6 for both");
    }
    if config.key_log.is_some() {
        section.warning("key_log", "whoever reads that directory reads everything", "remove it outside the laboratory");
    }
}

/// Key servers and who they must be: one identity for all, or one for each.
fn key_servers(section: &mut Section<'_>, key: &'static str, identity: &'static str) -> Vec<KeyServer> {
    let addresses: Option<Vec<Endpoint>> = section.parsed_list(key, "192.0.2.1");
    if addresses.as_ref().is_some_and(Vec::is_empty) {
        section.error(key, "is empty", "name at least one key server");
    }
    let addresses = addresses.unwrap_or_default();
    let identities: Vec<Identity> = section.parsed_list(identity, "gateway.example.org").unwrap_or_default();
    if identities.len() > 1 && identities.len() != addresses.len() {
        let what = format!("has {} identities for {} gateways", identities.len(), addresses.len());
        section.error(identity, what, "give one for all, or one for each in their order");
    }
    let identity_of = |i: usize, address: &SocketAddr| {
        let said = if identities.len() == 1 { identities.first() } else { identities.get(i) };
        said.cloned().unwrap_or_else(|| Identity::from_ip(address.ip()))
    };
    let server = |(i, e): (usize, &Endpoint)| KeyServer { address: e.0, identity: Some(identity_of(i, &e.0)) };
    addresses.iter().enumerate().map(server).collect()
}
