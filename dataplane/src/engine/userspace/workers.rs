//! The threads that move packets.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Shared;
use super::sockets::{Received, Sockets};
use crate::drops::DropReason;
use crate::frame::Frame;
use crate::iv::IvSource;
use crate::sad::Snapshot;

/// The largest packet.
const CAPACITY: usize = 40 + 65_535;
/// Packets between two looks at the stop signal and the snapshot.
const BATCH: usize = 64;
/// How long a failing descriptor is left alone, in milliseconds.
const PAUSE: u16 = 100;

/// Plain packets become protected ones.
pub(super) fn outbound(shared: &Shared, mut ivs: IvSource) {
    let mut frame = Frame::new(CAPACITY);
    while wait(&[shared.tun.as_fd()], shared.stop.as_fd(), PollTimeout::NONE) {
        let snapshot = shared.snapshot.load();
        for _ in 0..BATCH {
            match shared.tun.recv(frame.space()) {
                Ok(len) => frame.filled(len),
                Err(error) => {
                    if !recover(&error, shared.stop.as_fd()) {
                        return;
                    }
                    break;
                }
            }
            let Ok(sealed) = snapshot.seal(&mut frame, &mut ivs) else { continue };
            if let Err(error) = shared.sockets.send(frame.packet(), sealed.destination) {
                snapshot.count_drop(DropReason::OutError);
                tracing::debug!(%error, to = %sealed.destination, "not sent");
            }
        }
    }
}

/// Protected packets become plain ones.
pub(super) fn inbound(shared: &Shared) {
    let mut frame = Frame::new(CAPACITY);
    let mut control = Sockets::control_buffer();
    let sockets: Vec<BorrowedFd<'_>> = [Some(shared.sockets.v4()), shared.sockets.v6()].into_iter().flatten().collect();
    while wait(&sockets, shared.stop.as_fd(), PollTimeout::NONE) {
        let snapshot = shared.snapshot.load();
        let v4 = drain(shared, &snapshot, &mut frame, |frame| shared.sockets.receive_v4(frame));
        let v6 = shared.sockets.v6().is_none()
            || drain(shared, &snapshot, &mut frame, |frame| shared.sockets.receive_v6(frame, &mut control));
        if !v4 || !v6 {
            return;
        }
    }
}

/// Reads until there is nothing more, or a batch is done. False when it is time to stop.
fn drain(
    shared: &Shared,
    snapshot: &Snapshot,
    frame: &mut Frame,
    mut receive: impl FnMut(&mut Frame) -> io::Result<Received>,
) -> bool {
    for _ in 0..BATCH {
        match receive(frame) {
            Ok(Received::Packet) => {}
            Ok(Received::Unusable) => {
                snapshot.count_drop(DropReason::InBufferError);
                continue;
            }
            Err(error) => return recover(&error, shared.stop.as_fd()),
        }
        if snapshot.open(frame).is_ok() && shared.tun.send(frame.packet()).is_err() {
            snapshot.count_drop(DropReason::InError);
        }
    }
    true
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
