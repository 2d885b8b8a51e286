//! Counts what arrives.

use std::array;
use std::io::IoSliceMut;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{MsgFlags, MultiHeaders, recvmmsg, setsockopt, sockopt};
use socket2::{Domain, InterfaceIndexOrAddress, Socket, Type};

use super::{BATCH, Flow, HEADERS, Handing, PORT, now, read_number};

/// Counts packets.
pub(in crate::path) struct Receiver {
    socket: Socket,
    flow: Flow,
}

impl Receiver {
    /// In the namespace of the calling thread; multicast is taken from a device.
    pub(in crate::path) fn new(flow: Flow, from: Option<&str>) -> Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
        if let Some(device) = from {
            let index = if_nametoindex(device)?;
            socket.join_multicast_v4_n(&flow.destination, &InterfaceIndexOrAddress::Index(index))?;
        }
        if flow.handing == Handing::InPieces {
            setsockopt(&socket, sockopt::UdpGroSegment, &true).context("UDP_GRO")?;
        }
        socket.bind(&SocketAddr::from((flow.destination, PORT)).into())?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        // It is not the receiver's patience that is measured.
        setsockopt(&socket, sockopt::RcvBufForce, &(64 << 20))?;
        Ok(Self { socket, flow })
    }

    /// Counts packets from a number on until told to stop.
    pub(super) fn run(&self, first: u64, counted: &AtomicU64, stop: &AtomicBool, delays: bool) -> Result<Vec<u32>> {
        let payload = self.flow.octets - HEADERS;
        let (room, part) = match self.flow.handing {
            Handing::Singly => (payload + 1, payload + 1),
            Handing::InPieces => (usize::from(u16::MAX), payload),
        };
        let mut buffers = vec![vec![0; room]; BATCH];
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
            let numbers = buffers
                .iter()
                .zip(&lengths)
                .flat_map(|(space, len)| space[..*len].chunks(part))
                .filter_map(|payload| read_number(payload, self.flow.octets));
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
