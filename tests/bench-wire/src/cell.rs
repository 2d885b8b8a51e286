//! One figure: a way to send, a way to receive, and a length.
#![allow(clippy::disallowed_methods, reason = "it measures")]

use std::net::Ipv4Addr;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use nix::time::{ClockId, clock_gettime};

use crate::net::{Net, enter};
use crate::packet_ring::{PacketReader, PacketSocket, PacketWriter};
use crate::raw::{Joined, RawReader, RawSocket};
use crate::uring::{UringReader, UringWriter};
use crate::xdp::{XdpReader, XdpWriter};

/// Packets to a call.
pub(crate) const BURST: usize = 64;
/// Where packets go.
pub(crate) const GROUP: Ipv4Addr = Ipv4Addr::new(239, 192, 0, 1);
/// Most packets on their way.
const FLIGHT: u64 = 1_024;
/// How long nothing may arrive before what is on its way counts as lost.
const PATIENCE: Duration = Duration::from_millis(300);

/// Sends bursts of one packet, which it was made with.
pub(crate) trait Write {
    /// Sends [`BURST`] packets.
    fn write(&mut self) -> Result<()>;
}

/// Receives packets of ESP.
pub(crate) trait Read {
    /// Waits up to a tenth of a second, and says how many packets there were; their first octets have been looked at.
    fn read(&mut self) -> Result<u64>;
}

/// Ways to send.
#[derive(Clone, Copy)]
pub(crate) enum Sending {
    RawOne,
    RawBurst,
    /// Through the queueing discipline or past it.
    PacketBurst {
        bypass: bool,
    },
    PacketRing,
    Xdp,
    Uring,
}

impl Sending {
    pub(crate) const ALL: [Self; 7] = [
        Self::RawOne,
        Self::RawBurst,
        Self::PacketBurst { bypass: false },
        Self::PacketBurst { bypass: true },
        Self::PacketRing,
        Self::Xdp,
        Self::Uring,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::RawOne => "raw socket, sendto",
            Self::RawBurst => "raw socket, sendmmsg",
            Self::PacketBurst { bypass: false } => "AF_PACKET, sendmmsg",
            Self::PacketBurst { bypass: true } => "AF_PACKET, sendmmsg, no qdisc",
            Self::PacketRing => "AF_PACKET, TX_RING, no qdisc",
            Self::Xdp => "AF_XDP, copy",
            Self::Uring => "raw socket, io_uring",
        }
    }

    fn open(self, packet: &[u8]) -> Result<Box<dyn Write>> {
        Ok(match self {
            Self::RawOne => Box::new(RawSocket::open(packet, 1)?),
            Self::RawBurst => Box::new(RawSocket::open(packet, BURST)?),
            Self::PacketBurst { bypass } => Box::new(PacketSocket::open(packet, bypass)?),
            Self::PacketRing => Box::new(PacketWriter::open(packet)?),
            Self::Xdp => Box::new(XdpWriter::open(packet)?),
            Self::Uring => Box::new(UringWriter::open(packet)?),
        })
    }
}

/// Ways to receive.
#[derive(Clone, Copy)]
pub(crate) enum Receiving {
    Nobody,
    RawOne,
    RawBurst,
    /// With so many sockets, of which filters let one have each packet.
    RawShares(usize),
    PacketRing,
    /// In the driver or ahead of the IP stack.
    Xdp {
        native: bool,
    },
    Uring,
}

impl Receiving {
    pub(crate) const ALL: [Self; 8] = [
        Self::RawOne,
        Self::RawBurst,
        Self::RawShares(2),
        Self::RawShares(8),
        Self::PacketRing,
        Self::Xdp { native: false },
        Self::Xdp { native: true },
        Self::Uring,
    ];

    pub(crate) fn name(self) -> String {
        match self {
            Self::Nobody => "nobody".to_owned(),
            Self::RawOne => "raw socket, recv".to_owned(),
            Self::RawBurst => "raw socket, recvmmsg".to_owned(),
            Self::RawShares(count) => format!("{count} raw sockets with filters, recvmmsg"),
            Self::PacketRing => "AF_PACKET, RX_RING (TPACKET_V3)".to_owned(),
            Self::Xdp { native: false } => "AF_XDP, copy, generic".to_owned(),
            Self::Xdp { native: true } => "AF_XDP, copy, in the driver".to_owned(),
            Self::Uring => "raw socket, io_uring, multishot".to_owned(),
        }
    }

    pub(crate) fn is_nobody(self) -> bool {
        matches!(self, Self::Nobody)
    }

    fn open(self) -> Result<Option<Box<dyn Read>>> {
        Ok(Some(match self {
            Self::Nobody => return Ok(None),
            Self::RawOne => Box::new(RawReader::open(1, 1)?),
            Self::RawBurst => Box::new(RawReader::open(BURST, 1)?),
            Self::RawShares(count) => Box::new(RawReader::open(BURST, count)?),
            Self::PacketRing => Box::new(PacketReader::open()?),
            Self::Xdp { native } => Box::new(XdpReader::open(native)?),
            Self::Uring => Box::new(UringReader::open()?),
        }))
    }
}

pub(crate) struct Cell {
    pub(crate) sending: Sending,
    pub(crate) receiving: Receiving,
    pub(crate) len: usize,
    pub(crate) packets: u64,
}

/// Of a packet, in nanoseconds.
pub(crate) struct Cost {
    pub(crate) sender: f64,
    pub(crate) receiver: f64,
    pub(crate) kpps: f64,
    pub(crate) lost: u64,
}

/// What the two threads tell each other.
struct Between {
    ready: Barrier,
    received: AtomicU64,
    done: AtomicBool,
}

impl Cell {
    /// The best of several runs, each figure by itself.
    pub(crate) fn best_of(&self, net: &Net, runs: usize) -> Result<Cost> {
        let mut best = self.run(net)?;
        for _ in 1..runs {
            let next = self.run(net)?;
            best.sender = best.sender.min(next.sender);
            best.receiver = best.receiver.min(next.receiver);
            best.kpps = best.kpps.max(next.kpps);
            best.lost = best.lost.max(next.lost);
        }
        Ok(best)
    }

    fn run(&self, net: &Net) -> Result<Cost> {
        let between = Between { ready: Barrier::new(2), received: AtomicU64::new(0), done: AtomicBool::new(false) };
        let packet = packet(self.len);
        thread::scope(|scope| {
            let receiver = scope.spawn(|| {
                let opened = enter(&net.b, 1).and_then(|()| Ok((Joined::open()?, self.receiving.open()?)));
                between.ready.wait();
                let (_joined, reader) = opened?;
                receive(reader, &between)
            });
            let sender = scope.spawn(|| {
                let opened = enter(&net.a, 0).and_then(|()| self.sending.open(&packet));
                between.ready.wait();
                let sent = opened.and_then(|writer| self.send(writer, &between));
                between.done.store(true, Ordering::Relaxed);
                sent
            });
            let panicked = |_| anyhow!("a thread panicked");
            let (sent, received) = (sender.join().map_err(panicked)?, receiver.join().map_err(panicked)?);
            let (took, sender) = sent?;
            let arrived = between.received.load(Ordering::Relaxed);
            let receiver = received?.as_nanos() as f64 / arrived.max(1) as f64;
            let across = if self.receiving.is_nobody() { self.packets } else { arrived };
            let lost = self.packets.saturating_sub(across);
            Ok(Cost {
                sender: sender.as_nanos() as f64 / self.packets as f64,
                receiver,
                kpps: across as f64 / took.as_secs_f64() / 1e3,
                lost,
            })
        })
    }

    /// Sends everything; gives how long it took until all had arrived, and the CPU time of sending.
    fn send(&self, mut writer: Box<dyn Write>, between: &Between) -> Result<(Duration, Duration)> {
        let throttled = !self.receiving.is_nobody();
        let (begin, mut busy) = (Instant::now(), Duration::ZERO);
        let (mut sent, mut given_up) = (0, 0);
        while sent < self.packets {
            if throttled {
                given_up += wait_until_below(FLIGHT - BURST as u64, sent - given_up, between);
            }
            let before = cpu_time()?;
            writer.write()?;
            busy += cpu_time()? - before;
            sent += BURST as u64;
        }
        if throttled {
            wait_until_below(0, sent - given_up, between);
        }
        Ok((begin.elapsed(), busy.mul_f64(self.packets as f64 / sent as f64)))
    }
}

/// Waits until at most so many of the packets that were sent are on their way. Gives how many never arrive.
fn wait_until_below(most: u64, sent: u64, between: &Between) -> u64 {
    let (mut last, mut since) = (0, Instant::now());
    loop {
        let received = between.received.load(Ordering::Relaxed);
        let on_their_way = sent.saturating_sub(received);
        if on_their_way <= most {
            return 0;
        }
        if received != last {
            (last, since) = (received, Instant::now());
        }
        if since.elapsed() > PATIENCE {
            return on_their_way;
        }
        thread::yield_now();
    }
}

/// Receives until everything was sent and nothing arrives any more; gives its CPU time.
fn receive(reader: Option<Box<dyn Read>>, between: &Between) -> Result<Duration> {
    let Some(mut reader) = reader else { return Ok(Duration::ZERO) };
    let before = cpu_time()?;
    loop {
        let packets = reader.read()?;
        between.received.fetch_add(packets, Ordering::Relaxed);
        if packets == 0 && between.done.load(Ordering::Relaxed) {
            return Ok(cpu_time()? - before);
        }
    }
}

fn cpu_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

/// An ESP packet to the group.
fn packet(len: usize) -> Vec<u8> {
    let mut packet = vec![0x5a; len];
    packet[..20].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, 8, 50, 0, 0, 10, 9, 0, 1, 239, 192, 0, 1]);
    packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    let sum: u32 = packet[..20].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    packet[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    packet
}

/// The packet with the header of an Ethernet that carries it.
pub(crate) fn in_ethernet(packet: &[u8]) -> Vec<u8> {
    let [_, b, c, d] = GROUP.octets();
    [&[1, 0, 0x5e, b & 0x7f, c, d, 2, 0, 0, 0, 0, 1, 8, 0], packet].concat()
}
