//! A group in the store and back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::{Secret, SigningKey};
use serde::{Deserialize, Serialize};

use super::form::{Form, key_hash, signer};
use super::side::NextSa;
use super::{Group, ReplacedSa, Side};
use crate::epoch::{Epoch, EpochRecord};
use crate::id::{Identity, Protocol};
use crate::ledger::{Ack, Entry, Ledger};
use crate::lkh::{KeyTree, NodeRecord};
use crate::member::Member;
use crate::members::Members;
use crate::policy::GroupPolicy;
use crate::rekey_sa::{RekeySa, RekeySaRecord, keymat_len, tree_key_len};
use crate::sender_id::SenderIdAllocator;
use crate::store::{RecordError, StoreOp, get, put};
use crate::time::Now;
use crate::view::MemberState;

#[derive(Serialize, Deserialize)]
struct StateRecord {
    generation: u64,
    next_epoch: u64,
    next_rekey: u64,
    epochs: Vec<EpochRecord>,
    sides: BTreeMap<Protocol, SideRecord>,
    leavers_due: Option<Duration>,
    #[serde(default)]
    newcomers_due: Option<Duration>,
    #[serde(default)]
    asked_due: Option<Duration>,
    #[serde(default = "unknown_told")]
    told_epoch: u64,
}

/// Where nobody noted it, any epoch may have been told.
fn unknown_told() -> u64 {
    u64::MAX
}

/// Where nobody noted it, any epoch may have been sent.
#[allow(clippy::unnecessary_wraps)]
fn unknown_carried() -> Option<u64> {
    Some(0)
}

#[derive(Serialize, Deserialize)]
struct SideRecord {
    current: RekeySaRecord,
    form: Form,
    sent: u32,
    #[serde(default = "unknown_carried")]
    carried: Option<u64>,
    #[serde(default)]
    next: Option<(RekeySaRecord, bool)>,
    replaced: Vec<(RekeySaRecord, Form, u32, Duration)>,
    next_handle: u32,
    fresh_from: u32,
    stale: BTreeSet<u32>,
    outsiders: BTreeSet<Identity>,
}

/// What all keys of a group's records begin with.
pub(crate) fn key_prefix(group: &str) -> String {
    format!("group/{group}/")
}

/// The group that a record is of, and what its key says besides; `None` if it is of no group. Names have no slash.
pub(crate) fn split_key(key: &str) -> Option<(&str, &str)> {
    key.strip_prefix("group/")?.split_once('/')
}

fn node_ops(group: &str, protocol: Protocol, changes: Vec<(u32, Option<NodeRecord>)>) -> impl Iterator<Item = StoreOp> {
    let prefix = format!("{}tree/{protocol}/", key_prefix(group));
    changes.into_iter().map(move |(node, record)| {
        let key = format!("{prefix}{node}");
        match record {
            Some(record) => put(key, &record),
            None => StoreOp::Delete(key),
        }
    })
}

impl Group {
    pub(super) fn key(&self, rest: &str) -> String {
        key_prefix(&self.policy.name) + rest
    }

    /// Epochs, rekey SAs and counters are to be stored; once, however often a step changes them.
    pub(super) fn store_state(&mut self) {
        self.state_changed = true;
    }

    /// What is given next is to be stored: sender IDs, and the handles that a join uses up without any other change of state.
    pub(super) fn store_sender_ids(&mut self) {
        self.given_changed = true;
    }

    /// Everything that is to be stored since the last call.
    pub(crate) fn take_ops(&mut self) -> Vec<StoreOp> {
        for (protocol, side) in &mut self.sides {
            let changes = side.tree.take_changes();
            self.ops.extend(node_ops(&self.policy.name, *protocol, changes));
        }
        if std::mem::take(&mut self.state_changed) {
            self.put_state();
        }
        if std::mem::take(&mut self.given_changed) {
            self.put_given();
        }
        std::mem::take(&mut self.ops)
    }

    fn put_state(&mut self) {
        let side = |(protocol, s): (&Protocol, &Side)| {
            let replaced = s.replaced.iter().filter_map(|r| {
                let form = Form::of(&r.policy, *protocol)?;
                Some((r.sa.to_record(), form, r.sent, r.until))
            });
            let record = SideRecord {
                current: s.current.to_record(),
                form: Form::of(&s.policy, *protocol)?,
                sent: s.sent,
                carried: s.carried,
                next: s.next.as_ref().map(|n| (n.sa.to_record(), n.given)),
                replaced: replaced.collect(),
                next_handle: s.tree.next_handle(),
                fresh_from: s.tree.fresh_from(),
                stale: s.stale.clone(),
                outsiders: s.outsiders.clone(),
            };
            Some((*protocol, record))
        };
        let record = StateRecord {
            generation: self.generation,
            next_epoch: self.next_epoch,
            next_rekey: self.next_rekey,
            epochs: self.epochs.iter().map(|e| e.to_record()).collect(),
            sides: self.sides.iter().filter_map(side).collect(),
            leavers_due: self.leavers_due,
            newcomers_due: self.newcomers_due,
            asked_due: self.asked_due,
            told_epoch: self.told_epoch,
        };
        self.ops.push(put(self.key("state"), &record));
    }

    fn put_given(&mut self) {
        let record = (self.sender_ids.next(), self.exhausted, self.sender_ids.bits());
        self.ops.push(put(self.key("sender-ids"), &record));
        let handles: BTreeMap<Protocol, u32> = self.sides.iter().map(|(p, s)| (*p, s.tree.next_handle())).collect();
        self.ops.push(put(self.key("handles"), &handles));
    }

    pub(super) fn store_member(&mut self, identity: &Identity) {
        if let Some(member) = self.members.get(identity) {
            self.ops.push(put(self.key(&format!("member/{}", identity.record_key())), member));
        }
    }

    /// Keeps the key that signs under the present rekey SA, so that members can be told when it is replaced by another.
    pub(super) fn store_signer(&mut self, protocol: Protocol) {
        let key = self.sides.get(&protocol).and_then(|s| signer(&s.policy, protocol)).map(Arc::clone);
        let hash = key.as_ref().map(|k| key_hash(k));
        if self.stored_signers.get(&protocol) == hash.as_ref() {
            return;
        }
        let name = self.key(&signer_key(protocol));
        self.ops.push(match &key {
            Some(key) => StoreOp::Put(name, key.to_pem()),
            None => StoreOp::Delete(name),
        });
        match hash {
            Some(hash) => drop(self.stored_signers.insert(protocol, hash)),
            None => drop(self.stored_signers.remove(&protocol)),
        }
    }

    pub(super) fn store_entry(&mut self, id: u64) {
        if let Some(entry) = self.ledger.entries.get(&id) {
            self.ops.push(put(self.key(&format!("rekey/{id}")), entry));
        }
    }

    pub(super) fn store_ack(&mut self, id: u64, identity: &Identity, ack: Ack) {
        self.ops.push(put(self.key(&format!("ack/{id}/{}", identity.record_key())), &ack));
    }

    pub(super) fn forget_entry(&mut self, entry: &Entry) {
        self.ops.push(StoreOp::Delete(self.key(&format!("rekey/{}", entry.id))));
        for identity in entry.acks.keys() {
            self.ops.push(StoreOp::Delete(self.key(&format!("ack/{}/{}", entry.id, identity.record_key()))));
        }
    }

    /// Rebuilds a group from its records (keys without the group's prefix); `None` if there is no state record.
    ///
    /// # Errors
    /// A record that cannot be read. Where the policy has changed, a rekey is due that tells members so.
    pub(crate) fn restore(
        policy: Arc<GroupPolicy>,
        records: &BTreeMap<String, &Secret>,
        now: Now,
    ) -> Result<Option<Self>, RecordError> {
        let Some(bytes) = records.get("state") else { return Ok(None) };
        let state: StateRecord = get("state", bytes)?;
        // Without these, IDs and handles could be given twice: a store that lost them is of no use.
        let must = |key: &str| records.get(key).ok_or_else(|| RecordError::new(key, "is missing"));
        let handles: BTreeMap<Protocol, u32> = get("handles", must("handles")?)?;
        let (next_sender_id, exhausted, bits) = get("sender-ids", must("sender-ids")?)?;
        let mut sides = BTreeMap::new();
        for (protocol, record) in state.sides {
            let handles = handles.get(&protocol).copied().unwrap_or(0);
            if let Some(side) = restore_side(protocol, record, handles, &policy, records)? {
                sides.insert(protocol, side);
            }
        }
        let mut ledger = Ledger::default();
        for (key, bytes) in with_prefix(records, "rekey/") {
            let mut entry: Entry = get(key, bytes)?;
            // Nobody has listened to acknowledgements meanwhile.
            entry.open_since = Some(now.wall);
            for (key, bytes) in with_prefix(records, &format!("ack/{}/", entry.id)) {
                let identity = key.splitn(3, '/').nth(2).and_then(|i| i.parse::<Identity>().ok());
                let identity = identity.ok_or_else(|| RecordError::new(key, "names no identity"))?;
                entry.acks.insert(identity, get(key, bytes)?);
            }
            ledger.add(entry);
        }
        let epochs = state.epochs.into_iter().map(|e| Epoch::from_record(e, &policy).map(Arc::new));
        let epochs = epochs.collect::<Option<Vec<_>>>().filter(|e| !e.is_empty()).ok_or_else(|| misfit("state"))?;
        let members = with_prefix(records, "member/")
            .map(|(key, bytes)| get::<Member>(key, bytes))
            .collect::<Result<Members, _>>()?;
        let stored_signers = sides
            .iter()
            .filter(|(p, _)| records.contains_key(&signer_key(**p)))
            .filter_map(|(p, s)| Some((*p, key_hash(signer(&s.policy, *p)?))))
            .collect();
        let mut group = Self {
            generation: state.generation,
            epochs,
            next_epoch: state.next_epoch,
            next_rekey: state.next_rekey,
            sides,
            sender_ids: SenderIdAllocator::new(bits, next_sender_id),
            members,
            ledger,
            exhausted,
            pending: None,
            keks_overdue: false,
            leavers_due: state.leavers_due,
            newcomers_due: state.newcomers_due,
            asked_due: state.asked_due,
            told_epoch: state.told_epoch.min(state.next_epoch.saturating_sub(1)),
            state_changed: false,
            given_changed: false,
            resend: Vec::new(),
            stored_signers,
            ops: Vec::new(),
            policy,
        };
        group.lose_all(now);
        group.compare();
        Ok(Some(group))
    }

    /// Starts the sides that the policy serves and the stored state does not have: of a protocol that is new, or was not served
    /// for a while. Members of that time, and of a protocol that is not served any more, hold keys of a tree that is gone, so
    /// they are members no more.
    pub(crate) fn complete_sides(
        &mut self,
        records: &BTreeMap<String, &Secret>,
        now: crate::time::Now,
        rng: &mut dyn keyferry_crypto::Random,
    ) {
        for protocol in Protocol::ALL {
            if self.sides.contains_key(&protocol) {
                continue;
            }
            let prefix = format!("tree/{protocol}/");
            let old: Vec<StoreOp> =
                with_prefix(records, &prefix).map(|(key, _)| StoreOp::Delete(self.key(key))).collect();
            self.ops.extend(old);
            self.dismiss(protocol);
            self.start_side(protocol, now, rng);
            self.store_sender_ids();
            self.store_state();
        }
        self.prepare_sas(rng);
        self.compare();
    }
}

impl Group {
    /// Members of a protocol whose keys are worth nothing any more have left; how many they were.
    pub(super) fn dismiss(&mut self, protocol: Protocol) -> usize {
        let gone: Vec<Identity> = self.members.active(protocol).map(|m| m.identity.clone()).collect();
        for identity in &gone {
            self.members.set_state(identity, MemberState::Left, Some(self.next_rekey));
            self.store_member(identity);
        }
        gone.len()
    }
}

fn with_prefix<'a>(
    records: &'a BTreeMap<String, &Secret>,
    prefix: &str,
) -> impl Iterator<Item = (&'a str, &'a Secret)> {
    records
        .range(prefix.to_owned()..)
        .take_while({
            let prefix = prefix.to_owned();
            move |(k, _)| k.starts_with(&prefix)
        })
        .map(|(k, v)| (k.as_str(), *v))
}

fn misfit(key: &str) -> RecordError {
    RecordError::new(key, "holds keys that do not fit what it says of them")
}

/// `None` when the policy no longer serves the protocol, or the key is lost that signs what its members would be told.
fn restore_side(
    protocol: Protocol,
    record: SideRecord,
    handles: u32,
    present: &Arc<GroupPolicy>,
    records: &BTreeMap<String, &Secret>,
) -> Result<Option<Side>, RecordError> {
    let Some(policy) = made_under(protocol, &record.form, present, records)? else { return Ok(None) };
    let (Some(len), Some(tree_len)) = (keymat_len(protocol, &policy), tree_key_len(protocol, &policy)) else {
        return Ok(None);
    };
    let prefix = format!("tree/{protocol}/");
    let mut nodes = BTreeMap::new();
    for (key, bytes) in with_prefix(records, &prefix) {
        let node = key[prefix.len()..].parse().map_err(|_| RecordError::new(key, "names no node"))?;
        nodes.insert(node, get::<NodeRecord>(key, bytes)?);
    }
    let next_handle = record.next_handle.max(handles);
    let tree = KeyTree::restore(present.capacity, tree_len, next_handle, record.fresh_from, nodes);
    let tree = tree.ok_or_else(|| misfit(&prefix))?;
    let current = RekeySa::from_record(record.current);
    let next = record.next.map(|(sa, given)| NextSa { sa: Arc::new(RekeySa::from_record(sa)), given });
    if current.keymat.len() != len || next.as_ref().is_some_and(|n| n.sa.keymat.len() != len) {
        return Err(misfit("state"));
    }
    let replaced = record.replaced.into_iter().filter_map(|(sa, form, sent, until)| {
        // Nothing is signed under it any more.
        let policy = form.policy(present, None)?;
        Some(ReplacedSa { sa: Arc::new(RekeySa::from_record(sa)), policy, sent, until })
    });
    Ok(Some(Side {
        current: Arc::new(current),
        policy,
        sent: record.sent,
        carried: record.carried,
        next,
        replaced: replaced.collect(),
        tree,
        former: None,
        stale: record.stale,
        outsiders: record.outsiders,
    }))
}

/// The policy that a rekey SA was made under, with the key that signs under it.
fn made_under(
    protocol: Protocol,
    form: &Form,
    present: &Arc<GroupPolicy>,
    records: &BTreeMap<String, &Secret>,
) -> Result<Option<Arc<GroupPolicy>>, RecordError> {
    if Form::of(present, protocol).as_ref() == Some(form) {
        return Ok(Some(Arc::clone(present)));
    }
    let Some(wanted) = form.signer() else { return Ok(form.policy(present, None)) };
    if signer(present, protocol).is_some_and(|key| key_hash(key) == wanted) {
        return Ok(form.policy(present, None));
    }
    let name = signer_key(protocol);
    let Some(pem) = records.get(&name) else { return Ok(None) };
    let key = SigningKey::from_pem(pem.expose()).map_err(|e| RecordError::new(&name, e.to_string()))?;
    Ok((key_hash(&key) == wanted).then(|| form.policy(present, Some(Arc::new(key)))).flatten())
}

/// Record of the key that signs under the rekey SA there is.
fn signer_key(protocol: Protocol) -> String {
    format!("signer/{protocol}")
}
