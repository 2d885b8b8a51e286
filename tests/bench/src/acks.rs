//! How many acknowledgements a key server verifies: each from another member, through the whole endpoint.

use std::time::Duration;

use anyhow::{Result, ensure};
use keyferry_crypto::{Hash, KeGroup};
use keyferry_model::id::Protocol;
use keyferry_model::plan::RekeyReason;
use keyferry_model::policy::{AckType, GroupPolicy};
use keyferry_scenarios::policy::{self, Variant};
use serde::Serialize;

use crate::Size;
use crate::cpu::Samples;
use crate::random::OsRandom;
use crate::world::{KeyServer, Members};

/// One type of acknowledgement.
#[derive(Debug, Serialize)]
pub(crate) struct Acks {
    pub(crate) kind: &'static str,
    pub(crate) members: u32,
    /// Microseconds for one.
    pub(crate) cost: f64,
    /// How many in a second of one core: the goal is 200,000 at least.
    pub(crate) per_second: f64,
    pub(crate) meets_goal: bool,
}

pub(crate) fn measure(size: Size) -> Result<Vec<Acks>> {
    let kinds = [
        ("KEK, SHA-256", AckType::Kek(Hash::Sha256)),
        ("LKH, SHA-256", AckType::Lkh(Hash::Sha256)),
        ("KEK, SHA-512", AckType::Kek(Hash::Sha512)),
        ("LKH, SHA-512", AckType::Lkh(Hash::Sha512)),
    ];
    kinds.into_iter().map(|(name, ack)| kind(name, ack, size)).collect()
}

fn kind(name: &'static str, ack: AckType, size: Size) -> Result<Acks> {
    let members = size.pick(20, 4000);
    let variant = Variant { sender_id_bits: 16, ack, ..Variant::default() };
    let policy = GroupPolicy { capacity: 4096, gikev2: None, ..policy::group(variant) };
    let mut server = KeyServer::new(Protocol::Gdoi, policy, members)?;
    let mut fleet = Members::new(Protocol::Gdoi, 0..members, &[KeGroup::Ecp256], variant);
    fleet.register(&mut server)?;
    let mut samples = Samples::default();
    for _ in 0..size.pick(2, 9) {
        let before = server.acknowledged();
        let plan = server.plan(RekeyReason::Operator, &[])?;
        for step in &plan.steps {
            let push = gdoi::push::render(&plan.policy, step, &mut OsRandom)?;
            let acks = fleet.acknowledge(&push, server.now());
            samples.add(server.receive(&acks).0, acks.len());
        }
        ensure!(server.acknowledged() - before == u64::from(members), "an acknowledgement was not taken");
        server.pass(Duration::from_secs(30));
    }
    let cost = samples.median();
    let per_second = 1e6 / cost;
    Ok(Acks { kind: name, members, cost, per_second, meets_goal: per_second >= 200_000.0 })
}
