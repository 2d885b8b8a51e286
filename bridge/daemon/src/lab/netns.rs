//! Network namespaces: how the lab gets the right to make them, and a thread that lives in each.
//!
//! A namespace belongs to the thread that made it. What is to happen in it (sockets, netlink, child processes) is
//! handed to that thread as a closure. Nothing is named or mounted, so all of it is gone with the last process inside.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use anyhow::{Context, anyhow};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, getegid, geteuid};

type Task = Box<dyn FnOnce() + Send>;

/// How the lab came to its rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rights {
    /// As root.
    Root,
    /// As root of a user namespace of its own.
    UserNamespace,
}

/// Moves this process, which must have one thread only, into a network namespace of its own, and if it needs that, into
/// a user namespace. The error is a text for the user: what is wrong and what to do.
pub(super) fn isolate() -> Result<Rights, String> {
    check_tun(Path::new("/dev/net/tun"))?;
    let (uid, gid) = (geteuid(), getegid());
    let as_root = unshare(CloneFlags::CLONE_NEWNET);
    if as_root.is_ok() {
        return Ok(Rights::Root);
    }
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET).map_err(|e| explain_refusal(uid, e))?;
    map_ids(uid, gid).map_err(|e| format!("the kernel refuses the user namespace's ID map: {e}"))?;
    Ok(Rights::UserNamespace)
}

fn check_tun(device: &Path) -> Result<(), String> {
    let shown = device.display();
    let Err(error) = OpenOptions::new().read(true).write(true).open(device) else { return Ok(()) };
    Err(if error.kind() == io::ErrorKind::NotFound {
        format!(
            "{shown} is missing: load the module with `modprobe tun`, or in a container pass the device (docker: --device {shown})"
        )
    } else if error.kind() == io::ErrorKind::PermissionDenied {
        format!("{shown} may not be opened: run as root, or give it its usual mode with `chmod 0666 {shown}`")
    } else {
        format!("{shown} cannot be opened: {error}")
    })
}

fn map_ids(uid: Uid, gid: Gid) -> io::Result<()> {
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

fn explain_refusal(uid: Uid, error: Errno) -> String {
    let setting = |name: &str| fs::read_to_string(format!("/proc/sys/{name}")).map(|v| v.trim().to_owned()).ok();
    let mut text = format!("the kernel makes no network namespace for this process ({}).", error.desc());
    if setting("kernel/unprivileged_userns_clone").as_deref() == Some("0") {
        text.push_str(
            "\n  User namespaces are off: `sysctl kernel.unprivileged_userns_clone=1`, or run the lab as root.",
        );
    } else if setting("user/max_user_namespaces").as_deref() == Some("0") {
        text.push_str("\n  User namespaces are off: `sysctl user.max_user_namespaces=10000`, or run the lab as root.");
    } else if setting("kernel/apparmor_restrict_unprivileged_userns").as_deref() == Some("1") {
        text.push_str("\n  AppArmor restricts user namespaces: `sysctl kernel.apparmor_restrict_unprivileged_userns=0`, or run the lab as root.");
    } else if uid.is_root() {
        text.push_str("\n  Root here lacks CAP_SYS_ADMIN, as in most containers: start the container with it (docker: --cap-add SYS_ADMIN --cap-add NET_ADMIN --security-opt apparmor=unconfined --device /dev/net/tun).");
    } else {
        text.push_str("\n  Run the lab as root, or allow user namespaces.");
    }
    text
}

/// A network namespace and the thread in it.
#[derive(Debug)]
pub(super) struct Namespace {
    handle: File,
    tasks: Option<mpsc::Sender<Task>>,
    thread: Option<JoinHandle<()>>,
}

impl Namespace {
    /// Makes a new, empty namespace. `name` is the thread's.
    pub(super) fn new(name: &str) -> anyhow::Result<Self> {
        let (tasks, queue) = mpsc::channel::<Task>();
        let (report, made) = mpsc::channel();
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            let handle = unshare(CloneFlags::CLONE_NEWNET)
                .map_err(io::Error::from)
                .and_then(|()| File::open("/proc/thread-self/ns/net"));
            let go_on = handle.is_ok();
            if report.send(handle).is_ok() && go_on {
                queue.into_iter().for_each(|task| task());
            }
        })?;
        let handle = made.recv()?.with_context(|| format!("the kernel makes no network namespace for {name}"))?;
        Ok(Self { handle, tasks: Some(tasks), thread: Some(thread) })
    }

    /// Runs something inside, and waits for its result. Child processes it starts live there and, having this thread
    /// as their parent, can ask to die with it.
    pub(super) fn run<T: Send + 'static>(&self, task: impl FnOnce() -> T + Send + 'static) -> anyhow::Result<T> {
        let (report, result) = mpsc::channel();
        let task: Task = Box::new(move || drop(report.send(task())));
        let sent = self.tasks.as_ref().and_then(|tasks| tasks.send(task).ok());
        sent.ok_or_else(|| anyhow!("the thread of a namespace has ended"))?;
        result.recv().map_err(|_| anyhow!("a task in a namespace has panicked"))
    }

    /// The namespace's file descriptor, as netlink wants it. Valid as long as `self`.
    pub(super) fn raw_fd(&self) -> RawFd {
        self.handle.as_raw_fd()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.tasks = None;
        if let Some(thread) = self.thread.take() {
            // A panic inside has been reported by `run` already.
            drop(thread.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_tun_device_is_explained() {
        let text = check_tun(Path::new("/nonexistent/tun")).err().unwrap_or_default();
        assert!(text.contains("modprobe tun"), "{text}");
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let text = explain_refusal(Uid::from_raw(1000), Errno::EPERM);
        assert!(text.contains("root"), "{text}");
    }
}
