//! What a link does not take, and fragments of applications, under a script: a member that sends, and one that hears it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU16;
use std::slice;
use std::time::Duration;

use dataplane::packet::{Headers, IpVersion, ipv6, protocol};
use dataplane::{DontFragment, DropReason, FlowPadding, Fragment, Frame, IvSource, Outlet, Oversize, Sad, Sizes};
use keyferry_crypto::SeededRandom;
use keyferry_model::policy::EspMode;

use crate::esp::packets;
use crate::esp::sas::{self, SAS, Template};
use crate::script::Script;

const STEPS: usize = 60;
const MTUS: [u32; 5] = [200, 576, 1_280, 1_400, 4_000];
/// All fragments from this host are of packets whose payload is [`octet`] after [`octet`].
const PATTERN: u8 = 77;
const FRAGMENT: u8 = 44;
/// As many messages to senders at once, and one more in each ten milliseconds.
const TOLD: u128 = 50;

/// The first octets say by what SA, and what is done about sizes; then come packets, and time passes.
pub fn target(data: &[u8]) {
    let mut script = Script::new(data);
    let template = &SAS[script.below(SAS.len())];
    let mut sender = Sender::new(template, &mut script);
    for _ in 0..STEPS {
        let Some(op) = script.more() else { break };
        let group = template.group;
        let packet = match op % 5 {
            0 => others(packets::plain(group, &mut script)),
            1 => others(large(packets::plain(group, &mut script), &mut script)),
            2 => {
                let n = usize::from(script.octet());
                others(script.take(n).to_vec())
            }
            3 => {
                sender.now += Duration::from_millis(25) * u32::from(script.octet());
                continue;
            }
            _ => fragment(group, &mut script),
        };
        sender.send(&packet);
    }
}

struct Sender {
    template: &'static Template,
    mtu: usize,
    sad: Sad,
    ivs: IvSource,
    oversize: Oversize,
    now: Duration,
    receiver: Sad,
    told: u128,
}

/// What left, and what the host was told.
#[derive(Default)]
struct Seen {
    network: Vec<Vec<u8>>,
    host: Vec<Vec<u8>>,
}

impl Outlet for Seen {
    fn network(&mut self, burst: &[Frame]) {
        self.network.extend(burst.iter().map(|frame| frame.packet().to_vec()));
    }

    fn host(&mut self, packet: &[u8]) {
        self.host.push(packet.to_vec());
    }

    fn own_address(&mut self) -> Option<Ipv6Addr> {
        Some(Ipv6Addr::LOCALHOST)
    }
}

impl Sender {
    fn new(template: &'static Template, script: &mut Script<'_>) -> Self {
        let sizes = Sizes {
            fragment: [Fragment::Before, Fragment::After, Fragment::Never][script.below(3)],
            dont_fragment: [DontFragment::Copy, DontFragment::Clear, DontFragment::Set][script.below(3)],
            padding: match script.below(4) {
                0 => FlowPadding::None,
                1 => FlowPadding::Step(NonZeroU16::MIN.saturating_add(u16::from(script.octet()))),
                2 => FlowPadding::Lengths([300, 1_000].into()),
                _ => FlowPadding::Mtu,
            },
        };
        let mtu = MTUS[script.below(MTUS.len())];
        let mut sad = sas::sad();
        sad.set_sizes(sizes);
        sas::install(&mut sad, slice::from_ref(template), Some(1));
        sad.snapshot().set_link_mtu(mtu);
        Self {
            template,
            mtu: usize::try_from(mtu).expect("a small number"),
            sad,
            ivs: IvSource::new(&mut SeededRandom::new(1)),
            oversize: Oversize::default(),
            now: Duration::ZERO,
            receiver: sas::receiver(),
            told: 0,
        }
    }

    /// What an engine does with a packet.
    fn send(&mut self, packet: &[u8]) {
        let mut seen = Seen::default();
        let mut frame = Frame::new(packet.len().max(self.mtu));
        frame.space()[..packet.len()].copy_from_slice(packet);
        frame.filled(packet.len());
        let snapshot = self.sad.snapshot();
        match snapshot.seal(&mut frame, &mut self.ivs) {
            Ok(_) => seen.network(slice::from_ref(&frame)),
            Err(DropReason::OutTooBig | DropReason::OutFragment) => {
                assert_eq!(frame.packet(), packet, "it is left as it was");
                self.oversize.relieve(&snapshot, &mut frame, &mut self.ivs, self.now, &mut seen);
            }
            Err(_) => {}
        }
        seen.host.iter().for_each(|message| is_fit_to_tell(message, packet));
        self.told += u128::try_from(seen.host.len()).expect("one at most");
        assert!(self.told <= TOLD + self.now.as_millis() / 10, "senders are told too often");
        let (mut whole, mut parts) = (Vec::new(), BTreeMap::new());
        for sealed in seen.network {
            assert!(sealed.len() <= self.mtu, "{} octets on a link of {}", sealed.len(), self.mtu);
            let headers = Headers::parse(&sealed).expect("what leaves has headers");
            assert_eq!(headers.total, sealed.len());
            if headers.fragment { drop(parts.insert(part_of(&sealed, &headers), sealed)) } else { whole.push(sealed) }
        }
        whole.extend(join(parts));
        whole.iter().for_each(|sealed| self.arrives(sealed));
    }

    fn arrives(&self, sealed: &[u8]) {
        let mut frame = Frame::holding(sealed);
        match self.receiver.snapshot().open(&mut frame) {
            Ok(spi) => assert_eq!(spi, self.template.spi),
            // What says that nothing follows is a dummy in transport mode.
            Err(reason) => return assert_eq!(reason, DropReason::InDummy, "{sealed:02x?}"),
        }
        let headers = Headers::parse(frame.packet()).expect("what opens has headers");
        assert!(
            self.template.policy.mode == EspMode::Tunnel || !headers.fragment,
            "transport mode is for whole packets"
        );
        if last_octet(frame.packet()) == Some(PATTERN) {
            let (offset, body_at) = place(frame.packet(), &headers);
            let body = &frame.packet()[body_at..headers.total];
            assert!(body.iter().zip(offset..).all(|(is, at)| *is == octet(at)), "not what was sent: {body:02x?}");
        }
    }
}

/// Messages are about packets of single hosts and of a length that they may have.
fn is_fit_to_tell(message: &[u8], about: &[u8]) {
    let (headers, of) = (Headers::parse(message).expect("a packet"), Headers::parse(about).expect("it was a packet"));
    assert_eq!((headers.destination, headers.total), (of.source, message.len()));
    assert!(message.len() <= 1_280 && !headers.destination.is_multicast());
    let icmp = if headers.version == IpVersion::V4 { protocol::ICMP } else { protocol::ICMPV6 };
    assert_eq!(headers.upper, icmp);
    assert!(headers.version == IpVersion::V6 || !of.destination.is_multicast());
}

/// The octet of a pattern at a place; never zero.
fn octet(at: usize) -> u8 {
    u8::try_from(at % 251).unwrap_or(0) + 1
}

/// Where the last octet of the source stands.
fn last_octet(packet: &[u8]) -> Option<u8> {
    packet.get(source_end(packet)?).copied()
}

fn source_end(packet: &[u8]) -> Option<usize> {
    match packet.first()? >> 4 {
        4 => Some(15),
        6 => Some(23),
        _ => None,
    }
}

/// A packet from another host than that of the pattern.
fn others(mut packet: Vec<u8>) -> Vec<u8> {
    if let Some(octet) = source_end(&packet).and_then(|at| packet.get_mut(at)).filter(|octet| **octet == PATTERN) {
        *octet += 1;
    }
    packet
}

/// A packet made longer, which of IPv4 may be a fragment or must not be fragmented.
fn large(mut packet: Vec<u8>, script: &mut Script<'_>) -> Vec<u8> {
    let len = packet.len() + 8 * script.below(1_000);
    packet.resize(len, 0xaa);
    let flags = script.octet();
    let (at, header) = if packet[0] >> 4 == 4 { (2, 0) } else { (4, ipv6::HEADER_LEN) };
    if header == 0 {
        packet[6] = flags;
    }
    packet[at..at + 2].copy_from_slice(&u16::try_from(len - header).unwrap_or(u16::MAX).to_be_bytes());
    packet
}

/// A fragment of a packet of the pattern: one of a few that fit each other, or one of any place and length.
fn fragment(group: IpAddr, script: &mut Script<'_>) -> Vec<u8> {
    let (id, which) = (script.octet() % 16, script.octet());
    let (last, len) = (id % 5, 128 * (1 + usize::from(id % 4)));
    let (offset, len, more) = match which & 0x80 {
        0 => (
            usize::from(which % (last + 1)) * len,
            len - usize::from(which % (last + 1) == last),
            which % (last + 1) != last,
        ),
        _ => (8 * script.below(8_192), usize::from(script.octet()), which & 1 != 0),
    };
    let body = (offset..offset + len).map(octet);
    let word = u16::try_from(offset).unwrap_or(0);
    let mut packet = match group {
        IpAddr::V4(group) => {
            let [a, b] = (word >> 3 | u16::from(more) << 13).to_be_bytes();
            let mut packet = vec![0x45, 0, 0, 0, 0, id, a, b, 9, protocol::UDP, 0, 0, 10, 0, 0, PATTERN];
            packet.extend(group.octets());
            packet
        }
        IpAddr::V6(group) => {
            let mut packet = vec![0x60, 0, 0, 0, 0, 0, FRAGMENT, 9];
            packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, PATTERN]);
            packet.extend(group.octets());
            let [a, b] = (word | u16::from(more)).to_be_bytes();
            packet.extend([protocol::UDP, 0, a, b, 0, 0, 0, id]);
            packet
        }
    };
    packet.extend(body);
    let (at, header) = if group.is_ipv4() { (2, 0) } else { (4, ipv6::HEADER_LEN) };
    let counted = u16::try_from(packet.len() - header).expect("short packets");
    packet[at..at + 2].copy_from_slice(&counted.to_be_bytes());
    packet
}

/// Where the payload of a packet of the pattern belongs, and where it begins.
fn place(packet: &[u8], headers: &Headers) -> (usize, usize) {
    match headers.version {
        IpVersion::V4 => (part_of(packet, headers).0, headers.upper_at),
        IpVersion::V6 if headers.fragment => (part_of(packet, headers).0, headers.upper_at),
        IpVersion::V6 => (0, headers.upper_at),
    }
}

/// Offset, and does more follow?
fn part_of(packet: &[u8], headers: &Headers) -> (usize, bool) {
    let word = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    match headers.version {
        IpVersion::V4 => (usize::from(word(6) & 0x1fff) * 8, word(6) & 0x2000 != 0),
        // It is the last header in front of what is fragmented.
        IpVersion::V6 => {
            let word = word(headers.upper_at - 6);
            (usize::from(word & 0xfff8), word & 1 != 0)
        }
    }
}

/// The protected packet whose fragments these are, if there are any: nothing of it is missing, nothing is there twice.
fn join(parts: BTreeMap<(usize, bool), Vec<u8>>) -> Option<Vec<u8>> {
    let (_, first) = parts.first_key_value()?;
    let headers = Headers::parse(first).expect("it was read");
    let (v4, mut whole) = (headers.version == IpVersion::V4, first[..headers.split].to_vec());
    if !v4 {
        whole[headers.split_named_at] = protocol::ESP;
    }
    let (mut reached, mut more) = (0, true);
    for ((offset, follows), part) in parts {
        assert_eq!((offset, more), (reached, true), "a hole or an overlap");
        let part_headers = Headers::parse(&part).expect("it was read");
        let body = &part[if v4 { part_headers.split } else { part_headers.split + 8 }..];
        whole.extend_from_slice(body);
        (reached, more) = (reached + body.len(), follows);
    }
    assert!(!more, "the last one is missing");
    if v4 {
        whole[6..8].fill(0);
    }
    let (at, header) = if v4 { (2, 0) } else { (4, ipv6::HEADER_LEN) };
    let counted = u16::try_from(whole.len() - header).expect("a packet");
    whole[at..at + 2].copy_from_slice(&counted.to_be_bytes());
    Some(whole)
}
