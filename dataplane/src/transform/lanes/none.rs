//! For processors that have no lanes here.

use super::hash::{Blocks, STATE_WORDS};

/// There are none.
#[derive(Clone, Copy)]
pub(super) enum Lanes {}

impl Lanes {
    pub(super) fn new() -> Option<Self> {
        None
    }

    pub(super) fn sha1(self, _: &mut [[u32; 16]; STATE_WORDS], _: Blocks<'_>) {
        match self {}
    }

    pub(super) fn sha256(self, _: &mut [[u32; 16]; STATE_WORDS], _: Blocks<'_>) {
        match self {}
    }

    pub(super) fn sha512(self, _: &mut [[u64; 8]; STATE_WORDS], _: Blocks<'_>) {
        match self {}
    }
}
