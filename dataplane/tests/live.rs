//! The user-space engine with real devices, in two network namespaces. Needs root and `ip`; says so and passes where
//! they are missing.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::num::{NonZeroU8, NonZeroU32};
use std::process::Command;
use std::thread;
use std::time::Duration;

use dataplane::engine::{EngineConfig, Userspace, Wire};
use dataplane::{FlowPadding, Fragment, Rule, RuleAction, Way};
use keyferry_model::policy::EspMode;
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use nix::unistd::geteuid;
use socket2::{Domain, InterfaceIndexOrAddress, Socket, Type};
use support::*;

const GROUP4: &str = "239.192.0.1";
const GROUP6: &str = "ff15::1";
const PORT: u16 = 5_001;

fn ip(arguments: &str) -> bool {
    let done = Command::new("ip").args(arguments.split_whitespace()).output();
    done.is_ok_and(|done| done.status.success())
}

/// Two namespaces joined by a cable, gone when dropped.
struct Net {
    a: String,
    b: String,
}

impl Net {
    fn new() -> Option<Self> {
        let (a, b) = (format!("kf-dp-{}-a", std::process::id()), format!("kf-dp-{}-b", std::process::id()));
        let net = Self { a, b };
        let (a, b) = (&net.a, &net.b);
        let mut done = ip(&format!("netns add {a}")) && ip(&format!("netns add {b}"));
        done = done && ip(&format!("-n {a} link add eth0 type veth peer name eth0 netns {b}"));
        for (ns, host) in [(a, 1), (b, 2)] {
            done = done
                && ip(&format!("-n {ns} link set lo up"))
                && ip(&format!("-n {ns} addr add 10.9.0.{host}/24 dev eth0"))
                && ip(&format!("-n {ns} addr add fd09::{host}/64 dev eth0 nodad"))
                && ip(&format!("-n {ns} link set eth0 up"))
                && ip(&format!(
                    "netns exec {ns} sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0"
                ));
        }
        done.then_some(net).inspect(|net| net.wait_for_ipv6())
    }

    /// A fresh interface takes no IPv6 multicast until its link-local address has been found to be unique.
    fn wait_for_ipv6(&self) {
        let ready = |ns: &String| {
            let shown = format!("-n {ns} -6 addr show dev eth0 scope link -tentative");
            let shown = Command::new("ip").args(shown.split_whitespace()).output().unwrap();
            shown.stdout.windows(4).any(|w| w == b"fe80")
        };
        for _ in 0..100 {
            if ready(&self.a) && ready(&self.b) {
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
        panic!("IPv6 does not come up");
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        ip(&format!("netns del {}", self.a));
        ip(&format!("netns del {}", self.b));
    }
}

fn enter(namespace: &str) {
    let file = std::fs::File::open(format!("/run/netns/{namespace}")).unwrap();
    setns(file, CloneFlags::CLONE_NEWNET).unwrap();
}

/// How an engine moves packets.
#[derive(Clone, Copy)]
struct Threads {
    queues: u8,
    receivers: u8,
    wire: Wire,
    offloads: bool,
}

const ONE: Threads = Threads { queues: 1, receivers: 1, wire: Wire::Auto, offloads: true };
const ONE_RAW: Threads = Threads { wire: Wire::Raw, offloads: false, ..ONE };
const ONE_AT_THE_LINK: Threads = Threads { wire: Wire::Link, ..ONE };
const SEVERAL: Threads = Threads { queues: QUEUES, receivers: 8, wire: Wire::Auto, offloads: true };
const SEVERAL_AT_THE_LINK: Threads = Threads { wire: Wire::Link, ..SEVERAL };

/// An engine in a namespace with an SA for each group, and its TUN device ready for applications.
fn engine(namespace: &str, id: u32, mode: EspMode, threads: Threads) -> Userspace {
    let mut config = EngineConfig::new("kf0", "eth0", 1_400);
    config.queues = NonZeroU8::new(threads.queues).unwrap();
    config.receivers = NonZeroU8::new(threads.receivers).unwrap();
    config.wire = threads.wire;
    config.offloads = threads.offloads;
    engine_of(config, namespace, id, mode)
}

fn engine_of(config: EngineConfig, namespace: &str, id: u32, mode: EspMode) -> Userspace {
    let engine = Userspace::start(config).unwrap();
    let install = vec![new_sa(0x1001, &policy(GCM, mode, GROUP4), 1), new_sa(0x1002, &policy(CBC, mode, GROUP6), 2)];
    engine.apply(registration(install, ids(&[id])), at(0)).unwrap();
    assert!(ip(&format!("-n {namespace} route add {GROUP4}/32 dev kf0")));
    // Before the kernel's own of ff00::/8, so that it learns what senders are told of the device's packets.
    assert!(ip(&format!("-n {namespace} -6 route add multicast {GROUP6}/128 dev kf0 table local metric 64")));
    engine
}

fn receiver(group: &str) -> UdpSocket {
    receiver_on(group, "kf0")
}

fn receiver_on(group: &str, device: &str) -> UdpSocket {
    let tun = if_nametoindex(device).unwrap();
    let socket = match group.parse().unwrap() {
        IpAddr::V4(group) => {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
            socket.join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(tun)).unwrap();
            socket.bind(&SocketAddr::new(group.into(), PORT).into()).unwrap();
            socket
        }
        IpAddr::V6(group) => {
            let socket = Socket::new(Domain::IPV6, Type::DGRAM, None).unwrap();
            socket.join_multicast_v6(&group, tun).unwrap();
            socket.bind(&SocketAddr::new(group.into(), PORT).into()).unwrap();
            socket
        }
    };
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    socket
}

/// A socket that sends through the TUN device. If it were bound to an IPv4 address it would send through that address's
/// interface instead, past every route. Receivers on the same host get nothing of it.
fn sender(group: &str, host: u8) -> (UdpSocket, SocketAddr) {
    let group: IpAddr = group.parse().unwrap();
    let socket = match group {
        IpAddr::V4(_) => {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
            socket.set_multicast_ttl_v4(8).unwrap();
            socket.set_multicast_loop_v4(false).unwrap();
            socket
        }
        IpAddr::V6(_) => {
            let socket = Socket::new(Domain::IPV6, Type::DGRAM, None).unwrap();
            socket.set_multicast_if_v6(if_nametoindex("kf0").unwrap()).unwrap();
            socket.set_multicast_hops_v6(8).unwrap();
            socket.set_multicast_loop_v6(false).unwrap();
            socket.bind(&SocketAddr::new(format!("fd09::{host}").parse().unwrap(), 0).into()).unwrap();
            socket
        }
    };
    (UdpSocket::from(socket), SocketAddr::new(group, PORT))
}

fn send(group: &str, text: &[u8]) {
    let (socket, to) = sender(group, 1);
    socket.send_to(text, to).unwrap();
}

/// In a thread of its own, since it changes its namespace. Tests share the names of the namespaces, so they are one.
#[test]
fn two_engines_carry_a_group_over_a_real_wire() {
    if !geteuid().is_root() {
        println!("skipped: network namespaces, TUN devices and raw sockets need root");
        return;
    }
    for mode in MODES {
        let scenes: [fn(&str, &str, EspMode); 9] = [
            carry,
            let_pass,
            carry_segments,
            |a, b, mode| carry_bursts(a, b, mode, ONE_RAW),
            |a, b, mode| carry_bursts(a, b, mode, SEVERAL),
            |a, b, mode| carry_bursts(a, b, mode, ONE_AT_THE_LINK),
            |a, b, mode| carry_bursts(a, b, mode, SEVERAL_AT_THE_LINK),
            |a, b, mode| carry_large(a, b, mode, SEVERAL),
            |a, b, mode| carry_large(a, b, mode, SEVERAL_AT_THE_LINK),
        ];
        for scene in scenes {
            let Some(net) = Net::new() else {
                println!("skipped: no network namespaces here, or no `ip`");
                return;
            };
            let (a, b) = (net.a.clone(), net.b.clone());
            thread::spawn(move || scene(&a, &b, mode)).join().unwrap();
        }
    }
}

fn carry(a: &str, b: &str, mode: EspMode) {
    enter(a);
    let sender = engine(a, 1, mode, ONE);
    enter(b);
    let listener = engine(b, 2, mode, ONE);
    let sockets = [receiver(GROUP4), receiver(GROUP6)];

    enter(a);
    for (group, socket) in [GROUP4, GROUP6].into_iter().zip(&sockets) {
        for number in 0..100u8 {
            send(group, &[number; 100]);
            let mut buffer = [0; 200];
            let (len, from) = socket.recv_from(&mut buffer).unwrap_or_else(|error| {
                panic!("{error}: {group} {mode:?}\n{:#?}\n{:#?}", sender.status(), listener.status())
            });
            assert_eq!(buffer[..len], [number; 100]);
            assert!(from.ip().to_string().ends_with('1'), "the source address is preserved: {from}");
        }
    }
    let status = listener.status();
    assert_eq!(status.joined, [GROUP4.parse::<IpAddr>().unwrap(), GROUP6.parse().unwrap()]);
    assert!(status.sad.sas.iter().all(|sa| sa.packets_opened == 100), "{status:#?}");
    assert!(sender.status().sad.sas.iter().all(|sa| sa.packets_sealed == 100));

    // After a flush the application's packets end here.
    sender.flush();
    send(GROUP4, b"nobody may see this");
    sockets[0].set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(sockets[0].recv_from(&mut [0; 200]).is_err());
    assert!(sender.status().sad.drops["OutNoPols"] > 0);

    sender.stop();
    listener.stop();
    assert!(if_nametoindex("kf0").is_err(), "the TUN device is gone");
}

/// What a rule lets pass is on the wire as it was, what one discards is not, and what the group protects passes no plain bypass.
fn let_pass(a: &str, b: &str, mode: EspMode) {
    const BESIDE: [&str; 2] = ["239.192.0.9", "ff15::9"];
    let rule = |action, destination, prefix, version| Rule {
        source: side(version, 0),
        destination: side(destination, prefix),
        action,
        way: Way::Both,
    };
    enter(a);
    let mut config = EngineConfig::new("kf0", "eth0", 1_400);
    config.local.rules = vec![
        rule(RuleAction::Discard, "239.192.0.8", 32, "0.0.0.0"),
        rule(RuleAction::Bypass, "239.192.0.0", 24, "0.0.0.0"),
        rule(RuleAction::Bypass, "ff15::", 64, "::"),
    ];
    let engine = engine_of(config, a, 1, mode);
    assert!(ip(&format!("-n {a} route add 239.192.0.8/31 dev kf0")));
    enter(b);
    let clear = BESIDE.map(|group| receiver_on(group, "eth0"));
    let silent = [GROUP4, GROUP6, "239.192.0.8"].map(|group| receiver_on(group, "eth0"));
    enter(a);
    for number in 0..20u8 {
        for (group, socket) in BESIDE.into_iter().zip(&clear) {
            send(group, &[number; 100]);
            let mut buffer = [0; 200];
            let (len, from) = socket.recv_from(&mut buffer).unwrap_or_else(|e| panic!("{e} {:#?}", engine.status()));
            assert_eq!(buffer[..len], [number; 100]);
            assert!(from.ip().to_string().ends_with('1'), "{from}");
        }
        [GROUP4, GROUP6, "239.192.0.8"].iter().for_each(|group| send(group, b"nobody may see this"));
    }
    for socket in &silent {
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        assert!(socket.recv_from(&mut [0; 200]).is_err());
    }
    let status = engine.status();
    let packets: Vec<u64> = status.sad.rules.iter().map(|rule| rule.packets).collect();
    assert_eq!(packets, [20, 20, 20], "{status:#?}");
    assert!(status.sad.sas.iter().all(|sa| sa.packets_sealed == 20), "{status:#?}");
    engine.stop();
}

/// What an application sends at once arrives as the datagrams that it is.
fn carry_segments(a: &str, b: &str, mode: EspMode) {
    const SEGMENT: usize = 333;
    enter(a);
    let sender_engine = engine(a, 1, mode, ONE);
    enter(b);
    let listener = engine(b, 2, mode, ONE);
    let receivers = [GROUP4, GROUP6].map(roomy_receiver);

    enter(a);
    for (group, receiver) in [GROUP4, GROUP6].into_iter().zip(&receivers) {
        let (socket, to) = sender(group, 1);
        setsockopt(&socket, sockopt::UdpGsoSegment, &i32::try_from(SEGMENT).unwrap()).unwrap();
        // More segments than a burst has packets, and fewer; the last is shorter.
        for segments in [90usize, 3, 1] {
            let payload: Vec<u8> = (0..segments * SEGMENT - 33).map(|at| u8::try_from(at / SEGMENT).unwrap()).collect();
            socket.send_to(&payload, to).unwrap();
            for expected in payload.chunks(SEGMENT) {
                let mut buffer = [0; 2_000];
                let len = receiver.recv(&mut buffer).unwrap_or_else(|error| {
                    panic!("{error}: {group} {mode:?}\n{:#?}\n{:#?}", sender_engine.status(), listener.status())
                });
                assert_eq!(buffer[..len], *expected);
            }
        }
    }
    assert!(listener.status().sad.sas.iter().all(|sa| sa.packets_opened == 94));
    sender_engine.stop();
    listener.stop();
}

/// Packets in a burst; fewer than a TUN device queues.
const MANY: u32 = 400;
/// Enough for the kernel to use all queues.
const FLOWS: usize = 16;
const QUEUES: u8 = 3;
/// Octets of payload, the last of which the interface does not take once its MTU is [`NARROW`].
const SIZES: [usize; 5] = [4, 100, 555, 1_100, 1_300];
const NARROW: usize = 1_300;

fn payload(number: u32) -> Vec<u8> {
    let mut payload = vec![number.to_be_bytes()[3]; SIZES[number as usize % SIZES.len()]];
    payload[..4].copy_from_slice(&number.to_be_bytes());
    payload
}

/// Sends a burst from where the thread is, and gives the numbers of the packets that arrive.
fn burst(group: &str, host: u8, receiver: &UdpSocket, expected: usize) -> BTreeSet<u32> {
    let senders: [_; FLOWS] = std::array::from_fn(|_| sender(group, host));
    for (number, (socket, to)) in (0..MANY).zip(senders.iter().cycle()) {
        socket.send_to(&payload(number), to).unwrap();
    }
    let mut arrived = BTreeSet::new();
    let mut buffer = [0; 2_000];
    while arrived.len() < expected
        && let Ok(len) = receiver.recv(&mut buffer)
    {
        let number = u32::from_be_bytes(*buffer.first_chunk().unwrap());
        assert_eq!(buffer[..len], payload(number));
        assert!(arrived.insert(number), "{number} twice");
    }
    arrived
}

fn carry_bursts(a: &str, b: &str, mode: EspMode, threads: Threads) {
    enter(a);
    let (engine_a, receivers_a) = (engine(a, 1, mode, threads), [GROUP4, GROUP6].map(roomy_receiver));
    enter(b);
    let (engine_b, receivers_b) = (engine(b, 2, mode, threads), [GROUP4, GROUP6].map(roomy_receiver));

    for (from, host, receivers, status) in [(a, 1, &receivers_b, &engine_b), (b, 2, &receivers_a, &engine_a)] {
        enter(from);
        for (group, receiver) in [GROUP4, GROUP6].into_iter().zip(receivers) {
            let arrived = burst(group, host, receiver, MANY as usize);
            assert!(arrived.iter().copied().eq(0..MANY), "{group} {mode:?} {}\n{:#?}", arrived.len(), status.status());
        }
    }

    // Every fifth packet is too large now; all others still arrive. Nobody may be told of the IPv4 ones, which bear DF.
    enter(a);
    assert!(ip(&format!("-n {a} link set eth0 mtu {NARROW}")));
    let fits = |number: &u32| SIZES[*number as usize % SIZES.len()] < NARROW;
    let expected: BTreeSet<u32> = (0..MANY).filter(fits).collect();
    let arrived = burst(GROUP4, 1, &receivers_b[0], expected.len());
    assert_eq!(arrived, expected, "{mode:?} {:#?}", engine_a.status());
    // Those behind the last that arrives are counted a moment later.
    let too_large = u64::from(MANY) - expected.len() as u64;
    let not_sent = || engine_a.status().sad.drops["OutTooBig"];
    let waited = (0..100).find(|_| {
        thread::sleep(Duration::from_millis(20));
        not_sent() >= too_large
    });
    assert!(waited.is_some() && not_sent() == too_large, "{too_large}, {:#?}", engine_a.status());
    // Senders of IPv6 are told, and then send fragments.
    let learned = (0..5).any(|_| {
        let arrived = burst(GROUP6, 1, &receivers_b[1], MANY as usize);
        assert!(arrived.is_superset(&expected), "{mode:?} {:#?}", engine_a.status());
        arrived.iter().copied().eq(0..MANY)
    });
    assert!(learned, "{mode:?} {:#?}", engine_a.status());
    for status in [engine_a.status(), engine_b.status()] {
        assert_eq!(status.early, if threads.wire == Wire::Link { status.joined } else { Vec::new() });
        let drops =
            ["OutError", "InHdrError", "InBufferError", "InStateSeqError"].map(|reason| status.sad.drops[reason]);
        assert_eq!(drops, [0; 4]);
    }

    // A device that others use is left alone.
    let mut another = EngineConfig::new("kf0", "eth0", 1_400);
    another.queues = NonZeroU8::new(QUEUES).unwrap();
    assert!(Userspace::start(another).is_err());

    engine_a.stop();
    engine_b.stop();
    assert!(if_nametoindex("kf0").is_err(), "no queue is left open");
}

/// A TUN device that takes what the interface takes: there is no room for ESP.
fn carry_large(a: &str, b: &str, mode: EspMode, threads: Threads) {
    enter(b);
    let (engine_b, receivers) = (engine(b, 2, mode, threads), [GROUP4, GROUP6].map(receiver));
    for (at, fragment) in [Fragment::Before, Fragment::After].into_iter().enumerate() {
        enter(a);
        // Senders of IPv4 allow fragments.
        assert!(ip(&format!("netns exec {a} sysctl -qw net.ipv4.ip_no_pmtu_disc=1")));
        let mut config = EngineConfig::new("kf0", "eth0", 1_500);
        config.sizes.fragment = fragment;
        if fragment == Fragment::After {
            config.sizes.padding = FlowPadding::Mtu;
        }
        config.tunnel.local = "10.9.0.1".parse().ok();
        config.dummies = NonZeroU32::new(200);
        let engine_a = engine_of(config, a, 10 + u32::try_from(at).unwrap(), mode);
        for (group, receiver) in [GROUP4, GROUP6].into_iter().zip(&receivers) {
            // IPv6 packets are fragmented by those who send them, or afterwards.
            let (whole, alone) = if group == GROUP4 { (1_472, true) } else { (1_452, fragment == Fragment::After) };
            let before = reassembled(b, group);
            // The largest is fragmented by its sender: in tunnels those fragments are too large again, in transport mode they are put
            // together first.
            let large = match (alone, mode) {
                (true, _) => vec![whole, whole - 20, 4_000],
                (false, EspMode::Transport) => vec![1_300, 4_000],
                (false, EspMode::Tunnel) => vec![1_300],
            };
            for (number, len) in large.iter().enumerate() {
                enter(a);
                let (socket, to) = sender(group, 1);
                let text = vec![u8::try_from(number).unwrap(); *len];
                socket.send_to(&text, to).unwrap();
                let mut buffer = [0; 5_000];
                let got = receiver.recv(&mut buffer).unwrap_or_else(|error| {
                    panic!(
                        "{error}: {len} {group} {mode:?} {fragment:?}\n{:#?}\n{:#?}",
                        engine_a.status(),
                        engine_b.status()
                    )
                });
                assert_eq!(buffer[..got], text);
            }
            let fragments = reassembled(b, group) - before;
            assert!(!alone || fragments >= large.len() as u64, "{group} {mode:?} {fragment:?}: {fragments}");
        }
        assert_eq!(engine_a.status().sad.drops["OutTooBig"], 0, "{mode:?} {fragment:?}");
        let dummies =
            |engine: &Userspace| (engine.status().sad.sas[0].dummies_sent, engine.status().sad.drops["InDummy"]);
        let known = dummies(&engine_b).1;
        let more = (0..100).any(|_| {
            thread::sleep(Duration::from_millis(20));
            dummies(&engine_a).0 > 20 && dummies(&engine_b).1 > known + 5
        });
        assert!(more, "{:#?}\n{:#?}", engine_a.status(), engine_b.status());
        enter(a);
        if mode == EspMode::Tunnel && fragment == Fragment::Before {
            senders_are_told(a, &engine_a);
        }
        engine_a.stop();
    }
    engine_b.stop();
}

/// Who sends to a single host with DF gets an ICMP message, and an error the next time.
fn senders_are_told(namespace: &str, engine: &Userspace) {
    let mut policy = policy(GCM, EspMode::Tunnel, "198.51.100.0");
    policy.destination = side("198.51.100.0", 24);
    engine.apply(registration(vec![new_sa(0x1003, &policy, 3)], ids(&[30])), at(0)).unwrap();
    // Protected packets take the other way to the same address.
    assert!(
        ip(&format!("-n {namespace} route add 198.51.100.0/24 dev kf0 metric 1"))
            && ip(&format!("-n {namespace} route add 198.51.100.0/24 dev eth0 metric 2"))
            && ip(&format!("netns exec {namespace} sysctl -qw net.ipv4.ip_no_pmtu_disc=0"))
            && ip(&format!("netns exec {namespace} sysctl -qw net.ipv4.conf.kf0.rp_filter=0"))
    );
    let socket = UdpSocket::bind("10.9.0.1:0").unwrap();
    socket.connect("198.51.100.7:9").unwrap();
    assert_eq!(getsockopt(&socket, sockopt::IpMtu).unwrap(), 1_500);
    socket.send(&[7; 1_472]).unwrap();
    let learned = (0..100).find(|_| {
        thread::sleep(Duration::from_millis(20));
        getsockopt(&socket, sockopt::IpMtu).unwrap() == 1_446
    });
    assert!(learned.is_some(), "{:#?}", engine.status());
    assert_eq!(engine.status().sad.drops["OutTooBig"], 1);
}

/// Packets that a namespace's kernel has put together of fragments, inside of tunnels or outside.
fn reassembled(namespace: &str, group: &str) -> u64 {
    enter(namespace);
    if group == GROUP4 {
        let text = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
        let mut lines = text.lines().filter(|line| line.starts_with("Ip:"));
        let at = lines.next().unwrap().split(' ').position(|name| name == "ReasmOKs").unwrap();
        lines.next().unwrap().split(' ').nth(at).unwrap().parse().unwrap()
    } else {
        let text = std::fs::read_to_string("/proc/thread-self/net/snmp6").unwrap();
        let line = text.lines().find(|line| line.starts_with("Ip6ReasmOKs")).unwrap();
        line.split_whitespace().last().unwrap().parse().unwrap()
    }
}

/// A receiver whose buffer holds a burst.
fn roomy_receiver(group: &str) -> UdpSocket {
    let socket = receiver(group);
    setsockopt(&socket, sockopt::RcvBufForce, &(8 << 20)).unwrap();
    socket
}
