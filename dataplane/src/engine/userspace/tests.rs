//! Bursts over the loopback interface of a network namespace. Needs root and `ip`; says so and passes where they are
//! missing.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU8;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use keyferry_crypto::{BlockCipher, Integrity, Secret, SeededRandom};
use keyferry_model::policy::{EspMode, EspTransform, SaDirection};
use keyferry_model::time::Now;
use keyferry_model::update::{GroupUpdate, NewSa, Removal};
use nix::net::if_::if_nametoindex;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::geteuid;
use socket2::SockRef;

use super::super::joins::Joins;
use super::early::Early;
use super::incoming::{Gathered, Receive, ReceiveLink, ReceiveV4, ReceiveV6};
use super::ingress::Ingress;
use super::link::Link;
use super::outgoing::{self, Unsent};
use super::share::Share;
use super::sockets::{Gauge, Sockets};
use super::{EngineConfig, Userspace, Wire};
use crate::burst::BURST;
use crate::drops::DropReason;
use crate::frame::Frame;
use crate::iv::IvSource;
use crate::local::{LocalPolicy, Rule, RuleAction, Way, WithoutKeys};
use crate::packet::{Headers, ipv4, ipv6, protocol};
use crate::replay::Strand;
use crate::sad::Sad;
use crate::testing::{any, policy, side};

const MTU: usize = 1_300;

/// In a namespace where the loopback interface takes packets of up to [`MTU`] octets.
fn on_loopback(test: impl FnOnce(Sockets) + Send + 'static) {
    with_receivers(1, test);
}

fn with_receivers(receivers: u8, test: impl FnOnce(Sockets) + Send + 'static) {
    let receivers = NonZeroU8::new(receivers).unwrap();
    alone(&[&format!("link set lo mtu {MTU} up")], move || test(sockets("lo", Wire::Auto, receivers)));
}

fn sockets(interface: &str, wire: Wire, receivers: NonZeroU8) -> Sockets {
    Sockets::open(interface, if_nametoindex(interface).unwrap(), wire, receivers).unwrap()
}

/// In a namespace of its own that `ip` has set up.
pub(super) fn alone(commands: &[&str], test: impl FnOnce() + Send) {
    if !geteuid().is_root() {
        println!("skipped: network namespaces and raw sockets need root");
        return;
    }
    let ip = |command: &&str| Command::new("ip").args(command.split_whitespace()).status().is_ok_and(|s| s.success());
    thread::scope(|scope| {
        let tested = scope.spawn(|| {
            if unshare(CloneFlags::CLONE_NEWNET).is_ok() && commands.iter().all(ip) {
                test();
            } else {
                println!("skipped: no network namespaces here, or no `ip`");
            }
        });
        tested.join().unwrap();
    });
}

/// A packet of `len` octets to this host, with a payload of `fill`.
fn v4(fill: u8, len: usize) -> Vec<u8> {
    let mut packet = vec![fill; len];
    packet[..ipv4::HEADER_LEN].copy_from_slice(&[
        0x45,
        0x08,
        0,
        0,
        0,
        0,
        0,
        0,
        9,
        protocol::ESP,
        0,
        0,
        127,
        0,
        0,
        1,
        127,
        0,
        0,
        1,
    ]);
    packet[2..4].copy_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
    packet
}

/// Likewise, with traffic class 0x20 and a hop limit of 9.
fn v6(fill: u8, len: usize) -> Vec<u8> {
    let mut packet = vec![fill; len];
    packet[..ipv6::HEADER_LEN].fill(0);
    packet[..2].copy_from_slice(&[0x62, 0]);
    packet[4..6].copy_from_slice(&u16::try_from(len - ipv6::HEADER_LEN).unwrap().to_be_bytes());
    packet[6..8].copy_from_slice(&[protocol::ESP, 9]);
    (packet[23], packet[39]) = (1, 1);
    packet
}

fn send(sockets: &Sockets, packets: &[Vec<u8>]) -> Unsent {
    outgoing::send(sockets, packets.iter().map(Vec::as_slice))
}

/// Reads until `packets` are there, usable or not, and gives the usable ones.
fn receive(
    socket: BorrowedFd<'_>,
    from: &mut impl Receive,
    capacity: usize,
    packets: usize,
) -> (Gathered, Vec<Vec<u8>>) {
    let (mut all, mut read) = (Gathered::default(), Vec::new());
    let mut frames = vec![Frame::new(capacity); BURST];
    while all.packets + all.unusable < packets {
        let ready = poll(&mut [PollFd::new(socket, PollFlags::POLLIN)], 3_000u16).unwrap();
        assert_eq!(ready, 1, "{all:?} and no more");
        let gathered = from.receive(socket, &mut frames).unwrap();
        all.packets += gathered.packets;
        all.unusable += gathered.unusable;
        read.extend(frames[..gathered.packets].iter().map(|frame| frame.packet().to_vec()));
    }
    (all, read)
}

/// What the kernel fills in is left out.
fn comparable(mut packet: Vec<u8>) -> Vec<u8> {
    if packet[0] >> 4 == 4 {
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }
    packet
}

#[test]
fn a_burst_of_both_versions_arrives_in_order() {
    on_loopback(|sockets| {
        let packets: Vec<_> = (0..64u8)
            .map(|n| if n % 3 == 0 { v6(n, 60 + usize::from(n)) } else { v4(n, 40 + usize::from(n)) })
            .collect();
        let (sent6, sent4): (Vec<_>, Vec<_>) = packets.iter().cloned().partition(|packet| packet[0] >> 4 == 6);
        let (mut from4, mut from6) = (ReceiveV4::new(), ReceiveV6::new());
        // The second time shows what the first leaves behind.
        for _ in 0..3 {
            assert_eq!(send(&sockets, &packets), Unsent::default());
            let (_, read4) = receive(sockets.raw()[0].v4(), &mut from4, 2_000, sent4.len());
            assert_eq!(read4.into_iter().map(comparable).collect::<Vec<_>>(), sent4);
            let (_, read6) = receive(sockets.raw()[0].v6().unwrap(), &mut from6, 2_000, sent6.len());
            assert_eq!(read6, sent6);
        }
    });
}

#[test]
fn a_packet_that_is_not_taken_does_not_lose_those_behind_it() {
    on_loopback(|sockets| {
        let sizes = [MTU + 1, 100, MTU, MTU + 1, MTU + 100, 200, MTU + 1];
        let mut packets: Vec<_> = sizes.iter().flat_map(|len| [v4(7, *len), v6(7, *len)]).collect();
        packets.push(vec![0x70; 30]);
        assert_eq!(send(&sockets, &packets), Unsent { too_big: 2 * 4, failed: 1 });
        let lengths = |read: Vec<Vec<u8>>| read.iter().map(Vec::len).collect::<Vec<_>>();
        let (_, read) = receive(sockets.raw()[0].v4(), &mut ReceiveV4::new(), 2_000, 3);
        assert_eq!(lengths(read), [100, MTU, 200]);
        let (_, read) = receive(sockets.raw()[0].v6().unwrap(), &mut ReceiveV6::new(), 2_000, 3);
        assert_eq!(lengths(read), [100, MTU, 200]);
    });
}

#[test]
fn a_packet_that_does_not_fit_its_frame_is_left_out() {
    on_loopback(|sockets| {
        let packets: Vec<_> =
            [60, 301, 100, 302, 303, 300].into_iter().flat_map(|len| [v4(1, len), v6(1, len)]).collect();
        let (mut from4, mut from6) = (ReceiveV4::new(), ReceiveV6::new());
        for _ in 0..2 {
            assert_eq!(send(&sockets, &packets), Unsent::default());
            let expected = Gathered { packets: 3, unusable: 3, unsound: 0 };
            for (all, read) in [
                receive(sockets.raw()[0].v4(), &mut from4, 300, 6),
                receive(sockets.raw()[0].v6().unwrap(), &mut from6, 300, 6),
            ] {
                assert_eq!(all, expected);
                assert_eq!(read.iter().map(Vec::len).collect::<Vec<_>>(), [60, 100, 300]);
            }
        }
    });
}

#[test]
fn the_mtu_is_that_of_the_interface_at_the_time() {
    on_loopback(|_| {
        let gauge = |limit| Gauge::open("lo", limit).unwrap();
        let (free, limited) = (gauge(None), gauge(Some(1_000)));
        let reads = |gauge: &Gauge| gauge.read().ok();
        assert_eq!((reads(&free), reads(&limited)), (Some(1_300), Some(1_000)));
        for mtu in ["900", "9000"] {
            assert!(Command::new("ip").args(["link", "set", "lo", "mtu", mtu]).status().unwrap().success());
            assert_eq!(reads(&free), mtu.parse().ok());
        }
        assert_eq!(reads(&limited), Some(1_000));
        assert!(Command::new("ip").args(["link", "set", "lo", "down"]).status().unwrap().success());
        assert_eq!(reads(&free), None);
    });
}

#[test]
fn nothing_to_read_is_no_failure_of_the_socket() {
    on_loopback(|sockets| {
        let mut frames = vec![Frame::new(100); BURST];
        let v4 = ReceiveV4::new().receive(sockets.raw()[0].v4(), &mut frames);
        let v6 = ReceiveV6::new().receive(sockets.raw()[0].v6().unwrap(), &mut frames);
        assert!([v4, v6].into_iter().all(|read| read.is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock)));
    });
}

#[test]
fn packets_for_which_there_was_no_room_are_counted() {
    on_loopback(|sockets| {
        let raw = &sockets.raw()[0];
        let (mut from4, mut from6) = (ReceiveV4::new(), ReceiveV6::new());
        let ways = [
            (raw.v4(), &mut from4 as &mut dyn Receive, v4 as fn(u8, usize) -> Vec<u8>),
            (raw.v6().unwrap(), &mut from6, v6),
        ];
        for (socket, from, packet) in ways {
            SockRef::from(&socket).set_recv_buffer_size(50_000).unwrap();
            let mut frames = vec![Frame::new(200); BURST];
            for _ in 0..2 {
                let before = sockets.unread();
                let sent = 4 * BURST as u64;
                for _ in 0..4 {
                    assert_eq!(send(&sockets, &vec![packet(1, 100); BURST]), Unsent::default());
                }
                let mut read = 0;
                while let Ok(gathered) = from.receive(socket, &mut frames) {
                    read += gathered.packets as u64;
                }
                let unread = sockets.unread() - before;
                assert!(unread > 0 && read + unread == sent, "{unread} and {read}");
            }
        }
    });
}

/// Packets of many senders, none of whom differs from the others in its last octet.
fn of_many_senders() -> Vec<Vec<u8>> {
    let sender = |n: u8| {
        let (mut four, mut six) = (v4(n, 60), v6(n, 80));
        (four[13], six[9]) = (n, n);
        [four, six]
    };
    (0..BURST as u8 / 2).flat_map(sender).collect()
}

#[test]
fn shares_are_fair_and_every_packet_is_in_one_of_them() {
    for receivers in [1, 2, 3, 8] {
        with_receivers(receivers, move |sockets| {
            let each = of_many_senders();
            for _ in 0..2 {
                assert_eq!(send(&sockets, &each), Unsent::default());
            }
            let (mut four, mut six) = (Vec::new(), Vec::new());
            let mut frames = vec![Frame::new(100); BURST];
            for (number, raw) in sockets.raw().iter().enumerate() {
                let (mut from4, mut from6) = (ReceiveV4::new(), ReceiveV6::new());
                for (socket, from, all) in
                    [(raw.v4(), &mut from4 as &mut dyn Receive, &mut four), (raw.v6().unwrap(), &mut from6, &mut six)]
                {
                    let before = all.len();
                    while let Ok(gathered) = from.receive(socket, &mut frames) {
                        all.extend(frames[..gathered.packets].iter().map(|frame| frame.packet().to_vec()));
                    }
                    let (share, fair) = (all.len() - before, 2 * each.len() / 2 / usize::from(receivers));
                    assert!(share >= fair / 2 && share <= fair * 2, "{share} of {fair}, {receivers} receivers");
                    // A sender's packets come one burst after the other to the same socket, and so do those of a strand.
                    assert!(share.is_multiple_of(2));
                    for packet in &all[before..] {
                        let strand = Strand::of(Headers::parse(packet).unwrap().source);
                        assert_eq!(usize::from(strand.number() % receivers), number);
                    }
                }
            }
            for (all, version) in [(four, 4), (six, 6)] {
                let mut all: Vec<_> = all.into_iter().map(comparable).collect();
                let sent = each.iter().filter(|packet| packet[0] >> 4 == version);
                let mut twice: Vec<_> = sent.flat_map(|packet| [packet.clone(), packet.clone()]).collect();
                all.sort();
                twice.sort();
                assert_eq!(all, twice);
            }
        });
    }
}

/// Packets to a group without identification: one that may be fragmented, one that may not, one of IPv6.
fn to_groups(number: u8) -> [Vec<u8>; 3] {
    let (mut may, mut six) = (v4(number, 60), v6(number, 80));
    may[12..20].copy_from_slice(&[10, 8, 0, number, 239, 192, 0, 1]);
    let mut sum = ipv4::checksum(&may[..20]);
    may[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut may_not = may.clone();
    (may_not[6], may_not[10], may_not[11]) = (0x40, 0, 0);
    sum = ipv4::checksum(&may_not[..20]);
    may_not[10..12].copy_from_slice(&sum.to_be_bytes());
    (six[8], six[23], six[24], six[25], six[39]) = (0xfd, number, 0xff, 0x15, 1);
    [may, may_not, six]
}

/// A cable between two interfaces of a namespace, without addresses that have to be found unique first.
const CABLE: [&str; 9] = [
    "link add v0 type veth peer name v1",
    "link set v0 addrgenmode none",
    "link set v1 addrgenmode none",
    "link set v0 up",
    "link set v1 up",
    "addr add fe80::1/64 dev v0 nodad",
    "addr add fe80::2/64 dev v1 nodad",
    "addr add 10.7.0.1/24 dev v1",
    "route add 239.192.0.0/16 dev v0",
];

#[test]
fn groups_are_sent_to_on_either_way() {
    for wire in [Wire::Auto, Wire::Raw] {
        alone(&CABLE, move || {
            let (from, to) = (sockets("v0", wire, NonZeroU8::MIN), sockets("v1", wire, NonZeroU8::MIN));
            assert_eq!(from.link().is_some(), wire == Wire::Auto);
            let mut joins = Joins::open(if_nametoindex("v1").unwrap()).unwrap();
            joins.set(&["239.192.0.1".parse().unwrap(), "ff15::1".parse().unwrap()]);

            let packets: Vec<_> = (1..=20).flat_map(to_groups).collect();
            assert_eq!(send(&from, &packets), Unsent::default());
            let (_, four) = receive(to.raw()[0].v4(), &mut ReceiveV4::new(), 100, 40);
            let sent = packets.iter().filter(|packet| packet[0] >> 4 == 4).cloned();
            assert_eq!(
                four.iter().cloned().map(comparable).collect::<Vec<_>>(),
                sent.map(comparable).collect::<Vec<_>>()
            );
            assert!(four.iter().all(|packet| ipv4::checksum(&packet[..20]) == 0));
            let numbered = four.iter().filter(|packet| packet[6] == 0).map(|packet| [packet[4], packet[5]]);
            assert_eq!(numbered.collect::<BTreeSet<_>>().len(), 20, "each its own identification");
            let (_, six) = receive(to.raw()[0].v6().unwrap(), &mut ReceiveV6::new(), 100, 20);
            assert!(six.iter().eq(packets.iter().filter(|packet| packet[0] >> 4 == 6)));
        });
    }
}

/// Keys may come from another engine; the rules are those of the configuration.
#[test]
fn the_local_policy_stays_when_keys_come_from_another_engine() {
    alone(&["link set lo up"], || {
        let mut config = EngineConfig::new("kf0", "lo", 1_300);
        let discard =
            Rule { source: any(), destination: side("239.192.0.0", 16), action: RuleAction::Discard, way: Way::Out };
        config.local = LocalPolicy { rules: vec![discard], without_keys: WithoutKeys::Drop };
        let Ok(engine) = Userspace::start(config) else {
            println!("skipped: no TUN devices here");
            return;
        };
        engine.adopt(Sad::new());
        let rules = engine.status().sad.rules;
        assert_eq!(rules.iter().map(|rule| rule.action).collect::<Vec<_>>(), ["discard"]);
        let dropped = engine
            .snapshot
            .load()
            .seal(&mut Frame::holding(&to_groups(1)[0]), &mut IvSource::new(&mut SeededRandom::new(1)));
        assert_eq!(dropped, Err(DropReason::OutPolBlock));
    });
}

/// A frame for everybody's card: `tag` stands between the addresses and the type.
fn frame(tag: &[u8], packet: &[u8], padding: usize) -> Vec<u8> {
    let kind = if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
    [&[1, 0, 0x5e, 0x40, 0, 1, 2, 0, 0, 0, 0, 1][..], tag, &kind, packet, &vec![0; padding]].concat()
}

/// The packet with other octets at a place, and with the checksum that it then has.
fn altered(packet: &[u8], at: usize, octets: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet[at..at + octets.len()].copy_from_slice(octets);
    if packet[0] >> 4 == 4 {
        packet[10..12].fill(0);
        let sum = ipv4::checksum(&packet[..20]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

#[test]
fn whole_packets_of_the_groups_are_taken_from_the_link_and_nothing_else() {
    for receivers in [1, 3] {
        alone(&CABLE, move || {
            let receivers = NonZeroU8::new(receivers).unwrap();
            let sockets = sockets("v1", Wire::Link, receivers);
            let more = |at: u8| [IpAddr::from([239, 1, 0, at]), format!("ff15::{at}:1").parse().unwrap()];
            let mut groups: BTreeSet<IpAddr> = (1..=40).flat_map(more).collect();
            groups.extend(["239.192.0.1".parse::<IpAddr>().unwrap(), "ff15::1".parse().unwrap()]);
            let mut early = early(&sockets, "v1");
            early.set(groups.iter().copied());
            assert_eq!(*early.groups(), groups);

            let [four, _, six] = to_groups(1);
            let cable = Link::open("v0").unwrap().unwrap();
            let put = |frame: Vec<u8>| socket2::SockRef::from(&cable.socket()).send(&frame).unwrap();
            let not_taken = [
                frame(&[], &altered(&four, 9, &[17]), 0),
                frame(&[], &altered(&four, 6, &[0x20, 0]), 0),
                frame(&[], &altered(&four, 6, &[0, 9]), 0),
                frame(&[], &altered(&four, 19, &[2]), 0),
                frame(&[0x81, 0, 0, 7], &four, 0),
                frame(&[], &altered(&six, 6, &[44]), 0),
                frame(&[], &altered(&six, 24, &[0xff, 0x16]), 0),
                frame(&[], &altered(&six, 39, &[2]), 0),
                frame(&[0x81, 0, 0, 7], &six, 0),
            ];
            not_taken.into_iter().for_each(|frame| _ = put(frame));
            let unsound = [
                frame(&[], &altered(&four, 3, &[200]), 0),
                frame(&[], &[&[0x45, 0, 0, 60, 0, 0, 0, 0, 9, 50, 1, 1], &four[12..]].concat(), 0),
                frame(&[], &altered(&six, 5, &[200]), 0),
            ];
            unsound.into_iter().for_each(|frame| _ = put(frame));
            let sent: Vec<_> = (0..12u8)
                .flat_map(|n| {
                    [altered(&four, 13, &[8, n, n]), altered(&six, 21, &[8, n, n])]
                        .map(|packet| (frame(&[], &packet, usize::from(n)), packet))
                })
                .map(|(frame, packet)| {
                    put(frame);
                    packet
                })
                .collect();

            let (mut taken, mut unsound, mut frames) = (Vec::new(), 0, vec![Frame::new(300); BURST]);
            for tap in sockets.taps() {
                let mut from = ReceiveLink::new();
                while let Ok(gathered) = from.receive(tap.as_fd(), &mut frames) {
                    unsound += gathered.unsound;
                    taken.extend(frames[..gathered.packets].iter().map(|frame| frame.packet().to_vec()));
                }
            }
            taken.sort();
            let mut sent = sent;
            sent.sort();
            assert_eq!((taken, unsound), (sent, 3));

            // What is sent there is nobody's to receive.
            let [own, _, own6] = to_groups(2);
            assert_eq!(send(&sockets, &[own, own6]), Unsent::default());
            let mut from = ReceiveLink::new();
            assert!(sockets.taps().iter().all(|tap| from.receive(tap.as_fd(), &mut frames).is_err()));

            // Of other groups, and then of none, at once.
            early.set(std::iter::once(more(7)[0]));
            put(frame(&[], &four, 0));
            put(frame(&[], &altered(&four, 16, &[239, 1, 0, 7]), 0));
            let mut count = || {
                let read = sockets.taps().iter().filter_map(|tap| from.receive(tap.as_fd(), &mut frames).ok());
                read.map(|gathered| gathered.packets).sum::<usize>()
            };
            assert_eq!(count(), 1);
            early.set(std::iter::empty());
            put(frame(&[], &altered(&four, 16, &[239, 1, 0, 7]), 0));
            assert_eq!(count(), 0);
        });
    }
}

/// What takes packets at an interface, by these sockets.
fn early(sockets: &Sockets, interface: &str) -> Early {
    let receivers = NonZeroU8::new(u8::try_from(sockets.taps().len()).unwrap()).unwrap();
    let taps = sockets.taps().iter().map(|tap| tap.try_clone().unwrap()).zip(Share::all(receivers));
    Early::new(taps, Ingress::open(interface).unwrap())
}

/// The kernel keeps long packets of a packet socket as it keeps those of many drivers: only the frame's header lies in
/// one piece.
#[test]
fn packets_in_pieces_are_taken_from_the_link() {
    for receivers in [1, 3] {
        let commands = CABLE.into_iter().chain(["link set v0 mtu 9000", "link set v1 mtu 9000"]).collect::<Vec<_>>();
        alone(&commands, move || {
            let sockets = sockets("v1", Wire::Link, NonZeroU8::new(receivers).unwrap());
            let mut early = early(&sockets, "v1");
            early.set(["239.192.0.1", "ff15::1"].map(|group| group.parse().unwrap()).into_iter());
            let [four, _, six] = to_groups(1);
            let four = altered(&v4(7, 5_000), 12, &four[12..20]);
            let six = altered(&v6(7, 5_000), 8, &six[8..40]);
            let cable = Link::open("v0").unwrap().unwrap();
            for packet in [&four, &six] {
                socket2::SockRef::from(&cable.socket()).send(&frame(&[], packet, 0)).unwrap();
            }
            let mut frames = vec![Frame::new(6_000); BURST];
            let mut taken = Vec::new();
            for tap in sockets.taps() {
                if let Ok(gathered) = ReceiveLink::new().receive(tap.as_fd(), &mut frames) {
                    taken.extend(frames[..gathered.packets].iter().map(|frame| frame.packet().to_vec()));
                }
            }
            taken.sort();
            assert!(taken == [four, six], "{}", taken.len());
        });
    }
}

/// The kernel limits how long a filter is, and how much memory a socket has for the old one and the new one together.
#[test]
fn many_groups_can_be_taken_from_the_link_and_others_take_their_place() {
    alone(&CABLE, || {
        let sockets = sockets("v1", Wire::Link, NonZeroU8::new(8).unwrap());
        let mut early = early(&sockets, "v1");
        // Numbers with the highest bit set take the kernel one instruction more.
        let group = |which: u16, n: u16| Ipv6Addr::new(0xff15, n, 0xa000, n, 0xb000, which, 0xc000, n).into();
        let many = |which| (0..256).map(|n| group(which, n)).collect::<BTreeSet<IpAddr>>();
        for which in 0..3 {
            early.set(many(which).into_iter());
            assert_eq!(*early.groups(), many(which));
        }

        // What older kernels have; a namespace has a limit of its own since Linux 6.8.
        early.set(std::iter::empty());
        if std::fs::write("/proc/sys/net/core/optmem_max", "20480").is_err() {
            println!("skipped: the limit is not the namespace's");
            return;
        }
        for which in 0..3 {
            for _ in 0..2 {
                early.set(many(which).into_iter());
                let taken = early.groups();
                assert!(taken.is_subset(&many(which)) && taken.len() >= 64, "{}", taken.len());
            }
        }
    });
}

/// An engine may wait with its groups for the keys that another one has.
#[test]
fn groups_are_taken_from_the_link_while_there_are_keys_to_open_with() {
    alone(&CABLE, || {
        let group: IpAddr = "239.192.0.1".parse().unwrap();
        let mut config = EngineConfig::new("kf0", "v1", 1_300);
        (config.wire, config.groups) = (Wire::Link, vec![group]);
        let Ok(engine) = Userspace::start(config) else {
            println!("skipped: no TUN devices here");
            return;
        };
        let taken = |engine: &Userspace| {
            let status = engine.status();
            assert_eq!(status.joined, [group]);
            status.early
        };
        assert!(taken(&engine).is_empty());
        let transform = EspTransform::CbcHmac(BlockCipher::Aes128Cbc, Integrity::HmacSha256_128);
        let policy = Arc::new(policy(any(), side("239.192.0.0", 16), EspMode::Tunnel, transform));
        for (direction, expected) in [(SaDirection::SenderOnly, vec![]), (SaDirection::ReceiverOnly, vec![group])] {
            let keymat = Secret::random(transform.keymat_len(), &mut SeededRandom::new(1));
            let lifetime = Duration::from_secs(60);
            let sa = NewSa { spi: 0x1001, keymat, policy: Arc::clone(&policy), lifetime, direction };
            let update = GroupUpdate {
                install: vec![sa],
                remove: Removal::All,
                sender_ids: None,
                activation_delay: Duration::ZERO,
                deactivation_delay: Duration::ZERO,
            };
            engine.apply(update, Now { mono: Duration::ZERO, wall: Duration::ZERO }).unwrap();
            assert_eq!(taken(&engine), expected);
        }
        engine.flush();
        assert!(taken(&engine).is_empty());
    });
}
