//! Configuration: a TOML file, then the environment, checked as a whole before anything starts.
//!
//! ```text
//! file + KEYFERRY__SECTION__KEY --> Document (where each key stands)
//!                               --> Section by section --> GatewayConfig | MemberConfig
//!                               --> Problems: file, line, what, remedy; all of them at once
//! ```
//!
//! `docs/configuration.md` describes every key.

mod certificates;
mod checks;
mod document;
mod gateway;
mod group;
mod ike2;
mod life;
mod member;
mod peers;
mod phase1;
mod problem;
mod redirect;
mod rules;
mod secrets;
mod section;
mod sizes;
mod streams;
mod trust;
mod values;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

pub use certificates::{Certificates, Doubt};
pub use document::{ENV_PREFIX, Variables, environment};
pub use gateway::{GatewayConfig, RekeySending};
pub use group::{GdoiPlan, Gikev2Plan, GroupPlan, Signer};
pub use life::GatewayLife;
pub use member::{EngineChoice, GuardChoice, MemberConfig, MemberGroup};
pub use phase1::GatewayPhase1;
pub use problem::{Problem, Problems, Severity};
pub use trust::{Stamp, TrustFiles};
pub(crate) use values::{IpProtocol, Network};

use document::Document;
use section::{Reading, Section};
use values::LoopbackEndpoint;

/// Where a gateway's control socket is unless configured otherwise.
pub const GATEWAY_SOCKET: &str = "/run/keyferry/gateway.sock";

/// Where a member's control socket is unless configured otherwise.
pub const MEMBER_SOCKET: &str = "/run/keyferry/member.sock";

/// What a configuration file is for.
#[derive(Debug)]
pub enum Role {
    /// `keyferry serve`.
    Gateway(Box<GatewayConfig>),
    /// `keyferry member`.
    Member(Box<MemberConfig>),
}

/// A configuration that can be used, with what is worth a look.
#[derive(Debug)]
pub struct Checked<T> {
    /// The configuration.
    pub config: T,
    /// Warnings.
    pub warnings: Vec<Problem>,
}

/// Reads and checks a configuration for `keyferry serve`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn gateway(file: &Path, variables: Variables) -> Result<Checked<GatewayConfig>, Problems> {
    load(file, variables, "member", "keyferry member", gateway::read)
}

/// Reads and checks a configuration for `keyferry member`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn member(file: &Path, variables: Variables) -> Result<Checked<MemberConfig>, Problems> {
    load(file, variables, "gateway", "keyferry serve", member::read)
}

/// Reads and checks a configuration of either kind: one with a `[member]` table is a member's.
///
/// # Errors
/// Everything that is wrong with it.
pub fn check(file: &Path, variables: Variables) -> Result<Checked<Role>, Problems> {
    let (document, _) = Document::read(file, Variables::new())?;
    if document.has("member") {
        let Checked { config, warnings } = member(file, variables)?;
        Ok(Checked { config: Role::Member(Box::new(config)), warnings })
    } else {
        let Checked { config, warnings } = gateway(file, variables)?;
        Ok(Checked { config: Role::Gateway(Box::new(config)), warnings })
    }
}

fn load<T>(
    file: &Path,
    variables: Variables,
    other: &'static str,
    other_command: &str,
    read: impl FnOnce(&mut Section<'_>) -> Option<T>,
) -> Result<Checked<T>, Problems> {
    let (document, values) = Document::read(file, variables)?;
    let reading = Reading { document, problems: RefCell::new(Vec::new()) };
    let mut root = Section::root(&reading, values);
    if root.document().has(other) {
        let what = format!("a [{other}] table makes no sense here");
        root.error(other, what, format!("use the file with {other_command}, or remove the table"));
    }
    root.ignore(other);
    let config = read(&mut root);
    root.finish();
    let mut problems = reading.problems.into_inner();
    problems.sort_by_key(|p| p.line);
    let failed = problems.iter().any(|p| p.severity == Severity::Error);
    match config.filter(|_| !failed) {
        Some(config) => Ok(Checked { config, warnings: problems }),
        None => Err(Problems(problems)),
    }
}

/// `[control]`: the control socket, and where metrics are offered.
fn control(root: &mut Section<'_>, default: &str) -> (PathBuf, Option<SocketAddr>) {
    let Some(mut control) = root.section("control") else { return (PathBuf::from(default), None) };
    let socket = control.path("socket").unwrap_or_else(|| PathBuf::from(default));
    let metrics = control.parsed("metrics", "127.0.0.1:9848").map(|LoopbackEndpoint(at)| at);
    if metrics.is_some_and(|at| !at.ip().is_loopback()) {
        let what = "lets everybody who reaches this address read names of groups and numbers of members";
        control.warning("metrics", what, "a port alone is at the loopback address; or a packet filter in front of it");
    }
    control.finish();
    (socket, metrics)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
