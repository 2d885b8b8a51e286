//! Packets that are sent at a steady rate in one namespace and counted in another.

use std::array;
use std::io::{IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd};
use std::slice;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{MsgFlags, MultiHeaders, recvmmsg, setsockopt, sockopt};
use nix::time::{ClockId, clock_gettime};
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrAny, sendmmsg};
use rustix::thread::set_current_timer_slack;
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};

use super::net::Namespace;

/// Packets to a system call.
const BATCH: usize = 64;
/// IPv4 and UDP headers.
const HEADERS: usize = 28;
/// How long the sender rests when nothing is due.
const REST: Duration = Duration::from_micros(50);
/// What it is behind by more than this it does not make up for: that would be another load than the one asked for.
const BEHIND: Duration = Duration::from_millis(1);
/// How long the receiver waits for packets after the last was sent.
const PATIENCE: Duration = Duration::from_millis(200);
const PORT: u16 = 5_001;

/// Since some time in the past.
pub(super) fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).expect("every Linux has this clock")
}

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flow {
    /// Octets of each IP packet.
    pub(super) octets: usize,
    /// Sources, one after the other, from `source` on; with a source port each.
    pub(super) senders: u32,
    pub(super) source: Ipv4Addr,
    pub(super) destination: Ipv4Addr,
}

/// What became of it.
#[derive(Debug, Default)]
pub(super) struct Trial {
    pub(super) sent: u64,
    pub(super) received: u64,
    /// How long it was sent.
    pub(super) time: Duration,
    /// From before the system call that sent it until behind the one that received it, nanoseconds of each packet.
    pub(super) delays: Vec<u32>,
}

impl Trial {
    /// Packets sent per second.
    pub(super) fn rate(&self) -> f64 {
        self.sent as f64 / self.time.as_secs_f64().max(1e-9)
    }

    pub(super) fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.received)
    }
}

/// Sends packets whose headers are its own, so that one socket has all senders. They have no checksum.
pub(super) struct Sender {
    socket: Socket,
    flow: Flow,
    packets: Vec<Vec<u8>>,
    /// In every packet: packets of an earlier trial are told apart.
    next: u64,
}

impl Sender {
    /// In the namespace of the calling thread; `through` a device, or as the routes say.
    pub(super) fn new(flow: Flow, through: Option<&str>) -> Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255)))?;
        if let Some(device) = through {
            socket.bind_device(Some(device.as_bytes()))?;
        }
        socket.set_multicast_loop_v4(false)?;
        socket.set_send_buffer_size(8 << 20)?;
        ensure!((HEADERS + 24..=65_000).contains(&flow.octets), "no packets of {} octets", flow.octets);
        Ok(Self { socket, flow, packets: vec![blank(&flow); BATCH], next: 0 })
    }

    /// Sends at a rate for a while; first number, packets sent and time taken.
    pub(super) fn run(&mut self, rate: f64, time: Duration) -> Result<(u64, u64, Duration)> {
        set_current_timer_slack(std::num::NonZeroU64::new(1))?;
        let first = self.next;
        let start = now();
        // Moves on when the sender is behind.
        let mut origin = start;
        let mut counted = 0;
        loop {
            let at = now();
            if at - start >= time {
                return Ok((first, self.next - first, at - start));
            }
            let due = ((at - origin).as_secs_f64() * rate) as u64;
            let mut behind = due.saturating_sub(counted);
            let most = (rate * BEHIND.as_secs_f64()).max(1.0) as u64;
            if behind > most.max(BATCH as u64) {
                origin += Duration::from_secs_f64((behind - most) as f64 / rate);
                behind = most;
            }
            if behind == 0 {
                thread::sleep(REST);
                continue;
            }
            let batch = behind.min(BATCH as u64);
            self.send(usize::try_from(batch)?, at)?;
            counted += batch;
        }
    }

    /// Sends as fast as it can.
    pub(super) fn burst(&mut self, packets: u64) -> Result<()> {
        let mut left = packets;
        while left > 0 {
            let batch = left.min(BATCH as u64);
            self.send(usize::try_from(batch)?, now())?;
            left -= batch;
        }
        Ok(())
    }

    fn send(&mut self, batch: usize, at: Duration) -> Result<()> {
        let Flow { senders, source, .. } = self.flow;
        for packet in &mut self.packets[..batch] {
            let sender = u32::try_from(self.next % u64::from(senders.max(1)))?;
            packet[12..16].copy_from_slice(&(u32::from(source) + sender).to_be_bytes());
            packet[20..22].copy_from_slice(&(PORT + 1 + u16::try_from(sender)?).to_be_bytes());
            write_number(packet, self.next, at);
            self.next += 1;
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
        Ok(())
    }
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

/// The number stands in front, the time behind it, and the number again at the end.
fn write_number(packet: &mut [u8], number: u64, at: Duration) {
    let nanoseconds = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
    packet[HEADERS..][..8].copy_from_slice(&number.to_be_bytes());
    packet[HEADERS + 8..][..8].copy_from_slice(&nanoseconds.to_be_bytes());
    let end = packet.len() - 8;
    packet[end..].copy_from_slice(&number.to_be_bytes());
}

/// Number and time of a payload of the length it should have.
fn read_number(payload: &[u8], octets: usize) -> Option<(u64, u64)> {
    let whole = payload.len() + HEADERS == octets;
    let (number, rest) = payload.split_first_chunk()?;
    let (time, _) = rest.split_first_chunk()?;
    (whole && payload.ends_with(number)).then_some((u64::from_be_bytes(*number), u64::from_be_bytes(*time)))
}

/// Counts packets.
pub(super) struct Receiver {
    socket: Socket,
    octets: usize,
}

impl Receiver {
    /// In the namespace of the calling thread; multicast is taken from a device.
    pub(super) fn new(flow: Flow, from: Option<&str>) -> Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
        if let Some(device) = from {
            let index = if_nametoindex(device)?;
            socket.join_multicast_v4_n(&flow.destination, &InterfaceIndexOrAddress::Index(index))?;
        }
        socket.bind(&SocketAddr::from((flow.destination, PORT)).into())?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        // It is not the receiver's patience that is measured.
        setsockopt(&socket, sockopt::RcvBufForce, &(64 << 20))?;
        Ok(Self { socket, octets: flow.octets })
    }

    /// Counts packets from a number on until told to stop.
    fn run(&self, first: u64, counted: &AtomicU64, stop: &AtomicBool, delays: bool) -> Result<Vec<u32>> {
        let mut buffers = vec![vec![0; self.octets + 1]; BATCH];
        let mut headers = MultiHeaders::<()>::preallocate(BATCH, None);
        let mut taken = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let mut spaces = buffers.iter_mut();
            let mut parts: [_; BATCH] =
                array::from_fn(|_| [IoSliceMut::new(spaces.next().map_or(&mut [], |space| space))]);
            let flags = MsgFlags::MSG_WAITFORONE;
            let messages = match recvmmsg(self.socket.as_raw_fd(), &mut headers, &mut parts, flags, None) {
                Ok(messages) => messages,
                Err(Errno::EAGAIN | Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let lengths: Vec<usize> = messages.map(|message| message.bytes).collect();
            let at = u64::try_from(now().as_nanos())?;
            let numbers =
                buffers.iter().zip(&lengths).filter_map(|(space, len)| read_number(&space[..*len], self.octets));
            let mut fresh = 0;
            for (_, time) in numbers.filter(|(number, _)| *number >= first) {
                fresh += 1;
                if delays {
                    taken.push(u32::try_from(at.saturating_sub(time)).unwrap_or(u32::MAX));
                }
            }
            counted.fetch_add(fresh, Ordering::Relaxed);
        }
        Ok(taken)
    }
}

/// Where a sender is and where a receiver.
pub(super) struct Course<'n> {
    pub(super) from: &'n Namespace,
    pub(super) to: &'n Namespace,
    pub(super) sender: Sender,
    pub(super) receiver: Receiver,
}

impl Course<'_> {
    /// Sends at a rate for a while, and waits for what arrives.
    pub(super) fn run(&mut self, rate: f64, time: Duration, delays: bool) -> Result<Trial> {
        let (counted, stop) = (AtomicU64::new(0), AtomicBool::new(false));
        let Self { from, to, sender, receiver } = self;
        let first = sender.next;
        thread::scope(|scope| {
            let counting = scope.spawn(|| to.within(|| receiver.run(first, &counted, &stop, delays)));
            let ran = from.within(|| sender.run(rate, time));
            if let Ok((_, sent, _)) = ran {
                wait_for(sent, &counted);
            }
            stop.store(true, Ordering::Relaxed);
            let delays = counting.join().map_err(|_| anyhow!("the receiver panicked"))??;
            let (_, sent, time) = ran?;
            Ok(Trial { sent, received: counted.load(Ordering::Relaxed), time, delays })
        })
    }
}

/// Waits until all is there or nothing comes any more.
fn wait_for(sent: u64, counted: &AtomicU64) {
    let started = now();
    while counted.load(Ordering::Relaxed) < sent && now() - started < PATIENCE {
        thread::sleep(Duration::from_millis(2));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const FLOW: Flow =
        Flow { octets: 64, senders: 1, source: Ipv4Addr::LOCALHOST, destination: Ipv4Addr::new(239, 0, 0, 1) };

    #[test]
    fn numbers_are_read_from_whole_packets_only() {
        let mut packet = blank(&FLOW);
        assert_eq!(packet.len(), 64);
        write_number(&mut packet, 0x0102_0304_0506_0708, Duration::from_nanos(9));
        assert_eq!(read_number(&packet[HEADERS..], 64), Some((0x0102_0304_0506_0708, 9)));
        assert_eq!(read_number(&packet[HEADERS..63], 64), None);
        packet[63] ^= 1;
        assert_eq!(read_number(&packet[HEADERS..], 64), None);
        assert_eq!(read_number(&[0; 10], 38), None);
    }
}
