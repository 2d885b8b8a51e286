//! The members of a group, present and past, found by identity and by address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::holder::{Holder, Mark};
use crate::id::{Identity, Protocol};
use crate::member::Member;
use crate::view::MemberState;

/// All members that a group has seen.
#[derive(Debug, Default)]
pub(crate) struct Members {
    all: BTreeMap<Identity, Member>,
    /// Members that may acknowledge something; several where they share an address behind a translator.
    at: BTreeMap<(Protocol, IpAddr), BTreeSet<Identity>>,
    active: BTreeMap<Protocol, usize>,
    /// Of those, how many can prove that they got a rekey message.
    proving: BTreeMap<Protocol, usize>,
    /// How many follow GSA_REKEY and take no fragments of it.
    whole: usize,
    /// Active members that are rekeyed in band.
    in_band: BTreeSet<Identity>,
    /// The last rekey that ended a membership.
    last_until: Option<u64>,
    /// Members by what tells who holds their certificates.
    marked: BTreeMap<Mark, BTreeSet<Identity>>,
}

impl Members {
    pub(crate) fn get(&self, identity: &Identity) -> Option<&Member> {
        self.all.get(identity)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.all.values()
    }

    /// Active members of a protocol.
    pub(crate) fn active(&self, protocol: Protocol) -> impl Iterator<Item = &Member> {
        self.all.values().filter(move |m| m.is_active(protocol))
    }

    /// How many there are of them.
    pub(crate) fn count(&self, protocol: Protocol) -> usize {
        self.active.get(&protocol).copied().unwrap_or(0)
    }

    /// How many follow the rekey messages of a protocol.
    pub(crate) fn listening(&self, protocol: Protocol) -> usize {
        match protocol {
            Protocol::Gdoi => self.count(protocol),
            Protocol::Gikev2 => self.count(protocol) - self.in_band.len(),
        }
    }

    /// How many of those can prove by a key of their own that they got one.
    pub(crate) fn proving(&self, protocol: Protocol) -> usize {
        self.proving.get(&protocol).copied().unwrap_or(0)
    }

    /// Do all who follow GSA_REKEY take it in fragments?
    pub(crate) fn take_fragments(&self) -> bool {
        self.whole == 0
    }

    /// Active members that are rekeyed in band.
    pub(crate) fn in_band(&self) -> impl Iterator<Item = &Member> {
        self.in_band.iter().filter_map(|identity| self.all.get(identity))
    }

    /// Did this rekey, or a later one, end any membership?
    pub(crate) fn were_dismissed_by(&self, rekey: u64) -> bool {
        self.last_until >= Some(rekey)
    }

    /// Members of a protocol that registered from this address and may acknowledge something.
    pub(crate) fn at(&self, protocol: Protocol, ip: IpAddr) -> impl Iterator<Item = &Member> {
        self.at.get(&(protocol, ip)).into_iter().flatten().filter_map(|identity| self.all.get(identity))
    }

    /// Members that are known by this mark.
    fn with_mark<'a>(&'a self, mark: &Mark) -> impl Iterator<Item = &'a Member> + use<'a> {
        self.marked.get(mark).into_iter().flatten().filter_map(|identity| self.all.get(identity))
    }

    /// Members that registered with a certificate for this holder's key, under whatever name.
    pub(crate) fn with_key(&self, holder: &Holder) -> impl Iterator<Item = &Member> {
        self.with_mark(&Mark::Key(holder.key.clone()))
    }

    /// Members that are this holder by all that tells; some may come twice.
    pub(crate) fn of(&self, holder: &Holder) -> impl Iterator<Item = &Member> {
        holder.marks().flat_map(|mark| self.with_mark(&mark))
    }

    /// Enters a member, in place of what was known of it.
    pub(crate) fn put(&mut self, member: Member) {
        self.unlist(&member.identity);
        if member.listens(member.protocol) {
            let key = (member.protocol, member.address.ip());
            self.at.entry(key).or_default().insert(member.identity.clone());
        }
        if member.state == MemberState::Active {
            *self.active.entry(member.protocol).or_default() += 1;
            *self.proving.entry(member.protocol).or_default() += usize::from(member.can_prove());
            if member.in_band {
                self.in_band.insert(member.identity.clone());
            }
        }
        self.whole += usize::from(member.needs_whole());
        self.last_until = self.last_until.max(member.until);
        for mark in member.holder.iter().flat_map(Holder::marks) {
            self.marked.entry(mark).or_default().insert(member.identity.clone());
        }
        self.all.insert(member.identity.clone(), member);
    }

    /// Notes something that changes neither state nor address of a member.
    pub(crate) fn note(&mut self, identity: &Identity, change: impl FnOnce(&mut Member)) {
        let Some(member) = self.all.get_mut(identity) else { return };
        let before = member.can_prove();
        change(member);
        if member.state == MemberState::Active
            && let Some(count) = self.proving.get_mut(&member.protocol)
        {
            *count = *count - usize::from(before) + usize::from(member.can_prove());
        }
    }

    /// Changes the state of a member, and says which rekey ended its membership, if one did.
    pub(crate) fn set_state(&mut self, identity: &Identity, state: MemberState, until: Option<u64>) {
        if let Some(member) = self.all.get(identity) {
            self.put(Member { state, until, ..member.clone() });
        }
    }

    fn unlist(&mut self, identity: &Identity) {
        let Some(member) = self.all.get(identity) else { return };
        for mark in member.holder.iter().flat_map(Holder::marks) {
            if let Some(list) = self.marked.get_mut(&mark) {
                list.remove(identity);
                if list.is_empty() {
                    self.marked.remove(&mark);
                }
            }
        }
        let key = (member.protocol, member.address.ip());
        if let Some(list) = self.at.get_mut(&key) {
            list.remove(identity);
            if list.is_empty() {
                self.at.remove(&key);
            }
        }
        if member.state == MemberState::Active {
            let counted = self.active.get_mut(&member.protocol);
            counted.into_iter().for_each(|count| *count -= 1);
            let proving = self.proving.get_mut(&member.protocol);
            proving.into_iter().for_each(|count| *count -= usize::from(member.can_prove()));
            self.in_band.remove(identity);
        }
        self.whole -= usize::from(member.needs_whole());
    }
}

impl FromIterator<Member> for Members {
    fn from_iter<T: IntoIterator<Item = Member>>(members: T) -> Self {
        let mut list = Self::default();
        members.into_iter().for_each(|m| list.put(m));
        list
    }
}
