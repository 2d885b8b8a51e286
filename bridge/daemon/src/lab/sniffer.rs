//! Listens on the segment to everything that crosses it.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::app::enlarge;
use super::frame::{Content, look};
use super::pcap::Pcap;
use super::plan::{IKE_PORT, Plan};

/// Nonces remembered, to find repeats; beyond that packets are counted only.
const NONCES: usize = 2_000_000;

/// What was seen on the wire.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// ESP packets.
    pub esp: u64,
    /// Datagrams of the key server's port.
    pub ike: u64,
    /// Packets of the group's traffic that anybody can read.
    pub clear: u64,
    /// ESP packets by SPI.
    pub spis: BTreeMap<u32, u64>,
    /// ESP packets whose SPI and IV had been seen before.
    pub repeated_nonces: u64,
    /// SPI and sender ID, to the sources that used it.
    pub senders: BTreeMap<(u32, u64), Vec<IpAddr>>,
}

impl Seen {
    /// Sender IDs that more than one source used under one key: `(SPI, sender ID)`.
    pub(super) fn shared_sender_ids(&self) -> Vec<(u32, u64)> {
        self.senders.iter().filter(|(_, sources)| sources.len() > 1).map(|(key, _)| *key).collect()
    }
}

#[derive(Debug)]
struct Watch {
    group: IpAddr,
    sender_id_bits: u8,
    seen: Seen,
    nonces: HashSet<(u32, u64)>,
}

impl Watch {
    fn note(&mut self, frame: &[u8]) {
        match look(frame, self.group, IKE_PORT) {
            Content::Esp(esp) => {
                self.seen.esp += 1;
                *self.seen.spis.entry(esp.spi).or_default() += 1;
                if self.nonces.len() < NONCES && !self.nonces.insert((esp.spi, esp.iv)) {
                    self.seen.repeated_nonces += 1;
                }
                let sender_id = esp.iv >> (64 - u32::from(self.sender_id_bits));
                let sources = self.seen.senders.entry((esp.spi, sender_id)).or_default();
                if !sources.contains(&esp.source) {
                    sources.push(esp.source);
                }
            }
            Content::Ike => self.seen.ike += 1,
            Content::Clear => self.seen.clear += 1,
            Content::Other => {}
        }
    }
}

/// Looks at what was seen so far.
#[derive(Clone, Debug)]
pub(super) struct Watching(Arc<Mutex<Watch>>);

impl Watching {
    /// What was seen so far.
    pub(super) fn seen(&self) -> Seen {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).seen.clone()
    }
}

/// The listening thread.
#[derive(Debug)]
pub(super) struct Sniffer {
    watching: Watching,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Sniffer {
    /// Listens on an interface of the calling thread's namespace, and records into a file if there is one.
    pub(super) fn start(
        interface: &str,
        plan: &Plan,
        sender_id_bits: u8,
        capture: Option<&Path>,
    ) -> anyhow::Result<Self> {
        let socket = packet_socket(interface).context("listening on the segment")?;
        let pcap = capture.map(|path| {
            let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
            anyhow::Ok(Pcap::new(BufWriter::new(file))?)
        });
        let pcap = pcap.transpose()?;
        let watch = Watch { group: plan.traffic, sender_id_bits, seen: Seen::default(), nonces: HashSet::new() };
        let watch = Arc::new(Mutex::new(watch));
        let stop = Arc::new(AtomicBool::new(false));
        let (w, s) = (watch.clone(), stop.clone());
        let thread = thread::Builder::new().name("sniffer".into()).spawn(move || listen(&socket, pcap, &w, &s))?;
        Ok(Self { watching: Watching(watch), stop, thread: Some(thread) })
    }

    /// What was seen so far, now and later.
    pub(super) fn watching(&self) -> Watching {
        self.watching.clone()
    }

    /// Stops listening; completes the capture. The error is one of writing it.
    pub(super) fn finish(mut self) -> anyhow::Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().map_err(|_| anyhow!("the sniffer has panicked"))??;
        }
        Ok(self.watching.seen())
    }
}

fn packet_socket(interface: &str) -> anyhow::Result<OwnedFd> {
    let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
    let address = getifaddrs()?
        .filter(|i| i.interface_name == interface)
        .find_map(|i| i.address?.as_link_addr().copied())
        .ok_or_else(|| anyhow!("{interface} has no link address"))?;
    bind(fd.as_raw_fd(), &address)?;
    enlarge(&fd);
    setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::milliseconds(100))?;
    Ok(fd)
}

fn listen<W: Write>(
    socket: &OwnedFd,
    mut pcap: Option<Pcap<W>>,
    watch: &Mutex<Watch>,
    stop: &AtomicBool,
) -> anyhow::Result<()> {
    let mut buffer = vec![0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        let len = match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(len) => len,
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ENETDOWN) => continue,
            Err(e) => return Err(e).context("listening on the segment"),
        };
        let frame = &buffer[..len];
        watch.lock().unwrap_or_else(PoisonError::into_inner).note(frame);
        if let Some(pcap) = &mut pcap {
            let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            pcap.frame(at, frame).context("writing the capture")?;
        }
    }
    if let Some(pcap) = pcap {
        pcap.finish().context("writing the capture")?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn esp_frame(source: u8, iv: [u8; 8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, 50, 0, 0, 10, 84, 0, source, 239, 192, 0, 1]);
        frame.extend([0, 0, 1, 0, 0, 0, 0, 1]);
        frame.extend(iv);
        frame
    }

    fn watch() -> Watch {
        let group = "239.192.0.1".parse().unwrap();
        Watch { group, sender_id_bits: 16, seen: Seen::default(), nonces: HashSet::new() }
    }

    #[test]
    fn a_repeated_nonce_is_noticed() {
        let mut w = watch();
        w.note(&esp_frame(11, [0, 1, 0, 0, 0, 0, 0, 1]));
        w.note(&esp_frame(11, [0, 1, 0, 0, 0, 0, 0, 2]));
        assert_eq!((w.seen.esp, w.seen.repeated_nonces), (2, 0));
        w.note(&esp_frame(11, [0, 1, 0, 0, 0, 0, 0, 2]));
        assert_eq!((w.seen.esp, w.seen.repeated_nonces), (3, 1));
        assert_eq!(w.seen.shared_sender_ids(), []);
    }

    #[test]
    fn a_sender_id_given_twice_is_noticed() {
        let mut w = watch();
        w.note(&esp_frame(11, [0, 1, 0, 0, 0, 0, 0, 1]));
        w.note(&esp_frame(12, [0, 2, 0, 0, 0, 0, 0, 1]));
        assert_eq!(w.seen.shared_sender_ids(), []);
        w.note(&esp_frame(12, [0, 1, 0, 0, 0, 0, 0, 2]));
        assert_eq!(w.seen.shared_sender_ids(), [(256, 1)]);
    }
}
