//! Raw sockets of IP protocol 50, as the engine has them.

use std::mem::MaybeUninit;
use std::net::SocketAddrV4;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use nix::net::if_::if_nametoindex;
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockAddr, SockFilter, Socket, Type};

use crate::cell::{BURST, GROUP, Read, Write};
use crate::mapped::call;
use crate::net::DEVICE;

const BUFFER: usize = 16 << 20;

/// A raw socket with buffers for more than is ever on its way.
pub(crate) fn raw_socket() -> Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(50)))?;
    socket.bind_device(Some(DEVICE.as_bytes()))?;
    socket.set_header_included_v4(true)?;
    socket.set_multicast_loop_v4(false)?;
    force_buffers(&socket)?;
    Ok(socket)
}

pub(crate) fn force_buffers(socket: &Socket) -> Result<()> {
    for option in [libc::SO_RCVBUFFORCE, libc::SO_SNDBUFFORCE] {
        set(socket, libc::SOL_SOCKET, option, &(BUFFER as i32))?;
    }
    Ok(())
}

/// Sets an option that is a value of a type that the kernel reads as it is.
pub(crate) fn set<T>(socket: &Socket, level: i32, option: i32, value: &T) -> Result<()> {
    // SAFETY: the pointer and the length are those of one value.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    call(done as i64).map(drop).with_context(|| format!("socket option {option}"))
}

/// Waits for something to read.
pub(crate) fn poll(sockets: &[Socket]) -> Result<()> {
    let mut polled: Vec<_> = sockets
        .iter()
        .map(|socket| libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 })
        .collect();
    // SAFETY: the array is as long as is said.
    call(i64::from(unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, 100) })).map(drop)
}

/// Membership of the group.
pub(crate) struct Joined(#[expect(dead_code, reason = "kept for the membership")] Socket);

impl Joined {
    pub(crate) fn open() -> Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
        socket.join_multicast_v4_n(&GROUP, &InterfaceIndexOrAddress::Index(if_nametoindex(DEVICE)?))?;
        Ok(Self(socket))
    }
}

/// Messages of one part each, for `sendmmsg` and `recvmmsg`.
pub(crate) struct Messages {
    #[expect(dead_code, reason = "the parts point to it")]
    buffers: Vec<Vec<u8>>,
    #[expect(dead_code, reason = "the messages point to it")]
    parts: Vec<libc::iovec>,
    #[expect(dead_code, reason = "the messages point to it")]
    to: Option<Box<SockAddr>>,
    pub(crate) headers: Vec<libc::mmsghdr>,
}

impl Messages {
    pub(crate) fn new(mut buffers: Vec<Vec<u8>>, to: Option<SockAddr>) -> Self {
        let to = to.map(Box::new);
        let part = |buffer: &mut Vec<u8>| libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        let mut parts: Vec<_> = buffers.iter_mut().map(part).collect();
        let header = |part: &mut libc::iovec| {
            // SAFETY: all zeros are a header without anything.
            let mut header: libc::mmsghdr = unsafe { MaybeUninit::zeroed().assume_init() };
            (header.msg_hdr.msg_iov, header.msg_hdr.msg_iovlen) = (part, 1);
            if let Some(to) = &to {
                header.msg_hdr.msg_name = to.as_ptr().cast_mut().cast();
                header.msg_hdr.msg_namelen = to.len();
            }
            header
        };
        let headers = parts.iter_mut().map(header).collect();
        Self { buffers, parts, to, headers }
    }

    pub(crate) fn send(&mut self, socket: &Socket) -> Result<()> {
        let mut at = 0;
        while at < self.headers.len() {
            let rest = &mut self.headers[at..];
            // SAFETY: headers, parts, buffers and address live in `self`.
            let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), rest.as_mut_ptr(), rest.len() as u32, 0) };
            at += call(i64::from(sent)).context("sendmmsg")? as usize;
        }
        Ok(())
    }
}

/// Sends by one call for each packet, or for many.
pub(crate) struct RawSocket {
    socket: Socket,
    packet: Vec<u8>,
    messages: Option<Messages>,
}

pub(crate) fn group() -> SockAddr {
    SocketAddrV4::new(GROUP, 0).into()
}

impl RawSocket {
    pub(crate) fn open(packet: &[u8], burst: usize) -> Result<Self> {
        let messages = (burst > 1).then(|| Messages::new(vec![packet.to_vec(); burst], Some(group())));
        Ok(Self { socket: raw_socket()?, packet: packet.to_vec(), messages })
    }
}

impl Write for RawSocket {
    fn write(&mut self) -> Result<()> {
        match &mut self.messages {
            Some(messages) => messages.send(&self.socket),
            None => {
                for _ in 0..BURST {
                    self.socket.send_to(&self.packet, &group())?;
                }
                Ok(())
            }
        }
    }
}

/// Receives by one call for each packet, or for many; several sockets have filters that share the packets out.
pub(crate) struct RawReader {
    sockets: Vec<Socket>,
    messages: Messages,
}

impl RawReader {
    pub(crate) fn open(burst: usize, sockets: usize) -> Result<Self> {
        let socket = |share| -> Result<Socket> {
            let socket = raw_socket()?;
            socket.set_nonblocking(true)?;
            if sockets > 1 {
                socket.attach_filter(&filter(share as u32, sockets as u32))?;
            }
            Ok(socket)
        };
        let sockets = (0..sockets).map(socket).collect::<Result<_>>()?;
        Ok(Self { sockets, messages: Messages::new(vec![vec![0; 2_000]; burst], None) })
    }
}

/// Takes the packets whose source is one of a share of the addresses.
fn filter(share: u32, shares: u32) -> Vec<SockFilter> {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const MODULO: u16 = (libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    vec![
        SockFilter::new(LOAD, 0, 0, 12),
        SockFilter::new(MODULO, 0, 0, shares),
        SockFilter::new(EQUAL, 0, 1, share),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

impl Read for RawReader {
    fn read(&mut self) -> Result<u64> {
        poll(&self.sockets)?;
        let mut packets = 0;
        for socket in &self.sockets {
            let headers = &mut self.messages.headers;
            // SAFETY: headers, parts and buffers live in `self.messages`.
            let read = unsafe {
                let (fd, first, count) = (socket.as_raw_fd(), headers.as_mut_ptr(), headers.len() as u32);
                libc::recvmmsg(fd, first, count, libc::MSG_DONTWAIT, std::ptr::null_mut())
            };
            packets += u64::try_from(read).unwrap_or(0);
        }
        Ok(packets)
    }
}
