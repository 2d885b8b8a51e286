//! What a registration costs the key server: phase 1 in main mode, then GROUPKEY-PULL.

use std::time::Duration;

use anyhow::{Context, Result};
use keyferry_crypto::KeGroup;
use keyferry_scenarios::policy::{self, Variant};
use serde::Serialize;

use crate::Size;
use crate::cpu::{self, Samples};
use crate::floor::KeyExchange;
use crate::world::{KeyServer, Members};

/// One suite. Times are in microseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Registration {
    pub(crate) authentication: &'static str,
    pub(crate) group: &'static str,
    pub(crate) cost: f64,
    pub(crate) floor: f64,
    pub(crate) ratio: f64,
    /// Cost less 1.3 times the floor: the goal is 40 at most.
    pub(crate) over: f64,
    pub(crate) meets_goal: bool,
}

impl Registration {
    fn new(authentication: &'static str, group: &'static str, cost: f64, floor: f64) -> Self {
        let over = cost - 1.3 * floor;
        Self { authentication, group, cost, floor, ratio: cost / floor, over, meets_goal: over <= 40.0 }
    }
}

/// Members registered in lock step, so that the clock is read seldom.
const BATCH: u32 = 16;

pub(crate) fn measure(size: Size) -> Result<Vec<Registration>> {
    let suites = [(KeGroup::Modp2048, "14"), (KeGroup::Ecp256, "19"), (KeGroup::Ecp384, "20")];
    suites.into_iter().map(|(ke, name)| suite(ke, name, size)).collect()
}

fn suite(ke: KeGroup, name: &'static str, size: Size) -> Result<Registration> {
    let variant = Variant { sender_id_bits: 16, ..Variant::default() };
    let batches = size.pick(3, 60);
    let policy = keyferry_model::policy::GroupPolicy { capacity: 4096, ..policy::group(variant) };
    let mut server = KeyServer::new(policy, 4000)?;
    let exchange = KeyExchange::new(ke)?.context("no floor for this group")?;
    let (mut cost, mut floor) = (Samples::default(), Samples::default());
    for batch in 0..batches {
        let (time, done) = cpu::of(|| (0..BATCH).try_for_each(|_| exchange.run().map(drop)));
        done?;
        floor.add(time, BATCH as usize);
        let mut members = Members::new(batch * BATCH..(batch + 1) * BATCH, ke, variant);
        cost.add(members.register(&mut server)?, BATCH as usize);
        server.pass(Duration::from_secs(1));
    }
    Ok(Registration::new("psk", name, cost.median(), floor.median()))
}
