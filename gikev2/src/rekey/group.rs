//! What a member knows of its group: Rekey SAs, working key path, how rekeys are authenticated, data SAs.

use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::{Random, Secret, SignatureAlgorithm, VerifyingKey};
use keyferry_model::policy::{EspMode, TrafficPolicy};
use keyferry_model::update::{NewSa, Removal};
use keyferry_wire::Header;

use crate::policy::from_wire::RekeyPolicy;
use crate::registration::working_path::WorkingPath;
use crate::reject::Reject;
use crate::rekey::fragments::Fragments;
use crate::wire::rekey_ack;
use crate::wire::sk::SkKeys;

/// A member that has got no traffic keys waits so long for a rekey that brings some, at most twice as long.
const AWAIT_KEYS: Duration = Duration::from_secs(90);

/// Acknowledgements of one message at most, the first included: repeats make good those that are lost, replays draw no more.
const MAX_ACKS: u8 = 4;

/// How GSA_REKEY messages prove that the key server sent them.
#[derive(Debug)]
pub(crate) enum Authentication {
    /// By the group's keys alone.
    Implicit,
    /// By a signature.
    Signature { algorithm: SignatureAlgorithm, key: VerifyingKey },
}

/// A Rekey SA, inbound only.
pub(crate) struct RekeySa {
    pub(crate) spi: [u8; 16],
    pub(crate) keys: SkKeys,
    /// GSK_w.
    pub(crate) wrap: Secret,
    /// The lowest message ID that is taken. Wider than one: after the last there is none.
    pub(crate) expected: u64,
    /// Monotonic end of life.
    pub(crate) expires: Duration,
    /// It has been replaced and goes then.
    pub(crate) until: Option<Duration>,
    lifetime: Duration,
    /// How often its newest message has been acknowledged.
    pub(crate) acks: u8,
    /// SPIs that its successor may have.
    next_spis: Vec<[u8; 16]>,
    /// Messages that are not whole yet.
    pub(crate) fragments: Fragments,
}

impl RekeySa {
    /// Takes keying material into use: GSK_e, GSK_a, GSK_w (RFC 9838 section 3.4).
    pub(crate) fn new(policy: &RekeyPolicy, keymat: &Secret, now: Duration) -> Result<Self, Reject> {
        let (e, a) = policy.protection.key_lens();
        let octets = keymat.expose();
        if octets.len() != e + a + policy.key_wrap.key_len() {
            return Err(Reject::Misbehaved("keying material of a Rekey SA has the wrong length"));
        }
        let keys = SkKeys::new(policy.protection, &octets[..e], &octets[e..e + a])
            .map_err(|_| Reject::Misbehaved("keys of a Rekey SA are not usable"))?;
        Ok(Self {
            spi: policy.spi,
            keys,
            wrap: Secret::copy_from(&octets[e + a..]),
            expected: policy.initial_message_id.into(),
            expires: now + policy.lifetime,
            until: None,
            lifetime: policy.lifetime,
            acks: 0,
            next_spis: policy.next_spis.clone(),
            fragments: Fragments::default(),
        })
    }
}

impl RekeySa {
    /// Is it what the other was before a rekey: does it tell a message ID that has passed, or has it been replaced?
    pub(crate) fn is_before(&self, known: &Self) -> bool {
        self.spi == known.spi && (known.until.is_some() || self.expected < known.expected)
    }
}

/// A data SA that was handed to the data plane.
#[derive(Debug)]
struct DataSa {
    spi: u32,
    policy: Arc<TrafficPolicy>,
    expires: Duration,
    lifetime: Duration,
}

/// A group as a member knows it.
pub(crate) struct Group {
    /// Newest last; at least one, unless it is rekeyed in band.
    pub(crate) rekey_sas: Vec<RekeySa>,
    /// Rekeys come over the IKE SA, which the group does not outlive.
    pub(crate) in_band: bool,
    /// The key server wants GSA_REKEY acknowledged.
    pub(crate) acks: bool,
    /// DTD as it was told last.
    pub(crate) deactivation_delay: Duration,
    pub(crate) path: WorkingPath,
    pub(crate) authentication: Authentication,
    pub(crate) mode: EspMode,
    /// It got sender IDs at registration.
    pub(crate) has_sender_ids: bool,
    /// It has never got any data SA.
    awaits_keys: bool,
    data: Vec<DataSa>,
}

impl Group {
    pub(crate) fn new(
        rekey: Option<RekeySa>,
        path: WorkingPath,
        authentication: Authentication,
        mode: EspMode,
        has_sender_ids: bool,
    ) -> Self {
        Self {
            in_band: rekey.is_none(),
            rekey_sas: rekey.into_iter().collect(),
            acks: false,
            deactivation_delay: Duration::ZERO,
            path,
            authentication,
            mode,
            has_sender_ids,
            awaits_keys: true,
            data: Vec::new(),
        }
    }

    /// The acknowledgement of a message that has verified, if the key server wants it, we have a key of our own, and it has
    /// not been acknowledged often enough.
    pub(crate) fn acknowledgement(&self, header: &Header) -> Option<Vec<u8>> {
        let own = self.path.own().filter(|_| self.acks)?;
        let spi = header.spi_pair();
        // A Rekey SA that went with this very message takes no copies of it.
        let enough = self.rekey_sas.iter().any(|sa| sa.spi == spi && sa.acks >= MAX_ACKS);
        (!enough).then(|| rekey_ack::build(&spi, header.message_id, own))
    }

    /// An acknowledgement of the newest message under its Rekey SA is on its way.
    pub(crate) fn acknowledged(&mut self, header: &Header) {
        let spi = header.spi_pair();
        if let Some(sa) = self.rekey_sas.iter_mut().find(|sa| sa.spi == spi) {
            sa.acks = sa.acks.saturating_add(1);
        }
    }

    /// Is this the SPI of a Rekey SA that was to come? It is asked once: then we know that we have missed its announcement.
    pub(crate) fn was_promised(&mut self, spi: &[u8; 16]) -> bool {
        let found = self.rekey_sas.last_mut().filter(|sa| sa.next_spis.contains(spi));
        found.map(|sa| sa.next_spis.clear()).is_some()
    }

    /// Is there nothing left that could bring new keys?
    pub(crate) fn is_over(&self) -> bool {
        !self.in_band && self.rekey_sas.is_empty()
    }

    /// The newest Rekey SA.
    pub(crate) fn current(&self) -> Option<&RekeySa> {
        self.rekey_sas.last()
    }

    /// Notes which data SAs come and go.
    pub(crate) fn note(&mut self, install: &[NewSa], remove: &Removal, now: Duration) {
        match remove {
            Removal::All => self.data.clear(),
            Removal::Spis(spis) => self.data.retain(|sa| !spis.contains(&sa.spi)),
        }
        self.awaits_keys &= install.is_empty();
        for sa in install {
            self.data.retain(|old| old.spi != sa.spi);
            self.data.push(DataSa {
                spi: sa.spi,
                policy: Arc::clone(&sa.policy),
                expires: now + sa.lifetime,
                lifetime: sa.lifetime,
            });
        }
    }

    /// Forgets what has run its time.
    pub(crate) fn expire(&mut self, now: Duration) {
        self.rekey_sas.retain(|sa| sa.until.is_none_or(|until| until > now) && sa.expires > now);
        self.rekey_sas.iter_mut().for_each(|sa| sa.fragments.expire(now));
        self.data.retain(|sa| sa.expires > now);
    }

    /// When a Rekey SA goes, or fragments of its messages.
    pub(crate) fn next_expiry(&self) -> Option<Duration> {
        let end = |sa: &RekeySa| sa.until.map_or(sa.expires, |until| until.min(sa.expires));
        self.rekey_sas.iter().flat_map(|sa| [Some(end(sa)), sa.fragments.next_expiry()]).flatten().min()
    }

    /// When to register anew if nothing replaces what there is: somewhat before the newest Rekey SA or the newest SA of a
    /// traffic policy ends, at a random time, so that a fleet whose rekey got lost does not come all at once
    /// (RFC 9838 section 2.4.1.4).
    ///
    /// Without traffic keys, which a rekey should have brought soon, not so late.
    pub(crate) fn renew_at(&self, now: Duration, rng: &mut dyn Random) -> Option<Duration> {
        let newest = |sa: &DataSa| {
            let same = self
                .data
                .iter()
                .filter(|o| o.policy.source == sa.policy.source && o.policy.destination == sa.policy.destination);
            same.map(|o| (o.expires, o.lifetime)).max()
        };
        let ends = self.data.iter().filter_map(newest).chain(self.current().map(|sa| (sa.expires, sa.lifetime)));
        if self.awaits_keys {
            return Some(now + AWAIT_KEYS + Duration::from_millis(rng.below(AWAIT_KEYS.as_secs() * 1000)));
        }
        let (end, lifetime) = ends.min()?;
        let margin = (lifetime / 20).clamp(Duration::from_secs(1), Duration::from_secs(60)).min(lifetime / 2);
        let micros = u64::try_from(margin.as_micros()).unwrap_or(u64::MAX);
        let before = Duration::from_micros(micros / 2 + rng.below(micros / 2 + 1));
        Some(end.saturating_sub(before))
    }
}
