//! Child processes in namespaces, none of which outlives the lab.

use std::fs::File;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::{Pid, getppid};

use super::netns::Namespace;

/// Arguments of the wrapper through which all children start.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ExecArgs {
    /// The lab's process ID.
    #[arg(long)]
    parent: i32,
    /// Arguments of this same executable.
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Ties this process to its parent thread's life, then becomes another command of this executable.
pub(super) fn exec(args: &ExecArgs) -> anyhow::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL).context("asking to die with the lab")?;
    if getppid().as_raw() != args.parent {
        bail!("the lab has gone already");
    }
    SigSet::all().thread_unblock()?;
    Err(Command::new(std::env::current_exe()?).args(&args.command).exec()).context("cannot start")
}

/// A running child; killed and reaped when dropped.
#[derive(Debug)]
pub(super) struct Process {
    name: String,
    child: Child,
}

impl Process {
    /// Starts this executable with `args` in a namespace. Standard error goes to `log` (appended); standard input and
    /// output are pipes when `piped`, nothing otherwise.
    pub(super) fn start(
        place: &Namespace,
        name: &str,
        args: &[String],
        log: &Path,
        piped: bool,
    ) -> anyhow::Result<Self> {
        let errors = File::options().create(true).append(true).open(log).with_context(|| log.display().to_string())?;
        let mut command = Command::new(std::env::current_exe()?);
        let stdio = || if piped { Stdio::piped() } else { Stdio::null() };
        // In a process group of its own, so that a Ctrl-C reaches the lab alone and it ends its children in order.
        command.args(["lab", "exec", "--parent", &std::process::id().to_string(), "--"]);
        command.args(args).stdin(stdio()).stdout(stdio()).stderr(errors).process_group(0);
        // The user's environment is for the user's own gateways and members.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"KEYFERRY__")) {
            command.env_remove(name);
        }
        let child = place.run(move || command.spawn())?.with_context(|| format!("starting {name}"))?;
        Ok(Self { name: name.to_owned(), child })
    }

    /// Its pipes, once.
    pub(super) fn take_pipes(&mut self) -> Option<(ChildStdin, ChildStdout)> {
        Some((self.child.stdin.take()?, self.child.stdout.take()?))
    }

    /// How it ended, if it has.
    pub(super) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Kills it with SIGKILL and waits until it is gone.
    pub(super) fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        let status = self.child.wait()?;
        if status.signal() != Some(Signal::SIGKILL as i32) {
            bail!("{} was gone before it could be killed: {status}", self.name);
        }
        Ok(())
    }

    /// Its process ID.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to end.
    pub(super) fn ask_to_end(&mut self) {
        if let (Ok(pid), Ok(None)) = (i32::try_from(self.child.id()), self.child.try_wait()) {
            // Not reaped yet, so the number is still its own.
            kill(Pid::from_raw(pid), Signal::SIGTERM).ok();
        }
    }

    /// Gives it some time to end.
    pub(super) fn wait(&mut self, limit: Duration) {
        let until = Instant::now() + limit;
        while Instant::now() < until && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
