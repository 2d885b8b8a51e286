//! Packet sockets and an ingress hook that fail when they are told to.

use std::cell::RefCell;
use std::rc::Rc;

use keyferry_crypto::{Random, SeededRandom};

use super::*;

/// What the hook does with its next tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hook {
    Obeys,
    Refuses,
    /// Obeys, and its answer is lost.
    ObeysInSilence,
    /// Neither obeys nor answers.
    IsDeaf,
}

/// What they do and have.
struct Host {
    taken: Vec<Groups>,
    kept: Groups,
    /// Groups for which a tap has room, those of the old filter and of the new one together.
    room: usize,
    /// This one takes nothing new.
    broken: Option<usize>,
    hook: Hook,
    /// How often the hook was asked.
    asked: usize,
    /// Takings of any tap until one fails, if one is to.
    takings: Option<usize>,
}

impl Host {
    /// At every moment: what the IP stack does not get is taken.
    fn check(&self) {
        assert!(self.taken.iter().all(|taken| self.kept.is_subset(taken)), "{:?} {:?}", self.kept, self.taken);
    }
}

type Shared = Rc<RefCell<Host>>;

struct FakeTap(Shared, usize);
struct FakeHook(Shared);

impl Take for FakeTap {
    fn take(&self, groups: &Groups) -> io::Result<()> {
        let mut host = self.0.borrow_mut();
        let due = host.takings.take();
        host.takings = due.and_then(|left| left.checked_sub(1));
        let full = host.taken[self.1].len() + groups.len() > host.room;
        if full || host.broken == Some(self.1) || due == Some(0) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        host.taken[self.1].clone_from(groups);
        host.check();
        Ok(())
    }
}

impl Keep for FakeHook {
    fn keep(&mut self, groups: &Groups) -> Result<(), Failure> {
        let mut host = self.0.borrow_mut();
        host.asked += 1;
        if matches!(host.hook, Hook::Obeys | Hook::ObeysInSilence) {
            host.kept.clone_from(groups);
        }
        host.check();
        match host.hook {
            Hook::Obeys => Ok(()),
            Hook::Refuses => Err(Failure::Refused(io::ErrorKind::OutOfMemory.into())),
            Hook::ObeysInSilence | Hook::IsDeaf => Err(Failure::Unknown(io::ErrorKind::TimedOut.into())),
        }
    }
}

const TAPS: usize = 3;

fn host(room: usize) -> (Early<FakeTap, FakeHook>, Shared) {
    let host = Host {
        taken: vec![Groups::new(); TAPS],
        kept: Groups::new(),
        room,
        broken: None,
        hook: Hook::Obeys,
        asked: 0,
        takings: None,
    };
    let host = Rc::new(RefCell::new(host));
    let taps = (0..TAPS).map(|tap| FakeTap(Rc::clone(&host), tap));
    (Early::new(taps, FakeHook(Rc::clone(&host))), host)
}

fn groups(numbers: impl IntoIterator<Item = u16>) -> Groups {
    let group = |number: u16| IpAddr::from([239, 192, number.to_be_bytes()[0], number.to_be_bytes()[1]]);
    numbers.into_iter().map(group).collect()
}

fn set(early: &mut Early<FakeTap, FakeHook>, groups: &Groups) {
    early.set(groups.iter().copied());
}

/// All parts are of one mind about these.
fn settled(early: &Early<FakeTap, FakeHook>, host: &Shared, groups: &Groups) {
    let host = host.borrow();
    assert_eq!((&host.kept, early.groups()), (groups, groups));
    assert!(host.taken.iter().all(|taken| taken == groups), "{groups:?} {:?}", host.taken);
}

#[test]
fn groups_come_and_go() {
    let (mut early, host) = host(1_000);
    for wanted in [groups(0..3), groups(2..5), groups([]), groups([7])] {
        set(&mut early, &wanted);
        settled(&early, &host, &wanted);
    }
    let asked = host.borrow().asked;
    set(&mut early, &groups([7]));
    assert_eq!(host.borrow().asked, asked, "nothing to be done");
}

#[test]
fn others_take_the_place_of_groups_where_there_is_no_room_for_both() {
    let (mut early, host) = host(200);
    for wanted in [groups(0..100), groups(100..200), groups(150..250)] {
        set(&mut early, &wanted);
        settled(&early, &host, &wanted);
    }
}

#[test]
fn as_many_are_taken_as_there_is_room_for() {
    let (mut early, host) = host(200);
    set(&mut early, &groups(0..10));
    set(&mut early, &groups(0..130));
    let first = early.groups().clone();
    assert!(first.is_superset(&groups(0..10)) && (65..=100).contains(&first.len()), "{first:?}");
    settled(&early, &host, &first);
    for _ in 0..10 {
        set(&mut early, &groups(0..130));
    }
    let later = early.groups().clone();
    assert!(later.is_superset(&first) && later.len() == 100, "{later:?}");
    settled(&early, &host, &later);
    set(&mut early, &groups(5..90));
    settled(&early, &host, &groups(5..90));
}

#[test]
fn there_is_a_limit_whatever_the_room() {
    let (mut early, host) = host(10_000);
    set(&mut early, &groups(500..510));
    let most = u16::try_from(MOST).unwrap();
    set(&mut early, &groups(0..600));
    settled(&early, &host, &groups((0..most - 10).chain(500..510)));
}

#[test]
fn what_one_tap_cannot_take_is_taken_by_none() {
    let (mut early, host) = host(1_000);
    set(&mut early, &groups(0..3));
    host.borrow_mut().broken = Some(1);
    set(&mut early, &groups(0..6));
    settled(&early, &host, &groups(0..3));
    host.borrow_mut().broken = None;
    set(&mut early, &groups(0..6));
    settled(&early, &host, &groups(0..6));
}

#[test]
fn a_group_that_is_still_taken_for_want_of_memory_is_given_up_later() {
    let (mut early, host) = host(1_000);
    set(&mut early, &groups(0..3));
    host.borrow_mut().broken = Some(2);
    set(&mut early, &groups([0]));
    assert_eq!((&host.borrow().kept, host.borrow().taken[2].len()), (&groups([0]), 3));
    host.borrow_mut().broken = None;
    set(&mut early, &groups([0]));
    settled(&early, &host, &groups([0]));
}

#[test]
fn a_refusal_of_the_hook_changes_nothing() {
    let (mut early, host) = host(1_000);
    set(&mut early, &groups(0..3));
    host.borrow_mut().hook = Hook::Refuses;
    for wanted in [groups(0..6), groups([]), groups(6..9)] {
        set(&mut early, &wanted);
        settled(&early, &host, &groups(0..3));
    }
    host.borrow_mut().hook = Hook::Obeys;
    set(&mut early, &groups(6..9));
    settled(&early, &host, &groups(6..9));
}

#[test]
fn all_that_may_be_kept_is_taken_until_the_hook_answers() {
    for silence in [Hook::ObeysInSilence, Hook::IsDeaf] {
        let (mut early, host) = host(1_000);
        set(&mut early, &groups(0..3));
        host.borrow_mut().hook = silence;
        set(&mut early, &groups(2..6));
        assert!(host.borrow().taken.iter().all(|taken| *taken == groups(0..6)));
        host.borrow_mut().hook = Hook::Refuses;
        set(&mut early, &groups(0..3));
        assert!(host.borrow().taken.iter().all(|taken| *taken == groups(0..6)));
        host.borrow_mut().hook = Hook::Obeys;
        set(&mut early, &groups(0..3));
        settled(&early, &host, &groups(0..3));
    }
}

/// [`Host::check`] looks after each step.
#[test]
fn whatever_fails_nothing_is_kept_that_is_not_taken() {
    let mut random = SeededRandom::new(7);
    let mut below = |limit: u64| usize::try_from(random.below(limit)).unwrap();
    for _ in 0..2_000 {
        let (mut early, host) = host(10 + below(30));
        for _ in 0..12 {
            let wanted = groups((0..16).filter(|_| below(2) == 0));
            {
                let mut host = host.borrow_mut();
                host.hook = [Hook::Obeys, Hook::Refuses, Hook::ObeysInSilence, Hook::IsDeaf][below(4)];
                host.broken = Some(below(2 * TAPS as u64));
                host.takings = Some(below(20));
            }
            set(&mut early, &wanted);
        }
        {
            let mut host = host.borrow_mut();
            (host.hook, host.broken, host.takings, host.room) = (Hook::Obeys, None, None, 1_000);
        }
        set(&mut early, &groups(3..9));
        settled(&early, &host, &groups(3..9));
    }
}
