//! What a key server sends, looked into: headers, and what stands in policies and keys.

use keyferry_model::admission::JoinRequest;
use keyferry_model::plan::{RekeyPlan, RekeyReason};
use keyferry_wire::{AttributeValue, Decode, chain};

use super::*;
use crate::message::{self, Iv, Payloads};
use crate::policy::tell::SaParts;
use crate::policy::tree::secret_part;
use crate::push::render;
use crate::wire::group_sa::GroupSa;
use crate::wire::kd::Kd;
use crate::wire::registry::{
    Doi, KeyPacketType, esp_attribute, exchange, flag, gap_attribute, kek_attribute, key_attribute, payload,
    phase1_attribute,
};
use crate::wire::rules;
use crate::wire::sa::Sa;
use crate::wire::sat::Sat;

/// A group with members 1 to 3, as it is in the model alone.
fn joined(ack: Option<AckType>) -> Bench {
    let mut bench = Bench::new();
    let mut policy = policy(AckType::Lkh(Hash::Sha256));
    policy.gdoi = policy.gdoi.map(|g| keyferry_model::policy::GdoiRekey { ack, ..g });
    bench.model = Model::load(vec![policy], &BTreeMap::new(), NOW, &mut bench.rng).unwrap();
    for n in 1..=3 {
        let identity = Identity::from_ip(member(n).ip());
        let (protocol, address) = (Protocol::Gdoi, member(n));
        let request =
            JoinRequest { identity: &identity, holder: None, protocol, address, sender_ids: Some(1), gikev2: None };
        let admission = bench.model.admit(&GroupId::Number(7), request, None, NOW, &mut bench.rng).unwrap();
        assert_eq!(admission.sender_ids.len(), 1, "sender IDs are given to members");
    }
    bench
}

/// The payloads of each message of a plan.
fn opened(plan: &RekeyPlan, rng: &mut SeededRandom) -> Vec<Vec<(u8, Vec<u8>)>> {
    let steps = plan.steps.iter().map(|step| {
        let datagram = render(&plan.policy, step, rng).unwrap();
        let (header, body) = Header::decode(&datagram).unwrap();
        let cipher = step.policy.gdoi.as_ref().unwrap().cipher;
        let keymat = step.over.keymat.expose();
        let iv = Iv::front(cipher, keymat).unwrap();
        let plain = message::open(cipher, secret_part(cipher, keymat), &iv, &header, body).unwrap();
        let parts = plain.parts().unwrap();
        parts.payloads.iter().map(|p| (p.kind, p.body.to_vec())).collect()
    });
    steps.collect()
}

fn plans(bench: &mut Bench) -> Vec<RekeyPlan> {
    let reasons = [
        (RekeyReason::Operator, 0),
        (RekeyReason::Eviction, 2),
        (RekeyReason::DeleteTeks, 0),
        (RekeyReason::Lifetime, 0),
        (RekeyReason::DeleteKek, 0),
        (RekeyReason::Reset, 0),
    ];
    let mut all = Vec::new();
    for (reason, evicted) in reasons {
        let evict = Some(Identity::from_ip(member(evicted).ip())).filter(|_| evicted != 0);
        bench.model.hasten("g");
        let plan = bench.model.rekey("g", reason, evict.as_slice(), NOW, &mut bench.rng).unwrap();
        all.push(Arc::unwrap_or_clone(plan));
    }
    all
}

/// What the SA payload says whatever it is sent in (RFC 6407 sections 5.2 and 5.5.1, RFC 8263 section 5).
fn check_policy(sa: &[u8], ack: Option<AckType>) -> bool {
    let sa = GroupSa::exact(sa).unwrap();
    assert_eq!((sa.doi, sa.situation), (Doi::GDOI, 0));
    let groups = |sat: &Sat<'_>| match sat {
        Sat::Esp(tek) | Sat::Ah(tek) => tek.attributes.iter().any(|a| a.kind == esp_attribute::GROUP),
        Sat::Iec61850(_) | Sat::Other { .. } => false,
    };
    assert!(!sa.sats.iter().any(groups), "Group Description");
    if let Some(sak) = &sa.sak {
        let asked = sak.attributes.iter().filter(|a| a.kind == kek_attribute::ACK_REQUESTED).count();
        assert_eq!(asked, usize::from(ack.is_some()));
    }
    sa.sak.is_some()
}

/// A push is for many: neither sender IDs nor the keys of one member's path are in it (RFC 6407 sections 5.4, 5.6.3.1, 5.6.4
/// and 5.7). Acknowledgements are asked for wherever a rekey SA is told.
#[test]
fn pushes_bring_nothing_that_is_for_one_member() {
    for ack in [Some(AckType::Lkh(Hash::Sha256)), None] {
        let mut bench = joined(ack);
        let (mut kds, mut saks) = (0, 0);
        for plan in plans(&mut bench) {
            for payloads in opened(&plan, &mut bench.rng) {
                let of = |kind| payloads.iter().filter(move |(k, _)| *k == kind).map(|(_, body)| body.as_slice());
                for kd in of(payload::KD) {
                    for packet in Kd::exact(kd).unwrap().packets {
                        assert_ne!(packet.kind, KeyPacketType::SID);
                        let path =
                            |kind| packet.kind == KeyPacketType::LKH && kind == key_attribute::LKH_DOWNLOAD_ARRAY;
                        assert!(!packet.attributes.iter().any(|a| path(a.kind)));
                        kds += 1;
                    }
                }
                for sa in of(payload::SA) {
                    saks += usize::from(check_policy(sa, ack));
                    let gap = GroupSa::exact(sa).unwrap().gap.unwrap();
                    assert!(!gap.attributes.iter().any(|a| a.kind == gap_attribute::SENDER_ID_REQUEST));
                }
            }
        }
        assert!(kds >= 5 && saks >= 2, "{kds} {saks}");
    }
}

#[test]
fn registrations_are_told_the_same_of_every_policy() {
    for ack in [Some(AckType::Kek(Hash::Sha512)), None] {
        let bench = joined(ack);
        let identity = Identity::from_ip(member(1).ip());
        let offer = bench.model.offer(&GroupId::Number(7), &identity, None, Protocol::Gdoi, NOW).unwrap();
        let payloads =
            SaParts::of_offer(&offer, &identity, NOW.wall, server_at(), member(1)).unwrap().append_to(Payloads::new());
        let octets = payloads.chain(0).unwrap();
        let raw = chain(payloads.first(), octets.expose()).unwrap();
        assert!(check_policy(rules::body(&raw, payload::SA).unwrap(), ack));
    }
}

/// RFC 6407 sections 2.1 and 3.2.1, RFC 2409 appendix A, RFC 2408 section 2.5.3.
#[test]
fn headers_cookies_and_proposals_are_as_they_must_be() {
    let mut bench = Bench::new();
    let (first, second) = (bench.connect(1), bench.connect(1));
    for half in [0..8, 8..16] {
        assert_ne!(first.cookies()[half.clone()], second.cookies()[half]);
    }
    let pull = Pull::start(&first, &group(0), &mut SeededRandom::new(81)).unwrap();
    let answer = bench.send(member(1), pull.message()).remove(0);
    let (ask, _) = Header::decode(pull.message()).unwrap();
    let (told, _) = Header::decode(&answer).unwrap();
    for header in [ask, told] {
        assert_eq!(
            (header.exchange, header.major, header.minor, header.flags),
            (exchange::PULL, 1, 0, flag::ENCRYPTED)
        );
        assert_eq!((header.spi_pair(), header.message_id), (*first.cookies(), ask.message_id));
    }
    assert!(ask.exchange == 32 && ask.message_id != 0);

    let (_, message1) = bench.begin(1);
    let (header, body) = Header::decode(&message1).unwrap();
    let payloads = chain(header.next, body).unwrap();
    let sa = Sa::exact(rules::body(&payloads, payload::SA).unwrap()).unwrap();
    assert_eq!(sa.doi, Doi(2));
    let lives = [phase1_attribute::LIFE_DURATION];
    let attributes = sa.proposals.iter().flat_map(|p| &p.transforms).flat_map(|t| &t.attributes);
    let basic: Vec<_> = attributes.filter(|a| !lives.contains(&a.kind)).collect();
    assert!(basic.len() >= 4 && basic.iter().all(|a| matches!(a.value, AttributeValue::Short(_))));
}

/// The key server computes nothing that is expensive for who has not proved to be there (RFC 6407 section 7.2.5).
#[test]
fn a_first_message_costs_no_public_key_work() {
    let mut bench = Bench::new();
    let sa = bench.connect(1);
    let before = bench.jobs;
    let mut pull = Pull::start(&sa, &group(0), &mut SeededRandom::new(82)).unwrap();
    let answer = bench.send(member(1), pull.message()).remove(0);
    assert!(!take(&sa, &mut pull, &answer));
    let answer = bench.send(member(1), pull.message()).remove(0);
    assert!(take(&sa, &mut pull, &answer));
    assert!(bench.jobs == before && before > 0);
}

/// Phase 1 has message ID 0, a registration another (RFC 2408 section 3.1).
#[test]
fn message_ids_are_of_their_phase() {
    let mut bench = Bench::new();
    let (_, mut message1) = bench.begin(2);
    message1[23] = 1;
    assert!(bench.send(member(2), &message1).is_empty());
    let sa = bench.connect(1);
    let zero = Pull::start(&sa, &group(0), &mut Zeros).unwrap();
    assert_ne!(zero.message()[20..24], [0; 4], "never made");
    let mut changed = zero.message().to_vec();
    changed[20..24].fill(0);
    assert!(bench.send(member(1), &changed).is_empty());
    assert_eq!(bench.send(member(1), zero.message()).len(), 1);
}

/// An exchange goes on as what it has begun as (RFC 2409 section 5).
#[test]
fn exchanges_do_not_change_their_type() {
    let mut bench = Bench::new();
    let (mut initiator, message1) = bench.begin(1);
    let answer = bench.send(member(1), &message1).remove(0);
    let (header, body) = Header::decode(&answer).unwrap();
    let message3 = initiator.clear(&header, body, NOW.mono, &mut SeededRandom::new(83)).unwrap().unwrap();
    for kind in [0, exchange::AGGRESSIVE, exchange::INFORMATIONAL, exchange::PULL, exchange::PUSH, exchange::PUSH_ACK] {
        let mut changed = message3.clone();
        changed[18] = kind;
        assert!(bench.send(member(1), &changed).is_empty(), "{kind}");
    }
    assert_eq!(bench.send(member(1), &message3).len(), 1);
}

struct Zeros;

impl keyferry_crypto::Random for Zeros {
    fn fill(&mut self, out: &mut [u8]) {
        out.fill(0);
    }
}
