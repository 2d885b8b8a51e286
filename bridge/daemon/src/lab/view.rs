//! What is shown while the lab runs: lines, and on a terminal a board beneath them that is redrawn.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::apps::Ticks;
use super::checks::{Check, Skipped};
use super::report::{clip, wrap};
use super::sniffer::{Seen, Watching};

/// Columns used.
const WIDTH: usize = 80;

/// A member on the board.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// Name.
    pub name: String,
    /// Protocol, or what it is doing.
    pub protocol: String,
    /// Address.
    pub address: String,
    /// What its application last said.
    pub ticks: Arc<Ticks>,
}

/// What the board shows.
#[derive(Debug, Default)]
pub(super) struct Board {
    stage: String,
    rows: Vec<Row>,
    watching: Option<Watching>,
    /// Lines of the board that stand on the terminal now.
    drawn: usize,
}

/// Where progress goes.
#[derive(Debug)]
pub(super) struct View {
    screen: Arc<Screen>,
    drawer: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Screen {
    /// Standard output, or standard error when the output is for machines.
    to_stdout: bool,
    live: bool,
    colour: bool,
    started: Instant,
    board: Mutex<Board>,
    stop: AtomicBool,
}

impl View {
    /// Begins. With `json` standard output is left alone.
    pub(super) fn new(json: bool) -> anyhow::Result<Self> {
        let terminal = if json { io::stderr().is_terminal() } else { io::stdout().is_terminal() };
        let live = terminal && std::env::var_os("TERM").is_some_and(|t| t != "dumb");
        let screen = Screen {
            to_stdout: !json,
            live,
            colour: live && std::env::var_os("NO_COLOR").is_none(),
            started: Instant::now(),
            board: Mutex::default(),
            stop: AtomicBool::new(false),
        };
        let screen = Arc::new(screen);
        let s = screen.clone();
        let draw = move || s.draw_until_stopped();
        let drawer = if live { Some(thread::Builder::new().name("view".into()).spawn(draw)?) } else { None };
        Ok(Self { screen, drawer: Mutex::new(drawer) })
    }

    /// A stage begins.
    pub(super) fn stage(&self, text: &str) {
        self.screen.board().stage = text.to_owned();
        self.screen.say(&format!("[{:5.1} s] {text}", self.screen.started.elapsed().as_secs_f64()));
    }

    /// A line.
    pub(super) fn say(&self, text: &str) {
        self.screen.say(text);
    }

    /// A check was made.
    pub(super) fn check(&self, check: &Check) {
        let mark = if check.ok { "ok" } else { "FAILED" };
        self.screen.say(&format!("          {mark:6} {}: {}", check.name, check.detail));
    }

    /// A check was not made.
    pub(super) fn skipped(&self, skipped: &Skipped) {
        self.screen.say(&format!("          skipped {}: {}", skipped.name, skipped.reason));
    }

    /// Puts the members on the board.
    pub(super) fn show(&self, rows: Vec<Row>, watching: Watching) {
        let mut board = self.screen.board();
        board.rows = rows;
        board.watching = Some(watching);
    }

    /// Takes the board away.
    pub(super) fn finish(&self) {
        self.screen.stop.store(true, Ordering::Relaxed);
        if let Some(drawer) = self.drawer.lock().unwrap_or_else(PoisonError::into_inner).take() {
            drop(drawer.join());
        }
    }

    /// A member's protocol on the board changes.
    pub(super) fn relabel(&self, name: &str, protocol: &str) {
        self.screen
            .board()
            .rows
            .iter_mut()
            .filter(|r| r.name == name)
            .for_each(|r| protocol.clone_into(&mut r.protocol));
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Screen {
    fn board(&self) -> std::sync::MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody reads any more, perhaps: no reason to stop.
    fn write(&self, text: &str) {
        drop(match self.to_stdout {
            true => io::stdout().lock().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()),
            false => io::stderr().lock().write_all(text.as_bytes()),
        });
    }

    fn say(&self, line: &str) {
        let mut board = self.board();
        let erased = erase(board.drawn);
        board.drawn = 0;
        // Whoever reads lines by program wants them whole.
        let lines = if self.live { wrap(line, WIDTH, 17).join("\n") } else { line.to_owned() };
        self.write(&format!("{erased}{}\n", self.coloured(lines)));
    }

    fn coloured(&self, line: String) -> String {
        let paint = |word: &str, colour: &str| line.replacen(word, &format!("\x1b[{colour}m{word}\x1b[0m"), 1);
        match (self.colour, line.trim_start()) {
            (true, text) if text.starts_with("ok ") => paint("ok", "32"),
            (true, text) if text.starts_with("FAILED") => paint("FAILED", "31;1"),
            _ => line,
        }
    }

    fn draw_until_stopped(&self) {
        while !self.stop.load(Ordering::Relaxed) {
            self.draw();
            thread::sleep(Duration::from_millis(250));
        }
        let mut board = self.board();
        self.write(&erase(board.drawn));
        board.drawn = 0;
    }

    fn draw(&self) {
        let mut board = self.board();
        let seen = board.watching.as_ref().map(Watching::seen).unwrap_or_default();
        let lines = render(&board.stage, &board.rows, &seen, self.started.elapsed());
        let erased = erase(board.drawn);
        board.drawn = lines.len();
        self.write(&format!("{erased}{}\n", lines.join("\n")));
    }
}

/// Moves the cursor up over so many lines and clears all below.
fn erase(lines: usize) -> String {
    if lines == 0 { String::new() } else { format!("\x1b[{lines}A\x1b[J") }
}

fn render(stage: &str, rows: &[Row], seen: &Seen, elapsed: Duration) -> Vec<String> {
    let mut lines = vec!["-".repeat(WIDTH - 1)];
    if !rows.is_empty() {
        lines.push(format!("{:8} {:20} {:22} {:>12} {:>12}", "member", "protocol", "address", "sent", "received"));
    }
    // A fleet is not shown whole.
    for row in rows.iter().take(12) {
        let (sent, received) = (row.ticks.sent.load(Ordering::Relaxed), row.ticks.received.load(Ordering::Relaxed));
        lines.push(format!("{:8} {:20} {:22} {sent:>12} {received:>12}", row.name, row.protocol, row.address));
    }
    if rows.len() > 12 {
        lines.push(format!("and {} more", rows.len() - 12));
    }
    lines.push(format!("on the wire: {} ESP, {} IKE, {} in clear", seen.esp, seen.ike, seen.clear));
    lines.push(format!("{:4.0} s  {stage}", elapsed.as_secs_f64()));
    lines.iter().map(|l| clip(l, WIDTH - 1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_board_fits_a_terminal() {
        let row = |n: usize| Row {
            name: format!("gm{n}"),
            protocol: "gdoi, moving to gikev2".into(),
            address: "fd84:ffff:ffff:ffff::11".into(),
            ticks: Arc::default(),
        };
        for members in [0, 1, 50] {
            let rows: Vec<Row> = (0..members).map(row).collect();
            let lines = render(&"a long story ".repeat(20), &rows, &Seen::default(), Duration::from_secs(7));
            assert!(lines.iter().all(|l| l.chars().count() < WIDTH));
            assert!(lines.len() <= 18);
        }
    }

    #[test]
    fn nothing_drawn_is_nothing_erased() {
        assert_eq!(erase(0), "");
        assert_eq!(erase(3), "\x1b[3A\x1b[J");
    }
}
