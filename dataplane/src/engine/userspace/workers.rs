//! The threads that move packets.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tun_rs::SyncDevice;

use super::incoming::{Receive, ReceiveV4, ReceiveV6};
use super::passage::Passage;
use super::{Shared, outgoing};
use crate::burst::{BURST, Fate};
use crate::drops::DropReason;
use crate::frame::Frame;
use crate::iv::IvSource;

/// The largest packet.
const CAPACITY: usize = 40 + 65_535;
/// How long a failing descriptor is left alone, in milliseconds.
const PAUSE: u16 = 100;

/// Plain packets of one queue become protected ones.
pub(super) fn outbound<P: Passage>(shared: &Shared<P>, queue: &SyncDevice, mut ivs: IvSource) {
    let mut frames = vec![Frame::new(CAPACITY); BURST];
    let mut fates = Vec::with_capacity(BURST);
    while wait(&[queue.as_fd()], shared.stop.as_fd(), PollTimeout::NONE) {
        let (read, end) = gather(queue, &mut frames);
        let frames = &mut frames[..read];
        shared.passage.outbound(frames, &mut ivs, &mut fates);
        let sealed = frames.iter().zip(&fates).filter(|(_, fate)| fate.is_ok()).map(|(frame, _)| frame.packet());
        for _ in 0..outgoing::send(&shared.sockets, sealed) {
            shared.passage.count_drop(DropReason::OutError);
        }
        if end.is_some_and(|error| !recover(&error, shared.stop.as_fd())) {
            return;
        }
    }
}

/// Fills frames from the front until all are full or there is nothing to read: a TUN device gives one packet to a
/// system call. Says how many are, and what ended it.
fn gather(queue: &SyncDevice, frames: &mut [Frame]) -> (usize, Option<io::Error>) {
    for (at, frame) in frames.iter_mut().enumerate() {
        match queue.recv(frame.space()) {
            Ok(len) => frame.filled(len),
            Err(error) => return (at, Some(error)),
        }
    }
    (frames.len(), None)
}

/// Protected packets become plain ones.
pub(super) fn inbound<P: Passage>(shared: &Shared<P>) {
    let mut inbound = Inbound { shared, frames: vec![Frame::new(CAPACITY); BURST], fates: Vec::with_capacity(BURST) };
    let (mut v4, mut v6) = (ReceiveV4::new(), ReceiveV6::new());
    let sockets: Vec<BorrowedFd<'_>> = [Some(shared.sockets.v4()), shared.sockets.v6()].into_iter().flatten().collect();
    while wait(&sockets, shared.stop.as_fd(), PollTimeout::NONE) {
        let goes_on = inbound.burst(shared.sockets.v4(), &mut v4)
            && shared.sockets.v6().is_none_or(|socket| inbound.burst(socket, &mut v6));
        if !goes_on {
            return;
        }
    }
}

struct Inbound<'s, P> {
    shared: &'s Shared<P>,
    frames: Vec<Frame>,
    fates: Vec<Fate<u32>>,
}

impl<P: Passage> Inbound<'_, P> {
    /// Reads what is there, up to a burst, and opens it. False when it is time to stop.
    fn burst(&mut self, socket: BorrowedFd<'_>, from: &mut impl Receive) -> bool {
        let gathered = match from.receive(socket, &mut self.frames) {
            Ok(gathered) => gathered,
            Err(error) => return recover(&error, self.shared.stop.as_fd()),
        };
        let passage = &self.shared.passage;
        for _ in 0..gathered.unusable {
            passage.count_drop(DropReason::InBufferError);
        }
        let frames = &mut self.frames[..gathered.packets];
        passage.inbound(frames, &mut self.fates);
        for (frame, _) in frames.iter().zip(&self.fates).filter(|(_, fate)| fate.is_ok()) {
            if self.shared.tun.send(frame.packet()).is_err() {
                passage.count_drop(DropReason::InError);
            }
        }
        true
    }
}

/// Waits until one of `fds` is readable. False when it is time to stop.
fn wait(fds: &[BorrowedFd<'_>], stop: BorrowedFd<'_>, timeout: PollTimeout) -> bool {
    let mut polled = [stop; 3];
    for (entry, fd) in polled[1..].iter_mut().zip(fds) {
        *entry = *fd;
    }
    let mut polled = polled.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    let used = fds.len().min(2) + 1;
    match poll(&mut polled[..used], timeout) {
        // Interrupted by a signal: look again.
        Err(_) => true,
        Ok(_) => polled[0].revents().is_none_or(|events| events.is_empty()),
    }
}

/// After a failed read: nothing to read is no failure; after a real one (an interface that is down) the descriptor is
/// left alone for a while. False when it is time to stop.
fn recover(error: &io::Error, stop: BorrowedFd<'_>) -> bool {
    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) {
        return true;
    }
    tracing::debug!(%error, "not read");
    wait(&[], stop, PollTimeout::from(PAUSE))
}
