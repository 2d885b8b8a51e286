//! A gateway as a process that takes TCP connections (RFC 9329), a member's machine on real sockets, and strangers.

#![allow(clippy::unwrap_used)]
#![allow(clippy::disallowed_methods, reason = "a test of real processes waits in real time")]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gikev2::Member;
use keyferry::control::{Client, GatewayStatus};
use keyferry::random::{Clock, OsRandom};
use keyferry_crypto::{Hash, KeGroup, Secret};
use keyferry_model::drive::{ConnectionId, Datagram, Via};
use keyferry_model::id::{GroupId, Identity};
use keyferry_model::key_server::KeyServers;
use keyferry_model::settings::{
    GdoiSettings, Gikev2Settings, Ike2Settings, MemberAuth, MemberSettings, Phase1Settings, TrafficSettings, Transport,
};
use keyferry_model::update::{MemberCtx, MemberEvent, MemberOutput};
use keyferry_wire::{Deframer, Frame, STREAM_PREFIX, frame};

const PSK: &str = "a key of more than sixteen octets";

struct Gateway {
    child: Child,
    dir: tempfile::TempDir,
    at: SocketAddr,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Gateway {
    fn start(more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // UDP at no port that a member knows.
        let at = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let text = format!(
            r#"[gateway]
listen = ["{udp}"]
listen_tcp = ["{at}"]
store = "gateway.redb"
signing_bits = 2048
{more}
[control]
socket = "gateway.sock"

[[peer]]
identity = "fqdn:gm1.example"
psk = "{PSK}"

[[group]]
name = "g"
id = 7

[[group.traffic]]
destination = "239.192.0.1"

[group.gikev2]
in_band = "everybody"
"#
        );
        let config = dir.path().join("gateway.toml");
        std::fs::write(&config, text).unwrap();
        std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o600)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyferry"));
        for (name, _) in std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("KEYFERRY")) {
            command.env_remove(name);
        }
        let child = command.args(["serve", "--config"]).arg(config).stdout(Stdio::null()).stderr(Stdio::inherit());
        let gateway = Self { child: child.spawn().unwrap(), dir, at };
        gateway.client();
        gateway
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("gateway.sock")
    }

    fn client(&self) -> Client {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            match Client::connect(&self.socket()) {
                Ok(client) => return client,
                Err(error) => assert!(Instant::now() < until, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn status(&self) -> GatewayStatus {
        self.client().status().unwrap()
    }

    fn counter(&self, name: &str) -> u64 {
        self.status().datagrams.gikev2[name].as_u64().unwrap()
    }

    fn wait(&self, until: impl Fn(&GatewayStatus) -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !until(&self.status()) {
            assert!(Instant::now() < end, "{:?}", self.status());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.at).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        stream
    }
}

/// Has the gateway closed it, within a while?
fn is_closed(stream: &mut TcpStream, within: Duration) -> bool {
    let end = Instant::now() + within;
    while Instant::now() < end {
        match stream.read(&mut [0; 512]) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => {}
            Err(_) => return true,
        }
    }
    false
}

/// Something to do with a member's machine.
type Input<'i> = Box<dyn FnOnce(&mut Member, &mut MemberCtx<'_>) + 'i>;

/// A member's machine, its connection, and what came of it.
struct Host {
    member: Member,
    clock: Clock,
    gateway: SocketAddr,
    open: Option<(ConnectionId, TcpStream, Deframer)>,
    events: Vec<MemberEvent>,
    installed: usize,
    dials: usize,
}

impl Host {
    fn new(gateway: &Gateway, transport: Transport, udp: SocketAddr) -> Self {
        let settings = MemberSettings {
            key_servers: KeyServers::one(udp, Some(Identity::from_ip(gateway.at.ip()))),
            local: "127.0.0.1:9".parse().unwrap(),
            group: GroupId::Number(7),
            identity: Identity::Fqdn("gm1.example".to_owned()),
            auth: MemberAuth::Psk(Arc::new(Secret::copy_from(PSK.as_bytes()))),
            phase1: Phase1Settings::default(),
            sender_ids: 1,
            ke_groups: vec![KeGroup::X25519],
            hashes: vec![Hash::Sha256],
            marker: false,
            retransmit: Duration::from_millis(100),
            tries: 5,
            retry: Duration::from_secs(1),
            ack_jitter: Duration::ZERO,
            connect_only: false,
            gdoi: GdoiSettings::default(),
            traffic: TrafficSettings::default(),
            ike2: Ike2Settings::default(),
            gikev2: Gikev2Settings { ack: false, transport },
        };
        let member = Member::new(settings);
        let events = Vec::new();
        Self { member, clock: Clock::new(), gateway: gateway.at, open: None, events, installed: 0, dials: 0 }
    }

    fn drive(&mut self, input: impl FnOnce(&mut Member, &mut MemberCtx<'_>)) {
        self.step(Box::new(input));
    }

    fn step(&mut self, input: Input<'_>) {
        let mut out = Vec::new();
        input(&mut self.member, &mut MemberCtx { now: self.clock.now(), rng: &mut OsRandom, out: &mut out });
        for output in out {
            match output {
                // Over UDP nothing arrives.
                MemberOutput::Send(t) if !t.via.is_tcp() => {}
                MemberOutput::Send(t) => {
                    if let Some((_, stream, _)) = self.open.as_mut().filter(|(id, ..)| t.via == Via::Tcp(*id)) {
                        stream.write_all(&frame(&t.bytes).unwrap()).unwrap();
                    }
                }
                MemberOutput::Dial { id, to, .. } => {
                    assert_eq!(to, self.gateway);
                    self.dials += 1;
                    let mut stream = TcpStream::connect(to).unwrap();
                    stream.write_all(&STREAM_PREFIX).unwrap();
                    stream.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
                    let (local, peer) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
                    self.open = Some((id, stream, Deframer::originator()));
                    self.step(Box::new(move |m, ctx| m.connected(ctx, id, local, peer)));
                }
                MemberOutput::HangUp(_) => self.open = None,
                MemberOutput::Update(update) => self.installed += update.install.len(),
                MemberOutput::Event(event) => self.events.push(event),
                MemberOutput::Flush => self.installed = 0,
                MemberOutput::Streams(_) | MemberOutput::Listen(_) | MemberOutput::Of(..) => {}
            }
        }
    }

    /// Goes on until something is so.
    fn until(&mut self, done: impl Fn(&Self) -> bool) {
        let end = Instant::now() + Duration::from_secs(30);
        while !done(self) {
            assert!(Instant::now() < end, "{:?}", self.events);
            self.read();
            if self.member.deadline().is_some_and(|d| d.at <= self.clock.now().mono) {
                self.drive(|m, ctx| m.expire(ctx));
            }
        }
    }

    fn read(&mut self) {
        let Some((id, stream, deframer)) = &mut self.open else {
            return std::thread::sleep(Duration::from_millis(10));
        };
        let id = *id;
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer) {
            Ok(n) if n > 0 => deframer.push(&buffer[..n]),
            Err(error) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => return,
            Ok(_) | Err(_) => {
                self.open = None;
                return self.drive(|m, ctx| m.disconnected(ctx, id));
            }
        }
        let (from, to) = (stream.peer_addr().unwrap(), stream.local_addr().unwrap());
        let mut frames = Vec::new();
        while let Some(frame) = deframer.take().unwrap() {
            frames.push(frame);
        }
        for frame in frames {
            let Frame::Ike(bytes) = frame else { panic!("{frame:?}") };
            self.drive(|m, ctx| m.receive(ctx, Datagram { from, to, via: Via::Tcp(id), bytes: &bytes }));
        }
    }

    fn rekeys(&self) -> u64 {
        self.member.status().rekeys
    }
}

#[test]
fn a_member_registers_is_rekeyed_and_comes_back_over_tcp() {
    let gateway = Gateway::start("");
    let mut host = Host::new(&gateway, Transport::Tcp(gateway.at.port()), gateway.at);
    host.drive(|m, ctx| m.start(ctx));
    host.until(|h| h.events.contains(&MemberEvent::Registered));
    assert!(host.installed > 0);
    gateway.client().rekey("g").unwrap();
    host.until(|h| h.rekeys() > 0);
    assert_eq!(gateway.status().connections, 1);
    // The connection breaks, and a rekey comes meanwhile.
    let (id, stream, _) = host.open.take().unwrap();
    drop(stream);
    gateway.wait(|s| s.connections == 0);
    let before = host.rekeys();
    gateway.client().rekey("g").unwrap();
    host.drive(|m, ctx| m.disconnected(ctx, id));
    host.until(|h| h.rekeys() > before);
    assert_eq!((host.dials, gateway.counter("established")), (2, 1), "the same IKE SA over another connection");
    // A farewell, and both sides are rid of it.
    host.drive(|m, ctx| m.leave(ctx));
    host.until(|h| h.events.contains(&MemberEvent::Left) && h.open.is_none());
    gateway.wait(|s| s.connections == 0);
    assert_eq!(gateway.counter("deleted"), 1);
}

#[test]
fn a_member_whose_udp_goes_nowhere_turns_to_tcp() {
    let gateway = Gateway::start("");
    let mut host = Host::new(&gateway, Transport::UdpThenTcp(gateway.at.port()), SocketAddr::new(gateway.at.ip(), 848));
    host.drive(|m, ctx| m.start(ctx));
    assert!(host.open.is_none());
    host.until(|h| h.events.contains(&MemberEvent::Registered));
    assert!(host.member.status().over_tcp);
}

#[test]
fn strangers_lose_their_connections_and_members_keep_theirs() {
    let gateway = Gateway::start("tcp_connections = 40\ntcp_connections_per_address = 39\n");
    let mut host = Host::new(&gateway, Transport::Tcp(gateway.at.port()), gateway.at);
    host.drive(|m, ctx| m.start(ctx));
    host.until(|h| h.events.contains(&MemberEvent::Registered));
    let second = Duration::from_secs(1);
    // Another protocol, and lengths that are none.
    for octets in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"IKETCP\0\0", b"IKETCP\0\x01"] {
        let mut stream = gateway.connect();
        stream.write_all(octets).unwrap();
        assert!(is_closed(&mut stream, 5 * second), "{octets:?}");
    }
    // Keepalives, and what is empty, are nothing to complain about.
    let mut quiet = gateway.connect();
    quiet.write_all(b"IKETCP\0\x02\0\x03\xff\0\x02").unwrap();
    assert!(!is_closed(&mut quiet, second / 2));
    // ESP, GDOI and nonsense, a few of each; and then too many.
    let header = |version: u8| [&[7; 17][..], &[version, 34, 8, 0, 0, 0, 0, 0, 0, 0, 28]].concat();
    let (esp, gdoi, unknown) =
        (b"\0\x0a\0\0\0\x07abcd".to_vec(), frame(&header(0x10)).unwrap(), frame(&header(0x20)).unwrap());
    let mut noisy = gateway.connect();
    noisy.write_all(&[&STREAM_PREFIX[..], &esp, &gdoi, &unknown].concat()).unwrap();
    assert!(!is_closed(&mut noisy, second / 2));
    noisy.write_all(&[esp, gdoi, unknown].concat().repeat(5)).unwrap();
    assert!(is_closed(&mut noisy, 5 * second));
    // A crowd of one address.
    let crowd: Vec<TcpStream> = (0..60).map(|_| gateway.connect()).collect();
    gateway.wait(|s| s.datagrams.gikev2["connections_refused"].as_u64() > Some(10));
    assert!(gateway.status().connections <= 40);
    // Whoever says nothing, or stops in the middle, is gone after ten seconds.
    quiet.write_all(b"\0").unwrap();
    assert!(is_closed(&mut quiet, 15 * second));
    gateway.wait(|s| s.connections == 1);
    drop(crowd);
    gateway.client().rekey("g").unwrap();
    host.until(|h| h.rekeys() > 0);
    assert_eq!(host.dials, 1);
}
