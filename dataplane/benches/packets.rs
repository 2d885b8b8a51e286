//! What the packet engine costs beside the bare cryptography: `cargo bench -p dataplane`.
//!
//! One core, no I/O. Times are nanoseconds per packet, the best of several runs, for packets in a tunnel under one SA;
//! "bare" is the same library's cipher on the same octets. `--quick` runs shorter, `--only TEXT` takes the transforms
//! whose names contain it, or one of the parts behind them (`bursts`, `windows`, `scale`), and nothing else. With the feature `ipsec-mb` "bare" is Intel's multi-buffer library where the
//! engine uses that, and the usual libraries stand beside it.
#![allow(clippy::unwrap_used, missing_docs)]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use dataplane::{BURST, Frame, IvSource, Sad};
use keyferry_crypto::{Aead, BlockCipher, Integrity, Secret, SeededRandom};
use keyferry_model::policy::{
    AddressPreservation, EspMode, EspTransform, SaDirection, Selector, SequenceNumbers, TrafficPolicy,
};
use keyferry_model::time::Now;
use keyferry_model::update::{GroupUpdate, NewSa, Removal, SenderIds};

#[path = "packets/bare.rs"]
mod bare;
#[path = "packets/clock.rs"]
mod clock;
#[cfg(feature = "ipsec-mb")]
#[path = "packets/multi_buffer.rs"]
mod multi_buffer;

use clock::Clock;

const LENGTHS: [usize; 4] = [64, 256, 1_400, 8_900];
const TRANSFORMS: [(&str, EspTransform); 6] = [
    ("AES-128-GCM-16", EspTransform::Aead(Aead::Aes128Gcm16)),
    ("AES-256-GCM-16", EspTransform::Aead(Aead::Aes256Gcm16)),
    ("ChaCha20-Poly1305", EspTransform::Aead(Aead::ChaCha20Poly1305)),
    ("AES-128-CBC SHA-256", EspTransform::CbcHmac(BlockCipher::Aes128Cbc, Integrity::HmacSha256_128)),
    ("AES-256-CBC SHA-1", EspTransform::CbcHmac(BlockCipher::Aes256Cbc, Integrity::HmacSha1_96)),
    ("AES-256-CBC SHA-512", EspTransform::CbcHmac(BlockCipher::Aes256Cbc, Integrity::HmacSha512_256)),
];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let has = |wanted: &str| arguments.iter().any(|argument| argument == wanted);
    // Cargo says `--bench` where it is to measure, and nothing where it only tests that benchmarks run.
    let clock = Clock::new(has("--quick") || !has("--bench"));
    let only = arguments.iter().skip_while(|argument| *argument != "--only").nth(1);
    against_bare(&clock, only.map_or("", String::as_str));
    for (name, part) in [("bursts", bursts as fn(&Clock)), ("windows", windows), ("scale", scale)] {
        if only.is_none_or(|only| only == name) {
            part(&clock);
        }
    }
}

fn against_bare(clock: &Clock, only: &str) {
    println!("Packet engine against the bare cipher, ns per packet, {BURST} packets at a time");
    println!(
        "{:<20} {:>6} {:>8} {:>8} {:>6} {:>6} {:>8} {:>8} {:>6} {:>6}  bare",
        "transform", "octets", "seal", "bare", "ratio", "more", "open", "bare", "ratio", "more"
    );
    for (name, transform) in TRANSFORMS.into_iter().filter(|(name, _)| name.contains(only)) {
        for len in LENGTHS {
            let mut group = Group::new(&[policy(transform, 1, false)], 1);
            let packets = vec![packet(1, 1, len); BURST];
            let (seal, open) = (group.seal(clock, &packets), group.open(clock, &packets));
            let Bare { seal: bare_seal, open: bare_open, says } = bare_times(clock, transform, len, group.cipher());
            println!(
                "{name:<20} {len:>6} {seal:>8.1} {bare_seal:>8.1} {:>6.2} {:>6.1} {open:>8.1} {bare_open:>8.1} {:>6.2} {:>6.1}  {says}",
                seal / bare_seal,
                seal - bare_seal,
                open / bare_open,
                open - bare_open
            );
        }
    }
}

/// What the cipher alone takes.
struct Bare {
    seal: f64,
    open: f64,
    says: String,
}

/// Of the multi-buffer library where the engine uses it, else of the usual ones, one packet after the other.
fn bare_times(clock: &Clock, transform: EspTransform, len: usize, engine: &str) -> Bare {
    let usual = bare::Cipher::new(transform);
    let (seal, open) = (usual.seal(clock, len), usual.open(clock, len));
    #[cfg(feature = "ipsec-mb")]
    if engine == "IPsec-MB"
        && let Some(mut bare) = multi_buffer::Cipher::new(transform)
    {
        let says = format!("{engine}, where the usual take {seal:.0} and {open:.0}");
        return Bare { seal: bare.seal(clock, len), open: bare.open(clock, len), says };
    }
    let library = usual.library();
    let says = if engine == library { library.to_owned() } else { format!("{library}; engine: {engine}") };
    Bare { seal, open, says }
}

fn bursts(clock: &Clock) {
    let [gcm, _, _, cbc, ..] = TRANSFORMS;
    for ((name, transform), octets) in [(gcm, 64), (cbc, 1_400)] {
        println!("\nFewer packets at a time, {name}, {octets} octets, ns per packet");
        for len in [1, 2, 4, 8, BURST] {
            let mut group = Group::new(&[policy(transform, 1, false)], 1);
            let packets = vec![packet(1, 1, octets); len];
            let (seal, open) = (group.seal(clock, &packets), group.open(clock, &packets));
            println!("{len:>3} packets: seal {seal:.1}, open {open:.1}");
        }
    }
}

fn windows(clock: &Clock) {
    let [gcm, _, _, cbc, ..] = TRANSFORMS;
    for ((name, transform), octets, whose, counts) in
        [(gcm, 1_400, "of one sender ID", &[1, 8, 64][..]), (cbc, 64, "each with a window", &[1, 8, 64, 10_000])]
    {
        println!("\nReplay windows of many hosts {whose}, {name}, {octets} octets, ns per packet to open");
        for &hosts in counts {
            let packets: Vec<Vec<u8>> = (0..hosts.max(BURST as u32)).map(|at| packet(at % hosts, 1, octets)).collect();
            let times =
                [false, true].map(|replay| Group::new(&[policy(transform, 1, replay)], 1).open(clock, &packets));
            let more = times[1] - times[0];
            println!("{hosts:>6} hosts: {:.1} without, {:.1} with windows, {more:.1} more", times[0], times[1]);
        }
    }
}

fn scale(clock: &Clock) {
    println!("\nMany SAs and policy lines, AES-128-GCM-16, 1,400 octets, ten flows, ns per packet");
    let transform = EspTransform::Aead(Aead::Aes128Gcm16);
    let packets: Vec<Vec<u8>> = (0..BURST).map(|at| packet(1, 1 + at % 10, 1_400)).collect();
    let mut ten = None;
    for (lines, epochs) in [(10, 1), (1_000, 1), (1_000, 10)] {
        let policies: Vec<TrafficPolicy> = (1..=lines).map(|line| policy(transform, line, false)).collect();
        let mut group = Group::new(&policies, epochs);
        let (seal, open) = (group.seal(clock, &packets), group.open(clock, &packets));
        let (seal10, open10) = *ten.get_or_insert((seal, open));
        println!(
            "{lines:>5} lines, {:>6} SAs: seal {seal:.1} ({:.2}), open {open:.1} ({:.2})",
            lines * epochs,
            seal / seal10,
            open / open10
        );
    }
}

/// A member, and packets of its own group to open.
struct Group {
    sad: Sad,
    ivs: IvSource,
    frames: Vec<Frame>,
}

impl Group {
    /// SAs for each policy line, `epochs` of them; the newest sends.
    fn new(policies: &[TrafficPolicy], epochs: usize) -> Self {
        let mut install = Vec::new();
        for epoch in 0..epochs {
            for (line, policy) in policies.iter().enumerate() {
                let number = epoch * policies.len() + line;
                install.push(NewSa {
                    spi: 0x1000 + u32::try_from(number).unwrap(),
                    policy: Arc::new(policy.clone()),
                    keymat: Secret::random(policy.transform.keymat_len(), &mut SeededRandom::new(number as u64)),
                    lifetime: Duration::from_secs(3_600),
                    direction: SaDirection::Symmetric,
                });
            }
        }
        let update = GroupUpdate {
            install,
            remove: Removal::All,
            sender_ids: Some(SenderIds { bits: 16, ids: vec![1] }),
            activation_delay: Duration::ZERO,
            deactivation_delay: Duration::ZERO,
        };
        let mut sad = Sad::new();
        sad.apply(update, Now { mono: Duration::ZERO, wall: Duration::ZERO }).unwrap();
        let frames = vec![Frame::new(10_000); BURST];
        Self { sad, ivs: IvSource::new(&mut SeededRandom::new(1)), frames }
    }

    /// Whose cipher its SAs use.
    fn cipher(&self) -> &'static str {
        self.sad.status().sas.first().unwrap().cipher
    }

    fn seal(&mut self, clock: &Clock, packets: &[Vec<u8>]) -> f64 {
        let snapshot = self.sad.snapshot();
        let mut fates = Vec::new();
        let (frames, ivs) = (&mut self.frames[..packets.len()], &mut self.ivs);
        // The payload may be anything, so only the headers are written anew.
        let refill = |frames: &mut [Frame]| {
            for (frame, packet) in frames.iter_mut().zip(packets) {
                frame.space()[..28].copy_from_slice(&packet[..28]);
                frame.filled(packet.len());
            }
        };
        let both = clock.per_call(|| {
            refill(frames);
            snapshot.seal_burst(frames, ivs, &mut fates);
        });
        assert!(fates.iter().all(Result::is_ok));
        let filling = clock.per_call(|| refill(frames));
        (both - filling) / packets.len() as f64
    }

    /// Packets are sealed before each round and opened in it; what copying them takes is measured and taken off.
    fn open(&mut self, clock: &Clock, packets: &[Vec<u8>]) -> f64 {
        let snapshot = self.sad.snapshot();
        let mut rounds: Vec<Vec<Frame>> = Vec::new();
        let mut best = f64::MAX;
        let mut fates = Vec::new();
        let bursts = (ROUNDS * BURST / packets.len()).max(1);
        for _ in 0..clock.rounds() {
            rounds.clear();
            for packets in (0..bursts).flat_map(|_| packets.chunks(BURST)) {
                let mut frames: Vec<Frame> = packets.iter().map(|packet| Frame::holding(packet)).collect();
                let mut sealed = Vec::new();
                snapshot.seal_burst(&mut frames, &mut self.ivs, &mut sealed);
                assert!(sealed.iter().all(Result::is_ok));
                rounds.push(frames);
            }
            best = best.min(clock.once(|| {
                for frames in &mut rounds {
                    snapshot.open_burst(frames, &mut fates);
                }
            }));
            assert!(fates.iter().all(Result::is_ok));
        }
        best / (bursts * packets.len()) as f64
    }
}

/// Bursts that are opened between two looks at the clock, if they are full.
const ROUNDS: usize = 2;

fn policy(transform: EspTransform, line: usize, replay: bool) -> TrafficPolicy {
    let any = Selector { address: Ipv4Addr::UNSPECIFIED.into(), prefix: 0, protocol: 0, port: 0 };
    TrafficPolicy {
        source: any,
        destination: Selector { address: group(line), prefix: 32, ..any },
        mode: EspMode::Tunnel,
        transform,
        sequence: if replay { SequenceNumbers::Sequential } else { SequenceNumbers::Unspecified },
        replay_window: if replay { 1_024 } else { 0 },
        preservation: AddressPreservation::Both,
        only_sender: None,
        lifetime_octets: None,
    }
}

fn group(line: usize) -> IpAddr {
    let [.., high, low] = u32::try_from(line).unwrap().to_be_bytes();
    Ipv4Addr::new(239, 192, high, low).into()
}

/// A UDP packet of `len` octets from a host of 10.0.0.0/8 to a line's group.
fn packet(host: u32, line: usize, len: usize) -> Vec<u8> {
    let IpAddr::V4(destination) = group(line) else { unreachable!("groups are IPv4") };
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 17, 17, 0, 0];
    packet.extend((10 << 24 | host).to_be_bytes());
    packet.extend(destination.octets());
    packet.extend([0x13, 0x88, 0x13, 0x89]);
    packet.extend(u16::try_from(len - 20).unwrap().to_be_bytes());
    packet.resize(len, 0x5a);
    packet[2..4].copy_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
    let sum = dataplane::packet::ipv4::checksum(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}
