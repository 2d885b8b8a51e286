//! The lab's side of the applications: starts them and asks them.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};

use super::netns::Namespace;
use super::plan::{MemberPlan, Plan};
use super::process::Process;
use super::talk::{Count, Order, Reply, Report, Window};

/// An application that does not answer for this long is broken.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running application.
#[derive(Debug)]
pub(super) struct App {
    stdin: ChildStdin,
    replies: mpsc::Receiver<Reply>,
    ticks: Arc<Ticks>,
    _process: Process,
}

/// What an application last said about itself.
#[derive(Debug, Default)]
pub(super) struct Ticks {
    /// Packets sent.
    pub sent: AtomicU64,
    /// Packets received.
    pub received: AtomicU64,
}

impl App {
    /// Starts one and waits until its sockets are open. It sends by the routes, or on an interface if there is one.
    pub(super) fn start(
        place: &Namespace,
        plan: &Plan,
        member: &MemberPlan,
        rate: u32,
        send_on: Option<&str>,
        log: &Path,
    ) -> anyhow::Result<Self> {
        let options = [
            ("--sender", Some(member.number.to_string())),
            ("--group", Some(plan.traffic_socket().to_string())),
            ("--rate", Some(rate.to_string())),
            ("--send-on", send_on.map(str::to_owned)),
        ];
        let mut args = vec!["lab".to_owned(), "app".to_owned()];
        args.extend(options.into_iter().filter_map(|(name, value)| Some([name.to_owned(), value?])).flatten());
        let name = format!("the application of {}", member.name);
        let mut process = Process::start(place, &name, &args, log, true)?;
        let (stdin, stdout) = process.take_pipes().ok_or_else(|| anyhow!("no pipes to {name}"))?;
        let ticks = Arc::new(Ticks::default());
        let (replies, heard) = mpsc::channel();
        let t = ticks.clone();
        thread::Builder::new().name(member.name.clone()).spawn(move || hear(stdout, &t, &replies))?;
        let app = Self { stdin, replies: heard, ticks, _process: process };
        let first = app.next_reply().with_context(|| format!("{name} does not start, see {}", log.display()))?;
        if first != Reply::Ready {
            bail!("{name} said {first:?} at first");
        }
        Ok(app)
    }

    /// What it last said about itself.
    pub(super) fn ticks(&self) -> Arc<Ticks> {
        self.ticks.clone()
    }

    /// Begins, or goes on, sending; the sequence number it begins with.
    pub(super) fn begin(&mut self) -> anyhow::Result<u64> {
        self.mark_by(&Order::Start)
    }

    /// Stops sending; the first sequence number that was not sent.
    pub(super) fn stop(&mut self) -> anyhow::Result<u64> {
        self.mark_by(&Order::Stop)
    }

    /// The sequence number that is sent next.
    pub(super) fn mark(&mut self) -> anyhow::Result<u64> {
        self.mark_by(&Order::Mark)
    }

    fn mark_by(&mut self, order: &Order) -> anyhow::Result<u64> {
        let reply = self.ask(order)?;
        let Reply::Mark { next } = reply else { bail!("an application answered {order:?} with {reply:?}") };
        Ok(next)
    }

    /// How much of the windows arrived, in their order.
    pub(super) fn count(&mut self, windows: Vec<Window>) -> anyhow::Result<Vec<Count>> {
        let reply = self.ask(&Order::Count { windows })?;
        let Reply::Counted { counts } = reply else { bail!("an application answered a count with {reply:?}") };
        Ok(counts)
    }

    /// Everything it knows.
    pub(super) fn report(&mut self) -> anyhow::Result<Report> {
        let reply = self.ask(&Order::Report)?;
        let Reply::Report(report) = reply else {
            bail!("an application answered a request for its report with {reply:?}")
        };
        Ok(report)
    }

    fn ask(&mut self, order: &Order) -> anyhow::Result<Reply> {
        let mut line = serde_json::to_vec(order)?;
        line.push(b'\n');
        self.stdin.write_all(&line).and_then(|()| self.stdin.flush()).context("an application has ended")?;
        self.next_reply()
    }

    fn next_reply(&self) -> anyhow::Result<Reply> {
        self.replies.recv_timeout(PATIENCE).context("an application does not answer")
    }
}

fn hear(stdout: ChildStdout, ticks: &Ticks, replies: &mpsc::Sender<Reply>) {
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        match serde_json::from_str(&line) {
            Ok(Reply::Tick { sent, received }) => {
                ticks.sent.store(sent, Ordering::Relaxed);
                ticks.received.store(received, Ordering::Relaxed);
            }
            Ok(reply) => {
                if replies.send(reply).is_err() {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}
