//! `keyferry lab`: one gateway, members of both protocols, one multicast group, on this machine and for real.
//!
//! Gateway and members are this same executable, started as `serve` and `member` with configurations as a user would
//! write them, each in a network namespace of its own on one bridge. Beside each member an application sends and
//! receives plain UDP multicast, and a sniffer listens on the bridge. The scenario rekeys, crashes, moves and evicts,
//! and checks what comes of it:
//!
//! ```text
//!            gateway                gm1                    gm2 ...
//!          +----------+      +----------------+     +----------------+
//!          |  serve   |      |  app <-> kf0   |     |  app <-> kf0   |      each box: a namespace
//!          |          |      |         |      |     |         |      |
//!          |   eth0   |      |  member + eth0 |     |  member + eth0 |
//!          +----|-----+      +----------|-----+     +----------|-----+
//!               +----------- segment (bridge) -----------------+------ sniffer
//! ```

mod app;
mod apps;
mod args;
mod checks;
mod control;
mod files;
mod findings;
mod fleet;
mod frame;
mod keys;
mod link;
mod netns;
mod patience;
mod pcap;
mod plan;
mod process;
mod report;
mod run;
mod scenario;
mod sniffer;
mod talk;
mod tally;
mod topology;
mod view;

use std::process::ExitCode;

pub use args::{Args, BreakOption};

/// Runs the lab, or what the lab started of itself. To be called before this process has a second thread.
///
/// The exit code is 0 when every check holds, 1 when one does not, 2 when the lab could not run, 130 when it was
/// interrupted.
///
/// # Errors
/// What the lab started of itself could not do its work.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match &args.role {
        Some(args::Role::App(app)) => app::run(app).map(|()| ExitCode::SUCCESS),
        Some(args::Role::Exec(exec)) => process::exec(exec).map(|()| ExitCode::SUCCESS),
        None => Ok(run::run(&args)),
    }
}
