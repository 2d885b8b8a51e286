//! One data SA: the same object seals and opens, since a group SA is used in both directions as a rule (RFC 5374 section
//! 3).

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use keyferry_crypto::{CryptoError, Hash, Secret};
use keyferry_model::policy::{AddressPreservation, EspMode, SequenceNumbers, TrafficPolicy};
use keyferry_model::tunnel::Tunnel;

use crate::drops::DropCounters;
use crate::lifetime::{self, Used};
use crate::nonce::Numbers;
use crate::packet::Headers;
use crate::replay::{Sender, Strand, Windows};
use crate::selector;
use crate::sizes::Sizes;
use crate::transform::{self, Layout, Transform};
use crate::tunnel::Outer;

/// What an SA has used and seen. It outlives the SA's removal, without the keys, so that the same keys installed again
/// go on where they were.
#[derive(Debug)]
pub(crate) struct SaState {
    pub(crate) numbers: Numbers,
    /// `None` where numbers protect nothing.
    pub(crate) windows: Option<Windows>,
    /// Width of the sender IDs in the IVs, as far as it was known when the SA came.
    sender_id_bits: Option<u8>,
    /// Counted where the SA has a lifetime in octets.
    pub(crate) used: Used,
    pub(crate) sealed: Traffic,
    pub(crate) opened: Traffic,
    dummies: AtomicU64,
    /// Octets of both ways together, where whoever counts does not tell them apart.
    pub(crate) octets_both: AtomicU64,
    pub(crate) drops: DropCounters,
}

/// Packets and octets (of the plain packets).
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    packets: AtomicU64,
    octets: AtomicU64,
}

impl Traffic {
    pub(crate) fn count(&self, packets: usize, octets: usize) {
        self.packets.fetch_add(packets as u64, Ordering::Relaxed);
        self.octets.fetch_add(octets as u64, Ordering::Relaxed);
    }

    /// Says what somebody else has counted.
    pub(crate) fn set(&self, packets: u64, octets: u64) {
        self.packets.store(packets, Ordering::Relaxed);
        self.octets.store(octets, Ordering::Relaxed);
    }

    /// Packets, octets.
    pub(crate) fn get(&self) -> (u64, u64) {
        (self.packets.load(Ordering::Relaxed), self.octets.load(Ordering::Relaxed))
    }
}

impl SaState {
    pub(crate) fn new(policy: &TrafficPolicy, sender_id_bits: Option<u8>, keymat: &Secret) -> Self {
        let windows = match policy.sequence {
            SequenceNumbers::Sequential if policy.replay_window > 0 => Some(Windows::new(policy.replay_window, keymat)),
            SequenceNumbers::Sequential | SequenceNumbers::Unspecified => None,
        };
        Self {
            numbers: Numbers::new(),
            windows,
            sender_id_bits: sender_id_bits.filter(|_| policy.transform.is_counter_mode()),
            used: Used::default(),
            sealed: Traffic::default(),
            opened: Traffic::default(),
            dummies: AtomicU64::new(0),
            octets_both: AtomicU64::new(0),
            drops: DropCounters::default(),
        }
    }

    pub(crate) fn count_dummy(&self) {
        self.dummies.fetch_add(1, Ordering::Relaxed);
    }

    /// Dummy packets sent.
    pub(crate) fn dummies(&self) -> u64 {
        self.dummies.load(Ordering::Relaxed)
    }

    /// Do IVs name their senders, in a width that is known?
    pub(crate) fn has_sender_ids(&self) -> bool {
        self.sender_id_bits.is_some()
    }

    /// The sender ID in an IV of a counter mode, if its width is known.
    pub(crate) fn sender_id(&self, iv: [u8; 8]) -> Option<u32> {
        let shifted = u64::from_be_bytes(iv).checked_shr(64 - u32::from(self.sender_id_bits?))?;
        u32::try_from(shifted).ok()
    }
}

/// An installed SA. Immutable but for its counters and windows, so workers share it without locks.
pub(crate) struct Sa {
    pub(crate) spi: u32,
    pub(crate) policy: Arc<TrafficPolicy>,
    pub(crate) transform: Box<dyn Transform>,
    pub(crate) layout: Layout,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) state: Arc<SaState>,
    pub(crate) sizes: Sizes,
    tunnel: Tunnel,
    preserved: AddressPreservation,
    outer: Outer,
    revoked: AtomicBool,
}

impl Sa {
    pub(crate) fn new(
        spi: u32,
        policy: Arc<TrafficPolicy>,
        keymat: &Secret,
        state: Arc<SaState>,
        tunnel: Tunnel,
        sizes: Sizes,
    ) -> Result<Self, CryptoError> {
        let transform = transform::prepare(policy.transform, keymat.expose())?;
        let layout = transform.layout();
        let fingerprint = Fingerprint::of(keymat);
        let preserved = match policy.mode {
            EspMode::Tunnel => policy.preservation,
            EspMode::Transport => AddressPreservation::Both,
        };
        let (outer, revoked) = (Outer::of(preserved, tunnel, sizes.dont_fragment), AtomicBool::new(false));
        Ok(Self { spi, policy, transform, layout, fingerprint, state, sizes, tunnel, preserved, outer, revoked })
    }

    /// What the outer header bears that is not the packet's own.
    pub(crate) fn outer(&self) -> Outer {
        self.outer
    }

    /// Which addresses of a packet are to be seen outside; in transport mode both are.
    pub(crate) fn preserved(&self) -> AddressPreservation {
        self.preserved
    }

    /// Is a protected packet to this address one of the SA's? Inbound SAs are found by SPI and destination.
    pub(crate) fn receives_at(&self, ip: IpAddr) -> bool {
        if self.preserved().keeps_destination() {
            self.policy.destination.contains(ip)
        } else {
            self.tunnel.ends_at(ip)
        }
    }

    /// Is a protected packet from this address one of the SA's? Only an SA whose packets all come from one sender, by the
    /// same address outside and inside, is looked up by the source, too.
    pub(crate) fn takes_from(&self, ip: IpAddr) -> bool {
        let source = &self.policy.source;
        let (first, last) = source.range();
        !self.preserved().keeps_source() || first != last || first == ip
    }

    /// Where packets come that others protect by this SA, if it is a single address.
    pub(crate) fn comes_to(&self) -> Option<IpAddr> {
        if !self.preserved().keeps_destination() {
            return self.tunnel.remote;
        }
        let (first, last) = self.policy.destination.range();
        (first == last).then_some(first)
    }

    /// The outer header of a packet that is this member's own and not one of those that it protects, as far as the addresses are
    /// known.
    pub(crate) fn own_outer(&self) -> Option<Outer> {
        let destination = self.comes_to()?;
        let sender = self.policy.source.range();
        let alone = (sender.0 == sender.1 && self.preserved().keeps_source()).then_some(sender.0);
        let source = alone.or(self.tunnel.local).filter(|source| source.is_ipv4() == destination.is_ipv4())?;
        Some(Outer { source: Some(source), destination: Some(destination), ..self.outer })
    }

    /// Does a packet fall under the SA's selectors?
    pub(crate) fn covers(&self, packet: &Headers) -> bool {
        selector::covers(&self.policy.source, &self.policy.destination, packet)
    }

    /// Whose window a packet with this source and, in counter modes, this IV counts in. Strands are told by the source where it is
    /// the same outside and inside: that of transport mode is not authentic, and behind a gateway's own address all packets go
    /// one way.
    #[inline]
    pub(crate) fn sender(&self, source: IpAddr, iv: Option<[u8; 8]>) -> Sender {
        let Some(id) = iv.and_then(|iv| self.state.sender_id(iv)) else { return Sender::source(source) };
        let in_strands = self.policy.mode == EspMode::Tunnel && self.preserved.keeps_source();
        Sender::id(id, if in_strands { Strand::of(source) } else { Strand::ONLY })
    }

    /// Does a packet say whose window it counts in before it is opened?
    pub(crate) fn shows_sender(&self) -> bool {
        self.preserved.keeps_source() || self.state.has_sender_ids()
    }

    /// Says once if there is no window left for further senders. Only authentic packets have windows made.
    pub(crate) fn tell_of_full_windows(&self) {
        if let Some(windows) = self.state.windows.as_ref().filter(|windows| windows.have_run_out()) {
            tracing::warn!(
                spi = format_args!("{:#010x}", self.spi),
                windows = windows.most(),
                "no replay window is left: packets of further senders are dropped (InTooManySenders) until new keys come"
            );
        }
    }

    /// May fragments go by it? Those behind the first show no ports (RFC 4301 section 7.1).
    pub(crate) fn carries_fragments(&self) -> bool {
        self.policy.source.port == 0 && self.policy.destination.port == 0
    }

    /// Ends its use even where a worker still holds it.
    pub(crate) fn revoke(&self) {
        self.revoked.store(true, Ordering::Release);
    }

    pub(crate) fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::Acquire)
    }

    /// Uses octets of its lifetime, if it has one in octets; false when they are more than is left.
    #[inline]
    pub(crate) fn spend(&self, octets: usize) -> bool {
        self.policy.lifetime_octets.is_none_or(|limit| self.state.used.spend(octets, limit))
    }

    /// Is its lifetime in octets used up, as far as any packet goes?
    #[inline]
    pub(crate) fn is_spent(&self) -> bool {
        self.policy.lifetime_octets.is_some_and(|limit| self.state.used.get() >= limit)
    }

    /// Is its lifetime in octets about to end?
    pub(crate) fn is_running_out(&self) -> bool {
        self.policy.lifetime_octets.is_some_and(|limit| lifetime::is_running_out(self.state.used.get(), limit))
    }

    /// Are its sequence numbers used up?
    pub(crate) fn is_out_of_numbers(&self) -> bool {
        self.state.numbers.used(false).0 == u32::MAX
    }

    pub(crate) fn is_counter_mode(&self) -> bool {
        self.policy.transform.is_counter_mode()
    }
}

/// Recognizes keying material without keeping it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Fingerprint([u8; 32]);

impl Fingerprint {
    pub(crate) fn of(keymat: &Secret) -> Self {
        let digest = Hash::Sha256.digest(&[b"keyferry data SA", keymat.expose()]);
        let mut octets = [0; 32];
        for (octet, from) in octets.iter_mut().zip(digest) {
            *octet = from;
        }
        Self(octets)
    }
}
