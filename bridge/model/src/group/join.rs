//! Joining and leaving.

use std::net::SocketAddr;
use std::sync::Arc;

use keyferry_crypto::Random;

use super::{Group, LEAVE_BATCH};
use crate::admission::{Admission, Issued, JoinRequest, LateMember, Offer, Refusal};
use crate::holder::Holder;
use crate::id::{Identity, Protocol};
use crate::member::{Member, too_often};
use crate::plan::RekeyReason;
use crate::policy::Authorization;
use crate::reading::Readings;
use crate::time::Now;
use crate::view::MemberState;

impl Group {
    pub(crate) fn offer(
        &self,
        identity: &Identity,
        holder: Option<&Holder>,
        protocol: Protocol,
        now: Now,
    ) -> Result<Offer, Refusal> {
        self.offer_to(identity, holder, protocol, false, now)
    }

    /// The same; who is rekeyed in band is not told the rekey SA.
    fn offer_to(
        &self,
        identity: &Identity,
        holder: Option<&Holder>,
        protocol: Protocol,
        in_band: bool,
        now: Now,
    ) -> Result<Offer, Refusal> {
        let side = self.sides.get(&protocol).ok_or(Refusal::ProtocolNotServed)?;
        if protocol == Protocol::Gikev2 && !self.policy.streams.is_empty() {
            // It has no words for them, and half a policy is none.
            return Err(Refusal::ProtocolNotServed);
        }
        let listed = match &self.policy.authorization {
            Authorization::Authenticated => true,
            Authorization::Listed(list) => list.contains(identity),
        };
        let evicted = self.evicted(identity, holder);
        if let Some(other) = evicted.filter(|other| **other != *identity) {
            tracing::info!(group = %self.policy.name, member = %identity, evicted = %other,
                "registration refused: the certificate is that of an evicted member");
        }
        if !listed || evicted.is_some() {
            return Err(Refusal::NotAuthorized);
        }
        let newest = self.epochs.last().map(|e| e.activates).unwrap_or_default();
        let first_epoch = self.first_epoch(identity);
        let (rekey, counter) = match in_band {
            true => (Arc::clone(&side.current), side.sent),
            false => self.rekey_sa_from(side, first_epoch, now)?,
        };
        Ok(Offer {
            generation: self.generation,
            policy: Arc::clone(&self.policy),
            epochs: self.epochs.iter().filter(|e| e.number >= first_epoch).map(Arc::clone).collect(),
            delivered: self.delivered(now),
            activation_delay: newest.saturating_sub(now.wall),
            deactivation_delay: self.policy.deactivation_delay,
            rekey,
            counter,
        })
    }

    /// The evicted member that this one is: by its identity, by another name of its certificate, or by what other
    /// certificates of its holder have, too.
    pub(crate) fn evicted(&self, identity: &Identity, holder: Option<&Holder>) -> Option<&Identity> {
        let gone = |m: &&Member| m.state == MemberState::Evicted;
        let named = || holder.into_iter().flat_map(Holder::all_names).filter_map(|name| self.members.get(name));
        // Who was a member beside the evicted one, with a key of its own, has nothing but a subject in common with it.
        let stays = self.members.get(identity).filter(|m| m.state == MemberState::Active);
        let own_key = |h: &Holder| stays.and_then(|m| m.holder.as_ref()).is_some_and(|own| own.key == h.key);
        let held = |h| if own_key(h) { self.members.with_key(h).find(gone) } else { self.members.of(h).find(gone) };
        let by_identity = self.members.get(identity).filter(gone);
        let found = by_identity.or_else(|| named().find(gone)).or_else(|| holder.and_then(held));
        found.map(|m| &m.identity)
    }

    /// Places in the group that the certificate of who registers has under other names. One is enough, unless the group lists
    /// its members by name.
    fn other_places(&self, request: JoinRequest<'_>) -> Vec<Member> {
        let one = self.policy.authorization == Authorization::Authenticated;
        let held = request.holder.filter(|_| one).into_iter().flat_map(|h| self.members.with_key(h));
        held.filter(|m| m.state == MemberState::Active && m.identity != *request.identity).cloned().collect()
    }

    pub(crate) fn admit(
        &mut self,
        request: JoinRequest<'_>,
        generation: Option<u64>,
        now: Now,
        rng: &mut dyn Random,
    ) -> Result<Admission, Refusal> {
        let in_band = self.wants_in_band(request);
        let in_band_only = in_band.is_ok_and(|b| b);
        let offer = self.offer_to(request.identity, request.holder, request.protocol, in_band_only, now)?;
        if generation.is_some_and(|g| g != self.generation) {
            return Err(Refusal::Stale);
        }
        if self.exhausted {
            return Err(Refusal::SenderIdsExhausted);
        }
        if self.pending.is_some() {
            // What was offered is told to nobody any more.
            return Err(Refusal::Stale);
        }
        let held = request.holder.into_iter().flat_map(|h| self.members.with_key(h));
        let others = held.filter(|m| m.identity != *request.identity);
        if too_often(self.members.get(request.identity).into_iter().chain(others), now.wall) {
            tracing::debug!(group = %self.policy.name, member = %request.identity, "member registers too often");
            return Err(Refusal::TooOften);
        }
        let in_band = in_band?;
        // A member that stays where it is keeps its leaf, also if it takes another name; everything is checked before anything
        // is taken.
        let others = self.other_places(request);
        let own = self.members.get(request.identity);
        let stays = own.into_iter().chain(&others).find(|m| m.is_active(request.protocol));
        let (is_new, kept) = (stays.is_none(), stays.filter(|_| !in_band).and_then(|m| m.leaf));
        let side = self.sides.get(&request.protocol).ok_or(Refusal::ProtocolNotServed)?;
        let has_tree = side.policy.has_tree(request.protocol) && !in_band;
        let members = self.members.count(request.protocol).max(side.tree.members());
        if members >= self.policy.capacity as usize && (is_new || (has_tree && kept.is_none() && side.tree.is_full())) {
            return Err(Refusal::Full);
        }
        let sender_ids = self.take_sender_ids(request, &others)?;
        let side = self.sides.get_mut(&request.protocol).ok_or(Refusal::ProtocolNotServed)?;
        let leaf = match kept {
            None if has_tree => Some(side.tree.join(rng).ok_or(Refusal::Full)?),
            kept => kept,
        };
        let path = leaf.map(|leaf| side.tree.path(leaf)).unwrap_or_default();
        side.outsiders.remove(request.identity);
        let first_epoch = self.first_epoch(request.identity);
        for place in others {
            self.give_up(place, request, leaf);
        }
        let registration = self.record(request, leaf, in_band, first_epoch, &sender_ids, now);
        self.note_told(request.protocol, in_band, &offer, now);
        if !is_new {
            self.note_asked(request.identity, now);
        }
        self.store_sender_ids();
        Ok(Admission { offer, path, sender_ids, in_band, registration })
    }

    /// A member that registers again may have used up numbers or octets under its keys; nothing in either protocol says so.
    fn note_asked(&mut self, identity: &Identity, now: Now) {
        let Some(age) = self.policy.rekey_when_asked else { return };
        // Keys that are not in use yet, nobody has used up.
        let age = age.max(self.policy.activation_delay);
        if self.asked_due.is_none() && self.epochs.last().is_some_and(|e| e.announced + age <= now.wall) {
            tracing::info!(group = %self.policy.name, member = %identity, "a member registers again: the group is rekeyed");
            self.asked_due = Some(now.wall + LEAVE_BATCH);
            self.store_state();
        }
    }

    /// Fresh sender IDs, none for a receiver or without counter modes.
    fn take_sender_ids(&mut self, request: JoinRequest<'_>, given_up: &[Member]) -> Result<Vec<u32>, Refusal> {
        let needed = self.policy.needs_sender_ids_of(request.identity);
        let Some(wanted) = request.sender_ids.filter(|_| needed) else { return Ok(Vec::new()) };
        if self.sender_ids.bits() != self.policy.sender_id_bits {
            // Cut to the width that is told, two of them may be the same.
            return Err(Refusal::Stale);
        }
        let count = wanted.clamp(1, self.policy.sender_ids_per_member.max(1));
        if let Some(ids) = self.sender_ids.take(count) {
            return Ok(ids);
        }
        let own = |m: &Member| m.identity == *request.identity || given_up.iter().any(|g| g.identity == m.identity);
        let others = self.members.iter().filter(|m| m.is_active(m.protocol) && !own(m));
        let in_use: u64 = others.map(|m| m.sender_ids.len() as u64).sum();
        if in_use + u64::from(count) > self.sender_ids.limit() {
            // A reset would not make room, only cut everybody off, again and again.
            return Err(Refusal::Full);
        }
        tracing::warn!(group = %self.policy.name, "sender IDs are exhausted: the group will be reset");
        self.exhausted = true;
        self.store_sender_ids();
        Err(Refusal::SenderIdsExhausted)
    }

    /// A place goes over to another name of the same certificate. Nothing is kept from who has it; keys that do not go along
    /// go with the next change of their rekey SA.
    fn give_up(&mut self, place: Member, request: JoinRequest<'_>, leaf: Option<u32>) {
        tracing::info!(group = %self.policy.name, member = %place.identity, now = %request.identity,
            "member goes by another name of its certificate");
        let goes_along = place.protocol == request.protocol && (place.leaf == leaf || place.leaf.is_none());
        if !goes_along {
            self.make_stale(&place);
        }
        let identity = place.identity.clone();
        self.members.put(Member { state: MemberState::Left, leaf: None, until: None, ..place });
        self.store_member(&identity);
    }

    /// Enters a member; returns how often it has registered.
    fn record(
        &mut self,
        request: JoinRequest<'_>,
        leaf: Option<u32>,
        in_band: bool,
        first_epoch: u64,
        sender_ids: &[u32],
        now: Now,
    ) -> u64 {
        let fresh = Member {
            identity: request.identity.clone(),
            holder: None,
            protocol: request.protocol,
            history: Vec::new(),
            state: MemberState::Active,
            address: request.address,
            marked: false,
            readings: Readings::NONE,
            leaf,
            registrations: 0,
            since: 0,
            until: None,
            answers: false,
            burst: 0,
            burst_since: now.wall,
            first_epoch,
            sender_ids: Vec::new(),
            in_band,
            acks: false,
            fragments: false,
            capabilities: None,
            acknowledged: 0,
            missed: 0,
            latency: None,
        };
        let former = self.members.get(request.identity).cloned();
        let moved = former.as_ref().is_some_and(|m| m.is_active(m.protocol) && m.protocol != request.protocol);
        let mut member = former.unwrap_or(fresh);
        if in_band && member.is_active(request.protocol) && !member.in_band {
            // It no longer follows the Rekey SA: its keys go with the next change of that.
            self.make_stale(&member);
        }
        if member.protocol != request.protocol {
            if moved {
                // It no longer follows the old protocol: its keys there go with the next change of that rekey SA.
                let old = member.protocol;
                self.make_stale(&member);
                tracing::info!(group = %self.policy.name, member = %member.identity, from = %old, to = %request.protocol,
                    "member moved");
            }
            member.history.push(member.protocol);
            member.protocol = request.protocol;
        }
        member.state = MemberState::Active;
        member.holder = request.holder.cloned().or(member.holder);
        (member.address, member.marked) = (request.address, false);
        member.leaf = leaf;
        member.in_band = in_band;
        member.acks = request.gikev2.is_some_and(|g| g.acks);
        member.fragments = request.gikev2.is_some_and(|g| g.fragments);
        member.capabilities = request.gikev2.and_then(|g| g.capabilities.clone());
        member.registered_at(now.wall);
        member.missed = 0;
        member.since = self.next_rekey;
        member.until = None;
        member.answers = false;
        member.first_epoch = first_epoch;
        member.sender_ids = sender_ids.to_vec();
        tracing::info!(group = %self.policy.name, member = %member.identity, protocol = %member.protocol,
            address = %member.address, sender_ids = ?member.sender_ids, "member registered");
        let registration = member.registrations;
        self.members.put(member);
        self.store_member(request.identity);
        registration
    }

    /// The member of an answer that is older than a rekey, if that still is its last registration. Who has been dismissed by a
    /// rekey since is to know that. Who is rekeyed in band is asked until it answers.
    pub(crate) fn late(&self, protocol: Protocol, issued: &Issued) -> Option<LateMember> {
        let member = self.members.get(&issued.identity).filter(|m| m.listens(protocol) && !m.in_band)?;
        let older = member.registrations == issued.registration && member.since < self.next_rekey;
        older.then(|| LateMember {
            group: self.policy.name.clone(),
            protocol,
            identity: member.identity.clone(),
            address: member.address,
            marked: member.marked,
            rekeys: member.since..=member.until.unwrap_or(u64::MAX),
        })
    }

    /// An active member is reached at this address now, with or without a non-ESP marker.
    pub(crate) fn reach(&mut self, identity: &Identity, protocol: Protocol, address: SocketAddr, marked: bool) {
        let Some(member) = self.members.get(identity).filter(|m| m.is_active(protocol)) else { return };
        if (member.address, member.marked) != (address, marked) {
            tracing::debug!(group = %self.policy.name, member = %identity, %address, marked, "member is reached there");
            self.members.put(Member { address, marked, ..member.clone() });
            self.store_member(identity);
        }
    }

    /// An active member was seen to read phase 1 of IKEv1 so.
    pub(crate) fn note_readings(&mut self, identity: &Identity, readings: Readings) {
        let Some(member) = self.members.get(identity).filter(|m| m.is_active(Protocol::Gdoi)) else { return };
        if member.readings != readings {
            self.members.note(identity, |m| m.readings = readings);
            self.store_member(identity);
        }
    }

    /// A member leaves. What it knew is changed by a rekey soon, together with others that leave.
    pub(crate) fn leave(&mut self, identity: &Identity, protocol: Protocol, now: Now) -> bool {
        let member = self.members.get(identity).filter(|m| m.protocol == protocol);
        if !member.is_some_and(|m| m.is_active(protocol) || self.holds_traffic_keys(m)) {
            return false;
        }
        self.drop_member(identity, MemberState::Left);
        self.leavers_due.get_or_insert(now.wall + LEAVE_BATCH);
        self.store_state();
        tracing::info!(group = %self.policy.name, member = %identity, %protocol, "member left");
        true
    }

    /// Has the KEK been deleted from under the member, while its traffic keys are good still? It has not come back since.
    pub(super) fn holds_traffic_keys(&self, member: &Member) -> bool {
        let Some(until) = member.until.filter(|_| member.state == MemberState::Left) else { return false };
        let mut since = self.ledger.entries.range(until..).map(|(_, e)| e);
        let deleted = since.next().is_some_and(|e| e.id == until && e.reason == RekeyReason::DeleteKek);
        deleted && since.all(|e| e.epoch.is_none())
    }

    /// Notes that a member is none of its protocol any more, and has keys still.
    pub(super) fn make_stale(&mut self, member: &Member) {
        if let Some(side) = self.sides.get_mut(&member.protocol) {
            match member.leaf {
                Some(leaf) => side.stale.insert(leaf),
                // It never had the rekey SA.
                None if member.in_band => false,
                None => side.outsiders.insert(member.identity.clone()),
            };
        }
        self.store_state();
    }
}
