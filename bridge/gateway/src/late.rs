//! Rekeys for members whose answers to their registrations come late.
//!
//! An answer that is lost is repeated, the same octets, when the request is (RFC 7296 section 2.1). If the group has been rekeyed
//! meanwhile, the answer tells keys that are replaced, and the copies of the rekey went out when the member knew no rekey SA to
//! read them by. So whoever draws such an answer is sent the rekeys behind it, too, to itself alone: unchanged, as all copies are,
//! and as often as everybody was sent them, for they may overtake the answer or be lost like it.
//!
//! Whoever sees a request can replay it. That draws copies to nobody but the member, never faster than a rekey's, and of one rekey
//! no more than [`RUNS`] times as many as everybody was sent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use keyferry_model::admission::LateMember;
use keyferry_model::drive::Outbox;
use keyferry_model::id::{Identity, Protocol};

use crate::outgoing::transmit;

/// So many times as often as to everybody, a rekey is sent at most to one member that is late.
const RUNS: u16 = 4;

/// A rekey is kept for so long: no member repeats its request much longer, and a key server may forget an answer after several
/// minutes (RFC 7296 section 2.1).
const PATIENCE: Duration = Duration::from_secs(180);

/// A rekey in one protocol: group, protocol, number.
pub(crate) type Rekey = (String, Protocol, u64);

/// A rekey that has been sent.
#[derive(Debug)]
struct Past {
    /// Its messages in their order, as they were on the wire.
    messages: Vec<Vec<u8>>,
    /// How many copies there are, and the time between them.
    copies: u16,
    interval: Duration,
    /// It is of use until then, monotonic.
    until: Duration,
    /// Who was late.
    members: BTreeMap<Identity, Progress>,
}

/// How far a member that is late has been sent a rekey.
#[derive(Debug)]
struct Progress {
    address: SocketAddr,
    marked: bool,
    /// Copies that are still to be sent of the present run, and of all.
    left: u16,
    allowed: u16,
    /// When the next copy may be sent, monotonic.
    next: Duration,
}

/// The rekeys of late, and the members that are late for them.
#[derive(Debug, Default)]
pub(crate) struct Late {
    past: BTreeMap<Rekey, Past>,
    due: BTreeSet<(Duration, Rekey, Identity)>,
}

impl Late {
    /// A rekey is sent to everybody, so often and at this interval; its copies are of use for so long.
    pub(crate) fn note(
        &mut self,
        rekey: Rekey,
        messages: Vec<Vec<u8>>,
        (copies, interval): (u16, Duration),
        useful: Duration,
        now: Duration,
    ) {
        let past = Past { messages, copies, interval, until: now + useful.min(PATIENCE), members: BTreeMap::new() };
        self.past.insert(rekey, past);
    }

    /// This member has been sent an answer that is older than these rekeys.
    pub(crate) fn send_to(&mut self, member: LateMember, now: Duration) {
        let LateMember { group, protocol, identity, address, marked, rekeys } = member;
        let (first, last) = rekeys.into_inner();
        if first > last {
            return;
        }
        let behind = (group.clone(), protocol, first)..=(group, protocol, last);
        for (rekey, past) in self.past.range_mut(behind).filter(|(_, past)| past.until > now) {
            let fresh = Progress { address, marked, left: 0, allowed: past.copies.saturating_mul(RUNS), next: now };
            let progress = past.members.entry(identity.clone()).or_insert(fresh);
            self.due.remove(&(progress.next, rekey.clone(), identity.clone()));
            (progress.address, progress.marked) = (address, marked);
            progress.left = past.copies.min(progress.allowed);
            tracing::debug!(group = %rekey.0, rekey = rekey.2, member = %identity, copies = progress.left,
                "an answer older than a rekey was repeated: its member is sent that, too");
            progress.next = progress.next.max(now);
            if progress.left > 0 {
                self.due.insert((progress.next, rekey.clone(), identity.clone()));
            }
        }
    }

    /// Sends the copies that are due, and forgets rekeys whose time is over.
    pub(crate) fn expire(&mut self, now: Duration, out: &mut Outbox) {
        while self.due.first().is_some_and(|(at, ..)| *at <= now) {
            let Some((_, rekey, identity)) = self.due.pop_first() else { return };
            let Some(past) = self.past.get_mut(&rekey) else { continue };
            let Some(progress) = past.members.get_mut(&identity) else { continue };
            past.messages.iter().for_each(|m| transmit(m, progress.address, progress.marked, out));
            progress.left -= 1;
            progress.allowed -= 1;
            progress.next = now + past.interval;
            if progress.left > 0 {
                self.due.insert((progress.next, rekey, identity));
            }
        }
        self.past.retain(|_, past| past.until > now);
    }

    /// When [`expire`](Self::expire) is wanted next.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.due.first().map(|(at, ..)| *at)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::ops::RangeInclusive;

    use keyferry_model::drive::Output;

    use super::*;

    fn rekey(number: u64) -> Rekey {
        ("g".to_owned(), Protocol::Gdoi, number)
    }

    fn member(first: u64) -> LateMember {
        let address = SocketAddr::from(([10, 0, 0, 1], 848));
        let (group, identity) = ("g".to_owned(), Identity::from_ip(address.ip()));
        LateMember { group, protocol: Protocol::Gdoi, identity, address, marked: false, rekeys: first..=u64::MAX }
    }

    /// What is sent until then, with the time.
    fn run(late: &mut Late, until: Duration) -> Vec<(Duration, Vec<u8>)> {
        let (mut out, mut sent) = (Outbox::default(), Vec::new());
        while let Some(at) = late.deadline().filter(|at| *at <= until) {
            late.expire(at, &mut out);
            while let Some(Output::Send(transmit)) = out.poll() {
                assert_eq!(transmit.to, member(0).address);
                sent.push((at, transmit.bytes));
            }
        }
        late.expire(until, &mut out);
        sent
    }

    const SECOND: Duration = Duration::from_secs(1);

    fn with(rekeys: &[(u64, u8)], useful: Duration) -> Late {
        let mut late = Late::default();
        for (number, octet) in rekeys {
            late.note(
                rekey(*number),
                vec![vec![*octet; 40], vec![*octet + 1; 40]],
                (2, SECOND),
                useful,
                Duration::ZERO,
            );
        }
        late
    }

    #[test]
    fn rekeys_behind_the_answer_are_sent_in_their_order() {
        let mut late = with(&[(4, 10), (5, 20), (6, 30)], Duration::MAX);
        late.send_to(member(5), SECOND);
        let sent: Vec<u8> = run(&mut late, 10 * SECOND).into_iter().map(|(_, bytes)| bytes[0]).collect();
        assert_eq!(sent, [20, 21, 30, 31, 20, 21, 30, 31]);
        late.send_to(LateMember { protocol: Protocol::Gikev2, ..member(5) }, 11 * SECOND);
        late.send_to(LateMember { group: "h".to_owned(), ..member(5) }, 11 * SECOND);
        late.send_to(member(7), 11 * SECOND);
        late.send_to(LateMember { rekeys: RangeInclusive::new(5, 4), ..member(5) }, 11 * SECOND);
        assert_eq!(run(&mut late, 20 * SECOND), []);
        // Nothing behind the one that ended the membership.
        late.send_to(LateMember { rekeys: 4..=5, ..member(4) }, 21 * SECOND);
        assert!(run(&mut late, 21 * SECOND).iter().all(|(_, bytes)| bytes[0] < 30));
    }

    #[test]
    fn repeats_begin_anew_and_hasten_nothing() {
        let mut late = with(&[(4, 10)], Duration::MAX);
        let mut sent = 0;
        for tenth in 0..200 {
            let now = SECOND + tenth * SECOND / 10;
            late.send_to(member(4), now);
            for (at, _) in run(&mut late, now) {
                assert_eq!((at - SECOND).subsec_nanos(), 0, "at the interval of the copies");
                sent += 1;
            }
        }
        assert_eq!(sent, 2 * 2 * usize::from(RUNS));
    }

    #[test]
    fn what_is_of_no_use_any_more_is_forgotten() {
        for (useful, until) in [(20 * SECOND, 20 * SECOND), (Duration::MAX, PATIENCE)] {
            let mut late = with(&[(4, 10)], useful);
            late.send_to(member(4), until - SECOND / 2);
            assert_eq!(run(&mut late, until).len(), 2);
            assert!(late.past.is_empty());
            late.send_to(member(4), until);
            assert_eq!(run(&mut late, 2 * until), []);
        }
    }
}
