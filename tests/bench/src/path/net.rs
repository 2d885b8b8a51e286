//! Two network namespaces on one cable, which end with this process.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{self, Command};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace.
pub(super) struct Namespace(File);

impl Namespace {
    fn new() -> Result<Self> {
        let made = thread::spawn(|| -> Result<File> {
            unshare(CloneFlags::CLONE_NEWNET).context("the kernel makes no network namespace")?;
            Ok(File::open("/proc/thread-self/ns/net")?)
        });
        made.join().map_err(|_| anyhow!("a thread panicked"))?.map(Self)
    }

    /// One that `ip netns` knows.
    pub(super) fn named(name: &str) -> Result<Self> {
        Ok(Self(File::open(Path::new("/run/netns").join(name))?))
    }

    /// Does something in a thread that is in the namespace, as are the threads and processes it starts.
    pub(super) fn within<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET)?;
                work()
            });
            inside.join().map_err(|_| anyhow!("a thread panicked"))?
        })
    }

    /// Runs `ip` there.
    pub(super) fn ip(&self, arguments: &str) -> Result<()> {
        self.run("ip", arguments).map(drop)
    }

    /// What the program says.
    fn run(&self, program: &str, arguments: &str) -> Result<String> {
        self.within(|| {
            let done = Command::new(program).args(arguments.split_whitespace()).output().context(program.to_owned())?;
            let said = String::from_utf8_lossy(&done.stderr);
            ensure!(done.status.success(), "{program} {arguments}: {}", said.trim());
            Ok(String::from_utf8_lossy(&done.stdout).into_owned())
        })
    }
}

/// Interface at either end of the cable.
pub(super) const WIRE: &str = "eth0";

/// Where packets come from, and where they go.
pub(super) struct Net {
    pub(super) from: Namespace,
    pub(super) to: Namespace,
}

impl Net {
    pub(super) fn new() -> Result<Self> {
        let net = Self { from: Namespace::new()?, to: Namespace::new()? };
        let peer = format!("/proc/{}/fd/{}", process::id(), net.to.0.as_raw_fd());
        net.from.ip(&format!("link add {WIRE} type veth peer name {WIRE} netns {peer}"))?;
        for (namespace, host) in [(&net.from, 1), (&net.to, 2)] {
            // Nothing else is to be on the cable, and packets of all senders are to be taken.
            namespace.run(
                "sysctl",
                "-qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1 \
                 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0",
            )?;
            namespace.ip("link set lo up")?;
            namespace.ip(&format!("addr add {}/24 dev {WIRE}", Ipv4Addr::new(10, 91, 0, host)))?;
            namespace.ip(&format!("link set {WIRE} up"))?;
        }
        net.wait()?;
        Ok(net)
    }

    /// A fresh cable drops what is sent until the kernel comes around to bringing it up, which may take a second.
    fn wait(&self) -> Result<()> {
        for _ in 0..200 {
            let shown = [&self.from, &self.to].map(|end| end.run("ip", &format!("link show {WIRE}")));
            if shown.into_iter().collect::<Result<Vec<_>>>()?.iter().all(|end| end.contains("state UP")) {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(50));
        }
        bail!("the cable does not come up")
    }
}
