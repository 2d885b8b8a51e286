//! The threads that move packets.

use std::io;
use std::net::Ipv6Addr;
use std::num::{NonZeroU32, NonZeroU64};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd};
use std::thread;
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::thread::set_current_timer_slack;

use super::Shared;
use super::incoming::{Receive, ReceiveLink, ReceiveV4, ReceiveV6};
use super::outgoing::{self, Unsent};
use super::passage::Passage;
use super::tun::{Gathered, Reader, Tun};
use crate::burst::{BURST, Fate};
use crate::drops::DropReason;
use crate::dummies::Dummies;
use crate::frame::Frame;
use crate::iv::IvSource;
use crate::oversize::{Outlet, Oversize};

/// The largest packet.
const CAPACITY: usize = 40 + 65_535;
/// How long a failing descriptor is left alone, in milliseconds.
const PAUSE: u16 = 100;
/// After bursts of so many packets more is likely to come soon, while a longer burst shows that more is there already.
const REST_AFTER: RangeInclusive<usize> = 4..=BURST / 2;
/// How long a thread that receives then waits, as network cards do that moderate their interrupts: fewer wakings, and more packets of a
/// flow that the host takes together.
const REST: Duration = Duration::from_micros(50);

/// Plain packets of one queue become protected ones.
pub(super) fn outbound<P: Passage>(shared: &Shared<P>, queue: &Tun, mut ivs: IvSource) {
    let mut frames = vec![Frame::new(CAPACITY); BURST];
    let mut fates = Vec::with_capacity(BURST);
    let (mut oversize, started) = (Oversize::default(), clock());
    let mut reader = Reader::new(queue, Frame::new(CAPACITY));
    while reader.has_more() || wait(&[queue.as_fd()], shared.stop.as_fd(), PollTimeout::NONE).is_some() {
        let Gathered { packets, unusable, end } = reader.gather(&mut frames);
        shared.passage.count_drops(DropReason::OutHdrError, unusable);
        let frames = &mut frames[..packets];
        shared.passage.outbound(frames, &mut ivs, &mut fates);
        let sealed = frames.iter().zip(&fates).filter(|(_, fate)| fate.is_ok()).map(|(frame, _)| frame.packet());
        send(shared, sealed);
        for (frame, _) in frames.iter_mut().zip(&fates).filter(|(_, fate)| fate.is_err_and(DropReason::is_open)) {
            let now = clock().duration_since(started);
            shared.passage.relieve(frame, &mut ivs, &mut oversize, now, &mut Ways { shared, queue });
        }
        if end.is_some_and(|error| !recover(&error, shared.stop.as_fd())) {
            return;
        }
    }
}

/// Dummies go out where packets do not.
pub(super) fn dummies<P: Passage>(shared: &Shared<P>, rate: NonZeroU32, mut ivs: IvSource) {
    let (mut dummies, started) = (Dummies::new(rate), clock());
    let mut pause = PAUSE;
    while wait(&[], shared.stop.as_fd(), PollTimeout::from(pause)).is_some() {
        let now = clock().duration_since(started);
        let send = |burst: &[Frame]| send(shared, burst.iter().map(Frame::packet));
        shared.passage.fill(&mut dummies, &mut ivs, now, send);
        // Now and then it looks whether there are other SAs.
        let next = dummies.deadline().map_or(u128::MAX, |due| due.saturating_sub(now).as_millis());
        pause = u16::try_from(next).map_or(PAUSE, |next| next.clamp(1, PAUSE));
    }
}

#[allow(clippy::disallowed_methods, reason = "an engine keeps its own time")]
fn clock() -> Instant {
    Instant::now()
}

/// Sends protected packets, and counts those that were not sent. One that the link does not take shows that the link has become
/// narrower.
fn send<'p, P: Passage>(shared: &Shared<P>, packets: impl Iterator<Item = &'p [u8]>) {
    let Unsent { too_big, failed } = outgoing::send(&shared.sockets, packets);
    if too_big > 0
        && let Ok(mtu) = shared.gauge.read()
    {
        tracing::debug!(mtu, "the interface takes less");
        shared.passage.set_link_mtu(mtu);
    }
    shared.passage.count_drops(DropReason::OutTooBig, too_big);
    shared.passage.count_drops(DropReason::OutError, failed);
}

/// Where packets go that take the place of one that is too large.
struct Ways<'s, P> {
    shared: &'s Shared<P>,
    queue: &'s Tun,
}

impl<P: Passage> Outlet for Ways<'_, P> {
    fn network(&mut self, burst: &[Frame]) {
        send(self.shared, burst.iter().map(Frame::packet));
    }

    fn host(&mut self, packet: &[u8]) {
        if let Err(error) = self.queue.write(packet) {
            tracing::debug!(%error, "the sender of a packet that is too large is not told");
        }
    }

    fn own_address(&mut self) -> Option<Ipv6Addr> {
        own_address(&self.shared.interface)
    }
}

/// An IPv6 address of an interface, one that is seen from afar if there is any.
fn own_address(interface: &str) -> Option<Ipv6Addr> {
    let addresses = getifaddrs().ok()?.filter(|known| known.interface_name == interface);
    let addresses = addresses.filter_map(|known| Some(known.address?.as_sockaddr_in6()?.ip()));
    addresses.min_by_key(Ipv6Addr::is_unicast_link_local)
}

/// Protected packets of one share become plain ones. With `rest`, packets that come quickly one after the other are waited for, which
/// makes bursts of them.
pub(super) fn inbound<P: Passage>(shared: &Shared<P>, tun: &Tun, share: usize, rest: bool) {
    let sockets = &shared.sockets;
    let Some(raw) = sockets.raw().get(share) else { return };
    let (frames, fates) = (vec![Frame::new(CAPACITY); BURST], Vec::with_capacity(BURST));
    let mut inbound = Inbound { shared, tun, frames, fates };
    let mut sources: Vec<(BorrowedFd<'_>, Box<dyn Receive>)> = Vec::new();
    if let Some(tap) = sockets.taps().get(share) {
        sources.push((tap.as_fd(), Box::new(ReceiveLink::new())));
    }
    sources.push((raw.v4(), Box::new(ReceiveV4::new())));
    if let Some(v6) = raw.v6() {
        sources.push((v6, Box::new(ReceiveV6::new())));
    }
    let fds: Vec<BorrowedFd<'_>> = sources.iter().map(|(fd, _)| *fd).collect();
    let rest = rest && set_current_timer_slack(Some(NonZeroU64::MIN)).is_ok();
    while let Some(ready) = wait(&fds, shared.stop.as_fd(), PollTimeout::NONE) {
        let mut most = 0;
        for ((socket, from), _) in sources.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
            let Some(packets) = inbound.burst(*socket, &mut **from) else { return };
            most = most.max(packets);
        }
        if rest && REST_AFTER.contains(&most) {
            thread::sleep(REST);
        }
    }
}

struct Inbound<'s, P> {
    shared: &'s Shared<P>,
    tun: &'s Tun,
    frames: Vec<Frame>,
    fates: Vec<Fate<u32>>,
}

impl<P: Passage> Inbound<'_, P> {
    /// Reads what is there, up to a burst, and opens it; gives how many packets it were. `None` when it is time to stop.
    fn burst(&mut self, socket: BorrowedFd<'_>, from: &mut dyn Receive) -> Option<usize> {
        let gathered = match from.receive(socket, &mut self.frames) {
            Ok(gathered) => gathered,
            Err(error) => return recover(&error, self.shared.stop.as_fd()).then_some(0),
        };
        let passage = &self.shared.passage;
        passage.count_drops(DropReason::InBufferError, gathered.unusable);
        passage.count_drops(DropReason::InHdrError, gathered.unsound);
        let frames = &mut self.frames[..gathered.packets];
        passage.inbound(frames, &mut self.fates);
        let opened = frames.iter().zip(&self.fates).filter(|(_, fate)| fate.is_ok()).map(|(frame, _)| frame.packet());
        let refused = self.tun.write_burst(opened);
        passage.count_drops(DropReason::InError, refused);
        Some(gathered.packets)
    }
}

/// Waits until one of up to three `fds` is readable, and says which are. `None` when it is time to stop.
fn wait(fds: &[BorrowedFd<'_>], stop: BorrowedFd<'_>, timeout: PollTimeout) -> Option<[bool; 3]> {
    let mut polled = [stop; 4];
    for (entry, fd) in polled[1..].iter_mut().zip(fds) {
        *entry = *fd;
    }
    let mut polled = polled.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    let used = fds.len().min(3) + 1;
    match poll(&mut polled[..used], timeout) {
        // Interrupted by a signal: look at all.
        Err(_) => Some([true; 3]),
        Ok(_) => {
            let [stopped, ready @ ..] = polled.map(|entry| entry.revents().is_some_and(|events| !events.is_empty()));
            (!stopped).then_some(ready)
        }
    }
}

/// After a failed read: nothing to read is no failure; after a real one (an interface that is down) the descriptor is
/// left alone for a while. False when it is time to stop.
fn recover(error: &io::Error, stop: BorrowedFd<'_>) -> bool {
    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) {
        return true;
    }
    tracing::debug!(%error, "not read");
    wait(&[], stop, PollTimeout::from(PAUSE)).is_some()
}
