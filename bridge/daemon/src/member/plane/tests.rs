//! New keys and the guard, with another program in the place of nft.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use keyferry_crypto::Secret;
use keyferry_model::update::Removal;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

use super::*;
use crate::member::guard::Finished;
use crate::member::joined::tests::{NOW, selector, update};
use crate::member::nft::Nft;

/// A plane whose guard is that of a script, with what is told of it. The script gets the rules in a folder where it may leave things, and `-j` where
/// it is to list counters.
struct Bench {
    plane: Plane,
    news: UnboundedReceiver<Finished>,
    place: tempfile::TempDir,
}

impl Bench {
    async fn new(script: &str) -> Self {
        Self::with(script, Duration::from_secs(20)).await
    }

    async fn with(script: &str, patience: Duration) -> Self {
        let place = tempfile::tempdir().unwrap();
        let program = place.path().join("nft");
        fs::write(&program, format!("#!/bin/sh\ncd {}\n{script}\n", place.path().display())).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
        let (sender, news) = unbounded_channel();
        let desk = Desk { nft: Nft::at(program, patience), group: 0, news: sender };
        let local = LocalPolicy::default();
        let mut guard = Guard::new(GuardChoice::Required, ("kf0", 7), &local, &[], desk).unwrap();
        guard.stand().await.unwrap();
        let engine = Box::new(KeysOnly::new(Tunnel::default(), None));
        Self { plane: Plane { guard: Some(guard), ..Plane::of(engine) }, news, place }
    }

    fn sas(&self) -> usize {
        self.plane.engine.status().sad.sas.len()
    }

    /// The rules that were loaded last.
    fn rules(&self) -> String {
        fs::read_to_string(self.place.path().join("rules")).unwrap()
    }

    /// What becomes of an update by the next news of rules, or of counters.
    async fn next(&mut self, of_rules: bool, now: Now) -> Option<Outcome> {
        loop {
            let news = timeout(Duration::from_secs(60), self.news.recv()).await.unwrap().unwrap().news;
            let awaited = matches!(news, News::Loaded(_)) == of_rules;
            let outcome = self.plane.take(news, now).await;
            if awaited {
                return outcome;
            }
            assert_eq!(outcome, None);
        }
    }

    async fn loaded(&mut self, now: Now) -> Option<Outcome> {
        self.next(true, now).await
    }
}

fn later(seconds: u64) -> Now {
    Now { mono: NOW.mono + Duration::from_secs(seconds), ..NOW }
}

/// Takes rules, and has counted four packets that arrived and one that was to leave.
const TAKES: &str = r#"if [ "$1" != -j ]; then exec cat > rules; fi
if [ ! -e rules ]; then echo 'Error: No such file or directory' >&2; exit 1; fi
echo '{"nftables":[{"counter":{"name":"arriving","packets":4}},{"counter":{"name":"leaving","packets":1}}]}'
if [ -s rules ]; then echo '{"nftables":[{"rule":{}}]}'; fi"#;

const FIRST: ([u8; 4], u8) = ([239, 192, 0, 1], 32);
const SECOND: ([u8; 4], u8) = ([239, 192, 0, 2], 32);

/// Brings keys for [`SECOND`], and removes others in three seconds.
fn rekey(removed: &[u32]) -> GroupUpdate {
    let mut update = update(&[SECOND]);
    (update.install[0].spi, update.deactivation_delay) = (0x2001, Duration::from_secs(3));
    update.install[0].keymat = Secret::new(vec![8; 20]);
    update.remove = Removal::Spis(removed.to_vec());
    update
}

#[tokio::test]
async fn keys_are_used_when_what_they_protect_is_guarded() {
    let mut bench = Bench::new(TAKES).await;
    assert!(bench.plane.update(update(&[FIRST]), NOW).await.is_none());
    assert_eq!(bench.sas(), 0);
    assert_eq!(bench.loaded(NOW).await, Some(Ok(None)));
    assert!(bench.sas() == 1 && bench.rules().contains("{ 239.192.0.1/32 }"), "{}", bench.rules());
    // What is guarded already waits for nobody.
    assert_eq!(bench.plane.update(update(&[FIRST]), NOW).await, Some(Ok(None)));
    bench.plane.end().await;
}

/// Nothing else waits for a program that does not end, and the keys are not used without it.
#[tokio::test]
async fn a_guard_that_does_not_come_keeps_keys_from_being_used_and_nothing_from_being_done() {
    let script = format!("if [ -e hangs ]; then exec sleep 60; fi; {TAKES}");
    let mut bench = Bench::with(&script, Duration::from_secs(1)).await;
    let hangs = bench.place.path().join("hangs");
    fs::write(&hangs, "").unwrap();
    assert!(bench.plane.update(update(&[FIRST]), NOW).await.is_none());
    bench.plane.leave_clear("239.192.9.9:848".parse().unwrap());
    bench.plane.expire(NOW).await;
    assert_eq!(bench.loaded(NOW).await, None, "rekeys are to pass as well");
    let refused = bench.loaded(NOW).await.unwrap().unwrap_err();
    assert!(refused.contains("did not end within 1 s"), "{refused}");
    assert!(bench.sas() == 0 && bench.plane.unguarded().is_some());
    assert_eq!(bench.plane.engine.named().len(), 1, "it is to be protected all the same");
    assert!(!bench.plane.needs_keys());
    fs::remove_file(hangs).unwrap();
}

/// Keys that were refused for want of it are asked for when it stands.
#[tokio::test]
async fn keys_are_asked_for_again_when_the_guard_has_come() {
    let mut bench = Bench::new(&format!("if [ -e no ]; then echo no >&2; exit 1; fi; {TAKES}")).await;
    let no = bench.place.path().join("no");
    fs::write(&no, "").unwrap();
    assert!(bench.plane.update(update(&[FIRST]), NOW).await.is_none());
    assert_eq!(bench.loaded(NOW).await, Some(Err("nft: no".to_owned())));
    assert!(!bench.plane.needs_keys());
    fs::remove_file(no).unwrap();
    bench.plane.expire(later(5)).await;
    while bench.plane.unguarded().is_some() {
        assert_eq!(bench.loaded(later(5)).await, None);
    }
    assert!(bench.rules().contains("{ 239.192.0.1/32 }") && bench.plane.needs_keys());
    assert_eq!(bench.plane.update(update(&[FIRST]), later(6)).await, Some(Ok(None)));
    assert!(!bench.plane.needs_keys());
}

#[tokio::test]
async fn what_the_policy_names_no_more_is_guarded_until_its_roll_over_is_over() {
    let mut bench = Bench::new(TAKES).await;
    assert!(bench.plane.update(update(&[FIRST]), NOW).await.is_none());
    assert_eq!(bench.loaded(NOW).await, Some(Ok(None)));
    assert!(bench.plane.update(rekey(&[0x1001]), NOW).await.is_none());
    bench.plane.expire(later(2)).await;
    assert_eq!(bench.loaded(later(2)).await, Some(Ok(None)));
    bench.plane.expire(later(2)).await;
    assert!(bench.rules().contains("{ 239.192.0.1/32, 239.192.0.2/32 }"), "{}", bench.rules());
    bench.plane.expire(later(3)).await;
    while bench.rules().contains("239.192.0.1/32") {
        assert_eq!(bench.loaded(later(3)).await, None);
    }
    assert!(bench.rules().contains("{ 239.192.0.2/32 }"));
    // Keys that end by themselves leave it as it is.
    bench.plane.expire(later(600)).await;
    assert_eq!((bench.sas(), bench.plane.named[..].len()), (0, 1));
    assert_eq!(bench.plane.named[0].1, selector(SECOND.0, SECOND.1));
}

/// Keys that wait go with a flush, and what they were for is protected on.
#[tokio::test]
async fn a_flush_takes_the_keys_that_wait() {
    let mut bench = Bench::new(TAKES).await;
    assert!(bench.plane.update(update(&[FIRST]), NOW).await.is_none());
    bench.plane.void();
    bench.plane.engine.flush();
    assert_eq!(bench.loaded(NOW).await, Some(Ok(None)));
    assert_eq!((bench.sas(), bench.plane.engine.named().len()), (0, 1));
    assert!(bench.rules().contains("{ 239.192.0.1/32 }"));
}

/// Rules that were on their way before the keys came are not about them.
#[tokio::test]
async fn keys_wait_also_for_what_comes_behind_rules_that_are_on_their_way() {
    let mut bench = Bench::new(TAKES).await;
    assert!(bench.plane.update(update(&[FIRST]), NOW).await.is_none());
    assert_eq!(bench.loaded(NOW).await, Some(Ok(None)));
    bench.plane.leave_clear("239.192.9.9:848".parse().unwrap());
    assert!(bench.plane.update(rekey(&[]), NOW).await.is_none());
    assert_eq!(bench.loaded(NOW).await, None, "these rules are not about it");
    assert!(!bench.rules().contains("239.192.0.2") && bench.sas() == 1);
    assert_eq!(bench.loaded(NOW).await, Some(Ok(None)));
    assert!(bench.rules().contains("{ 239.192.0.1/32, 239.192.0.2/32 }") && bench.sas() == 2);
}

/// The end waits for what is on its way, and leaves no table behind.
#[tokio::test]
async fn the_table_goes_with_the_member_also_when_rules_are_on_their_way() {
    let mut bench = Bench::new(&format!("sleep 0.2\n{TAKES}")).await;
    assert!(bench.plane.update(update(&[FIRST]), NOW).await.is_none());
    let Bench { plane, news: _news, place } = bench;
    plane.end().await;
    let rules = fs::read_to_string(place.path().join("rules")).unwrap();
    assert_eq!(rules, "delete table inet keyferry-kf0\n");
}

/// A firewall that is loaded anew takes everything away first.
#[tokio::test]
async fn a_table_that_was_taken_away_comes_back_and_counts_go_on() {
    let mut bench = Bench::new(TAKES).await;
    for (seconds, gone, [dropped_in, dropped_out]) in [(5, false, [4, 1]), (10, true, [4, 1]), (15, false, [8, 2])] {
        if gone {
            fs::remove_file(bench.place.path().join("rules")).unwrap();
        }
        bench.plane.expire(later(seconds)).await;
        assert_eq!(bench.plane.deadline().unwrap().at, later(seconds + 5).mono, "whatever else happens");
        assert_eq!(bench.next(false, later(seconds)).await, None);
        if gone {
            assert_eq!(bench.loaded(later(seconds)).await, None, "it is put up again");
        }
        let status = bench.plane.guard().unwrap();
        assert_eq!((status.dropped_in, status.dropped_out), (dropped_in, dropped_out), "{seconds}");
    }
    assert_eq!(bench.plane.guard().unwrap().table, "keyferry-kf0");
    // Or the rules alone.
    fs::write(bench.place.path().join("rules"), "").unwrap();
    bench.plane.expire(later(20)).await;
    assert_eq!(bench.next(false, later(20)).await, None);
    assert_eq!(bench.loaded(later(20)).await, None);
    let status = bench.plane.guard().unwrap();
    assert_eq!((status.dropped_in, status.dropped_out, bench.rules().is_empty()), (8, 2, false));
}
