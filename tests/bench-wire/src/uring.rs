//! Raw sockets by io_uring (`io_uring(7)`).

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Result, bail, ensure};
use io_uring::types::{BufRingEntry, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use socket2::Socket;

use crate::cell::{BURST, Read, Write};
use crate::mapped::Mapped;
use crate::raw::{Messages, group, raw_socket};

/// Sends a burst by one call.
pub(crate) struct UringWriter {
    socket: Socket,
    messages: Messages,
    ring: IoUring,
}

impl UringWriter {
    pub(crate) fn open(packet: &[u8]) -> Result<Self> {
        let ring = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(BURST as u32)?;
        let messages = Messages::new(vec![packet.to_vec(); BURST], Some(group()));
        Ok(Self { socket: raw_socket()?, messages, ring })
    }
}

impl Write for UringWriter {
    fn write(&mut self) -> Result<()> {
        let fd = Fd(self.socket.as_raw_fd());
        for message in &self.messages.headers {
            let entry = opcode::SendMsg::new(fd, &raw const message.msg_hdr).build();
            // SAFETY: messages live in `self`, which is borrowed until all have completed.
            unsafe { self.ring.submission().push(&entry) }?;
        }
        self.ring.submit_and_wait(BURST)?;
        let done = self.ring.completion().map(|entry| entry.result()).collect::<Vec<_>>();
        ensure!(done.len() == BURST && done.iter().all(|sent| *sent > 0), "{done:?}");
        Ok(())
    }
}

const BUFFER: usize = 2_048;
const BUFFERS: u16 = 4_096;
const BUFFER_GROUP: u16 = 1;

/// One request receives for ever, into buffers of a ring.
pub(crate) struct UringReader {
    ring: IoUring,
    socket: Socket,
    buffers: Mapped,
    entries: Mapped,
    tail: u16,
    armed: bool,
    looked_at: u8,
}

impl UringReader {
    pub(crate) fn open() -> Result<Self> {
        let ring = IoUring::builder().setup_single_issuer().setup_defer_taskrun().setup_cqsize(8_192).build(8)?;
        let buffers = Mapped::new(-1, BUFFER * usize::from(BUFFERS), 0)?;
        let entries = Mapped::new(-1, size_of::<BufRingEntry>() * usize::from(BUFFERS), 0)?;
        // SAFETY: the ring is closed before the entries are unmapped: fields are dropped in order.
        unsafe {
            let address = entries.address() as u64;
            ring.submitter().register_buf_ring_with_flags(address, BUFFERS, BUFFER_GROUP, 0)?;
        }
        let mut reader = Self { ring, socket: raw_socket()?, buffers, entries, tail: 0, armed: false, looked_at: 0 };
        (0..BUFFERS).for_each(|buffer| reader.give(buffer));
        reader.publish();
        Ok(reader)
    }

    fn give(&mut self, buffer: u16) {
        let at = usize::from(self.tail & (BUFFERS - 1));
        // SAFETY: within the ring; an entry behind the published tail is ours alone.
        let entry = unsafe { &mut *self.entries.address().cast::<BufRingEntry>().add(at) };
        // SAFETY: within the buffers.
        let address = unsafe { self.buffers.address().add(usize::from(buffer) * BUFFER) };
        entry.set_addr(address as u64);
        entry.set_len(BUFFER as u32);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
    }

    fn publish(&mut self) {
        // SAFETY: the tail lies in the first entry, aligned, and the kernel reads it as an atomic number.
        let tail = unsafe {
            AtomicU16::from_ptr(BufRingEntry::tail(self.entries.address().cast::<BufRingEntry>()).cast_mut())
        };
        tail.store(self.tail, Ordering::Release);
    }

    fn arm(&mut self) -> Result<()> {
        let entry: squeue::Entry = opcode::RecvMulti::new(Fd(self.socket.as_raw_fd()), BUFFER_GROUP).build();
        // SAFETY: the request uses registered buffers only.
        unsafe { self.ring.submission().push(&entry) }?;
        self.armed = true;
        Ok(())
    }
}

impl Read for UringReader {
    fn read(&mut self) -> Result<u64> {
        if !self.armed {
            self.arm()?;
        }
        let timeout = Timespec::new().nsec(100_000_000);
        if let Err(error) = self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&timeout)) {
            ensure!(error.raw_os_error() == Some(libc::ETIME), "{error}");
        }
        let entries: Vec<cqueue::Entry> = self.ring.completion().collect();
        let mut packets = 0;
        for entry in entries {
            self.armed &= cqueue::more(entry.flags());
            match (entry.result(), cqueue::buffer_select(entry.flags())) {
                (1.., Some(buffer)) => {
                    packets += 1;
                    self.looked_at ^= self.buffers.get::<u8>(usize::from(buffer) * BUFFER + 9);
                    self.give(buffer);
                }
                // Out of buffers, which come back below.
                (error, _) if error == -libc::ENOBUFS => {}
                (error, _) => bail!("recv: {}", std::io::Error::from_raw_os_error(-error)),
            }
        }
        self.publish();
        Ok(packets)
    }
}
