//! What the lab says in the end: a summary for people, or one JSON object.

use std::fmt::Write;
use std::net::SocketAddr;

use keyferry_model::id::{Identity, Protocol};
use keyferry_model::view::{MemberState, RekeyView};
use serde::Serialize;

use super::checks::{Check, Skipped};

/// Everything the lab found out.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Summary {
    /// Does every check hold?
    pub ok: bool,
    /// All that were made.
    pub checks: Vec<Check>,
    /// Those that were not, if any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<Skipped>,
    /// Members.
    pub members: Vec<MemberSummary>,
    /// Epochs, oldest first.
    pub epochs: Vec<EpochSummary>,
    /// Rekeys, oldest first.
    pub rekeys: Vec<RekeyView>,
    /// The applications' traffic.
    pub traffic: Traffic,
}

/// A member in the end.
#[derive(Clone, Debug, Serialize)]
pub(super) struct MemberSummary {
    /// Name for people.
    pub name: String,
    /// Identity.
    pub identity: Identity,
    /// Protocol of its last registration.
    pub protocol: Protocol,
    /// Protocols before that.
    pub history: Vec<Protocol>,
    /// State at the gateway; none if the gateway does not know it.
    pub state: Option<MemberState>,
    /// Address of its last registration.
    pub address: Option<SocketAddr>,
    /// Registrations.
    pub registrations: u64,
    /// Sender IDs of its last registration.
    pub sender_ids: Vec<u32>,
    /// Rekeys it acknowledged.
    pub acknowledged: u64,
    /// Packets its application sent.
    pub sent: u64,
    /// Packets its application received.
    pub received: u64,
    /// Packets its application should have received and did not.
    pub lost: u64,
    /// Packets its application received again.
    pub duplicates: u64,
    /// Longest time of a packet from application to application, microseconds.
    pub worst_us: u64,
}

/// An epoch and what was seen of it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct EpochSummary {
    /// Number.
    pub number: u64,
    /// SPIs in hexadecimal.
    pub spis: Vec<String>,
    /// ESP packets under these SPIs on the wire.
    pub packets: u64,
}

/// The applications' traffic.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Traffic {
    /// Packets sent to the group.
    pub sent: u64,
    /// Packets received, by all receivers together.
    pub received: u64,
    /// Packets that a receiver should have got and did not, by all receivers together.
    pub lost: u64,
    /// Packets of the group that were seen in clear.
    pub cleartext_on_wire: u64,
}

impl Summary {
    /// The summary for people, in 80 columns.
    pub(super) fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "\n{:7} {:14} {:11} {:>5} {:>8} {:>8} {:>6} {:>7}",
            "member", "protocol", "state", "ids", "sent", "received", "lost", "acks"
        )?;
        for m in &self.members {
            let way: Vec<&str> = m.history.iter().chain([&m.protocol]).map(|p| p.as_str()).collect();
            let state = match m.state {
                Some(MemberState::Active) => "active",
                Some(MemberState::Left) => "left",
                Some(MemberState::Evicted) => "evicted",
                None => "unknown",
            };
            // Not every member of G-IKEv2 acknowledges.
            let can = way.contains(&"gdoi") || m.acknowledged > 0;
            let acks = if can { m.acknowledged.to_string() } else { "-".to_owned() };
            let ids: Vec<String> = m.sender_ids.iter().map(ToString::to_string).collect();
            writeln!(
                out,
                "{:7} {:14} {:11} {:>5} {:>8} {:>8} {:>6} {:>7}",
                m.name,
                way.join(">"),
                state,
                ids.join(","),
                m.sent,
                m.received,
                m.lost,
                acks
            )?;
        }
        writeln!(out, "\n{:7} {:14} {:>20}", "epoch", "SPI", "ESP packets on wire")?;
        for e in &self.epochs {
            writeln!(out, "{:<7} {:14} {:>20}", e.number, e.spis.join(","), e.packets)?;
        }
        writeln!(out, "\n{:7} {:14} {:11} {:>8}   latency", "rekey", "reason", "epoch", "acks")?;
        for r in &self.rekeys {
            let reason =
                serde_json::to_value(r.reason).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
            let latencies: Vec<String> = r.acks.iter().map(|a| format!("{} ms", a.latency_ms)).collect();
            let epoch = r.epoch.map(|e| e.to_string()).unwrap_or_default();
            let acks = format!("{}/{}", r.acknowledged, r.expected);
            writeln!(out, "{:<7} {:14} {:11} {:>8}   {}", r.id, reason, epoch, acks, clip(&latencies.join(", "), 33))?;
        }
        let t = self.traffic;
        writeln!(
            out,
            "\ntraffic: {} packets sent, {} received, {} lost, {} in clear on the wire",
            t.sent, t.received, t.lost, t.cleartext_on_wire
        )?;
        let failed: Vec<&str> = self.checks.iter().filter(|c| !c.ok).map(|c| c.name.as_str()).collect();
        let verdict = match failed.is_empty() {
            true => format!("all {} checks hold", self.checks.len()),
            false => format!("{} of {} checks FAILED: {}", failed.len(), self.checks.len(), failed.join(", ")),
        };
        wrap(&verdict, 80, 2).iter().try_for_each(|line| writeln!(out, "{line}"))
    }
}

/// The text in lines of at most so many characters, broken at spaces, all but the first indented. A word that is longer
/// than a line stays whole.
pub(super) fn wrap(text: &str, width: usize, indent: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut rest = text.to_owned();
    while let Some((end, _)) = rest.char_indices().nth(width) {
        let lead = rest.len() - rest.trim_start().len();
        let fits =
            rest[lead..].char_indices().map(|(at, c)| (at + lead, c)).filter(|(_, c)| *c == ' ').map(|(at, _)| at);
        let (within, beyond): (Vec<usize>, Vec<usize>) = fits.partition(|at| *at <= end);
        let Some(at) = within.last().or(beyond.first()).copied() else { break };
        lines.push(rest[..at].to_owned());
        rest = format!("{}{}", " ".repeat(indent), rest[at..].trim_start());
    }
    lines.push(rest);
    lines
}

/// The text, cut to a number of characters.
pub(super) fn clip(text: &str, width: usize) -> String {
    match text.char_indices().nth(width) {
        None => text.to_owned(),
        Some(_) => text.chars().take(width.saturating_sub(1)).chain(['…']).collect(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use keyferry_model::plan::RekeyReason;
    use keyferry_model::view::AckView;

    use super::*;

    fn summary(ok: bool) -> Summary {
        let ack = AckView { identity: "10.84.0.11".parse().unwrap(), protocol: Protocol::Gdoi, latency_ms: 1234 };
        Summary {
            ok,
            checks: vec![Check { name: "wire".into(), ok, detail: "fine".into() }],
            skipped: Vec::new(),
            members: vec![MemberSummary {
                name: "gm1".into(),
                identity: "gm1.lab.example".parse().unwrap(),
                protocol: Protocol::Gikev2,
                history: vec![Protocol::Gdoi],
                state: Some(MemberState::Active),
                address: Some("10.84.0.11:848".parse().unwrap()),
                registrations: 2,
                sender_ids: vec![1],
                acknowledged: 3,
                sent: 1,
                received: 2,
                lost: 0,
                duplicates: 0,
                worst_us: 9,
            }],
            epochs: Vec::new(),
            rekeys: vec![RekeyView {
                id: 1,
                reason: RekeyReason::Lifetime,
                at: 0,
                epoch: Some(2),
                expected: 9,
                acknowledged: 9,
                missing: Vec::new(),
                acks: vec![ack; 9],
            }],
            traffic: Traffic { sent: 1, received: 2, lost: 0, cleartext_on_wire: 0 },
        }
    }

    #[test]
    fn json_has_the_promised_keys() {
        let value = serde_json::to_value(summary(true)).unwrap();
        let keys: Vec<&String> = value.as_object().unwrap().keys().collect();
        assert_eq!(keys.len(), 6);
        for key in ["ok", "checks", "members", "epochs", "rekeys", "traffic"] {
            assert!(keys.iter().any(|k| *k == key), "{key}");
        }
        assert_eq!(value["checks"][0], serde_json::json!({"name": "wire", "ok": true, "detail": "fine"}));
        assert_eq!(value["traffic"], serde_json::json!({"sent": 1, "received": 2, "lost": 0, "cleartext_on_wire": 0}));
    }

    #[test]
    fn the_text_fits_a_terminal_and_names_failures() {
        assert!(summary(true).text().lines().all(|l| l.chars().count() <= 80));
        assert!(summary(true).text().contains("gdoi>gikev2"));
        assert!(summary(false).text().contains("FAILED: wire"));
    }

    #[test]
    fn long_lines_are_wrapped_at_spaces() {
        assert_eq!(wrap("  one two three", 9, 4), ["  one two", "    three"]);
        assert_eq!(wrap("a", 9, 4), ["a"]);
        assert_eq!(wrap("", 9, 4), [""]);
        assert_eq!(wrap("averylongword b", 5, 1), ["averylongword", " b"]);
    }

    #[test]
    fn texts_are_clipped_at_characters() {
        assert_eq!(clip("abc", 3), "abc");
        assert_eq!(clip("äöüß", 3), "äö…");
    }
}
