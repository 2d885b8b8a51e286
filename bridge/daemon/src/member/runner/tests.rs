//! What machines want, with another program in the place of nft.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use tokio::sync::mpsc::UnboundedReceiver;

use super::*;
use crate::config::{Variables, member};
use crate::member::joined::tests::{group, update};
use crate::member::plane::tests::{Bench, FIRST, TAKES};
use crate::udp::{MulticastOut, Udp};

const CONFIG: &str = r#"
[member]
gateway = "127.0.0.1"
group = 7
protocol = "gdoi"
psk = "0x000102030405060708090a0b0c0d0e0f"

[[member.further]]
group = 8
"#;

/// A member of two groups by GDOI that moves to G-IKEv2, whose guards take rules unless a file `no` is there.
struct Moving {
    runner: Runner,
    news: Vec<UnboundedReceiver<Finished>>,
    places: Vec<tempfile::TempDir>,
    answer: oneshot::Receiver<Reply>,
}

impl Moving {
    async fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("member.toml");
        fs::write(&file, CONFIG).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let config = member(&file, Variables::new()).unwrap().config;
        let (mut joined, mut news, mut places) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..2 {
            let bench = Bench::new(&format!("if [ -e no ]; then echo no >&2; exit 1; fi; {TAKES}")).await;
            joined.push(group(Some(bench.plane)));
            news.push(bench.news);
            places.push(bench.place);
        }
        let socket = Udp::bind("127.0.0.1:0".parse().unwrap(), MulticastOut::default()).unwrap();
        let parts = Parts {
            identity: Identity::from_ip(socket.local().ip()),
            config,
            clock: Clock::new(),
            joined,
            listening: Listening::new(Arc::new(socket), 1).0,
            connections: Connections::new().0,
            key_log: None,
        };
        let mut runner = Runner::new(parts);
        let (reply, answer) = oneshot::channel();
        let machine = machine(&runner.parts, Protocol::Gikev2, 0);
        runner.next = Some(Move { machine, reply, until: Duration::MAX, registered: BTreeSet::new() });
        Self { runner, news, places, answer }
    }

    /// The new protocol brings keys for a group, which is registered by them.
    async fn register(&mut self, at: usize) {
        self.comes(at, MemberOutput::Update(update(&[FIRST]))).await;
        self.comes(at, MemberOutput::Event(MemberEvent::Registered)).await;
    }

    async fn comes(&mut self, at: usize, output: MemberOutput) {
        self.runner.carry_out(Protocol::Gikev2, vec![MemberOutput::Of(at, Box::new(output))]).await;
    }

    /// The rules of a group are loaded, or are not.
    async fn loaded(&mut self, at: usize) {
        let Finished { news, .. } = self.news[at].recv().await.unwrap();
        self.runner.guarded(Finished { group: at, news }).await;
    }

    fn refuse(&self, at: usize) {
        fs::write(self.places[at].path().join("no"), "").unwrap();
    }

    fn sas(&self, at: usize) -> usize {
        self.runner.parts.joined[at].dataplane().unwrap().sad.sas.len()
    }

    fn registered(&self) -> [bool; 2] {
        [0, 1].map(|at| self.runner.parts.joined[at].registered)
    }

    /// Why the move has failed.
    async fn failure(self) -> String {
        match self.answer.await.unwrap() {
            Reply::Error(why) => why,
            Reply::Ok(moved) => panic!("moved to {moved}"),
        }
    }

    /// The protocol that it speaks, and whether it is on its way still.
    fn stands(&self) -> (Protocol, bool) {
        (self.runner.present.protocol(), self.runner.next.is_some())
    }
}

/// The key server excludes the member by the new protocol, while the keys of the registration wait for the guard.
#[tokio::test]
async fn an_exclusion_takes_keys_that_wait_and_ends_the_move() {
    let mut moving = Moving::new().await;
    moving.register(0).await;
    assert_eq!((moving.sas(0), moving.stands()), (0, (Protocol::Gdoi, true)));
    moving.comes(0, MemberOutput::Flush).await;
    moving.comes(0, MemberOutput::Event(MemberEvent::Excluded)).await;
    moving.loaded(0).await;
    assert_eq!((moving.sas(0), moving.stands()), (0, (Protocol::Gdoi, false)));
    assert_eq!((moving.runner.counters.exclusions, moving.runner.counters.registrations), (1, 0));
    assert!(moving.failure().await.contains("excluded"));
}

/// Nor do they stay where one group is registered and the move waits for another.
#[tokio::test]
async fn an_exclusion_from_a_group_that_has_moved_takes_its_keys() {
    let mut moving = Moving::new().await;
    moving.register(0).await;
    moving.register(1).await;
    moving.loaded(0).await;
    assert_eq!((moving.sas(0), moving.stands()), (1, (Protocol::Gdoi, true)));
    moving.comes(0, MemberOutput::Flush).await;
    moving.comes(0, MemberOutput::Event(MemberEvent::Excluded)).await;
    assert_eq!((moving.sas(0), moving.registered()), (0, [false, false]));
    moving.loaded(1).await;
    assert_eq!((moving.sas(1), moving.stands()), (0, (Protocol::Gdoi, false)));
}

#[tokio::test]
async fn a_move_ends_when_no_keys_wait_that_it_has_brought() {
    let mut moving = Moving::new().await;
    moving.register(0).await;
    moving.register(1).await;
    moving.loaded(1).await;
    assert_eq!((moving.registered(), moving.stands()), ([false, true], (Protocol::Gdoi, true)));
    moving.loaded(0).await;
    assert_eq!((moving.registered(), moving.stands()), ([true, true], (Protocol::Gikev2, false)));
    assert_eq!((moving.sas(0), moving.sas(1)), (1, 1));
}

#[tokio::test]
async fn a_move_fails_when_keys_of_any_group_are_refused() {
    let mut moving = Moving::new().await;
    moving.refuse(1);
    moving.register(0).await;
    moving.register(1).await;
    moving.loaded(0).await;
    moving.loaded(1).await;
    assert_eq!((moving.sas(1), moving.stands()), (0, (Protocol::Gdoi, false)));
    assert!(moving.failure().await.ends_with("nft: no"));
}

#[tokio::test]
async fn a_move_registers_no_other_group_than_its_own() {
    let mut moving = Moving::new().await;
    moving.register(1).await;
    moving.loaded(1).await;
    assert_eq!((moving.registered(), moving.stands()), ([false, true], (Protocol::Gikev2, false)));
}
