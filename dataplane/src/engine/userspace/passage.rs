//! The threads between a TUN device and an interface, and what they do to the packets that pass.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use arc_swap::ArcSwap;
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::early::Early;
use super::ingress::Ingress;
use super::share::Share;
use super::sockets::{Gauge, Sockets};
use super::{EngineConfig, Shared, SystemRandom, Wire, index_of, tun, workers};
use crate::burst::Fate;
use crate::drops::DropReason;
use crate::dummies::Dummies;
use crate::frame::Frame;
use crate::iv::IvSource;
use crate::oversize::{Outlet, Oversize};
use crate::sad::{Sealed, Snapshot};

/// What becomes of packets between the TUN device and the network, a burst at a time. The engine's is ESP; a benchmark puts
/// another in its place, to see what the way costs without it.
pub trait Passage: Send + Sync + 'static {
    /// Packets from the TUN device, in place; those whose fate is an error go no further.
    fn outbound(&self, frames: &mut [Frame], ivs: &mut IvSource, fates: &mut Vec<Fate<Sealed>>);
    /// Packets from the network, likewise.
    fn inbound(&self, frames: &mut [Frame], fates: &mut Vec<Fate<u32>>);
    /// A packet that was found to be too large for the link once it is protected, or to be a part of one.
    fn relieve(&self, _: &mut Frame, _: &mut IvSource, _: &mut Oversize, _: Duration, _: &mut impl Outlet) {
        self.count_drops(DropReason::OutTooBig, 1);
    }
    /// Sends the dummies that are due.
    fn fill(&self, _: &mut Dummies, _: &mut IvSource, _: Duration, _: impl FnMut(&[Frame])) {}
    /// The link takes IP packets of up to so many octets.
    fn set_link_mtu(&self, _: u32) {}
    /// Counts packets that were lost before they came here or after they went.
    fn count_drops(&self, reason: DropReason, packets: usize);
}

impl Passage for ArcSwap<Snapshot> {
    fn outbound(&self, frames: &mut [Frame], ivs: &mut IvSource, fates: &mut Vec<Fate<Sealed>>) {
        self.load().seal_burst(frames, ivs, fates);
    }

    fn inbound(&self, frames: &mut [Frame], fates: &mut Vec<Fate<u32>>) {
        self.load().open_burst(frames, fates);
    }

    fn relieve(
        &self,
        frame: &mut Frame,
        ivs: &mut IvSource,
        oversize: &mut Oversize,
        now: Duration,
        outlet: &mut impl Outlet,
    ) {
        oversize.relieve(&self.load(), frame, ivs, now, outlet);
    }

    fn fill(&self, dummies: &mut Dummies, ivs: &mut IvSource, now: Duration, send: impl FnMut(&[Frame])) {
        dummies.fill(&self.load(), ivs, now, send);
    }

    fn set_link_mtu(&self, mtu: u32) {
        self.load().set_link_mtu(mtu);
    }

    fn count_drops(&self, reason: DropReason, packets: usize) {
        // Mostly there are none, and loading a snapshot is not free.
        if packets > 0 {
            self.load().count_drops(reason, packets);
        }
    }
}

/// Running threads. Dropping it ends them, and takes the TUN device away.
pub struct Workers {
    sockets: Arc<Sockets>,
    /// What takes packets of groups ahead of the IP stack, if that is wanted and possible.
    early: Option<Early>,
    stop: Arc<EventFd>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Makes the TUN device and the sockets (CAP_NET_ADMIN and CAP_NET_RAW) and starts the threads.
    ///
    /// # Errors
    /// No such interface, no such privilege, or the TUN device exists and is in use.
    pub fn start<P: Passage>(config: &EngineConfig, passage: Arc<P>) -> io::Result<Self> {
        let index = index_of(&config.interface)?;
        let tun = tun::open(&config.tun, config.mtu, config.queues, config.offloads)?;
        let queues: Vec<_> = tun.into_iter().map(Arc::new).collect();
        let (mut wire, mut ingress) = (config.wire, None);
        if wire == Wire::Link {
            match Ingress::open(&config.interface) {
                Ok(opened) => ingress = Some(opened),
                Err(error) => {
                    tracing::warn!(%error, "packets to groups come by the IP stack: the kernel keeps none from it");
                    wire = Wire::Auto;
                }
            }
        }
        let sockets = Arc::new(Sockets::open(&config.interface, index, wire, config.receivers)?);
        let taps = sockets.taps().iter().zip(Share::all(config.receivers));
        let taps = taps.map(|(tap, share)| Ok((tap.try_clone()?, share))).collect::<io::Result<Vec<_>>>()?;
        if taps.is_empty() && wire == Wire::Link {
            tracing::warn!("packets to groups come by the IP stack: they cannot be taken from this link");
        }
        let early = ingress.filter(|_| !taps.is_empty()).map(|ingress| Early::new(taps, ingress));
        let gauge = Gauge::open(&config.interface, config.path_mtu)?;
        let stop = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let shared = Arc::new(Shared {
            sockets: Arc::clone(&sockets),
            gauge,
            interface: config.interface.clone(),
            passage,
            stop: Arc::clone(&stop),
        });
        let mut workers = Self { sockets, early, stop, threads: Vec::new() };
        // Should a thread fail to start, dropping the others ends them.
        for (at, queue) in queues.iter().map(Arc::clone).enumerate() {
            let (shared, ivs) = (Arc::clone(&shared), IvSource::new(&mut SystemRandom));
            workers.spawn(format!("esp-tx-{at}"), move || workers::outbound(&shared, &queue, ivs))?;
        }
        // Which queue opened packets are written to is all the same.
        for (at, queue) in (0..config.receivers.get()).zip(queues.iter().cycle().map(Arc::clone)) {
            let (shared, rest) = (Arc::clone(&shared), config.offloads);
            workers.spawn(format!("esp-rx-{at}"), move || workers::inbound(&shared, &queue, usize::from(at), rest))?;
        }
        if let Some(rate) = config.dummies {
            let (shared, ivs) = (Arc::clone(&shared), IvSource::new(&mut SystemRandom));
            workers.spawn("esp-dummies".to_owned(), move || workers::dummies(&shared, rate, ivs))?;
        }
        Ok(workers)
    }

    /// Takes packets to these groups ahead of the IP stack, if the wire is [`Wire::Link`]. All others come by raw
    /// sockets. To be called before the groups are joined.
    pub fn take_early(&mut self, groups: impl Iterator<Item = IpAddr>) {
        if let Some(early) = &mut self.early {
            early.set(groups);
        }
    }

    /// The groups whose packets are taken so: none where that is not wanted, or not possible.
    #[must_use]
    pub fn taken_early(&self) -> Vec<IpAddr> {
        self.early.iter().flat_map(Early::groups).copied().collect()
    }

    /// Packets that the kernel has dropped, for the threads had not read those before them.
    pub(crate) fn unread(&self) -> u64 {
        self.sockets.unread()
    }

    fn spawn(&mut self, name: String, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        self.threads.push(thread::Builder::new().name(name).spawn(work)?);
        Ok(())
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        if let Err(error) = self.stop.write(1) {
            tracing::error!(%error, "workers could not be told to stop");
            return;
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a worker had panicked");
            }
        }
    }
}
