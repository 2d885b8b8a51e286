use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::{Aead, Hash, Secret, SeededRandom, SignatureScheme, SigningKey};
use keyferry_model::admission::JoinRequest;
use keyferry_model::credentials::Credentials;
use keyferry_model::drive::{Outbox, Via};
use keyferry_model::id::GroupId;
use keyferry_model::plan::RekeyReason;
use keyferry_model::policy::{
    AddressPreservation, Authorization, EspMode, EspTransform, GdoiRekey, GroupPolicy, KekManagement, RekeyTransport,
    Retransmit, Selector, SequenceNumbers, TrafficPolicy,
};
use keyferry_model::time::Now;

use super::*;
use crate::push::ack::build_with;
use crate::server::ServerConfig;

const CIPHER: BlockCipher = BlockCipher::Aes128Cbc;

const NOW: Now = Now { mono: Duration::from_secs(1), wall: Duration::from_secs(1_000_000) };

pub(in crate::server) fn policy(ack: AckType) -> GroupPolicy {
    let any = Selector { address: "0.0.0.0".parse().unwrap(), prefix: 0, protocol: 0, port: 0 };
    GroupPolicy {
        name: "g".into(),
        ids: vec![GroupId::Number(7)],
        streams: Vec::new(),
        traffic: vec![Arc::new(TrafficPolicy {
            source: any,
            destination: Selector { address: "239.192.0.1".parse().unwrap(), prefix: 32, ..any },
            mode: EspMode::Tunnel,
            transform: EspTransform::Aead(Aead::Aes128Gcm16),
            sequence: SequenceNumbers::Unspecified,
            replay_window: 0,
            preservation: AddressPreservation::Both,
            only_sender: None,
            lifetime_octets: None,
        })],
        tek_lifetime: Duration::from_secs(3600),
        kek_lifetime: Duration::from_secs(86_400),
        rekey_margin: Duration::from_secs(300),
        rekey_when_asked: None,
        activation_delay: Duration::from_secs(10),
        deactivation_delay: Duration::from_secs(20),
        sender_id_bits: 8,
        sender_ids_per_member: 4,
        capacity: 8,
        retransmit: Retransmit { copies: 0, interval: Duration::from_secs(2) },
        ack_patience: Duration::from_secs(10),
        ack_resend: false,
        backward_access: None,
        evict_after_misses: None,
        authorization: Authorization::Authenticated,
        gdoi: Some(GdoiRekey {
            cipher: CIPHER,
            transport: RekeyTransport::Unicast,
            signer: Arc::new(SigningKey::generate_rsa(2048).unwrap()),
            scheme: SignatureScheme::RsaPkcs1Sha256,
            ack: Some(ack),
            sends: keyferry_model::reading::Readings::NONE,
            management: KekManagement::Lkh,
        }),
        gikev2: None,
    }
}

/// A key server whose members 1 to 3 wait for the push with SEQ 1.
struct Bench {
    model: Model,
    server: Server,
    rng: SeededRandom,
    spi: [u8; 16],
    kek: Secret,
    leaves: Vec<Secret>,
}

fn member(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 848))
}

impl Bench {
    fn new(ack: AckType) -> Self {
        Self::with(policy(ack))
    }

    fn with(policy: GroupPolicy) -> Self {
        let mut rng = SeededRandom::new(3);
        let mut model = Model::load(vec![policy], &BTreeMap::new(), NOW, &mut rng).unwrap();
        let mut leaves = Vec::new();
        for n in 1..=3 {
            let identity = Identity::from_ip(member(n).ip());
            let request = JoinRequest {
                identity: &identity,
                holder: None,
                protocol: Protocol::Gdoi,
                address: member(n),
                sender_ids: None,
                gikev2: None,
            };
            let admission = model.admit(&GroupId::Number(7), request, None, NOW, &mut rng).unwrap();
            leaves.push(admission.leaf().unwrap().duplicate());
        }
        let plan = model.rekey("g", RekeyReason::Operator, &[], NOW, &mut rng).unwrap();
        let over = &plan.steps[0].over;
        let (spi, kek) = (over.spi, over.keymat.duplicate());
        let server = Server::new(ServerConfig::new(Arc::new(Credentials::default())));
        Self { model, server, rng, spi, kek, leaves }
    }

    fn take(&mut self, from: SocketAddr, bytes: &[u8]) {
        let mut out = Outbox::default();
        let mut ctx = Ctx { now: NOW, model: &mut self.model, rng: &mut self.rng, out: &mut out };
        let dgram = Datagram { from, to: SocketAddr::from(([10, 0, 0, 9], 848)), via: Via::Udp, bytes };
        self.server.receive(&mut ctx, dgram);
        while let Some(output) = out.poll() {
            assert!(matches!(output, keyferry_model::drive::Output::Persist(_)), "an acknowledgement is not answered");
        }
    }

    /// Acknowledged, failed, repeated.
    fn counted(&self) -> (u64, u64, u64) {
        let c = self.server.counters();
        (c.acknowledged, c.ack_failed, c.repeated)
    }
}

/// RFC 8263 section 3.2 says of L what cannot all be so: each reading is taken, and remembered.
#[test]
fn each_length_of_the_ack_key_is_taken_and_remembered() {
    for ack in [AckType::Kek(Hash::Sha256), AckType::Lkh(Hash::Sha256), AckType::Kek(Hash::Sha512)] {
        let mut b = Bench::new(ack);
        let all = lengths(ack, 16);
        assert_eq!(all.len(), 3);
        for (n, length) in (1..=3).zip(&all) {
            let base = match ack {
                AckType::Kek(_) => b.kek.duplicate(),
                AckType::Lkh(_) => b.leaves[usize::from(n) - 1].duplicate(),
            };
            let base = secret_part(CIPHER, base.expose());
            let other = build_with(ack, base, &b.spi, 1, member(n).ip(), length + 8).unwrap();
            b.take(member(n), &other);
            let octets = build_with(ack, base, &b.spi, 1, member(n).ip(), *length).unwrap();
            b.take(member(n), &octets);
        }
        assert_eq!(b.counted(), (3, 3, 0), "{ack:?}");
        let known: Vec<usize> = b.server.acks.readings.values().copied().collect();
        assert_eq!(known, [1, 2]);
    }
}

#[test]
fn repeats_are_noticed_before_any_cryptography() {
    let ack = AckType::Kek(Hash::Sha256);
    let mut b = Bench::new(ack);
    let octets = build_with(ack, secret_part(CIPHER, b.kek.expose()), &b.spi, 1, member(1).ip(), 512).unwrap();
    b.take(member(1), &octets);
    // The same, and one with another hash for the same push, member and address, which nothing could make count twice.
    let mut forged = octets.clone();
    forged[40] ^= 1;
    b.take(member(1), &octets);
    b.take(member(1), &forged);
    assert_eq!(b.counted(), (1, 0, 2));
    // From elsewhere it is looked at anew: not a member there.
    b.take(member(7), &forged);
    assert_eq!(b.counted(), (1, 1, 2));
}

/// With the KEK every member can make an acknowledgement in the name of every other (RFC 8263 section 7.1): not from its own
/// address, though.
#[test]
fn no_member_speaks_for_another_from_its_own_address() {
    let ack = AckType::Kek(Hash::Sha256);
    let mut b = Bench::new(ack);
    let named =
        |b: &Bench, ip: [u8; 4]| build_with(ack, secret_part(CIPHER, b.kek.expose()), &b.spi, 1, ip.into(), 512);
    let octets = named(&b, [10, 0, 0, 2]).unwrap();
    b.take(member(1), &octets);
    b.take(SocketAddr::new(member(1).ip(), 4500), &octets);
    b.take(SocketAddr::new(member(1).ip(), 4500), &named(&b, [10, 0, 0, 3]).unwrap());
    assert_eq!(b.counted(), (0, 3, 0));
    // From an address that is nobody's, or naming one: as through a translator.
    b.take(SocketAddr::from(([192, 0, 2, 1], 848)), &octets);
    b.take(member(1), &named(&b, [192, 168, 0, 1]).unwrap());
    let missing = b.model.group("g").unwrap().rekey_views().remove(0).missing;
    assert_eq!((b.counted(), missing), ((2, 3, 0), vec![Identity::from_ip(member(3).ip())]));
}

/// Who acknowledges unasked is not believed, and takes no room (RFC 8263 section 5).
#[test]
fn what_nobody_has_asked_for_is_dropped() {
    let ack = AckType::Kek(Hash::Sha256);
    for asks in [true, false] {
        let mut policy = policy(ack);
        policy.gdoi = policy.gdoi.map(|g| GdoiRekey { ack: Some(ack).filter(|_| asks), ..g });
        let mut b = Bench::with(policy);
        let base = secret_part(CIPHER, b.kek.expose()).to_vec();
        for (seq, n) in [(0, 1), (1, 1), (2, 1), (1, 7)] {
            b.take(member(n), &build_with(ack, &base, &b.spi, seq, member(n).ip(), 512).unwrap());
        }
        // Of pushes that were not sent, and from who is no member, there are none either.
        assert_eq!(b.counted(), if asks { (1, 3, 0) } else { (0, 4, 0) });
        assert_eq!(b.server.acks.seen.len(), usize::from(asks));
    }
}

#[test]
fn no_more_is_remembered_than_there_is_room_for() {
    let mut acks = Acks::default();
    let tag = |n: u32| ([1; 16], n, member(1).ip(), member(1));
    let last = u32::try_from(KEPT * 3).unwrap();
    (0..last).for_each(|n| acks.add(tag(n)));
    assert!(acks.seen.len() + acks.seen_before.len() <= 2 * KEPT);
    assert!(acks.contains(&tag(last - 1)) && acks.contains(&tag(last - u32::try_from(KEPT).unwrap())));
    assert!(!acks.contains(&tag(0)));
}
