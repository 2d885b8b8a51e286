//! The program nft, by which the kernel gets its packet filters and tells what they have counted. It gets a time limit, and runs beside whatever
//! else the member does.
//!
//! One that takes too long is killed. For each group there is never more than one: what was killed may still be busy in the
//! kernel, and must not put its rules into the place of later ones, nor leave ever more processes behind. No group waits for
//! another's.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Deserialize;
use serde::de::IgnoredAny;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::runtime;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::{Instant, timeout_at};

/// Where the program is; services seldom have the first two on their path.
const PROGRAMS: [&str; 3] = ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft"];

/// How long it may take. It is done in hundredths of a second, unless the machine or the kernel has other troubles.
const PATIENCE: Duration = Duration::from_secs(5);

/// Octets that are read of what it says.
const MOST: u64 = 64 * 1024;

/// What is seen of a table.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Look {
    /// Packets, by the counter's name.
    pub(super) counted: BTreeMap<String, u64>,
    /// Are there rules?
    pub(super) has_rules: bool,
}

/// The program, for whoever has a table of its own.
#[derive(Clone, Debug)]
pub(super) struct Nft {
    program: PathBuf,
    patience: Duration,
    /// Whoever holds it has it run.
    turn: Arc<Mutex<()>>,
}

impl Nft {
    /// Where it usually is.
    pub(super) fn find() -> Self {
        Self::at(PROGRAMS.into_iter().find(|program| Path::new(program).exists()).unwrap_or("nft"), PATIENCE)
    }

    /// Another one may take its place.
    pub(super) fn at(program: impl Into<PathBuf>, patience: Duration) -> Self {
        Self { program: program.into(), patience, turn: Arc::default() }
    }

    /// Has it take rules, as a whole or not at all.
    ///
    /// # Errors
    /// There is no such program, it refuses, or it does not end in time. Then nobody knows whether the rules stand.
    pub(super) async fn load(&self, rules: &str) -> anyhow::Result<()> {
        self.run(&["-f", "-"], rules).await.map(drop)
    }

    /// [`Self::load`] for where nothing can wait but the thread.
    pub(super) fn load_blocking(&self, rules: &str) -> anyhow::Result<()> {
        let runtime = || runtime::Builder::new_current_thread().enable_all().build().context("no runtime");
        let run = || runtime()?.block_on(self.load(rules));
        std::thread::scope(|scope| scope.spawn(run).join()).unwrap_or_else(|_| bail!("nft: its thread has panicked"))
    }

    /// What the counters of a table have counted, and whether a chain of it has rules. `None` if one of them is not there.
    ///
    /// # Errors
    /// As [`Self::load`], or it says what nobody understands.
    pub(super) async fn look(&self, table: &str, chain: &str) -> anyhow::Result<Option<Look>> {
        let commands = format!("list counters table inet {table}; list chain inet {table} {chain}");
        match self.run(&["-j", &commands], "").await {
            Ok(said) => read(&said).map(Some),
            Err(error) if error.downcast_ref::<Refused>().is_some_and(Refused::is_absence) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn run(&self, arguments: &[&str], input: &str) -> anyhow::Result<Vec<u8>> {
        let until = Instant::now() + self.patience;
        let Ok(turn) = timeout_at(until, Arc::clone(&self.turn).lock_owned()).await else {
            bail!("nft: the one before has not ended yet");
        };
        let mut child = Command::new(&self.program)
            .args(arguments)
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("the program nft does not start (package nftables)")?;
        let Ok((said, wrong, status)) = timeout_at(until, talk(&mut child, input)).await else {
            kill(child, turn);
            bail!("nft: it did not end within {} s and was killed", self.patience.as_secs_f32());
        };
        if !status.context("nft")?.success() {
            let wrong = String::from_utf8_lossy(&wrong);
            return Err(Refused(wrong.lines().next().unwrap_or("failed without a word").to_owned()).into());
        }
        Ok(said)
    }
}

/// Tells it something, and hears what it says and how it ends.
async fn talk(child: &mut Child, input: &str) -> (Vec<u8>, Vec<u8>, io::Result<ExitStatus>) {
    let (to, said, wrong) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let tell = async {
        if let Some(mut to) = to {
            // It says itself why it wants no more.
            drop(to.write_all(input.as_bytes()).await);
        }
    };
    let ((), said, wrong) = tokio::join!(tell, all(said), all(wrong));
    (said, wrong, child.wait().await)
}

/// Nobody has the next turn before it has ended indeed.
fn kill(mut child: Child, turn: OwnedMutexGuard<()>) {
    tokio::spawn(async move {
        if let Err(error) = child.kill().await {
            tracing::debug!(%error, "nft was not killed");
        }
        drop(turn);
    });
}

/// What it says when it will not.
#[derive(Debug, thiserror::Error)]
#[error("nft: {0}")]
struct Refused(String);

impl Refused {
    fn is_absence(&self) -> bool {
        self.0.contains("No such file or directory")
    }
}

/// What comes, up to a limit; who says more is not listened to.
async fn all(from: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut said = Vec::new();
    if let Some(from) = from {
        drop(from.take(MOST).read_to_end(&mut said).await);
    }
    said
}

/// What is listed, as libnftables-json(5) lays it out.
#[derive(Deserialize)]
struct Listing {
    nftables: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    counter: Option<Counter>,
    rule: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Counter {
    name: String,
    packets: u64,
}

/// What several commands have listed, each for itself.
fn read(listed: &[u8]) -> anyhow::Result<Look> {
    let listings = serde_json::Deserializer::from_slice(listed).into_iter().collect::<Result<Vec<Listing>, _>>();
    let listings = listings.context("nft: what it lists is not understood")?;
    if listings.is_empty() {
        bail!("nft: it lists nothing");
    }
    let mut look = Look::default();
    for item in listings.into_iter().flat_map(|listing| listing.nftables) {
        look.counted.extend(item.counter.map(|counter| (counter.name, counter.packets)));
        look.has_rules |= item.rule.is_some();
    }
    Ok(look)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn sh() -> Nft {
        Nft::at("/bin/sh", Duration::from_millis(300))
    }

    async fn shell(script: &str, input: &str) -> anyhow::Result<Vec<u8>> {
        sh().run(&["-c", script], input).await
    }

    #[tokio::test]
    async fn what_it_says_and_how_it_ends_is_told() {
        assert_eq!(shell("cat", "rules\n").await.unwrap(), b"rules\n");
        let refused = shell("echo first >&2; echo second >&2; exit 1", "rules").await.unwrap_err();
        assert_eq!(refused.to_string(), "nft: first");
        assert!(!refused.downcast_ref::<Refused>().unwrap().is_absence());
        assert!(shell("exit 1", "").await.unwrap_err().to_string().contains("without a word"));
        let absent = Nft::at("/nowhere/nft", PATIENCE).run(&[], "").await.unwrap_err();
        assert!(absent.to_string().contains("does not start") && absent.downcast_ref::<Refused>().is_none());
    }

    /// It takes no input, says nothing, and does not end; or it never ends to say something.
    #[tokio::test]
    async fn whatever_it_does_it_is_waited_for_no_longer_than_its_time() {
        let long = "x".repeat(1 << 20);
        for script in [
            "exec sleep 60",
            "while :; do echo x; done",
            "while :; do echo x >&2; done",
            "trap '' PIPE; exec cat /dev/zero",
        ] {
            let begun = Instant::now();
            let ended = shell(script, &long).await;
            assert!(begun.elapsed() < Duration::from_secs(5), "{script}");
            assert!(ended.is_err(), "{script}");
        }
    }

    /// Whatever was killed has ended before the next one begins; until then nobody has a turn.
    #[tokio::test]
    async fn there_is_never_more_than_one() {
        let place = tempfile::tempdir().unwrap();
        let pid = place.path().join("pid");
        let nft = sh();
        let hangs = format!("echo $$ > {}; exec sleep 60", pid.display());
        assert!(nft.run(&["-c", &hangs], "").await.unwrap_err().to_string().contains("did not end within 0.3 s"));
        let there = format!("test ! -e /proc/$(cat {})", pid.display());
        nft.run(&["-c", &there], "").await.unwrap();
        let turn = Arc::clone(&nft.turn).lock_owned().await;
        assert!(nft.run(&["-c", ""], "").await.unwrap_err().to_string().contains("has not ended yet"));
        drop(turn);
        nft.run(&["-c", ""], "").await.unwrap();
    }

    #[test]
    fn counters_are_read_by_name_and_rules_are_seen() {
        let listed = r#"{"nftables": [{"metainfo": {"version": "1.0.6", "json_schema_version": 1}},
            {"counter": {"family": "inet", "name": "arriving", "table": "keyferry-kf0", "handle": 1, "packets": 18446744073709551615, "bytes": 9}},
            {"counter": {"family": "inet", "name": "leaving", "table": "keyferry-kf0", "handle": 2, "packets": 0, "bytes": 0}}]}
            {"nftables": [{"chain": {"family": "inet", "table": "keyferry-kf0", "name": "stands", "handle": 11}}"#;
        let rule = r#"{"rule": {"family": "inet", "chain": "stands", "handle": 12, "expr": [{"return": null}]}}"#;
        let counted = BTreeMap::from([("arriving".to_owned(), u64::MAX), ("leaving".to_owned(), 0)]);
        for (more, has_rules) in [("]}".to_owned(), false), (format!(", {rule}]}}\n"), true)] {
            let wanted = Look { counted: counted.clone(), has_rules };
            assert_eq!(read(format!("{listed}{more}").as_bytes()).unwrap(), wanted);
        }
        for wrong in
            ["", "{}", "[]", r#"{"nftables": [{"counter": {"name": "arriving", "packets": -1}}]}"#, "{\"nftables\": ["]
        {
            assert!(read(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
