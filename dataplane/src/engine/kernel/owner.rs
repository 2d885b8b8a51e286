//! Who has an engine's name in a network namespace.
//!
//! A locked file: the lock goes with the process, however that ends, and nobody can take it who cannot write to the directory. Names that
//! belong to the namespace itself would need no directory, but whoever is on the host may have them first: abstract addresses of Unix
//! sockets, ports, and the namespace's own file, which everybody may lock. The file is named after the namespace, whose number nobody else has
//! as long as it is there.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::unistd::geteuid;

use super::plan::Label;

/// May write to the directory, besides its owner.
const OTHERS: u32 = 0o022;

/// Takes a name in the network namespace of this thread, until the file is closed. Names are told apart as the states and policies of
/// their engines are.
pub(super) fn own(directory: &Path, name: &str) -> io::Result<File> {
    let fails = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", directory.display()));
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(fails)?;
    let found = fs::symlink_metadata(directory).map_err(fails)?;
    let ours = [0, geteuid().as_raw()].contains(&found.uid());
    if !found.is_dir() || !ours || found.mode() & OTHERS != 0 {
        return Err(fails(io::Error::new(io::ErrorKind::PermissionDenied, "others may write there")));
    }
    let namespace = fs::metadata("/proc/thread-self/ns/net")?.ino();
    let file = directory.join(format!("xfrm-{namespace}-{:08x}", Label::of(name).reqid));
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600).custom_flags(OFlag::O_NOFOLLOW.bits());
    let file = options.open(file).map_err(fails)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let taken = format!("another member here has a kernel engine named {name}");
            Err(io::Error::new(io::ErrorKind::AddrInUse, taken))
        }
        Err(TryLockError::Error(error)) => Err(fails(error)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::process::{Command, Stdio};
    use std::thread;

    use nix::sched::{CloneFlags, unshare};
    use tempfile::tempdir;

    use super::*;

    fn refusal(directory: &Path, name: &str) -> String {
        own(directory, name).err().unwrap().to_string()
    }

    #[test]
    fn a_name_is_one_engines_as_long_as_that_lasts() {
        let place = tempdir().unwrap();
        let directory = place.path().join("run/keyferry");
        let first = own(&directory, "kf0").unwrap();
        assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o777, 0o700);
        assert!(refusal(&directory, "kf0").contains("another member"));
        let _other = own(&directory, "kf1").unwrap();
        drop(first);
        let _next = own(&directory, "kf0").unwrap();
    }

    #[test]
    fn another_network_namespace_has_names_of_its_own() {
        if !geteuid().is_root() {
            println!("skipped: network namespaces need root");
            return;
        }
        let place = tempdir().unwrap();
        let _here = own(place.path(), "kf0").unwrap();
        let directory = place.path().to_owned();
        let there = thread::spawn(move || unshare(CloneFlags::CLONE_NEWNET).is_err() || own(&directory, "kf0").is_ok());
        assert!(there.join().unwrap());
    }

    /// The lock is another process', which is killed.
    #[test]
    fn a_name_is_free_when_its_owner_was_killed() {
        let place = tempdir().unwrap();
        drop(own(place.path(), "kf0").unwrap());
        let file = fs::read_dir(place.path()).unwrap().next().unwrap().unwrap().path();
        let mut command = Command::new("flock");
        command.arg("--no-fork").arg(&file).args(["sh", "-c", "echo locked; exec sleep 60"]).stdout(Stdio::piped());
        let Ok(mut owner) = command.spawn() else {
            println!("skipped: there is no program flock");
            return;
        };
        let mut said = [0; 7];
        io::Read::read_exact(&mut owner.stdout.take().unwrap(), &mut said).unwrap();
        assert!(refusal(place.path(), "kf0").contains("another member"));
        owner.kill().unwrap();
        owner.wait().unwrap();
        own(place.path(), "kf0").unwrap();
    }

    #[test]
    fn what_others_may_write_to_keeps_nobody_out() {
        let place = tempdir().unwrap();
        let (open, link) = (place.path().join("open"), place.path().join("link"));
        fs::create_dir(&open).unwrap();
        symlink(&open, &link).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        for directory in [&open, &link] {
            assert!(refusal(directory, "kf0").contains("others may write there"), "{}", directory.display());
        }
        fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
        drop(own(&open, "kf0").unwrap());
        let file = fs::read_dir(&open).unwrap().next().unwrap().unwrap().path();
        fs::remove_file(&file).unwrap();
        symlink("/dev/null", &file).unwrap();
        assert!(own(&open, "kf0").is_err(), "somebody else's file is not locked in its place");
    }
}
