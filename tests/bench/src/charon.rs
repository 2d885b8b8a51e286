//! What an IKE SA costs strongSwan's charon as responder, in the same run and on the same machine.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use keyferry_model::id::Protocol;
use serde::Serialize;

use crate::Size;
use crate::registration::Registration;

/// One suite, as both do it. Times are in microseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    pub(crate) authentication: &'static str,
    pub(crate) group: String,
    /// charon's CPU time for an IKE SA.
    pub(crate) charon: f64,
    /// Ours for an IKE SA and a registration.
    pub(crate) ours: f64,
    /// Ours in terms of charon's.
    pub(crate) ratio: f64,
    /// The goal with x25519 is a fourth at most, but for RSA; with others there is none.
    pub(crate) meets_goal: Option<bool>,
}

/// What the script says when there is something that it cannot do without.
pub(crate) const SKIPPED: i32 = 77;

/// Measures charon, and puts our registrations with the same suites beside it. Without root or charon there is nothing to
/// compare with: the reason is told.
pub(crate) fn measure(size: Size, registrations: &[Registration]) -> Result<Result<Vec<Comparison>, String>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("charon.sh");
    let output = Command::new(script)
        .arg(size.pick(3, 200).to_string())
        .stdin(Stdio::null())
        .output()
        .context("tests/bench/charon.sh does not start")?;
    let said = String::from_utf8_lossy(&output.stdout);
    if output.status.code() == Some(SKIPPED) {
        return Ok(Err(said.trim().to_owned()));
    }
    ensure!(output.status.success(), "tests/bench/charon.sh failed: {said}");
    let suites = said.lines().map(suite).collect::<Result<Vec<_>>>()?;
    Ok(Ok(suites.into_iter().filter_map(|s| beside(s, registrations)).collect()))
}

/// A line of the script: proof, group, microseconds.
fn suite(line: &str) -> Result<(&'static str, String, f64)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [proof, group, time] = words[..] else { bail!("not a suite: {line}") };
    let authentication = match proof {
        "psk" => "pre-shared key",
        "rsa-2048" => "RSA-2048 signature",
        "ecdsa-256" => "ECDSA P-256 signature",
        other => bail!("an unknown proof: {other}"),
    };
    Ok((authentication, group.to_owned(), time.parse()?))
}

fn beside(
    (authentication, group, charon): (&'static str, String, f64),
    registrations: &[Registration],
) -> Option<Comparison> {
    let same =
        |r: &&Registration| r.protocol == Protocol::Gikev2 && r.authentication == authentication && r.group == group;
    let ours = registrations.iter().find(same)?.cost;
    let ratio = ours / charon;
    let meets_goal = (group == "x25519" && !authentication.starts_with("RSA")).then_some(ratio <= 0.25);
    Some(Comparison { authentication, group, charon, ours, ratio, meets_goal })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_script_are_read_and_refused() {
        assert_eq!(suite("ecdsa-256 x25519 1781").unwrap(), ("ECDSA P-256 signature", "x25519".to_owned(), 1781.0));
        assert!(suite("psk x25519").is_err());
        assert!(suite("eap x25519 5").is_err());
        assert!(suite("psk x25519 fast").is_err());
    }
}
