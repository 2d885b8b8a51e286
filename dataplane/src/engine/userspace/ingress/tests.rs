//! Frames from one end of a link to the other, in a network namespace. Needs root and `ip`; says so and passes where they are
//! missing, or nf_tables is.

use std::env;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Command, Stdio};

use nix::ifaddrs::getifaddrs;
use nix::libc::{ETH_P_ALL, ETH_P_IP, ETH_P_IPV6};
use nix::net::if_::if_nametoindex;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{LinkAddr, bind};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};

use super::super::tests::alone;
use super::*;
use crate::packet::{ipv4, protocol};

/// The last octets of all frames here, but for their number.
const MARK: &[u8] = b"keyferry";

/// The number of those behind all others.
const FENCE: u8 = 255;

const UDP: u8 = 17;
const HOP_BY_HOP: u8 = 0;
const FRAGMENT: u8 = 44;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn groups(groups: &[&str]) -> BTreeSet<IpAddr> {
    groups.iter().map(|group| ip(group)).collect()
}

/// A frame to send.
struct Sample {
    to: IpAddr,
    protocol: u8,
    /// Flags and fragment offset of IPv4.
    fragment: u16,
    /// Octets of IPv4 options, or in front of what IPv6 bears.
    extra: Vec<u8>,
    /// VLAN tags, each with its type.
    tags: Vec<(u16, u16)>,
    number: u8,
}

impl Sample {
    fn esp(to: &str, number: u8) -> Self {
        Self { to: ip(to), protocol: protocol::ESP, fragment: 0, extra: Vec::new(), tags: Vec::new(), number }
    }

    /// From hosts that are not there.
    fn packet(&self) -> Vec<u8> {
        let rest = [&[1, 2, 3, 4, 0, 0, 0, self.number][..], MARK, &[self.number]].concat();
        let length = |octets: usize| u16::try_from(octets).unwrap().to_be_bytes();
        match self.to {
            IpAddr::V4(to) => {
                let header_len = ipv4::HEADER_LEN + self.extra.len();
                let mut packet = vec![0x40 | u8::try_from(header_len / 4).unwrap(), 0];
                packet.extend(length(header_len + rest.len()));
                packet.extend([0, 7]);
                packet.extend(self.fragment.to_be_bytes());
                packet.extend([9, self.protocol, 0, 0, 10, 0, 0, 9]);
                packet.extend(to.octets());
                packet.extend(&self.extra);
                let sum = ipv4::checksum(&packet);
                packet[10..12].copy_from_slice(&sum.to_be_bytes());
                [packet, rest].concat()
            }
            IpAddr::V6(to) => {
                let mut packet = vec![0x60, 0, 0, 0];
                packet.extend(length(self.extra.len() + rest.len()));
                packet.extend([self.protocol, 9]);
                packet.extend(ip6("fd00::9"));
                packet.extend(to.octets());
                packet.extend(&self.extra);
                [packet, rest].concat()
            }
        }
    }

    fn frame(&self, station: [u8; 6]) -> Vec<u8> {
        let (address, kind) = match self.to {
            IpAddr::V4(to) => ([1, 0, 0x5e, to.octets()[1] & 0x7f, to.octets()[2], to.octets()[3]], ETH_P_IP),
            IpAddr::V6(to) => {
                ([0x33, 0x33, to.octets()[12], to.octets()[13], to.octets()[14], to.octets()[15]], ETH_P_IPV6)
            }
        };
        let address = if self.to.is_multicast() { address } else { station };
        let mut frame = [address, [2, 0, 0, 0, 0, 9]].concat();
        for (kind, tag) in &self.tags {
            frame.extend(kind.to_be_bytes());
            frame.extend(tag.to_be_bytes());
        }
        frame.extend(u16::try_from(kind).unwrap().to_be_bytes());
        [frame, self.packet()].concat()
    }
}

fn ip6(text: &str) -> [u8; 16] {
    text.parse::<std::net::Ipv6Addr>().unwrap().octets()
}

/// Numbers of the frames that got so far.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    /// To a packet socket of all protocols.
    tapped: Vec<u8>,
    /// Past the ingress hook, to packet sockets of IPv4 and IPv6.
    passed: Vec<u8>,
    /// To raw sockets.
    raw: Vec<u8>,
}

/// Two ends of a link; the right one is where frames arrive.
struct Link {
    left: Socket,
    station: [u8; 6],
    tap: Socket,
    stack: [Socket; 2],
    raw: [Socket; 2],
}

const COMMANDS: [&str; 5] = [
    "link add left type veth peer name right",
    "link set left up",
    "link set right up",
    "addr add 10.0.0.2/24 dev right",
    "addr add fd00::2/64 dev right nodad",
];

/// With a link whose right end has joined these groups.
fn linked(joined: &'static [&'static str], test: impl FnOnce(&Link) + Send) {
    alone(&COMMANDS, || match Ingress::open("right") {
        Ok(_) => test(&Link::open(joined)),
        Err(error) => println!("skipped: {error}"),
    });
}

/// That of an interface.
fn link_address(interface: &str) -> LinkAddr {
    let of = |entry: nix::ifaddrs::InterfaceAddress| (entry.interface_name == interface).then_some(entry.address?);
    getifaddrs().unwrap().filter_map(of).find_map(|address| address.as_link_addr().copied()).unwrap()
}

fn packet_socket(interface: &str, protocol: i32) -> Socket {
    let protocol = i32::from(u16::try_from(protocol).unwrap().to_be());
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(protocol))).unwrap();
    bind(socket.as_raw_fd(), &link_address(interface)).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

impl Link {
    fn open(joined: &[&str]) -> Self {
        let raw = [Domain::IPV4, Domain::IPV6].map(|domain| {
            let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(i32::from(protocol::ESP)))).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        });
        let index = if_nametoindex("right").unwrap();
        for group in joined {
            match ip(group) {
                IpAddr::V4(group) => {
                    raw[0].join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(index)).unwrap();
                }
                IpAddr::V6(group) => raw[1].join_multicast_v6(&group, index).unwrap(),
            }
        }
        Self {
            left: packet_socket("left", 0),
            station: link_address("right").addr().unwrap(),
            tap: packet_socket("right", ETH_P_ALL),
            stack: [ETH_P_IP, ETH_P_IPV6].map(|protocol| packet_socket("right", protocol)),
            raw,
        }
    }

    /// Sends frames, and one to each of the host's own addresses, and tells who saw them.
    fn pass(&self, samples: &[Sample]) -> Seen {
        for sample in samples.iter().chain(&["10.0.0.2", "fd00::2"].map(|host| Sample::esp(host, FENCE))) {
            self.left.send(&sample.frame(self.station)).unwrap();
        }
        let [passed, raw] = [&self.stack, &self.raw].map(|[four, six]| [read(four, 1), read(six, 1)].concat());
        Seen { tapped: read(&self.tap, 2), passed, raw }
    }

    /// Of frames to these groups, those that only packet sockets of all protocols see.
    fn kept(&self, groups: &[&str]) -> Vec<u8> {
        let samples: Vec<_> = groups.iter().zip(1..).map(|(group, number)| Sample::esp(group, number)).collect();
        let seen = self.pass(&samples);
        assert_eq!(seen.tapped, samples.iter().map(|sample| sample.number).collect::<Vec<_>>());
        seen.tapped.into_iter().filter(|number| !seen.passed.contains(number)).collect()
    }
}

/// Numbers of the frames until as many as these last ones are there.
fn read(mut socket: &Socket, fences: usize) -> Vec<u8> {
    let (mut numbers, mut last) = (Vec::new(), 0);
    while last < fences {
        let ready = poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], 3_000u16).unwrap();
        assert_eq!(ready, 1, "{numbers:?} and no more");
        let mut frame = [0; 2_000];
        let length = socket.read(&mut frame).unwrap();
        match frame[..length].split_last() {
            Some((&FENCE, rest)) if rest.ends_with(MARK) => last += 1,
            Some((number, rest)) if rest.ends_with(MARK) => numbers.push(*number),
            _ => {}
        }
    }
    numbers
}

#[test]
fn esp_to_the_groups_is_for_packet_sockets_alone() {
    linked(&["239.192.0.1", "239.192.0.2", "ff15::1", "ff15::2"], |link| {
        let samples = ["239.192.0.1", "239.192.0.2", "ff15::1", "ff15::2"];
        let samples: Vec<_> = samples.iter().zip(1..).map(|(group, number)| Sample::esp(group, number)).collect();
        let seen = |rest: &[u8]| Seen { tapped: vec![1, 2, 3, 4], passed: rest.to_vec(), raw: rest.to_vec() };
        assert_eq!(link.pass(&samples), seen(&[1, 2, 3, 4]), "before");
        let mut ingress = Ingress::open("right").unwrap();
        assert_eq!(link.pass(&samples), seen(&[1, 2, 3, 4]), "nothing is dropped yet");
        for (wanted, rest) in [
            (&["239.192.0.1", "ff15::2"][..], &[2, 3][..]),
            (&["239.192.0.1", "239.192.0.2", "ff15::1", "ff15::2"], &[]),
            (&["ff15::1"], &[1, 2, 4]),
            (&["239.192.0.2"], &[1, 3, 4]),
            (&[], &[1, 2, 3, 4]),
            (&["239.192.0.1"], &[2, 3, 4]),
        ] {
            ingress.set(&groups(wanted)).unwrap();
            assert_eq!(link.pass(&samples), seen(rest), "{wanted:?}");
        }
        drop(ingress);
        assert_eq!(link.pass(&samples), seen(&[1, 2, 3, 4]), "afterwards");
    });
}

#[test]
fn everything_else_goes_on_to_the_stack() {
    linked(&["239.192.0.1", "ff15::1"], |link| {
        let mut ingress = Ingress::open("right").unwrap();
        ingress.set(&groups(&["239.192.0.1", "ff15::1"])).unwrap();
        let four = |number| Sample::esp("239.192.0.1", number);
        let six = |number| Sample::esp("ff15::1", number);
        let (dot1q, dot1ad) = (0x8100, 0x88a8);
        let fragment = vec![protocol::ESP, 0, 0, 1, 0, 0, 0, 7];
        let kept = [
            four(1),
            Sample { fragment: 0x4000, ..four(2) },
            // Four times no operation.
            Sample { extra: vec![1; 4], ..four(3) },
            six(4),
        ];
        let passed = [
            Sample { fragment: 0x2000, ..four(11) },
            Sample { fragment: 0x0001, ..four(12) },
            Sample { fragment: 0x3000, ..four(13) },
            Sample { protocol: UDP, ..four(14) },
            Sample { tags: vec![(dot1q, 5)], ..four(15) },
            Sample { tags: vec![(dot1q, 0)], ..four(16) },
            Sample { tags: vec![(dot1ad, 5)], ..four(17) },
            Sample::esp("239.192.0.2", 18),
            Sample::esp("224.0.0.1", 19),
            Sample { protocol: UDP, ..six(21) },
            Sample { protocol: HOP_BY_HOP, extra: vec![protocol::ESP, 0, 1, 4, 0, 0, 0, 0], ..six(22) },
            Sample { protocol: FRAGMENT, extra: fragment, ..six(23) },
            Sample { tags: vec![(dot1q, 5)], ..six(24) },
            Sample { tags: vec![(dot1q, 0)], ..six(25) },
            Sample::esp("ff15::2", 26),
            Sample::esp("ff02::1", 27),
        ];
        let numbers = |samples: &[Sample]| samples.iter().map(|sample| sample.number).collect::<Vec<_>>();
        let seen = link.pass(&kept);
        assert_eq!((seen.tapped, seen.passed, seen.raw), (numbers(&kept), vec![], vec![]));
        let seen = link.pass(&passed);
        assert_eq!((seen.tapped, seen.passed), (numbers(&passed), numbers(&passed)));
        ingress.set(&BTreeSet::new()).unwrap();
        assert_eq!(link.pass(&kept).passed, numbers(&kept));
    });
}

#[test]
fn engines_do_not_disturb_each_other() {
    linked(&[], |link| {
        let both = ["239.192.0.1", "239.192.0.2"];
        let mut engines = [Ingress::open("right").unwrap(), Ingress::open("right").unwrap()];
        for (engine, group) in engines.iter_mut().zip(both) {
            engine.set(&groups(&[group])).unwrap();
        }
        assert_eq!(link.kept(&both), [1, 2]);
        let [first, mut second] = engines;
        drop(first);
        assert_eq!(link.kept(&both), [2]);
        second.set(&groups(&both)).unwrap();
        assert_eq!(link.kept(&both), [1, 2]);
    });
}

#[test]
fn there_may_be_many_groups() {
    linked(&[], |link| {
        let four = (0..300u32).map(|n| IpAddr::V4((0xefc0_0000 + n).into()));
        let six = (0..2_500u128).map(|n| IpAddr::V6(((0xff15 << 112) + n).into()));
        let mut ingress = Ingress::open("right").unwrap();
        for _ in 0..2 {
            ingress.set(&four.clone().chain(six.clone()).collect()).unwrap();
            let samples = ["239.192.0.0", "239.192.1.43", "239.192.1.44", "ff15::", "ff15::9c3", "ff15::9c4"];
            assert_eq!(link.kept(&samples), [1, 2, 4, 5]);
        }
    });
}

#[test]
fn what_is_refused_is_told_and_changes_nothing() {
    linked(&[], |link| {
        let refused = |interface: &str| Ingress::open(interface).err().map(|error| (error.kind(), error.to_string()));
        assert_eq!(refused("nowhere").unwrap().0, io::ErrorKind::NotFound);
        let mut ingress = Ingress::open("right").unwrap();
        ingress.set(&groups(&["239.192.0.1"])).unwrap();
        // A rule without its set is refused, and with it that the old rule is forgotten.
        let steps =
            vec![("to forget its rules", ingress.table.forget()), ("a rule", ingress.table.rule(IpVersion::V6))];
        let error = ingress.transact(steps).unwrap_err();
        assert!(error.to_string().starts_with("nf_tables refuses a rule: "), "{error}");
        assert_eq!(link.kept(&["239.192.0.1"]), [1]);
        ingress.set(&groups(&["239.192.0.2"])).unwrap();
        assert_eq!(link.kept(&["239.192.0.1", "239.192.0.2"]), [2]);
        let mut without = capabilities(None).unwrap();
        without.effective -= CapabilitySet::NET_ADMIN;
        set_capabilities(None, without).unwrap();
        let (kind, text) = refused("right").unwrap();
        assert_eq!(kind, io::ErrorKind::PermissionDenied);
        assert!(text.starts_with("nf_tables refuses a transaction: "), "{text}");
    });
}

#[test]
fn nobody_else_takes_the_rules_away() {
    linked(&[], |link| {
        let mut ingress = Ingress::open("right").unwrap();
        ingress.set(&groups(&["239.192.0.1"])).unwrap();
        match Command::new("nft").args(["flush", "ruleset"]).status() {
            Ok(_) => assert_eq!(link.kept(&["239.192.0.1"]), [1]),
            Err(error) => println!("skipped: nft: {error}"),
        }
    });
}

/// Set for the process that is killed.
const KILLED: &str = "KEYFERRY_TEST_INGRESS";

#[test]
fn a_process_that_is_killed_leaves_nothing() {
    if env::var_os(KILLED).is_some() {
        let mut ingress = Ingress::open("right").unwrap();
        ingress.set(&groups(&["239.192.0.1"])).unwrap();
        println!("\nready");
        std::thread::sleep(Duration::from_secs(60));
        return;
    }
    let name = format!("{}::a_process_that_is_killed_leaves_nothing", module_path!().split_once("::").unwrap().1);
    linked(&[], |link| {
        let mut process = Command::new(env::current_exe().unwrap())
            .args([&name, "--exact", "--nocapture"])
            .env(KILLED, "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "ready"));
        assert_eq!(link.kept(&["239.192.0.1"]), [1]);
        process.kill().unwrap();
        process.wait().unwrap();
        assert!(link.kept(&["239.192.0.1"]).is_empty());
    });
}
