//! The application in a member's namespace: it knows nothing of IPsec, sends plain UDP multicast to the group, and
//! receives the others'. Driven by lines of JSON (see `talk`); it ends with its standard input.

use std::io::{self, BufRead, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, InterfaceIndexOrAddress, Socket, Type};

use super::talk::{Order, Reply, Report};
use super::tally::{Stamp, Tally};

/// Octets of socket buffers asked for: at 20,000 packets a second room for more than a second.
const BUFFER: usize = 32 << 20;
/// A sender that has fallen behind further than this does not make up for it: no burst is longer.
const BEHIND: Duration = Duration::from_millis(100);

/// Arguments of the application.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct AppArgs {
    /// Our number in packets.
    #[arg(long)]
    sender: u16,
    /// Group and port.
    #[arg(long)]
    group: SocketAddr,
    /// Interface to send on, past the routes.
    #[arg(long)]
    send_on: Option<String>,
    /// Packets per second.
    #[arg(long)]
    rate: u32,
}

struct Shared {
    socket: UdpSocket,
    group: SocketAddr,
    sender: u16,
    rate: u32,
    pace: Mutex<Pace>,
    refused: AtomicU64,
    foreign: AtomicU64,
    tally: Mutex<Tally>,
}

/// The sender's schedule.
#[derive(Debug, Default)]
struct Pace {
    /// Next sequence number.
    next: u64,
    /// While sending: from when, and from which sequence number, packets are due.
    since: Option<(Instant, u64)>,
}

impl Pace {
    /// How long until the next packet is due; `None` when not sending. One that has fallen too far behind starts anew.
    fn wait(&mut self, rate: u32, now: Instant) -> Option<Duration> {
        let (since, first) = self.since?;
        let due = since + Duration::from_secs(1).mul_f64((self.next - first) as f64 / f64::from(rate));
        if now.saturating_duration_since(due) > BEHIND {
            self.since = Some((now, self.next));
        }
        Some(due.saturating_duration_since(now))
    }
}

/// Runs the application until its standard input ends.
pub(super) fn run(args: &AppArgs) -> anyhow::Result<()> {
    let receiver = receiving_socket(args).context("receiving")?;
    let shared = Arc::new(Shared {
        socket: sending_socket(args).context("sending")?,
        group: args.group,
        sender: args.sender,
        rate: args.rate,
        pace: Mutex::default(),
        refused: AtomicU64::default(),
        foreign: AtomicU64::default(),
        tally: Mutex::default(),
    });
    let (s, r, t) = (shared.clone(), shared.clone(), shared.clone());
    thread::Builder::new().name("send".into()).spawn(move || s.send_forever())?;
    thread::Builder::new().name("receive".into()).spawn(move || r.receive_forever(&receiver))?;
    say(&Reply::Ready)?;
    thread::Builder::new().name("tick".into()).spawn(move || {
        while say(&t.tick()).is_ok() {
            thread::sleep(Duration::from_millis(250));
        }
    })?;
    for line in io::stdin().lock().lines() {
        say(&shared.obey(serde_json::from_str(&line?)?))?;
    }
    Ok(())
}

fn say(reply: &Reply) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    let mut out = io::stdout().lock();
    out.write_all(&line)?;
    Ok(out.flush()?)
}

impl Shared {
    fn obey(&self, order: Order) -> Reply {
        match order {
            Order::Start => {
                let mut pace = lock(&self.pace);
                pace.since = Some((Instant::now(), pace.next));
                Reply::Mark { next: pace.next }
            }
            Order::Stop => {
                let mut pace = lock(&self.pace);
                pace.since = None;
                Reply::Mark { next: pace.next }
            }
            Order::Mark => Reply::Mark { next: lock(&self.pace).next },
            Order::Count { windows } => {
                let tally = lock(&self.tally);
                Reply::Counted { counts: windows.into_iter().map(|w| tally.count(w)).collect() }
            }
            Order::Report => Reply::Report(Report {
                sent: lock(&self.pace).next,
                refused: self.refused.load(Ordering::Relaxed),
                foreign: self.foreign.load(Ordering::Relaxed),
                senders: lock(&self.tally).senders(),
            }),
        }
    }

    fn tick(&self) -> Reply {
        Reply::Tick { sent: lock(&self.pace).next, received: lock(&self.tally).received() }
    }

    fn send_forever(&self) {
        loop {
            let wait = lock(&self.pace).wait(self.rate, Instant::now());
            match wait {
                None => thread::sleep(Duration::from_millis(5)),
                Some(Duration::ZERO) => self.send_one(),
                Some(wait) => thread::sleep(wait),
            }
        }
    }

    /// Under the lock, so that nothing is sent after the answer to a `Stop`.
    fn send_one(&self) {
        let mut pace = lock(&self.pace);
        if pace.since.is_none() {
            return;
        }
        let stamp = Stamp { sender: self.sender, sequence: pace.next, sent_us: now_us() };
        match self.socket.send_to(&stamp.payload(), self.group) {
            Ok(_) => pace.next += 1,
            Err(_) => {
                drop(pace);
                self.refused.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(1));
            }
        }
    }

    fn receive_forever(&self, socket: &UdpSocket) {
        let mut buffer = [0; 2048];
        loop {
            match socket.recv(&mut buffer) {
                Ok(len) => match Stamp::parse(&buffer[..len]) {
                    Some(stamp) => lock(&self.tally).note(stamp, now_us()),
                    None => {
                        self.foreign.fetch_add(1, Ordering::Relaxed);
                    }
                },
                // The interface went; it may come back.
                Err(_) => thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}

fn receiving_socket(args: &AppArgs) -> anyhow::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(args.group), Type::DGRAM, None)?;
    socket.set_reuse_address(true)?;
    enlarge(&socket);
    socket.bind(&args.group.into())?;
    // Without an interface: the routes say where the group is.
    match args.group.ip() {
        IpAddr::V4(group) => socket.join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(0))?,
        IpAddr::V6(group) => socket.join_multicast_v6(&group, 0)?,
    }
    Ok(socket.into())
}

fn sending_socket(args: &AppArgs) -> anyhow::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(args.group), Type::DGRAM, None)?;
    enlarge(&socket);
    match args.group.ip() {
        IpAddr::V4(_) => {
            socket.set_multicast_loop_v4(false)?;
            socket.set_multicast_ttl_v4(8)?;
        }
        IpAddr::V6(_) => {
            socket.set_multicast_loop_v6(false)?;
            socket.set_multicast_hops_v6(8)?;
        }
    }
    if let Some(interface) = &args.send_on {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    Ok(socket.into())
}

/// Large socket buffers: beyond the system's limit where we may, up to it elsewhere.
pub(super) fn enlarge<F: std::os::fd::AsFd>(socket: &F) {
    if setsockopt(socket, sockopt::RcvBufForce, &BUFFER).is_err() {
        setsockopt(socket, sockopt::RcvBuf, &BUFFER).ok();
    }
    if setsockopt(socket, sockopt::SndBufForce, &BUFFER).is_err() {
        setsockopt(socket, sockopt::SndBuf, &BUFFER).ok();
    }
}

fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// A poisoned lock means that another thread panicked between two counts; the counts are sound.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_due_at_the_rate_asked_for() {
        let start = Instant::now();
        let mut pace = Pace { next: 10, since: Some((start, 10)) };
        assert_eq!(pace.wait(100, start), Some(Duration::ZERO));
        pace.next += 5;
        assert_eq!(pace.wait(100, start), Some(Duration::from_millis(50)));
        assert_eq!(pace.wait(100, start + Duration::from_millis(60)), Some(Duration::ZERO));
    }

    #[test]
    fn who_falls_far_behind_makes_no_burst() {
        let start = Instant::now();
        let mut pace = Pace { next: 0, since: Some((start, 0)) };
        let late = start + Duration::from_secs(3);
        assert_eq!(pace.wait(100, late), Some(Duration::ZERO));
        pace.next += 1;
        assert_eq!(pace.wait(100, late), Some(Duration::from_millis(10)));
    }

    #[test]
    fn a_stopped_sender_waits_for_ever() {
        assert_eq!(Pace::default().wait(100, Instant::now()), None);
    }
}
