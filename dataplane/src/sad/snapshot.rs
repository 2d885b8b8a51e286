//! What workers read: an immutable picture of policies and SAs, replaced as a whole.

use std::net::IpAddr;
use std::sync::Arc;

use crate::drops::{DropCounters, DropReason};
use crate::frame::Frame;
use crate::iv::IvSource;
use crate::open;
use crate::packet::Headers;
use crate::sa::Sa;
use crate::seal;

/// A picture of the SAD. Cheap to share and never changed; counters and windows live inside of its SAs.
pub struct Snapshot {
    lines: Box<[Line]>,
    /// Sorted by SPI.
    inbound: Box<[Arc<Sa>]>,
    drops: Arc<DropCounters>,
}

/// SAs with the same selectors, in the order in which a sender tries them.
pub(super) struct Line {
    pub(super) candidates: Box<[Arc<Sa>]>,
}

/// What became of a plain packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// SPI of the SA used.
    pub spi: u32,
    /// Sequence number.
    pub sequence: u32,
    /// Where the protected packet goes.
    pub destination: IpAddr,
}

impl Snapshot {
    pub(super) fn new(lines: Vec<Line>, mut inbound: Vec<Arc<Sa>>, drops: Arc<DropCounters>) -> Self {
        inbound.sort_by_key(|sa| sa.spi);
        Self { lines: lines.into(), inbound: inbound.into(), drops }
    }

    /// Turns the plain IP packet in `frame` into an ESP packet, in place. Whatever is not protected is dropped and
    /// counted; the frame's content is then unspecified and must not be sent.
    pub fn seal(&self, frame: &mut Frame, ivs: &mut IvSource) -> Result<Sealed, DropReason> {
        self.try_seal(frame, ivs).inspect_err(|reason| self.drops.count(*reason))
    }

    /// Turns the ESP packet in `frame` (IP header first) into the plain packet, in place, and says under which SPI it
    /// came. Whatever is not authentic and fitting is dropped and counted; the frame's content is then unspecified.
    pub fn open(&self, frame: &mut Frame) -> Result<u32, DropReason> {
        self.try_open(frame).inspect_err(|reason| self.drops.count(*reason))
    }

    /// Counts a packet that was lost before it came here or after it went.
    pub fn count_drop(&self, reason: DropReason) {
        self.drops.count(reason);
    }

    /// The SA of each line that sends.
    pub(super) fn sending(&self) -> impl Iterator<Item = &Sa> {
        self.lines.iter().filter_map(|line| line.candidates.first()).map(AsRef::as_ref)
    }

    fn try_seal(&self, frame: &mut Frame, ivs: &mut IvSource) -> Result<Sealed, DropReason> {
        let headers = Headers::parse(frame.packet()).map_err(|_| DropReason::OutHdrError)?;
        let covers = |line: &&Line| line.candidates.first().is_some_and(|sa| sa.covers(&headers));
        let line = self.lines.iter().find(covers).ok_or(DropReason::OutNoPols)?;
        let mut refused = DropReason::OutStateExpired;
        for sa in &line.candidates {
            // Only an SA that has run out of numbers gives way to its successor, which receivers have by now.
            match seal::seal(sa, frame, &headers, ivs) {
                Err(reason @ (DropReason::OutStateSeqError | DropReason::OutIvExhausted)) => refused = reason,
                Err(reason) => return Err(reason),
                Ok(sequence) => {
                    return Ok(Sealed {
                        spi: sa.spi,
                        sequence,
                        destination: sa.outer().destination.unwrap_or(headers.destination),
                    });
                }
            }
        }
        Err(refused)
    }

    fn try_open(&self, frame: &mut Frame) -> Result<u32, DropReason> {
        let (headers, spi) = open::find_esp(frame)?;
        let at = self.inbound.binary_search_by_key(&spi, |sa| sa.spi).map_err(|_| DropReason::InNoStates)?;
        let sa = self.inbound.get(at).ok_or(DropReason::InNoStates)?;
        if sa.is_revoked() || !sa.receives_at(headers.destination) {
            return Err(DropReason::InNoStates);
        }
        open::open(sa, frame, &headers)?;
        Ok(spi)
    }
}
