//! Packets that are sent at a steady rate in one namespace and counted in another.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;

use super::net::Namespace;

mod receiver;
mod sender;

pub(super) use receiver::Receiver;
pub(super) use sender::Sender;

/// Packets to a system call.
const BATCH: usize = 64;
/// IPv4 and UDP headers.
const HEADERS: usize = 28;
/// How long after the last packet was sent all must be there: what waits longer in a queue is more than the path carries.
const PATIENCE: Duration = Duration::from_millis(20);
/// When nothing has come for so long, no queue holds packets any more that would get in the way of the next trial.
const SILENCE: Duration = Duration::from_millis(50);
const PORT: u16 = 5_001;

/// Since some time in the past.
pub(super) fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).expect("every Linux has this clock")
}

/// How an application hands packets to the kernel and takes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Handing {
    /// Each by itself.
    Singly,
    /// Those of a sender that are due in one piece, for the kernel to cut up (UDP_SEGMENT), and likewise at the other end (UDP_GRO).
    InPieces,
}

impl Handing {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Singly => "singly",
            Self::InPieces => "in pieces",
        }
    }
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
    pub(super) handing: Handing,
}

impl Flow {
    /// Address and port of a sender.
    fn sender(&self, at: u64) -> Result<(Ipv4Addr, u16)> {
        let sender = u32::try_from(at % u64::from(self.senders.max(1)))?;
        Ok(((u32::from(self.source) + sender).into(), PORT + 1 + u16::try_from(sender)?))
    }
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

/// The number stands in front of the payload, the time behind it, and the number again at the end.
fn write_number(payload: &mut [u8], number: u64, at: Duration) {
    let nanoseconds = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
    payload[..8].copy_from_slice(&number.to_be_bytes());
    payload[8..16].copy_from_slice(&nanoseconds.to_be_bytes());
    let end = payload.len() - 8;
    payload[end..].copy_from_slice(&number.to_be_bytes());
}

/// Number and time of a payload of the length it should have.
fn read_number(payload: &[u8], octets: usize) -> Option<(u64, u64)> {
    let whole = payload.len() + HEADERS == octets;
    let (number, rest) = payload.split_first_chunk()?;
    let (time, _) = rest.split_first_chunk()?;
    (whole && payload.ends_with(number)).then_some((u64::from_be_bytes(*number), u64::from_be_bytes(*time)))
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
        let first = sender.next();
        thread::scope(|scope| {
            let counting = scope.spawn(|| to.within(|| receiver.run(first, &counted, &stop, delays)));
            let ran = from.within(|| sender.run(rate, time));
            let received = ran.as_ref().map_or(0, |(sent, _)| wait_for(*sent, &counted));
            stop.store(true, Ordering::Relaxed);
            let delays = counting.join().map_err(|_| anyhow!("the receiver panicked"))??;
            let (sent, time) = ran?;
            Ok(Trial { sent, received, time, delays })
        })
    }
}

/// Waits until all is there or nothing comes any more, and says how much came in time.
fn wait_for(sent: u64, counted: &AtomicU64) -> u64 {
    let started = now();
    let mut last = (0, started);
    let mut in_time = 0;
    while last.0 < sent && now() - last.1 < SILENCE {
        thread::sleep(Duration::from_millis(1));
        let count = counted.load(Ordering::Relaxed);
        if now() - started <= PATIENCE {
            in_time = count;
        }
        if count > last.0 {
            last = (count, now());
        }
    }
    in_time
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_from_whole_packets_only() {
        let mut payload = [0; 36];
        write_number(&mut payload, 0x0102_0304_0506_0708, Duration::from_nanos(9));
        assert_eq!(read_number(&payload, 64), Some((0x0102_0304_0506_0708, 9)));
        assert_eq!(read_number(&payload[..35], 64), None);
        payload[35] ^= 1;
        assert_eq!(read_number(&payload, 64), None);
        assert_eq!(read_number(&[0; 10], 38), None);
    }
}
