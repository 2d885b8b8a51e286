//! What a registration costs the key server: phase 1 in main mode, then GROUPKEY-PULL; or IKE_SA_INIT, then GSA_AUTH.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use keyferry_crypto::KeGroup;
use keyferry_model::id::Protocol;
use keyferry_model::policy::GroupPolicy;
use keyferry_scenarios::policy::{self, Variant};
use openssl::error::ErrorStack;
use serde::Serialize;

use crate::Size;
use crate::cpu::{self, Samples};
use crate::floor::KeyExchange;
use crate::pki::{Kind, Pki, Signatures};
use crate::world::{KeyServer, Members};

/// One suite. Times are in microseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Registration {
    pub(crate) protocol: Protocol,
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
    fn new(suite: &Suite, cost: f64, floor: f64) -> Self {
        let over = cost - 1.3 * floor;
        let Suite { protocol, name: authentication, group, .. } = *suite;
        Self { protocol, authentication, group, cost, floor, ratio: cost / floor, over, meets_goal: over <= 40.0 }
    }
}

/// Members registered in lock step, so that the clock is read seldom.
const BATCH: u32 = 16;

/// Peers with pre-shared keys that the key server knows.
const PEERS: u32 = 4000;

/// What a member proves itself with, and which groups keys are exchanged in, one after the other.
#[derive(Clone, Copy)]
struct Suite {
    protocol: Protocol,
    name: &'static str,
    kind: Option<Kind>,
    ke: &'static [KeGroup],
    group: &'static str,
}

impl Suite {
    const fn psk(protocol: Protocol, ke: &'static [KeGroup], group: &'static str) -> Self {
        Self { protocol, name: "pre-shared key", kind: None, ke, group }
    }

    const fn rsa(protocol: Protocol, ke: &'static [KeGroup], group: &'static str) -> Self {
        Self { protocol, name: "RSA-2048 signature", kind: Some(Kind::Rsa2048), ke, group }
    }

    const fn ecdsa(protocol: Protocol, ke: &'static [KeGroup], group: &'static str) -> Self {
        Self { protocol, name: "ECDSA P-256 signature", kind: Some(Kind::EcdsaP256), ke, group }
    }
}

const SUITES: [Suite; 11] = [
    Suite::psk(Protocol::Gdoi, &[KeGroup::Modp2048], "14"),
    Suite::psk(Protocol::Gdoi, &[KeGroup::Ecp256], "19"),
    Suite::psk(Protocol::Gdoi, &[KeGroup::Ecp384], "20"),
    Suite::rsa(Protocol::Gdoi, &[KeGroup::Ecp256], "19"),
    Suite::ecdsa(Protocol::Gdoi, &[KeGroup::Ecp256], "19"),
    Suite::psk(Protocol::Gikev2, &[KeGroup::X25519], "x25519"),
    Suite::psk(Protocol::Gikev2, &[KeGroup::Ecp256], "ecp256"),
    Suite::psk(Protocol::Gikev2, &[KeGroup::Modp2048], "modp2048"),
    Suite::psk(Protocol::Gikev2, &[KeGroup::X25519, KeGroup::MlKem768], "x25519, ML-KEM-768"),
    Suite::ecdsa(Protocol::Gikev2, &[KeGroup::X25519], "x25519"),
    Suite::rsa(Protocol::Gikev2, &[KeGroup::X25519], "x25519"),
];

pub(crate) fn measure(size: Size) -> Result<Vec<Registration>> {
    SUITES.iter().map(|s| suite(s, size)).collect()
}

fn suite(suite: &Suite, size: Size) -> Result<Registration> {
    let Suite { protocol, kind, ke, .. } = *suite;
    let variant = Variant { sender_id_bits: 16, ..Variant::default() };
    // Making RSA keys for all the members takes long.
    let batches = if kind == Some(Kind::Rsa2048) { size.pick(1, 20) } else { size.pick(3, 60) };
    let policy = GroupPolicy { capacity: 4096, ..policy::group(variant) };
    let pki = kind.map(Pki::new).transpose()?;
    // Who has a certificate is none of the peers with pre-shared keys.
    let first = if pki.is_some() { PEERS } else { 0 };
    let mut server = match &pki {
        Some(pki) => KeyServer::certified(protocol, policy, PEERS, pki)?,
        None => KeyServer::new(protocol, policy, PEERS)?,
    };
    let exchanges = ke
        .iter()
        .map(|group| KeyExchange::new(*group)?.context("no floor for this group"))
        .collect::<Result<Vec<_>>>()?;
    let signatures = pki.as_ref().map(Pki::floor).transpose()?;
    let (mut cost, mut floor) = (Samples::default(), Samples::default());
    for batch in 0..batches {
        let (time, right) = cpu::of(|| {
            (0..BATCH).try_fold(true, |right, _| {
                exchanges.iter().try_for_each(|exchange| exchange.run().map(drop))?;
                Ok::<_, ErrorStack>(right && signatures.as_ref().map_or(Ok(true), Signatures::run)?)
            })
        });
        ensure!(right?, "the floor's own signatures are wrong");
        floor.add(time, BATCH as usize);
        let numbers = first + batch * BATCH..first + (batch + 1) * BATCH;
        let mut members = match &pki {
            Some(pki) => Members::certified(protocol, numbers, ke, variant, pki)?,
            None => Members::new(protocol, numbers, ke, variant),
        };
        cost.add(members.register(&mut server)?, BATCH as usize);
        server.pass(Duration::from_secs(1));
    }
    Ok(Registration::new(suite, cost.median(), floor.median()))
}
