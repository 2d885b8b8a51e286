//! Dead Peer Detection (RFC 3706), for both roles: answering, and asking.

use std::time::Duration;

use keyferry_crypto::Random;

/// When a peer is asked whether it is alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dpd {
    /// Ask after nothing was heard for so long.
    pub interval: Duration,
    /// Ask again after so long without an answer.
    pub retry: Duration,
    /// Questions before the peer is taken for dead.
    pub tries: u8,
}

impl Dpd {
    /// Asks after this much silence, five times, four seconds apart.
    #[must_use]
    pub fn every(interval: Duration) -> Self {
        Self { interval, retry: Duration::from_secs(4), tries: 5 }
    }
}

/// How often one question is answered: its answers may get lost.
const MAX_ANSWERS: u8 = 8;

/// Liveness of the peer of one phase 1 SA.
#[derive(Debug)]
pub(crate) struct Liveness {
    /// When something authentic and new was heard last.
    heard: Duration,
    /// Newest sequence number of the peer's, and how often it was answered.
    answered: Option<(u32, u8)>,
    /// Sequence number of our next question.
    next: u32,
    asking: Option<Asking>,
}

/// A question without an answer. It goes on until it has one, whatever else is heard: there are peers that take no number
/// but the next one.
#[derive(Debug)]
struct Asking {
    /// How often it was sent since something was heard.
    sent: u8,
    /// When it is sent again.
    at: Duration,
    /// The message: repeats are bitwise identical, so that the peer knows them.
    message: Vec<u8>,
}

/// A question of the peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    /// Not seen before, so the peer is alive.
    New,
    /// The newest one once more: answered, but proof of nothing.
    Again,
    /// Old, or asked too often.
    Stale,
}

/// What is to be done about a silent peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    /// Nothing yet.
    Wait,
    /// [Ask](Liveness::ask) with this sequence number.
    Ask(u32),
    /// Send this question again.
    Again(Vec<u8>),
    /// It has not answered.
    Dead,
}

impl Liveness {
    /// The peer has just shown itself. Our first number is random, its high bit clear (RFC 3706 section 6.2).
    pub(crate) fn new(mono: Duration, rng: &mut dyn Random) -> Self {
        Self { heard: mono, answered: None, next: rng.u32() >> 1, asking: None }
    }

    /// Something authentic came that cannot be a replay.
    pub(crate) fn hear(&mut self, mono: Duration) {
        self.heard = mono;
        if let Some(asking) = &mut self.asking {
            asking.sent = 0;
        }
    }

    /// Takes a question. Numbers must grow (section 6.2), by how much is left to the peer: questions get lost.
    pub(crate) fn asked(&mut self, number: u32) -> Question {
        match &mut self.answered {
            Some((last, times)) if *last == number && *times < MAX_ANSWERS => {
                *times += 1;
                Question::Again
            }
            Some((last, _)) if !(1..1 << 31).contains(&number.wrapping_sub(*last)) => Question::Stale,
            Some(_) | None => {
                self.answered = Some((number, 1));
                Question::New
            }
        }
    }

    /// Takes an answer; it counts if it answers one of the questions under way, all of which have one number.
    pub(crate) fn answered(&mut self, number: u32, mono: Duration) -> bool {
        let counts = self.asking.is_some() && number == self.next;
        if counts {
            self.next = self.next.wrapping_add(1);
            self.asking = None;
            self.heard = mono;
        }
        counts
    }

    /// When [`probe`](Self::probe) is wanted next.
    pub(crate) fn due(&self, dpd: &Dpd) -> Duration {
        match &self.asking {
            Some(asking) if asking.sent > 0 => asking.at,
            Some(_) | None => self.heard + dpd.interval,
        }
    }

    /// Does what is due.
    pub(crate) fn probe(&mut self, dpd: &Dpd, mono: Duration) -> Probe {
        if self.due(dpd) > mono {
            return Probe::Wait;
        }
        match &mut self.asking {
            None => Probe::Ask(self.next),
            Some(asking) if asking.sent >= dpd.tries => Probe::Dead,
            Some(asking) => {
                asking.sent += 1;
                asking.at = mono + dpd.retry;
                Probe::Again(asking.message.clone())
            }
        }
    }

    /// The question is on its way.
    pub(crate) fn ask(&mut self, dpd: &Dpd, mono: Duration, message: Vec<u8>) {
        self.asking = Some(Asking { sent: 1, at: mono + dpd.retry, message });
    }
}

#[cfg(test)]
mod tests {
    use keyferry_crypto::SeededRandom;

    use super::*;

    const fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn liveness() -> Liveness {
        Liveness::new(secs(0), &mut SeededRandom::new(1))
    }

    #[test]
    fn numbers_must_grow_and_the_newest_may_come_again() {
        let mut l = liveness();
        assert_eq!(l.asked(100), Question::New);
        assert_eq!(l.asked(99), Question::Stale);
        for _ in 1..MAX_ANSWERS {
            assert_eq!(l.asked(100), Question::Again);
        }
        assert_eq!(l.asked(100), Question::Stale);
        assert_eq!(l.asked(103), Question::New, "two were lost");
        assert_eq!(l.asked(u32::MAX), Question::Stale, "more than half of all numbers away");
    }

    #[test]
    fn numbers_may_wrap() {
        let mut l = liveness();
        assert_eq!(l.asked(u32::MAX), Question::New);
        assert_eq!(l.asked(0), Question::New);
        assert_eq!(l.asked(u32::MAX), Question::Stale);
    }

    #[test]
    fn a_silent_peer_is_asked_and_then_taken_for_dead() {
        let dpd = Dpd { interval: secs(30), retry: secs(4), tries: 2 };
        let mut l = liveness();
        assert!(l.next < 1 << 31);
        assert_eq!(l.probe(&dpd, secs(29)), Probe::Wait);
        let Probe::Ask(first) = l.probe(&dpd, secs(30)) else { panic!("time to ask") };
        l.ask(&dpd, secs(30), vec![1]);
        assert!(!l.answered(first.wrapping_add(1), secs(31)), "another number");
        assert!(l.answered(first, secs(31)));
        assert!(!l.answered(first, secs(32)), "once");
        assert_eq!(l.due(&dpd), secs(61));
        assert_eq!(l.probe(&dpd, secs(61)), Probe::Ask(first.wrapping_add(1)));
        l.ask(&dpd, secs(61), vec![2]);
        assert_eq!(l.probe(&dpd, secs(65)), Probe::Again(vec![2]));
        assert_eq!(l.probe(&dpd, secs(68)), Probe::Wait);
        assert_eq!(l.probe(&dpd, secs(69)), Probe::Dead);
    }

    #[test]
    fn anything_heard_gives_time_but_the_question_stays() {
        let dpd = Dpd { interval: secs(30), retry: secs(4), tries: 1 };
        let mut l = liveness();
        assert!(matches!(l.probe(&dpd, secs(30)), Probe::Ask(_)));
        l.ask(&dpd, secs(30), vec![1]);
        l.hear(secs(31));
        assert_eq!(l.probe(&dpd, secs(34)), Probe::Wait);
        assert_eq!(l.due(&dpd), secs(61));
        assert_eq!(l.probe(&dpd, secs(61)), Probe::Again(vec![1]));
        assert_eq!(l.probe(&dpd, secs(65)), Probe::Dead);
    }
}
