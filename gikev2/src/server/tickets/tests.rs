use keyferry_crypto::SeededRandom;
use keyferry_model::drive::Output;

use super::*;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

const HOUR: Duration = Duration::from_secs(3600);

fn content(expires: Duration) -> Content {
    Content {
        expires,
        ends: Some(secs(9)),
        ids: (vec![1, 2], vec![3]),
        proven: Proven::Certificate(vec![4; 700], vec![5; 32]),
        ppk: Some((vec![2, 7], vec![6; 32])),
        sa: vec![7; 40],
        derive: Secret::new(vec![8; 32]),
        spis: ([9; 8], [10; 8]),
    }
}

/// What is in the store after these outputs.
fn store(out: &mut Outbox, records: &mut BTreeMap<String, Secret>) {
    while let Some(output) = out.poll() {
        let Output::Persist(ops) = output else { panic!("nothing else is asked for") };
        for op in ops {
            match op {
                StoreOp::Put(key, value) => drop(records.insert(key, value)),
                StoreOp::Delete(key) => drop(records.remove(&key)),
            }
        }
    }
}

fn fresh(records: &BTreeMap<String, Secret>) -> Tickets {
    Tickets::load(HOUR, 8 * HOUR, records).unwrap()
}

#[test]
fn contents_survive() {
    for expires in [secs(0), secs(1 << 40)] {
        for ppk in [None, Some((vec![2], vec![1; 32]))] {
            let proofs = [Proven::Psk(vec![1; 32]), Proven::Certificate(vec![2; 3000], vec![3; 32])];
            for proven in proofs {
                let said = Content { ppk: ppk.clone(), proven, ends: None, ..content(expires) };
                let bytes = said.encode();
                let again = Content::decode(bytes.expose()).unwrap();
                assert_eq!(again.encode().expose(), bytes.expose());
                for len in 0..bytes.len() {
                    assert!(Content::decode(&bytes.expose()[..len]).is_none());
                }
            }
        }
    }
}

#[test]
fn only_its_own_gateway_reads_a_ticket_and_only_as_it_was() {
    let (mut out, mut rng, now) = (Outbox::default(), SeededRandom::new(1), secs(1_000_000));
    let mut tickets = fresh(&BTreeMap::new());
    let (ticket, serial) = tickets.seal(&content(now + HOUR), now, &mut rng, &mut out).unwrap();
    let (read, named) = tickets.open(&ticket, now).unwrap();
    assert_eq!((named, read.encode().expose()), (serial, content(now + HOUR).encode().expose()));
    for at in 0..ticket.len() {
        let mut forged = ticket.clone();
        forged[at] ^= 1;
        assert!(tickets.open(&forged, now).is_none(), "octet {at}");
        assert!(tickets.open(&ticket[..at], now).is_none(), "{at} octets");
    }
    assert!(tickets.open(&[&ticket[..], &[0]].concat(), now).is_none());
    assert!(tickets.open(&vec![VERSION; MAX_TICKET + 1], now).is_none());
    let mut other = fresh(&BTreeMap::new());
    other.seal(&content(now + HOUR), now, &mut rng, &mut out).unwrap();
    assert!(other.open(&ticket, now).is_none(), "another gateway");
}

#[test]
fn no_two_tickets_are_sealed_alike() {
    let (mut out, mut rng, now) = (Outbox::default(), SeededRandom::new(1), secs(1_000_000));
    let mut tickets = fresh(&BTreeMap::new());
    let mut seal = || tickets.seal(&content(now + HOUR), now, &mut rng, &mut out).unwrap();
    let ((one, first), (two, second)) = (seal(), seal());
    assert_ne!(first, second);
    assert_ne!(one[HEAD_LEN..], two[HEAD_LEN..]);
    assert_eq!(one[..1 + ID_LEN], two[..1 + ID_LEN], "under one ticket key");
}

#[test]
fn a_ticket_has_its_time() {
    let (mut out, mut rng, now) = (Outbox::default(), SeededRandom::new(1), secs(1_000_000));
    let mut tickets = fresh(&BTreeMap::new());
    let (ticket, _) = tickets.seal(&content(now + HOUR), now, &mut rng, &mut out).unwrap();
    assert!(tickets.open(&ticket, now + HOUR - secs(1)).is_some());
    assert!(tickets.open(&ticket, now + HOUR).is_none());
    assert!(tickets.open(&ticket, now - secs(1)).is_none(), "the clock was set back");
}

#[test]
fn keys_are_replaced_and_taken_for_a_while() {
    let (mut out, mut rng, now) = (Outbox::default(), SeededRandom::new(1), secs(1_000_000));
    let mut records = BTreeMap::new();
    let mut tickets = fresh(&records);
    let rotation = 4 * secs(86_400);
    let late = now + rotation - secs(1);
    tickets.seal(&content(now + HOUR), now, &mut rng, &mut out).unwrap();
    let (ticket, _) = tickets.seal(&content(late + HOUR), late, &mut rng, &mut out).unwrap();
    let (next, _) = tickets.seal(&content(late + HOUR), now + rotation, &mut rng, &mut out).unwrap();
    assert_ne!(ticket[..1 + ID_LEN], next[..1 + ID_LEN]);
    // Also after a restart.
    store(&mut out, &mut records);
    for tickets in [&tickets, &fresh(&records)] {
        assert!(tickets.open(&ticket, late + HOUR - secs(1)).is_some());
        assert!(tickets.open(&next, now + rotation).is_some());
    }
    let end = now + 2 * rotation;
    tickets.seal(&content(end + HOUR), end, &mut rng, &mut out).unwrap();
    assert_eq!(tickets.keys.len(), 2, "the oldest is gone");
}

#[test]
fn what_is_spent_stays_so_for_its_time_and_over_a_restart() {
    let (mut out, mut rng, now) = (Outbox::default(), SeededRandom::new(1), secs(1_000_000));
    let mut records = BTreeMap::new();
    let mut tickets = fresh(&records);
    let (ticket, serial) = tickets.seal(&content(now + HOUR), now, &mut rng, &mut out).unwrap();
    tickets.spend(serial, now + HOUR, now, &mut out);
    tickets.spend(serial, now + HOUR, now, &mut out);
    store(&mut out, &mut records);
    assert_eq!(records.len(), 2, "the keys, and one that is spent");
    let mut again = fresh(&records);
    for tickets in [&tickets, &again] {
        assert!(tickets.open(&ticket, now).is_none());
        assert!(tickets.is_spent(&serial));
    }
    again.spend([1; 16], now + 3 * HOUR, now + HOUR + secs(1), &mut out);
    store(&mut out, &mut records);
    assert!(!again.is_spent(&serial), "nobody takes it any more");
    assert_eq!(records.len(), 2);
}

#[test]
fn whoever_spends_too_many_makes_all_void() {
    let (mut out, mut rng, now) = (Outbox::default(), SeededRandom::new(1), secs(1_000_000));
    let mut tickets = fresh(&BTreeMap::new());
    let (ticket, _) = tickets.seal(&content(now + HOUR), now, &mut rng, &mut out).unwrap();
    for n in 0..=u32::try_from(MAX_SPENT).unwrap() {
        let mut serial = [0; 16];
        serial[..4].copy_from_slice(&n.to_be_bytes());
        tickets.spend(serial, now + HOUR, now, &mut out);
    }
    assert_eq!(tickets.spent.len(), 1);
    assert!(tickets.open(&ticket, now).is_none());
    assert!(tickets.seal(&content(now + HOUR), now, &mut rng, &mut out).is_some(), "there will be others");
}

#[test]
fn a_store_that_is_broken_is_no_start() {
    for (key, value) in [(KEYS, vec![1; 47]), ("ikev2/spent-ticket/00", vec![0; 8]), (KEYS, vec![0; 48 * 5])] {
        let records = BTreeMap::from([(key.to_owned(), Secret::new(value))]);
        assert!(Tickets::load(HOUR, HOUR, &records).is_err(), "{key}");
    }
}
