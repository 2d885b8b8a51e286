//! A member against a hostile key server that holds all keys: what the server seals is changed before it is hashed,
//! signed and encrypted.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use gdoi::fuzzing;
use keyferry_model::plan::RekeyReason;
use keyferry_model::settings::Phase1Exchange;
use keyferry_scenarios::policy::Variant;

use crate::script::Script;
use crate::world::World;

const VICTIM: u8 = 11;
const OTHER: u8 = 12;

/// Changes at most to one message.
const CHANGES: usize = 4;

/// The first octet says what happens, the others how each message is changed on the way.
pub fn target(data: &[u8]) {
    let Some((story, changes)) = data.split_first() else { return };
    let ack = if story & 1 == 0 { Variant::default().ack } else { Variant::other().ack };
    let variant = Variant { ack, multicast: story & 2 == 0, sender_id_bits: 16, ..Variant::default() };
    let mut world = World::new(variant);
    let _guard = hostile(changes.to_vec(), Rc::clone(&world.serving));
    live(*story, &mut world);
    fuzzing::set_tamper(None);
    world.newcomer_gets_in(VICTIM);
}

/// Puts a hand on what the key server seals.
fn hostile(changes: Vec<u8>, serving: Rc<Cell<bool>>) -> Guard {
    let mut at = 0;
    let hand = move |_exchange: u8, payloads: &mut Vec<(u8, Vec<u8>)>| {
        if serving.get() {
            let mut script = Script::new(&changes[at..]);
            change(payloads, &mut script);
            at = changes.len() - script.take(usize::MAX).len();
        }
    };
    fuzzing::set_tamper(Some(Box::new(hand)));
    Guard
}

/// Takes the hand off even if an assertion fails: other tests may run in this thread.
struct Guard;

impl Drop for Guard {
    fn drop(&mut self) {
        fuzzing::set_tamper(None);
    }
}

fn live(story: u8, world: &mut World) {
    for n in [VICTIM, OTHER] {
        world.join(n, Phase1Exchange::Main);
    }
    world.run(Duration::from_secs(30));
    if story & 4 == 0 {
        world.rekey(RekeyReason::Operator, &[]);
        world.run(Duration::from_secs(30));
    }
    if story & 8 == 0 {
        // Through the tree of keys.
        world.rekey(RekeyReason::Eviction, &[OTHER]);
        world.run(Duration::from_secs(30));
        world.rekey(RekeyReason::Operator, &[]);
        world.run(Duration::from_secs(30));
    }
    if story & 16 != 0 {
        // The phase 1 SA goes, then keys run out and are replaced.
        for _ in 0..8 {
            world.pass(Duration::from_secs(450));
            world.run(Duration::from_secs(1));
        }
    }
    if story & 32 != 0 {
        world.rekey(RekeyReason::Reset, &[]);
        world.run(Duration::from_secs(30));
    }
    if story & 64 != 0 {
        world.leave(VICTIM);
        world.run(Duration::from_secs(30));
    }
    for node in world.nodes.values() {
        let status = node.sad.status();
        assert!(status.sas.len() <= 1024, "{} SAs", status.sas.len());
    }
}

fn change(payloads: &mut Vec<(u8, Vec<u8>)>, script: &mut Script<'_>) {
    for _ in 0..usize::from(script.octet()) % (CHANGES + 1) {
        let at = script.below(payloads.len());
        let op = script.octet();
        let Some((kind, body)) = payloads.get_mut(at) else { return };
        match op % 9 {
            0 => {
                let at = script.below(body.len());
                let mask = script.octet().max(1);
                body.get_mut(at).into_iter().for_each(|octet| *octet ^= mask);
            }
            1 => {
                let end = script.below(body.len() + 1);
                body.truncate(end);
            }
            2 => {
                let n = usize::from(script.octet());
                body.extend_from_slice(script.take(n));
            }
            3 => drop(payloads.remove(at)),
            4 => {
                let again = (*kind, body.clone());
                payloads.insert(at, again);
            }
            5 => *kind = script.octet(),
            6 => {
                let at = script.below(body.len());
                let patch = script.take(4);
                body.iter_mut().skip(at).zip(patch).for_each(|(octet, new)| *octet = *new);
            }
            7 => {
                let n = usize::from(script.octet());
                *body = script.take(n).to_vec();
            }
            _ => {
                // Some octets of the body once more: a structure twice, or one inside the other.
                let (from, len) = (script.below(body.len()), usize::from(script.octet()));
                let piece: Vec<u8> = body.iter().skip(from).take(len).copied().collect();
                let to = script.below(body.len() + 1);
                body.splice(to..to, piece);
            }
        }
    }
}
