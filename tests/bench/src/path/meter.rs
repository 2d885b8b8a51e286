//! CPU time of threads, as the scheduler counts it.

use std::fs;
use std::path::Path;
use std::time::Duration;

/// Whose.
#[derive(Clone, Debug)]
pub(super) enum Meter {
    /// Threads of this process whose names begin so.
    Threads(&'static str),
    /// All threads of other processes.
    Processes(Vec<u32>),
}

impl Meter {
    /// What they have used so far.
    pub(super) fn read(&self) -> Duration {
        match self {
            Meter::Threads(prefix) => used(Path::new("/proc/self/task"), prefix),
            Meter::Processes(pids) => {
                pids.iter().map(|pid| used(&Path::new("/proc").join(pid.to_string()).join("task"), "")).sum()
            }
        }
    }
}

/// A thread may end meanwhile: it is left out.
fn used(tasks: &Path, prefix: &str) -> Duration {
    let threads = fs::read_dir(tasks).into_iter().flatten().flatten();
    let named = threads
        .filter(|thread| fs::read_to_string(thread.path().join("comm")).is_ok_and(|name| name.starts_with(prefix)));
    named.filter_map(|thread| on_processor(&fs::read_to_string(thread.path().join("schedstat")).ok()?)).sum()
}

/// The first number of `schedstat`, nanoseconds.
fn on_processor(schedstat: &str) -> Option<Duration> {
    schedstat.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::process;
    use std::thread;

    use super::*;

    #[test]
    fn work_of_the_named_threads_is_seen_and_no_other() {
        let meter = Meter::Threads("busy-");
        assert_eq!(meter.read(), Duration::ZERO);
        // A thread that has ended is counted no more, so the busy one itself looks.
        let busy = thread::Builder::new().name("busy-1".to_owned()).spawn(move || {
            while meter.read() < Duration::from_millis(5) {}
            (meter.read(), Meter::Processes(vec![process::id()]).read())
        });
        let (own, all) = busy.unwrap().join().unwrap();
        assert!(own >= Duration::from_millis(5) && all >= own, "{own:?} {all:?}");
        assert_eq!(on_processor("17 4 2"), Some(Duration::from_nanos(17)));
        assert_eq!(on_processor(""), None);
    }
}
