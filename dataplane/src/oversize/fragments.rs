//! Taking IP packets apart (RFC 791 section 2.3, RFC 8200 section 4.5).
//!
//! IPv4 repeats the header, options that are to be copied included. IPv6 repeats what every node on the way looks at and
//! puts a Fragment header behind it:
//!
//! ```text
//! |  Next Header  |   Reserved    |      Fragment Offset    |Res|M|
//! |                         Identification                        |
//! ```

use arrayvec::ArrayVec;

use crate::frame::Frame;
use crate::packet::{Headers, IpVersion, ipv4, ipv6};

/// Octets that fragments are counted in.
const UNIT: usize = 8;
/// The longest IPv4 header.
const MAX_HEADER: usize = 60;

/// The fragments of one packet, in order.
pub(crate) struct Fragments<'p> {
    kind: Kind<'p>,
    payload: &'p [u8],
    /// What of it is behind us.
    done: usize,
    mtu: usize,
}

enum Kind<'p> {
    V4 {
        first: &'p [u8],
        others: ArrayVec<u8, MAX_HEADER>,
        identification: u16,
        /// Of the packet itself, which can be a fragment: octets.
        offset: usize,
        more: bool,
    },
    V6 {
        header: &'p [u8],
        named_at: usize,
        next: u8,
        identification: u32,
    },
}

impl<'p> Fragments<'p> {
    /// Of a packet that `headers` are those of; each takes at most `mtu` octets. IPv4 packets keep their identification, if
    /// they have one that means something. `None` where there is no room for any payload, and for a fragment that belongs to no packet.
    pub(crate) fn new(packet: &'p [u8], headers: &Headers, mtu: usize, identification: u32) -> Option<Self> {
        let (header, payload) = packet.get(..headers.total)?.split_at_checked(headers.split)?;
        let kind = match headers.version {
            IpVersion::V4 => {
                let place = ipv4::place(header)?;
                // Of a packet longer than any can be.
                if place.offset + payload.len() > ipv4::MAX_TOTAL {
                    return None;
                }
                // One that was not meant to be fragmented has no identification that is its own (RFC 6864 section 4.1).
                let own = place.identification != 0 && (headers.fragment || !ipv4::dont_fragment(header));
                let identification = if own { place.identification } else { low(identification) };
                Kind::V4 {
                    first: header,
                    others: repeated(header),
                    identification,
                    offset: place.offset,
                    more: place.more,
                }
            }
            IpVersion::V6 => {
                Kind::V6 { header, named_at: headers.split_named_at, next: headers.split_protocol, identification }
            }
        };
        let fragments = Self { kind, payload, done: 0, mtu };
        (fragments.room() >= UNIT).then_some(fragments)
    }

    /// Octets of payload that the next one can take.
    fn room(&self) -> usize {
        let header = match &self.kind {
            Kind::V4 { first, .. } if self.done == 0 => first.len(),
            Kind::V4 { others, .. } => others.len(),
            Kind::V6 { header, .. } => header.len() + ipv6::FRAGMENT_HEADER_LEN,
        };
        self.mtu.saturating_sub(header)
    }

    /// Puts the next one into a frame. False when there is none, or the frame does not hold it.
    pub(crate) fn next_into(&mut self, frame: &mut Frame) -> bool {
        let rest = &self.payload[self.done..];
        let room = self.room();
        let take = if rest.len() <= room { rest.len() } else { room & !(UNIT - 1) };
        if take == 0 {
            return false;
        }
        let (body, last) = (&rest[..take], take == rest.len());
        let written = match &self.kind {
            Kind::V4 { first, others, identification, offset, more } => {
                let header = if self.done == 0 { *first } else { others.as_slice() };
                let len = header.len() + take;
                let Some(space) = frame.space().get_mut(..len) else { return false };
                space[..header.len()].copy_from_slice(header);
                space[header.len()..].copy_from_slice(body);
                let place =
                    ipv4::Place { identification: *identification, offset: offset + self.done, more: *more || !last };
                ipv4::write_fragment(space, header.len(), place);
                len
            }
            Kind::V6 { header, named_at, next, identification } => {
                let body_at = header.len() + ipv6::FRAGMENT_HEADER_LEN;
                let len = body_at + take;
                let Some(space) = frame.space().get_mut(..len) else { return false };
                space[..header.len()].copy_from_slice(header);
                space[body_at..].copy_from_slice(body);
                let place =
                    ipv6::Place { next: *next, offset: self.done, more: !last, identification: *identification };
                ipv6::write_fragment(space, header.len(), *named_at, place);
                len
            }
        };
        frame.filled(written);
        self.done += take;
        true
    }
}

/// Of IPv4, which repeats as late as it can. Zero is left out: it would be the kernel's to fill in, in each fragment anew.
#[allow(clippy::cast_possible_truncation)]
fn low(identification: u32) -> u16 {
    (1 + identification % u32::from(u16::MAX)) as u16
}

/// The header of all fragments but the first: of the options those whose copied flag is set.
fn repeated(header: &[u8]) -> ArrayVec<u8, MAX_HEADER> {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const COPIED: u8 = 0x80;
    let (fixed, mut options) = header.split_at(ipv4::HEADER_LEN.min(header.len()));
    let mut repeated: ArrayVec<u8, MAX_HEADER> = fixed.iter().copied().collect();
    while let Some(kind) = options.first().filter(|kind| **kind != END) {
        let len = if *kind == NO_OPERATION { 1 } else { options.get(1).map_or(0, |len| usize::from(*len)).max(2) };
        let Some((option, rest)) = options.split_at_checked(len) else { break };
        if kind & COPIED != 0 {
            repeated.extend(option.iter().copied());
        }
        options = rest;
    }
    while repeated.len() % 4 != 0 {
        repeated.push(END);
    }
    repeated
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
