//! What the kernel answers.

use std::io;

use super::HEADER;

const ERROR: u16 = 2;
const DONE: u16 = 3;

/// One message.
#[derive(Debug)]
pub(in crate::engine) enum Answer<'o> {
    /// It was done, or all has been told.
    Done,
    /// It was not done.
    Failed(io::Error),
    /// What only its subsystem can read.
    Told { kind: u16, body: &'o [u8] },
}

/// The messages in what was read, each with its number. What is malformed ends them.
pub(in crate::engine) struct Answers<'o>(pub(in crate::engine) &'o [u8]);

impl<'o> Iterator for Answers<'o> {
    type Item = (u32, Answer<'o>);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::try_from(u32_at(self.0, 0)?).ok()?;
        let message = self.0.get(..length).filter(|message| message.len() >= HEADER)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        let (kind, number, body) = (u16_at(message, 4)?, u32_at(message, 8)?, &message[HEADER..]);
        let answer = match (kind, octets(body, 0).map(i32::from_ne_bytes)) {
            (DONE, _) | (ERROR, Some(0)) => Answer::Done,
            (ERROR, Some(code)) => Answer::Failed(io::Error::from_raw_os_error(code.saturating_neg())),
            (kind, _) => Answer::Told { kind, body },
        };
        Some((number, answer))
    }
}

/// The attributes of a message, or of one of them.
pub(in crate::engine) struct Attributes<'o>(pub(in crate::engine) &'o [u8]);

impl<'o> Iterator for Attributes<'o> {
    type Item = (u16, &'o [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (length, kind) = (usize::from(u16_at(self.0, 0)?), u16_at(self.0, 2)?);
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

pub(in crate::engine) fn octets<const N: usize>(body: &[u8], at: usize) -> Option<[u8; N]> {
    body.get(at..at.checked_add(N)?)?.try_into().ok()
}

pub(in crate::engine) fn u16_at(body: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(octets(body, at)?))
}

pub(in crate::engine) fn u32_at(body: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(octets(body, at)?))
}
