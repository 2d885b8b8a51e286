//! AF_XDP in copy mode, the only one that a veth has (`Documentation/networking/af_xdp.rst` of the kernel).

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::net::if_::if_nametoindex;
use socket2::{Domain, Socket, Type};

use crate::cell::{BURST, Read, Write, in_ethernet};
use crate::mapped::{Mapped, call};
use crate::net::DEVICE;
use crate::raw::{poll, set};

const CHUNK: usize = 2_048;
const CHUNKS: u32 = 4_096;

/// A socket with its memory for packets.
struct Xsk {
    socket: [Socket; 1],
    packets: Mapped,
    fill: Ring,
    completion: Ring,
    /// Of the one direction that it is used for.
    work: Ring,
}

/// One of its rings: a producer, a consumer, and entries.
struct Ring {
    memory: Mapped,
    offsets: libc::xdp_ring_offset,
    producer: u32,
    consumer: u32,
}

impl Ring {
    fn new(socket: &Socket, offsets: libc::xdp_ring_offset, entry: usize, page: i64) -> Result<Self> {
        let memory = Mapped::new(socket.as_raw_fd(), offsets.desc as usize + CHUNKS as usize * entry, page)?;
        Ok(Self { memory, offsets, producer: 0, consumer: 0 })
    }

    /// Entries that the kernel has produced.
    fn filled(&mut self) -> u32 {
        self.memory.atomic(self.offsets.producer as usize).load(Ordering::Acquire).wrapping_sub(self.consumer)
    }

    /// Has the kernel consumed everything?
    fn is_empty(&mut self) -> bool {
        self.memory.atomic(self.offsets.consumer as usize).load(Ordering::Acquire) == self.producer
    }

    fn take<T: Copy>(&mut self) -> T {
        let at = (self.consumer & (CHUNKS - 1)) as usize;
        self.consumer = self.consumer.wrapping_add(1);
        self.memory.get(self.offsets.desc as usize + at * size_of::<T>())
    }

    fn put<T: Copy>(&mut self, value: T) {
        let at = (self.producer & (CHUNKS - 1)) as usize;
        self.producer = self.producer.wrapping_add(1);
        self.memory.set(self.offsets.desc as usize + at * size_of::<T>(), value);
    }

    /// Gives away what was put.
    fn publish(&mut self) {
        self.memory.atomic(self.offsets.producer as usize).store(self.producer, Ordering::Release);
    }

    /// Gives back what was taken.
    fn release(&mut self) {
        self.memory.atomic(self.offsets.consumer as usize).store(self.consumer, Ordering::Release);
    }
}

impl Xsk {
    fn open(receives: bool) -> Result<Self> {
        let socket = Socket::new(Domain::from(libc::AF_XDP), Type::RAW, None)?;
        let packets = Mapped::new(-1, CHUNK * CHUNKS as usize, 0)?;
        let memory = libc::xdp_umem_reg {
            addr: packets.address() as u64,
            len: CHUNK as u64 * u64::from(CHUNKS),
            chunk_size: CHUNK as u32,
            headroom: 0,
            flags: 0,
            tx_metadata_len: 0,
        };
        set(&socket, libc::SOL_XDP, libc::XDP_UMEM_REG, &memory)?;
        let work = if receives { libc::XDP_RX_RING } else { libc::XDP_TX_RING };
        for ring in [libc::XDP_UMEM_FILL_RING, libc::XDP_UMEM_COMPLETION_RING, work] {
            set(&socket, libc::SOL_XDP, ring, &CHUNKS)?;
        }
        let none = || libc::xdp_ring_offset { producer: 0, consumer: 0, desc: 0, flags: 0 };
        let mut offsets = libc::xdp_mmap_offsets { rx: none(), tx: none(), fr: none(), cr: none() };
        let mut len = size_of_val(&offsets) as libc::socklen_t;
        // SAFETY: the pointer and the length are those of the offsets.
        let told = unsafe {
            let to = std::ptr::from_mut(&mut offsets).cast();
            libc::getsockopt(socket.as_raw_fd(), libc::SOL_XDP, libc::XDP_MMAP_OFFSETS, to, &mut len)
        };
        call(i64::from(told)).context("XDP_MMAP_OFFSETS")?;
        let (address, descriptor) = (size_of::<u64>(), size_of::<libc::xdp_desc>());
        let fill = Ring::new(&socket, offsets.fr, address, libc::XDP_UMEM_PGOFF_FILL_RING as i64)?;
        let completion = Ring::new(&socket, offsets.cr, address, libc::XDP_UMEM_PGOFF_COMPLETION_RING as i64)?;
        let work = if receives {
            Ring::new(&socket, offsets.rx, descriptor, libc::XDP_PGOFF_RX_RING)?
        } else {
            Ring::new(&socket, offsets.tx, descriptor, libc::XDP_PGOFF_TX_RING)?
        };
        let address = libc::sockaddr_xdp {
            sxdp_family: libc::AF_XDP as u16,
            sxdp_flags: libc::XDP_COPY,
            sxdp_ifindex: if_nametoindex(DEVICE)?,
            sxdp_queue_id: 0,
            sxdp_shared_umem_fd: 0,
        };
        let bind = || {
            // SAFETY: the pointer and the length are those of one address.
            let bound = unsafe {
                let len = size_of_val(&address) as libc::socklen_t;
                libc::bind(socket.as_raw_fd(), std::ptr::from_ref(&address).cast(), len)
            };
            call(i64::from(bound)).context("bind")
        };
        // The kernel takes its time to let go of a socket that was closed.
        let mut tries = 0..50;
        while let Err(error) = bind() {
            tries.next().ok_or(error)?;
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Self { socket: [socket], packets, fill, completion, work })
    }
}

/// Sends by the ring.
pub(crate) struct XdpWriter {
    xsk: Xsk,
    frame: Vec<u8>,
    next: u32,
}

impl XdpWriter {
    pub(crate) fn open(packet: &[u8]) -> Result<Self> {
        Ok(Self { xsk: Xsk::open(false)?, frame: in_ethernet(packet), next: 0 })
    }
}

impl Write for XdpWriter {
    fn write(&mut self) -> Result<()> {
        let xsk = &mut self.xsk;
        for _ in 0..BURST {
            let at = self.next as usize * CHUNK;
            xsk.packets.copy_in(at, &self.frame);
            xsk.work.put(libc::xdp_desc { addr: at as u64, len: self.frame.len() as u32, options: 0 });
            self.next = (self.next + 1) % CHUNKS;
        }
        xsk.work.publish();
        // The kernel takes some packets to a call, and no further ones until they have completed.
        while !xsk.work.is_empty() {
            // SAFETY: no octets are sent but those of the ring.
            let sent = unsafe {
                let (fd, nothing) = (xsk.socket[0].as_raw_fd(), std::ptr::null());
                libc::sendto(fd, nothing, 0, libc::MSG_DONTWAIT, std::ptr::null(), 0)
            };
            if let Err(error) = call(sent as i64) {
                let kind = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
                if !matches!(kind, Some(libc::EAGAIN | libc::EBUSY)) {
                    return Err(error.context("sendto"));
                }
            }
            for _ in 0..xsk.completion.filled() {
                let _: u64 = xsk.completion.take();
            }
            xsk.completion.release();
        }
        Ok(())
    }
}

/// Receives by the ring; a program gives it all packets of the device.
pub(crate) struct XdpReader {
    xsk: Xsk,
    #[expect(dead_code, reason = "the program is there as long as this is open")]
    attached: OwnedFd,
    looked_at: u8,
}

impl XdpReader {
    pub(crate) fn open(native: bool) -> Result<Self> {
        let mut xsk = Xsk::open(true)?;
        for chunk in 0..CHUNKS {
            xsk.fill.put(u64::from(chunk) * CHUNK as u64);
        }
        xsk.fill.publish();
        let attached = redirect(&xsk.socket[0], native)?;
        Ok(Self { xsk, attached, looked_at: 0 })
    }
}

impl Read for XdpReader {
    fn read(&mut self) -> Result<u64> {
        let xsk = &mut self.xsk;
        let mut packets = xsk.work.filled();
        if packets == 0 {
            poll(&xsk.socket)?;
            packets = xsk.work.filled();
        }
        let mut esp = 0;
        for _ in 0..packets {
            let packet: libc::xdp_desc = xsk.work.take();
            let protocol: u8 = xsk.packets.get(packet.addr as usize + 14 + 9);
            esp += u64::from(protocol == 50);
            self.looked_at ^= protocol;
            xsk.fill.put(packet.addr & !(CHUNK as u64 - 1));
        }
        xsk.work.release();
        xsk.fill.publish();
        Ok(esp)
    }
}

/// What `bpf(2)` is asked, by its fields in order.
fn bpf(command: i64, request: &[u32]) -> Result<OwnedFd> {
    // SAFETY: the request is as long as is said; what it points to outlives the call.
    let fd = call(unsafe { libc::syscall(libc::SYS_bpf, command, request.as_ptr(), size_of_val(request)) })?;
    // SAFETY: nobody else has the descriptor. (Commands that give none give 0 and are not made here.)
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn halves(pointer: *const u8) -> [u32; 2] {
    [pointer as u64 as u32, (pointer as u64 >> 32) as u32]
}

/// Loads and attaches a program that redirects all packets to a socket.
fn redirect(socket: &Socket, native: bool) -> Result<OwnedFd> {
    const MAP_CREATE: i64 = 0;
    const MAP_UPDATE: i64 = 2;
    const PROGRAM_LOAD: i64 = 5;
    const LINK_CREATE: i64 = 28;
    const XSKMAP: u32 = 17;
    const XDP_PROGRAM: u32 = 6;
    const XDP_ATTACHED: u32 = 37;
    let map = bpf(MAP_CREATE, &[XSKMAP, 4, 4, 1, 0]).context("map")?;
    let (key, value) = (0u32, socket.as_raw_fd());
    let (key, value) = (halves((&raw const key).cast()), halves((&raw const value).cast()));
    let update = [map.as_raw_fd() as u32, 0, key[0], key[1], value[0], value[1], 0, 0];
    // SAFETY: the request is as long as is said; key and value outlive the call.
    call(unsafe { libc::syscall(libc::SYS_bpf, MAP_UPDATE, update.as_ptr(), size_of_val(&update)) })
        .context("entry")?;
    // r2 = queue of the context; r1 = map; r3 = pass it where there is no socket; bpf_redirect_map(); exit
    let program: [u64; 6] = [
        0x0000_0000_0010_1261,
        0x0000_0000_0000_1118 | (map.as_raw_fd() as u64) << 32,
        0,
        0x0000_0002_0000_03b7,
        0x0000_0033_0000_0085,
        0x0000_0000_0000_0095,
    ];
    let (code, licence) = (halves(program.as_ptr().cast()), halves(c"Apache-2.0".as_ptr().cast()));
    let load = [XDP_PROGRAM, program.len() as u32, code[0], code[1], licence[0], licence[1]];
    let program = bpf(PROGRAM_LOAD, &load).context("program")?;
    let mode = if native { 1 << 2 } else { 1 << 1 };
    bpf(LINK_CREATE, &[program.as_raw_fd() as u32, if_nametoindex(DEVICE)?, XDP_ATTACHED, mode]).context("attachment")
}
