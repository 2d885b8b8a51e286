//! Netlink: messages to the kernel and its answers, as `include/uapi/linux/netlink.h` lays them out, and the socket for them.
//!
//! Numbers are in the machine's order, unless a subsystem wants them otherwise. Messages may hold keys, to the kernel and from
//! it: their memory is cleared after use, and has its size from the start so that it leaves no copies where it grew.

use std::io::{self, IoSlice, Read};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use zeroize::{Zeroize, Zeroizing};

mod read;

pub(super) use read::{Answer, Answers, Attributes, octets, u16_at, u32_at};

const NETLINK: i32 = 16;

/// Room for every message with keys in it; the longest has a replay window of 4,096 packets.
pub(super) const ROOM: usize = 2_048;

/// Of each message.
pub(super) const HEADER: usize = 16;
const FLAGS_AT: usize = 6;

/// Longer than what the kernel puts into one read.
const READ: usize = 64 * 1024;

/// Flags of the header.
pub(super) mod flag {
    pub(super) const REQUEST: u16 = 0x1;
    pub(in crate::engine) const ACKNOWLEDGE: u16 = 0x4;
    pub(in crate::engine) const DUMP: u16 = 0x300;
}

/// A socket, which belongs to the network namespace of the thread that opens it.
pub(super) struct Netlink {
    socket: Socket,
    number: u32,
    /// What is read may have keys in it.
    read: Zeroizing<Vec<u8>>,
}

/// Which messages were sent together.
#[derive(Clone, Copy)]
pub(super) struct Sent {
    first: u32,
    count: usize,
}

impl Netlink {
    /// For a protocol of the kernel's, whose answers are waited for so long.
    pub(super) fn open(protocol: i32, patience: Duration) -> io::Result<Self> {
        let socket = Socket::new(Domain::from(NETLINK), Type::RAW, Some(Protocol::from(protocol)))?;
        socket.set_read_timeout(Some(patience))?;
        Ok(Self { socket, number: 0, read: Zeroizing::new(vec![0; READ]) })
    }

    /// How many messages there have been.
    #[cfg(test)]
    pub(super) fn asked(&self) -> u32 {
        self.number
    }

    /// Sends messages in one piece.
    pub(super) fn send(&mut self, messages: impl IntoIterator<Item = Message>) -> io::Result<Sent> {
        let first = self.number.wrapping_add(1);
        let numbered = |message: Message| {
            self.number = self.number.wrapping_add(1);
            message.finish(self.number)
        };
        let messages: Vec<_> = messages.into_iter().map(numbered).collect();
        let pieces: Vec<_> = messages.iter().map(|octets| IoSlice::new(octets)).collect();
        while let Err(error) = self.socket.send_vectored(&pieces) {
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        Ok(Sent { first, count: messages.len() })
    }

    /// Reads until `take` has what it wants of the answers to what was sent, each with the place of the message that it is for.
    pub(super) fn receive<T>(
        &mut self,
        sent: Sent,
        mut take: impl FnMut(usize, Answer<'_>) -> Option<io::Result<T>>,
    ) -> io::Result<T> {
        loop {
            let length = match (&self.socket).read(&mut self.read) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            let read = self.read.get_mut(..length).unwrap_or_default();
            let taken = Answers(read).find_map(|(number, answer)| take(sent.place(number)?, answer));
            // There may be keys in it, others' too.
            read.zeroize();
            if let Some(taken) = taken {
                return taken;
            }
        }
    }
}

impl Sent {
    fn place(self, number: u32) -> Option<usize> {
        usize::try_from(number.wrapping_sub(self.first)).ok().filter(|place| *place < self.count)
    }
}

/// A message to the kernel.
pub(super) struct Message(Zeroizing<Vec<u8>>);

impl Message {
    pub(super) fn new(kind: u16, flags: u16) -> Self {
        let mut octets = Zeroizing::new(Vec::with_capacity(ROOM));
        octets.extend([0; 4]);
        octets.extend(kind.to_ne_bytes());
        octets.extend((flag::REQUEST | flags).to_ne_bytes());
        octets.extend([0; 8]);
        Self(octets)
    }

    /// Likewise, and the kernel is to say when it is done.
    pub(super) fn acknowledged(mut self) -> Self {
        let flags = u16_at(&self.0, FLAGS_AT).unwrap_or_default() | flag::ACKNOWLEDGE;
        self.0[FLAGS_AT..FLAGS_AT + 2].copy_from_slice(&flags.to_ne_bytes());
        self
    }

    /// The octets to send, numbered.
    pub(super) fn finish(mut self, number: u32) -> Zeroizing<Vec<u8>> {
        let length = u32::try_from(self.0.len()).unwrap_or(0);
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0[8..12].copy_from_slice(&number.to_ne_bytes());
        self.0
    }

    pub(super) fn attribute(&mut self, kind: u16, write: impl FnOnce(&mut Self)) {
        let at = self.0.len();
        self.zeros(4);
        write(self);
        let length = u16::try_from(self.0.len() - at).unwrap_or(0);
        self.0[at..at + 2].copy_from_slice(&length.to_ne_bytes());
        self.0[at + 2..at + 4].copy_from_slice(&kind.to_ne_bytes());
        self.pad(4);
    }

    pub(super) fn u16(&mut self, n: u16) {
        self.octets(&n.to_ne_bytes());
    }

    pub(super) fn u32(&mut self, n: u32) {
        self.octets(&n.to_ne_bytes());
    }

    pub(super) fn u32s(&mut self, numbers: &[u32]) {
        numbers.iter().for_each(|n| self.u32(*n));
    }

    pub(super) fn u64s(&mut self, numbers: &[u64]) {
        numbers.iter().for_each(|n| self.octets(&n.to_ne_bytes()));
    }

    pub(super) fn octets(&mut self, octets: &[u8]) {
        self.0.extend_from_slice(octets);
    }

    pub(super) fn zeros(&mut self, count: usize) {
        let length = self.0.len() + count;
        self.0.resize(length, 0);
    }

    /// Fills up to a multiple, counted from the end of the header.
    pub(super) fn pad(&mut self, to: usize) {
        let body = self.0.len() - HEADER;
        self.zeros(body.next_multiple_of(to) - body);
    }
}
