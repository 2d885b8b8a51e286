//! Dummy packets (RFC 4303 section 2.6): what a sender fills its silence with, so that nobody sees when it has something to say.
//!
//! They take sequence numbers and IVs as all packets do, and differ inside alone: the next header is 59. Outside they look
//! like packets of a tunnel that this member begins.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::slice;
use std::time::Duration;

use crate::burst::BURST;
use crate::frame::Frame;
use crate::iv::IvSource;
use crate::packet::esp::{EspPacket, TRAILER_LEN, write_trailer};
use crate::packet::{Headers, IpVersion, ipv4, ipv6, protocol};
use crate::sa::Sa;
use crate::sad::Snapshot;
use crate::transform::Job;

/// The longest dummy on a link whose MTU is not known.
const MOST: usize = ipv6::MIN_MTU;

/// Sees to it that each SA that sends has packets at a rate, real ones or dummies.
#[derive(Debug)]
pub struct Dummies {
    period: Duration,
    /// By SPI.
    flows: BTreeMap<u32, Flow>,
    frame: Frame,
}

/// What goes out by one SA.
#[derive(Clone, Copy, Debug)]
struct Flow {
    /// Real packets so far.
    sealed: u64,
    /// When another packet must have left.
    due: Duration,
}

impl Dummies {
    /// At least `rate` packets a second for each SA.
    #[must_use]
    pub fn new(rate: NonZeroU32) -> Self {
        let period = (Duration::from_secs(1) / rate.get()).max(Duration::from_nanos(1));
        Self { period, flows: BTreeMap::new(), frame: Frame::new(0) }
    }

    /// Sends what is due by `send`.
    pub fn fill(&mut self, snapshot: &Snapshot, ivs: &mut IvSource, now: Duration, mut send: impl FnMut(&[Frame])) {
        let mut before = std::mem::take(&mut self.flows);
        for sa in snapshot.sending() {
            let (sealed, _) = sa.state.sealed.get();
            let mut flow = before.remove(&sa.spi).unwrap_or(Flow { sealed, due: now + self.period });
            // Real packets take the place of dummies. But many at once do not excuse the silence behind them, and a late call does
            // not make up for more than a burst.
            let real = u32::try_from(sealed.saturating_sub(flow.sealed)).unwrap_or(u32::MAX).min(BURST as u32);
            flow.sealed = sealed;
            flow.due = (flow.due + self.period * real).min(now + self.period);
            flow.due = flow.due.max(now.saturating_sub(self.period * (BURST as u32 - 1)));
            while flow.due <= now {
                flow.due += self.period;
                if make(sa, snapshot.link().mtu(), &mut self.frame, ivs).is_some() {
                    send(slice::from_ref(&self.frame));
                }
            }
            self.flows.insert(sa.spi, flow);
        }
    }

    /// When [`Dummies::fill`] is wanted next, unless other SAs come to send.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.flows.values().map(|flow| flow.due).min()
    }
}

/// Makes a dummy. `None` if the SA was taken away or has no number or octets left for one, or if it is not known between which
/// addresses it goes.
fn make(sa: &Sa, mtu: usize, frame: &mut Frame, ivs: &mut IvSource) -> Option<()> {
    if sa.is_revoked() {
        return None;
    }
    sa.state.numbers.are_left(sa.is_counter_mode()).ok()?;
    let outer = sa.own_outer()?;
    let version = if outer.destination?.is_ipv4() { IpVersion::V4 } else { IpVersion::V6 };
    let (esp_at, layout) = (version.header_len(), sa.layout);
    let around = esp_at + layout.around();
    let longest = if version == IpVersion::V4 { ipv4::MAX_TOTAL } else { ipv6::MAX_TOTAL };
    let most = if mtu > ipv6::MAX_TOTAL { MOST } else { mtu.min(longest) };
    let least = around + layout.block;
    // As long as any packet may be: who sees it must not guess what it is not.
    let drawn = u64::from_be_bytes(*ivs.next().ok()?.first_chunk()?);
    let any = least + usize::try_from(drawn % u64::try_from(most.checked_sub(least)? + 1).ok()?).ok()?;
    let room = sa.sizes.padding.target(any, most) - around;
    let len = around + (room & !(layout.block - 1));

    if frame.space().len() < len {
        *frame = Frame::new(most);
    }
    frame.space()[..len].fill(0);
    frame.filled(len);
    let packet = frame.packet_mut();
    match version {
        IpVersion::V4 => {
            let Headers { source, destination, .. } = Headers::NONE;
            let header = ipv4::OuterHeader::new(source, destination, outer, protocol::ESP);
            header.write(packet.first_chunk_mut()?, &ipv4::BLANK, len);
        }
        IpVersion::V6 => ipv6::write_outer(packet, &ipv6::BLANK, outer, protocol::ESP),
    }
    let esp = packet.get_mut(esp_at..)?;
    let trailer_end = esp.len() - layout.icv;
    write_trailer(esp.get_mut(trailer_end - TRAILER_LEN..trailer_end)?, 0, protocol::NONE)?;
    if !sa.spend(len - around) {
        return None;
    }
    let ticket = sa.state.numbers.take(sa.is_counter_mode(), 1).ok()?;
    EspPacket::new(&mut *esp)?.set_header(sa.spi, ticket.sequence);
    let mut job = [Job::new(esp, ticket.iv)];
    sa.transform.seal(&mut job, ivs);
    job[0].done.then(|| sa.state.count_dummy())
}
