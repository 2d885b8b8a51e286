//! The ledger: for each rekey, who was asked to acknowledge and who did.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::{Identity, Protocol};
use crate::member::{Member, millis};
use crate::members::Members;
use crate::plan::RekeyReason;
use crate::view::{AckView, LastRekeyView, RekeyView};

/// Rekeys that are remembered.
const KEPT: usize = 64;

/// A rekey that members were asked to acknowledge. Stored once, when it is sent; acknowledgements are stored apart.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) id: u64,
    pub(crate) reason: RekeyReason,
    pub(crate) at: Duration,
    pub(crate) epoch: Option<u64>,
    /// The message whose acknowledgement counts: the last one of each protocol.
    pub(crate) awaited: Vec<(Protocol, [u8; 16], u32)>,
    /// How many are to acknowledge: all who were members of that protocol then and can.
    pub(crate) expected: usize,
    /// Does it take a leaf key to acknowledge?
    #[serde(default)]
    pub(crate) by_leaf: bool,
    /// Members that were told it over their IKE SAs.
    #[serde(default)]
    pub(crate) in_band: BTreeSet<Identity>,
    /// Since when members can acknowledge, where that is later than it was sent: nobody listened for a while.
    #[serde(skip)]
    pub(crate) open_since: Option<Duration>,
    /// Who was missing when the time to answer had passed, and is still.
    pub(crate) missing: Option<BTreeSet<Identity>>,
    #[serde(skip)]
    pub(crate) acks: BTreeMap<Identity, Ack>,
}

/// An acknowledgement, as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ack {
    pub(crate) protocol: Protocol,
    pub(crate) latency: Duration,
}

impl Entry {
    /// Was the member sent this? Not if it has registered since, or learned of it when it registered.
    fn concerns(&self, member: &Member) -> bool {
        let listens = self.awaited.iter().any(|(protocol, ..)| member.listens(*protocol));
        let told = if member.in_band { self.in_band.contains(&member.identity) } else { listens };
        told && member.since <= self.id && member.until.is_none_or(|until| self.id <= until)
    }

    /// Is the member to acknowledge this? Not if it lacks what proves that.
    pub(crate) fn expects(&self, member: &Member) -> bool {
        let can = match member.protocol {
            _ if member.in_band => true,
            Protocol::Gdoi => member.can_prove() || !self.by_leaf,
            Protocol::Gikev2 => member.can_prove(),
        };
        can && self.concerns(member)
    }

    /// Is nobody to acknowledge this?
    fn asks_nobody(&self) -> bool {
        self.awaited.is_empty() && self.in_band.is_empty()
    }

    /// How many are to acknowledge this, which has just been planned. That looks at members one by one only if it has dismissed
    /// any.
    pub(crate) fn count_expected(&self, members: &Members) -> usize {
        if !self.asks_nobody() && members.were_dismissed_by(self.id) {
            return members.iter().filter(|m| self.expects(m)).count();
        }
        let of = |protocol| match protocol {
            Protocol::Gdoi if !self.by_leaf => members.listening(protocol),
            Protocol::Gdoi | Protocol::Gikev2 => members.proving(protocol),
        };
        self.awaited.iter().map(|(protocol, ..)| of(*protocol)).sum::<usize>() + self.in_band.len()
    }

    /// How many members were sent this and have not said that they got it, be it that they cannot.
    pub(crate) fn unproven(&self, members: &Members) -> usize {
        let all = members.iter().take(if self.asks_nobody() { 0 } else { usize::MAX });
        all.filter(|m| self.concerns(m) && !self.acks.contains_key(&m.identity)).count()
    }

    /// Members that are to acknowledge this and have not.
    pub(crate) fn missing<'a>(&'a self, members: &'a Members) -> impl Iterator<Item = &'a Identity> {
        let all = members.iter().take(if self.asks_nobody() { 0 } else { usize::MAX });
        let open = all.filter(|m| self.expects(m)).map(|m| &m.identity);
        open.filter(|m| !self.acks.contains_key(*m))
    }

    /// Takes an acknowledgement, unless it is a repeat or none is awaited.
    fn take(&mut self, member: &Member, wall: Duration) -> Option<Ack> {
        if !self.expects(member) || self.acks.contains_key(&member.identity) {
            return None;
        }
        let ack = Ack { protocol: member.protocol, latency: wall.saturating_sub(self.at) };
        self.acks.insert(member.identity.clone(), ack);
        // Late is better than never.
        if let Some(missing) = &mut self.missing {
            missing.remove(&member.identity);
        }
        Some(ack)
    }

    fn view(&self, members: &Members) -> RekeyView {
        let missing = match &self.missing {
            Some(missing) => missing.iter().cloned().collect(),
            None => self.missing(members).cloned().collect(),
        };
        let mut acks: Vec<AckView> = self
            .acks
            .iter()
            .map(|(identity, a)| AckView {
                identity: identity.clone(),
                protocol: a.protocol,
                latency_ms: millis(a.latency),
            })
            .collect();
        acks.sort_by_key(|a| a.latency_ms);
        RekeyView {
            id: self.id,
            reason: self.reason,
            at: self.at.as_secs(),
            epoch: self.epoch,
            expected: self.expected,
            acknowledged: self.acks.len(),
            missing,
            acks,
        }
    }
}

/// The last rekeys of a group, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) entries: BTreeMap<u64, Entry>,
}

/// What a verified acknowledgement turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Acknowledged {
    /// The one that counts for this rekey, after this time.
    Rekey(u64, Ack),
    /// Seen before, or for a message that none is awaited for.
    Nothing,
}

impl Ledger {
    /// Adds a rekey and returns those forgotten for it.
    pub(crate) fn add(&mut self, entry: Entry) -> Vec<Entry> {
        self.entries.insert(entry.id, entry);
        let mut forgotten = Vec::new();
        while self.entries.len() > KEPT {
            forgotten.extend(self.entries.pop_first().map(|(_, e)| e));
        }
        forgotten
    }

    /// Notes an acknowledgement of the message `counter` under the rekey SA `spi`.
    pub(crate) fn acknowledge(
        &mut self,
        protocol: Protocol,
        spi: &[u8; 16],
        counter: u32,
        member: &Member,
        wall: Duration,
    ) -> Acknowledged {
        let message = (protocol, *spi, counter);
        let entry = self.entries.values_mut().rev().find(|e| e.awaited.contains(&message));
        let Some((entry, ack)) = entry.and_then(|e| Some((e.id, e.take(member, wall)?))) else {
            return Acknowledged::Nothing;
        };
        Acknowledged::Rekey(entry, ack)
    }

    /// Is an acknowledgement of this member of use?
    pub(crate) fn awaits(&self, protocol: Protocol, spi: &[u8; 16], counter: u32, member: &Member) -> bool {
        let message = (protocol, *spi, counter);
        let entry = self.entries.values().rev().find(|e| e.awaited.contains(&message));
        entry.is_some_and(|e| e.expects(member) && !e.acks.contains_key(&member.identity))
    }

    /// Notes that a member has answered what it was told in band.
    pub(crate) fn acknowledge_in_band(&mut self, rekey: u64, member: &Member, wall: Duration) -> Option<Ack> {
        self.entries.get_mut(&rekey).filter(|_| member.in_band)?.take(member, wall)
    }

    /// The entry whose time to answer passes next, and when.
    pub(crate) fn closes(&self, patience: Duration) -> Option<(u64, Duration)> {
        let open = self.entries.values().find(|e| e.missing.is_none());
        open.map(|e| (e.id, e.open_since.unwrap_or(e.at) + patience))
    }

    /// How the last rekey went that somebody was to acknowledge, without a look at each member.
    pub(crate) fn last_view(&self) -> Option<LastRekeyView> {
        let last = self.entries.values().rev().find(|e| e.expected > 0)?;
        let missed = last.missing.as_ref().map_or(0, BTreeSet::len);
        Some(LastRekeyView { id: last.id, expected: last.expected, acknowledged: last.acks.len(), missed })
    }

    pub(crate) fn views(&self, members: &Members) -> Vec<RekeyView> {
        self.entries.values().map(|e| e.view(members)).collect()
    }
}
