use std::path::PathBuf;
use std::time::SystemTime;

use keyferry_crypto::KeyKind;
use keyferry_model::credentials::Proof;
use keyferry_model::settings::{MemberAuth, MixedAuth};
use openssl::asn1::{Asn1Integer, Asn1Object, Asn1OctetString, Asn1Time};
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::symm::Cipher;
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509CrlBuilder, X509Extension, X509Name, X509NameBuilder, X509RevokedBuilder};

use super::super::tests::{Files, GATEWAY, MEMBER};
use super::super::{Checked, GatewayConfig, MemberConfig, Problem, Problems, Variables, gateway, member};
use super::*;

const HOUR: i64 = 3600;

fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

fn key() -> PKey<Private> {
    let curve = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&curve).unwrap()).unwrap()
}

fn name(cn: &str) -> X509Name {
    let mut builder = X509NameBuilder::new().unwrap();
    builder.append_entry_by_text("CN", cn).unwrap();
    builder.build()
}

fn serial(n: u32) -> Asn1Integer {
    BigNum::from_u32(n).unwrap().to_asn1_integer().unwrap()
}

/// A CA in a directory: `root.pem`, and what it issues.
struct Pki {
    files: Files,
    root: PKey<Private>,
}

impl Pki {
    fn new() -> Self {
        let pki = Self { files: Files::new(), root: key() };
        pki.files.write("root.pem", pki.certificate("Root", &pki.root, -HOUR, 1000 * HOUR, true), 0o644);
        pki.issue("gateway", -HOUR, 1000 * HOUR);
        pki
    }

    /// PEM of a certificate that is valid from and to so many seconds from now.
    fn certificate(&self, cn: &str, key: &PKey<Private>, from: i64, to: i64, ca: bool) -> Vec<u8> {
        let mut b = X509::builder().unwrap();
        b.set_version(2).unwrap();
        b.set_serial_number(&serial(7)).unwrap();
        b.set_subject_name(&name(cn)).unwrap();
        b.set_issuer_name(&name("Root")).unwrap();
        b.set_pubkey(key).unwrap();
        b.set_not_before(&Asn1Time::from_unix(now() + from).unwrap()).unwrap();
        b.set_not_after(&Asn1Time::from_unix(now() + to).unwrap()).unwrap();
        if ca {
            b.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
        } else {
            let names = SubjectAlternativeName::new().dns("gateway.example.net").build(&b.x509v3_context(None, None));
            b.append_extension(names.unwrap()).unwrap();
        }
        b.sign(&self.root, MessageDigest::sha256()).unwrap();
        b.build().to_pem().unwrap()
    }

    /// Writes a certificate and its key, as `CN.pem` and `CN.key`.
    fn issue(&self, cn: &str, from: i64, to: i64) {
        let own = key();
        self.files.write(&format!("{cn}.pem"), self.certificate(cn, &own, from, to, false), 0o644);
        self.files.write(&format!("{cn}.key"), own.private_key_to_pem_pkcs8().unwrap(), 0o600);
    }

    /// Writes a revocation list of serial number 7, or an empty one.
    fn revoke(&self, file: &str, until: i64, revoked: bool) -> PathBuf {
        self.revoke_by(&self.root, file, until, revoked)
    }

    fn revoke_by(&self, signer: &PKey<Private>, file: &str, until: i64, revoked: bool) -> PathBuf {
        let mut b = X509CrlBuilder::new().unwrap();
        b.set_issuer_name(&name("Root")).unwrap();
        b.set_last_update(&Asn1Time::from_unix(now() - 2 * HOUR).unwrap()).unwrap();
        b.set_next_update(&Asn1Time::from_unix(now() + until).unwrap()).unwrap();
        for (kind, value) in [("2.5.29.35", &b"\x30\x03\x80\x01\x01"[..]), ("2.5.29.20", b"\x02\x01\x01")] {
            let (kind, value) = (Asn1Object::from_str(kind).unwrap(), Asn1OctetString::new_from_bytes(value).unwrap());
            b.append_extension(X509Extension::new_from_der(&kind, false, &value).unwrap()).unwrap();
        }
        if revoked {
            let mut entry = X509RevokedBuilder::new().unwrap();
            entry.set_serial_number(&serial(7)).unwrap();
            entry.set_revocation_date(&Asn1Time::from_unix(now() - HOUR).unwrap()).unwrap();
            b.add_revoked(entry.build()).unwrap();
        }
        b.sign(signer, MessageDigest::sha256()).unwrap();
        self.files.write(file, b.build().unwrap().to_pem().unwrap(), 0o644)
    }

    /// The gateway's configuration with these keys in `[gateway]` and these peers behind.
    fn gateway(&self, keys: &str, peers: &str) -> Result<Checked<GatewayConfig>, Problems> {
        let text = GATEWAY.replacen("store =", &format!("{keys}\nstore ="), 1) + peers;
        gateway(&self.files.write("gateway.toml", text, 0o600), Variables::new())
    }

    fn member(&self, keys: &str) -> Result<Checked<MemberConfig>, Problems> {
        let text = MEMBER.replacen("psk = \"0x000102030405060708090a0b0c0d0e0f\"", keys, 1);
        member(&self.files.write("member.toml", text, 0o600), Variables::new())
    }

    /// The one error of a gateway with these keys.
    fn error(&self, keys: &str, peers: &str) -> String {
        one(self.gateway(keys, peers).map(|c| c.config).unwrap_err().0)
    }

    /// The one warning of a gateway with these keys.
    fn warning(&self, keys: &str) -> String {
        one(self.gateway(keys, CERTIFIED).unwrap_or_else(|e| panic!("{e}")).warnings)
    }
}

#[track_caller]
fn one(problems: Vec<Problem>) -> String {
    assert_eq!(problems.len(), 1, "{problems:#?}");
    assert!(problems[0].line.is_some() && !problems[0].remedy.is_empty());
    problems[0].to_string()
}

#[track_caller]
fn says(problem: &str, words: &[&str]) {
    assert!(words.iter().all(|word| problem.contains(word)), "{problem}");
}

const OWN: &str = "certificate = \"gateway.pem\"\nprivate_key = \"gateway.key\"\ntrust = \"root.pem\"";

const CERTIFIED: &str = "\n[[peer]]\nauth = \"certificate\"\nsubject = \"CN=gm1\"\n";

#[test]
fn a_gateway_has_certificates_and_takes_them() {
    let pki = Pki::new();
    pki.revoke("root.crl", HOUR, false);
    let peers = "\n[[peer]]\nauth = \"certificate\"\nidentity = \"fqdn:gm1.example.net\"\naddress = \"10.1.0.0/16\"\n";
    let Checked { config, warnings } = pki
        .gateway(&format!("{OWN}\ncrl = [\"root.crl\"]\nrevocation = \"require\"\ncrl_reload = \"5s\""), peers)
        .unwrap();
    assert_eq!(warnings, []);
    let own: Vec<_> = config.credentials.own(KeyKind::EcP256).collect();
    assert_eq!(own.len(), 1);
    assert_eq!(own[0].leaf().unwrap().subject().to_string(), "CN=gateway");
    assert!(config.credentials.trust().is_some());
    assert_eq!(config.trust.unwrap().reload(), Duration::from_secs(5));
    let peer = &config.credentials.peers()[1];
    assert!(matches!(peer.proof, Proof::Certificate { subject: None }) && peer.address.is_some());
    // One who is known by certificate alone needs no address.
    let alone = GATEWAY.replacen("store =", &format!("{OWN}\nstore ="), 1);
    let alone = alone.split("[[peer]]").next().unwrap().to_owned() + CERTIFIED;
    let alone = gateway(&pki.files.write("alone.toml", alone, 0o600), Variables::new()).unwrap();
    assert_eq!(alone.warnings, []);
    // Whoever has a trusted certificate; and a subject.
    let config = pki.gateway(OWN, &format!("{CERTIFIED}\n[[peer]]\nauth = \"certificate\"\n")).unwrap().config;
    let subject = |at: usize| match &config.credentials.peers()[at].proof {
        Proof::Certificate { subject } => subject.as_ref().map(ToString::to_string),
        Proof::Psk(_) | Proof::PskForCertificate(_) | Proof::CertificateForPsk { .. } => panic!("a pre-shared key"),
    };
    assert_eq!((subject(1).as_deref(), subject(2)), (Some("CN=gm1"), None));
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let pki = Pki::new();
    let without = |line: &str| OWN.lines().filter(|l| !l.starts_with(line)).collect::<Vec<_>>().join("\n");
    says(
        &pki.error(&without("private_key"), CERTIFIED),
        &["gateway.toml:4: gateway.certificate", "without private_key"],
    );
    says(&pki.error(&without("certificate"), CERTIFIED), &["gateway.private_key", "without certificate"]);
    let both = without("certificate").lines().filter(|l| l.starts_with("trust")).collect::<String>();
    says(&pki.error(&both, CERTIFIED), &["gateway.trust", "without a certificate of our own"]);
    says(&pki.error("", CERTIFIED), &["gateway.trust", "nobody's is trusted"]);
    says(&pki.error(&without("trust"), ""), &["gateway.certificate", "without trust"]);

    let replaced = |from: &str, to: &str| OWN.replacen(from, to, 1);
    says(
        &pki.error(&replaced("gateway.pem", "none.pem"), CERTIFIED),
        &["gateway.certificate", "none.pem: No such file"],
    );
    says(
        &pki.error(&replaced("gateway.key", "none.key"), CERTIFIED),
        &["gateway.private_key", "none.key", "openssl genpkey"],
    );
    says(&pki.error(&replaced("root.pem", "none"), CERTIFIED), &["gateway.trust", "none: No such file"]);
    says(&pki.error(&replaced("gateway.pem", "gateway.key"), CERTIFIED), &["no certificate in PEM"]);
    pki.issue("other", -HOUR, 1000 * HOUR);
    says(
        &pki.error(&replaced("gateway.key", "other.key"), CERTIFIED),
        &["is not the key of the certificate of CN=gateway"],
    );
    let readable = pki.files.write("open.key", std::fs::read(pki.files.path("gateway.key")).unwrap(), 0o640);
    says(
        &pki.error(&replaced("gateway.key", "open.key"), CERTIFIED),
        &["mode 640", &format!("chmod 600 {}", readable.display())],
    );
    let locked = key().private_key_to_pem_pkcs8_passphrase(Cipher::aes_128_cbc(), b"passphrase").unwrap();
    pki.files.write("locked.key", locked, 0o600);
    says(&pki.error(&replaced("gateway.key", "locked.key"), CERTIFIED), &["locked.key", "no unencrypted private key"]);
    let pem = |file| std::fs::read(pki.files.path(file)).unwrap();
    pki.files.write("odd.pem", [pem("gateway.pem"), pem("other.pem")].concat(), 0o644);
    says(&pki.error(&replaced("gateway.pem", "odd.pem"), CERTIFIED), &["CN=gateway is followed by CN=other"]);
    let two = OWN.replace("\"gateway.pem\"", "[\"gateway.pem\", \"other.pem\"]");
    says(&pki.error(&two, CERTIFIED), &["gateway.private_key", "names 1 files, and certificate 2"]);
    let two = two.replace("\"gateway.key\"", "[\"gateway.key\", \"other.key\"]");
    assert_eq!(pki.gateway(&two, CERTIFIED).unwrap().config.credentials.own(KeyKind::EcP256).count(), 2);
    let twice = two.replace("other", "gateway");
    says(&pki.error(&twice, CERTIFIED), &["gateway.certificate", "names that of CN=gateway twice"]);
    for (line, words) in [
        ("crl = \"none.crl\"", ["gateway.crl", "none.crl: No such file"]),
        ("crl = \"root.pem\"", ["gateway.crl", "no revocation list"]),
        ("ocsp = \"root.pem\"", ["gateway.ocsp", "root.pem: malformed"]),
        ("ocsp = \"http\"", ["gateway.ocsp", "is not there"]),
        ("revocation = \"maybe\"", ["gateway.revocation", "one of ignore, if-known, require"]),
    ] {
        says(&pki.error(&format!("{OWN}\n{line}"), CERTIFIED), &words);
    }
    assert!(pki.gateway(&format!("{OWN}\nocsp = \"off\""), CERTIFIED).is_ok());
}

#[test]
fn peers_prove_themselves_in_one_way() {
    let pki = Pki::new();
    let psk = "psk = \"a key of more than sixteen octets\"\n";
    says(&pki.error(OWN, &format!("{CERTIFIED}{psk}")), &["peer[1].psk", "stands beside auth"]);
    let plain = format!("\n[[peer]]\nidentity = \"10.0.0.2\"\n{psk}subject = \"CN=gm1\"\n");
    let problems = pki.gateway(OWN, &plain).map(|c| c.config).unwrap_err();
    assert!(problems.to_string().contains("peer[1].subject: stands without auth"), "{problems}");
    says(
        &pki.error(OWN, "\n[[peer]]\nauth = \"certificate\"\nsubject = \"gm1\"\n"),
        &["peer[1].subject", "TYPE=value"],
    );
    let unknown = pki.gateway(OWN, "\n[[peer]]\nauth = \"cert\"\n").map(|c| c.config).unwrap_err();
    says(&unknown.to_string(), &["peer[1].auth", "did you mean \"certificate\"?"]);
}

#[test]
fn what_is_old_or_of_no_use_is_worth_a_word() {
    let pki = Pki::new();
    let with = |cn: &str| OWN.replace("gateway.", &format!("{cn}."));
    for (cn, from, to, words) in [
        ("old", -100 * HOUR, -50 * HOUR, "expired 2 days ago"),
        ("early", 50 * HOUR, 1000 * HOUR, "valid in"),
        ("soon", -HOUR, 100 * HOUR, "expires in 4 days"),
    ] {
        pki.issue(cn, from, to);
        says(&pki.warning(&with(cn)), &["warning: gateway.certificate", &format!("CN={cn}"), words]);
    }
    pki.revoke("old.crl", -HOUR, false);
    says(&pki.warning(&format!("{OWN}\ncrl = \"old.crl\"")), &["warning: gateway.crl", "CN=Root is out of date"]);
    pki.revoke_by(&key(), "other.crl", HOUR, true);
    says(
        &pki.warning(&format!("{OWN}\ncrl = \"other.crl\"")),
        &["warning: gateway.crl", "CN=Root is not signed by an anchor"],
    );
    says(
        &pki.warning(&format!("{OWN}\nrevocation = \"require\"")),
        &["warning: gateway.revocation", "refuses everybody"],
    );
    says(
        &pki.warning(&format!("{OWN}\nidentity = \"10.0.0.9\"")),
        &["warning: gateway.identity", "does not name 10.0.0.9"],
    );
    assert_eq!(pki.gateway(&format!("{OWN}\nidentity = \"gateway.example.net\""), CERTIFIED).unwrap().warnings, []);
    let root = pki.certificate("Root", &pki.root, -100 * HOUR, -HOUR, true);
    pki.files.write("root.pem", root, 0o644);
    says(&pki.warning(OWN), &["warning: gateway.trust", "CN=Root has expired"]);
    pki.files.write("root.pem", pki.certificate("Root", &pki.root, -HOUR, HOUR, true), 0o644);
    let unused = one(pki.gateway(OWN, "").unwrap().warnings);
    says(&unused, &["warning: gateway.trust", "no peer authenticates by certificate"]);
}

#[test]
fn a_member_has_a_certificate_or_a_key() {
    let pki = Pki::new();
    let gdoi = format!("protocol = \"gdoi\"\n{OWN}");
    let config = pki.member(&format!("{gdoi}\ngateway_subject = \"CN=Gateway,O=Example\"")).unwrap().config;
    let MemberAuth::Certificate(auth) = &config.auth else { panic!("a pre-shared key") };
    assert_eq!(auth.own.leaf().unwrap().subject().to_string(), "CN=gateway");
    assert_eq!(auth.gateway_subject.as_ref().unwrap().to_string(), "CN=Gateway,O=Example");
    assert!(config.trust.is_some());
    let error = |keys: &str| pki.member(keys).map(|c| c.config).unwrap_err().to_string();
    says(&error(&format!("{gdoi}\npsk_file = \"x\"")), &["member.psk_file", "stands beside a certificate"]);
    says(
        &error("psk_file = \"x\"\ngateway_subject = \"CN=g\""),
        &["member.gateway_subject", "stands without certificate"],
    );
    says(&error(&gdoi.replace("root.pem", "none")), &["member.trust", "No such file"]);
    let sends = |reading: &str| format!("{gdoi}\nsends = [\"{reading}\"]");
    let config = pki.member(&sends("ecdsa-negotiated-hash")).unwrap().config;
    assert_eq!(config.phase1.sends.to_string(), "ecdsa-negotiated-hash");
    says(&error(&sends("rsa-digest-info")), &["member.sends", "RSA signatures, which this member does not make"]);
    // G-IKEv2 takes the same, and keys that GDOI has no signatures by.
    assert!(matches!(pki.member(OWN).unwrap().config.auth, MemberAuth::Certificate(_)));
    let edwards = PKey::generate_ed25519().unwrap();
    pki.files.write("ed.pem", pki.certificate("ed", &edwards, -HOUR, 1000 * HOUR, false), 0o644);
    pki.files.write("ed.key", edwards.private_key_to_pem_pkcs8().unwrap(), 0o600);
    let ed = "certificate = \"ed.pem\"\nprivate_key = \"ed.key\"\ntrust = \"root.pem\"";
    let MemberAuth::Certificate(auth) = pki.member(ed).unwrap().config.auth else { panic!("a pre-shared key") };
    assert_eq!(auth.own.key.kind(), KeyKind::Ed25519);
    says(&error(&format!("protocol = \"gdoi\"\n{ed}")), &["member.private_key", "GDOI has no signatures by one"]);
}

/// Several certificates of a member are one identity: all that name it, or have one subject.
#[test]
fn a_member_may_have_several_certificates() {
    let pki = Pki::new();
    pki.issue("other", -HOUR, 1000 * HOUR);
    let again = key();
    pki.files.write("again.pem", pki.certificate("gateway", &again, -HOUR, 1000 * HOUR, false), 0o644);
    pki.files.write("again.key", again.private_key_to_pem_pkcs8().unwrap(), 0o600);
    let keys = |a: &str, b: &str| {
        format!(
            "certificate = [\"{a}.pem\", \"{b}.pem\"]\nprivate_key = [\"{a}.key\", \"{b}.key\"]\ntrust = \"root.pem\""
        )
    };
    let subjects = |keys: &str| {
        let Checked { config, warnings } = pki.member(keys).unwrap();
        assert_eq!(warnings, []);
        config.auth.all_own().map(|own| own.leaf().unwrap().subject().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(subjects(&keys("gateway", "again")), ["CN=gateway", "CN=gateway"]);
    let named = format!("identity = \"gateway.example.net\"\n{}", keys("other", "gateway"));
    assert_eq!(subjects(&named), ["CN=other", "CN=gateway"]);
    let mixed = format!("gateway_auth = \"psk\"\n{PSK_LINE}\n{}", keys("gateway", "again"));
    assert_eq!(subjects(&mixed.replace("\ntrust = \"root.pem\"", "")), ["CN=gateway", "CN=gateway"]);
    let error = pki.member(&keys("gateway", "other")).map(|c| c.config).unwrap_err().to_string();
    says(&error, &["member.certificate", "different subjects", "add identity"]);
}

const PSK_LINE: &str = "psk = \"0x000102030405060708090a0b0c0d0e0f\"";

/// RFC 7296 section 2.15: a member and its key server may prove themselves in different ways.
#[test]
fn a_member_and_its_key_server_may_differ() {
    let pki = Pki::new();
    let trust = format!("gateway_auth = \"certificate\"\n{PSK_LINE}\ntrust = \"root.pem\"");
    let config = pki.member(&format!("{trust}\ngateway_subject = \"CN=gateway\"")).unwrap().config;
    let MemberAuth::Mixed(mixed) = config.auth else { panic!("both alike") };
    assert!(matches!(*mixed, MixedAuth::PskForCertificate { gateway_subject: Some(_), .. }) && config.trust.is_some());
    let ours = OWN.replace("trust = \"root.pem\"", "");
    let own = format!("gateway_auth = \"psk\"\n{PSK_LINE}\n{ours}");
    let MemberAuth::Mixed(mixed) = pki.member(&own).unwrap().config.auth else { panic!("both alike") };
    assert!(matches!(*mixed, MixedAuth::CertificateForPsk { .. }));
    // Said though it goes without saying.
    assert!(matches!(
        pki.member(&format!("gateway_auth = \"certificate\"\n{OWN}")).unwrap().config.auth,
        MemberAuth::Certificate(_)
    ));
    let error = |keys: &str| pki.member(keys).map(|c| c.config).unwrap_err().to_string();
    says(&error(&format!("gateway_auth = \"certificate\"\n{PSK_LINE}")), &["member.trust", "is missing"]);
    says(&error(&format!("gateway_auth = \"psk\"\n{PSK_LINE}\n{OWN}")), &["member.trust", "is of no use"]);
    says(
        &error(&format!("protocol = \"gdoi\"\n{trust}")),
        &["member.gateway_auth", "with GDOI both sides do so alike"],
    );
}

#[test]
fn a_peer_and_the_gateway_may_differ() {
    let pki = Pki::new();
    let ours = OWN.replace("trust = \"root.pem\"", "");
    let by_psk = format!("[[peer]]\nidentity = \"10.0.0.9\"\n{PSK_LINE}\ngateway_auth = \"certificate\"\n");
    let config = pki.gateway(&ours, &by_psk).unwrap().config;
    assert!(config.credentials.peers().iter().any(|p| matches!(p.proof, Proof::PskForCertificate(_))));
    let by_certificate =
        format!("[[peer]]\nidentity = \"10.0.0.9\"\nauth = \"certificate\"\ngateway_auth = \"psk\"\n{PSK_LINE}\n");
    let config = pki.gateway("trust = \"root.pem\"", &by_certificate).unwrap().config;
    assert!(config.credentials.peers().iter().any(|p| matches!(p.proof, Proof::CertificateForPsk { .. })));
    let error = |keys: &str, peers: &str| pki.gateway(keys, peers).map(|c| c.config).unwrap_err().to_string();
    says(&error("", &by_psk), &["gateway.certificate", "we are to prove ourselves to peers by certificate"]);
    says(&error(&ours, &by_certificate), &["gateway.trust", "nobody's is trusted"]);
}

fn trust_files(pki: &Pki, lists: &str) -> TrustFiles {
    TrustFiles {
        anchors: vec![pki.files.path("root.pem")],
        lists: vec![pki.files.path(lists)],
        answers: Vec::new(),
        revocation: Revocation::IfKnown,
        reload: Duration::from_millis(20),
    }
}

/// May the gateway's certificate be trusted?
fn is_trusted(pki: &Pki, trust: &Trust) -> bool {
    let leaf = Certificate::all_from_pem(&std::fs::read(pki.files.path("gateway.pem")).unwrap()).unwrap();
    trust.store.check(&leaf[0], &[], Clock::new().now().wall, &trust.ocsp).is_ok()
}

#[test]
fn directories_are_read_whole_and_every_change_is_seen() {
    let pki = Pki::new();
    std::fs::create_dir(pki.files.path("crls")).unwrap();
    let files = trust_files(&pki, "crls");
    let wall = Clock::new().now().wall;
    let empty = files.stamp();
    assert_eq!(empty, files.stamp());
    assert!(is_trusted(&pki, &files.load(wall).unwrap().0));
    pki.revoke("crls/root.crl", HOUR, true);
    let full = files.stamp();
    assert_ne!(full, empty);
    assert!(!is_trusted(&pki, &files.load(wall).unwrap().0));
    // Hidden files are somebody's drafts.
    pki.files.write("crls/.root.crl.swp", "draft", 0o644);
    assert_eq!(files.stamp(), full);
    pki.files.write("crls/broken", "no list", 0o644);
    assert_ne!(files.stamp(), full);
    let doubt = files.load(wall).unwrap_err();
    says(&doubt.to_string(), &["crl: ", "broken: malformed: no revocation list", "directories that hold nothing else"]);
    std::fs::remove_dir_all(pki.files.path("crls")).unwrap();
    assert_ne!(files.stamp(), full);
    says(&files.load(wall).unwrap_err().to_string(), &["crls: No such file"]);
}

#[tokio::test]
async fn a_revocation_counts_once_its_list_is_written() {
    let pki = Pki::new();
    pki.revoke("root.crl", HOUR, false);
    let files = trust_files(&pki, "root.crl");
    let mut news = crate::trust::watch(Some(files.clone())).unwrap();
    let quiet = tokio::time::timeout(Duration::from_millis(200), news.recv()).await;
    assert!(quiet.is_err(), "nothing has changed");
    // Half a list changes nothing for those who are trusted; the whole one does.
    pki.files.write("root.crl", "-----BEGIN X509 CRL-----\n", 0o644);
    let quiet = tokio::time::timeout(Duration::from_millis(200), news.recv()).await;
    assert!(quiet.is_err(), "nothing that can be used");
    pki.revoke("root.crl", HOUR, true);
    let trust = tokio::time::timeout(Duration::from_secs(20), news.recv()).await.unwrap().unwrap();
    assert!(!is_trusted(&pki, &trust));
}
