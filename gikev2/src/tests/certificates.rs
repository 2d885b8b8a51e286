//! Authentication by certificate: every kind of key and every method, in both directions, and what must not pass.

use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::x509::{Revocation, TrustStore};
use keyferry_crypto::{Hash, Job, JobDone, KeyKind, PeerError, Secret, SignatureAlgorithm, SignatureForm};
use keyferry_model::credentials::{Credentials, OwnCertificate, Peer, Proof, Trust};
use keyferry_model::drive::JobId;
use keyferry_model::id::Identity;
use keyferry_model::reading::Readings;
use keyferry_model::settings::{CertificateAuth, MemberAuth, MemberSettings, MixedAuth};
use keyferry_model::update::MemberEvent;
use keyferry_wire::{Encode, Header};

use super::forger::{Forged, Forger};
use super::pki::{KINDS, auth, certified, own, trust};
use super::support::*;
use crate::wire::auth::{Auth, SignatureData};
use crate::wire::cert::{Cert, CertRequest};
use crate::wire::message::Payloads;
use crate::wire::notify::Notify;
use crate::wire::registry::{AuthMethod, CertEncoding, ExchangeType, NotifyType, PayloadKind};
use crate::wire::rules;

const FAILED: &str = "AUTHENTICATION_FAILED";

/// A world whose key server shows these certificates and takes those of these peers.
fn world(own_names: &[&str], peers: Vec<Peer>) -> World {
    World::with(policy(false), super::pki::config(own_names, peers), 1)
}

/// The same with one certificate and everybody whom a certificate names.
fn open_world(own_name: &str) -> World {
    world(&[own_name], vec![certified(None, None)])
}

/// Settings of member 1 with this certificate.
fn with(world: &World, own: OwnCertificate) -> MemberSettings {
    MemberSettings { auth: auth(own), ..world.settings(1) }
}

/// Starts a member and says what becomes of it.
fn outcome(world: &mut World, settings: MemberSettings) -> MemberEvent {
    let at = world.add(settings);
    world.start(at);
    world.run();
    world.hosts[at].events.last().cloned().unwrap()
}

fn refused(why: &str) -> MemberEvent {
    MemberEvent::Refused(why.to_owned())
}

/// Takes SIGNATURE_HASH_ALGORITHMS out of what is said: it becomes a notify that nobody knows.
fn silence_announcements(packet: &mut Packet) {
    let kind = NotifyType::SIGNATURE_HASH_ALGORITHMS.0.to_be_bytes();
    if packet.exchange() == ExchangeType::IKE_SA_INIT.0
        && let Some(at) = packet.bytes.windows(4).position(|w| w == [0, 0, kind[0], kind[1]])
    {
        packet.bytes[at + 2] ^= 0x08;
    }
}

#[test]
fn every_kind_of_key_registers_by_the_method_of_rfc_7427() {
    for member in KINDS {
        for gateway in KINDS {
            let mut world = open_world(&format!("gateway-{gateway}"));
            let settings = with(&world, own(&format!("gm1-{member}")));
            assert_eq!(outcome(&mut world, settings), MemberEvent::Registered, "{member} with {gateway}");
            assert_eq!((world.server.counters().registered, world.server.established()), (1, 1));
        }
    }
}

/// Methods 1, 9, 10 and 11, where neither announces anything; the member is one of our own that does not.
#[test]
fn older_methods_serve_older_peers() {
    for kind in ["rsa", "p256", "p384", "p521"] {
        for danger in [false, true] {
            let mut config = super::pki::config(&[&format!("gateway-{kind}")], vec![certified(None, None)]);
            let credentials = config.credentials.as_ref().clone().with_danger_sha1_signatures(danger);
            config.credentials = Arc::new(credentials);
            let mut world = World::with(policy(false), config, 1);
            let mut forger = Forger::old(&mut world);
            let own = own(&format!("gm1-{kind}"));
            let methods = match kind {
                "rsa" if danger => vec![(AuthMethod::RSA, Some(Hash::Sha1)), (AuthMethod::RSA, Some(Hash::Sha512))],
                "rsa" => vec![(AuthMethod::RSA, Some(Hash::Sha256)), (AuthMethod::RSA, Some(Hash::Sha384))],
                "p256" => vec![(AuthMethod::ECDSA_256, None)],
                "p384" => vec![(AuthMethod::ECDSA_384, None)],
                _ => vec![(AuthMethod::ECDSA_521, None)],
            };
            for (method, hash) in methods {
                let octets = forger.octets();
                let value = sign_older(&own, hash, octets.expose());
                let request = forger.request(&own.chain, Auth { method, data: value.into() });
                let answer = forger.ask(&mut world, request);
                assert_eq!(answer.error, None, "{kind} {hash:?}");
                // The key server answers by the method of its key.
                assert_eq!(answer.method, Some(method));
                assert!(answer.verified(kind, danger), "{kind} {hash:?}");
                forger = Forger::old(&mut world);
            }
        }
    }
}

/// A signature of an older method.
fn sign_older(own: &OwnCertificate, hash: Option<Hash>, octets: &[u8]) -> Vec<u8> {
    use keyferry_crypto::SignatureScheme as S;
    let scheme = match (own.key.kind(), hash) {
        (KeyKind::Rsa, Some(Hash::Sha1)) => S::RsaPkcs1Sha1,
        (KeyKind::Rsa, Some(Hash::Sha384)) => S::RsaPkcs1Sha384,
        (KeyKind::Rsa, Some(Hash::Sha512)) => S::RsaPkcs1Sha512,
        (KeyKind::Rsa, _) => S::RsaPkcs1Sha256,
        (KeyKind::EcP256, _) => S::EcdsaP256Sha256,
        (KeyKind::EcP384, _) => S::EcdsaP384Sha384,
        (KeyKind::EcP521, _) => S::EcdsaP521Sha512,
        (KeyKind::Ed25519 | KeyKind::Ed448, _) => panic!("no older method"),
    };
    own.key.sign(scheme, &[octets]).unwrap()
}

/// SHA-1 is for who asks for danger; an Edwards key has no older method.
#[test]
fn older_methods_have_their_limits() {
    let mut world = open_world("gateway-rsa");
    let mut forger = Forger::old(&mut world);
    let rsa = own("gm1-rsa");
    let value = sign_older(&rsa, Some(Hash::Sha1), forger.octets().expose());
    let request = forger.request(&rsa.chain, Auth { method: AuthMethod::RSA, data: value.into() });
    assert_eq!(forger.ask(&mut world, request).error, Some(NotifyType::AUTHENTICATION_FAILED));
    // A key server with nothing but an Edwards key cannot prove itself to an older member.
    let mut world = open_world("gateway-ed25519");
    let mut forger = Forger::old(&mut world);
    let p256 = own("gm1-p256");
    let value = sign_older(&p256, None, forger.octets().expose());
    let request = forger.request(&p256.chain, Auth { method: AuthMethod::ECDSA_256, data: value.into() });
    assert_eq!(forger.ask(&mut world, request).error, Some(NotifyType::AUTHENTICATION_FAILED));
}

/// Somebody on the way who takes the announcements out gains nothing: AUTH covers them.
#[test]
fn announcements_cannot_be_taken_out_on_the_way() {
    for (kind, only_answers) in [("p256", false), ("p256", true), ("ed25519", true)] {
        let mut world = open_world(&format!("gateway-{kind}"));
        let settings = with(&world, own(&format!("gm1-{kind}")));
        let at = world.add(settings);
        world.start(at);
        while let Some(mut packet) = world.wire.pop_front() {
            if packet.is_response() || !only_answers {
                silence_announcements(&mut packet);
            }
            world.deliver(packet);
        }
        assert!(!world.hosts[at].events.contains(&MemberEvent::Connected), "{kind} {only_answers}");
        assert_eq!(world.server.established(), 0);
    }
}

/// RFC 7296 section 2.15: each side may prove itself in its own way.
#[test]
fn each_side_may_prove_itself_in_its_own_way() {
    let psk = || Arc::new(Secret::copy_from(PSK));
    let peer = |proof| vec![Peer { identity: Some(identity(1)), address: None, sends: Readings::NONE, proof }];
    let by_psk = MixedAuth::PskForCertificate { psk: psk(), trust: trust("root"), gateway_subject: None };
    let by_certificate = MixedAuth::CertificateForPsk { own: own("gm1-p384"), others: Vec::new(), psk: psk() };
    let cases = [
        (by_psk, Proof::PskForCertificate(psk())),
        (by_certificate, Proof::CertificateForPsk { subject: None, psk: psk() }),
    ];
    for (mixed, proof) in cases {
        let mut world = world(&["gateway-p256"], peer(proof));
        let settings = MemberSettings { auth: MemberAuth::Mixed(Box::new(mixed.clone())), ..world.settings(1) };
        assert_eq!(outcome(&mut world, settings), MemberEvent::Registered);
        // The other way round, and both alike, are other things.
        for other in [MemberAuth::Psk(psk()), auth(own("gm1-p384"))] {
            let mut settings = world.settings(1);
            settings.auth = other;
            let event = outcome(&mut world, settings);
            assert!(matches!(event, MemberEvent::Refused(_)), "{mixed:?}: {event:?}");
        }
    }
}

/// What the peer may not be: each is refused, and told the same.
#[test]
fn members_that_are_not_what_they_say_are_refused() {
    let gm1 = own("gm1-p256");
    let stolen = |chain: &str, key: &str| OwnCertificate { key: own(key).key, ..own(chain) };
    let cases = [
        ("another key", stolen("gm1-p256", "gm2-p256")),
        ("a key of another kind", stolen("gm1-p256", "gm1-ed25519")),
        ("somebody else's certificate", own("gm2-p256")),
        ("expired", own("expired-p256")),
        ("revoked", own("revoked-p256")),
        ("another CA's", own("stranger-p256")),
        ("without its issuer", OwnCertificate { chain: vec![gm1.chain[0].clone()], ..gm1.clone() }),
        ("no certificate", OwnCertificate { chain: Vec::new(), ..gm1.clone() }),
    ];
    for (what, own) in cases {
        let mut world = open_world("gateway-p256");
        let settings = with(&world, own);
        assert_eq!(outcome(&mut world, settings), refused(FAILED), "{what}");
        assert_eq!((world.server.established(), world.server.counters().authentication_failed), (0, 1), "{what}");
        let answer = world.seen.iter().rev().find(|p| p.is_response()).unwrap();
        assert_eq!(answer.bytes.len(), refusal_len(), "{what}: nothing is told about why");
    }
}

/// Octets of a refusal: header, SK header, IV, one notify, pad length, ICV.
fn refusal_len() -> usize {
    Header::LEN + 4 + 8 + 8 + 1 + 16
}

/// What the key server may not be.
#[test]
fn key_servers_that_are_not_what_they_say_are_refused() {
    for (gateway, why) in [
        ("other-gateway-p256", "the key server did not authenticate"),
        ("gm1-p256", "the key server's certificate does not name it"),
        ("expired-p256", "the key server did not authenticate"),
        ("revoked-p256", "the key server did not authenticate"),
    ] {
        let mut world = open_world(gateway);
        // It claims the address that it is reached at, whatever its certificate says.
        let mut config = super::pki::config(&[gateway], vec![certified(None, None)]);
        config.identity = Some(Identity::from_ip(world.gateway.ip()));
        world.server = crate::Server::new(config);
        let settings = with(&world, own("gm1-p256"));
        let event = outcome(&mut world, settings);
        assert!(matches!(&event, MemberEvent::Refused(said) if said.starts_with(why)), "{gateway}: {event:?}");
        assert!(world.hosts[0].sas.is_empty());
    }
    // By a subject that it must have, which names no address.
    for (subject, good) in [("CN=gateway,O=Example", true), ("CN=gm1,O=Example", false)] {
        let mut world = open_world("gateway-p256");
        let mut settings = with(&world, own("gm1-p256"));
        let MemberAuth::Certificate(auth) = &mut settings.auth else { panic!("a certificate") };
        auth.gateway_subject = Some(keyferry_crypto::x509::DistinguishedName::parse(subject).unwrap());
        assert_eq!(outcome(&mut world, settings) == MemberEvent::Registered, good);
    }
    // A key server that proves itself by a key when a certificate is expected.
    let psk = Peer {
        identity: Some(identity(1)),
        address: None,
        sends: Readings::NONE,
        proof: Proof::Psk(Arc::new(Secret::copy_from(PSK))),
    };
    let mut world = world(&["gateway-p256"], vec![psk]);
    let by_psk = MixedAuth::PskForCertificate {
        psk: Arc::new(Secret::copy_from(PSK)),
        trust: trust("root"),
        gateway_subject: None,
    };
    let settings = MemberSettings { auth: MemberAuth::Mixed(Box::new(by_psk)), ..world.settings(1) };
    assert!(matches!(outcome(&mut world, settings), MemberEvent::Refused(_)));
}

/// RFC 7296 section 3.5: the types of identities that a certificate names, and those that a subject stands for.
#[test]
fn identities_are_those_of_the_certificate() {
    let named = ["10.0.0.1", "2001:db8::1", "gm1.example", "gm1@example.org", "dn:CN=gm1,O=Example"];
    for id in named {
        let mut world = open_world("gateway-p256");
        let mut settings = with(&world, own("gm1-p256"));
        settings.identity = id.parse().unwrap();
        assert_eq!(outcome(&mut world, settings), MemberEvent::Registered, "{id}");
    }
    for id in ["10.0.0.2", "gm2.example", "gm1@example.com", "dn:CN=gm2,O=Example", "key-id:0102"] {
        let mut world = open_world("gateway-p256");
        let mut settings = with(&world, own("gm1-p256"));
        settings.identity = id.parse().unwrap();
        assert_eq!(outcome(&mut world, settings), refused(FAILED), "{id}");
    }
    for (subject, good) in [("CN=gm1,O=Example", true), ("CN=gm2,O=Example", false)] {
        let mut world = world(&["gateway-p256"], vec![certified(Some("key-id:0102"), Some(subject))]);
        let mut settings = with(&world, own("gm1-p256"));
        settings.identity = "key-id:0102".parse().unwrap();
        assert_eq!(outcome(&mut world, settings) == MemberEvent::Registered, good, "{subject}");
    }
    // Who is listed with a key is not taken by certificate.
    let listed = Peer {
        identity: Some(identity(1)),
        address: None,
        sends: Readings::NONE,
        proof: Proof::Psk(Arc::new(Secret::new(vec![1; 16]))),
    };
    let mut world = world(&["gateway-p256"], vec![listed, certified(None, None)]);
    let settings = with(&world, own("gm1-p256"));
    assert_eq!(outcome(&mut world, settings), refused(FAILED));
}

/// The key server shows a certificate that leads to an authority asked for, or may; else one like the member's.
#[test]
fn the_key_server_shows_what_the_member_can_check() {
    let gateways = ["other-gateway-p256", "gateway-rsa", "gateway-ed25519", "gateway-p384"];
    let mut world = world(&gateways, vec![certified(None, None)]);
    let settings = with(&world, own("gm1-p256"));
    assert_eq!(
        outcome(&mut world, settings),
        MemberEvent::Registered,
        "not the first, which the member does not trust"
    );
    let request = CertRequest { encoding: CertEncoding::X509_SIGNATURE, authorities: vec![7; 20].into() };
    for (kind, expected) in [("rsa", KeyKind::Rsa), ("p384", KeyKind::EcP384), ("ed25519", KeyKind::Ed25519)] {
        let mut forger = Forger::new(&mut world);
        let own = own(&format!("gm1-{kind}"));
        let signed = forger.signed(&own);
        let chain = forger.request(&own.chain, signed);
        let answer = forger.ask(&mut world, chain);
        assert_eq!(answer.certificates[0].public_key().kind(), expected, "no authority, so one like the member's");
        let mut forger = Forger::new(&mut world);
        let signed = forger.signed(&own);
        let chain = forger.request_with(&own.chain, signed, &[(PayloadKind::CERTREQ, request.to_vec())]);
        let answer = forger.ask(&mut world, chain);
        let kind = answer.certificates[0].public_key().kind();
        assert_eq!(
            kind,
            KeyKind::EcP256,
            "an unknown authority, which may be above this one and is not above the rest"
        );
    }
    // An authority of no length of one is malformed, and the choice is made without it.
    let mut forger = Forger::new(&mut world);
    let own = own("gm1-p384");
    let signed = forger.signed(&own);
    let request = forger.request_with(&own.chain, signed, &[(PayloadKind::CERTREQ, vec![4, 1, 2, 3])]);
    assert_eq!(forger.ask(&mut world, request).error, None);
}

/// Requests for certificates name the CAs that are trusted, by SHA-1 of their keys (RFC 7296 section 3.7).
#[test]
fn both_sides_ask_for_certificates_of_their_authorities() {
    let mut world = open_world("gateway-p256");
    let settings = with(&world, own("gm1-p256"));
    let at = world.add(settings);
    world.start(at);
    world.run();
    let response = world.seen.iter().find(|p| p.is_response()).unwrap();
    let (header, body) = Header::decode(&response.bytes).unwrap();
    let payloads = Payloads::parse(header.next, body, rules::INIT_RESPONSE).unwrap();
    let spki = trust("root").store.anchors()[0].public_key().spki().to_vec();
    let expected = [&[4], &Hash::Sha1.digest(&[&spki])[..]].concat();
    assert_eq!(payloads.body(PayloadKind::CERTREQ), Some(&expected[..]));
    assert!(payloads.notify(NotifyType::SIGNATURE_HASH_ALGORITHMS).is_some());
    // A key server that takes no certificates asks for none.
    let mut world = World::new(policy(false));
    world.join(1);
    let response = world.seen.iter().find(|p| p.is_response()).unwrap();
    let (header, body) = Header::decode(&response.bytes).unwrap();
    let payloads = Payloads::parse(header.next, body, rules::INIT_RESPONSE).unwrap();
    assert_eq!(payloads.body(PayloadKind::CERTREQ), None);
}

/// Objects and values that a key server meets in AUTH of method 14.
#[test]
fn signatures_of_a_hostile_member_are_refused() {
    let gm1 = own("gm1-rsa");
    let ec = own("gm1-p256");
    let digital = |algorithm: &[u8], value: &[u8]| Auth {
        method: AuthMethod::DIGITAL_SIGNATURE,
        data: SignatureData { algorithm, value }.to_vec().into(),
    };
    let pss = SignatureAlgorithm::RsaPss(Hash::Sha256);
    let sign = |own: &OwnCertificate, algorithm: SignatureAlgorithm, octets: &[u8]| {
        own.key.sign_form(SignatureForm::Algorithm(algorithm), octets).unwrap()
    };
    type Make<'a> = Box<dyn Fn(&[u8]) -> Auth<'static> + 'a>;
    let rsa_cases: Vec<(&str, Make<'_>)> = vec![
        (
            "SHA-1",
            Box::new(|octets| {
                let sha1 = SignatureAlgorithm::RsaPkcs1(Hash::Sha1);
                digital(&sha1.to_der(), &sign(&gm1, sha1, octets))
            }),
        ),
        (
            "PSS called PKCS #1",
            Box::new(|octets| digital(&SignatureAlgorithm::RsaPkcs1(Hash::Sha256).to_der(), &sign(&gm1, pss, octets))),
        ),
        (
            "PKCS #1 called PSS",
            Box::new(|octets| digital(&pss.to_der(), &sign(&gm1, SignatureAlgorithm::RsaPkcs1(Hash::Sha256), octets))),
        ),
        (
            "another hash of PSS",
            Box::new(|octets| digital(&SignatureAlgorithm::RsaPss(Hash::Sha384).to_der(), &sign(&gm1, pss, octets))),
        ),
        ("an octet behind", Box::new(|octets| digital(&pss.to_der(), &[&sign(&gm1, pss, octets)[..], &[0]].concat()))),
        ("an octet less", Box::new(|octets| digital(&pss.to_der(), &sign(&gm1, pss, octets)[1..]))),
        (
            "an object cut short",
            Box::new(|octets| {
                let der = pss.to_der();
                digital(&der[..der.len() - 1], &sign(&gm1, pss, octets))
            }),
        ),
        ("no signature", Box::new(|_| digital(&pss.to_der(), &[]))),
        ("nothing", Box::new(|_| Auth { method: AuthMethod::DIGITAL_SIGNATURE, data: vec![].into() })),
        ("other octets", Box::new(|octets| digital(&pss.to_der(), &sign(&gm1, pss, &octets[1..])))),
        (
            "the method of older peers",
            Box::new(|octets| Auth {
                method: AuthMethod::RSA,
                data: sign(&gm1, SignatureAlgorithm::RsaPkcs1(Hash::Sha256), octets).into(),
            }),
        ),
        (
            "an ECDSA object",
            Box::new(|octets| digital(&SignatureAlgorithm::Ecdsa(Hash::Sha256).to_der(), &sign(&gm1, pss, octets))),
        ),
    ];
    let ec_cases: Vec<(&str, Make<'_>)> = vec![
        (
            "r and s of fixed length",
            Box::new(|octets| {
                let value = sign_older(&ec, None, octets);
                digital(&SignatureAlgorithm::Ecdsa(Hash::Sha256).to_der(), &value)
            }),
        ),
        (
            "garbage behind DER",
            Box::new(|octets| {
                let ecdsa = SignatureAlgorithm::Ecdsa(Hash::Sha256);
                digital(&ecdsa.to_der(), &[&sign(&ec, ecdsa, octets)[..], &[0]].concat())
            }),
        ),
        (
            "an Ed25519 object",
            Box::new(|octets| {
                let ecdsa = SignatureAlgorithm::Ecdsa(Hash::Sha256);
                digital(&SignatureAlgorithm::Ed25519.to_der(), &sign(&ec, ecdsa, octets))
            }),
        ),
    ];
    let mut world = open_world("gateway-p256");
    for (own, cases) in [(&gm1, rsa_cases), (&ec, ec_cases)] {
        for (what, make) in cases {
            let mut forger = Forger::new(&mut world);
            let auth = make(forger.octets().expose());
            let request = forger.request(&own.chain, auth);
            assert_eq!(forger.ask(&mut world, request).error, Some(NotifyType::AUTHENTICATION_FAILED), "{what}");
        }
        // The same hand, without malice.
        let mut forger = Forger::new(&mut world);
        let signed = forger.signed(own);
        let request = forger.request(&own.chain, signed);
        assert_eq!(forger.ask(&mut world, request).error, None);
    }
    // Any announced hash goes with any curve.
    for algorithm in [Hash::Sha384, Hash::Sha512].map(SignatureAlgorithm::Ecdsa) {
        let mut forger = Forger::new(&mut world);
        let value = sign(&ec, algorithm, forger.octets().expose());
        let request = forger.request(&ec.chain, digital(&algorithm.to_der(), &value));
        assert_eq!(forger.ask(&mut world, request).error, None);
    }
}

/// Hashes and URLs, lists and whatever else are passed over; without a certificate there is nobody to believe.
#[test]
fn certificates_of_other_encodings_are_passed_over() {
    let gm1 = own("gm1-p256");
    let cert = |encoding: u8, data: &[u8]| {
        (PayloadKind::CERT, Cert { encoding: CertEncoding(encoding), data: data.to_vec().into() }.to_vec())
    };
    let url = [&[7; 20], b"http://198.51.100.1/gm1.der".as_slice()].concat();
    let others = [cert(12, &url), cert(13, &url), cert(7, b"list"), cert(11, b"key"), cert(15, b"key"), cert(200, b"")];
    let mut world = open_world("gateway-p256");
    let mut forger = Forger::new(&mut world);
    let signed = forger.signed(&gm1);
    let request = forger.request_with(&gm1.chain, signed, &others);
    assert_eq!(forger.ask(&mut world, request).error, None);
    for other in others {
        let mut forger = Forger::new(&mut world);
        let signed = forger.signed(&gm1);
        let request = forger.request_with(&[], signed, &[other]);
        assert_eq!(forger.ask(&mut world, request).error, Some(NotifyType::AUTHENTICATION_FAILED));
    }
    // More certificates than a chain has, and more octets than are kept.
    let mut forger = Forger::new(&mut world);
    let signed = forger.signed(&gm1);
    let many: Vec<_> = (0..3).map(|_| cert(4, &[0x30; 12_000])).collect();
    let request = forger.request_with(&gm1.chain, signed, &many);
    assert_eq!(forger.ask(&mut world, request).error, Some(NotifyType::AUTHENTICATION_FAILED));
}

/// Jobs: the request waits for them, and its repeats do nothing.
#[test]
fn the_request_waits_for_its_jobs() {
    let mut world = open_world("gateway-p256");
    let settings = with(&world, own("gm1-p256"));
    let at = world.add(settings);
    world.start(at);
    let step = |world: &mut World| {
        world.hold_jobs = true;
        world.run();
        let held = std::mem::take(&mut world.held);
        assert_eq!(held.len(), 1, "one job at a time");
        held
    };
    // Key exchange.
    let held = step(&mut world);
    for (id, job) in held {
        world.on_server(false, |s, ctx| s.complete(ctx, id, job.run()));
    }
    // The check of the member: repeats draw neither an answer nor another job.
    let held = step(&mut world);
    // The first fragment stands for the message.
    let request = world.seen.iter().find(|p| p.exchange() == ExchangeType::GSA_AUTH.0).unwrap().clone();
    let before = world.seen.len();
    for _ in 0..5 {
        world.deliver(request.clone());
    }
    assert_eq!((world.held.len(), world.seen.len(), world.server.counters().repeated), (0, before, 5));
    // IKE_SA_INIT is answered as before.
    let init = world.seen[0].clone();
    world.deliver(init);
    assert_eq!(world.seen.len(), before + 1);
    let [(id, check)] = <[_; 1]>::try_from(held).unwrap();
    assert!(matches!(check, Job::CheckPeer(_)));
    world.on_server(false, |s, ctx| s.complete(ctx, id, check.run()));
    assert_eq!(world.server.established(), 0);
    // Our signature.
    let held = step(&mut world);
    world.deliver(request.clone());
    assert_eq!((world.held.len(), world.server.counters().repeated), (0, 7));
    let [(id, sign)] = <[_; 1]>::try_from(held).unwrap();
    assert!(matches!(sign, Job::Sign { .. }));
    world.on_server(false, |s, ctx| s.complete(ctx, id, sign.run()));
    assert_eq!(world.server.established(), 1);
    world.run();
    assert_eq!(world.hosts[at].events.last(), Some(&MemberEvent::Registered));
    // A repeat now draws the same answer; a result that nobody waits for nothing.
    let answers = |world: &World| -> Vec<Vec<u8>> {
        let of_auth = |p: &&Packet| p.exchange() == ExchangeType::GSA_AUTH.0 && p.is_response();
        world.seen.iter().filter(of_auth).map(|p| p.bytes.clone()).collect()
    };
    let first = answers(&world);
    world.deliver(request);
    world.on_server(false, |s, ctx| s.complete(ctx, JobId(99), JobDone::CheckPeer(Err(PeerError::Signature))));
    assert_eq!((answers(&world), world.server.established()), ([&first[..], &first[..]].concat(), 1));
}

/// Runs a world to where the member's check is held, and gives that job.
fn up_to_the_check(world: &mut World) -> (usize, JobId, Job) {
    let settings = with(world, own("gm1-p256"));
    let at = world.add(settings);
    world.start(at);
    world.hold_jobs = true;
    world.run();
    for (id, job) in std::mem::take(&mut world.held) {
        world.on_server(false, |s, ctx| s.complete(ctx, id, job.run()));
    }
    world.run();
    let [(id, check)] = <[_; 1]>::try_from(std::mem::take(&mut world.held)).unwrap();
    (at, id, check)
}

/// An SA that is dropped while its job runs: the job is given up, its result ignored, and the place is free again.
#[test]
fn an_sa_may_go_while_its_job_runs() {
    let mut world = open_world("gateway-p256");
    let (_, id, check) = up_to_the_check(&mut world);
    world.hosts.clear();
    world.held.push((id, check));
    world.pass(Duration::from_secs(40));
    assert!(world.held.is_empty(), "given up");
    assert_eq!((world.server.counters().half_open_expired, world.server.deadline()), (1, None));
    let before = world.seen.len();
    world.on_server(false, |s, ctx| s.complete(ctx, id, JobDone::CheckPeer(Err(PeerError::Signature))));
    assert_eq!((world.seen.len(), world.server.counters().authentication_failed), (before, 0));
}

/// Work that was not done, or was done for credentials that hold no more, decides nothing: the member asks again.
#[test]
fn a_check_that_decides_nothing_is_begun_anew() {
    for change_credentials in [false, true] {
        let mut world = open_world("gateway-p256");
        let (at, id, check) = up_to_the_check(&mut world);
        let done = if change_credentials { check.run() } else { check.not_done() };
        if change_credentials {
            let config = super::pki::config(&["gateway-p384"], vec![certified(None, None)]);
            world.server.set_credentials(config.credentials);
        }
        let before = world.seen.len();
        world.on_server(false, |s, ctx| s.complete(ctx, id, done));
        assert_eq!((world.seen.len(), world.server.established()), (before, 0));
        world.hold_jobs = false;
        world.pass(Duration::from_secs(2));
        assert_eq!(world.hosts[at].events.last(), Some(&MemberEvent::Registered), "{change_credentials}");
    }
    // Credentials that take no certificates any more refuse it.
    let mut world = open_world("gateway-p256");
    let (at, id, check) = up_to_the_check(&mut world);
    world.server.set_credentials(Arc::new(Credentials::new(Vec::new())));
    world.on_server(false, |s, ctx| s.complete(ctx, id, check.run()));
    world.hold_jobs = false;
    world.pass(Duration::from_secs(2));
    assert_eq!(world.hosts[at].events.last(), Some(&refused(FAILED)));
}

/// What an IKE SA rests upon may be withdrawn: the key, the certificate, the peer, the CA.
#[test]
fn ike_sas_end_with_what_they_rest_upon() {
    let psk = |key: &[u8]| Peer {
        identity: Some(identity(2)),
        address: None,
        sends: Readings::NONE,
        proof: Proof::Psk(Arc::new(Secret::copy_from(key))),
    };
    let everybody = || vec![psk(PSK), certified(None, None)];
    let credentials = |peers, roots: &[&str], lists| {
        let anchors = roots.iter().flat_map(|root| trust(root).store.anchors().to_vec()).collect();
        let store = Arc::new(TrustStore::new(anchors, lists, Revocation::IfKnown));
        let own = vec![own("gateway-p256")];
        Arc::new(Credentials::new(peers).with_own(own).with_trust(Trust { store, ocsp: Arc::new([]) }))
    };
    let crls = super::pki::crls;
    let another_key = vec![psk(b"something else"), certified(None, None)];
    let cases = [
        ("the same", "gm1-p256", credentials(everybody(), &["root"], vec![]), [true, true]),
        ("one more CA, and lists", "gm1-p256", credentials(everybody(), &["other-root", "root"], crls()), [true, true]),
        ("another key", "gm1-p256", credentials(another_key, &["root"], vec![]), [true, false]),
        ("no certificates", "gm1-p256", credentials(vec![psk(PSK)], &["root"], vec![]), [false, true]),
        ("another CA", "gm1-p256", credentials(everybody(), &["other-root"], vec![]), [false, true]),
        ("revoked", "revoked-p256", credentials(everybody(), &["root"], crls()), [false, true]),
    ];
    for (what, certificate, new, stand) in cases {
        let mut config = super::pki::config(&["gateway-p256"], Vec::new());
        config.idle = Duration::from_secs(86_400);
        config.credentials = credentials(everybody(), &["root"], vec![]);
        let mut world = World::with(policy(false), config, 1);
        let settings = with(&world, own(certificate));
        assert_eq!(outcome(&mut world, settings), MemberEvent::Registered, "{what}");
        world.join(2);
        world.server.set_credentials(new);
        world.pass(Duration::from_secs(1));
        let stands = |at: usize| !world.hosts[at].events.contains(&MemberEvent::Disconnected);
        assert_eq!([stands(0), stands(1)], stand, "{what}");
    }
}

/// An answer of an OCSP responder that calls its certificate revoked has a peer prove itself again, as a list does; the answer
/// itself is believed only once it is checked.
#[test]
fn ike_sas_end_when_an_answer_says_revoked() {
    for (revoked, policy_of, stands) in [
        ("gm1-p256", Revocation::IfKnown, false),
        ("gm1-p256", Revocation::Ignore, true),
        ("gm2-p256", Revocation::IfKnown, true),
    ] {
        let mut config = super::pki::config(&["gateway-p256"], vec![certified(None, None)]);
        config.idle = Duration::from_secs(86_400);
        let mut world = World::with(policy(false), config.clone(), 1);
        let settings = with(&world, own("gm1-p256"));
        assert_eq!(outcome(&mut world, settings), MemberEvent::Registered);
        let store = Arc::new(TrustStore::new(trust("root").store.anchors().to_vec(), Vec::new(), policy_of));
        let ocsp = Arc::new([super::pki::answered_revoked(&own(revoked).chain[0])]);
        let credentials = config.credentials.as_ref().clone().with_trust(Trust { store, ocsp });
        world.server.set_credentials(Arc::new(credentials));
        world.pass(Duration::from_secs(1));
        assert_eq!(!world.hosts[0].events.contains(&MemberEvent::Disconnected), stands, "{revoked} {policy_of:?}");
        // Nobody has signed the answer, so whoever proves itself again is let in.
        world.start(0);
        world.run();
        assert_eq!(world.hosts[0].events.last(), Some(&MemberEvent::Registered));
    }
}

/// One address may have so many signatures checked in a second; the others wait for their turn.
#[test]
fn checks_are_begun_within_a_budget() {
    let mut config = super::pki::config(&["gateway-p256"], vec![certified(None, None)]);
    config.checks_per_address = 1;
    let mut world = World::with(policy(false), config, 1);
    for _ in 0..3 {
        let settings = with(&world, own("gm1-p256"));
        let at = world.add(settings);
        world.start(at);
    }
    world.run();
    let counters = world.server.counters();
    assert_eq!((counters.established, counters.authentication_failed), (1, 0));
    assert!(counters.checks_withheld >= 2);
    world.pass(Duration::from_secs(10));
    assert_eq!(world.server.counters().established, 3);
}

/// An IKE SA lasts no longer than the certificate that it rests upon.
#[test]
fn an_sa_ends_with_its_certificate() {
    let mut config = super::pki::config(&["gateway-p256"], vec![certified(None, None)]);
    config.idle = Duration::from_secs(86_400);
    let mut world = World::with(policy(false), config, 1);
    let settings = with(&world, own("gm1-p256"));
    let certificate = own("gm1-p256").chain[0].clone();
    let left = Duration::from_secs(600);
    world.now.wall = certificate.not_after() - left;
    assert_eq!(outcome(&mut world, settings), MemberEvent::Registered);
    world.pass(left - Duration::from_secs(1));
    assert_eq!(world.server.established(), 1);
    world.pass(Duration::from_secs(2));
    assert_eq!(world.server.established(), 0);
    assert!(world.hosts[0].events.contains(&MemberEvent::Disconnected));
}

/// INITIAL_CONTACT counts once its sender has authenticated, and for its identity alone (RFC 7296 section 2.4).
#[test]
fn initial_contact_counts_after_authentication() {
    let mut world = open_world("gateway-p256");
    let settings = with(&world, own("gm1-p256"));
    assert_eq!(outcome(&mut world, settings.clone()), MemberEvent::Registered);
    let other = MemberSettings {
        identity: identity(2),
        local: "10.0.0.2:848".parse().unwrap(),
        ..with(&world, own("gm2-p256"))
    };
    assert_eq!(outcome(&mut world, other), MemberEvent::Registered);
    assert_eq!(world.server.established(), 2);
    // A stranger who says so.
    let contact = [(PayloadKind::NOTIFY, Notify::bare(NotifyType::INITIAL_CONTACT).to_vec())];
    let mut forger = Forger::new(&mut world);
    let stranger = own("stranger-p256");
    let signed = forger.signed(&stranger);
    let request = forger.request_with(&stranger.chain, signed, &contact);
    assert_eq!(forger.ask(&mut world, request).error, Some(NotifyType::AUTHENTICATION_FAILED));
    assert_eq!(world.server.established(), 2);
    // The member itself, from elsewhere; without the notify both stand.
    for (more, established) in [(&[][..], 3), (&contact[..], 2)] {
        let mut forger = Forger::new(&mut world);
        let gm1 = own("gm1-p256");
        let signed = forger.signed(&gm1);
        let request = forger.request_with(&gm1.chain, signed, more);
        assert_eq!(forger.ask(&mut world, request).error, None);
        assert_eq!(world.server.established(), established);
    }
}

/// A whole run with certificates, each message of which comes in every damaged form, too.
#[test]
fn nothing_tampered_with_is_believed_with_certificates() {
    let mut config = super::pki::config(&["gateway-ed25519"], vec![certified(None, None)]);
    config.half_open_per_address = usize::MAX;
    config.half_open = usize::MAX;
    config.cookie_threshold = usize::MAX;
    config.checks_per_address = u32::MAX;
    config.unprotected_answers_per_second = 0;
    let mut world = World::with(policy(false), config, 1);
    world.tamper = true;
    let settings = with(&world, own("gm1-ed25519"));
    assert_eq!(outcome(&mut world, settings), MemberEvent::Registered);
    assert_eq!((world.server.established(), world.server.counters().registered), (1, 1));
}

/// CertificateAuth with trust that is changed while the member runs.
#[test]
fn a_member_goes_by_the_trust_it_is_given() {
    let mut world = open_world("gateway-p256");
    let auth =
        CertificateAuth { own: own("gm1-p256"), others: Vec::new(), trust: trust("other-root"), gateway_subject: None };
    let settings = MemberSettings { auth: MemberAuth::Certificate(Box::new(auth)), ..world.settings(1) };
    let at = world.add(settings);
    world.start(at);
    world.run();
    assert!(matches!(world.hosts[at].events.last(), Some(MemberEvent::Refused(_))));
    world.hosts[at].member.set_trust(trust("root"));
    world.pass(Duration::from_secs(11));
    assert_eq!(world.hosts[at].events.last(), Some(&MemberEvent::Registered));
}

/// The forger's view of an answer is what our own member's would be.
impl Forged {
    fn verified(&self, kind: &str, danger: bool) -> bool {
        let hash = danger.then_some(Hash::Sha1);
        let own = own(&format!("gateway-{kind}"));
        let key = own.chain[0].public_key();
        use keyferry_crypto::SignatureScheme as S;
        let scheme = match (key.kind(), hash) {
            (KeyKind::Rsa, Some(_)) => S::RsaPkcs1Sha1,
            (KeyKind::Rsa, None) => S::RsaPkcs1Sha256,
            (KeyKind::EcP256, _) => S::EcdsaP256Sha256,
            (KeyKind::EcP384, _) => S::EcdsaP384Sha384,
            (KeyKind::EcP521, _) => S::EcdsaP521Sha512,
            (KeyKind::Ed25519 | KeyKind::Ed448, _) => return false,
        };
        key.verify(scheme, &[self.octets.expose()], &self.signature)
    }
}

/// RFC 7296 section 3.7: of several certificates a member shows one that leads to an authority which the key server names.
#[test]
fn a_member_shows_the_certificate_that_is_asked_for() {
    for (root, shown) in [("root", "gm1-p256"), ("other-root", "stranger-p256")] {
        for names in [["stranger-p256", "gm1-p256"], ["gm1-p256", "stranger-p256"]] {
            let credentials = Credentials::new(vec![certified(None, None)]).with_own(vec![own("gateway-p256")]);
            let config = crate::ServerConfig::new(Arc::new(credentials.with_trust(trust(root))));
            let mut world = World::with(policy(false), config, 1);
            let auth = CertificateAuth {
                own: own(names[0]),
                others: vec![own(names[1])],
                trust: trust("root"),
                gateway_subject: None,
            };
            let settings = MemberSettings { auth: MemberAuth::Certificate(Box::new(auth)), ..world.settings(1) };
            assert_eq!(outcome(&mut world, settings), MemberEvent::Registered, "{shown} of {names:?}");
        }
    }
}

/// RFC 7427 section 4: one whose signatures the key server can check. Here it does not know of Edwards keys.
#[test]
fn a_member_signs_so_that_the_key_server_can_check_it() {
    for (names, asks) in [(vec!["ed25519"], false), (vec!["ed25519", "p256"], true), (vec!["ed448", "ed25519"], false)]
    {
        let mut world = open_world("gateway-p256");
        let mut all = names.iter().map(|kind| own(&format!("gm1-{kind}")));
        let auth = CertificateAuth {
            own: all.next().unwrap(),
            others: all.collect(),
            trust: trust("root"),
            gateway_subject: None,
        };
        let settings = MemberSettings { auth: MemberAuth::Certificate(Box::new(auth)), ..world.settings(1) };
        let at = world.add(settings);
        world.start(at);
        let request = world.wire.pop_front().unwrap();
        world.deliver(request);
        let mut response = world.wire.pop_front().unwrap();
        silence_announcements(&mut response);
        world.deliver(response);
        let sent = world.wire.pop_front();
        assert_eq!(sent.is_some_and(|p| p.exchange() == ExchangeType::GSA_AUTH.0), asks, "{names:?}");
    }
}

/// A key server may have several of a kind, and shows the one that the member's authority has issued.
#[test]
fn a_key_server_shows_the_certificate_that_is_asked_for() {
    for names in [["other-gateway-p256", "gateway-p256"], ["gateway-p256", "other-gateway-p256"]] {
        for root in ["root", "other-root"] {
            let mut world = world(&names, vec![certified(None, None)]);
            let auth =
                CertificateAuth { own: own("gm1-p256"), others: Vec::new(), trust: trust(root), gateway_subject: None };
            let settings = MemberSettings { auth: MemberAuth::Certificate(Box::new(auth)), ..world.settings(1) };
            assert_eq!(outcome(&mut world, settings), MemberEvent::Registered, "{root} of {names:?}");
        }
    }
}

/// A request whose signature is checked is kept meanwhile: there is room for so many octets of them.
#[test]
fn requests_under_check_are_kept_within_bounds() {
    for (room, established) in [(1000, 0), (20_000, 1)] {
        let mut config = super::pki::config(&["gateway-p256"], vec![certified(None, None)]);
        config.half_open_requests = room;
        let mut world = World::with(policy(false), config, 1);
        if established == 1 {
            let (_, id, job) = up_to_the_check(&mut world);
            let auth = world.seen.iter().find(|p| p.exchange() == ExchangeType::GSA_AUTH.0).unwrap();
            assert!(world.server.requests_for_test() > auth.bytes.len());
            world.on_server(false, |s, ctx| s.complete(ctx, id, job.run()));
            world.run_jobs();
        } else {
            let settings = with(&world, own("gm1-p256"));
            let at = world.add(settings);
            world.start(at);
        }
        world.run();
        let counters = world.server.counters();
        assert_eq!((counters.established, counters.checks_withheld), (established, 1 - established));
        assert_eq!(world.server.requests_for_test() == 0, established == 1);
    }
}
