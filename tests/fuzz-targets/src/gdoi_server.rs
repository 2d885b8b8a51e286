//! The key server's endpoint under a script: genuine members, and somebody between them and the key server.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use keyferry_model::plan::RekeyReason;
use keyferry_model::settings::Phase1Exchange;
use keyferry_scenarios::policy::Variant;

use crate::script::Script;
use crate::world::{HALF_OPEN, SAS, World, address};

/// Genuine members that a script may use.
const MEMBERS: [u8; 4] = [11, 12, 13, 14];
/// Somebody with a pre-shared key who keeps quiet until the end.
const NEWCOMER: u8 = 40;
/// Addresses that forged datagrams come from: those of members, and one with a key that nobody uses.
const SOURCES: [u8; 5] = [11, 12, 13, 14, 66];
/// A longer script shows nothing that a shorter one doesn't.
const STEPS: usize = 64;

/// The octets are a script: see the steps below.
pub fn target(data: &[u8]) {
    let mut script = Script::new(data);
    let mut world = World::new(Variant { sender_id_bits: 16, ..Variant::default() });
    for _ in 0..STEPS {
        let Some(op) = script.more() else { break };
        step(&mut world, op, &mut script);
        bounded(&world);
    }
    // Whoever was cut off in the middle has been forgotten by then.
    world.pass(Duration::from_secs(40));
    bounded(&world);
    world.newcomer_gets_in(NEWCOMER);
}

fn step(world: &mut World, op: u8, script: &mut Script<'_>) {
    match op % 16 {
        0 => {
            let pick = script.below(2 * MEMBERS.len());
            let exchange = if pick < MEMBERS.len() { Phase1Exchange::Main } else { Phase1Exchange::Aggressive };
            world.join(MEMBERS[pick % MEMBERS.len()], exchange);
        }
        1 => {
            if let Some((from, bytes)) = world.to_server.pop_front() {
                world.serve(from, &bytes);
            }
        }
        2 => {
            if let Some((n, to, bytes)) = world.to_members.pop_front() {
                world.deliver(n, to, &bytes);
            }
        }
        3 => drop(world.settle(200)),
        4 => lose(&mut world.to_server, script),
        5 => lose(&mut world.to_members, script),
        6 | 7 => {
            // The one that is about to arrive, changed, in front of the genuine one.
            if let Some((from, bytes)) = world.to_server.front().cloned() {
                let other = logged(world, script);
                forge(world, from, &script.mutate(&bytes, &other));
            }
        }
        8 => {
            let (bytes, other) = (logged(world, script), logged(world, script));
            let from = address(SOURCES[script.below(SOURCES.len())]);
            forge(world, from, &script.mutate(&bytes, &other));
        }
        9 => {
            let bytes = logged(world, script);
            let from = address(SOURCES[script.below(SOURCES.len())]);
            forge(world, from, &bytes);
        }
        10 => {
            let from = address(SOURCES[script.below(SOURCES.len())]);
            forge(world, from, &script.noise());
        }
        11 => world.pass(Duration::from_millis(1 << (script.octet() % 20))),
        12 => world.run(Duration::from_secs(u64::from(script.octet()))),
        13 => {
            let n = MEMBERS[script.below(MEMBERS.len())];
            world.leave(n);
        }
        14 => world.rekey(RekeyReason::Operator, &[]),
        _ => {
            let n = MEMBERS[script.below(MEMBERS.len())];
            world.rekey(RekeyReason::Eviction, &[n]);
        }
    }
}

/// A datagram is lost, or overtaken by all others.
fn lose<T>(queue: &mut VecDeque<T>, script: &mut Script<'_>) {
    let late = script.octet().is_multiple_of(2);
    queue.pop_front().filter(|_| late).into_iter().for_each(|packet| queue.push_back(packet));
}

fn logged(world: &World, script: &mut Script<'_>) -> Vec<u8> {
    let at = script.below(world.log.len());
    world.log.get(at).map(|(_, bytes)| bytes.clone()).unwrap_or_default()
}

/// Nothing that is not authenticated draws more than one answer.
fn forge(world: &mut World, from: SocketAddr, bytes: &[u8]) {
    let answers = world.serve(from, bytes);
    assert!(answers <= 1, "{answers} answers to one datagram");
}

fn bounded(world: &World) {
    let tables = world.tables();
    assert!(tables.half_open <= HALF_OPEN, "{tables:?}");
    assert!(tables.sessions <= SAS, "{tables:?}");
    assert_eq!(tables.jobs, 0, "all jobs are done at once: {tables:?}");
    assert!(tables.timers <= 1000, "{tables:?}");
}
