//! Two network namespaces with a cable.

use std::fs::File;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, setns};
use nix::unistd::Pid;

/// Interface at either end.
pub(crate) const DEVICE: &str = "eth0";

/// Gone when dropped.
pub(crate) struct Net {
    /// Where packets are sent.
    pub(crate) a: String,
    /// Where they are received.
    pub(crate) b: String,
}

impl Net {
    pub(crate) fn new() -> Result<Self> {
        let named = |end| format!("kf-wire-{}-{end}", std::process::id());
        let net = Self { a: named('a'), b: named('b') };
        let (a, b) = (&net.a, &net.b);
        ip(&format!("netns add {a}"))?;
        ip(&format!("netns add {b}"))?;
        ip(&format!("-n {a} link add {DEVICE} type veth peer name {DEVICE} netns {b}"))?;
        for (ns, host) in [(a, 1), (b, 2)] {
            ip(&format!("netns exec {ns} sysctl -qw net.ipv6.conf.all.disable_ipv6=1"))?;
            ip(&format!("-n {ns} addr add 10.9.0.{host}/24 dev {DEVICE}"))?;
            ip(&format!("-n {ns} link set {DEVICE} up"))?;
            ip(&format!("-n {ns} route add 224.0.0.0/4 dev {DEVICE}"))?;
        }
        Ok(net)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for ns in [&self.a, &self.b] {
            if let Err(error) = ip(&format!("netns del {ns}")) {
                eprintln!("{error:#}");
            }
        }
    }
}

/// Moves this thread into a namespace and onto a core, if there are as many.
pub(crate) fn enter(namespace: &str, core: usize) -> Result<()> {
    setns(File::open(format!("/run/netns/{namespace}"))?, CloneFlags::CLONE_NEWNET)?;
    let mut cores = CpuSet::new();
    cores.set(core % std::thread::available_parallelism()?)?;
    sched_setaffinity(Pid::from_raw(0), &cores).context("affinity")
}

fn ip(arguments: &str) -> Result<()> {
    let done = Command::new("ip").args(arguments.split_whitespace()).output().context("ip")?;
    ensure!(done.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}
