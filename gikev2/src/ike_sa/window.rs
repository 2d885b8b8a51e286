//! Requests and responses with a window of one (RFC 7296 sections 2.1 to 2.3).

use std::time::Duration;

use keyferry_crypto::{Hash, Random};

use crate::wire::sk::first_datagram;

/// When an unanswered request is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Time before the first repeat; each later wait is twice as long, plus up to a quarter of jitter.
    pub first: Duration,
    /// Repeats before the exchange is given up.
    pub tries: u8,
}

/// A message that waits for its answer and is repeated, bitwise identical, until then.
#[derive(Clone, Debug)]
pub(crate) struct Repeating {
    pub(crate) bytes: Vec<u8>,
    due: Duration,
    wait: Duration,
    left: u8,
}

/// What is due for a message that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Nothing yet.
    Wait,
    /// Send it again.
    Repeat,
    /// Give up.
    GiveUp,
}

impl Repeating {
    pub(crate) fn new(bytes: Vec<u8>, backoff: Backoff, now: Duration, rng: &mut dyn Random) -> Self {
        let wait = backoff.first;
        Self { bytes, due: now + jittered(wait, rng), wait, left: backoff.tries }
    }

    pub(crate) fn due_at(&self) -> Duration {
        self.due
    }

    /// Gives up when the next repeat would be due.
    pub(crate) fn last_chance(&mut self) {
        self.left = 0;
    }

    /// Goes on by this schedule from now on, where it is the quicker one.
    pub(crate) fn hasten(&mut self, backoff: Backoff, now: Duration, rng: &mut dyn Random) {
        self.wait = self.wait.min(backoff.first);
        self.left = self.left.min(backoff.tries);
        self.due = self.due.min(now + jittered(self.wait, rng));
    }

    pub(crate) fn expire(&mut self, now: Duration, rng: &mut dyn Random) -> Due {
        if now < self.due {
            return Due::Wait;
        }
        if self.left == 0 {
            return Due::GiveUp;
        }
        self.left -= 1;
        self.wait *= 2;
        self.due = now + jittered(self.wait, rng);
        Due::Repeat
    }
}

fn jittered(wait: Duration, rng: &mut dyn Random) -> Duration {
    let quarter = u64::try_from(wait.as_micros() / 4).unwrap_or(u64::MAX - 1);
    wait + Duration::from_micros(rng.below(quarter + 1))
}

/// Requests of ours: one at a time.
#[derive(Debug)]
pub(crate) struct Requests {
    next: u32,
    pub(crate) pending: Option<(u32, Repeating)>,
}

impl Requests {
    /// The first request will have this message ID.
    pub(crate) fn starting_at(next: u32) -> Self {
        Self { next, pending: None }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.pending.is_none()
    }

    /// The message ID for the next request; `None` once they are used up (RFC 7296 section 2.2).
    pub(crate) fn next_id(&self) -> Option<u32> {
        (self.next < u32::MAX).then_some(self.next)
    }

    pub(crate) fn sent(&mut self, message: Repeating) {
        self.pending = Some((self.next, message));
        self.next += 1;
    }

    pub(crate) fn awaits(&self, id: u32) -> bool {
        self.pending.as_ref().is_some_and(|(pending, _)| *pending == id)
    }

    pub(crate) fn answered(&mut self) {
        self.pending = None;
    }
}

/// What a request of the peer is, by its message ID and octets.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Incoming<'a> {
    /// The next one.
    New,
    /// A repeat of the last one: this was the answer.
    Repeat(&'a [u8]),
    /// Neither.
    Stale,
}

/// Requests of the peer: the last one and its answer are remembered.
#[derive(Debug)]
pub(crate) struct Answers {
    /// Wider than a message ID: after the last of them none is expected.
    expected: u64,
    last: Option<(Vec<u8>, Vec<u8>)>,
    /// Names the expected request, which was taken up and will be answered later.
    taken_up: Option<Vec<u8>>,
}

impl Answers {
    /// The peer's first request has this message ID.
    pub(crate) fn starting_at(expected: u32) -> Self {
        Self { expected: expected.into(), last: None, taken_up: None }
    }

    /// The message ID of the next request.
    pub(crate) fn expected(&self) -> u32 {
        u32::try_from(self.expected).unwrap_or(u32::MAX)
    }

    pub(crate) fn classify(&self, id: u32, datagram: &[u8]) -> Incoming<'_> {
        let id = u64::from(id);
        if id == self.expected {
            return if self.taken_up.is_none() { Incoming::New } else { Incoming::Stale };
        }
        match &self.last {
            Some((digest, answer)) if id + 1 == self.expected && *digest == name_of(datagram) => {
                Incoming::Repeat(answer)
            }
            _ => Incoming::Stale,
        }
    }

    /// Is that the ID of the request that is expected?
    pub(crate) fn expects(&self, id: u32) -> bool {
        u64::from(id) == self.expected && self.taken_up.is_none()
    }

    /// The expected request has been verified and answered.
    pub(crate) fn answered(&mut self, datagram: &[u8], answer: Vec<u8>) {
        self.take_up(datagram);
        self.answered_later(answer);
    }

    /// The expected request has been verified, and its answer takes a while. Repeats draw nothing until then.
    pub(crate) fn take_up(&mut self, datagram: &[u8]) {
        self.taken_up = Some(name_of(datagram));
    }

    /// The answer to the request that was taken up.
    pub(crate) fn answered_later(&mut self, answer: Vec<u8>) {
        if let Some(digest) = self.taken_up.take() {
            self.last = Some((digest, answer));
            self.expected += 1;
        }
    }
}

/// Names a message by the octets of its first datagram.
fn name_of(message: &[u8]) -> Vec<u8> {
    digest_of(first_datagram(message))
}

/// Names a datagram by its octets.
pub(crate) fn digest_of(datagram: &[u8]) -> Vec<u8> {
    Hash::Sha256.digest(&[datagram])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use keyferry_crypto::SeededRandom;

    use super::*;

    #[test]
    fn repeats_come_at_doubling_intervals_and_end() {
        let mut rng = SeededRandom::new(5);
        let backoff = Backoff { first: Duration::from_secs(1), tries: 3 };
        let mut message = Repeating::new(vec![1], backoff, Duration::ZERO, &mut rng);
        let mut last = Duration::ZERO;
        for expected in [1, 2, 4] {
            let at = message.due_at();
            let gap = at - last;
            assert!(gap >= Duration::from_secs(expected) && gap <= Duration::from_millis(expected * 1250), "{gap:?}");
            assert_eq!(message.expire(at - Duration::from_nanos(1), &mut rng), Due::Wait);
            assert_eq!(message.expire(at, &mut rng), Due::Repeat);
            last = at;
        }
        assert_eq!(message.expire(message.due_at(), &mut rng), Due::GiveUp);
    }

    #[test]
    fn a_hastened_message_is_given_up_sooner_and_never_later() {
        let mut rng = SeededRandom::new(5);
        let quick = Backoff { first: Duration::from_secs(1), tries: 1 };
        for (backoff, most) in [(Backoff { first: Duration::from_secs(8), tries: 6 }, 7), (quick, 5)] {
            let mut message = Repeating::new(vec![1], backoff, Duration::ZERO, &mut rng);
            let now = Duration::from_secs(2);
            message.hasten(quick, now, &mut rng);
            let repeat = message.due_at();
            assert!(repeat <= now + Duration::from_millis(1250), "{repeat:?}");
            assert_eq!(message.expire(repeat, &mut rng), Due::Repeat);
            assert!(message.due_at() <= Duration::from_secs(most), "{:?}", message.due_at());
            assert_eq!(message.expire(message.due_at(), &mut rng), Due::GiveUp);
        }
    }

    #[test]
    fn only_the_next_request_is_new() {
        let mut answers = Answers::starting_at(1);
        assert_eq!(answers.classify(1, b"one"), Incoming::New);
        assert_eq!(answers.classify(0, b"one"), Incoming::Stale);
        assert_eq!(answers.classify(2, b"two"), Incoming::Stale);
        answers.answered(b"one", b"first".to_vec());
        assert_eq!(answers.classify(1, b"one"), Incoming::Repeat(b"first"));
        assert_eq!(answers.classify(1, b"other"), Incoming::Stale);
        assert_eq!(answers.classify(2, b"two"), Incoming::New);
        // One that is being worked on is not done twice.
        answers.take_up(b"two");
        assert_eq!(answers.classify(2, b"two"), Incoming::Stale);
        answers.answered_later(b"second".to_vec());
        assert_eq!(answers.classify(2, b"two"), Incoming::Repeat(b"second"));
        assert_eq!(answers.classify(1, b"one"), Incoming::Stale);
    }

    /// RFC 7296 section 2.2: message IDs do not come round. Of ours none is left then, and of the peer's none is new.
    #[test]
    fn message_ids_are_used_up() {
        let mut rng = SeededRandom::new(5);
        let backoff = Backoff { first: Duration::from_secs(1), tries: 3 };
        let mut requests = Requests::starting_at(u32::MAX - 1);
        assert_eq!(requests.next_id(), Some(u32::MAX - 1));
        requests.sent(Repeating::new(vec![1], backoff, Duration::ZERO, &mut rng));
        requests.answered();
        assert_eq!(requests.next_id(), None);
        let mut answers = Answers::starting_at(u32::MAX);
        answers.answered(b"last", b"answer".to_vec());
        assert_eq!(answers.classify(u32::MAX, b"last"), Incoming::Repeat(b"answer"));
        assert_eq!(answers.classify(u32::MAX, b"other"), Incoming::Stale);
        assert_eq!(answers.classify(0, b"round"), Incoming::Stale);
        assert!(!answers.expects(u32::MAX) && !answers.expects(0));
    }
}
