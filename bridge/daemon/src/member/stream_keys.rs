//! Keys of IEC 61850 streams for whoever protects their messages: a file that only this user may read, replaced as a whole
//! with every change.
//!
//! ```text
//!  key server --> machine --StreamUpdate--> StreamKeys --rename(2)--> FILE --inotify--> GOOSE or Sampled Values stack
//! ```

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use keyferry_crypto::Secret;
use keyferry_model::time::{Deadline, Now};
use keyferry_model::update::{NewStream, Removal, SenderIds, StreamUpdate};
use serde::{Serialize, Serializer};

use crate::control::StreamStatus;

/// Version of the file's format.
const VERSION: u32 = 1;

/// A stream whose keys are good for something. Times are wall clock.
struct Held {
    stream: NewStream,
    not_before: Duration,
    not_after: Option<Duration>,
}

/// The streams of a member, and where their keys go.
pub(super) struct StreamKeys {
    path: Option<PathBuf>,
    group: String,
    /// Hand on streams that nothing protects?
    unprotected: bool,
    /// Oldest first.
    held: Vec<Held>,
    sender_ids: Option<SenderIds>,
    problem: Option<String>,
}

impl StreamKeys {
    pub(super) fn new(path: Option<PathBuf>, group: String, unprotected: bool) -> Self {
        Self { path, group, unprotected, held: Vec::new(), sender_ids: None, problem: None }
    }

    /// Why streams are without keys, if they are.
    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// The streams that there are keys for, oldest first.
    pub(super) fn status(&self, now: Now) -> Vec<StreamStatus> {
        let status = |held: &Held| StreamStatus {
            spi: format!("0x{:08x}", held.stream.spi),
            name: held.stream.name.to_string(),
            encryption: held.stream.protection.encryption().name().to_owned(),
            authentication: held.stream.protection.authentication().name().to_owned(),
            active: held.not_before <= now.wall,
            remaining: held.not_after.map(|at| at.saturating_sub(now.wall).as_secs()),
            delivered: held.stream.delivered,
        };
        self.held.iter().map(status).collect()
    }

    /// Takes up changes and hands them on.
    pub(super) fn apply(&mut self, update: StreamUpdate, now: Now) {
        let StreamUpdate { install, remove, deactivation_delay, sender_ids } = update;
        if self.path.is_none() && install.is_empty() {
            // Sender IDs of a newcomer, who does not know yet what the group protects.
            return;
        }
        if self.path.is_none() {
            return self.complain(format!(
                "the group has {} IEC 61850 streams, but nobody takes their keys: set stream_keys in [member]",
                install.len()
            ));
        }
        self.problem = None;
        let end = now.wall + deactivation_delay;
        for held in &mut self.held {
            let goes = match &remove {
                Removal::All => true,
                Removal::Spis(spis) => spis.contains(&held.stream.spi),
            };
            if goes {
                held.not_after = Some(held.not_after.map_or(end, |at| at.min(end)));
            }
        }
        self.held.retain(|held| install.iter().all(|new| new.spi != held.stream.spi));
        for stream in install {
            if stream.protection.is_none() && !self.unprotected {
                self.complain(format!(
                    "stream {} is not protected by anything and is left out: danger_unprotected_streams takes it",
                    stream.name
                ));
                continue;
            }
            let not_after = stream.lifetime.map(|l| now.wall + l);
            self.held.push(Held { not_before: now.wall + stream.activation_delay, not_after, stream });
        }
        if sender_ids.is_some() {
            self.sender_ids = sender_ids;
        }
        self.drop_ended(now);
        self.hand_on(now);
    }

    /// Drops keys whose time has come.
    pub(super) fn expire(&mut self, now: Now) {
        if self.drop_ended(now) {
            self.hand_on(now);
        }
    }

    /// When [`expire`](Self::expire) has something to do.
    pub(super) fn deadline(&self, now: Now) -> Option<Deadline> {
        let at = self.held.iter().filter_map(|h| h.not_after).min()?;
        Some(Deadline { at: now.mono_of(at), reason: "keys of a stream end" })
    }

    /// All keys are gone.
    pub(super) fn flush(&mut self, now: Now) {
        self.sender_ids = None;
        self.problem = None;
        if !self.held.is_empty() {
            self.held.clear();
            self.hand_on(now);
        }
    }

    /// The member ends, and nobody would renew the keys.
    pub(super) fn end(&mut self) {
        self.held.clear();
        if let Some(path) = &self.path
            && let Err(error) = fs::remove_file(path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "keys of streams stay behind");
        }
    }

    fn drop_ended(&mut self, now: Now) -> bool {
        let before = self.held.len();
        self.held.retain(|held| held.not_after.is_none_or(|at| at > now.wall));
        self.held.len() < before
    }

    fn complain(&mut self, problem: String) {
        tracing::error!("{problem}");
        self.problem = Some(problem);
    }

    fn hand_on(&mut self, now: Now) {
        let Some(path) = self.path.clone() else { return };
        let document = Document {
            version: VERSION,
            group: &self.group,
            written: now.wall.as_secs(),
            sender_ids: self.sender_ids.as_ref().map(|s| SenderIdsView { bits: s.bits, ids: &s.ids }),
            streams: self.held.iter().map(StreamView::of).collect(),
        };
        match encode(&document).and_then(|text| replace(&path, text.expose())) {
            Ok(()) => tracing::info!(path = %path.display(), streams = self.held.len(), "keys of streams handed on"),
            Err(error) => self.complain(format!("{}: keys of streams cannot be handed on: {error}", path.display())),
        }
    }
}

/// The file, as `docs/configuration.md` describes it.
#[derive(Serialize)]
struct Document<'a> {
    version: u32,
    group: &'a str,
    written: u64,
    sender_ids: Option<SenderIdsView<'a>>,
    streams: Vec<StreamView<'a>>,
}

#[derive(Serialize)]
struct SenderIdsView<'a> {
    bits: u8,
    ids: &'a [u32],
}

#[derive(Serialize)]
struct StreamView<'a> {
    oid: String,
    payload: Hex<'a>,
    spi: u32,
    encryption: &'static str,
    encryption_key: Hex<'a>,
    encryption_salt: Hex<'a>,
    authentication: &'static str,
    authentication_key: Hex<'a>,
    authentication_salt: Hex<'a>,
    not_before: u64,
    not_after: Option<u64>,
    delivered_percent: Option<u8>,
}

impl<'a> StreamView<'a> {
    fn of(held: &'a Held) -> Self {
        let stream = &held.stream;
        let (encryption, authentication) = (stream.protection.encryption(), stream.protection.authentication());
        let (left, right) = stream.keymat.expose().split_at(stream.protection.key_lens().0);
        let (encryption_key, encryption_salt) = left.split_at(encryption.key_len());
        let (authentication_key, authentication_salt) = right.split_at(authentication.key_len());
        Self {
            oid: stream.name.oid.to_string(),
            payload: Hex(&stream.name.payload),
            spi: stream.spi,
            encryption: encryption.name(),
            encryption_key: Hex(encryption_key),
            encryption_salt: Hex(encryption_salt),
            authentication: authentication.name(),
            authentication_key: Hex(authentication_key),
            authentication_salt: Hex(authentication_salt),
            // What waits is never used too early; nothing is used too long.
            not_before: if stream.activation_delay.is_zero() {
                held.not_before.as_secs()
            } else {
                u64::try_from(held.not_before.as_millis().div_ceil(1000)).unwrap_or(u64::MAX)
            },
            not_after: held.not_after.map(|at| at.as_secs()),
            delivered_percent: stream.delivered,
        }
    }
}

/// Octets in hexadecimal, written digit by digit so that no copy of a key is left behind.
struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl Serialize for Hex<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Counts what is written.
struct Count(usize);

impl Write for Count {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.0 += octets.len();
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The text, in a buffer that is measured first: one that grew would leave keys behind.
fn encode(document: &Document<'_>) -> io::Result<Secret> {
    let mut count = Count(0);
    serde_json::to_writer_pretty(&mut count, document)?;
    let mut text = Vec::with_capacity(count.0 + 1);
    serde_json::to_writer_pretty(&mut text, document)?;
    text.push(b'\n');
    Ok(Secret::new(text))
}

/// Puts a whole new file in the place of the old one, readable for this user alone.
fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::other("it is no name of a file"))?;
    let mut fresh = name.to_owned();
    fresh.push(".new");
    let fresh = path.with_file_name(fresh);
    // What a crash has left, or somebody else has put there.
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    let written = file.write_all(text).and_then(|()| file.sync_data()).and_then(|()| fs::rename(&fresh, path));
    if written.is_err() {
        let _ = fs::remove_file(&fresh);
    }
    written
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
