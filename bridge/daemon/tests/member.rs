//! A gateway and members as processes, on loopback and without privileges: of groups that have streams alone, or without an
//! engine for traffic, so there is no device to be made.

#![allow(clippy::unwrap_used)]
#![allow(clippy::disallowed_methods, reason = "a test of real processes waits in real time")]

use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use keyferry::control::{Client, MemberStatus};

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(dir: &Path, command: &str, text: &str) -> Running {
    let config = dir.join(format!("{command}.toml"));
    std::fs::write(&config, text).unwrap();
    std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o600)).unwrap();
    let mut keyferry = Command::new(env!("CARGO_BIN_EXE_keyferry"));
    for (name, _) in std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("KEYFERRY")) {
        keyferry.env_remove(name);
    }
    keyferry.args([command, "--config"]).arg(config).stdout(Stdio::null()).stderr(Stdio::null());
    Running(keyferry.spawn().unwrap())
}

fn port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn gateway(port: u16) -> String {
    let mut text = format!(
        r#"[gateway]
listen = ["127.0.0.1:{port}"]
store = "gateway.redb"
signing_bits = 2048

[control]
socket = "gateway.sock"

[[peer]]
identity = "127.0.0.1"
address = "127.0.0.1/32"
psk = "a key of more than sixteen octets"
"#
    );
    for n in 1..=3 {
        text += &format!(
            r#"
[[group]]
name = "bay-{n}"
id = ["oid:1.2.840.10070.61850.8.1.2#0404effc000{n}", {n}]
activation_delay = "10s"

[[group.stream]]
oid = "1.2.840.10070.61850.8.1.2"
selector = "0404effc000{n}"

[group.gdoi]
"#
        );
    }
    text
}

fn member(gateway: u16, port: u16) -> String {
    format!(
        r#"[member]
gateway = "127.0.0.1:{gateway}"
address = "127.0.0.1"
port = {port}
nat_traversal = false
interface = "lo"
group = 1
protocol = "gdoi"
psk = "a key of more than sixteen octets"
streams_only = true
stream_keys = "bay-1.json"
leave_on_exit = true

[[member.further]]
group = "oid:1.2.840.10070.61850.8.1.2#0404effc0002"
streams_only = true
stream_keys = "bay-2.json"

[[member.further]]
group = 99
streams_only = true
stream_keys = "bay-99.json"

[control]
socket = "member.sock"
"#
    )
}

fn status(dir: &Path, until: impl Fn(&MemberStatus) -> bool) -> MemberStatus {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let status = Client::connect(&dir.join("member.sock")).ok().and_then(|mut c| c.member_status().ok());
        if let Some(status) = status.filter(&until) {
            return status;
        }
        assert!(Instant::now() < end, "nothing came of it");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_member_of_streams_alone_joins_several_groups_and_makes_no_device() {
    let dir = tempfile::tempdir().unwrap();
    let (server, own) = (port(), port());
    let _gateway = run(dir.path(), "serve", &gateway(server));
    let member = run(dir.path(), "member", &member(server, own));
    let joined = |s: &MemberStatus| s.groups.iter().filter(|g| g.registered).count() == 2 && s.last_error.is_some();
    let shown = status(dir.path(), joined);
    let registered: Vec<(bool, usize, bool)> =
        shown.groups.iter().map(|g| (g.registered, g.streams.len(), g.tun.is_none())).collect();
    assert_eq!(registered, [(true, 1, true), (true, 1, true), (false, 0, true)]);
    assert!(!shown.registered, "one group is missing");
    assert!(shown.last_error.as_ref().is_some_and(|why| why.contains("group 99")), "{:?}", shown.last_error);
    for n in [1, 2] {
        let text = std::fs::read_to_string(dir.path().join(format!("bay-{n}.json"))).unwrap();
        let keys: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(keys["streams"].as_array().unwrap().len(), 1);
        assert_eq!(keys["streams"][0]["payload"], format!("0404effc000{n}"));
    }
    for n in 0..4 {
        assert!(!Path::new(&format!("/sys/class/net/kf{n}")).exists(), "there is no traffic to take");
    }
    let stopped = Command::new("kill").args(["-TERM", &member.0.id().to_string()]).status().unwrap();
    assert!(stopped.success());
    let end = Instant::now() + Duration::from_secs(20);
    while dir.path().join("bay-1.json").exists() || dir.path().join("bay-2.json").exists() {
        assert!(Instant::now() < end, "keys stay behind");
        std::thread::sleep(Duration::from_millis(50));
    }
    let members = Client::connect(&dir.path().join("gateway.sock")).unwrap().members(None).unwrap();
    let left: Vec<(String, String)> =
        members.iter().map(|m| (m.group.clone(), format!("{:?}", m.member.state))).collect();
    assert_eq!(left, [("bay-1".to_owned(), "Left".to_owned()), ("bay-2".to_owned(), "Left".to_owned())]);
}

/// A group with this traffic.
fn branches(destinations: &[&str]) -> String {
    let lines = destinations.iter().map(|to| format!("[[group.traffic]]\ndestination = \"{to}\"\n\n"));
    format!(
        "\n[[group]]\nname = \"branches\"\nid = 1234\n\n{}[group.gikev2]\nrekey = \"unicast\"\n",
        lines.collect::<String>()
    )
}

/// A member of it that protects nothing.
fn member_of_keys(server: u16, own: u16) -> String {
    format!(
        r#"[member]
gateway = "127.0.0.1:{server}"
address = "127.0.0.1"
port = {own}
interface = "lo"
group = 1234
engine = "none"
psk = "a key of more than sixteen octets"

[control]
socket = "member.sock"
"#
    )
}

/// A member that protects nothing has the keys all the same, and needs nothing of the system for it.
#[test]
fn a_member_of_keys_alone_registers_and_makes_no_device() {
    let dir = tempfile::tempdir().unwrap();
    let (server, own) = (port(), port());
    let _gateway = run(dir.path(), "serve", &(gateway(server) + &branches(&["239.192.0.1"])));
    let _member = run(dir.path(), "member", &member_of_keys(server, own));
    let shown = status(dir.path(), |s| s.registered);
    let group = &shown.groups[0];
    assert_eq!((group.engine.as_deref(), &group.tun), (Some("none"), &None));
    let sas = group.dataplane["sas"].as_array().unwrap();
    assert_eq!((sas.len(), &sas[0]["sending"]), (1, &serde_json::Value::Bool(false)));
    assert_eq!(shown.last_error, None);
    for n in 0..4 {
        assert!(!Path::new(&format!("/sys/class/net/kf{n}")).exists(), "there is no traffic to take");
    }
}

/// What of the group's keys is not used is told as long as it is so, and not only until the registration is done.
#[test]
fn a_registered_member_shows_what_it_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let (server, own) = (port(), port());
    let _gateway = run(dir.path(), "serve", &(gateway(server) + &branches(&["239.192.0.1", "10.9.0.0/16"])));
    let _member = run(dir.path(), "member", &member_of_keys(server, own));
    let shown = status(dir.path(), |s| s.registered);
    assert_eq!(shown.groups[0].dataplane["sas"].as_array().unwrap().len(), 1);
    assert!(shown.last_error.as_ref().is_some_and(|why| why.contains("accept_traffic")), "{:?}", shown.last_error);
}
