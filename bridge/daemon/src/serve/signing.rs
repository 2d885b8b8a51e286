//! The keys that sign rekeys: made when they are first wanted, one for each group, protocol and kind of key, and kept in the store.
//!
//! Members learn the public half when they register, so a key that got lost would cost every member its next rekey.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use keyferry_crypto::{KeyKind, Secret, SigningKey};
use keyferry_model::policy::GroupPolicy;
use keyferry_model::store::StoreOp;

use crate::config::{GatewayConfig, Signer};
use crate::random::OsRandom;
use crate::store::Store;

const PREFIX: &str = "signing-key/";

fn record(group: &str, Signer { protocol, kind, number }: Signer) -> String {
    let kind = match kind {
        KeyKind::Rsa => "",
        KeyKind::EcP256 => "/ecdsa-p256",
        KeyKind::EcP384 => "/ecdsa-p384",
        KeyKind::EcP521 => "/ecdsa-p521",
        KeyKind::Ed25519 => "/ed25519",
        KeyKind::Ed448 => "/ed448",
    };
    // The first key has no number.
    let number = if number > 1 { format!("/{number}") } else { String::new() };
    format!("{PREFIX}{group}/{protocol}{kind}{number}")
}

/// All signing keys that there are.
pub(super) struct SigningKeys(BTreeMap<String, Arc<SigningKey>>);

impl SigningKeys {
    /// Takes the keys out of a store's records.
    pub(super) fn take(records: &mut Vec<(String, Secret)>) -> anyhow::Result<Self> {
        let (stored, rest): (Vec<_>, Vec<_>) =
            std::mem::take(records).into_iter().partition(|(k, _)| k.starts_with(PREFIX));
        *records = rest;
        let mut keys = BTreeMap::new();
        for (name, pem) in stored {
            let key =
                SigningKey::from_pem(pem.expose()).with_context(|| format!("record {name} holds no signing key"))?;
            keys.insert(name, Arc::new(key));
        }
        Ok(Self(keys))
    }

    /// The policies of all groups with their keys. Keys that there are not yet are made and stored.
    pub(super) fn policies(&mut self, config: &GatewayConfig, store: &mut Store) -> anyhow::Result<Vec<GroupPolicy>> {
        let Self(keys) = self;
        let wanted = config
            .groups
            .iter()
            .flat_map(|g| g.signers().into_iter().map(|signer| (record(g.name(), signer), signer.kind)));
        let missing: Vec<(String, KeyKind)> = wanted.filter(|(name, _)| !keys.contains_key(name)).collect();
        let made = make(&missing, config.signing_bits)?;
        let ops: Vec<StoreOp> = made.iter().map(|(name, key)| StoreOp::Put(name.clone(), key.to_pem())).collect();
        if !ops.is_empty() {
            store.commit(&ops, &mut OsRandom)?;
        }
        keys.extend(made.into_iter().map(|(name, key)| (name, Arc::new(key))));
        config
            .groups
            .iter()
            .map(|group| {
                group.policy(|signer| {
                    let name = record(group.name(), signer);
                    keys.get(&name).map(Arc::clone).ok_or_else(|| anyhow!("there is no key {name}"))
                })
            })
            .collect()
    }
}

/// Makes keys, several at a time: the search for primes takes a while.
fn make(names: &[(String, KeyKind)], bits: u32) -> anyhow::Result<Vec<(String, SigningKey)>> {
    if !names.is_empty() {
        tracing::info!(keys = names.len(), bits, "signing keys are being made");
    }
    let mut made = Vec::with_capacity(names.len());
    for batch in names.chunks(super::jobs::parallelism()) {
        let keys: Vec<_> = std::thread::scope(|scope| {
            let make = |kind| match kind {
                KeyKind::Rsa => SigningKey::generate_rsa(bits),
                KeyKind::EcP256 | KeyKind::EcP384 | KeyKind::EcP521 => SigningKey::generate_ec(kind),
                KeyKind::Ed25519 | KeyKind::Ed448 => SigningKey::generate_edwards(kind),
            };
            let threads: Vec<_> = batch.iter().map(|(_, kind)| scope.spawn(move || make(*kind))).collect();
            threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
        });
        for ((name, _), key) in batch.iter().zip(keys) {
            let key = key.map_err(|_| anyhow!("a thread that made a key ended early"))?;
            made.push((name.clone(), key.context("a signing key cannot be made")?));
        }
    }
    Ok(made)
}
