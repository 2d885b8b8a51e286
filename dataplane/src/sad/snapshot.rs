//! What workers read: an immutable picture of policies and SAs, replaced as a whole.

use std::slice;
use std::sync::Arc;

use hashbrown::HashTable;
use keyferry_model::policy::Selector;

use crate::burst::{BURST, Fate, Members};
use crate::classify::Classifier;
use crate::drops::{DropCounters, DropReason};
use crate::flows::Flows;
use crate::frame::Frame;
use crate::iv::IvSource;
use crate::local::{Local, Verdict};
use crate::open::{self, Inbound};
use crate::packet::{Flow, Headers, esp, ipv4};
use crate::sa::Sa;
use crate::seal::{self, Bounds, Outbound};
use crate::sizes::Link;
use crate::trace::Tap;

/// A picture of the SAD. Cheap to share and never changed; counters and windows live inside of its SAs.
pub struct Snapshot {
    lines: Box<[Line]>,
    classifier: Classifier,
    /// By SPI.
    inbound: HashTable<Arc<Sa>>,
    /// Absent where nothing but the group decides.
    local: Option<Local>,
    drops: Arc<DropCounters>,
    link: Arc<Link>,
    /// Who wants to see packets, if anybody does.
    tap: Option<Arc<Tap>>,
}

/// SAs with the same selectors, in the order in which a sender tries them.
pub(crate) struct Line {
    pub(super) candidates: Box<[Arc<Sa>]>,
}

/// What became of a plain packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// SPI of the SA used; zero says that none was (RFC 4303 section 2.1): the packet goes as it is, by the local policy.
    pub spi: u32,
    /// Sequence number.
    pub sequence: u32,
}

impl Sealed {
    /// What is sent in clear.
    pub const CLEAR: Self = Self { spi: 0, sequence: 0 };
}

impl Line {
    fn selectors(&self) -> Option<(Selector, Selector)> {
        self.candidates.first().map(|sa| (sa.policy.source, sa.policy.destination))
    }
}

impl Snapshot {
    /// Lines without candidates are left out.
    pub(super) fn new(
        lines: Vec<Line>,
        sas: Vec<Arc<Sa>>,
        local: Option<Local>,
        drops: Arc<DropCounters>,
        link: Arc<Link>,
    ) -> Self {
        let lines: Box<[Line]> = lines.into_iter().filter(|line| !line.candidates.is_empty()).collect();
        let classifier = Classifier::new(lines.iter().filter_map(Line::selectors));
        let mut inbound = HashTable::with_capacity(sas.len());
        for sa in sas {
            inbound.insert_unique(hash(sa.spi), sa, |sa| hash(sa.spi));
        }
        Self { lines, classifier, inbound, local, drops, link, tap: None }
    }

    /// The same picture, with packets shown to somebody.
    pub(super) fn with_tap(self, tap: Option<Arc<Tap>>) -> Self {
        Self { tap, ..self }
    }

    /// Turns plain IP packets into ESP packets, in place, and says in `fates` what became of each. Whatever is not
    /// protected is dropped and counted, and such a frame's content is then unspecified and must not be sent; or it is
    /// [`Sealed::CLEAR`] and left as it is, where the local policy says so. But one that would be
    /// too large for the link, and a fragment where only whole packets can be protected, is left as it is and not counted yet:
    /// what becomes of it, [`Oversize`](crate::Oversize) decides.
    pub fn seal_burst(&self, frames: &mut [Frame], ivs: &mut IvSource, fates: &mut Vec<Fate<Sealed>>) {
        self.seal_all(frames, ivs, fates, self.local.as_ref());
    }

    /// [`Self::seal_burst`] for parts of a packet that the local policy has left to the group as a whole.
    pub(crate) fn seal_parts(&self, frames: &mut [Frame], ivs: &mut IvSource, fates: &mut Vec<Fate<Sealed>>) {
        self.seal_all(frames, ivs, fates, None);
    }

    /// Turns ESP packets (IP header first) into plain packets, in place, and says in `fates` under which SPI each came.
    /// Whatever is not authentic and fitting is dropped and counted; such a frame's content is then unspecified.
    pub fn open_burst(&self, frames: &mut [Frame], fates: &mut Vec<Fate<u32>>) {
        fates.clear();
        fates.resize(frames.len(), Err(DropReason::InNoStates));
        for (frames, fates) in frames.chunks_mut(BURST).zip(fates.chunks_mut(BURST)) {
            self.open_some(frames, fates);
        }
    }

    /// [`Self::seal_burst`] for one packet.
    pub fn seal(&self, frame: &mut Frame, ivs: &mut IvSource) -> Fate<Sealed> {
        let mut fate = [Err(DropReason::OutNoPols)];
        self.seal_some(slice::from_mut(frame), ivs, &mut fate, self.bounds(), self.local.as_ref());
        fate[0]
    }

    /// [`Self::seal`], whatever the link takes, for a packet that the local policy has left to the group.
    pub(crate) fn seal_whole(&self, frame: &mut Frame, ivs: &mut IvSource) -> Fate<Sealed> {
        let mut fate = [Err(DropReason::OutNoPols)];
        let bounds = Bounds { limit: usize::MAX, ..self.bounds() };
        self.seal_some(slice::from_mut(frame), ivs, &mut fate, bounds, None);
        fate[0]
    }

    /// The SA by which a packet would be sealed.
    pub(crate) fn sends(&self, headers: &Headers) -> Option<&Sa> {
        self.candidates(headers).first().map(AsRef::as_ref)
    }

    pub(super) fn bounds(&self) -> Bounds {
        let mtu = self.link.mtu();
        Bounds { limit: mtu, mtu }
    }

    /// The link that protected packets go through.
    pub(crate) fn link(&self) -> &Link {
        &self.link
    }

    /// Says how large an IP packet the link takes; without limit unless called. It counts at once, for workers that hold another
    /// snapshot, too.
    pub fn set_link_mtu(&self, mtu: u32) {
        self.link.set_mtu(mtu);
    }

    /// [`Self::open_burst`] for one packet.
    pub fn open(&self, frame: &mut Frame) -> Fate<u32> {
        let mut fate = [Err(DropReason::InNoStates)];
        self.open_some(slice::from_mut(frame), &mut fate);
        fate[0]
    }

    /// Counts a packet that was lost here.
    pub(crate) fn count_drop(&self, reason: DropReason) {
        self.count_drops(reason, 1);
    }

    /// Counts packets that were lost before they came here or after they went.
    pub fn count_drops(&self, reason: DropReason, packets: usize) {
        self.drops.count_drops(reason, packets);
    }

    /// The SAs of each line, in the order in which a sender tries them.
    pub(super) fn sending_lines(&self) -> impl Iterator<Item = &[Arc<Sa>]> {
        self.lines.iter().map(|line| &*line.candidates)
    }

    /// The SA of each line that sends.
    pub(crate) fn sending(&self) -> impl Iterator<Item = &Sa> {
        self.lines.iter().filter_map(|line| line.candidates.first()).map(AsRef::as_ref)
    }

    /// The newest SA of each line that sends or will send.
    pub(super) fn newest_sending(&self) -> impl Iterator<Item = &Sa> {
        self.lines.iter().filter_map(|line| line.candidates.last()).map(AsRef::as_ref)
    }

    /// The SAs that are tried for a plain packet; none where no policy matches.
    pub(super) fn candidates(&self, packet: &Headers) -> &[Arc<Sa>] {
        self.line(packet).map(|line| &*line.candidates).unwrap_or_default()
    }

    fn line(&self, packet: &Headers) -> Option<&Line> {
        self.classifier.find(packet).and_then(|line| self.lines.get(line))
    }

    /// What the local policy says of a plain packet; nothing is counted.
    pub(super) fn decides(&self, packet: &Headers) -> Verdict {
        let protected = !self.candidates(packet).is_empty();
        self.local.as_ref().map_or(Verdict::Group, |local| local.decide(packet, protected).0)
    }

    /// The SAs that open packets, in no order.
    pub(super) fn receiving(&self) -> impl Iterator<Item = &Arc<Sa>> {
        self.inbound.iter()
    }

    fn seal_all(&self, frames: &mut [Frame], ivs: &mut IvSource, fates: &mut Vec<Fate<Sealed>>, local: Option<&Local>) {
        fates.clear();
        fates.resize(frames.len(), Err(DropReason::OutNoPols));
        for (frames, fates) in frames.chunks_mut(BURST).zip(fates.chunks_mut(BURST)) {
            self.seal_some(frames, ivs, fates, self.bounds(), local);
        }
    }

    /// At most [`BURST`] packets.
    fn seal_some(
        &self,
        frames: &mut [Frame],
        ivs: &mut IvSource,
        fates: &mut [Fate<Sealed>],
        bounds: Bounds,
        local: Option<&Local>,
    ) {
        let mut flows = Flows::new();
        for (frame, fate) in frames.iter().zip(&mut *fates) {
            let flow = Flow::of(frame.packet());
            if flows.goes_on(flow) {
                continue;
            }
            let begun = flows.begin(flow.map(|(flow, _)| flow), |headers, before| {
                headers.read(frame.packet()).map_err(|_| DropReason::OutHdrError)?;
                Ok(match before {
                    Some(before) if before.found.is_some() && headers.is_same_flow(&before.headers) => before.found,
                    _ => self.line(headers),
                })
            });
            if let Err(reason) = begun {
                *fate = Err(reason);
            }
        }
        let decided = local.map_or(Members::default(), |local| decide(local, frames, &flows, fates));
        let mut burst = Outbound { frames, flows: &flows, fates, ivs, bounds };
        for (line, members) in flows.groups() {
            seal::seal(&line.candidates, members.without(decided), &mut burst);
        }
        if let Some(tap) = &self.tap {
            show_outbound(tap, frames, &flows, decided, fates);
        }
        self.count(fates);
    }

    /// At most [`BURST`] packets.
    fn open_some(&self, frames: &mut [Frame], fates: &mut [Fate<u32>]) {
        let mut flows = Flows::new();
        for (frame, fate) in frames.iter_mut().zip(&mut *fates) {
            // Packets of one flow have one SPI, where they have one at all.
            let whole = ipv4::HEADER_LEN + esp::HEADER_LEN;
            let flow = Flow::of(frame.packet()).filter(|(_, total)| *total >= whole);
            if let Some((_, total)) = flow.filter(|_| flows.goes_on(flow)) {
                frame.narrow(0, total);
                continue;
            }
            let begun = flows.begin(flow.map(|(flow, _)| flow), |headers, _| {
                open::find_esp(frame, headers).map(|spi| self.find(spi, headers))
            });
            if let Err(reason) = begun {
                *fate = Err(reason);
            }
        }
        let arrivals = self.tap.as_ref().map(|tap| tap.arrivals(frames, &flows));
        let mut burst = Inbound { frames, flows: &flows, fates };
        for (sa, members) in flows.groups() {
            open::open(sa, members, &mut burst);
        }
        if let Some(local) = self.local.as_ref().filter(|local| local.watches_inbound()) {
            for (sa, members) in flows.groups() {
                for at in members.iter() {
                    if fates[at].is_err() || !is_blocked(local, frames[at].packet()) {
                        continue;
                    }
                    fates[at] = Err(DropReason::InPolBlock);
                    sa.state.drops.count(DropReason::InPolBlock);
                }
            }
        }
        if let (Some(tap), Some(arrivals)) = (&self.tap, arrivals) {
            tap.inbound(arrivals, frames, fates);
        }
        self.count(fates);
    }

    /// The SA of a packet that came: by SPI and destination, and by source where the SA is one sender's alone (RFC 4301
    /// section 4.1).
    fn find(&self, spi: u32, outer: &Headers) -> Option<&Sa> {
        let is_it = |sa: &Arc<Sa>| {
            sa.spi == spi && sa.receives_at(outer.destination) && sa.takes_from(outer.source) && !sa.is_revoked()
        };
        self.inbound.find(hash(spi), is_it).map(AsRef::as_ref)
    }

    fn count<T>(&self, fates: &[Fate<T>]) {
        let reasons = fates.iter().filter_map(|fate| fate.as_ref().err()).filter(|why| !why.is_open());
        reasons.for_each(|reason| self.drops.count(*reason));
    }
}

/// Decides what the local policy lets pass in clear or drops, and says which packets these are.
fn decide(local: &Local, frames: &mut [Frame], flows: &Flows<'_, Line>, fates: &mut [Fate<Sealed>]) -> Members {
    let mut decided = Members::default();
    for (at, (frame, fate)) in frames.iter_mut().zip(fates).enumerate() {
        if *fate == Err(DropReason::OutHdrError) {
            continue;
        }
        let headers = flows.headers(at);
        match local.outbound(&headers, flows.found(at).is_some()) {
            Verdict::Group => continue,
            Verdict::Clear => {
                frame.narrow(0, headers.total);
                *fate = Ok(Sealed::CLEAR);
            }
            Verdict::Discard => *fate = Err(DropReason::OutPolBlock),
        }
        decided = decided.with(Members::only(at));
    }
    decided
}

/// Shows packets but those that the local policy has `decided` about under the policy line that they belong to.
#[cold]
fn show_outbound(tap: &Tap, frames: &[Frame], flows: &Flows<'_, Line>, decided: Members, fates: &[Fate<Sealed>]) {
    for (at, (frame, fate)) in frames.iter().zip(fates).enumerate() {
        // Of what is no sound packet nobody can say whose it is.
        if *fate != Err(DropReason::OutHdrError) {
            let line = flows.found(at).filter(|_| !decided.contains(at));
            let candidates = line.map(|line| &*line.candidates).unwrap_or_default();
            tap.outbound(&flows.headers(at), frame, *fate, candidates);
        }
    }
}

fn is_blocked(local: &Local, packet: &[u8]) -> bool {
    Headers::parse(packet).is_ok_and(|headers| local.blocks(&headers))
}

/// SPIs are the key server's choice, not an attacker's, so a plain mixture does.
fn hash(spi: u32) -> u64 {
    let mixed = u64::from(spi).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 32)
}
