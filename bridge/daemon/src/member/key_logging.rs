//! Keys of data SAs for Wireshark, for a while, where somebody asks for it over the control socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use keyferry_model::time::{Deadline, Now};

use super::joined::Joined;
use crate::control::KeyLogStatus;
use crate::keylog::FileKeyLog;

/// It never goes on for longer than this.
const LONGEST: Duration = Duration::from_secs(86_400);

/// The log that is on, if any is.
#[derive(Debug, Default)]
pub(super) struct KeyLogging(Option<(PathBuf, Duration)>);

impl KeyLogging {
    /// Logs keys of SAs installed from now on; says of how many groups.
    pub(super) fn start(
        &mut self,
        joined: &[Joined],
        directory: &Path,
        time: Duration,
        now: Now,
    ) -> Result<usize, String> {
        if time.is_zero() || time > LONGEST {
            return Err("keys are logged for a second to a day".to_owned());
        }
        let log = FileKeyLog::open_private(directory).map_err(|e| format!("{}: {e}", directory.display()))?;
        let takes = |joined: &&Joined| joined.engine().is_some_and(|e| e.set_key_log(Some(Box::new(log.clone()))));
        let groups = joined.iter().filter(takes).count();
        if groups == 0 {
            return Err("no group of this member has data SAs whose keys could be logged".to_owned());
        }
        self.0 = Some((directory.to_owned(), now.mono + time));
        Ok(groups)
    }

    /// Ends it; says of how many groups.
    pub(super) fn stop(&mut self, joined: &[Joined]) -> Result<usize, String> {
        self.0.take().ok_or("no keys are being logged by command")?;
        tracing::warn!("keys are no longer logged");
        Ok(joined.iter().filter(|joined| joined.engine().is_some_and(|engine| engine.set_key_log(None))).count())
    }

    /// Ends it when its time has come.
    pub(super) fn expire(&mut self, joined: &[Joined], now: Now) {
        if self.deadline().is_some_and(|due| due.at <= now.mono) && self.stop(joined).is_err() {
            tracing::debug!("no keys were logged");
        }
    }

    pub(super) fn deadline(&self) -> Option<Deadline> {
        self.0.as_ref().map(|(_, at)| Deadline { at: *at, reason: "keys are no longer logged" })
    }

    pub(super) fn status(&self, now: Now) -> Option<KeyLogStatus> {
        let (directory, end) = self.0.as_ref()?;
        Some(KeyLogStatus { directory: directory.clone(), remaining: end.saturating_sub(now.mono).as_secs() })
    }
}
