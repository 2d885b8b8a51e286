//! Tickets by value (RFC 5723 section 6): what a resumed IKE SA needs, sealed under a key that only this gateway has.
//!
//! ```text
//!  version | key ID (8) | salt (32) | AES-256-GCM of the content | tag (16)
//! ```
//!
//! Key and nonce of each ticket come from the ticket key and a random salt of 256 bits, by a PRF: no two tickets share them, with
//! no counter that a crash could set back and no bound on tickets under one key. Ticket keys are replaced, and taken for as long as
//! a ticket under them may live. They are in the store, and so are the tickets that are spent: those that were used, and those
//! whose IKE SA was deleted or got new keys.

mod content;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use keyferry_crypto::{Aead, AeadKey, Prf, Random, Secret};
use keyferry_model::drive::Outbox;
use keyferry_model::store::{RecordError, StoreOp};

pub(super) use content::{Content, Proven};

const VERSION: u8 = 1;
const ID_LEN: usize = 8;
const SALT_LEN: usize = 32;
const KEY_LEN: usize = 32;
const NONCE_LEN: usize = 12;
const TAG_LEN: usize = 16;
const HEAD_LEN: usize = 1 + ID_LEN + SALT_LEN;
/// Larger than any that we make: a certificate is the only large thing in it.
const MAX_TICKET: usize = 16 * 1024;
const LABEL: &[u8] = b"Keyferry ticket";
const PRF: Prf = Prf::HmacSha256;

/// Where ticket keys are in the store.
const KEYS: &str = "ikev2/ticket-keys";
/// Where spent tickets are.
const SPENT: &str = "ikev2/spent-ticket/";
/// Spent tickets that are remembered. Beyond, all tickets there are become void.
const MAX_SPENT: usize = 1 << 18;
/// Ticket keys at one time: present, former, and some for clocks that were set.
const MAX_KEYS: usize = 4;

/// Names a ticket.
pub(super) type Serial = [u8; 16];

/// A key that tickets are sealed under.
struct TicketKey {
    id: [u8; ID_LEN],
    key: Secret,
    /// By the wall clock.
    made: Duration,
}

/// Makes, reads and revokes tickets.
pub(super) struct Tickets {
    /// The longest life of a ticket.
    lifetime: Duration,
    /// How long a key seals.
    rotation: Duration,
    /// The newest first.
    keys: Vec<TicketKey>,
    /// Until when they would be good otherwise, in seconds of the wall clock.
    spent: BTreeMap<Serial, u64>,
    by_time: BTreeSet<(u64, Serial)>,
}

impl Tickets {
    /// Goes on with what a store has. A key seals four times as long as an IKE SA lives, and a day at least (section 6.2 wants it
    /// significantly longer).
    pub(super) fn load(
        lifetime: Duration,
        sa_lifetime: Duration,
        records: &BTreeMap<String, Secret>,
    ) -> Result<Self, RecordError> {
        let rotation = sa_lifetime.max(Duration::from_secs(86_400)).saturating_mul(4);
        let mut tickets =
            Self { lifetime, rotation, keys: Vec::new(), spent: BTreeMap::new(), by_time: BTreeSet::new() };
        if let Some(record) = records.get(KEYS) {
            tickets.keys = keys_of(record).ok_or_else(|| broken(KEYS))?;
        }
        for (name, record) in records.range(SPENT.to_owned()..).take_while(|(name, _)| name.starts_with(SPENT)) {
            let serial = serial_of(&name[SPENT.len()..]).ok_or_else(|| broken(name))?;
            let until = <[u8; 8]>::try_from(record.expose()).map_err(|_| broken(name))?;
            tickets.note_spent(serial, u64::from_be_bytes(until));
        }
        Ok(tickets)
    }

    /// The longest life of a ticket.
    pub(super) fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// A ticket; and how it is named.
    pub(super) fn seal(
        &mut self,
        content: &Content,
        wall: Duration,
        rng: &mut dyn Random,
        out: &mut Outbox,
    ) -> Option<(Vec<u8>, Serial)> {
        self.rotate(wall, rng, out);
        let key = self.keys.first()?;
        let mut salt = [0; SALT_LEN];
        rng.fill(&mut salt);
        let head = [&[VERSION], &key.id[..], &salt].concat();
        let (aead, nonce) = key.of_ticket(&salt)?;
        let content = content.encode();
        let mut sealed = content.expose().to_vec();
        let mut tag = [0; TAG_LEN];
        if aead.seal(&nonce, &head, &mut sealed, &mut tag).is_err() {
            // Whatever is in it, it is no ticket.
            drop(Secret::new(sealed));
            return None;
        }
        let ticket = [&head, &sealed[..], &tag].concat();
        (ticket.len() <= MAX_TICKET).then(|| (ticket, serial(&salt)))
    }

    /// What is in a ticket, if it is one of ours, good still, and not spent.
    pub(super) fn open(&self, ticket: &[u8], wall: Duration) -> Option<(Content, Serial)> {
        if ticket.len() > MAX_TICKET || ticket.len() < HEAD_LEN + TAG_LEN {
            return None;
        }
        let (head, rest) = ticket.split_at(HEAD_LEN);
        let (sealed, tag) = rest.split_at(rest.len() - TAG_LEN);
        let (id, salt) = head.strip_prefix(&[VERSION])?.split_at(ID_LEN);
        let key = self.keys.iter().find(|key| key.id == id && self.is_good(key, wall))?;
        let (aead, nonce) = key.of_ticket(salt)?;
        let mut content = sealed.to_vec();
        let opened = aead.open(&nonce, head, &mut content, tag);
        let content = Secret::new(content);
        opened.ok()?;
        let content = Content::decode(content.expose())?;
        let serial = serial(salt);
        // One that lives longer than any we make now was made under another configuration, or the clock was set back.
        let good = content.expires > wall && content.expires <= wall.saturating_add(self.lifetime);
        (good && !self.is_spent(&serial)).then_some((content, serial))
    }

    pub(super) fn is_spent(&self, serial: &Serial) -> bool {
        self.spent.contains_key(serial)
    }

    /// A ticket is not taken again; for as long as it would be otherwise it is remembered. Nothing that follows from it leaves
    /// before that is durable.
    pub(super) fn spend(&mut self, serial: Serial, expires: Duration, wall: Duration, out: &mut Outbox) {
        let mut ops = Vec::new();
        while let Some((until, old)) = self.by_time.first().copied().filter(|(until, _)| *until <= wall.as_secs()) {
            self.by_time.remove(&(until, old));
            self.spent.remove(&old);
            ops.push(StoreOp::Delete(record_of(&old)));
        }
        if self.spent.len() >= MAX_SPENT {
            tracing::warn!("too many tickets are spent: all there are become void");
            ops.extend(self.spent.keys().map(|old| StoreOp::Delete(record_of(old))));
            (self.spent, self.by_time) = (BTreeMap::new(), BTreeSet::new());
            self.keys.clear();
            ops.push(self.record());
        }
        // Rounded up: it is good until then.
        let until = expires.as_secs().saturating_add(1);
        self.note_spent(serial, until);
        ops.push(StoreOp::Put(record_of(&serial), Secret::new(until.to_be_bytes().to_vec())));
        out.persist(ops);
    }

    fn note_spent(&mut self, serial: Serial, until: u64) {
        if let Some(before) = self.spent.insert(serial, until) {
            self.by_time.remove(&(before, serial));
        }
        self.by_time.insert((until, serial));
    }

    /// A key to seal with.
    fn rotate(&mut self, wall: Duration, rng: &mut dyn Random, out: &mut Outbox) {
        if self.keys.first().is_some_and(|key| wall < key.made.saturating_add(self.rotation)) {
            return;
        }
        let mut id = [0; ID_LEN];
        rng.fill(&mut id);
        let (rotation, lifetime) = (self.rotation, self.lifetime);
        self.keys.retain(|key| wall < key.made.saturating_add(rotation).saturating_add(lifetime));
        self.keys.truncate(MAX_KEYS - 1);
        self.keys.insert(0, TicketKey { id, key: Secret::random(KEY_LEN, rng), made: wall });
        out.persist(vec![self.record()]);
    }

    /// May there be tickets under it?
    fn is_good(&self, key: &TicketKey, wall: Duration) -> bool {
        wall < key.made.saturating_add(self.rotation).saturating_add(self.lifetime)
    }

    fn record(&self) -> StoreOp {
        let mut bytes = Vec::with_capacity(MAX_KEYS * (ID_LEN + 8 + KEY_LEN));
        for key in &self.keys {
            bytes.extend(key.id);
            bytes.extend(key.made.as_secs().to_be_bytes());
            bytes.extend(key.key.expose());
        }
        StoreOp::Put(KEYS.to_owned(), Secret::new(bytes))
    }
}

impl TicketKey {
    /// Key and nonce of the ticket with this salt.
    fn of_ticket(&self, salt: &[u8]) -> Option<(AeadKey, Vec<u8>)> {
        let both = PRF.expand(self.key.expose(), &[LABEL, salt], KEY_LEN + NONCE_LEN);
        let (key, nonce) = both.expose().split_at(KEY_LEN);
        Some((AeadKey::new(Aead::Aes256Gcm16, key).ok()?, nonce.to_vec()))
    }
}

fn keys_of(record: &Secret) -> Option<Vec<TicketKey>> {
    let one = ID_LEN + 8 + KEY_LEN;
    let bytes = record.expose();
    if !bytes.len().is_multiple_of(one) || bytes.len() > MAX_KEYS * one {
        return None;
    }
    let key = |bytes: &[u8]| {
        let (id, rest) = bytes.split_first_chunk()?;
        let (made, key) = rest.split_first_chunk()?;
        Some(TicketKey { id: *id, key: Secret::copy_from(key), made: Duration::from_secs(u64::from_be_bytes(*made)) })
    };
    bytes.chunks(one).map(key).collect()
}

fn serial(salt: &[u8]) -> Serial {
    salt.first_chunk().copied().unwrap_or_default()
}

fn record_of(serial: &Serial) -> String {
    serial.iter().fold(SPENT.to_owned(), |name, octet| name + &format!("{octet:02x}"))
}

fn serial_of(hex: &str) -> Option<Serial> {
    u128::from_str_radix(hex, 16).ok().filter(|_| hex.len() == 32).map(u128::to_be_bytes)
}

fn broken(key: &str) -> RecordError {
    RecordError { key: key.to_owned(), why: "it is not as it was written".to_owned() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
