//! What must hold. Each check looks at evidence only, so that a test can show it fail.

use std::collections::{BTreeMap, BTreeSet};

use keyferry_model::id::{Identity, Protocol};
use keyferry_model::view::{EpochView, GroupView, MemberState, MemberView, RekeyView};
use serde::Serialize;

use super::sniffer::Seen;
use super::talk::Count;

/// One thing that must hold, and whether it does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    /// Name for machines.
    pub name: String,
    /// Does it hold?
    pub ok: bool,
    /// What was seen.
    pub detail: String,
}

impl Check {
    /// A check that holds when `faults` is empty.
    pub(super) fn faultless(name: &str, good: impl Into<String>, faults: &[String]) -> Self {
        let detail = if faults.is_empty() { good.into() } else { faults.join("; ") };
        Self { name: name.to_owned(), ok: faults.is_empty(), detail }
    }

    /// A check that does not hold because a step could not be carried out.
    pub(super) fn failed(name: &str, detail: impl Into<String>) -> Self {
        Self { name: name.to_owned(), ok: false, detail: detail.into() }
    }
}

/// A check that was not made, and why. It is neither good nor bad.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Skipped {
    /// Name of the check.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// A member as the lab set it up.
#[derive(Clone, Debug)]
pub(super) struct Expected {
    /// Name for people.
    pub name: String,
    /// Identity.
    pub identity: Identity,
    /// Protocol.
    pub protocol: Protocol,
}

/// What a member holds, by its own word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Holding {
    /// Name for people.
    pub name: String,
    /// Its data SAs by SPI, and how many packets it opened with each.
    pub opened: BTreeMap<u32, u64>,
    /// Registrations since it was started.
    pub registrations: u64,
}

impl Holding {
    /// Packets opened since an earlier look.
    pub(super) fn opened_since(&self, before: &Self) -> u64 {
        let since = |(spi, now): (&u32, &u64)| now.saturating_sub(before.opened.get(spi).copied().unwrap_or_default());
        self.opened.iter().map(since).sum()
    }
}

/// What should have gone from one member to another during a stage, and what of it arrived.
#[derive(Clone, Debug)]
pub(super) struct Delivery {
    /// Sender's name.
    pub sender: String,
    /// Receiver's name.
    pub receiver: String,
    /// What arrived and what did not.
    pub count: Count,
}

/// All are registered, by the protocol they were told to use, and nobody else is.
pub(super) fn registered(expected: &[Expected], views: &[MemberView]) -> Check {
    let mut faults = Vec::new();
    for e in expected {
        match views.iter().find(|v| v.identity == e.identity) {
            None => faults.push(format!("{} is not registered", e.name)),
            Some(v) if v.state != MemberState::Active => faults.push(format!("{} is not active", e.name)),
            Some(v) if v.protocol != e.protocol => faults.push(format!("{} came by {}", e.name, v.protocol)),
            Some(_) => {}
        }
    }
    let strangers = views.iter().filter(|v| !expected.iter().any(|e| e.identity == v.identity));
    faults.extend(strangers.map(|v| format!("{} is a stranger", v.identity)));
    let of = |p: Protocol| expected.iter().filter(|e| e.protocol == p).count();
    let good = format!("{} by GDOI, {} by G-IKEv2", of(Protocol::Gdoi), of(Protocol::Gikev2));
    Check::faultless("registered", good, &faults)
}

/// Nothing of what should have arrived is missing, and something should have.
pub(super) fn lossless(name: &str, deliveries: &[Delivery]) -> Check {
    let lost = |d: &&Delivery| d.count.missing > 0;
    let mut faults: Vec<String> = deliveries.iter().filter(lost).take(3).map(loss).collect();
    let more = deliveries.iter().filter(lost).count().saturating_sub(faults.len());
    if more > 0 {
        faults.push(format!("and {more} pairs more"));
    }
    let received: u64 = deliveries.iter().map(|d| d.count.received).sum();
    if faults.is_empty() && received == 0 {
        faults.push("nothing was sent".to_owned());
    }
    Check::faultless(name, format!("{received} packets received, none lost"), &faults)
}

fn loss(d: &Delivery) -> String {
    let of = d.count.missing + d.count.received;
    let first = d.count.first_missing.map(|f| format!(" (first number {f})")).unwrap_or_default();
    format!("{} lost {} of {of} from {}{first}", d.receiver, d.count.missing, d.sender)
}

/// Nobody received a packet twice.
pub(super) fn unrepeated(duplicates: &[(String, u64)]) -> Check {
    let faults: Vec<String> = duplicates
        .iter()
        .filter(|(_, n)| *n > 0)
        .map(|(name, n)| format!("{name} received {n} packets again"))
        .collect();
    Check::faultless("no-duplicates", "no packet received twice", &faults)
}

/// A rekey brought a new epoch, and all who should have its keys do.
pub(super) fn rekeyed(name: &str, before: &GroupView, after: &GroupView, holdings: &[Holding]) -> Check {
    let newest = |g: &GroupView| g.epochs.last().map(|e| e.number).unwrap_or_default();
    let Some(epoch) = after.epochs.last().filter(|e| e.number > newest(before)) else {
        return Check::failed(name, format!("there is no epoch after {}", newest(before)));
    };
    let spis = spis(epoch);
    let without = holdings.iter().filter(|h| !spis.iter().all(|spi| h.opened.contains_key(spi)));
    let faults: Vec<String> = without.map(|h| format!("{} has no keys of epoch {}", h.name, epoch.number)).collect();
    Check::faultless(name, format!("epoch {} reached {} members", epoch.number, holdings.len()), &faults)
}

/// SPIs of an epoch.
pub(super) fn spis(epoch: &EpochView) -> BTreeSet<u32> {
    epoch.spis.iter().filter_map(|s| u32::from_str_radix(s.trim_start_matches("0x"), 16).ok()).collect()
}

/// Every rekey was acknowledged by each member that it was meant for and that can.
pub(super) fn acknowledged(rekeys: &[(RekeyView, Vec<Identity>)]) -> Check {
    let mut faults = Vec::new();
    let mut latencies = Vec::new();
    for (rekey, expected) in rekeys {
        for identity in expected {
            match rekey.acks.iter().find(|a| a.identity == *identity) {
                Some(ack) => latencies.push(ack.latency_ms),
                None => faults.push(format!("rekey {} has no acknowledgement from {identity}", rekey.id)),
            }
        }
    }
    latencies.sort_unstable();
    let worst = latencies.last().copied().unwrap_or_default();
    let good = format!("{} acknowledgements of {} rekeys, the latest after {worst} ms", latencies.len(), rekeys.len());
    if faults.is_empty() && latencies.is_empty() {
        faults.push("no acknowledgement was expected".to_owned());
    }
    Check::faultless("acks", good, &faults)
}

/// A member that is told rekeys over its IKE SA has answered each of them.
pub(super) fn in_band(member: Option<&MemberView>, rekeys: &[&RekeyView]) -> Check {
    let Some(member) = member else { return Check::failed("in-band", "the gateway does not know the member") };
    let mut faults = Vec::new();
    if !member.in_band {
        faults.push(format!("{} is not rekeyed in band", member.identity));
    }
    let answered =
        |r: &&&RekeyView| r.acks.iter().any(|a| a.identity == member.identity && a.protocol == Protocol::Gikev2);
    let silent = rekeys.iter().filter(|r| !answered(r));
    faults.extend(silent.map(|r| format!("rekey {} has no answer from {}", r.id, member.identity)));
    if rekeys.is_empty() {
        faults.push("there was no rekey".to_owned());
    }
    let good = format!("{} answered {} of {1} rekeys in band", member.identity, rekeys.len());
    Check::faultless("in-band", good, &faults)
}

/// The gateway as seen before and after its restart.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    /// The group.
    pub group: GroupView,
    /// Its members.
    pub members: Vec<MemberView>,
    /// What members hold.
    pub holdings: Vec<Holding>,
}

/// Keys, counters and sender IDs went on over a restart.
pub(super) fn kept_keys(before: &Snapshot, after: &Snapshot) -> Check {
    let mut faults = Vec::new();
    for e in before.group.epochs.iter().filter(|e| !e.replaced) {
        if !after.group.epochs.iter().any(|a| a.number == e.number && a.spis == e.spis) {
            faults.push(format!("epoch {} is gone", e.number));
        }
    }
    for sa in &before.group.rekey_sas {
        match after.group.rekey_sas.iter().find(|a| a.protocol == sa.protocol && a.spi == sa.spi) {
            None => faults.push(format!("the rekey SA of {} is another", sa.protocol)),
            Some(a) if a.sent < sa.sent => faults.push(format!("{}'s counter fell to {}", sa.protocol, a.sent)),
            Some(_) => {}
        }
    }
    let (was, is) = (before.group.next_sender_id, after.group.next_sender_id);
    if is < was {
        faults.push(format!("the next sender ID fell from {was} to {is}"));
    }
    let good = format!(
        "live epochs: {}, rekey SAs: {}, next sender ID {is}",
        after.group.epochs.len(),
        after.group.rekey_sas.len()
    );
    Check::faultless("restart-keys", good, &faults)
}

/// Nobody had to register again because of a restart, and nobody was forgotten.
pub(super) fn kept_members(before: &Snapshot, after: &Snapshot) -> Check {
    let mut faults = Vec::new();
    for b in &before.members {
        match after.members.iter().find(|a| a.identity == b.identity) {
            None => faults.push(format!("{} is forgotten", b.identity)),
            Some(a) if a.state != b.state => faults.push(format!("{} has another state", b.identity)),
            Some(a) if a.registrations != b.registrations => faults.push(format!("{} registered again", b.identity)),
            Some(a) if a.sender_ids != b.sender_ids => faults.push(format!("{} has other sender IDs", b.identity)),
            Some(_) => {}
        }
    }
    for b in &before.holdings {
        let after = after.holdings.iter().find(|a| a.name == b.name);
        if after.is_none_or(|a| a.registrations != b.registrations) {
            faults.push(format!("{} says that it registered again", b.name));
        }
    }
    Check::faultless("restart-members", format!("{} members, none registered again", after.members.len()), &faults)
}

/// No sender ID belongs to two members, by the gateway's word and on the wire, and no nonce was used twice.
pub(super) fn sender_ids(given: &[(String, Vec<u32>)], seen: &Seen) -> Check {
    let mut owners: BTreeMap<u32, BTreeSet<&str>> = BTreeMap::new();
    for (owner, ids) in given {
        for id in ids {
            owners.entry(*id).or_default().insert(owner);
        }
    }
    let twice = owners.iter().filter(|(_, who)| who.len() > 1);
    let mut faults: Vec<String> = twice
        .map(|(id, who)| format!("sender ID {id} went to {}", Vec::from_iter(who.iter().copied()).join(" and ")))
        .collect();
    faults.extend(
        seen.shared_sender_ids().iter().map(|(spi, id)| format!("two sources used sender ID {id} under {spi:#010x}")),
    );
    if seen.repeated_nonces > 0 {
        faults.push(format!("{} nonces were used twice", seen.repeated_nonces));
    }
    let good = format!("{} given, none twice; no nonce repeated in {} packets", owners.len(), seen.esp);
    Check::faultless("sender-ids", good, &faults)
}

/// A member changed its protocol and nothing else.
pub(super) fn moved(before: Option<&MemberView>, after: Option<&MemberView>) -> Check {
    let (Some(before), Some(after)) = (before, after) else {
        return Check::failed("move", "the gateway does not know the member");
    };
    let mut faults = Vec::new();
    if after.protocol != Protocol::Gikev2 || after.state != MemberState::Active {
        faults.push(format!("{} is not registered by G-IKEv2", after.identity));
    }
    if !after.history.contains(&Protocol::Gdoi) {
        faults.push("its past with GDOI is forgotten".to_owned());
    }
    if after.address.ip() != before.address.ip() {
        faults.push(format!("it came from {}", after.address));
    }
    if after.registrations <= before.registrations {
        faults.push("it did not register".to_owned());
    }
    Check::faultless("move", format!("{} came back by G-IKEv2", after.identity), &faults)
}

/// A member left the group at its own wish.
pub(super) fn left(after: Option<&MemberView>) -> Check {
    let Some(after) = after else { return Check::failed("leave", "the gateway does not know the member") };
    let mut faults = Vec::new();
    if after.state != MemberState::Left {
        faults.push(format!("the gateway still counts {}", after.identity));
    }
    Check::faultless("leave", format!("{} is a member no more", after.identity), &faults)
}

/// What an evicted member still got out of the group after its eviction took effect.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Leak {
    /// Packets that its application received.
    pub received: u64,
    /// Packets that its data plane opened.
    pub opened: u64,
    /// Packets that were sent to the group meanwhile.
    pub sent: u64,
}

/// An evicted member decrypts nothing that was sent after the new keys took over.
pub(super) fn shut_out(leak: Leak) -> Check {
    let mut faults = Vec::new();
    if leak.received > 0 {
        faults.push(format!("its application received {} of {} packets", leak.received, leak.sent));
    }
    if leak.opened > 0 {
        faults.push(format!("its data plane opened {} packets", leak.opened));
    }
    if leak.sent == 0 {
        faults.push("nothing was sent".to_owned());
    }
    Check::faultless("evict-shut-out", format!("none of {} packets decrypted", leak.sent), &faults)
}

/// Nobody takes what an evicted member sends once the old keys are gone.
pub(super) fn ignored(sent: u64, deliveries: &[Delivery]) -> Check {
    let heard = deliveries.iter().filter(|d| d.count.received > 0);
    let mut faults: Vec<String> = heard.map(|d| format!("{} took {} packets", d.receiver, d.count.received)).collect();
    if sent == 0 {
        faults.push("the evicted member sent nothing".to_owned());
    }
    Check::faultless("evict-ignored", format!("none of its {sent} packets taken by anybody"), &faults)
}

/// The wire bears the group's traffic as ESP under the group's keys, and nothing of it in clear.
pub(super) fn wire(seen: &Seen, epochs: &BTreeMap<u64, BTreeSet<u32>>) -> Check {
    let mut faults = Vec::new();
    if seen.clear > 0 {
        faults.push(format!("{} packets of the group in clear", seen.clear));
    }
    if seen.esp == 0 {
        faults.push("no ESP".to_owned());
    }
    let known: BTreeSet<u32> = epochs.values().flatten().copied().collect();
    faults.extend(
        seen.spis.keys().filter(|spi| !known.contains(spi)).map(|spi| format!("ESP under the unknown SPI {spi:#010x}")),
    );
    let good = format!("{} ESP packets, {} of the key server's port, nothing in clear", seen.esp, seen.ike);
    Check::faultless("wire", good, &faults)
}

#[cfg(test)]
mod tests;
