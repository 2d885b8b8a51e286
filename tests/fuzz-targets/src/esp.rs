//! ESP under a script: a member that sends, one that means harm, a stranger, and who they send to.

pub(crate) mod packets;
pub(crate) mod sas;

use std::collections::{BTreeMap, BTreeSet};

use dataplane::packet::Headers;
use dataplane::packet::protocol::NONE;
use dataplane::{Frame, IvSource, Sad};
use keyferry_crypto::SeededRandom;
use keyferry_model::policy::{EspMode, SequenceNumbers};

use crate::script::Script;
use sas::{SAS, Template};

pub use sas::{VECTORS, Vector};

const STEPS: usize = 40;
/// Packets on the wire.
const PACKETS: usize = 200;
/// No vector has a higher sequence number.
const VECTOR_NUMBERS: u32 = 2;
/// Sender IDs.
const HONEST: u32 = 1;
const INSIDER: u32 = 2;

/// The octets are a script: see the steps below.
pub fn target(data: &[u8]) {
    let mut script = Script::new(data);
    let mut world = World::new();
    for _ in 0..STEPS {
        let Some(op) = script.more() else { break };
        step(&mut world, op, &mut script);
        world.wire.truncate(PACKETS);
    }
    world.arrives();
}

fn step(world: &mut World, op: u8, script: &mut Script<'_>) {
    match op % 6 {
        0 => {
            let n = usize::from(script.octet());
            world.wire.push(script.take(n).to_vec());
        }
        1 | 2 => {
            let which = script.below(SAS.len());
            let plain = if op % 6 == 1 { packets::plain(SAS[which].group, script) } else { noise(script) };
            // Most are alone, some fill bursts.
            let copies = usize::from(script.octet()).saturating_sub(180).max(1);
            world.honest(which, &vec![plain; copies]);
        }
        3 => {
            let which = script.below(SAS.len());
            let plain = if script.octet() & 1 == 0 { packets::plain(SAS[which].group, script) } else { noise(script) };
            world.harm(which, plain);
        }
        4 => {
            let at = script.below(world.wire.len());
            world.wire.extend(world.wire.get(at).cloned());
        }
        _ => {
            let (at, other) = (script.below(world.wire.len()), script.below(world.wire.len()));
            let (Some(packet), Some(other)) = (world.wire.get(at), world.wire.get(other)) else { return };
            let changed = packets::change(packet, other, script);
            world.wire.push(changed);
        }
    }
}

fn noise(script: &mut Script<'_>) -> Vec<u8> {
    let n = usize::from(script.octet());
    script.take(n).to_vec()
}

struct Sender {
    sad: Sad,
    ivs: IvSource,
}

impl Sender {
    fn new(template: &Template, id: u32) -> Self {
        let (mut sad, ivs) = (sas::sad(), IvSource::new(&mut SeededRandom::new(id.into())));
        let template = if id == INSIDER { &template.turned() } else { template };
        sas::install(&mut sad, std::slice::from_ref(template), Some(id));
        Self { sad, ivs }
    }

    /// What each packet became, with the sequence number.
    fn seal(&mut self, plain: &[Vec<u8>]) -> Vec<Option<(Vec<u8>, u32)>> {
        let mut frames: Vec<Frame> = plain.iter().map(|packet| Frame::holding(packet)).collect();
        let mut fates = Vec::new();
        self.sad.snapshot().seal_burst(&mut frames, &mut self.ivs, &mut fates);
        let sealed = frames.iter().zip(fates);
        sealed.map(|(frame, fate)| fate.ok().map(|fate| (frame.packet().to_vec(), fate.sequence))).collect()
    }
}

struct World {
    /// By the place of their SA.
    honest: BTreeMap<usize, Sender>,
    insiders: BTreeMap<usize, Sender>,
    /// A receiver that nobody but honest members can reach.
    witness: Sad,
    /// What others receive, in this order.
    wire: Vec<Vec<u8>>,
    /// Every ESP packet that was made with the keys, without its outer headers.
    genuine: BTreeSet<Vec<u8>>,
}

impl World {
    fn new() -> Self {
        let genuine = VECTORS.iter().filter_map(|vector| esp(&vector.sealed)).map(<[u8]>::to_vec).collect();
        Self { honest: BTreeMap::new(), insiders: BTreeMap::new(), witness: sas::receiver(), wire: Vec::new(), genuine }
    }

    /// Sends packets by an SA; what is sealed arrives as it was.
    fn honest(&mut self, which: usize, plain: &[Vec<u8>]) {
        let template = &SAS[which];
        let sender = self.honest.entry(which).or_insert_with(|| Sender::new(template, HONEST));
        for (plain, sealed) in plain.iter().zip(sender.seal(plain)) {
            let Some((sealed, _)) = sealed else { continue };
            let headers = Headers::parse(plain).expect("what is sealed has headers");
            let mut frame = Frame::holding(&sealed);
            let fate = self.witness.snapshot().open(&mut frame);
            if template.policy.mode == EspMode::Transport && headers.split_protocol == NONE {
                assert!(fate.is_err(), "without a next header it is a dummy");
            } else {
                assert_eq!(fate, Ok(template.spi));
                let same = packets::are_alike(frame.packet(), &plain[..headers.total], template.policy.mode);
                assert!(same, "{plain:02x?} became {:02x?}", frame.packet());
            }
            self.put(sealed);
        }
    }

    /// A member with the keys that does not keep to the policy: another mode, to anybody.
    fn harm(&mut self, which: usize, plain: Vec<u8>) {
        let sender = self.insiders.entry(which).or_insert_with(|| Sender::new(&SAS[which], INSIDER));
        if let [Some((sealed, _))] = &sender.seal(&[plain])[..] {
            self.put(sealed.clone());
        }
    }

    fn put(&mut self, sealed: Vec<u8>) {
        self.genuine.extend(esp(&sealed).map(<[u8]>::to_vec));
        self.wire.push(sealed);
    }

    /// All that is on the wire comes to two receivers: to one in bursts, to the other one by one.
    fn arrives(mut self) {
        let (together, alone) = (sas::receiver(), sas::receiver());
        let mut frames: Vec<Frame> = self.wire.iter().map(|packet| Frame::holding(packet)).collect();
        let mut fates = Vec::new();
        together.snapshot().open_burst(&mut frames, &mut fates);
        let mut seen = BTreeSet::new();
        for ((packet, frame), fate) in self.wire.iter().zip(&frames).zip(fates) {
            let mut single = Frame::holding(packet);
            let spi = alone.snapshot().open(&mut single).ok();
            assert_eq!(fate.ok(), spi, "{packet:02x?}");
            let Some(template) = SAS.iter().find(|template| Some(template.spi) == spi) else { continue };
            assert_eq!(frame.packet(), single.packet());
            let esp = esp(packet).filter(|esp| self.genuine.contains(*esp)).expect("what opens was sealed by a member");
            let headers = Headers::parse(frame.packet()).expect("what opens has headers");
            assert_eq!((headers.total, headers.destination), (frame.packet().len(), template.group));
            let once = template.policy.sequence == SequenceNumbers::Unspecified || seen.insert((esp, headers.source));
            assert!(once, "a replay opens");
        }
        let dropped = |sad: &Sad| sad.status().drops.values().sum::<u64>();
        assert_eq!(dropped(&together), dropped(&alone));
        // Of a copy in the same burst the cipher may say first what one by one the window says: drops are compared by their number.
        let sas = |sad: &Sad| {
            let mut sas = sad.status().sas;
            sas.iter_mut().for_each(|sa| sa.drops = [("any", sa.drops.values().sum())].into());
            sas
        };
        assert_eq!(sas(&together), sas(&alone));
        self.honest.retain(|which, _| !self.insiders.contains_key(which));
        for (which, sender) in &mut self.honest {
            still_heard(&together, &SAS[*which], sender);
        }
    }
}

/// Nothing that happened keeps the next packet of an honest member out.
fn still_heard(receiver: &Sad, template: &Template, sender: &mut Sender) {
    let plain = packets::plain(template.group, &mut Script::new(&[]));
    loop {
        let sealed = sender.seal(std::slice::from_ref(&plain));
        let [Some((sealed, sequence))] = &sealed[..] else { panic!("a plain packet is sealed") };
        if *sequence > VECTOR_NUMBERS {
            assert_eq!(receiver.snapshot().open(&mut Frame::holding(sealed)), Ok(template.spi));
            return;
        }
    }
}

/// A protected packet from its SPI on.
fn esp(packet: &[u8]) -> Option<&[u8]> {
    let headers = Headers::parse(packet).ok()?;
    packet.get(headers.upper_at..headers.total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers_open_under_the_sas() {
        let receiver = sas::receiver();
        for vector in VECTORS.iter() {
            let mut frame = Frame::holding(&vector.sealed);
            assert_eq!(receiver.snapshot().open(&mut frame), Ok(SAS[usize::from(vector.sa)].spi));
            assert_eq!(frame.packet(), vector.plain);
        }
    }
}
