//! Rekey SAs: what protects GROUPKEY-PUSH and GSA_REKEY.

use std::time::Duration;

use keyferry_crypto::{Random, Secret};
use serde::{Deserialize, Serialize};

use crate::id::Protocol;
use crate::policy::{GroupPolicy, RekeyTransport};
use crate::store::SecretRecord;

/// A rekey SA of one protocol. Immutable; its counter lives in the group.
///
/// GDOI keying material: IV (a block of the cipher, RFC 6407 section 5.6.2.1), then the KEK. G-IKEv2: GSK_e (with salt), GSK_a, GSK_w (RFC 9838 section 3.4).
/// It is also the root of that protocol's key tree.
#[derive(Debug)]
pub struct RekeySa {
    /// Cookie pair, or the SPI of 16 octets.
    pub spi: [u8; 16],
    /// Keys.
    pub keymat: Secret,
    /// When it was made, wall clock.
    pub created: Duration,
    /// When it must not be used any more, wall clock.
    pub expires: Duration,
    /// What its successor is to be called, if members are told that (GSA_NEXT_SPI).
    pub next_spi: Option<[u8; 16]>,
}

impl RekeySa {
    /// Draws an SPI and keys as the policy of the protocol wants them; `None` if the group does not serve it.
    pub fn generate(protocol: Protocol, policy: &GroupPolicy, wall: Duration, rng: &mut dyn Random) -> Option<Self> {
        let len = keymat_len(protocol, policy)?;
        let tells = protocol == Protocol::Gikev2 && policy.tells_next_spis();
        Some(Self {
            spi: draw_spi(rng),
            keymat: Secret::random(len, rng),
            created: wall,
            expires: wall + policy.kek_lifetime,
            next_spi: tells.then(|| draw_spi(rng)),
        })
    }

    /// The same under the SPI that members know already, if there is one.
    pub(crate) fn called(self, spi: Option<[u8; 16]>) -> Self {
        Self { spi: spi.unwrap_or(self.spi), ..self }
    }

    /// The same SA, with a life that begins now.
    pub(crate) fn begun(&self, wall: Duration, lifetime: Duration) -> Self {
        let keymat = self.keymat.duplicate();
        Self { spi: self.spi, keymat, created: wall, expires: wall + lifetime, next_spi: self.next_spi }
    }

    /// What is left of its life.
    #[must_use]
    pub fn remaining(&self, wall: Duration) -> Duration {
        self.expires.saturating_sub(wall)
    }

    pub(crate) fn to_record(&self) -> RekeySaRecord {
        RekeySaRecord {
            spi: self.spi,
            keymat: SecretRecord::of(&self.keymat),
            created: self.created,
            expires: self.expires,
            next_spi: self.next_spi,
        }
    }

    pub(crate) fn from_record(r: RekeySaRecord) -> Self {
        let RekeySaRecord { spi, keymat, created, expires, next_spi } = r;
        Self { spi, keymat: keymat.into_secret(), created, expires, next_spi }
    }
}

/// Neither half may be zero: a zero initiator SPI reads as a non-ESP marker, a zero responder SPI as a new exchange.
fn draw_spi(rng: &mut dyn Random) -> [u8; 16] {
    let mut spi = [0; 16];
    while spi[..8] == [0; 8] || spi[..4] == [0; 4] || spi[8..] == [0; 8] {
        rng.fill(&mut spi);
    }
    spi
}

/// Octets of keying material of a rekey SA.
#[must_use]
pub fn keymat_len(protocol: Protocol, policy: &GroupPolicy) -> Option<usize> {
    match protocol {
        Protocol::Gdoi => policy.gdoi.as_ref().map(|g| g.cipher.block_len() + g.cipher.key_len()),
        Protocol::Gikev2 => policy.gikev2.as_ref().map(|g| {
            let (e, a) = g.protection.key_lens();
            e + a + g.wrap_key_len
        }),
    }
}

/// Octets of a key in the protocol's tree: IV and key for GDOI, a key wrap key for G-IKEv2.
#[must_use]
pub fn tree_key_len(protocol: Protocol, policy: &GroupPolicy) -> Option<usize> {
    match protocol {
        Protocol::Gdoi => policy.gdoi.as_ref().map(|g| g.cipher.block_len() + g.cipher.key_len()),
        Protocol::Gikev2 => policy.gikev2.as_ref().map(|g| g.wrap_key_len),
    }
}

/// Where rekey messages of the protocol go.
#[must_use]
pub fn transport(protocol: Protocol, policy: &GroupPolicy) -> Option<RekeyTransport> {
    match protocol {
        Protocol::Gdoi => policy.gdoi.as_ref().map(|g| g.transport),
        Protocol::Gikev2 => policy.gikev2.as_ref().map(|g| g.transport),
    }
}

/// A rekey SA as it is stored.
#[derive(Serialize, Deserialize)]
pub(crate) struct RekeySaRecord {
    spi: [u8; 16],
    keymat: SecretRecord,
    created: Duration,
    expires: Duration,
    #[serde(default)]
    next_spi: Option<[u8; 16]>,
}
