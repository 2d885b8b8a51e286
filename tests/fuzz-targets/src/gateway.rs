//! The whole gateway under a script: members of both protocols, and somebody on their path.

use std::net::SocketAddr;
use std::time::Duration;

use keyferry_model::id::{Identity, Protocol};
use keyferry_scenarios::fleet::Fleet;
use keyferry_scenarios::policy::{Family, NAME, Variant};

use crate::script::Script;

/// Members that a script may use; those from 20 speak G-IKEv2 at first.
const MEMBERS: [u8; 6] = [11, 12, 13, 21, 22, 23];
/// One of each protocol, who keep quiet until the end.
const NEWCOMERS: [(u8, Protocol); 2] = [(40, Protocol::Gdoi), (41, Protocol::Gikev2)];
const STEPS: usize = 40;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// The octets are a script: see the steps below.
pub fn target(data: &[u8]) {
    let mut script = Script::new(data);
    let mut fleet = Fleet::new(1, Variant { sender_id_bits: 16, ..Variant::default() });
    for _ in 0..STEPS {
        let Some(op) = script.more() else { break };
        step(&mut fleet, op, &mut script);
    }
    // Exchanges that were cut off are forgotten; a group that was reset has its members back.
    fleet.run(secs(60));
    for (n, protocol) in NEWCOMERS {
        fleet.join([n], protocol);
        fleet.run(secs(60));
    }
    fleet.all_hear(&NEWCOMERS.map(|(n, _)| n)).expect("newcomers hear each other");
}

fn step(fleet: &mut Fleet, op: u8, script: &mut Script<'_>) {
    let n = |script: &mut Script<'_>| MEMBERS[script.below(MEMBERS.len())];
    match op % 12 {
        0 => {
            let n = n(script);
            fleet.join([n], if n < 20 { Protocol::Gdoi } else { Protocol::Gikev2 });
        }
        1 => fleet.run(Duration::from_millis(1 << (script.octet() % 12))),
        2 => fleet.run(secs(u64::from(script.octet() % 64))),
        3..=5 => {
            let Some((from, to, bytes)) = logged(fleet, script) else { return };
            let other = logged(fleet, script).map(|(.., bytes)| bytes).unwrap_or_default();
            fleet.deliver(from, to, &script.mutate(&bytes, &other));
        }
        6 => {
            let Some((_, to, bytes)) = logged(fleet, script) else { return };
            let from = SocketAddr::new(Family::V4.host(n(script)), 848);
            fleet.deliver(from, to, &bytes);
        }
        7 => {
            let from = SocketAddr::new(Family::V4.host(n(script)), 848);
            let bytes = script.noise();
            fleet.deliver(from, Family::V4.gateway(), &bytes);
        }
        8 => {
            let n = n(script);
            fleet.leave(n);
        }
        9 => {
            let rekeyed = fleet.command(|g, now, rng| g.rekey(now, rng, NAME));
            assert!(rekeyed.is_ok());
        }
        10 => {
            let member = Identity::from_ip(Family::V4.host(n(script)));
            // Nobody there to be evicted, perhaps.
            let _ = fleet.command(|g, now, rng| g.evict(now, rng, NAME, &member));
        }
        _ => {
            fleet.kill();
            fleet.boot();
        }
    }
}

fn logged(fleet: &Fleet, script: &mut Script<'_>) -> Option<(SocketAddr, SocketAddr, Vec<u8>)> {
    let at = script.below(fleet.net.log.len());
    fleet.net.log.get(at).map(|p| (p.from, p.to, p.bytes.clone()))
}
