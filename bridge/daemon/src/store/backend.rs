//! The file below redb, with a trial period: until the store has proved to be ours and whole, nothing is written.
//!
//! redb repairs a file that was not closed properly as soon as it opens it. A file that is damaged, foreign or sealed
//! under another master key must stay as it is, so writes are kept in memory until [`Backend::accept`].

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const BLOCK: u64 = 4096;

/// What would have been written.
#[derive(Debug)]
struct Trial {
    len: u64,
    blocks: BTreeMap<u64, Box<[u8]>>,
}

/// A locked file on trial; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Backend {
    file: Arc<File>,
    trial: Arc<Mutex<Option<Trial>>>,
}

impl Backend {
    /// Takes a file that is locked already.
    pub(super) fn new(file: File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        let trial = Trial { len, blocks: BTreeMap::new() };
        Ok(Self { file: Arc::new(file), trial: Arc::new(Mutex::new(Some(trial))) })
    }

    /// Ends the trial: what was held back is written, and from now on everything is.
    pub(super) fn accept(&self) -> io::Result<()> {
        let mut guard = self.trial();
        let Some(trial) = guard.as_ref() else { return Ok(()) };
        if trial.len != self.file.metadata()?.len() {
            self.file.set_len(trial.len)?;
        }
        for (block, bytes) in &trial.blocks {
            let at = block * BLOCK;
            let len = trial.len.saturating_sub(at).min(BLOCK);
            let len = usize::try_from(len).unwrap_or_default().min(bytes.len());
            self.file.write_all_at(&bytes[..len], at)?;
        }
        self.file.sync_all()?;
        *guard = None;
        Ok(())
    }

    fn trial(&self) -> MutexGuard<'_, Option<Trial>> {
        self.trial.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A block as the trial sees it.
    fn block(&self, trial: &Trial, block: u64) -> io::Result<Box<[u8]>> {
        if let Some(bytes) = trial.blocks.get(&block) {
            return Ok(bytes.clone());
        }
        let mut bytes = vec![0; usize::try_from(BLOCK).unwrap_or_default()].into_boxed_slice();
        let mut read = 0;
        while read < bytes.len() {
            match self.file.read_at(&mut bytes[read..], block * BLOCK + read as u64)? {
                0 => break,
                n => read += n,
            }
        }
        Ok(bytes)
    }
}

/// The blocks that a range touches: number of the block, range in it, range in the caller's buffer.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = offset + done as u64;
        let start = usize::try_from(at % BLOCK).unwrap_or_default();
        let take = (len - done).min(usize::try_from(BLOCK).unwrap_or_default() - start);
        let piece = (at / BLOCK, start..start + take, done..done + take);
        done += take;
        Some(piece)
    })
}

impl redb::StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        match self.trial().as_ref() {
            Some(trial) => Ok(trial.len),
            None => Ok(self.file.metadata()?.len()),
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let guard = self.trial();
        let Some(trial) = guard.as_ref() else { return self.file.read_exact_at(out, offset) };
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > trial.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if trial.blocks.is_empty() {
            return self.file.read_exact_at(out, offset);
        }
        for (block, from, to) in pieces(offset, out.len()) {
            out[to].copy_from_slice(&self.block(trial, block)?[from]);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        match self.trial().as_mut() {
            Some(trial) => {
                trial.len = len;
                Ok(())
            }
            None => self.file.set_len(len),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.trial().is_some() { Ok(()) } else { self.file.sync_data() }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut guard = self.trial();
        let Some(trial) = guard.as_mut() else { return self.file.write_all_at(data, offset) };
        for (block, to, from) in pieces(offset, data.len()) {
            let mut bytes = self.block(trial, block)?;
            bytes[to].copy_from_slice(&data[from]);
            trial.blocks.insert(block, bytes);
        }
        Ok(())
    }
}
