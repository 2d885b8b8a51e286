//! All groups of a key server.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use keyferry_crypto::{Random, Secret};

use crate::admission::{Admission, Issued, JoinRequest, LateMember, Offer, Refusal};
use crate::group::{Group, key_prefix, split_key};
use crate::holder::Holder;
use crate::id::{GroupId, Identity, Protocol};
use crate::plan::{InBandTo, RekeyPlan, RekeyReason};
use crate::policy::GroupPolicy;
use crate::reading::Readings;
use crate::rekey_sa::RekeySa;
use crate::store::{RecordError, StoreOp};
use crate::time::{Deadline, Now};

/// The groups, found by name, by the identity members ask for, and by the SPI of their rekey SAs.
#[derive(Debug, Default)]
pub struct Model {
    groups: BTreeMap<String, Group>,
    /// Groups that were ended while this ran: one that comes back goes on from there.
    parked: BTreeMap<String, Group>,
    /// Records of groups that are not configured, by name and by what follows the prefix of their keys, for the same.
    unconfigured: BTreeMap<String, BTreeMap<String, Secret>>,
    /// Names of the groups that rekey SAs belong to.
    spis: BTreeMap<(Protocol, [u8; 16]), String>,
    /// Members whose answers were sent again.
    late: Vec<LateMember>,
}

/// A rekey SA that an acknowledgement names.
#[derive(Clone, Copy, Debug)]
pub struct RekeySaInfo<'a> {
    /// The SA.
    pub sa: &'a Arc<RekeySa>,
    /// The policy under which it was made.
    pub made_under: &'a Arc<GroupPolicy>,
    /// Policy of its group.
    pub policy: &'a Arc<GroupPolicy>,
    /// Messages sent under it, so the highest GDOI SEQ used.
    pub highest: u32,
}

/// A member found by its address.
#[derive(Debug)]
pub struct MemberAt<'a> {
    /// Who it is.
    pub identity: &'a Identity,
    /// Its leaf key.
    pub leaf: Option<&'a Secret>,
    /// The port it registered from.
    pub port: u16,
    /// What G-IKEv2 calls its leaf key.
    pub leaf_id: Option<u32>,
}

impl Model {
    /// Rebuilds groups from the store, and creates those it does not know.
    ///
    /// # Errors
    /// A record of one of these groups that cannot be used. Nothing is changed in the store.
    pub fn load(
        policies: Vec<GroupPolicy>,
        records: &BTreeMap<String, Secret>,
        now: Now,
        rng: &mut dyn Random,
    ) -> Result<Self, RecordError> {
        let mut own: BTreeMap<&str, BTreeMap<String, &Secret>> = BTreeMap::new();
        for (key, record) in records {
            if let Some((name, rest)) = split_key(key) {
                own.entry(name).or_default().insert(rest.to_owned(), record);
            }
        }
        let mut model = Self::default();
        for policy in policies {
            let name = policy.name.clone();
            let group = revive(policy, &own.remove(name.as_str()).unwrap_or_default(), now, rng)?;
            model.groups.insert(name, group);
        }
        let kept = |records: BTreeMap<String, &Secret>| records.into_iter().map(|(k, r)| (k, r.duplicate())).collect();
        model.unconfigured = own.into_iter().map(|(name, records)| (name.to_owned(), kept(records))).collect();
        model.index_spis();
        Ok(model)
    }

    /// Notes where the rekey SAs of all groups are.
    fn index_spis(&mut self) {
        self.spis.clear();
        for (name, group) in &self.groups {
            self.spis.extend(group.spis().map(|spi| (spi, name.clone())));
        }
    }

    /// A group by name.
    #[must_use]
    pub fn group(&self, name: &str) -> Option<&Group> {
        self.groups.get(name)
    }

    /// The name of the group that members ask for so.
    #[must_use]
    pub fn name_of(&self, id: &GroupId) -> Option<&str> {
        self.groups.values().find(|g| g.policy().ids.contains(id)).map(|g| g.policy().name.as_str())
    }

    /// All groups, by name.
    pub fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.values()
    }

    /// What a member that may join would be told; changes nothing.
    ///
    /// # Errors
    /// Why it may not join.
    pub fn offer(
        &self,
        group: &GroupId,
        identity: &Identity,
        holder: Option<&Holder>,
        protocol: Protocol,
        now: Now,
    ) -> Result<Offer, Refusal> {
        let group = self.groups.values().find(|g| g.policy().ids.contains(group)).ok_or(Refusal::UnknownGroup)?;
        group.offer(identity, holder, protocol, now)
    }

    /// Admits a member: records it, gives it a leaf and sender IDs. Flush the store before sending the answer.
    ///
    /// `generation` is that of an offer already told to the member.
    ///
    /// # Errors
    /// Why it may not join; [`Refusal::Stale`] when keys changed since the offer.
    pub fn admit(
        &mut self,
        group: &GroupId,
        request: JoinRequest<'_>,
        generation: Option<u64>,
        now: Now,
        rng: &mut dyn Random,
    ) -> Result<Admission, Refusal> {
        self.by_id(group).ok_or(Refusal::UnknownGroup)?.admit(request, generation, now, rng)
    }

    /// A member leaves at its own wish; `false` if it is no member by this protocol.
    pub fn leave(&mut self, group: &GroupId, identity: &Identity, protocol: Protocol, now: Now) -> bool {
        self.by_id(group).is_some_and(|g| g.leave(identity, protocol, now))
    }

    /// The rekey SA, present or lately replaced, that bears this SPI.
    #[must_use]
    pub fn rekey_sa(&self, protocol: Protocol, spi: &[u8; 16]) -> Option<RekeySaInfo<'_>> {
        self.with_spi(protocol, spi).map(|(_, info)| info)
    }

    /// Which active members of the rekey SA's group registered from this address: several where they share one behind NAT.
    #[must_use]
    pub fn members_at(&self, protocol: Protocol, spi: &[u8; 16], ip: IpAddr) -> Vec<MemberAt<'_>> {
        let Some((group, _)) = self.with_spi(protocol, spi) else { return Vec::new() };
        let Some(side) = group.side(protocol) else { return Vec::new() };
        group
            .members_at(protocol, ip)
            .map(|m| MemberAt {
                identity: &m.identity,
                leaf: side.leaf_key(m),
                port: m.address.port(),
                leaf_id: side.leaf_id(m),
            })
            .collect()
    }

    /// Notes a verified acknowledgement of message `counter` under the rekey SA; `false` if it is a repeat or none was
    /// awaited. Flush the store afterwards.
    pub fn acknowledge(
        &mut self,
        protocol: Protocol,
        spi: &[u8; 16],
        counter: u32,
        identity: &Identity,
        now: Now,
    ) -> bool {
        let group = self.spis.get(&(protocol, *spi)).and_then(|name| self.groups.get_mut(name));
        group.is_some_and(|g| g.acknowledge(protocol, spi, counter, identity, now))
    }

    /// Is an acknowledgement of message `counter` under the rekey SA by this member of use? It is not if it is a repeat.
    #[must_use]
    pub fn awaits_ack(&self, protocol: Protocol, spi: &[u8; 16], counter: u32, identity: &Identity) -> bool {
        let group = self.spis.get(&(protocol, *spi)).and_then(|name| self.groups.get(name));
        group.is_some_and(|g| g.awaits_ack(protocol, spi, counter, identity))
    }

    /// Notes that a member has answered what it was told in band; `false` if it is a repeat or none was awaited. Flush the
    /// store afterwards.
    pub fn acknowledge_in_band(&mut self, group: &str, rekey: u64, to: &InBandTo, now: Now) -> bool {
        self.groups.get_mut(group).is_some_and(|g| g.acknowledge_in_band(rekey, to, now))
    }

    /// The IKE SA of a member that is rekeyed over it is gone; `false` if it has another. Flush the store afterwards.
    pub fn lose(&mut self, group: &str, to: &InBandTo, now: Now) -> bool {
        self.groups.get_mut(group).is_some_and(|g| g.lose(to, now))
    }

    /// Decides a rekey of a group, excluding `evict`; `None` if there is no such group.
    pub fn rekey(
        &mut self,
        group: &str,
        reason: RekeyReason,
        evict: &[Identity],
        now: Now,
        rng: &mut dyn Random,
    ) -> Option<Arc<RekeyPlan>> {
        let plan = self.groups.get_mut(group)?.rekey(reason, evict, now, rng);
        self.index_spis();
        Some(plan)
    }

    /// Goes on under these policies, of groups that change or are new. Returns the names of groups whose members are told by a
    /// rekey, which [`expire`](Self::expire) calls for at once. A group that was there before goes on from where it was.
    ///
    /// # Errors
    /// A record of a group from before that cannot be used. Nothing is changed.
    pub fn change(
        &mut self,
        policies: Vec<GroupPolicy>,
        now: Now,
        rng: &mut dyn Random,
    ) -> Result<Vec<String>, RecordError> {
        let mut revived = BTreeMap::new();
        for policy in &policies {
            if let Some(records) = self.unconfigured.get(&policy.name) {
                let own = records.iter().map(|(key, record)| (key.clone(), record)).collect();
                revived.insert(policy.name.clone(), revive(policy.clone(), &own, now, rng)?);
            }
        }
        self.unconfigured.retain(|name, _| !revived.contains_key(name));
        self.groups.append(&mut revived);
        let mut told = Vec::new();
        for policy in policies {
            let (name, policy) = (policy.name.clone(), Arc::new(policy));
            if let Some(group) = self.parked.remove(&name) {
                self.groups.insert(name.clone(), group);
            }
            match self.groups.get_mut(&name) {
                Some(group) => told.extend(group.change_policy(policy, rng).then_some(name)),
                None => drop(self.groups.insert(name, Group::create(policy, now, rng))),
            }
        }
        self.index_spis();
        Ok(told)
    }

    /// Wants a rekey of a group at once, with new rekey SAs.
    pub fn hasten(&mut self, group: &str) {
        self.groups.get_mut(group).into_iter().for_each(Group::hasten);
    }

    /// Rekeys to be sent once more: group, number, protocol, and the addresses of the members that have missed it.
    pub fn take_resends(&mut self) -> Vec<(String, u64, Protocol, Vec<std::net::SocketAddr>)> {
        let of = |(name, g): (&String, &mut Group)| {
            let name = name.clone();
            g.take_resends().into_iter().map(move |(id, p, to)| (name.clone(), id, p, to)).collect::<Vec<_>>()
        };
        self.groups.iter_mut().flat_map(of).collect()
    }

    /// The answer to a registration was sent again, to where the member is. If the group has been rekeyed since it was made, it
    /// tells keys that are replaced.
    pub fn repeated(&mut self, protocol: Protocol, issued: &Issued) {
        self.late.extend(self.groups.get(&issued.group).and_then(|g| g.late(protocol, issued)));
    }

    /// Members that were sent an answer again that is older than a rekey.
    pub fn take_late(&mut self) -> Vec<LateMember> {
        std::mem::take(&mut self.late)
    }

    /// Has any group evicted this member, or who holds its certificate?
    #[must_use]
    pub fn is_evicted(&self, identity: &Identity, holder: Option<&Holder>) -> bool {
        self.groups.values().any(|group| group.evicted(identity, holder).is_some())
    }

    /// Lets an evicted member register again; `false` if it is not an evicted member of that group.
    pub fn readmit(&mut self, group: &str, member: &Identity) -> bool {
        self.groups.get_mut(group).is_some_and(|g| g.readmit(member))
    }

    /// Drops what has run its time; returns the groups that are due for a rekey, and why.
    pub fn expire(&mut self, now: Now) -> Vec<(String, RekeyReason)> {
        let due = |(name, g): (&String, &mut Group)| g.expire(now).map(|reason| (name.clone(), reason));
        let due = self.groups.iter_mut().filter_map(due).collect();
        if self.groups.values().map(|g| g.spis().count()).sum::<usize>() != self.spis.len() {
            self.index_spis();
        }
        due
    }

    /// When [`expire`](Self::expire) is wanted next.
    #[must_use]
    pub fn deadline(&self, now: Now) -> Option<Deadline> {
        let wall = self.groups.values().map(|g| g.wake_at(now)).min()?;
        Some(Deadline { at: now.mono_of(wall), reason: "group timers" })
    }

    /// Ends a group; what is stored of it stays, and is where it goes on from if it comes back.
    pub fn remove(&mut self, group: &str) {
        self.parked.extend(self.groups.remove_entry(group));
        self.index_spis();
    }

    /// Addresses of the members that a rekey of this protocol is for: those it dismisses, and those that are active.
    #[must_use]
    pub fn receivers(&self, group: &str, protocol: Protocol, rekey: u64) -> Vec<std::net::SocketAddr> {
        let Some(group) = self.groups.get(group) else { return Vec::new() };
        group.receivers(protocol, rekey).map(|m| m.address).collect()
    }

    /// Addresses of the active members of a group and protocol, for unicast rekeys.
    #[must_use]
    pub fn addresses(&self, group: &str, protocol: Protocol) -> Vec<std::net::SocketAddr> {
        let active = self.groups.get(group).into_iter().flat_map(|g| g.active(protocol));
        active.filter(|m| !m.in_band).map(|m| m.address).collect()
    }

    /// Those of them that are reached through a translator (RFC 3947): from port 4500, with a non-ESP marker.
    #[must_use]
    pub fn marked_addresses(&self, group: &str, protocol: Protocol) -> Vec<std::net::SocketAddr> {
        let active = self.groups.get(group).into_iter().flat_map(|g| g.active(protocol));
        active.filter(|m| m.marked).map(|m| m.address).collect()
    }

    /// An active member is reached at this address now, in each of its groups. Only an authentic message of its own may say
    /// so. `marked` is for unicast rekeys through a translator.
    pub fn reach(&mut self, identity: &Identity, protocol: Protocol, address: std::net::SocketAddr, marked: bool) {
        self.groups.values_mut().for_each(|g| g.reach(identity, protocol, address, marked));
    }

    /// An active member of GDOI was seen to read phase 1 so: that is remembered in each of its groups.
    pub fn note_readings(&mut self, identity: &Identity, readings: Readings) {
        self.groups.values_mut().for_each(|g| g.note_readings(identity, readings));
    }

    /// How a member of any group was seen to read phase 1 of IKEv1 at its last registration.
    #[must_use]
    pub fn readings(&self, identity: &Identity) -> Readings {
        let members = self.groups.values().filter_map(|g| g.member(identity));
        members.map(|m| m.readings).fold(Readings::NONE, Readings::union)
    }

    /// Is this identity known to the group, present or past?
    #[must_use]
    pub fn knows(&self, group: &str, member: &Identity) -> bool {
        self.groups.get(group).is_some_and(|g| g.member(member).is_some())
    }

    /// Changes that must be durable before anything that depends on them is sent.
    pub fn take_store_ops(&mut self) -> Vec<StoreOp> {
        self.groups.values_mut().chain(self.parked.values_mut()).flat_map(Group::take_ops).collect()
    }

    fn by_id(&mut self, id: &GroupId) -> Option<&mut Group> {
        self.groups.values_mut().find(|g| g.policy().ids.contains(id))
    }

    fn with_spi(&self, protocol: Protocol, spi: &[u8; 16]) -> Option<(&Group, RekeySaInfo<'_>)> {
        let group = self.groups.get(self.spis.get(&(protocol, *spi))?)?;
        let side = group.side(protocol)?;
        let at = side.sas().find(|at| at.sa.spi == *spi)?;
        Some((group, RekeySaInfo { sa: at.sa, made_under: at.policy, policy: group.policy(), highest: at.sent }))
    }
}

/// A group from its records (keys without its prefix), or a new one if it has none.
fn revive(
    policy: GroupPolicy,
    records: &BTreeMap<String, &Secret>,
    now: Now,
    rng: &mut dyn Random,
) -> Result<Group, RecordError> {
    let policy = Arc::new(policy);
    let restored = Group::restore(Arc::clone(&policy), records, now)
        .map_err(|e| RecordError { key: key_prefix(&policy.name) + &e.key, why: e.why })?;
    Ok(match restored {
        Some(mut group) => {
            group.complete_sides(records, now, rng);
            group
        }
        None => Group::create(policy, now, rng),
    })
}
