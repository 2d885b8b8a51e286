//! The threads that move packets.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Shared;
use super::sockets::{Received, Sockets};
use crate::burst::{BURST, Fate};
use crate::drops::DropReason;
use crate::frame::Frame;
use crate::iv::IvSource;
use crate::packet;

/// The largest packet.
const CAPACITY: usize = 40 + 65_535;
/// How long a failing descriptor is left alone, in milliseconds.
const PAUSE: u16 = 100;

/// Plain packets become protected ones.
pub(super) fn outbound(shared: &Shared, mut ivs: IvSource) {
    let mut frames = vec![Frame::new(CAPACITY); BURST];
    let mut fates = Vec::with_capacity(BURST);
    while wait(&[shared.tun.as_fd()], shared.stop.as_fd(), PollTimeout::NONE) {
        let snapshot = shared.snapshot.load();
        let (read, end) = gather(&mut frames, |frame| {
            let len = shared.tun.recv(frame.space())?;
            frame.filled(len);
            Ok(Received::Packet)
        });
        let frames = &mut frames[..read];
        snapshot.seal_burst(frames, &mut ivs, &mut fates);
        for (frame, _) in frames.iter().zip(&fates).filter(|(_, fate)| fate.is_ok()) {
            let Some(destination) = packet::destination(frame.packet()) else { continue };
            if let Err(error) = shared.sockets.send(frame.packet(), destination) {
                snapshot.count_drop(DropReason::OutError);
                tracing::debug!(%error, to = %destination, "not sent");
            }
        }
        if end.is_some_and(|error| !recover(&error, shared.stop.as_fd())) {
            return;
        }
    }
}

/// Protected packets become plain ones.
pub(super) fn inbound(shared: &Shared) {
    let mut inbound = Inbound { shared, frames: vec![Frame::new(CAPACITY); BURST], fates: Vec::with_capacity(BURST) };
    let mut control = Sockets::control_buffer();
    let sockets: Vec<BorrowedFd<'_>> = [Some(shared.sockets.v4()), shared.sockets.v6()].into_iter().flatten().collect();
    while wait(&sockets, shared.stop.as_fd(), PollTimeout::NONE) {
        let v4 = inbound.burst(|frame| shared.sockets.receive_v4(frame));
        let v6 = shared.sockets.v6().is_none() || inbound.burst(|frame| shared.sockets.receive_v6(frame, &mut control));
        if !v4 || !v6 {
            return;
        }
    }
}

struct Inbound<'s> {
    shared: &'s Shared,
    frames: Vec<Frame>,
    fates: Vec<Fate<u32>>,
}

impl Inbound<'_> {
    /// Reads until there is nothing more, or a burst is there, and opens it. False when it is time to stop.
    fn burst(&mut self, mut receive: impl FnMut(&mut Frame) -> io::Result<Received>) -> bool {
        let snapshot = self.shared.snapshot.load();
        let (read, end) = gather(&mut self.frames, |frame| {
            receive(frame).inspect(|received| {
                if matches!(received, Received::Unusable) {
                    snapshot.count_drop(DropReason::InBufferError);
                }
            })
        });
        let frames = &mut self.frames[..read];
        snapshot.open_burst(frames, &mut self.fates);
        for (frame, _) in frames.iter().zip(&self.fates).filter(|(_, fate)| fate.is_ok()) {
            if self.shared.tun.send(frame.packet()).is_err() {
                snapshot.count_drop(DropReason::InError);
            }
        }
        end.is_none_or(|error| recover(&error, self.shared.stop.as_fd()))
    }
}

/// Fills frames from the front until all are full or there is nothing to read. Says how many are, and what ended it.
fn gather(
    frames: &mut [Frame],
    mut receive: impl FnMut(&mut Frame) -> io::Result<Received>,
) -> (usize, Option<io::Error>) {
    let mut filled = 0;
    // Unusable packets count, too, so that a flood of them does not keep the worker from looking at the stop signal.
    for _ in 0..frames.len() {
        match receive(&mut frames[filled]) {
            Ok(Received::Packet) => filled += 1,
            Ok(Received::Unusable) => {}
            Err(error) => return (filled, Some(error)),
        }
    }
    (filled, None)
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
