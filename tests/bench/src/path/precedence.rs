//! Precedence over what else runs on the machine, which is not to decide.

use std::fs;

use anyhow::{Context, Result};
use rustix::process::setpriority_process;

/// Where the scheduler divides time between sessions first, as it does on most desktops: the niceness of this session.
const SESSION: &str = "/proc/self/autogroup";

/// The highest niceness there is, for this thread and all threads and processes that it starts from now on, and for the
/// session until this is dropped.
pub(super) struct Precedence(());

impl Precedence {
    pub(super) fn take() -> Result<Self> {
        setpriority_process(None, -20).context("no higher priority")?;
        niceness_of_session(-20);
        Ok(Self(()))
    }
}

impl Drop for Precedence {
    fn drop(&mut self) {
        niceness_of_session(0);
    }
}

/// A kernel without such sessions has no such file.
fn niceness_of_session(niceness: i8) {
    if let Err(error) = fs::write(SESSION, niceness.to_string()) {
        eprintln!("{SESSION}: {error}; what else runs may disturb");
    }
}
