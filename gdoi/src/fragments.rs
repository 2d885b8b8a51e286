//! Fragmentation of IKEv1 messages, as vendors have it: cutting messages up, and putting them together again.
//!
//! Fragments are not authenticated. Whoever sees them can add others of the same message, so contradicting ones are kept side
//! by side, a bounded number of them, and each way to put them together is tried, the newest fragments first, until one makes
//! a message that is taken.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use keyferry_crypto::Hash;
use keyferry_model::drive::{Datagram, Transmit};
use keyferry_wire::{Decode, DecodeError, Encode, Header, NON_ESP_MARKER, chain};

use crate::message::MAX_DATAGRAM;
use crate::reject::Reject;
use crate::wire::fragment::Fragment;
use crate::wire::registry::{exchange, payload};

/// Sets of fragments under one pair of cookies.
const MAX_SETS: usize = 4;

/// From one source.
const MAX_SETS_PER_SOURCE: usize = 16;

/// In all.
const MAX_SETS_IN_ALL: usize = 256;

/// Fragments with one number in a set.
const MAX_RIVALS: usize = 4;

/// Ways to put the fragments of a set together that are tried when one comes.
const MAX_WAYS: usize = 16;

/// A set that is not whole after so long is forgotten.
const PATIENCE: Duration = Duration::from_secs(30);

/// The least octets of an IP packet that messages are cut to: every host takes as much (RFC 791).
pub(crate) const MIN_SIZE: usize = 576;

/// Octets of the headers of IP and UDP.
fn ip_overhead(to: SocketAddr) -> usize {
    8 + if to.is_ipv4() { 20 } else { 40 }
}

/// Cuts a message up so that no IP packet is longer than `size`; one that fits stays whole, and so does what has no phase 1
/// SA. The same message always becomes the same fragments.
pub(crate) fn split(transmit: Transmit, size: usize) -> Vec<Transmit> {
    let marker = if transmit.via.is_marked_udp() { NON_ESP_MARKER.len() } else { 0 };
    let room = size.max(MIN_SIZE) - ip_overhead(transmit.to) - marker;
    let header = Header::decode(&transmit.bytes).map(|(header, _)| header);
    let Some(header) = header.ok().filter(|h| transmit.bytes.len() > room && has_fragments(h.exchange)) else {
        return vec![transmit];
    };
    let pieces: Vec<&[u8]> = transmit.bytes.chunks(room - Header::LEN - Fragment::OVERHEAD).collect();
    let Ok(count) = u8::try_from(pieces.len()) else { return vec![transmit] };
    let digest = Hash::Sha256.digest(&[&transmit.bytes]);
    let id = u16::from_be_bytes([digest[0], digest[1]]);
    let fragments = (1..=count).zip(pieces).map(|(number, data)| {
        let fragment = Fragment { id, number, last: number == count, data }.to_vec();
        Transmit { bytes: envelope(&header, &fragment), ..transmit }
    });
    fragments.collect()
}

/// Pushes and their acknowledgements go to whoever has the rekey SA: nobody announced anything.
fn has_fragments(kind: u8) -> bool {
    !matches!(kind, exchange::PUSH | exchange::PUSH_ACK)
}

/// A fragment as a message: with the cookies of the whole one, an exchange type of phase 1 and message ID 0, whatever the
/// whole one has. Peers take no other, and during aggressive mode none of main mode.
fn envelope(whole: &Header, fragment: &[u8]) -> Vec<u8> {
    let kind = if whole.exchange == exchange::AGGRESSIVE { exchange::AGGRESSIVE } else { exchange::MAIN_MODE };
    let header = Header { next: payload::FRAGMENT, exchange: kind, flags: 0, message_id: 0, ..*whole };
    let mut body = vec![0, 0];
    // Far below 64 KiB: it fits into a packet.
    body.extend_from_slice(&u16::try_from(4 + fragment.len()).unwrap_or(u16::MAX).to_be_bytes());
    body.extend_from_slice(fragment);
    header.encode(&body)
}

/// Reads a message that is a fragment: alone, and in clear.
pub(crate) fn read<'a>(header: &Header, body: &'a [u8]) -> Result<Fragment<'a>, DecodeError> {
    let wrong = |what| DecodeError { at: Header::LEN, what };
    if header.flags != 0 {
        return Err(wrong("an encrypted fragment"));
    }
    match chain(header.next, body)?.as_slice() {
        [one] => Fragment::exact(one.body),
        _ => Err(wrong("a fragment beside other payloads")),
    }
}

/// Gives what fragments make to `take`, one way to put them together after the other, until one is taken. Is one?
pub(crate) fn take_first(
    wholes: Vec<Vec<u8>>,
    dgram: &Datagram<'_>,
    mut take: impl FnMut(&Datagram<'_>) -> Result<(), Reject>,
) -> Result<bool, Reject> {
    let mut verdict = Ok(false);
    for bytes in &wholes {
        verdict = take(&Datagram { bytes, ..*dgram }).map(|()| true);
        if verdict.is_ok() {
            break;
        }
    }
    verdict
}

#[derive(Debug)]
struct Piece {
    number: u8,
    last: bool,
    data: Vec<u8>,
}

/// Fragments with one ID of one peer.
#[derive(Debug)]
struct Set {
    source: IpAddr,
    cookies: [u8; 16],
    id: u16,
    begun: Duration,
    /// Newest first.
    pieces: VecDeque<Piece>,
}

impl Set {
    /// Adds a fragment, or makes it the newest. What is too much goes, the oldest first.
    fn add(&mut self, fragment: &Fragment<'_>) {
        let same = |p: &Piece| p.number == fragment.number && p.last == fragment.last && p.data == fragment.data;
        self.pieces.retain(|p| !same(p));
        let (number, last, data) = (fragment.number, fragment.last, fragment.data.to_vec());
        self.pieces.push_front(Piece { number, last, data });
        let mut rivals = 0;
        self.pieces.retain(|p| {
            rivals += usize::from(p.number == number);
            p.number != number || rivals <= MAX_RIVALS
        });
        let mut total = 0;
        self.pieces.retain(|p| {
            total += p.data.len();
            total <= MAX_DATAGRAM
        });
    }

    /// Messages that can be made with the newest fragment.
    fn ways(&self) -> Vec<Vec<u8>> {
        let Some(newest) = self.pieces.front() else { return Vec::new() };
        let mut ways = Vec::new();
        for end in self.pieces.iter().filter(|p| p.last && p.number >= newest.number) {
            if newest.last && !std::ptr::eq(newest, end) {
                continue;
            }
            self.extend(&mut vec![end], newest, &mut ways);
        }
        ways
    }

    /// Goes on towards the first fragment; `chosen` holds those behind, the last one first.
    fn extend<'a>(&'a self, chosen: &mut Vec<&'a Piece>, newest: &'a Piece, ways: &mut Vec<Vec<u8>>) {
        let Some(number) = chosen.last().map(|p| p.number - 1) else { return };
        if ways.len() >= MAX_WAYS {
            return;
        }
        if number == 0 {
            let message: Vec<u8> = chosen.iter().rev().flat_map(|p| p.data.iter().copied()).collect();
            if self.is_message(&message) {
                ways.push(message);
            }
            return;
        }
        let fits = |p: &&Piece| p.number == number && !p.last && (number != newest.number || std::ptr::eq(*p, newest));
        for piece in self.pieces.iter().filter(fits) {
            chosen.push(piece);
            self.extend(chosen, newest, ways);
            chosen.pop();
        }
    }

    /// Has it the header of a whole message under the same cookies?
    fn is_message(&self, message: &[u8]) -> bool {
        Header::decode(message).is_ok_and(|(h, _)| h.spi_pair() == self.cookies && h.next != payload::FRAGMENT)
    }
}

/// Fragments that wait for others.
#[derive(Debug, Default)]
pub(crate) struct Reassembly {
    /// Oldest first.
    sets: VecDeque<Set>,
}

impl Reassembly {
    /// Takes a fragment of a peer that has announced fragments. Returns what can be made with it: messages to be tried in
    /// their order. If one is taken, say so with [`taken`](Self::taken).
    pub(crate) fn add(
        &mut self,
        header: &Header,
        from: IpAddr,
        fragment: &Fragment<'_>,
        mono: Duration,
    ) -> Vec<Vec<u8>> {
        self.sets.retain(|s| s.begun + PATIENCE > mono);
        let cookies = header.spi_pair();
        let known = self.sets.iter().position(|s| s.source == from && s.cookies == cookies && s.id == fragment.id);
        let at = known.unwrap_or_else(|| {
            self.make_room(from, &cookies);
            self.sets.push_back(Set { source: from, cookies, id: fragment.id, begun: mono, pieces: VecDeque::new() });
            self.sets.len() - 1
        });
        let set = &mut self.sets[at];
        set.add(fragment);
        set.ways()
    }

    /// A message of this set was taken: the set is of no use any more.
    pub(crate) fn taken(&mut self, header: &Header, from: IpAddr, id: u16) {
        let cookies = header.spi_pair();
        self.sets.retain(|s| s.source != from || s.cookies != cookies || s.id != id);
    }

    /// The oldest set goes of those that a new one would be one too many of.
    fn make_room(&mut self, source: IpAddr, cookies: &[u8; 16]) {
        self.limit(MAX_SETS, |s| s.cookies == *cookies);
        self.limit(MAX_SETS_PER_SOURCE, |s| s.source == source);
        self.limit(MAX_SETS_IN_ALL, |_| true);
    }

    fn limit(&mut self, most: usize, of: impl Fn(&Set) -> bool) {
        if self.sets.iter().filter(|s| of(s)).count() >= most {
            let oldest = self.sets.iter().position(of);
            oldest.and_then(|at| self.sets.remove(at));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
