//! IKE messages in a TCP stream (RFC 9329 sections 3 and 4).
//!
//! ```text
//!  "IKETCP", from the end that opened the connection, once; then frames:
//!
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//!                                 +---------------+---------------+
//!                                 |     length, itself included   |
//! +-------------------------------+-------------------------------+
//! |         four zero octets, or the SPI of an ESP packet         |
//! +---------------------------------------------------------------+
//! ~                  IKE message, or what else                    ~
//! +---------------------------------------------------------------+
//! ```
//!
//! Nothing is set aside for what a length promises: the buffer holds octets that have arrived, at most those of one frame
//! and of one reading.

use crate::header::NON_ESP_MARKER;

/// What a stream begins with (RFC 9329 section 4).
pub const STREAM_PREFIX: [u8; 6] = *b"IKETCP";

/// The longest IKE message in a frame: a length has 16 bits and counts itself and the marker (RFC 9329 section 3).
pub const MAX_FRAMED: usize = 65_535 - LENGTH - NON_ESP_MARKER.len();

/// Octets of the length.
const LENGTH: usize = 2;

/// Room that is kept for what comes next.
const KEPT: usize = 8192;

/// All that a NAT keepalive holds (RFC 9329 section 6.6).
const KEEPALIVE: &[u8] = &[0xff];

/// An IKE message as it goes into a stream; `None` if it is too long for a frame.
#[must_use]
pub fn frame(message: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(LENGTH + NON_ESP_MARKER.len() + message.len()).ok()?;
    Some([&length.to_be_bytes()[..], &NON_ESP_MARKER, message].concat())
}

/// What came out of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// An IKE message, marker taken off.
    Ike(Vec<u8>),
    /// A translator's mapping is kept alive; nothing is to be done.
    Keepalive,
    /// Without a marker: an ESP packet, or nothing at all.
    Foreign,
}

/// A stream that cannot be followed any more: the connection is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// It does not begin as it must.
    #[error("the stream does not begin with IKETCP")]
    Prefix,
    /// A length does not even count itself (RFC 9329 section 3.1).
    #[error("a frame of length {0}")]
    Length(u16),
}

/// Takes frames out of a stream, however it is cut.
#[derive(Debug)]
pub struct Deframer {
    /// Is the prefix still to come?
    prefix: bool,
    buffer: Vec<u8>,
    /// Octets of the buffer that have been taken.
    taken: usize,
    failed: Option<StreamError>,
}

impl Deframer {
    /// At the end that was connected to: the prefix comes first.
    #[must_use]
    pub fn responder() -> Self {
        Self { prefix: true, buffer: Vec::new(), taken: 0, failed: None }
    }

    /// At the end that opened the connection: the other one sends no prefix.
    #[must_use]
    pub fn originator() -> Self {
        Self { prefix: false, ..Self::responder() }
    }

    /// Takes octets as they came. Take the frames out before the next ones.
    pub fn push(&mut self, octets: &[u8]) {
        self.buffer.drain(..std::mem::take(&mut self.taken));
        // Most messages are short: one long one is no reason to hold on to its room for as long as the connection lasts.
        if self.buffer.len() < KEPT {
            self.buffer.shrink_to(KEPT);
        }
        if self.failed.is_none() {
            self.buffer.extend_from_slice(octets);
        }
    }

    /// Is the beginning of something there, and its end is not?
    #[must_use]
    pub fn is_within(&self) -> bool {
        self.prefix || !self.rest().is_empty()
    }

    /// The next frame; `None` until more has come.
    ///
    /// # Errors
    /// The stream cannot be followed, now and from then on.
    pub fn take(&mut self) -> Result<Option<Frame>, StreamError> {
        let next = self.failed.map_or_else(|| self.next(), Err);
        if let Err(error) = next {
            self.failed = Some(error);
            (self.buffer, self.taken) = (Vec::new(), 0);
        }
        next
    }

    fn rest(&self) -> &[u8] {
        &self.buffer[self.taken..]
    }

    fn next(&mut self) -> Result<Option<Frame>, StreamError> {
        if self.prefix {
            let there = self.rest().len().min(STREAM_PREFIX.len());
            if self.rest()[..there] != STREAM_PREFIX[..there] {
                return Err(StreamError::Prefix);
            }
            if there < STREAM_PREFIX.len() {
                return Ok(None);
            }
            self.prefix = false;
            self.taken += there;
        }
        while let Some((length, rest)) = self.rest().split_first_chunk() {
            let length = u16::from_be_bytes(*length);
            let len = usize::from(length).checked_sub(LENGTH).ok_or(StreamError::Length(length))?;
            let Some(content) = rest.get(..len) else { break };
            let frame = match content.strip_prefix(&NON_ESP_MARKER) {
                _ if content.is_empty() => None,
                _ if content == KEEPALIVE => Some(Frame::Keepalive),
                Some(message) => Some(Frame::Ike(message.to_vec())),
                None => Some(Frame::Foreign),
            };
            self.taken += LENGTH + len;
            // What is empty is passed over (RFC 9329 section 3).
            if frame.is_some() {
                return Ok(frame);
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn all(mut deframer: Deframer, octets: &[u8]) -> (Vec<Frame>, Option<StreamError>) {
        deframer.push(octets);
        let mut frames = Vec::new();
        loop {
            match deframer.take() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => return (frames, None),
                Err(error) => {
                    assert_eq!(deframer.take(), Err(error), "it stays so");
                    deframer.push(&frame(b"more").unwrap());
                    assert_eq!(deframer.take(), Err(error));
                    return (frames, Some(error));
                }
            }
        }
    }

    /// The octets of RFC 9329, figures 1 and 3.
    #[test]
    fn a_stream_is_read_as_it_is_drawn() {
        let octets =
            b"IKETCP\x00\x09\x00\x00\x00\x00ike\x00\x03\xff\x00\x08\x00\x00\x00\x01es\x00\x02\x00\x06\x00\x00\x00\x00";
        let frames = vec![Frame::Ike(b"ike".to_vec()), Frame::Keepalive, Frame::Foreign, Frame::Ike(Vec::new())];
        assert_eq!(all(Deframer::responder(), octets), (frames.clone(), None));
        assert_eq!(all(Deframer::originator(), &octets[6..]), (frames, None));
        assert_eq!(frame(b"ike").unwrap(), octets[6..15]);
    }

    #[test]
    fn lengths_that_do_not_count_themselves_are_the_end() {
        for length in [0u8, 1] {
            let octets = [&frame(b"a").unwrap()[..], &[0, length], &frame(b"b").unwrap()].concat();
            let end = Some(StreamError::Length(length.into()));
            assert_eq!(all(Deframer::originator(), &octets), (vec![Frame::Ike(b"a".to_vec())], end));
        }
    }

    #[test]
    fn another_prefix_is_refused_at_its_first_octet() {
        assert_eq!(all(Deframer::responder(), b"IKETC"), (Vec::new(), None));
        for octets in [&b"G"[..], b"IKETCQ", b"IKEX", b"\0\x09", b"iketcp"] {
            assert_eq!(all(Deframer::responder(), octets), (Vec::new(), Some(StreamError::Prefix)), "{octets:?}");
        }
    }

    #[test]
    fn the_longest_message_fits_and_one_octet_more_does_not() {
        let longest = vec![7; MAX_FRAMED];
        let octets = frame(&longest).unwrap();
        assert_eq!(octets.len(), 65_535);
        assert_eq!(all(Deframer::originator(), &octets), (vec![Frame::Ike(longest)], None));
        assert_eq!(frame(&vec![7; MAX_FRAMED + 1]), None);
    }

    #[test]
    fn the_room_of_a_long_message_is_given_back() {
        let mut deframer = Deframer::originator();
        let octets = frame(&vec![7; MAX_FRAMED]).unwrap();
        octets.chunks(4096).for_each(|part| deframer.push(part));
        assert!(matches!(deframer.take(), Ok(Some(Frame::Ike(_)))) && deframer.buffer.capacity() > 60_000);
        deframer.push(&frame(b"ike").unwrap());
        assert_eq!(deframer.take(), Ok(Some(Frame::Ike(b"ike".to_vec()))));
        assert!(deframer.buffer.capacity() <= KEPT);
    }

    /// A length promises 64 KiB, and nothing follows.
    #[test]
    fn promises_take_no_room() {
        let mut deframer = Deframer::responder();
        deframer.push(b"IKETCP\xff\xff\0\0\0\0");
        assert_eq!(deframer.take(), Ok(None));
        assert!(deframer.is_within() && deframer.buffer.capacity() < 64);
        let mut frames = 0;
        for _ in 0..100 {
            deframer.push(&[9; 4096]);
            while let Ok(Some(_)) = deframer.take() {
                frames += 1;
            }
            assert!(deframer.buffer.len() <= 65_535 + 4096);
        }
        assert!(frames > 1);
    }
}
