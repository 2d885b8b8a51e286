//! A filter for interoperability tests: JSON lines in, JSON lines out.
//!
//! In: `{"op":"seal"|"open"|"dummy","mode":"transport"|"tunnel","transform":"aes128gcm16"|"aes128-sha256"|...,
//! "spi":4097,"keymat":"hex","sender_id":1,"sender_id_bits":8,"packet":"hex"}`. Packets start with their IP header.
//! `"step":256` pads packets to multiples of so many octets. A dummy goes where the packet would. Lines with the same SA share its sequence
//! numbers. Out: `{"packet":"hex"}` or `{"drop":"reason"}` or
//! `{"error":"text"}`; the first answer of an SA has as `"keys"` what a key log gets of it, if anything.

#[path = "../tests/support/names.rs"]
mod names;

use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use dataplane::packet::{Headers, IpVersion};
use dataplane::{Dummies, FlowPadding, Frame, IvSource, KeyLog, Sad, Sizes, Snapshot};
use keyferry_crypto::{Random, Secret};
use keyferry_model::policy::{AddressPreservation, EspMode, SaDirection, Selector, SequenceNumbers, TrafficPolicy};
use keyferry_model::time::Now;
use keyferry_model::tunnel::Tunnel;
use keyferry_model::update::{GroupUpdate, NewSa, Removal, SenderIds};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Request {
    op: String,
    mode: String,
    transform: String,
    spi: u32,
    keymat: String,
    #[serde(default)]
    sender_id: u32,
    #[serde(default)]
    sender_id_bits: Option<u8>,
    #[serde(default)]
    step: u16,
    packet: String,
}

struct SystemRandom;

impl Random for SystemRandom {
    fn fill(&mut self, out: &mut [u8]) {
        getrandom::fill(out).expect("the system has randomness");
    }
}

/// Hands lines on.
struct Lines(Sender<String>);

impl KeyLog for Lines {
    fn log(&mut self, _table: &'static str, line: &str) {
        // Whoever asked may have had enough.
        let _ = self.0.send(line.to_owned());
    }
}

type Sads = BTreeMap<(u32, String, String, bool, u16), Sad>;

fn main() -> io::Result<()> {
    let mut sads = Sads::new();
    let mut ivs = IvSource::new(&mut SystemRandom);
    for line in io::stdin().lock().lines() {
        let answer = answer(&line?, &mut sads, &mut ivs).unwrap_or_else(|error| json!({ "error": error }));
        let mut out = io::stdout().lock();
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    Ok(())
}

fn answer(line: &str, sads: &mut Sads, ivs: &mut IvSource) -> Result<Value, String> {
    let request: Request = serde_json::from_str(line).map_err(|e| e.to_string())?;
    let packet = hex::decode(&request.packet).map_err(|e| e.to_string())?;
    let v6 = packet.first().is_some_and(|octet| octet >> 4 == 6);
    let name = (request.spi, request.keymat.clone(), request.mode.clone(), v6, request.step);
    let (lines, keys) = channel();
    let sad = match sads.entry(name) {
        std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
        std::collections::btree_map::Entry::Vacant(new) => new.insert(sad_for(&request, &packet, lines)?),
    };
    let mut frame = Frame::new(2_000.max(packet.len()));
    frame.space()[..packet.len()].copy_from_slice(&packet);
    frame.filled(packet.len());
    let snapshot = sad.snapshot();
    let result = match request.op.as_str() {
        "seal" => snapshot.seal(&mut frame, ivs).map(|_| ()),
        "dummy" => {
            frame = dummy(&snapshot, ivs)?;
            Ok(())
        }
        "open" => snapshot.open(&mut frame).map(|_| ()),
        other => return Err(format!("unknown op {other}")),
    };
    let mut answer = match result {
        Ok(()) => json!({ "packet": hex::encode(frame.packet()) }),
        Err(reason) => json!({ "drop": reason.name() }),
    };
    if let Ok(line) = keys.try_recv() {
        answer["keys"] = line.into();
    }
    Ok(answer)
}

/// The only SA's first dummy.
fn dummy(snapshot: &Snapshot, ivs: &mut IvSource) -> Result<Frame, String> {
    let mut dummies = Dummies::new(NonZeroU32::MIN);
    let mut made = None;
    for seconds in 0..2 {
        dummies.fill(snapshot, ivs, Duration::from_secs(seconds), |burst| made = burst.first().cloned());
    }
    made.ok_or_else(|| "no dummy".to_owned())
}

fn sad_for(request: &Request, packet: &[u8], lines: Sender<String>) -> Result<Sad, String> {
    let headers = Headers::parse(packet).map_err(|e| e.to_string())?;
    let v6 = headers.version == IpVersion::V6;
    let any: IpAddr = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let side = |address, prefix| Selector { address, prefix, protocol: 0, port: 0 };
    let policy = TrafficPolicy {
        source: side(any, 0),
        destination: side(headers.destination, if v6 { 128 } else { 32 }),
        mode: match request.mode.as_str() {
            "transport" => EspMode::Transport,
            "tunnel" => EspMode::Tunnel,
            other => return Err(format!("unknown mode {other}")),
        },
        transform: names::transform(&request.transform).ok_or(format!("unknown transform {}", request.transform))?,
        sequence: SequenceNumbers::Unspecified,
        replay_window: 0,
        preservation: AddressPreservation::Both,
        only_sender: None,
        lifetime_octets: None,
    };
    let keymat = Secret::new(hex::decode(&request.keymat).map_err(|e| e.to_string())?);
    let update = GroupUpdate {
        install: vec![NewSa {
            spi: request.spi,
            policy: Arc::new(policy),
            keymat,
            lifetime: Duration::from_secs(3_600),
            direction: SaDirection::Symmetric,
        }],
        remove: Removal::All,
        sender_ids: Some(SenderIds { bits: request.sender_id_bits.unwrap_or(16), ids: vec![request.sender_id] }),
        activation_delay: Duration::ZERO,
        deactivation_delay: Duration::ZERO,
    };
    let mut sad = Sad::new();
    sad.set_key_log(Box::new(Lines(lines)));
    // A dummy has the ends that the packet has.
    sad.set_tunnel(Tunnel { local: Some(headers.source), remote: Some(headers.destination) });
    sad.set_sizes(Sizes {
        padding: NonZeroU16::new(request.step).map_or(FlowPadding::None, FlowPadding::Step),
        ..Sizes::default()
    });
    sad.apply(update, Now { mono: Duration::ZERO, wall: Duration::ZERO }).map_err(|e| e.to_string())?;
    Ok(sad)
}
