//! Rekey messages on their way: stored, signed by jobs, stored again, and sent several times as bitwise identical copies, also
//! after a restart.
//!
//! Where a message is not signed yet, those of its group and protocol behind it wait for it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use gikev2::rekey::datagrams;
use keyferry_crypto::{CryptoError, Job, JobDone, Random, Secret, ToSign};
use keyferry_model::admission::LateMember;
use keyferry_model::drive::{JobId, Outbox, Transmit, Via};
use keyferry_model::id::Protocol;
use keyferry_model::policy::GroupPolicy;
use keyferry_model::store::{StoreOp, record};
use keyferry_model::time::{Deadline, Now};
use serde::{Deserialize, Serialize};

use crate::late::{Late, Rekey};

/// What all keys of these records begin with.
pub(crate) const PREFIX: &str = "outgoing/";

/// A signature that could not be made for want of time is asked for again after this.
const AGAIN: Duration = Duration::from_secs(1);

/// A message of either protocol that waits for its signature, if it has one.
#[derive(Serialize, Deserialize)]
pub(crate) enum Unsigned {
    Gdoi(Box<gdoi::push::Unsigned>),
    Gikev2(Box<gikev2::rekey::Unsigned>),
}

impl From<gdoi::push::Unsigned> for Unsigned {
    fn from(message: gdoi::push::Unsigned) -> Self {
        Self::Gdoi(Box::new(message))
    }
}

impl From<gikev2::rekey::Unsigned> for Unsigned {
    fn from(message: gikev2::rekey::Unsigned) -> Self {
        Self::Gikev2(Box::new(message))
    }
}

impl Unsigned {
    /// The signature to make, if it has one.
    fn to_sign(&self) -> Result<Option<ToSign>, String> {
        match self {
            Unsigned::Gdoi(m) => m.to_sign().map(Some).map_err(|e| e.to_string()),
            Unsigned::Gikev2(m) => m.to_sign().map_err(|e| e.to_string()),
        }
    }

    /// The message with its signature, encrypted.
    fn finish(&self, signature: Option<&[u8]>, rng: &mut dyn Random) -> Result<Vec<u8>, String> {
        match self {
            Unsigned::Gdoi(m) => m.finish(signature.unwrap_or_default()).map_err(|e| e.to_string()),
            Unsigned::Gikev2(m) => m.finish(signature, rng).map_err(|e| e.to_string()),
        }
    }
}

/// A message. One in fragments is their datagrams one after the other.
#[derive(Serialize, Deserialize)]
pub(crate) struct Message {
    /// Encrypted; empty as long as it is not signed.
    bytes: Vec<u8>,
    #[serde(default)]
    unsigned: Option<Unsigned>,
    /// A multicast address; none is each of the members.
    pub(crate) multicast: Option<SocketAddr>,
}

impl Message {
    /// One that is to be signed, or is whole at once if nobody signs it.
    pub(crate) fn new(unsigned: Unsigned, multicast: Option<SocketAddr>, rng: &mut dyn Random) -> Result<Self, String> {
        Ok(match unsigned.to_sign()? {
            Some(_) => Self { bytes: Vec::new(), unsigned: Some(unsigned), multicast },
            None => Self { bytes: unsigned.finish(None, rng)?, unsigned: None, multicast },
        })
    }
}

/// The members that messages go to one by one.
pub(crate) struct Receivers {
    pub(crate) members: Vec<SocketAddr>,
    /// Those behind a translator, and perhaps others.
    pub(crate) marked: BTreeSet<SocketAddr>,
}

/// One protocol's messages of one rekey.
#[derive(Serialize, Deserialize)]
struct Batch {
    /// In their order.
    messages: Vec<Message>,
    /// The members, where messages go to each of them.
    members: Vec<SocketAddr>,
    /// Those behind a translator, which are reached from port 4500 with a non-ESP marker (RFC 3947).
    #[serde(default)]
    marked: BTreeSet<SocketAddr>,
    /// Copies still to be sent.
    left: u16,
    interval: Duration,
    /// Copies from then on tell lifetimes that are too long, wall clock.
    late: Duration,
    /// Copies from then on are of no use: other keys should be here by then.
    useless: Duration,
    /// When the next copy is due, monotonic; after a restart, at once.
    #[serde(skip)]
    due: Duration,
    /// Kept for members that miss it until then, monotonic.
    #[serde(skip)]
    kept: Duration,
    /// When signatures are asked for that could not be made, monotonic.
    #[serde(skip)]
    again: Option<Duration>,
    /// What it is, before its first copy. A restart forgets answers, and so who may get one late.
    #[serde(skip)]
    fresh: Option<Rekey>,
}

impl Batch {
    /// Is every message signed?
    fn is_signed(&self) -> bool {
        self.messages.iter().all(|m| m.unsigned.is_none())
    }

    fn record(&self) -> Secret {
        record(self)
    }

    fn transmit(&self, message: &Message, to: SocketAddr, out: &mut Outbox) {
        transmit(&message.bytes, to, self.marked.contains(&to), out);
    }

    /// Puts the signature into a message and encrypts it.
    fn finish(&mut self, n: usize, signature: Option<&[u8]>, rng: &mut dyn Random) -> Result<(), String> {
        if let Some(message) = self.messages.get_mut(n)
            && let Some(unsigned) = &message.unsigned
        {
            message.bytes = unsigned.finish(signature, rng)?;
            message.unsigned = None;
        }
        Ok(())
    }

    /// Keeps what is sent for the first time for members that are late.
    fn note(&mut self, late: &mut Late, now: Now) {
        if let Some(rekey) = self.fresh.take() {
            let messages = self.messages.iter().map(|m| m.bytes.clone()).collect();
            late.note(rekey, messages, (self.left, self.interval), self.useless.saturating_sub(now.wall), now.mono);
        }
    }

    fn send(&self, out: &mut Outbox) {
        for message in &self.messages {
            match message.multicast {
                Some(to) => self.transmit(message, to, out),
                None => self.members.iter().for_each(|to| self.transmit(message, *to, out)),
            }
        }
    }
}

/// Sends a message, in as many datagrams as it has, perhaps with a non-ESP marker.
pub(crate) fn transmit(message: &[u8], to: SocketAddr, marker: bool, out: &mut Outbox) {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let from = marker.then_some(SocketAddr::new(any, gdoi::NAT_PORT));
    for datagram in datagrams(message) {
        out.send(Transmit { from, to, via: Via::udp(marker), bytes: datagram.to_vec() });
    }
}

/// All batches that are not finished.
#[derive(Default)]
pub(crate) struct Outgoing {
    batches: BTreeMap<String, Batch>,
    /// Signatures that are being made: of which batch, of which of its messages.
    jobs: BTreeMap<JobId, (String, usize)>,
    /// What was sent of late, for members that were not there to hear it.
    late: Late,
    /// Rekeys of one protocol that could not be told, or not whole, since the start.
    pub(crate) unmade: u64,
}

/// What the last run left.
pub(crate) struct Left {
    pub(crate) outgoing: Outgoing,
    /// Groups whose members may think that keys live longer than they do, or have missed a rekey for good.
    pub(crate) overdue: BTreeSet<String>,
    /// Removes the records of what is not sent any more.
    pub(crate) ops: Vec<StoreOp>,
}

fn key(group: &str, rekey: u64, protocol: Protocol) -> String {
    // In the order of the rekeys: a later one may stand under a rekey SA that an earlier one brings.
    format!("{PREFIX}{group}/{rekey:020}/{protocol}")
}

impl Outgoing {
    /// Takes up what the last run has not finished: a member that missed it before the crash gets it now. Of what has become
    /// old meanwhile, the lifetimes would be told too long: a newer rekey has to follow it, or comes in its place.
    pub(crate) fn load(records: &BTreeMap<String, Secret>, now: Now) -> Result<Left, (String, serde_json::Error)> {
        let mut left = Left { outgoing: Self::default(), overdue: BTreeSet::new(), ops: Vec::new() };
        for (key, bytes) in records.range(PREFIX.to_owned()..).take_while(|(k, _)| k.starts_with(PREFIX)) {
            let mut batch: Batch = serde_json::from_slice(bytes.expose()).map_err(|e| (key.clone(), e))?;
            if now.wall > batch.late {
                left.overdue.extend(key[PREFIX.len()..].split('/').next().map(str::to_owned));
            }
            if now.wall > batch.useless {
                left.ops.push(StoreOp::Delete(key.clone()));
            } else {
                batch.again = Some(now.mono).filter(|_| !batch.is_signed());
                left.outgoing.batches.insert(key.clone(), batch);
            }
        }
        Ok(left)
    }

    /// Takes messages, whose first copies go with the next [`expire`](Self::expire). The operation returned belongs into
    /// the transaction that stores the plan: a plan without its messages would cut members off.
    #[must_use]
    pub(crate) fn add(
        &mut self,
        (policy, rekey, protocol): (&GroupPolicy, u64, Protocol),
        messages: Vec<Message>,
        Receivers { members, marked }: Receivers,
        now: Now,
    ) -> StoreOp {
        let key = key(&policy.name, rekey, protocol);
        let kept = if policy.ack_resend { policy.ack_patience + policy.retransmit.interval } else { Duration::ZERO };
        let batch = Batch {
            messages,
            members,
            marked,
            left: u16::from(policy.retransmit.copies) + 1,
            interval: policy.retransmit.interval,
            late: now.wall + policy.last_copy(),
            useless: now.wall + policy.last_copy().max(policy.rekey_margin),
            due: now.mono,
            kept: now.mono + kept,
            again: Some(now.mono),
            fresh: Some((policy.name.clone(), protocol, rekey)),
        };
        let record = batch.record();
        self.batches.insert(key.clone(), batch);
        StoreOp::Put(key, record)
    }

    /// Has signatures made that are missing. Call it when what [`add`](Self::add) returned is queued.
    pub(crate) fn sign(&mut self, now: Now, out: &mut Outbox) {
        let due = |b: &Batch| b.again.is_some_and(|at| at <= now.mono);
        let due: Vec<String> = self.batches.iter().filter(|(_, b)| due(b)).map(|(k, _)| k.clone()).collect();
        for key in due {
            self.sign_batch(key, out);
        }
    }

    fn sign_batch(&mut self, key: String, out: &mut Outbox) {
        let Some(batch) = self.batches.get_mut(&key) else { return };
        batch.again = None;
        let mut unusable = None;
        for (n, message) in batch.messages.iter_mut().enumerate() {
            let Some(unsigned) = &message.unsigned else { continue };
            if self.jobs.values().any(|(of, at)| (of, *at) == (&key, n)) {
                continue;
            }
            match unsigned.to_sign() {
                Ok(Some(to_sign)) => {
                    self.jobs.insert(out.job(Job::SignMessage(to_sign)), (key.clone(), n));
                }
                // Only a record that is none of ours.
                Ok(None) => unusable = Some((n, "nothing to sign".to_owned())),
                Err(error) => unusable = Some((n, error)),
            }
            if unusable.is_some() {
                break;
            }
        }
        if let Some((n, error)) = unusable {
            self.give_up(&key, n, &error, out);
        }
    }

    /// Is this the job of a signature?
    pub(crate) fn awaits(&self, job: JobId) -> bool {
        self.jobs.contains_key(&job)
    }

    /// A signature is made, or is not. Messages that are all signed are made durable before the first of them is sent.
    pub(crate) fn signed(&mut self, now: Now, rng: &mut dyn Random, job: JobId, done: JobDone, out: &mut Outbox) {
        let Some((key, n)) = self.jobs.remove(&job) else { return };
        let Some(batch) = self.batches.get_mut(&key) else { return };
        let result = if let JobDone::Sign(result) = done { result } else { Err(CryptoError::NotDone) };
        match result {
            Ok(signature) => match batch.finish(n, Some(&signature), rng) {
                Ok(()) if batch.is_signed() => out.persist(vec![StoreOp::Put(key, batch.record())]),
                Ok(()) => {}
                Err(error) => self.give_up(&key, n, &error, out),
            },
            Err(CryptoError::NotDone) => {
                tracing::debug!(%key, "no time for the signature of a rekey");
                batch.again = Some(now.mono + AGAIN);
            }
            Err(error) => self.give_up(&key, n, &error.to_string(), out),
        }
    }

    /// A message cannot be made, and those behind it would not be understood.
    fn give_up(&mut self, key: &str, n: usize, error: &str, out: &mut Outbox) {
        tracing::error!(%key, %error, "rekey message could not be made: members must register anew");
        self.unmade += 1;
        let Some(batch) = self.batches.get_mut(key) else { return };
        batch.messages.truncate(n);
        let op = match batch.messages.is_empty() {
            true => {
                self.batches.remove(key);
                StoreOp::Delete(key.to_owned())
            }
            false => StoreOp::Put(key.to_owned(), batch.record()),
        };
        self.jobs.retain(|job, (of, at)| {
            let kept = of != key || *at < n;
            if !kept {
                out.cancel(*job);
            }
            kept
        });
        out.persist(vec![op]);
    }

    /// The batches that may not be sent yet: those that are not signed, and those behind one of the same group and protocol that is
    /// not. Members would not understand them without it.
    fn held(&self) -> BTreeSet<String> {
        let mut streams = BTreeSet::new();
        let mut held = BTreeSet::new();
        for (key, batch) in &self.batches {
            let signed = batch.is_signed();
            if signed && streams.is_empty() {
                continue;
            }
            let mut parts = key[PREFIX.len()..].split('/');
            let stream = (parts.next(), parts.next_back());
            if !signed || streams.contains(&stream) {
                streams.insert(stream);
                held.insert(key.clone());
            }
        }
        held
    }

    /// Sends a rekey once more, to these members of a protocol alone.
    pub(crate) fn resend(&mut self, group: &str, rekey: u64, protocol: Protocol, to: &[SocketAddr], out: &mut Outbox) {
        let batch = self.batches.get(&key(group, rekey, protocol)).filter(|b| b.is_signed());
        let Some(batch) = batch else { return };
        for to in to {
            batch.messages.iter().for_each(|m| batch.transmit(m, *to, out));
        }
    }

    /// This member has been sent an answer that is older than rekeys: it gets these, too.
    pub(crate) fn send_to_late(&mut self, member: LateMember, now: Now) {
        self.late.send_to(member, now.mono);
    }

    /// Sends the copies that are due.
    pub(crate) fn expire(&mut self, now: Now, out: &mut Outbox) {
        self.sign(now, out);
        let held = self.held();
        let due = |(key, b): &(&String, &mut Batch)| b.left > 0 && b.due <= now.mono && !held.contains(*key);
        for (_, batch) in self.batches.iter_mut().filter(due) {
            batch.send(out);
            batch.note(&mut self.late, now);
            batch.left -= 1;
            batch.due = now.mono + batch.interval;
        }
        let done = |b: &Batch| b.left == 0 && b.kept <= now.mono;
        let done: Vec<String> = self.batches.iter().filter(|(_, b)| done(b)).map(|(k, _)| k.clone()).collect();
        for key in &done {
            self.batches.remove(key);
        }
        out.persist(done.into_iter().map(StoreOp::Delete).collect());
        self.late.expire(now.mono, out);
    }

    pub(crate) fn deadline(&self) -> Option<Deadline> {
        let held = self.held();
        let wake = |(key, b): (&String, &Batch)| match held.contains(key) {
            true => b.again,
            false => Some(if b.left > 0 { b.due } else { b.kept }),
        };
        let at = self.batches.iter().filter_map(wake).chain(self.late.deadline()).min()?;
        Some(Deadline { at, reason: "copy of a rekey message" })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use keyferry_model::drive::Output;

    use super::*;

    fn batch(messages: Vec<Message>, members: &[SocketAddr], left: u16, interval: Duration) -> Batch {
        Batch {
            messages,
            members: members.to_vec(),
            marked: BTreeSet::new(),
            left,
            interval,
            late: Duration::MAX,
            useless: Duration::MAX,
            due: Duration::ZERO,
            kept: Duration::ZERO,
            again: None,
            fresh: None,
        }
    }

    fn sent(out: &mut Outbox) -> Vec<(SocketAddr, Vec<u8>)> {
        let sends = std::iter::from_fn(|| out.poll()).filter_map(|output| match output {
            Output::Send(transmit) => Some((transmit.to, transmit.bytes)),
            Output::Persist(_) | Output::Job(..) | Output::Cancel(_) | Output::Close(_) => None,
        });
        sends.collect()
    }

    /// RFC 9838 section 2.4.1.3, RFC 6407 section 4: each copy is the same octets, at the interval that was configured.
    #[test]
    fn copies_are_bitwise_identical_and_come_shortly() {
        let to = SocketAddr::from(([239, 192, 0, 2], 848));
        let mut outgoing = Outgoing::default();
        let messages = vec![Message { bytes: vec![7; 90], unsigned: None, multicast: Some(to) }];
        let interval = Duration::from_secs(2);
        outgoing.batches.insert(key("g", 1, Protocol::Gikev2), batch(messages, &[], 3, interval));
        let mut out = Outbox::default();
        for copy in 0..5_u32 {
            let now = Now { mono: copy * interval, wall: Duration::ZERO };
            outgoing.expire(now, &mut out);
            // Not before its time, nor more often than was said.
            outgoing.expire(Now { mono: now.mono + interval / 2, ..now }, &mut out);
            let expected = if copy < 3 { vec![(to, vec![7; 90])] } else { Vec::new() };
            assert_eq!(sent(&mut out), expected);
        }
        assert!(outgoing.batches.is_empty());
    }

    /// After a restart copies go on while they are of use, and no longer.
    #[test]
    fn copies_that_are_of_no_use_any_more_do_not_go_after_a_restart() {
        let now = |wall| Now { mono: Duration::ZERO, wall: Duration::from_secs(wall) };
        let aged = |late, useless| {
            let mut batch = batch(Vec::new(), &[], 2, Duration::ZERO);
            (batch.late, batch.useless) = (Duration::from_secs(late), Duration::from_secs(useless));
            batch.record()
        };
        let records = BTreeMap::from([(key("g", 1, Protocol::Gikev2), aged(10, 20))]);
        for (wall, kept, overdue) in [(10, 1, 0), (11, 1, 1), (20, 1, 1), (21, 0, 1)] {
            let left = Outgoing::load(&records, now(wall)).unwrap();
            assert_eq!((left.outgoing.batches.len(), left.overdue.len()), (kept, overdue), "{wall}");
            assert_eq!(left.ops.len(), 1 - kept);
        }
    }

    /// The messages of the other protocol mean nothing to them.
    #[test]
    fn members_that_missed_a_rekey_are_sent_the_messages_of_their_protocol_alone() {
        let members = [SocketAddr::from(([10, 0, 0, 1], 848)), SocketAddr::from(([10, 0, 0, 2], 848))];
        let mut outgoing = Outgoing::default();
        for (rekey, protocol, byte) in [(4, Protocol::Gdoi, 1), (4, Protocol::Gikev2, 2), (5, Protocol::Gdoi, 3)] {
            let messages = vec![Message { bytes: vec![byte], unsigned: None, multicast: None }];
            let batch = Batch { kept: Duration::MAX, ..batch(messages, &members, 1, Duration::ZERO) };
            outgoing.batches.insert(key("g", rekey, protocol), batch);
        }
        let mut out = Outbox::default();
        outgoing.resend("g", 4, Protocol::Gdoi, &members[1..], &mut out);
        outgoing.resend("h", 4, Protocol::Gdoi, &members, &mut out);
        assert_eq!(sent(&mut out), [(members[1], vec![1])]);
    }
}
