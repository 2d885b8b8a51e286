//! Both roles' state machines against each other, where messages are made in other ways than ours.

use std::net::SocketAddr;

use keyferry_crypto::x509::{Certificate, Revocation, TrustStore};
use keyferry_crypto::{BlockCipher, Hash, Job, JobDone, KeyKind, SeededRandom, SigningKey};
use keyferry_model::credentials::{Credentials, OwnCertificate, Peer, Proof, Trust};
use keyferry_model::drive::{Datagram, JobId, Outbox, Output, Via};
use keyferry_model::reading::{Reading, Readings};
use keyferry_model::settings::CertificateAuth;

use super::*;
use crate::phase1::auth::Own;
use crate::phase1::extensions::Extensions;
use crate::phase1::keymat::{Basis, phase2_iv};
use crate::phase1::method::ways;
use crate::phase1::responder::{Completed, Found, HalfOpen, KeStep, Peers, Progress, Rules};

const NOW: Now = Now { mono: Duration::from_secs(1), wall: Duration::from_secs(1_800_000_000) };

fn read(file: &str) -> Vec<u8> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/pki/").to_owned() + file;
    std::fs::read(path).unwrap()
}

fn own(name: &str) -> OwnCertificate {
    let chain = Certificate::all_from_pem(&read(&format!("{name}.pem"))).unwrap();
    OwnCertificate { chain, key: Arc::new(SigningKey::from_pem(&read(&format!("{name}.key"))).unwrap()) }
}

fn trust() -> Trust {
    let anchors = Certificate::all_from_pem(&read("root.pem")).unwrap();
    Trust { store: Arc::new(TrustStore::new(anchors, Vec::new(), Revocation::IfKnown)), ocsp: Arc::new([]) }
}

/// A responder and an initiator, and what lies between them.
struct Run {
    initiator: Initiator,
    half: Option<HalfOpen>,
    credentials: Credentials,
    accepted: Accepted,
    out: Outbox,
    rng: SeededRandom,
}

impl Run {
    /// `kind` is `psk`, or says which certificates are shown.
    fn new(kind: &str, hash: Hash, exchange: Phase1Exchange) -> Self {
        let accepted = Accepted {
            ciphers: vec![BlockCipher::Aes128Cbc],
            hashes: vec![hash],
            groups: vec![KeGroup::Ecp256],
            weak: false,
        };
        let psk = Arc::new(Secret::copy_from(b"a pre-shared key"));
        let identity: Identity = "10.84.0.10".parse().unwrap();
        let (auth, credentials) = if kind == "psk" {
            let peer = Peer {
                identity: Some(identity.clone()),
                address: None,
                proof: Proof::Psk(Arc::clone(&psk)),
                sends: Readings::NONE,
            };
            (MemberAuth::Psk(psk), Credentials::new(vec![peer]))
        } else {
            let peer = Peer {
                identity: None,
                address: None,
                proof: Proof::Certificate { subject: None },
                sends: Readings::NONE,
            };
            let own_of_server = vec![own(&format!("gateway-{kind}"))];
            let credentials = Credentials::new(vec![peer]).with_own(own_of_server).with_trust(trust());
            let auth = CertificateAuth {
                own: own(&format!("gm10-{kind}")),
                others: Vec::new(),
                trust: trust(),
                gateway_subject: None,
            };
            (MemberAuth::Certificate(Box::new(auth)), credentials)
        };
        let config = Config {
            exchange,
            accepted: &accepted,
            identity: &identity,
            peer: None,
            auth: &auth,
            lifetime: Duration::from_secs(3600),
            doi: Phase1Doi::Gdoi,
            sends: Readings::NONE,
            seen: Readings::NONE,
            extensions: Extensions::default(),
            path: ("10.0.0.1:848".parse().unwrap(), "10.0.0.2:848".parse().unwrap()),
            floated: ("10.0.0.1:4500".parse().unwrap(), "10.0.0.2:4500".parse().unwrap()),
        };
        let mut rng = SeededRandom::new(5);
        let initiator = Initiator::new(&config, &mut rng).unwrap();
        Self { initiator, half: None, credentials, accepted, out: Outbox::default(), rng }
    }

    fn half(&mut self) -> &mut HalfOpen {
        self.half.as_mut().unwrap()
    }

    /// The responder reads message 1.
    fn open(&mut self, message1: &[u8]) {
        let (header, body) = Header::decode(message1).unwrap();
        let dgram = datagram(message1);
        let decoy = Secret::copy_from(b"decoy");
        let (accepted, credentials) = (&self.accepted, &self.credentials);
        let rules = Rules { accepted, credentials, identity: None, decoy: &decoy };
        if header.exchange == exchange::MAIN_MODE {
            self.half = Some(HalfOpen::open(&header, &dgram, body, rules, &mut self.rng).unwrap());
        } else {
            let opened = HalfOpen::open_aggressive(&header, &dgram, body, rules, &mut self.rng);
            let (mut half, peer) = opened.unwrap();
            half.begin(peer, &mut self.out, &mut self.rng);
            self.half = Some(half);
        }
    }

    /// The job that is out.
    fn job(&mut self) -> (JobId, Job) {
        match self.out.poll() {
            Some(Output::Job(id, job)) => (id, job),
            other => panic!("a job, not {other:?}"),
        }
    }

    fn complete(&mut self, id: JobId, done: JobDone) -> Progress {
        let Self { half, credentials, out, rng, .. } = self;
        half.as_mut().unwrap().complete(id, done, credentials, out, rng)
    }

    fn run_job(&mut self) -> Progress {
        let (id, job) = self.job();
        self.complete(id, job.run())
    }

    /// Main mode up to message 4; message 5 as the initiator makes it.
    fn up_to_message_5(&mut self) -> Vec<u8> {
        let message1 = self.initiator.messages(0).remove(0);
        self.open(&message1);
        let message2 = self.half().answer(NOW.mono).unwrap().to_vec();
        let message3 = self.tell_initiator(&message2).unwrap();
        let message4 = self.exchange(&message3);
        self.tell_initiator(&message4).unwrap()
    }

    /// Message 4, in answer to message 3.
    fn exchange(&mut self, message3: &[u8]) -> Vec<u8> {
        let (header, body) = Header::decode(message3).unwrap();
        let half = self.half.as_ref().unwrap();
        let Ok(KeStep::New(peer)) = half.ke(&header, &datagram(message3), body, &self.credentials) else {
            panic!("a new continuation")
        };
        let Self { half, out, rng, .. } = self;
        half.as_mut().unwrap().begin(peer, out, rng);
        let Progress::Send(message4) = self.run_job() else { panic!("message 4") };
        message4.bytes
    }

    /// The responder takes message 5, and the initiator its answer.
    fn finish(mut self, message5: &[u8]) {
        let peer = match self.proof(message5) {
            Ok(Found::Proven(peer)) => peer,
            Ok(Found::Signed(check)) => {
                let Self { half, out, .. } = &mut self;
                half.as_mut().unwrap().begin_check(*check, out);
                assert!(matches!(self.run_job(), Progress::Job(_)));
                let Progress::Proven(peer) = self.run_job() else { panic!("proven") };
                peer
            }
            Ok(Found::TooMany(_) | Found::Repeat) | Err(_) => panic!("new, and the first"),
        };
        let completed = self.half.take().unwrap().advance(*peer).unwrap();
        let message6 = completed.answer.unwrap();
        let (header, body) = Header::decode(&message6).unwrap();
        let verified = self.initiator.verify(&header, body, NOW).unwrap();
        assert_eq!(self.initiator.advance(verified).sa.iv(7), completed.sa.iv(7));
    }

    fn tell_initiator(&mut self, message: &[u8]) -> Option<Vec<u8>> {
        let (header, body) = Header::decode(message).unwrap();
        self.initiator.clear(&header, body, NOW.mono, &mut self.rng).unwrap()
    }

    /// What the responder makes of the message that is to prove the peer.
    fn proof(&mut self, message: &[u8]) -> Result<Found, Reject> {
        let (header, body) = Header::decode(message).unwrap();
        let half = self.half.as_ref().unwrap();
        let peers = Peers { credentials: &self.credentials, seen: &|_| Readings::NONE };
        let found = half.verify(&header, body, &datagram(message), &peers, NOW, &mut self.rng);
        found.map_err(|impostor| impostor.why)
    }

    /// Begins the check of a signature and does it.
    fn check(&mut self, message: &[u8]) -> Progress {
        let Ok(Found::Signed(check)) = self.proof(message) else { panic!("a signature") };
        let Self { half, out, .. } = self;
        half.as_mut().unwrap().begin_check(*check, out);
        self.run_job()
    }
}

fn datagram(bytes: &[u8]) -> Datagram<'_> {
    let address = |n: u8| SocketAddr::from(([10, 84, 0, n], 848));
    Datagram { from: address(10), to: address(1), via: Via::Udp, bytes }
}

const KINDS: [(&str, KeyKind, Hash); 4] = [
    ("rsa", KeyKind::Rsa, Hash::Sha256),
    ("p256", KeyKind::EcP256, Hash::Sha256),
    ("p384", KeyKind::EcP384, Hash::Sha384),
    ("p521", KeyKind::EcP521, Hash::Sha512),
];

/// The responder takes the initiator's signature in every reading: RSA raw and with DigestInfo; ECDSA with the HMAC of the
/// curve's hash and of the negotiated one, over the digest and hashed again.
#[test]
fn a_responder_takes_every_way_to_sign() {
    for (name, kind, _) in KINDS {
        for negotiated in [Hash::Sha256, Hash::Sha384, Hash::Sha512] {
            let mut run = Run::new(name, negotiated, Phase1Exchange::Main);
            let sent = run.up_to_message_5();
            let ways = ways(run.initiator.offered[0], kind, Readings::NONE);
            assert!(ways.len() == 2 || (ways.len() == 4 && kind != KeyKind::Rsa));
            assert!(ways[0].0.is_empty());
            let Auth::Certificate(auth) = run.initiator.auth.clone() else { panic!("a certificate") };
            for (reading, way) in ways {
                let (branch, i) = (&run.initiator.branches[0], &run.initiator);
                let proof = &branch.proofs[0];
                let keys = proof.sa.keys();
                let hash = i.transcript(branch, &proof.ke_r, &proof.nonce_r).hash_i(keys, &i.id_i, way.hmac);
                let signature = auth.own.key.sign_digest(way.how, hash.expose()).unwrap();
                let evidence = Own::Signature { signature: &signature, chain: Some(&auth.own) };
                let payloads = evidence.put(auth::id_payload(Payloads::new(), &i.id_i));
                let (message5, _) = proof.sa.seal_phase1(exchange::MAIN_MODE, &keys.iv, &payloads).unwrap();
                let mut again = Run::new(name, negotiated, Phase1Exchange::Main);
                assert_eq!(again.up_to_message_5().len(), sent.len(), "the same run, since all follows from the seed");
                let progress = again.check(&message5);
                assert!(matches!(progress, Progress::Job(_)), "{name} {negotiated:?} {way:?}: {progress:?}");
                let Progress::Proven(peer) = again.run_job() else { panic!("proven") };
                let completed = again.half.take().unwrap().advance(*peer).unwrap();
                assert_eq!(completed.seen, reading, "{name} {negotiated:?} {way:?}");
            }
        }
    }
}

/// What was seen of a peer is tried first: so its next proof costs one check of a signature and no more.
#[test]
fn the_way_that_was_seen_is_tried_first() {
    for (_, kind, _) in KINDS {
        let suite = Suite {
            cipher: BlockCipher::Aes128Cbc,
            hash: Hash::Sha1,
            group: KeGroup::Ecp256,
            method: Method::Signature(kind),
        };
        let all = ways(suite, kind, Readings::NONE);
        for (seen, way) in all.clone() {
            // With what says nothing of signatures, or of other keys.
            let known = seen.union(Readings::from_iter([Reading::IdUdp]));
            let again = ways(suite, kind, known);
            assert_eq!((again[0].1, again.len()), (way, all.len()), "{kind:?} {seen}");
        }
    }
}

/// The initiator takes the responder's signature over the digest and hashed again, raw and with DigestInfo.
#[test]
fn an_initiator_takes_every_way_to_sign() {
    for (name, kind, hash) in KINDS {
        for at in 0..2 {
            let mut run = Run::new(name, hash, Phase1Exchange::Main);
            let message5 = run.up_to_message_5();
            assert!(matches!(run.check(&message5), Progress::Job(_)));
            let (id, job) = run.job();
            let Job::Sign { key, octets, .. } = job else { panic!("a signature to make") };
            let (reading, way) = ways(run.initiator.offered[0], kind, Readings::NONE)[at];
            let signature = key.sign_digest(way.how, octets.expose());
            let Progress::Proven(peer) = run.complete(id, JobDone::Sign(signature)) else { panic!("proven") };
            let completed = run.half.take().unwrap().advance(*peer).unwrap();
            let message6 = completed.answer.unwrap();
            let (header, body) = Header::decode(&message6).unwrap();
            let verified = run.initiator.verify(&header, body, NOW).unwrap();
            assert_eq!(verified.identity, "10.84.0.1".parse().unwrap(), "{name} {way:?}");
            assert_eq!(verified.seen, reading, "{name} {way:?}");
            assert_eq!(run.initiator.advance(verified).sa.iv(7), completed.sa.iv(7));
        }
    }
}

/// Message 3 of aggressive mode in clear is taken too. There is no last block then: IVs of phase 2 come from the first IV.
#[test]
fn the_third_message_of_aggressive_mode_may_come_in_clear() {
    for kind in ["psk", "p256"] {
        for encrypted in [true, false] {
            let mut run = Run::new(kind, Hash::Sha256, Phase1Exchange::Aggressive);
            let message1 = run.initiator.messages(0).remove(0);
            run.open(&message1);
            let mut progress = run.run_job();
            if kind != "psk" {
                progress = run.run_job();
            }
            let Progress::Send(message2) = progress else { panic!("message 2") };
            let (header, body) = Header::decode(&message2.bytes).unwrap();
            let verified = run.initiator.verify_aggressive(&header, body, NOW).unwrap();
            let At::Aggressive(done) = &verified.at else { panic!("aggressive mode") };
            let keys = done.sa.keys();
            let (suite, first_iv) = (keys.suite, keys.iv);
            let message3 = if encrypted { done.message3.clone() } else { in_clear(&done.message3, &done.sa) };
            let completed = complete(&mut run, &message3);
            assert!(completed.answer.is_none());
            let last =
                if encrypted { run.initiator.advance(verified).sa.iv(9) } else { phase2_iv(suite, &first_iv, 9) };
            assert_eq!(completed.sa.iv(9), last, "{kind} {encrypted}");
        }
    }
}

fn complete(run: &mut Run, message3: &[u8]) -> Completed {
    let peer = match run.proof(message3) {
        Ok(Found::Proven(peer)) => peer,
        Ok(Found::Signed(check)) => {
            let Run { half, out, .. } = run;
            half.as_mut().unwrap().begin_check(*check, out);
            let Progress::Proven(peer) = run.run_job() else { panic!("proven") };
            peer
        }
        Ok(Found::TooMany(_) | Found::Repeat) => panic!("new, and the first"),
        Err(why) => panic!("{why}"),
    };
    run.half.take().unwrap().advance(*peer).unwrap()
}

/// The same payloads without encryption.
fn in_clear(message: &[u8], sa: &IkeSa) -> Vec<u8> {
    let (header, body) = Header::decode(message).unwrap();
    let keys = sa.keys();
    let plain = message::open(keys.suite.cipher, keys.encryption.expose(), &keys.iv, &header, body).unwrap();
    let parts = plain.parts().unwrap();
    let copied = |p: Payloads, raw: &keyferry_wire::RawPayload<'_>| p.with_body(raw.kind, Secret::copy_from(raw.body));
    let payloads = parts.payloads.iter().fold(Payloads::new(), copied);
    message::clear(&Header { flags: 0, ..header }, &payloads).unwrap()
}

/// Signatures that are altered on the way cost a few checks at once, and then some a second; the true one has its turn.
#[test]
fn altered_signatures_cost_few_checks_and_keep_nobody_out() {
    let mut run = Run::new("p256", Hash::Sha256, Phase1Exchange::Main);
    let message5 = run.up_to_message_5();
    let altered = |at: usize| {
        let mut bytes = message5.clone();
        let last = bytes.len() - at;
        bytes[last] ^= 1;
        bytes
    };
    let mut checks = 0;
    for at in 1..40 {
        // What is altered in the middle of the last blocks garbles the signature there.
        match run.proof(&altered(at + 16)) {
            Ok(Found::Signed(check)) => {
                checks += 1;
                let Run { half, out, .. } = &mut run;
                half.as_mut().unwrap().begin_check(*check, out);
                assert!(matches!(run.run_job(), Progress::Nothing(_)));
            }
            Ok(Found::TooMany(check)) => run.half().hold_check(*check, NOW.mono),
            Ok(Found::Repeat | Found::Proven(_)) => panic!("altered, and not seen before"),
            Err(_) => {}
        }
    }
    assert_eq!(checks, MAX_RIVALS);
    let Ok(Found::TooMany(check)) = run.proof(&message5) else { panic!("one too many") };
    run.half().hold_check(*check, NOW.mono);
    assert!(run.half().release(NOW.mono).1.is_empty());
    let released = run.half().release(NOW.mono + HOLD).1;
    assert_eq!(released.len(), 1, "the latest of the one continuation");
    for check in released {
        let Run { half, out, .. } = &mut run;
        half.as_mut().unwrap().begin_check(check, out);
    }
    assert!(matches!(run.run_job(), Progress::Job(_)), "the true one");
}

/// Certificates come in any order, lists of revoked ones beside them are passed over, and encodings that are not taken are
/// refused, as is what cannot be read.
#[test]
fn certificates_come_in_many_forms() {
    const PKCS7: u8 = 1;
    const X509: u8 = 4;
    const CRL: u8 = 7;
    let chain: Vec<Vec<u8>> = own("gm10-p256").chain.iter().map(|c| c.der().to_vec()).collect();
    let (leaf, issuer) = (chain[0].as_slice(), chain[1].as_slice());
    let junk = [0x30, 0x03, 1, 2, 3];
    let taken: [&[(u8, &[u8])]; 4] = [
        &[(X509, leaf), (X509, issuer)],
        &[(X509, issuer), (X509, leaf)],
        &[(CRL, &junk), (X509, leaf), (PKCS7, &junk), (X509, issuer)],
        &[(X509, leaf), (X509, issuer), (X509, &junk)],
    ];
    for certificates in taken {
        let (mut run, message5) = with_certificates(certificates);
        assert!(matches!(run.check(&message5), Progress::Job(_)), "{certificates:?}");
    }
    // The anchor has not issued the leaf, and one issuer alone is nobody's certificate.
    let untrusted: [&[(u8, &[u8])]; 3] = [&[(X509, leaf)], &[(X509, issuer)], &[(X509, &junk)]];
    for certificates in untrusted {
        let (mut run, message5) = with_certificates(certificates);
        assert!(matches!(run.check(&message5), Progress::Nothing(_)), "{certificates:?}");
    }
    let refused: [&[(u8, &[u8])]; 3] = [&[], &[(PKCS7, leaf)], &[(CRL, leaf)]];
    for certificates in refused {
        let (mut run, message5) = with_certificates(certificates);
        let found = run.proof(&message5).map(|_| "a signature to check");
        let kind = NotifyType::CERT_TYPE_UNSUPPORTED;
        assert!(matches!(found, Err(Reject::Unacceptable(_, k)) if k == kind), "{found:?}");
    }
    // More than a chain can have are not looked at, and an empty one is none.
    let many = vec![(X509, leaf); 17];
    let (mut run, message5) = with_certificates(&many);
    assert!(run.proof(&message5).is_err());
    let (mut run, message5) = with_certificates(&[(X509, &[])]);
    assert!(run.proof(&message5).is_err());
}

/// Message 5 with these CERT payloads in place of ours.
fn with_certificates(certificates: &[(u8, &[u8])]) -> (Run, Vec<u8>) {
    let mut run = Run::new("p256", Hash::Sha256, Phase1Exchange::Main);
    run.up_to_message_5();
    let Auth::Certificate(auth) = run.initiator.auth.clone() else { panic!("a certificate") };
    let (branch, i) = (&run.initiator.branches[0], &run.initiator);
    let proof = &branch.proofs[0];
    let keys = proof.sa.keys();
    let hash = i.transcript(branch, &proof.ke_r, &proof.nonce_r).hash_i(keys, &i.id_i, Hash::Sha256);
    let (_, way) = ways(i.offered[0], KeyKind::EcP256, Readings::NONE)[0];
    let signature = auth.own.key.sign_digest(way.how, hash.expose()).unwrap();
    let mut payloads = auth::id_payload(Payloads::new(), &i.id_i);
    for (encoding, data) in certificates {
        payloads = payloads.with_body(payload::CERT, Secret::new([&[*encoding], *data].concat()));
    }
    let payloads = Own::Signature { signature: &signature, chain: None }.put(payloads);
    let (message5, _) = proof.sa.seal_phase1(exchange::MAIN_MODE, &keys.iv, &payloads).unwrap();
    (run, message5)
}

/// Forged messages 2 push nothing out that has come further, and a true one among them has its turn.
#[test]
fn forged_choices_keep_nobody_out() {
    for first in [true, false] {
        let mut run = Run::new("psk", Hash::Sha256, Phase1Exchange::Main);
        let message1 = run.initiator.messages(0).remove(0);
        run.open(&message1);
        let message2 = run.half().answer(NOW.mono).unwrap().to_vec();
        let mut forged = 0;
        let mut flood = |run: &mut Run| {
            for _ in 0..10 {
                forged += 1;
                let mut copy = message2.clone();
                copy[8..16].fill(forged);
                run.tell_initiator(&copy);
            }
        };
        let message3 = if first {
            let message3 = run.tell_initiator(&message2).unwrap();
            flood(&mut run);
            message3
        } else {
            flood(&mut run);
            assert_eq!(run.tell_initiator(&message2), None, "one too many");
            assert_eq!(run.initiator.due(), Some(NOW.mono + HOLD));
            let Run { initiator, rng, .. } = &mut run;
            assert!(initiator.release(NOW.mono, rng).is_empty());
            initiator.release(NOW.mono + HOLD, rng).remove(0)
        };
        let message4 = run.exchange(&message3);
        let message5 = run.tell_initiator(&message4).unwrap();
        for _ in 0..2 * MAX_RIVALS {
            flood(&mut run);
            let Run { initiator, rng, .. } = &mut run;
            assert_eq!(initiator.release(NOW.mono + HOLD, rng).len(), 1);
            assert_eq!(initiator.branches.len(), MAX_RIVALS + 1);
        }
        run.finish(&message5);
    }
}

/// Where signatures authenticate, anybody can make the keys of a rival, and notices under them: they end nothing. Under keys
/// that depend on a pre-shared key a notice is the key server's own.
#[test]
fn a_notice_ends_phase_1_only_where_its_keys_prove_something() {
    for kind in ["psk", "p256"] {
        let mut run = Run::new(kind, Hash::Sha256, Phase1Exchange::Main);
        let message5 = run.up_to_message_5();
        let (pair, nonce) = (KeyPair::generate(KeGroup::Ecp256, &mut run.rng).unwrap(), [7; 32]);
        let guess = Secret::copy_from(b"a guess");
        let basis = if kind == "psk" { Basis::PreShared(&guess) } else { Basis::Signatures };
        let branch = &run.initiator.branches[0];
        let shared = pair.agree(branch.pair.public()).unwrap();
        let transcript = run.initiator.transcript(branch, pair.public(), &nonce);
        let mut rival = IkeSa::new(branch.choice.cookies, transcript.keys(basis, &shared));
        let header = message::header(&branch.choice.cookies, exchange::MAIN_MODE, 0, 0, payload::KE);
        let payloads = Payloads::new().with(payload::KE, &Ke(pair.public())).with(payload::NONCE, &Nonce(&nonce));
        let answer = run.tell_initiator(&message::clear(&header, &payloads).unwrap()).unwrap();
        rival.chain_to(Iv::back(BlockCipher::Aes128Cbc, &answer).unwrap());
        let error = NotifyType::AUTHENTICATION_FAILED;
        let refusal = |sa: &IkeSa, rng: &mut SeededRandom| {
            let payloads = Payloads::new().with(payload::NOTIFICATION, &sa.status(error, &[]));
            sa.notice(payloads, rng).unwrap()
        };
        let heard = |run: &mut Run, bytes: &[u8]| {
            let (header, body) = Header::decode(bytes).unwrap();
            run.initiator.notice(&header, body)
        };
        let forged = refusal(&rival, &mut run.rng);
        let genuine = refusal(&run.initiator.branches[0].proofs[0].sa, &mut run.rng);
        if kind == "psk" {
            assert!(heard(&mut run, &forged).is_err());
            assert_eq!(run.initiator.hint(), None);
            assert!(matches!(heard(&mut run, &genuine), Ok(Some(e)) if e == error));
        } else {
            assert!(matches!(heard(&mut run, &forged), Ok(None)));
            assert_eq!(run.initiator.hint(), Some(error));
            assert!(matches!(heard(&mut run, &genuine), Ok(None)));
        }
        run.finish(&message5);
    }
}
