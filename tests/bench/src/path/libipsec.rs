//! strongSwan's kernel-libipsec between two namespaces.

use std::io::{BufRead, BufReader, Read};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::Load;
use super::load::{Course, Flow, Receiver, Sender};
use super::meter::Meter;
use super::net::Namespace;
use crate::charon::SKIPPED;

/// A tunnel that stands as long as this does.
pub(super) struct Tunnel {
    script: Child,
    from: Namespace,
    to: Namespace,
    pub(super) meter: Meter,
}

impl Tunnel {
    /// Starts it, with a proposal for ESP in strongSwan's words; or why there is none.
    pub(super) fn start(proposal: &str) -> Result<Result<Self, String>> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("libipsec.sh");
        let mut script = Command::new(path)
            .arg(proposal)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("tests/bench/libipsec.sh does not start")?;
        let mut output = BufReader::new(script.stdout.take().context("its output is a pipe")?);
        let mut said = String::new();
        output.read_line(&mut said)?;
        let words: Vec<&str> = said.split_whitespace().collect();
        let ["ready", from, to, pids @ ..] = &words[..] else {
            output.read_to_string(&mut said)?;
            ensure!(script.wait()?.code() == Some(SKIPPED), "tests/bench/libipsec.sh failed: {said}");
            return Ok(Err(said.trim().to_owned()));
        };
        let pids: Vec<u32> = pids.iter().map(|pid| pid.parse()).collect::<Result<_, _>>()?;
        let (from, to) = (Namespace::named(from)?, Namespace::named(to)?);
        if pids.len() != 2 {
            bail!("two daemons were expected: {said}");
        }
        Ok(Ok(Self { script, from, to, meter: Meter::Processes(pids) }))
    }

    pub(super) fn course(&self, load: Load) -> Result<Course<'_>> {
        let (source, destination) = (Ipv4Addr::new(10, 93, 0, 1), Ipv4Addr::new(10, 94, 0, 1));
        let Load { octets, senders, handing } = load;
        let flow = Flow { octets, senders, source, destination, handing };
        let sender = self.from.within(|| Sender::new(flow, None))?;
        let receiver = self.to.within(|| Receiver::new(flow, None))?;
        Ok(Course { from: &self.from, to: &self.to, sender, receiver })
    }
}

impl Drop for Tunnel {
    /// The script ends when its input does, and takes everything along.
    fn drop(&mut self) {
        drop(self.script.stdin.take());
        if let Err(error) = self.script.wait() {
            eprintln!("tests/bench/libipsec.sh: {error}");
        }
    }
}
