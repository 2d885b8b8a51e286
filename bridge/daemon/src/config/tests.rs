mod further;
mod ike2;
mod phase1;
mod redirect;
mod rekeys;
mod rules;
mod sizes;
mod streams;
mod tcp;
mod traffic;

use super::*;
use keyferry_crypto::KeyKind;
use keyferry_model::id::{GroupId, Identity, Protocol};
use keyferry_model::policy::{
    Authorization, BackwardAccess, BackwardScope, EspMode, Gikev2Options, InBand, KekManagement, RekeyTransport,
    SequenceNumbers,
};
use keyferry_model::settings::MemberAuth;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

pub(super) const GATEWAY: &str = r#"
[gateway]
listen = ["192.0.2.1:848"]
store = "gateway.redb"

[[group]]
name = "branches"
id = 1234

[[group.traffic]]
destination = "239.192.0.1"
protocol = "udp"

[group.gdoi]
rekey = "239.192.1.1:848"

[group.gikev2]
rekey = "unicast"

[[peer]]
identity = "10.0.0.1"
psk = "a key of more than sixteen octets"
"#;

pub(super) const MEMBER: &str = r#"
[member]
gateway = "192.0.2.1"
group = 1234
psk = "0x000102030405060708090a0b0c0d0e0f"
"#;

pub(super) struct Files(tempfile::TempDir);

impl Files {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(super) fn write(&self, name: &str, text: impl AsRef<[u8]>, mode: u32) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }
}

fn gateway_of(text: &str) -> Result<Checked<GatewayConfig>, Problems> {
    gateway(&Files::new().write("gateway.toml", text, 0o600), Variables::new())
}

fn member_of(text: &str) -> Result<Checked<MemberConfig>, Problems> {
    member(&Files::new().write("member.toml", text, 0o600), Variables::new())
}

/// The gateway's configuration with one text replaced has exactly one problem: at the line where `at` stands, and
/// described by all of `words`.
#[track_caller]
fn one_problem(from: &str, to: &str, at: &str, words: &[&str]) {
    assert!(GATEWAY.contains(from), "{from} is not there");
    let text = GATEWAY.replacen(from, to, 1);
    let Problems(problems) = gateway_of(&text).map(|c| c.config).unwrap_err();
    assert_eq!(problems.len(), 1, "{problems:#?}");
    let problem = &problems[0];
    let line = text.lines().position(|l| l.contains(at)).map(|l| l + 1);
    assert_eq!(problem.line, line, "{problem}");
    let shown = problem.to_string();
    assert!(words.iter().all(|w| shown.contains(w)), "{shown}");
    assert!(!problem.remedy.is_empty() && !shown.contains('\n'), "{shown}");
}

#[test]
fn a_small_gateway_gets_sound_defaults() {
    let config = gateway_of(GATEWAY).unwrap().config;
    assert_eq!(config.groups.len(), 1);
    let policy = config.groups[0].base();
    assert_eq!((policy.name.as_str(), &policy.ids[..]), ("branches", &[GroupId::Number(1234)][..]));
    assert_eq!(policy.traffic[0].mode, EspMode::Tunnel);
    assert_eq!(policy.traffic[0].destination.protocol, 17);
    assert_eq!(policy.authorization, Authorization::Authenticated);
    assert_eq!(config.groups[0].gikev2.as_ref().unwrap().transport, RekeyTransport::Unicast);
    let signer = |protocol| Signer { protocol, kind: KeyKind::Rsa, number: 1 };
    assert_eq!(config.groups[0].signers(), Protocol::ALL.map(signer));
    assert!(config.store.is_absolute() && config.master_key.ends_with("master.key"));
    assert_eq!(config.socket, PathBuf::from(GATEWAY_SOCKET));
    assert_eq!(config.metrics, None);
}

#[test]
fn metrics_are_for_this_machine_unless_said_otherwise() {
    let of = |value: &str| gateway_of(&format!("{GATEWAY}\n[control]\nmetrics = \"{value}\"\n"));
    let at = |value: &str| {
        let checked = of(value).unwrap();
        (checked.config.metrics.unwrap().to_string(), checked.warnings.iter().any(|w| w.key == "control.metrics"))
    };
    assert_eq!(at("9848"), ("127.0.0.1:9848".to_owned(), false));
    assert_eq!(at("[::1]:9848"), ("[::1]:9848".to_owned(), false));
    assert_eq!(at("0.0.0.0:9848"), ("0.0.0.0:9848".to_owned(), true));
    for wrong in ["0", "127.0.0.1:0", "70000", "localhost:9848", "127.0.0.1"] {
        assert!(of(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn listen_is_everywhere_by_default() {
    let config = gateway_of(&GATEWAY.replace("listen = [\"192.0.2.1:848\"]\n", "")).unwrap().config;
    let expected: Vec<std::net::SocketAddr> =
        ["0.0.0.0:848", "[::]:848", "0.0.0.0:4500", "[::]:4500"].iter().map(|a| a.parse().unwrap()).collect();
    assert_eq!(config.listen, expected);
}

#[test]
fn a_member_needs_four_lines() {
    let config = member_of(MEMBER).unwrap().config;
    assert_eq!(config.gateways[0].address, "192.0.2.1:848".parse().unwrap());
    assert_eq!(
        (&config.groups[0].id, config.protocol, config.sender_ids),
        (&GroupId::Number(1234), Protocol::Gikev2, 1)
    );
    let MemberAuth::Psk(psk) = &config.auth else { panic!("a certificate") };
    assert_eq!(psk.expose(), (0..16).collect::<Vec<u8>>());
    let receiver = member_of(&format!("{MEMBER}sender = false\nprotocol = \"gdoi\"\n")).unwrap().config;
    assert_eq!((receiver.protocol, receiver.sender_ids), (Protocol::Gdoi, 0));
}

#[test]
fn unknown_keys_are_errors_with_a_suggestion() {
    one_problem("store =", "stroe =", "stroe", &["gateway.stroe", "no such key", "did you mean \"store\"?"]);
    one_problem("name = ", "tek_lifetme = \"1h\"\nname = ", "tek_lifetme", &["did you mean \"tek_lifetime\"?"]);
    one_problem("[[peer]]", "[gatewy]\nx = 1\n[[peer]]", "[gatewy]", &["did you mean \"gateway\"?"]);
    one_problem("[group.gdoi]", "[group.gdoi]\nchiper = \"x\"", "chiper", &["group[0].gdoi.chiper", "\"cipher\""]);
}

#[test]
fn missing_keys_are_named_where_they_belong() {
    one_problem("name = \"branches\"\n", "", "[[group]]", &["name is missing", "add name"]);
    one_problem("id = 1234\n", "", "[[group]]", &["id is missing", "add id"]);
    one_problem("identity = \"10.0.0.1\"\n", "", "[[peer]]", &["identity is missing"]);
    one_problem("destination = \"239.192.0.1\"\n", "", "[[group.traffic]]", &["destination is missing"]);
}

#[test]
fn values_of_the_wrong_kind_are_named() {
    one_problem(
        "[[group.traffic]]",
        "tek_lifetime = 3600\n[[group.traffic]]",
        "tek_lifetime",
        &["is not a time", "\"10s\""],
    );
    one_problem("[[group.traffic]]", "tek_lifetime = \"1s\"\n[[group.traffic]]", "tek_lifetime", &["out of bounds"]);
    one_problem(
        "[[group.traffic]]",
        "capacity = \"12\"\n[[group.traffic]]",
        "capacity",
        &["not a number", "without quotes"],
    );
    one_problem("store = \"gateway.redb\"", "store = [1]", "store", &["is not a text"]);
    one_problem("\"10.0.0.1\"", "\"nonsense\"", "nonsense", &["an identity is"]);
    one_problem("192.0.2.1:848", "192.0.2.1:99999", "99999", &["gateway.listen", "no address"]);
    one_problem("[group.gdoi]\n", "[group.gdoi]\nack = true\n", "ack", &["is not a text"]);
}

#[test]
fn weak_and_unknown_algorithms_are_refused() {
    let traffic = "protocol = \"udp\"";
    one_problem(traffic, "protocol = \"udp\"\ntransform = \"3des-cbc\"", "3des", &["is refused", "64 bits"]);
    one_problem(traffic, "protocol = \"udp\"\ntransform = \"aes-256-gmc\"", "gmc", &["did you mean \"aes-256-gcm\"?"]);
    one_problem("[group.gdoi]", "[group.gdoi]\nack = \"kek-sha1\"", "kek-sha1", &["refused", "too weak"]);
    one_problem("[group.gdoi]", "[group.gdoi]\ncipher = \"aes-128-cbc\"", "[group.gdoi]", &["128 bits", "256 bits"]);
    one_problem("[group.gikev2]", "[group.gikev2]\nwrap = \"aes-128-kwp\"", "[group.gikev2]", &["128 bits"]);
    one_problem("a key of more than sixteen octets", "cisco123", "psk", &["8 octets", "openssl rand"]);
    let text =
        GATEWAY.replace("psk = \"a key of more than sixteen octets\"", "psk = \"cisco123\"\ndanger_short_psk = true");
    assert!(gateway_of(&text).is_ok());
}

#[test]
fn sender_ids_must_be_enough() {
    let with = |key: &str, at: &str, words: &[&str]| one_problem("id = 1234", &format!("id = 1234\n{key}"), at, words);
    with("capacity = 2000000", "capacity", &["1048576"]);
    with("sender_id_bits = 8", "sender_id_bits", &["256 sender IDs", "4096"]);
    with("sender_id_bits = 4", "sender_id_bits", &["from 8 to 32"]);
    let cbc = GATEWAY.replace("id = 1234", "id = 1234\nsender_id_bits = 8");
    let cbc = cbc.replace("protocol = \"udp\"", "protocol = \"udp\"\ntransform = \"aes-256-cbc-hmac-sha2-256\"");
    assert!(gateway_of(&cbc).is_ok());
}

#[test]
fn addresses_must_make_sense() {
    one_problem("239.192.1.1:848", "10.1.1.1:848", "10.1.1.1", &["no multicast address"]);
    one_problem("239.192.1.1:848", "[ff15::1]:848", "[group.gdoi]", &["listens to no address of that family"]);
    one_problem("\"239.192.0.1\"", "\"239.192.0.1/16\"", "239.192.0.1/16", &["the network is 239.192.0.0/16"]);
    one_problem("\"239.192.0.1\"", "\"239.192.0.1\"\nsource = \"fd00::/8\"", "source", &["different families"]);
    one_problem("protocol = \"udp\"", "port = 5000", "port", &["has no ports"]);
}

#[test]
fn a_group_serves_somebody_something() {
    let sides = "[group.gdoi]\nrekey = \"239.192.1.1:848\"\n\n[group.gikev2]\nrekey = \"unicast\"\n";
    one_problem(sides, "", "[[group]]", &["serves neither protocol"]);
    let traffic = "[[group.traffic]]\ndestination = \"239.192.0.1\"\nprotocol = \"udp\"\n";
    one_problem(traffic, "", "[[group]]", &["protects nothing"]);
    let mixed = format!("{traffic}\n[[group.traffic]]\ndestination = \"239.192.0.2\"\nmode = \"transport\"\n");
    one_problem(traffic, &mixed, "[[group.traffic]]", &["transport and tunnel mode are mixed"]);
    let twice = format!("{traffic}\n{traffic}");
    one_problem(traffic, &twice, "[[group.traffic]]", &["repeats one before it"]);
}

#[test]
fn members_and_peers_go_together() {
    let members = |list: &str| format!("id = 1234\nmembers = {list}");
    one_problem("id = 1234", &members("[\"10.0.0.2\"]"), "members", &["no peer 10.0.0.2", "\"10.0.0.1\""]);
    one_problem("id = 1234", &members("[]"), "members", &["nobody may join"]);
    assert!(gateway_of(&GATEWAY.replace("id = 1234", &members("\"any\""))).is_ok());
    let listed = gateway_of(&GATEWAY.replace("id = 1234", &members("[\"10.0.0.1\"]"))).unwrap().config;
    let expected = Authorization::Listed(vec![Identity::from_ip("10.0.0.1".parse().unwrap())]);
    assert_eq!(listed.groups[0].base().authorization, expected);
}

#[test]
fn nothing_is_there_twice() {
    let peer = "\n[[peer]]\npsk = \"another key of many octets\"\n";
    let problems = |more: &str| gateway_of(&format!("{GATEWAY}{peer}{more}")).unwrap_err().to_string();
    assert!(problems("identity = \"10.0.0.1\"").contains("peer[1].identity: peer[0] has the same identity"));
    let same_place = problems("identity = \"a.example\"\naddress = \"10.0.0.1\"");
    assert!(same_place.contains("the same address and another key"), "{same_place}");
    let group = GATEWAY.split_once("[[group]]").unwrap().1.split_once("[[peer]]").unwrap().0;
    let twice = gateway_of(&format!("{GATEWAY}\n[[group]]{group}")).unwrap_err().to_string();
    assert!(twice.contains("group[1].name") && twice.contains("group identity 1234 is given twice"), "{twice}");
}

#[test]
fn keys_must_be_private() {
    let files = Files::new();
    let open = files.write("gateway.toml", GATEWAY, 0o644);
    let problem = gateway(&open, Variables::new()).unwrap_err().to_string();
    assert!(problem.contains("peer[0].psk") && problem.contains("chmod 600"), "{problem}");
    let text = GATEWAY.replace("psk = \"a key of more than sixteen octets\"", "psk_file = \"gm.psk\"");
    let config = files.write("with-file.toml", &text, 0o644);
    let missing = gateway(&config, Variables::new()).unwrap_err().to_string();
    assert!(missing.contains("gm.psk") && missing.contains("openssl rand"), "{missing}");
    files.write("gm.psk", "a key of more than sixteen octets\n", 0o640);
    let exposed = gateway(&config, Variables::new()).unwrap_err().to_string();
    assert!(exposed.contains("mode 640") && exposed.contains("chmod 600"), "{exposed}");
    files.write("gm.psk", "a key of more than sixteen octets\n", 0o600);
    let config = gateway(&config, Variables::new()).unwrap().config;
    let identity = Identity::from_ip("10.0.0.1".parse().unwrap());
    let (psk, _) = config.credentials.ikev2_psk(&identity).unwrap();
    assert_eq!(psk.expose(), b"a key of more than sixteen octets");
}

#[test]
fn keys_are_never_shown() {
    let shown = format!("{:?}{:?}", gateway_of(GATEWAY).unwrap(), member_of(MEMBER).unwrap());
    assert!(!shown.contains("sixteen") && !shown.contains("[0, 1, 2, 3"), "{shown}");
    let syntax = gateway_of(&GATEWAY.replace("octets\"", "octets")).unwrap_err().to_string();
    assert!(!syntax.contains("sixteen"), "{syntax}");
}

/// RFC 7296 section 2.15: texts of 64 octets and more, without anything added, and hexadecimal digits.
#[test]
fn keys_are_texts_or_hexadecimal() {
    let read = |psk: &str| {
        let config = member_of(&MEMBER.replace("0x000102030405060708090a0b0c0d0e0f", psk)).unwrap().config;
        let MemberAuth::Psk(psk) = &config.auth else { panic!("a certificate") };
        psk.expose().to_vec()
    };
    for len in [16, 64, 65, 4096] {
        assert_eq!(read(&"k".repeat(len)), vec![b'k'; len]);
    }
    assert_eq!(read(&format!("0x{}", "00ff".repeat(20))), [0, 255].repeat(20));
}

#[test]
fn hexadecimal_keys_are_checked() {
    let error =
        |psk: &str| member_of(&MEMBER.replace("0x000102030405060708090a0b0c0d0e0f", psk)).unwrap_err().to_string();
    assert!(error("0x00010").contains("odd"));
    assert!(error("0x00zz").contains("not hexadecimal"));
    assert!(error("0x").contains("0 octets"));
}

#[test]
fn the_environment_overrides_the_file() {
    let files = Files::new();
    let path = files.write("gateway.toml", GATEWAY, 0o600);
    let set =
        |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<Variables>();
    let variables = set(&[
        ("KEYFERRY__GATEWAY__STORE", "/elsewhere/s.redb"),
        ("KEYFERRY__GATEWAY__LISTEN", "10.0.0.9, [fd00::9]:849"),
        ("KEYFERRY__GATEWAY__SIGNING_BITS", "2048"),
        ("KEYFERRY__CONTROL__SOCKET", "/elsewhere/s.sock"),
    ]);
    let config = gateway(&path, variables).unwrap().config;
    assert_eq!(config.store, PathBuf::from("/elsewhere/s.redb"));
    assert_eq!(config.listen, ["10.0.0.9:848".parse().unwrap(), "[fd00::9]:849".parse().unwrap()]);
    assert_eq!((config.signing_bits, config.socket), (2048, PathBuf::from("/elsewhere/s.sock")));
    let wrong = gateway(&path, set(&[("KEYFERRY__GATEWAY__SIGNING_BITS", "many")])).unwrap_err();
    assert_eq!(wrong.0[0].line, None);
    assert_eq!(wrong.0[0].key, "KEYFERRY__GATEWAY__SIGNING_BITS");
    let unknown = gateway(&path, set(&[("KEYFERRY__GATEWAY__STOR", "x")])).unwrap_err().to_string();
    assert!(unknown.contains("KEYFERRY__GATEWAY__STOR: there is no such key, did you mean \"store\"?"), "{unknown}");
}

#[test]
fn all_problems_are_told_at_once_in_their_order() {
    let text =
        GATEWAY.replace("id = 1234", "id = 1234\ncapacity = 0\nrekey_margin = \"2h\"").replace("unicast", "unicost");
    let Problems(problems) = gateway_of(&text).map(|c| c.config).unwrap_err();
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert!(problems.is_sorted_by_key(|p| p.line));
}

#[test]
fn a_file_of_the_other_kind_is_recognised() {
    let files = Files::new();
    let path = files.write("x.toml", MEMBER, 0o600);
    let error = gateway(&path, Variables::new()).unwrap_err().to_string();
    assert!(error.contains("use the file with keyferry member"), "{error}");
    assert!(matches!(check(&path, Variables::new()).unwrap().config, Role::Member(_)));
    let path = files.write("y.toml", GATEWAY, 0o600);
    assert!(matches!(check(&path, Variables::new()).unwrap().config, Role::Gateway(_)));
    let error = check(Path::new("/nowhere/at/all.toml"), Variables::new()).unwrap_err().to_string();
    assert!(error.contains("cannot be read"), "{error}");
}

#[test]
fn mistakes_of_syntax_have_a_line() {
    let error = gateway_of("[gateway]\nstore = \"x\"\nlisten = [\n").unwrap_err();
    assert!(error.0[0].line.is_some() && error.0[0].what.contains("is not TOML"), "{error}");
}

#[test]
fn member_keys_are_checked() {
    let error = |more: &str| member_of(&format!("{MEMBER}{more}\n")).unwrap_err().to_string();
    assert!(error("adress = \"10.0.0.1\"").contains("did you mean \"address\"?"));
    assert!(error("address = \"fd00::1\"").contains("not of the gateway's family"));
    assert!(error("protect = [\"10.0.0.0/8\"]").contains("not multicast"));
    assert!(error("tun = \"a name that is too long\"").contains("no name of an interface"));
    assert!(error("ack_jitter = \"6s\"").contains("out of bounds"));
    assert!(error("ke_groups = [\"modp-1024\"]").contains("too weak"));
    assert!(error("hashes = []").contains("is empty"));
    assert!(error("protocol = \"ikev2\"").contains("did you mean \"gikev2\"?"));
    let bare = member_of("[member]\n").unwrap_err();
    assert_eq!(bare.0.len(), 3, "{bare}");
}

/// The samples in `docs/examples` are complete: with the key files they name in place, each can be used.
#[test]
fn the_samples_can_be_used() {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/examples");
    let files = Files::new();
    let mut seen = 0;
    for entry in std::fs::read_dir(samples).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "toml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for line in text.lines().filter_map(|l| l.trim_start_matches(['#', ' ']).strip_prefix("psk_file = ")) {
            files.write(line.trim_matches('"'), "a key of more than sixteen octets\n", 0o600);
        }
        let copy = files.write(path.file_name().unwrap().to_str().unwrap(), &text, 0o644);
        let checked = check(&copy, Variables::new()).unwrap_or_else(|e| panic!("{e}"));
        assert!(checked.warnings.is_empty(), "{:?}", checked.warnings);
        seen += 1;
    }
    assert!(seen >= 4, "only {seen} samples");
}

/// Every key is in the reference, and everything the reference calls a key is one.
#[test]
fn the_reference_names_every_key() {
    let reference = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    let reference = std::fs::read_to_string(reference).unwrap();
    let told = |section: &str| -> std::collections::BTreeSet<String> {
        let part = reference.split(&format!("\n## `{section}`")).nth(1).unwrap_or_else(|| panic!("no {section}"));
        let part = part.split("\n## ").next().unwrap();
        part.lines().filter_map(|l| l.strip_prefix("| `")?.split('`').next().map(str::to_owned)).collect()
    };
    let known = |text: &str, variables: &Variables| -> std::collections::BTreeSet<String> {
        let path = Files::new();
        let file = path.write("x.toml", text, 0o600);
        let error = check(&file, variables.clone()).unwrap_err();
        let problem = error.0.iter().find(|p| p.what.contains("no such key")).unwrap();
        problem.remedy.trim_start_matches("the keys here are ").split(", ").map(str::to_owned).collect()
    };
    let none = Variables::new();
    let mut gateway = known(&GATEWAY.replace("store =", "zzz = 1\nstore ="), &none);
    assert!(gateway.remove("redirect"));
    assert_eq!(told("[gateway]"), gateway);
    let redirect = format!("{GATEWAY}\n[gateway.redirect]\nto = \"192.0.2.2\"\nzzz = 1\n");
    assert_eq!(told("[gateway.redirect]"), known(&redirect, &none));
    assert_eq!(told("[control]"), known(&format!("{GATEWAY}\n[control]\nzzz = 1\n"), &none));
    assert_eq!(told("[[peer]]"), known(&format!("{GATEWAY}zzz = 1\n"), &none));
    let mut group = known(&GATEWAY.replace("id = 1234", "id = 1234\nzzz = 1"), &none);
    for key in ["traffic", "stream", "gdoi", "gikev2"] {
        assert!(group.remove(key));
    }
    assert_eq!(told("[[group]]"), group);
    assert_eq!(told("[[group.traffic]]"), known(&GATEWAY.replace("destination =", "zzz = 1\ndestination ="), &none));
    assert_eq!(told("[[group.stream]]"), known(&streams::SUBSTATION.replace("oid =", "zzz = 1\noid ="), &none));
    assert_eq!(told("[group.gdoi]"), known(&GATEWAY.replace("[group.gdoi]", "[group.gdoi]\nzzz = 1"), &none));
    assert_eq!(told("[group.gikev2]"), known(&GATEWAY.replace("[group.gikev2]", "[group.gikev2]\nzzz = 1"), &none));
    assert_eq!(told("[member]"), known(&format!("{MEMBER}zzz = 1\n"), &none));
    assert_eq!(told("[[member.rule]]"), known(&format!("{MEMBER}[[member.rule]]\nzzz = 1\n"), &none));
}

#[test]
fn a_replay_window_needs_one_sender_where_gikev2_is_served() {
    let line = "protocol = \"udp\"";
    one_problem(line, "protocol = \"udp\"\nreplay_window = 64", "[[group.traffic]]", &["several senders"]);
    let one = GATEWAY.replacen(line, "protocol = \"udp\"\nreplay_window = 64\nsource = \"10.0.0.1\"", 1);
    let numbers = |text: &str| {
        let line = Arc::clone(&gateway_of(text).unwrap().config.groups[0].base().traffic[0]);
        (line.sequence, line.replay_window)
    };
    // RFC 9838 section 4.4.2.1.3.
    assert_eq!(numbers(&one), (SequenceNumbers::Sequential, 64));
    assert_eq!(numbers(GATEWAY), (SequenceNumbers::Unspecified, 0));
}

#[test]
fn the_key_server_is_who_it_was_configured_to_be() {
    let identities = |more: &str| -> Vec<String> {
        let text =
            MEMBER.replace("gateway = \"192.0.2.1\"", &format!("gateway = [\"192.0.2.1\", \"192.0.2.2:849\"]\n{more}"));
        let gateways = member_of(&text).unwrap().config.gateways;
        assert_eq!(gateways[1].address, "192.0.2.2:849".parse().unwrap());
        gateways.iter().map(|g| g.identity.as_ref().unwrap().to_string()).collect()
    };
    assert_eq!(member_of(MEMBER).unwrap().config.gateways[0].identity, Some(Identity::Ipv4([192, 0, 2, 1].into())));
    assert_eq!(identities(""), ["192.0.2.1", "192.0.2.2"]);
    assert_eq!(identities("gateway_identity = \"ks.example\""), ["fqdn:ks.example", "fqdn:ks.example"]);
    let each = identities("gateway_identity = [\"a.example\", \"b.example\"]");
    assert_eq!(each, ["fqdn:a.example", "fqdn:b.example"]);
}

#[test]
fn a_list_of_key_servers_must_make_sense() {
    let wrong = |list: &str, more: &str| {
        let text = MEMBER.replace("gateway = \"192.0.2.1\"", &format!("gateway = {list}\n{more}"));
        member_of(&text).map(|c| c.config).unwrap_err().to_string()
    };
    assert!(wrong("[\"192.0.2.1\", \"192.0.2.1\"]", "").contains("twice"));
    assert!(wrong("[\"192.0.2.1\", \"2001:db8::1\"]", "").contains("mixes"));
    assert!(wrong("[]", "").contains("gateway"));
    let two = "[\"192.0.2.1\", \"192.0.2.2\", \"192.0.2.3\"]";
    assert!(wrong(two, "gateway_identity = [\"a.example\", \"b.example\"]").contains("2 identities for 3"));
}

#[test]
fn the_life_of_phase_1_has_defaults_and_bounds() {
    let config = gateway_of(GATEWAY).unwrap().config.life;
    assert_eq!((config.lifetime.as_secs(), config.dpd, config.fragment_size), (86_400, None, 1280));
    let at = "store = \"gateway.redb\"";
    let text = format!(
        "{at}\ndpd = \"20s\"\ndpd_retry = \"2s\"\ndpd_tries = 3\nphase1_lifetime = \"1h\"\nfragment_size = 600"
    );
    let config = gateway_of(&GATEWAY.replace(at, &text)).unwrap().config.life;
    let dpd = config.dpd.unwrap();
    assert_eq!((dpd.interval.as_secs(), dpd.retry.as_secs(), dpd.tries), (20, 2, 3));
    assert_eq!((config.lifetime.as_secs(), config.fragment_size), (3600, 600));
    one_problem(at, &format!("{at}\nfragment_size = 575"), "fragment_size", &["from 576 to 65535"]);
    one_problem(at, &format!("{at}\ndpd = \"10ms\""), "dpd", &["too short"]);

    let config = member_of(MEMBER).unwrap().config.life;
    assert_eq!((config.keep, config.dpd.unwrap().interval.as_secs()), (false, 30));
    let config = member_of(&format!("{MEMBER}keep_phase1 = true\ndpd = \"0s\"\n")).unwrap().config.life;
    assert_eq!((config.keep, config.dpd), (true, None));
}

#[test]
fn the_life_of_ike_sas_has_defaults_and_bounds() {
    let config = gateway_of(GATEWAY).unwrap().config.life.ike;
    assert_eq!((config.lifetime.as_secs(), config.liveness), (8 * 3600, None));
    let at = "store = \"gateway.redb\"";
    let text = format!("{at}\nike_lifetime = \"1h\"\nike_liveness = \"20s\"\nfragment_size = 600");
    let config = gateway_of(&GATEWAY.replace(at, &text)).unwrap().config.life.ike;
    assert_eq!((config.lifetime.as_secs(), config.liveness.unwrap().as_secs()), (3600, 20));
    assert_eq!(config.fragment_size, 600);
    one_problem(at, &format!("{at}\nike_lifetime = \"10s\""), "ike_lifetime", &["1m"]);
    one_problem(at, &format!("{at}\nike_liveness = \"10ms\""), "ike_liveness", &["too short"]);
    let config = member_of(&format!("{MEMBER}ike_lifetime = \"2h\"\n")).unwrap().config.ike;
    assert_eq!((config.lifetime.as_secs(), config.liveness), (7200, None));
}

#[test]
fn a_misspelt_key_is_named_beside_the_one_that_is_missing_for_it() {
    let text = GATEWAY.replacen("destination", "destinaton", 1);
    let Problems(problems) = gateway_of(&text).map(|c| c.config).unwrap_err();
    let shown: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert!(shown.iter().any(|p| p.contains("destinaton") && p.contains("did you mean")), "{shown:#?}");
}

#[test]
fn a_member_falls_back_to_gdoi_if_it_is_told_to() {
    let fallback = |text: &str| member_of(&format!("{MEMBER}{text}\n")).map(|c| c.config.fallback);
    assert!(!fallback("").unwrap() && fallback("fallback = \"gdoi\"").unwrap());
    let problems = fallback("protocol = \"gdoi\"\nfallback = \"gdoi\"").unwrap_err();
    assert!(problems.to_string().contains("speaks already"), "{problems}");
}

#[test]
fn readings_are_named_and_some_exclude_each_other() {
    let gdoi = |line: &str| format!("[group.gdoi]\n{line}");
    let config =
        gateway_of(&GATEWAY.replace("[group.gdoi]", &gdoi("sends = [\"zero-iv\", \"sig-nul\"]"))).unwrap().config;
    let sends = config.groups[0].gdoi.as_ref().unwrap().sends;
    assert_eq!(sends.to_string(), "zero-iv sig-nul");
    one_problem("[group.gdoi]", &gdoi("sends = [\"zero-vi\"]"), "sends", &["did you mean \"zero-iv\"?"]);
    one_problem("[group.gdoi]", &gdoi("sends = [\"chained-iv\"]"), "sends", &["chained-iv"]);
    let both = "sends = [\"sig-raw\", \"sig-hashed-twice\"]";
    one_problem("[group.gdoi]", &gdoi(both), "sends", &["exclude each other"]);
    let elliptic = "signature = \"ecdsa-p256\"\nsends = [\"sig-raw\"]";
    one_problem("[group.gdoi]", &gdoi(elliptic), "sends", &["sig-raw is for RSA"]);
}
