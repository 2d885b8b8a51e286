//! Bursts over the loopback interface of a network namespace. Needs root and `ip`; says so and passes where they are
//! missing.

use std::os::fd::BorrowedFd;
use std::process::Command;
use std::thread;

use nix::net::if_::if_nametoindex;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::geteuid;

use super::incoming::{Gathered, Receive, ReceiveV4, ReceiveV6};
use super::outgoing::{self, Unsent};
use super::sockets::{Gauge, Sockets};
use crate::burst::BURST;
use crate::frame::Frame;
use crate::packet::{ipv4, ipv6, protocol};

const MTU: usize = 1_300;

/// In a namespace of its own, where the loopback interface takes packets of up to [`MTU`] octets.
fn on_loopback(test: impl FnOnce(Sockets) + Send + 'static) {
    if !geteuid().is_root() {
        println!("skipped: network namespaces and raw sockets need root");
        return;
    }
    let tested = thread::spawn(move || {
        let alone = unshare(CloneFlags::CLONE_NEWNET).is_ok()
            && Command::new("ip").args(["link", "set", "lo", "mtu", &MTU.to_string(), "up"]).status().is_ok();
        if alone {
            test(Sockets::open("lo", if_nametoindex("lo").unwrap()).unwrap());
        } else {
            println!("skipped: no network namespaces here, or no `ip`");
        }
    });
    tested.join().unwrap();
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
            let (_, read4) = receive(sockets.v4(), &mut from4, 2_000, sent4.len());
            assert_eq!(read4.into_iter().map(comparable).collect::<Vec<_>>(), sent4);
            let (_, read6) = receive(sockets.v6().unwrap(), &mut from6, 2_000, sent6.len());
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
        let (_, read) = receive(sockets.v4(), &mut ReceiveV4::new(), 2_000, 3);
        assert_eq!(lengths(read), [100, MTU, 200]);
        let (_, read) = receive(sockets.v6().unwrap(), &mut ReceiveV6::new(), 2_000, 3);
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
            let expected = Gathered { packets: 3, unusable: 3 };
            for (all, read) in
                [receive(sockets.v4(), &mut from4, 300, 6), receive(sockets.v6().unwrap(), &mut from6, 300, 6)]
            {
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
        let v4 = ReceiveV4::new().receive(sockets.v4(), &mut frames);
        let v6 = ReceiveV6::new().receive(sockets.v6().unwrap(), &mut frames);
        assert!([v4, v6].into_iter().all(|read| read.is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock)));
    });
}
