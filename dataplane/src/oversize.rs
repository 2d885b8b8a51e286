//! What becomes of packets that the link does not take once they are protected (RFC 4301 section 8.2.1).
//!
//! ```text
//!                      | may be fragmented                          | may not: IPv4 with DF, IPv6
//!   Fragment::Before   | its fragments are protected; where that    | its sender is told; IPv6 of up to 1,280 octets
//!                      | cannot be, the protected packet is cut up  | is cut up protected (RFC 2473 section 7.1)
//!   Fragment::After    | the protected packet is cut up             | IPv4: its sender is told; IPv6: cut up protected
//!   Fragment::Never    | dropped                                    | its sender is told
//! ```
//!
//! DF does not count in tunnels with [`DontFragment::Clear`], whose outer headers are without it.
//!
//! Fragments that are to be protected in transport mode come here, too: they are put together, and the packet goes as those that may
//! be fragmented.

mod fragments;
mod icmp;
mod limiter;
mod reassembly;

use std::net::Ipv6Addr;
use std::slice;
use std::time::Duration;

pub(crate) use fragments::Fragments;
use keyferry_model::policy::EspMode;
use limiter::Limiter;
use reassembly::Reassembly;

use crate::burst::{BURST, Fate};
use crate::drops::DropReason;
use crate::frame::Frame;
use crate::iv::IvSource;
use crate::packet::{Headers, IpVersion, ipv4, ipv6};
use crate::sa::Sa;
use crate::sad::{Sealed, Snapshot};
use crate::seal;
use crate::sizes::{DontFragment, Fragment};

/// Where packets go that take another's place.
pub trait Outlet {
    /// Protected packets, to the network.
    fn network(&mut self, burst: &[Frame]);
    /// A plain packet about another, to the host.
    fn host(&mut self, packet: &[u8]);
    /// The address of this host that IPv6 packets of its own come from.
    fn own_address(&mut self) -> Option<Ipv6Addr>;
}

/// A worker's means to deal with packets that are too large. They cost nothing until there is one.
#[derive(Debug, Default)]
pub struct Oversize {
    pieces: Vec<Frame>,
    fates: Vec<Fate<Sealed>>,
    limiter: Limiter,
    reassembly: Reassembly,
}

/// What is done about one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    /// Its fragments are protected.
    Before,
    /// It is protected, then fragmented.
    After,
    /// It is dropped, and its sender told.
    Tell,
    /// It is dropped.
    Drop,
}

impl Oversize {
    /// Deals with a packet whose fate was [`DropReason::OutTooBig`], which is cut up, or [`DropReason::OutFragment`], which is kept
    /// until the others are there; or dropped, and counted.
    pub fn relieve(
        &mut self,
        snapshot: &Snapshot,
        frame: &mut Frame,
        ivs: &mut IvSource,
        now: Duration,
        outlet: &mut impl Outlet,
    ) {
        let mut headers = Headers::NONE;
        let found = headers.read(frame.packet()).ok().and_then(|()| snapshot.sends(&headers));
        // The policy has changed in between.
        let Some(sa) = found else { return snapshot.count_drop(DropReason::OutNoPols) };
        if headers.fragment && sa.policy.mode == EspMode::Transport {
            let added = self.reassembly.add(frame.packet(), &headers, now);
            (0..added.lost).for_each(|_| count(sa, snapshot, DropReason::OutFragment));
            if let Some(whole) = added.whole {
                self.seal_joined(sa, snapshot, &whole, ivs, outlet);
            }
            return;
        }
        match course(sa, &headers, frame.packet()) {
            Course::Before => self.seal_pieces(sa, snapshot, (frame.packet(), &headers), ivs, outlet),
            Course::After => self.cut_sealed(snapshot, frame, ivs, outlet),
            Course::Tell => {
                count(sa, snapshot, DropReason::OutTooBig);
                let told = seal::room(sa, &headers, snapshot.link().mtu());
                if let Some(told) = told.and_then(|room| icmp::next_hop(frame.packet(), &headers, room))
                    && self.limiter.admits(now)
                    && let Some(message) = icmp::too_big(frame.packet(), &headers, told, || outlet.own_address())
                {
                    outlet.host(&message);
                }
            }
            Course::Drop => count(sa, snapshot, DropReason::OutTooBig),
        }
    }

    /// Protects a packet that has been put together.
    fn seal_joined(
        &mut self,
        sa: &Sa,
        snapshot: &Snapshot,
        whole: &[u8],
        ivs: &mut IvSource,
        outlet: &mut impl Outlet,
    ) {
        // With room for padding.
        let mut frame = Frame::new(whole.len().max(snapshot.link().mtu().min(ipv6::MAX_TOTAL)));
        frame.space()[..whole.len()].copy_from_slice(whole);
        frame.filled(whole.len());
        match snapshot.seal(&mut frame, ivs) {
            Ok(_) => outlet.network(slice::from_ref(&frame)),
            Err(DropReason::OutTooBig) if sa.sizes.fragment == Fragment::Never => {
                count(sa, snapshot, DropReason::OutTooBig);
            }
            Err(DropReason::OutTooBig) => self.cut_sealed(snapshot, &mut frame, ivs, outlet),
            // It was a fragment of another fragment.
            Err(DropReason::OutFragment) => count(sa, snapshot, DropReason::OutFragment),
            Err(_) => {}
        }
    }

    /// Protects the fragments of a packet.
    fn seal_pieces(
        &mut self,
        sa: &Sa,
        snapshot: &Snapshot,
        (packet, headers): (&[u8], &Headers),
        ivs: &mut IvSource,
        outlet: &mut impl Outlet,
    ) {
        let link = snapshot.link();
        let cut = seal::room(sa, headers, link.mtu())
            .and_then(|room| Fragments::new(packet, headers, room, link.identification()));
        let Some(mut fragments) = cut else { return count(sa, snapshot, DropReason::OutTooBig) };
        loop {
            let pieces = fill(&mut self.pieces, &mut fragments, link.mtu());
            if pieces.is_empty() {
                return;
            }
            snapshot.seal_parts(pieces, ivs, &mut self.fates);
            let mut sealed = 0;
            for (at, fate) in self.fates.iter().enumerate() {
                match fate {
                    Ok(_) => {
                        pieces.swap(sealed, at);
                        sealed += 1;
                    }
                    // The link has become narrower in between.
                    Err(DropReason::OutTooBig) => count(sa, snapshot, DropReason::OutTooBig),
                    Err(_) => {}
                }
            }
            outlet.network(&pieces[..sealed]);
        }
    }

    /// Protects a packet as it is, and sends the fragments of that.
    fn cut_sealed(&mut self, snapshot: &Snapshot, frame: &mut Frame, ivs: &mut IvSource, outlet: &mut impl Outlet) {
        let link = snapshot.link();
        if snapshot.seal_whole(frame, ivs).is_err() {
            return;
        }
        let mut headers = Headers::NONE;
        let packet = frame.packet();
        if packet.len() <= link.mtu() {
            return outlet.network(slice::from_ref(frame));
        }
        let read = headers.read(packet).ok();
        let cut = read.and_then(|()| Fragments::new(packet, &headers, link.mtu(), link.identification()));
        let Some(mut fragments) = cut else { return snapshot.count_drop(DropReason::OutTooBig) };
        loop {
            let pieces = fill(&mut self.pieces, &mut fragments, link.mtu());
            if pieces.is_empty() {
                return;
            }
            outlet.network(pieces);
        }
    }
}

/// Puts the next fragments into frames, which are made when there are none that are large enough.
fn fill<'p>(pieces: &'p mut Vec<Frame>, fragments: &mut Fragments<'_>, mtu: usize) -> &'p mut [Frame] {
    let capacity = mtu.min(ipv6::MAX_TOTAL);
    if pieces.first_mut().is_none_or(|frame| frame.space().len() < capacity) {
        *pieces = (0..BURST).map(|_| Frame::new(capacity)).collect();
    }
    let filled = pieces.iter_mut().map(|frame| fragments.next_into(frame)).take_while(|filled| *filled).count();
    &mut pieces[..filled]
}

fn count(sa: &Sa, snapshot: &Snapshot, reason: DropReason) {
    sa.state.drops.count(reason);
    snapshot.count_drop(reason);
}

fn course(sa: &Sa, headers: &Headers, packet: &[u8]) -> Course {
    let (fragment, df) = (sa.sizes.fragment, sa.sizes.dont_fragment);
    let tunnel = sa.policy.mode == EspMode::Tunnel;
    match headers.version {
        IpVersion::V4 => {
            let held = ipv4::dont_fragment(packet) && !(tunnel && df == DontFragment::Clear);
            match fragment {
                _ if held => Course::Tell,
                // A sender that allows fragments is not told (RFC 4301 section 8.2.1).
                Fragment::Never => Course::Drop,
                Fragment::Before if tunnel && sa.carries_fragments() => Course::Before,
                Fragment::Before | Fragment::After if tunnel && df == DontFragment::Set => Course::Drop,
                Fragment::Before | Fragment::After => Course::After,
            }
        }
        IpVersion::V6 => match fragment {
            Fragment::After => Course::After,
            Fragment::Before if headers.total <= ipv6::MIN_MTU => Course::After,
            Fragment::Before | Fragment::Never => Course::Tell,
        },
    }
}
