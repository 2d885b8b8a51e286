//! Putting plain fragments together where only whole packets can be protected: in transport mode (RFC 4303 section 3.3.4), since
//! the host's own stack fragments what is larger than the TUN device's MTU.
//!
//! Packets are kept for a while, few of them, fewer of one sender, and none whose fragments overlap (RFC 5722, RFC 8200 section
//! 4.5).

use std::net::IpAddr;
use std::time::Duration;

use crate::packet::{Headers, IpVersion, ipv4, ipv6};

/// Packets of which not all fragments are there yet.
const PACKETS: usize = 32;
/// Of them, of one sender.
const OF_ONE_SENDER: usize = 8;
/// Fragments of one packet.
const PARTS: usize = 128;
/// How long the others are waited for. They come from the host itself, or are forwarded by it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Packets whose fragments are coming.
#[derive(Debug, Default)]
pub(crate) struct Reassembly {
    /// Oldest first.
    packets: Vec<Partial>,
}

/// What became of a fragment.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Added {
    /// The packet, if it was the last one wanted.
    pub(crate) whole: Option<Vec<u8>>,
    /// Fragments that are lost: this one, or others that were waited with.
    pub(crate) lost: usize,
}

/// What fragments of one packet have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    source: IpAddr,
    destination: IpAddr,
    identification: u32,
    /// Of IPv4.
    protocol: u8,
}

#[derive(Debug)]
struct Partial {
    key: Key,
    since: Duration,
    /// What stands in front of the payload, from the first fragment; empty until it is there.
    header: Vec<u8>,
    /// The octet of it that names the Fragment header of IPv6.
    named_at: usize,
    payload: Vec<u8>,
    /// What of the payload is there: from, to.
    parts: Vec<(usize, usize)>,
    /// Octets of the payload, once the last fragment is there.
    total: Option<usize>,
}

/// A fragment, read.
struct Fragment<'p> {
    key: Key,
    header: &'p [u8],
    named_at: usize,
    body: &'p [u8],
    offset: usize,
    more: bool,
}

impl Reassembly {
    /// Takes a fragment that `headers` are those of.
    pub(crate) fn add(&mut self, packet: &[u8], headers: &Headers, now: Duration) -> Added {
        let mut lost = self.expire(now);
        let Some(fragment) = read(packet, headers) else { return Added { whole: None, lost: lost + 1 } };
        let known = self.packets.iter().position(|partial| partial.key == fragment.key);
        let at = known.unwrap_or_else(|| {
            lost += self.make_room(fragment.key.source);
            self.packets.push(Partial::new(fragment.key, now));
            self.packets.len() - 1
        });
        let partial = &mut self.packets[at];
        match partial.take(&fragment) {
            Ok(()) if partial.is_whole() => {
                let whole = self.packets.remove(at).join(headers.version);
                lost += usize::from(whole.is_none());
                Added { whole, lost }
            }
            Ok(()) => Added { whole: None, lost },
            Err(Fault::Copy) => Added { whole: None, lost: lost + 1 },
            Err(Fault::Whole) => Added { whole: None, lost: lost + self.packets.remove(at).parts.len() + 1 },
        }
    }

    /// Forgets what has waited for too long.
    fn expire(&mut self, now: Duration) -> usize {
        let mut lost = 0;
        self.packets.retain(|partial| {
            let stays = now.saturating_sub(partial.since) < PATIENCE;
            lost += if stays { 0 } else { partial.parts.len() };
            stays
        });
        lost
    }

    /// Forgets the oldest of a sender, or the oldest of all, if there are as many as may be.
    fn make_room(&mut self, source: IpAddr) -> usize {
        let of_source = self.packets.iter().filter(|partial| partial.key.source == source).count();
        let victim = if of_source >= OF_ONE_SENDER {
            self.packets.iter().position(|partial| partial.key.source == source)
        } else {
            (self.packets.len() >= PACKETS).then_some(0)
        };
        victim.map_or(0, |at| self.packets.remove(at).parts.len())
    }
}

/// Why a fragment was not taken.
enum Fault {
    /// It is there already.
    Copy,
    /// The whole packet cannot be.
    Whole,
}

impl Partial {
    fn new(key: Key, since: Duration) -> Self {
        Self { key, since, header: Vec::new(), named_at: 0, payload: Vec::new(), parts: Vec::new(), total: None }
    }

    fn take(&mut self, fragment: &Fragment<'_>) -> Result<(), Fault> {
        let (from, to) = (fragment.offset, fragment.offset + fragment.body.len());
        if self.parts.contains(&(from, to)) {
            return Err(Fault::Copy);
        }
        let overlaps = self.parts.iter().any(|part| part.0 < to && from < part.1);
        let ends = if fragment.more { self.total } else { Some(to) };
        let other_end = self.total.is_some() && ends != self.total;
        let behind_end = ends.is_some_and(|end| to > end || self.payload.len() > end);
        if overlaps || other_end || behind_end || self.parts.len() == PARTS {
            return Err(Fault::Whole);
        }
        self.total = ends;
        if self.payload.len() < to {
            self.payload.resize(to, 0);
        }
        self.payload[from..to].copy_from_slice(fragment.body);
        self.parts.push((from, to));
        if from == 0 {
            (self.header, self.named_at) = (fragment.header.to_vec(), fragment.named_at);
        }
        Ok(())
    }

    fn is_whole(&self) -> bool {
        let there: usize = self.parts.iter().map(|(from, to)| to - from).sum();
        self.total == Some(there)
    }

    /// The packet. `None` if it is longer than any can be.
    fn join(self, version: IpVersion) -> Option<Vec<u8>> {
        let (header_len, mut whole) = (self.header.len(), self.header);
        match version {
            IpVersion::V4 => {
                whole.extend(self.payload);
                if whole.len() > ipv4::MAX_TOTAL {
                    return None;
                }
                ipv4::write_whole(&mut whole, header_len);
            }
            IpVersion::V6 => {
                // The Fragment header goes, and what it names is named in its place.
                let at = header_len.checked_sub(ipv6::FRAGMENT_HEADER_LEN)?;
                let next = *whole.get(at)?;
                whole.truncate(at);
                whole.extend(self.payload);
                if whole.len() > ipv6::MAX_TOTAL {
                    return None;
                }
                ipv6::rewrite(&mut whole, self.named_at, next);
            }
        }
        Some(whole)
    }
}

/// Reads a fragment; `None` if it can be none.
fn read<'p>(packet: &'p [u8], headers: &Headers) -> Option<Fragment<'p>> {
    let packet = packet.get(..headers.total)?;
    let (header_len, offset, more, identification, protocol) = match headers.version {
        IpVersion::V4 => {
            let place = ipv4::place(packet)?;
            (headers.split, place.offset, place.more, u32::from(place.identification), headers.upper)
        }
        IpVersion::V6 => {
            let place = ipv6::place(packet, headers)?;
            (headers.split + ipv6::FRAGMENT_HEADER_LEN, place.offset, place.more, place.identification, 0)
        }
    };
    let (header, body) = packet.split_at_checked(header_len)?;
    let sound = !body.is_empty() && (!more || body.len() % 8 == 0) && offset + body.len() <= ipv4::MAX_TOTAL;
    let key = Key { source: headers.source, destination: headers.destination, identification, protocol };
    let named_at = headers.split_named_at;
    sound.then_some(Fragment { key, header, named_at, body, offset, more })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
