//! Sends at a rate.

use std::array;
use std::io::IoSlice;
use std::net::{SocketAddr, SocketAddrV4};
use std::num::NonZeroU64;
use std::os::fd::AsFd;
use std::slice;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrAny, sendmmsg};
use rustix::thread::set_current_timer_slack;
use socket2::{Domain, Protocol, Socket, Type};

use super::{BATCH, Flow, HEADERS, Handing, PORT, now, write_number};

/// How long the sender rests when nothing is due.
const REST: Duration = Duration::from_micros(50);
/// What it is behind by more than this it does not make up for: that would be another load than the one asked for.
const BEHIND: Duration = Duration::from_millis(1);
/// Octets of the largest UDP payload.
const LARGEST: usize = 65_507;

/// Sends packets that are numbered.
pub(in crate::path) struct Sender {
    output: Output,
    /// In every packet: packets of an earlier trial are told apart.
    next: u64,
}

impl Sender {
    /// In the namespace of the calling thread; `through` a device, or as the routes say.
    pub(in crate::path) fn new(flow: Flow, through: Option<&str>) -> Result<Self> {
        ensure!((HEADERS + 24..=65_000).contains(&flow.octets), "no packets of {} octets", flow.octets);
        let output = match flow.handing {
            Handing::Singly => Output::Singly(Singly::new(flow, through)?),
            Handing::InPieces => Output::InPieces(InPieces::new(flow, through)?),
        };
        Ok(Self { output, next: 0 })
    }

    /// The number of the next packet.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Sends at a rate for a while; packets sent and time taken.
    pub(super) fn run(&mut self, rate: f64, time: Duration) -> Result<(u64, Duration)> {
        set_current_timer_slack(Some(NonZeroU64::MIN))?;
        let first = self.next;
        let start = now();
        // Moves on when the sender is behind.
        let mut origin = start;
        let mut counted = 0;
        loop {
            let at = now();
            if at - start >= time {
                return Ok((self.next - first, at - start));
            }
            let due = ((at - origin).as_secs_f64() * rate) as u64;
            let mut behind = due.saturating_sub(counted);
            let most = (rate * BEHIND.as_secs_f64()).max(1.0) as u64;
            if behind > most.max(BATCH as u64) {
                origin += Duration::from_secs_f64((behind - most) as f64 / rate);
                behind = most;
            }
            if behind < self.output.least() {
                thread::sleep(REST);
                continue;
            }
            counted += self.send(behind, at)?;
        }
    }

    /// Sends as fast as it can.
    pub(in crate::path) fn burst(&mut self, packets: u64) -> Result<()> {
        let mut left = packets;
        while left > 0 {
            left -= self.send(left, now())?;
        }
        Ok(())
    }

    /// Sends a batch of at most so many packets, and says how many.
    fn send(&mut self, most: u64, at: Duration) -> Result<u64> {
        let batch = usize::try_from(most)?.min(BATCH);
        let sent = match &mut self.output {
            Output::Singly(output) => output.send(batch, self.next, at)?,
            Output::InPieces(output) => output.send(batch, self.next, at)?,
        };
        self.next += sent;
        Ok(sent)
    }
}

enum Output {
    Singly(Singly),
    InPieces(InPieces),
}

impl Output {
    /// Packets that are sent at least: who sends much in pieces waits until one is full.
    fn least(&self) -> u64 {
        match self {
            Self::Singly(_) => 1,
            Self::InPieces(output) => output.most as u64,
        }
    }
}

/// Packets whose headers are its own, so that one socket has all senders. They have no checksum.
struct Singly {
    socket: Socket,
    flow: Flow,
    packets: Vec<Vec<u8>>,
}

impl Singly {
    fn new(flow: Flow, through: Option<&str>) -> Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255)))?;
        prepare(&socket, through)?;
        Ok(Self { socket, flow, packets: vec![blank(&flow); BATCH] })
    }

    fn send(&mut self, batch: usize, first: u64, at: Duration) -> Result<u64> {
        for (packet, number) in self.packets[..batch].iter_mut().zip(first..) {
            let (address, port) = self.flow.sender(number)?;
            packet[12..16].copy_from_slice(&address.octets());
            packet[20..22].copy_from_slice(&port.to_be_bytes());
            write_number(&mut packet[HEADERS..], number, at);
        }
        let to = SocketAddrAny::from(SocketAddrV4::new(self.flow.destination, 0));
        let parts: [_; BATCH] = array::from_fn(|at| IoSlice::new(self.packets.get(at).map_or(&[], |p| p)));
        let mut controls: [_; BATCH] = array::from_fn(|_| SendAncillaryBuffer::default());
        let messages = parts.iter().zip(&mut controls).take(batch);
        let mut messages: Vec<_> =
            messages.map(|(part, control)| MMsgHdr::new_with_addr(&to, slice::from_ref(part), control)).collect();
        let mut done = 0;
        while done < batch {
            done += sendmmsg(self.socket.as_fd(), &mut messages[done..], SendFlags::empty())?;
        }
        Ok(batch as u64)
    }
}

/// Pieces of several packets each, the senders' in turn. The kernel makes checksums, or leaves them to the device.
struct InPieces {
    /// One for each sender.
    sockets: Vec<Socket>,
    turn: usize,
    /// Octets of a packet's payload, and packets in a piece at most.
    payload: usize,
    most: usize,
    piece: Vec<u8>,
    to: socket2::SockAddr,
}

impl InPieces {
    fn new(flow: Flow, through: Option<&str>) -> Result<Self> {
        let payload = flow.octets - HEADERS;
        let socket = |at| -> Result<Socket> {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
            prepare(&socket, through)?;
            // The senders' addresses are nobody's here.
            socket.set_ip_transparent_v4(true)?;
            let (address, port) = flow.sender(at)?;
            socket.bind(&SocketAddr::from((address, port)).into())?;
            setsockopt(&socket, sockopt::UdpGsoSegment, &i32::try_from(payload)?).context("UDP_SEGMENT")?;
            Ok(socket)
        };
        let sockets = (0..u64::from(flow.senders.max(1))).map(socket).collect::<Result<_>>()?;
        let most = (LARGEST / payload).min(BATCH);
        let to = SocketAddr::from((flow.destination, PORT)).into();
        Ok(Self { sockets, turn: 0, payload, most, piece: vec![0x5a; payload * most], to })
    }

    fn send(&mut self, batch: usize, first: u64, at: Duration) -> Result<u64> {
        let batch = batch.min(self.most);
        let piece = &mut self.piece[..batch * self.payload];
        piece
            .chunks_exact_mut(self.payload)
            .zip(first..)
            .for_each(|(payload, number)| write_number(payload, number, at));
        let sent = self.sockets[self.turn].send_to(piece, &self.to)?;
        ensure!(sent == piece.len(), "a piece was sent in part");
        self.turn = (self.turn + 1) % self.sockets.len();
        Ok(batch as u64)
    }
}

fn prepare(socket: &Socket, through: Option<&str>) -> Result<()> {
    if let Some(device) = through {
        socket.bind_device(Some(device.as_bytes()))?;
    }
    socket.set_multicast_loop_v4(false)?;
    Ok(socket.set_send_buffer_size(8 << 20)?)
}

/// A UDP packet; the kernel writes the header's checksum.
fn blank(flow: &Flow) -> Vec<u8> {
    let length = |len: usize| u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes();
    let mut packet = vec![0x45, 0];
    packet.extend(length(flow.octets));
    packet.extend([0, 1, 0x40, 0, 8, 17, 0, 0]);
    packet.extend(flow.source.octets());
    packet.extend(flow.destination.octets());
    packet.extend([0, 0]);
    packet.extend(PORT.to_be_bytes());
    packet.extend(length(flow.octets - 20));
    packet.extend([0, 0]);
    packet.resize(flow.octets, 0x5a);
    packet
}
