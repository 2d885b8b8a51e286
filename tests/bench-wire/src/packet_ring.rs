//! AF_PACKET: whole frames, past the IP stack (`Documentation/networking/packet_mmap.rst` of the kernel).

use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result};
use nix::net::if_::if_nametoindex;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::cell::{BURST, Read, Write, in_ethernet};
use crate::mapped::{Mapped, call};
use crate::net::DEVICE;
use crate::raw::{Messages, force_buffers, poll, set};

const FRAME: usize = 2_048;
const BLOCK: usize = 1 << 18;
const BLOCKS: usize = 64;
/// After so many milliseconds the kernel gives a block away that is not full.
const RETIRE: u32 = 1;

/// A socket of the device; a protocol of 0 receives nothing.
fn packet_socket(protocol: u16) -> Result<Socket> {
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
    force_buffers(&socket)?;
    // The filter is there before the first packet is.
    if protocol != 0 {
        socket.attach_filter(&only_esp())?;
    }
    Ok(socket)
}

fn bind(socket: &Socket, protocol: u16) -> Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol.to_be(),
        sll_ifindex: if_nametoindex(DEVICE)? as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the pointer and the length are those of one address.
    let bound = unsafe {
        let len = size_of_val(&address) as libc::socklen_t;
        libc::bind(socket.as_raw_fd(), std::ptr::from_ref(&address).cast(), len)
    };
    call(i64::from(bound)).map(drop).context("bind")
}

/// Lets ESP over IPv4 pass.
fn only_esp() -> Vec<SockFilter> {
    vec![
        SockFilter::new((libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16, 0, 0, 14 + 9),
        SockFilter::new((libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, 0, 1, 50),
        SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, u32::MAX),
        SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, 0),
    ]
}

/// Sends by `sendmmsg`.
pub(crate) struct PacketSocket {
    socket: Socket,
    messages: Messages,
}

impl PacketSocket {
    pub(crate) fn open(packet: &[u8], bypass: bool) -> Result<Self> {
        let socket = packet_socket(0)?;
        set(&socket, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, &i32::from(bypass))?;
        bind(&socket, 0)?;
        Ok(Self { socket, messages: Messages::new(vec![in_ethernet(packet); BURST], None) })
    }
}

impl Write for PacketSocket {
    fn write(&mut self) -> Result<()> {
        self.messages.send(&self.socket)
    }
}

/// Sends by a ring of frames.
pub(crate) struct PacketWriter {
    socket: Socket,
    ring: Mapped,
    frame: Vec<u8>,
    next: usize,
}

/// Offset of a frame's octets behind its header (TPACKET_V2 with no reserve).
const OCTETS: usize = size_of::<libc::tpacket2_hdr>().next_multiple_of(libc::TPACKET_ALIGNMENT);
const FRAMES: usize = BLOCK / FRAME * 4;

impl PacketWriter {
    pub(crate) fn open(packet: &[u8]) -> Result<Self> {
        let socket = packet_socket(0)?;
        set(&socket, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, &1i32)?;
        set(&socket, libc::SOL_PACKET, libc::PACKET_VERSION, &(libc::tpacket_versions::TPACKET_V2 as i32))?;
        let request = libc::tpacket_req {
            tp_block_size: BLOCK as u32,
            tp_block_nr: (FRAMES * FRAME / BLOCK) as u32,
            tp_frame_size: FRAME as u32,
            tp_frame_nr: FRAMES as u32,
        };
        set(&socket, libc::SOL_PACKET, libc::PACKET_TX_RING, &request)?;
        let ring = Mapped::new(socket.as_raw_fd(), FRAMES * FRAME, 0)?;
        bind(&socket, 0)?;
        Ok(Self { socket, ring, frame: in_ethernet(packet), next: 0 })
    }
}

impl Write for PacketWriter {
    fn write(&mut self) -> Result<()> {
        for _ in 0..BURST {
            let at = self.next * FRAME;
            while self.ring.atomic(at).load(Ordering::Acquire) != libc::TP_STATUS_AVAILABLE {
                std::hint::spin_loop();
            }
            self.ring.copy_in(at + OCTETS, &self.frame);
            self.ring.set(at + std::mem::offset_of!(libc::tpacket2_hdr, tp_len), self.frame.len() as u32);
            self.ring.atomic(at).store(libc::TP_STATUS_SEND_REQUEST, Ordering::Release);
            self.next = (self.next + 1) % FRAMES;
        }
        // SAFETY: no octets are sent but those of the ring.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), std::ptr::null(), 0, 0) };
        call(sent as i64).map(drop).context("send")
    }
}

/// Receives by a ring of blocks.
pub(crate) struct PacketReader {
    socket: [Socket; 1],
    ring: Mapped,
    next: usize,
    looked_at: u8,
}

impl PacketReader {
    pub(crate) fn open() -> Result<Self> {
        let socket = packet_socket(libc::ETH_P_IP as u16)?;
        set(&socket, libc::SOL_PACKET, libc::PACKET_VERSION, &(libc::tpacket_versions::TPACKET_V3 as i32))?;
        let request = libc::tpacket_req3 {
            tp_block_size: BLOCK as u32,
            tp_block_nr: BLOCKS as u32,
            tp_frame_size: FRAME as u32,
            tp_frame_nr: (BLOCK / FRAME * BLOCKS) as u32,
            tp_retire_blk_tov: RETIRE,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        };
        set(&socket, libc::SOL_PACKET, libc::PACKET_RX_RING, &request)?;
        let ring = Mapped::new(socket.as_raw_fd(), BLOCK * BLOCKS, 0)?;
        bind(&socket, libc::ETH_P_IP as u16)?;
        Ok(Self { socket: [socket], ring, next: 0, looked_at: 0 })
    }
}

impl Read for PacketReader {
    fn read(&mut self) -> Result<u64> {
        // A block begins with its version and an offset, then its header: status, number of packets, offset of the first.
        const STATUS: usize = 8;
        let block = self.next * BLOCK;
        if self.ring.atomic(block + STATUS).load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
            poll(&self.socket)?;
            if self.ring.atomic(block + STATUS).load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
                return Ok(0);
            }
        }
        let packets: u32 = self.ring.get(block + STATUS + 4);
        let mut at = block + self.ring.get::<u32>(block + STATUS + 8) as usize;
        for _ in 0..packets {
            let header: libc::tpacket3_hdr = self.ring.get(at);
            self.looked_at ^= self.ring.get::<u8>(at + usize::from(header.tp_net) + 9);
            at += header.tp_next_offset as usize;
        }
        self.ring.atomic(block + STATUS).store(libc::TP_STATUS_KERNEL, Ordering::Release);
        self.next = (self.next + 1) % BLOCKS;
        Ok(u64::from(packets))
    }
}
