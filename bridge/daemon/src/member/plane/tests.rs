//! New keys and the guard, with another program in the place of nft.

use std::ffi::OsStr;
use std::fs;
use std::process::Command;
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
pub(in crate::member) struct Bench {
    pub(in crate::member) plane: Plane,
    pub(in crate::member) news: UnboundedReceiver<Finished>,
    pub(in crate::member) place: tempfile::TempDir,
}

impl Bench {
    pub(in crate::member) async fn new(script: &str) -> Self {
        Self::with(script, Duration::from_secs(20)).await
    }

    async fn with(script: &str, patience: Duration) -> Self {
        let place = tempfile::tempdir().unwrap();
        let program = place.path().join("nft");
        // This process must not write it: what other tests start might have it open, too, and it could not be run.
        let text = format!("#!/bin/sh\ncd {}\n{script}\n", place.path().display());
        let write = [OsStr::new("-c"), OsStr::new(r#"printf %s "$1" > "$0" && chmod 700 "$0""#)];
        let written = Command::new("/bin/sh").args(write).arg(&program).arg(text).status().unwrap();
        assert!(written.success());
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
pub(in crate::member) const TAKES: &str = r#"if [ "$1" != -j ]; then exec cat > rules; fi
if [ ! -e rules ]; then echo 'Error: No such file or directory' >&2; exit 1; fi
echo '{"nftables":[{"counter":{"name":"arriving","packets":4}},{"counter":{"name":"leaving","packets":1}}]}'
if [ -s rules ]; then echo '{"nftables":[{"rule":{}}]}'; fi"#;

/// As [`TAKES`], unless a file `no` is there.
const MAY_REFUSE: &str = "if [ -e no ]; then echo no >&2; exit 1; fi";

pub(in crate::member) const FIRST: ([u8; 4], u8) = ([239, 192, 0, 1], 32);
pub(in crate::member) const SECOND: ([u8; 4], u8) = ([239, 192, 0, 2], 32);
const THIRD: ([u8; 4], u8) = ([239, 192, 0, 3], 32);

/// Removes keys at once, and brings none.
pub(in crate::member) fn deletion(removed: &[u32]) -> GroupUpdate {
    GroupUpdate { remove: Removal::Spis(removed.to_vec()), ..update(&[]) }
}

/// Brings keys for [`SECOND`], and removes others in three seconds.
pub(in crate::member) fn rekey(removed: &[u32]) -> GroupUpdate {
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
    let mut bench = Bench::new(&format!("{MAY_REFUSE}; {TAKES}")).await;
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

/// Other keys than those do not help.
#[tokio::test]
async fn keys_are_asked_for_until_they_have_come() {
    let mut bench = Bench::new(&format!("{MAY_REFUSE}; {TAKES}")).await;
    let no = bench.place.path().join("no");
    fs::write(&no, "").unwrap();
    assert!(bench.plane.update(update(&[FIRST]), NOW).await.is_none());
    assert!(bench.loaded(NOW).await.unwrap().is_err());
    fs::remove_file(no).unwrap();
    assert!(bench.plane.update(rekey(&[]), NOW).await.is_none());
    assert_eq!(bench.loaded(NOW).await, Some(Ok(None)));
    assert!(bench.sas() == 1 && bench.plane.needs_keys());
    let first = GroupUpdate { remove: Removal::Spis(Vec::new()), ..update(&[FIRST]) };
    assert_eq!(bench.plane.update(first, NOW).await, Some(Ok(None)));
    assert!(!bench.plane.needs_keys());
}

/// Keys that are to go do so without a guard, whether others were to come or not, but for those that others were to take the
/// place of.
#[tokio::test]
async fn keys_that_are_removed_go_whatever_becomes_of_the_guard() {
    let mut bench = Bench::new(&format!("{MAY_REFUSE}; {TAKES}")).await;
    let mut all = update(&[FIRST, SECOND, THIRD]);
    all.install.iter_mut().zip(1..).for_each(|(sa, octet)| sa.keymat = Secret::new(vec![octet; 20]));
    assert!(bench.plane.update(all, NOW).await.is_none());
    assert_eq!(bench.loaded(NOW).await, Some(Ok(None)));
    fs::write(bench.place.path().join("no"), "").unwrap();
    bench.plane.leave_clear("239.192.9.9:848".parse().unwrap());
    assert_eq!(bench.plane.update(deletion(&[0x1001]), NOW).await, Some(Ok(None)), "rules are on their way");
    assert_eq!(bench.sas(), 2);
    assert_eq!(bench.loaded(NOW).await, None);
    assert!(bench.plane.unguarded().is_some());
    assert!(bench.plane.update(rekey(&[0x1002, 0x1003]), NOW).await.is_none());
    assert!(bench.loaded(NOW).await.unwrap().is_err());
    assert_eq!(bench.sas(), 2, "the roll-over is not over");
    bench.plane.expire(later(3)).await;
    let left = bench.plane.engine.purposes();
    assert_eq!(left, [(0x1002, (selector([0; 4], 0), selector(SECOND.0, SECOND.1)))]);
    let nothing = GroupUpdate { remove: Removal::All, ..deletion(&[]) };
    assert_eq!(bench.plane.update(nothing, later(3)).await, Some(Ok(None)));
    assert_eq!(bench.sas(), 0);
}

/// Routes that could not be changed are looked at again, though the policy is the same.
#[tokio::test]
async fn routes_that_are_not_as_they_should_be_are_tried_again() {
    let mut bench = Bench::new(TAKES).await;
    (bench.plane.routes, bench.plane.follows) = (Some(network::tests::stuck(&[])), true);
    let line = (selector([0; 4], 0), selector(FIRST.0, FIRST.1));
    bench.plane.hold(&[line]).await;
    assert!(!bench.plane.is_routed);
    bench.plane.routes = Some(network::tests::stuck(&[(FIRST.0.into(), FIRST.1)]));
    bench.plane.expire(later(1)).await;
    assert!(bench.plane.is_routed);
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
