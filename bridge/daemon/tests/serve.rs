//! The binary from the outside: exit codes, a gateway's life over its store, what it says when it cannot go on.

#![allow(clippy::unwrap_used)]
#![allow(clippy::disallowed_methods, reason = "a test of real processes waits in real time")]

use std::io::{BufRead, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use keyferry::control::{Client, GatewayStatus};

fn keyferry() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyferry"));
    for (name, _) in std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("KEYFERRY")) {
        command.env_remove(name);
    }
    command
}

/// A gateway's directory, with its configuration.
struct Place {
    dir: PathBuf,
    _temporary: Option<tempfile::TempDir>,
}

impl Place {
    fn new() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let place = Self { dir: temporary.path().to_owned(), _temporary: Some(temporary) };
        place.configure("");
        place
    }

    fn configure(&self, more: &str) {
        let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let text = format!(
            r#"[gateway]
listen = ["127.0.0.1:{port}"]
store = "gateway.redb"
signing_bits = 2048

[control]
socket = "gateway.sock"

[[group]]
name = "g"
id = 7
{more}

[[group.traffic]]
destination = "239.192.0.1"

[group.gdoi]

[group.gikev2]

[[peer]]
identity = "10.0.0.1"
psk = "a key of more than sixteen octets"
"#
        );
        std::fs::write(self.config(), text).unwrap();
        std::fs::set_permissions(self.config(), std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn config(&self) -> PathBuf {
        self.dir.join("gateway.toml")
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("gateway.sock")
    }

    fn serve(&self) -> Running {
        let mut command = keyferry();
        command.args(["serve", "--config"]).arg(self.config()).stdout(Stdio::null()).stderr(Stdio::piped());
        Running(Some(command.spawn().unwrap()))
    }

    /// What a gateway says that cannot start.
    fn refused(&self) -> Output {
        keyferry().args(["serve", "--config"]).arg(self.config()).output().unwrap()
    }

    fn client(&self) -> Client {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            match Client::connect(&self.socket()) {
                Ok(client) => return client,
                Err(error) => assert!(Instant::now() < until, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn ask(&self, args: &[&str]) -> Output {
        keyferry().args(args).arg("--socket").arg(self.socket()).output().unwrap()
    }
}

struct Running(Option<Child>);

impl Running {
    fn signal(&mut self, name: &str) -> Output {
        let child = self.0.take().unwrap();
        let sent = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        child.wait_with_output().unwrap()
    }

    fn hang_up(&self) {
        let id = self.0.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args(["-HUP", &id]).status().unwrap().success());
    }

    fn end(mut self) -> Output {
        self.0.take().unwrap().wait_with_output().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn spis(status: &GatewayStatus) -> Vec<String> {
    status.groups[0].epochs.iter().flat_map(|e| e.spis.clone()).collect()
}

#[test]
fn a_gateway_goes_on_from_its_store() {
    let place = Place::new();
    let mut first = place.serve();
    let mut client = place.client();
    let fresh = client.status().unwrap();
    assert_eq!(client.rekey("g").unwrap(), 1);
    assert_eq!(client.rekey("g").unwrap(), 2);
    let before = client.status().unwrap();
    assert_ne!(spis(&fresh), spis(&before));
    assert_eq!(before.groups[0].rekeys, 2);
    first.signal("-KILL");
    assert!(Client::connect(&place.socket()).is_err());

    let mut second = place.serve();
    let after = place.client().status().unwrap();
    assert_eq!(spis(&before), spis(&after));
    assert_eq!(after.groups[0].rekeys, 2);
    let sas = |s: &GatewayStatus| s.groups[0].rekey_sas.iter().map(|r| (r.spi.clone(), r.sent)).collect::<Vec<_>>();
    assert_eq!(sas(&before), sas(&after), "counters go on");
    let output = second.signal("-TERM");
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(!place.socket().exists());
}

#[test]
fn commands_answer_people_and_programs() {
    let place = Place::new();
    let _gateway = place.serve();
    drop(place.client());
    let people = place.ask(&["status"]);
    let text = String::from_utf8(people.stdout).unwrap();
    assert!(people.status.success() && text.contains("GROUP") && text.lines().all(|l| l.len() <= 80), "{text}");
    let programs = place.ask(&["status", "--json"]);
    let value: serde_json::Value = serde_json::from_slice(&programs.stdout).unwrap();
    assert_eq!(value["groups"][0]["name"], "g");
    assert_eq!(place.ask(&["members", "g", "--json"]).stdout, b"[]\n");
    for args in [&["rekey", "nope"][..], &["evict", "g", "10.0.0.1"], &["readmit", "g", "10.0.0.1"], &["leave"]] {
        let refused = place.ask(args);
        assert_eq!(refused.status.code(), Some(1), "{args:?}");
        assert!(stderr(&refused).starts_with("keyferry: ") && stderr(&refused).lines().count() == 1, "{refused:?}");
    }
}

/// A configuration that is read again, by command and by signal; one with mistakes changes nothing.
#[test]
fn a_changed_configuration_is_taken_without_a_restart() {
    let place = Place::new();
    let mut gateway = place.serve();
    let mut client = place.client();
    let first = client.status().unwrap();
    let said = |args: &[&str]| String::from_utf8(place.ask(args).stdout).unwrap();
    assert!(said(&["reload"]).contains("nothing to learn"));
    place.configure("tek_lifetime = \"30m\"");
    // Each configuration has another port, which waits.
    assert_eq!(said(&["reload"]), "changed: g\nat the next start: listen\n");
    let second = client.status().unwrap();
    assert_ne!(spis(&first), spis(&second));
    assert!(second.groups[0].epochs.iter().all(|e| e.remaining <= 1810));
    place.configure("tek_lifetime = \"30m\"\nfoo = 1");
    let refused = place.ask(&["reload"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("foo"), "{}", stderr(&refused));
    place.configure("tek_lifetime = \"20m\"");
    gateway.hang_up();
    let until = Instant::now() + Duration::from_secs(30);
    while client.status().unwrap().groups[0].rekeys == second.groups[0].rekeys {
        assert!(Instant::now() < until, "SIGHUP does nothing");
        std::thread::sleep(Duration::from_millis(20));
    }
    let third = client.status().unwrap();
    assert_ne!(spis(&second), spis(&third));
    // A restart with another configuration than before does the same.
    gateway.signal("-TERM");
    place.configure("tek_lifetime = \"25m\"");
    let _gateway = place.serve();
    let fourth = place.client().status().unwrap();
    assert!(fourth.groups[0].epochs.iter().any(|e| !spis(&third).contains(&e.spis[0])));
    for what in ["--delete-teks", "--delete-kek", "--delete-all"] {
        assert!(said(&["rekey", "g", what]).contains("it deletes"));
    }
}

#[test]
fn metrics_are_offered_where_the_configuration_says() {
    let place = Place::new();
    let at = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = keyferry();
    command.args(["serve", "--config"]).arg(place.config()).env("KEYFERRY__CONTROL__METRICS", at.port().to_string());
    let running = Running(Some(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()));
    let told = place.client().metrics().unwrap();
    assert!(told.contains("\nkeyferry_gateway_members{group=\"g\",protocol=\"gdoi\"} 0\n"), "{told}");
    assert_eq!(place.ask(&["metrics"]).status.code(), Some(0));

    let mut stream = TcpStream::connect(at).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let names = |text: &str| text.lines().map(|l| l.split_once(' ').unwrap().0.to_owned()).collect::<Vec<_>>();
    assert_eq!(names(body), names(&told));

    // Where somebody else is already it says so.
    let other = Place::new();
    let mut second = keyferry();
    second.args(["serve", "--config"]).arg(other.config()).env("KEYFERRY__CONTROL__METRICS", at.to_string());
    let refused = second.output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains(&format!("cannot offer metrics at {at}")), "{}", stderr(&refused));
    drop(running);
}

#[test]
fn nobody_there_is_a_failure_with_a_remedy() {
    let place = Place::new();
    let output = place.ask(&["status"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("--socket"), "{}", stderr(&output));
}

#[test]
fn a_second_gateway_does_not_touch_the_first() {
    let place = Place::new();
    let _first = place.serve();
    drop(place.client());
    let second = place.refused();
    assert_eq!(second.status.code(), Some(1));
    assert!(stderr(&second).contains("another process has it open"), "{}", stderr(&second));
    assert!(place.ask(&["status"]).status.success());
}

#[test]
fn a_configuration_with_mistakes_is_exit_code_two() {
    let place = Place::new();
    place.configure("tek_lifetime = \"5s\"\nfoo = 1");
    let serve = place.refused();
    assert_eq!(serve.status.code(), Some(2));
    assert_eq!(stderr(&serve).lines().filter(|l| l.contains("gateway.toml:")).count(), 2, "{}", stderr(&serve));
    let check = keyferry().arg("check").arg(place.config()).arg("--json").output().unwrap();
    assert_eq!(check.status.code(), Some(2));
    let value: serde_json::Value = serde_json::from_slice(&check.stdout).unwrap();
    assert_eq!(value["ok"], false);
    let lines: Vec<u64> = value["problems"].as_array().unwrap().iter().map(|p| p["line"].as_u64().unwrap()).collect();
    assert_eq!(lines, [12, 13]);
    place.configure("");
    let check = keyferry().arg("check").arg(place.config()).output().unwrap();
    assert!(check.status.success(), "{}", stderr(&check));
    assert!(!place.dir.join("gateway.redb").exists(), "a check makes nothing");
}

#[test]
fn a_store_of_another_key_stops_the_start() {
    let place = Place::new();
    let mut first = place.serve();
    drop(place.client());
    first.signal("-TERM");
    std::fs::write(place.dir.join("master.key"), "11".repeat(32)).unwrap();
    let before = std::fs::read(place.dir.join("gateway.redb")).unwrap();
    let output = place.refused();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("does not belong to this store"), "{}", stderr(&output));
    assert!(std::fs::read(place.dir.join("gateway.redb")).unwrap() == before);
}

/// SIGHUP has the files read again that say whom to trust. One that cannot be used changes nothing, and nothing ends.
#[test]
fn a_hangup_has_certificates_read_again() {
    let place = Place::new();
    let pki = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../gdoi/tests/vectors/pki");
    let key = place.dir.join("gateway.key");
    std::fs::copy(pki.join("gateway-p256.key"), &key).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let lists = place.dir.join("crls");
    std::fs::create_dir(&lists).unwrap();
    let mut child = keyferry()
        .args(["serve", "--config"])
        .arg(place.config())
        .env("KEYFERRY__GATEWAY__CERTIFICATE", pki.join("gateway-p256.pem"))
        .env("KEYFERRY__GATEWAY__PRIVATE_KEY", &key)
        .env("KEYFERRY__GATEWAY__TRUST", pki.join("root.pem"))
        .env("KEYFERRY__GATEWAY__CRL", &lists)
        .env("KEYFERRY__GATEWAY__CRL_RELOAD", "1d")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let log = std::io::BufReader::new(child.stderr.take().unwrap());
    let (lines, said) = std::sync::mpsc::channel();
    std::thread::spawn(move || log.lines().map_while(Result::ok).try_for_each(|line| lines.send(line)));
    let hears = |words: &str| {
        let until = Instant::now() + Duration::from_secs(60);
        while !said.recv_timeout(until - Instant::now()).unwrap().contains(words) {}
    };
    let mut running = Running(Some(child));
    hears("gateway serves");
    running.hang_up();
    hears("read again");
    std::fs::write(lists.join("broken"), "no list").unwrap();
    running.hang_up();
    hears("broken: malformed: no revocation list");
    std::fs::remove_file(lists.join("broken")).unwrap();
    running.hang_up();
    hears("read again");
    assert!(place.ask(&["status"]).status.success());
    assert!(running.signal("-TERM").status.success());
}

struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

fn mount_small(at: &Path) -> Option<Mounted> {
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=2m", "keyferry-test"])
        .arg(at)
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success());
    if !mounted {
        eprintln!("skipped: only root may mount a small file system");
    }
    mounted.then(|| Mounted(at.to_owned()))
}

/// What cannot be made durable is not sent: the gateway stops, and says why.
#[test]
fn a_full_disk_stops_the_gateway() {
    let dir = tempfile::tempdir().unwrap();
    let Some(_mounted) = mount_small(dir.path()) else { return };
    let place = Place { dir: dir.path().to_owned(), _temporary: None };
    place.configure("");
    let running = place.serve();
    let mut client = place.client();
    let last = client.status().unwrap().groups[0].rekeys;
    // Leaves room for little more than the store has.
    let mut ballast = 2 << 20;
    while ballast > 1024 {
        let more = vec![0; ballast];
        let file = dir.path().join(format!("ballast-{ballast}"));
        if std::fs::write(&file, more).is_err() {
            let _ = std::fs::remove_file(&file);
        }
        ballast /= 2;
    }
    let mut done = last;
    while let Ok(rekey) = client.rekey("g") {
        done = rekey;
        assert!(done < 10_000, "the disk does not fill up");
    }
    let output = running.end();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("the disk is full"), "{}", stderr(&output));
    for entry in std::fs::read_dir(dir.path()).unwrap().map(Result::unwrap) {
        if entry.file_name().to_string_lossy().starts_with("ballast") {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
    let _again = place.serve();
    let rekeys = place.client().status().unwrap().groups[0].rekeys;
    assert!(rekeys >= done, "{rekeys} of {done}: what was acknowledged is there");
}
