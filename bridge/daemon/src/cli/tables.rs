//! Answers for people, in at most 80 columns.

use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

use comfy_table::{ContentArrangement, Table, presets};
use keyferry_gateway::Reloaded;
use keyferry_model::view::{GroupView, MemberState, RekeyView};
use serde_json::Value;

use crate::control::{GatewayStatus, GroupMember, MemberStatus, StreamStatus};

/// Columns that a table may take.
pub(super) const WIDTH: u16 = 80;

pub(super) fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_width(WIDTH);
    table.set_header(header);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

pub(super) fn text(table: &Table) -> String {
    let mut out = String::new();
    for line in table.to_string().lines() {
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// What became of a configuration that was read again.
pub(super) fn reloaded(r: &Reloaded) -> String {
    let mut out = String::new();
    for (what, names) in [("added", &r.added), ("changed", &r.changed), ("removed", &r.removed)] {
        if !names.is_empty() {
            let _ = writeln!(out, "{what}: {}", names.join(", "));
        }
    }
    if !r.later.is_empty() {
        let _ = writeln!(out, "at the next start: {}", r.later.join(", "));
    }
    if out.is_empty() { "reloaded; members have nothing to learn from it\n".to_owned() } else { out }
}

/// Seconds in the two largest units that say something.
pub(super) fn time(seconds: u64) -> String {
    let units = [(86_400, "d"), (3600, "h"), (60, "m"), (1, "s")];
    let first = units.iter().position(|(size, _)| seconds >= *size).unwrap_or(units.len() - 1);
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (size, unit) in units.iter().skip(first).take(2) {
        if rest / size > 0 || parts.is_empty() {
            parts.push(format!("{}{unit}", rest / size));
        }
        rest %= size;
    }
    parts.join(" ")
}

fn list<T: ToString>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(" ")
}

/// `keyferry status`.
pub(super) fn gateway(status: &GatewayStatus) -> String {
    let mut out =
        format!("gateway {}, up {}, listening at {}\n\n", status.version, time(status.uptime), list(&status.listen));
    if status.drained {
        out += "members are sent to other gateways\n\n";
    }
    if status.rekeys_unmade > 0 {
        out +=
            &format!("{} rekeys could not be made: members must register anew, see the log\n\n", status.rekeys_unmade);
    }
    let mut groups = table(["GROUP", "ID", "GDOI", "G-IKEV2", "REKEYS", "NEXT IN", "SENDER IDS LEFT"]);
    for g in &status.groups {
        groups.add_row([
            g.name.clone(),
            list(&g.ids),
            g.gdoi_members.to_string(),
            g.gikev2_members.to_string(),
            g.rekeys.to_string(),
            time(g.next_rekey_in),
            g.sender_ids_left.to_string(),
        ]);
    }
    out += &text(&groups);
    out.push('\n');
    out += &text(&keys(&status.groups));
    out
}

fn keys(groups: &[GroupView]) -> Table {
    let mut keys = table(["GROUP", "KEYS", "SPI", "STATE", "LEFT"]);
    for g in groups {
        for e in &g.epochs {
            let state = match (e.active, e.replaced) {
                (true, false) => "active",
                (true, true) => "active, replaced",
                (false, true) => "retiring",
                (false, false) => "announced",
            };
            keys.add_row([
                g.name.clone(),
                format!("epoch {}", e.number),
                list(&e.spis),
                state.to_owned(),
                time(e.remaining),
            ]);
        }
        for r in &g.rekey_sas {
            let sent = format!("{} sent", r.sent);
            keys.add_row([g.name.clone(), format!("rekey SA {}", r.protocol), r.spi.clone(), sent, time(r.remaining)]);
        }
    }
    keys
}

/// `keyferry members`.
pub(super) fn members(members: &[GroupMember]) -> String {
    if members.is_empty() {
        return "nobody has registered\n".to_owned();
    }
    let mut rows = table(["GROUP", "MEMBER", "PROTOCOL", "STATE", "ADDRESS", "SIDS", "ACKS", "MISSED", "MS"]);
    for GroupMember { group, member: m } in members {
        let state = match m.state {
            MemberState::Active => "active",
            MemberState::Left => "left",
            MemberState::Evicted => "evicted",
        };
        rows.add_row([
            group.clone(),
            m.identity.to_string(),
            m.protocol.to_string(),
            state.to_owned(),
            m.address.ip().to_string(),
            list(&m.sender_ids),
            m.acknowledged.to_string(),
            m.missed.to_string(),
            m.latency_ms.map_or_else(|| "-".to_owned(), |l| l.to_string()),
        ]);
    }
    text(&rows)
}

/// `keyferry rekeys`.
pub(super) fn rekeys(rekeys: &[RekeyView]) -> String {
    if rekeys.is_empty() {
        return "there has been no rekey that anybody was to acknowledge\n".to_owned();
    }
    let mut rows = table(["REKEY", "AT (UTC)", "REASON", "EPOCH", "ACKS", "SLOWEST", "MISSING"]);
    for r in rekeys {
        let at = humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + Duration::from_secs(r.at)).to_string();
        let reason = serde_json::to_value(r.reason).ok();
        let missing = match r.missing.len() {
            0 => "nobody".to_owned(),
            n if n > 8 => format!("{} and {} more", list(&r.missing[..8]), n - 8),
            _ => list(&r.missing),
        };
        rows.add_row([
            r.id.to_string(),
            at.trim_end_matches('Z').replace('T', " "),
            reason.and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default(),
            r.epoch.map_or_else(|| "-".to_owned(), |e| e.to_string()),
            format!("{}/{}", r.acknowledged, r.expected),
            r.acks.last().map_or_else(|| "-".to_owned(), |a| format!("{} ms", a.latency_ms)),
            missing,
        ]);
    }
    text(&rows)
}

/// `keyferry member-status`.
pub(super) fn member(status: &MemberStatus) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(out, "{name:<12} {value}");
    };
    line("member", format!("{} at {}", status.identity, status.gateway));
    if status.gateways.len() > 1 {
        let mark = |g: &SocketAddr| if *g == status.gateway { format!("{g} (in use)") } else { g.to_string() };
        line("key servers", status.gateways.iter().map(mark).collect::<Vec<_>>().join(", "));
    }
    let moving = status.moving_to.map_or_else(String::new, |p| format!(", moving to {p}"));
    line("protocol", format!("{}{moving}", status.protocol));
    line("state", status.state.clone());
    line("up", time(status.uptime));
    let c = &status.counters;
    line("registered", format!("{} times, {} rekeys, {} acknowledged", c.registrations, c.rekeys, c.acknowledgements));
    line("refused", format!("{} times, unanswered {}, excluded {}", c.refusals, c.unanswered, c.exclusions));
    if let Some(log) = &status.key_log {
        line("KEYS LOGGED", format!("in {}, for another {}", log.directory.display(), time(log.remaining)));
    }
    if let Some(error) = &status.last_error {
        line("last error", error.clone());
    }
    let seen = status.machine.get("readings").and_then(Value::as_array).into_iter().flatten();
    let seen: Vec<&str> = seen.filter_map(Value::as_str).collect();
    if !seen.is_empty() {
        line("readings", seen.join(" "));
    }
    for joined in &status.groups {
        let registered = if joined.registered { "registered" } else { "without keys" };
        let engine = match (joined.engine.as_deref(), &joined.tun) {
            (None, _) => "streams alone".to_owned(),
            (Some("none"), _) => "keys only".to_owned(),
            (Some(engine), None) => engine.to_owned(),
            (Some(engine), Some(tun)) => format!("{engine}, device {tun}"),
        };
        let _ = writeln!(out, "\n{:<12} {}, {registered}, {engine}", "group", joined.group);
        if !joined.streams.is_empty() {
            out += &streams(&joined.streams);
        }
        if let Some(why) = &joined.declined {
            let _ = writeln!(out, "{:<12} {why}", "not kernel");
        }
        if let Some(why) = &joined.unguarded {
            let _ = writeln!(out, "{:<12} {why}", "no guard");
        }
        if joined.engine.is_some() {
            out += &dataplane(&joined.dataplane);
        }
    }
    out
}

/// IEC 61850 streams, one per line.
fn streams(list: &[StreamStatus]) -> String {
    let mut rows = table(["SPI", "STREAM", "STATE", "DELIVERED", "LEFT"]);
    for stream in list {
        rows.add_row([
            stream.spi.clone(),
            stream.name.clone(),
            if stream.active { "in use" } else { "waiting" }.to_owned(),
            stream.delivered.map_or_else(|| "-".to_owned(), |percent| format!("{percent} %")),
            stream.remaining.map_or_else(|| "-".to_owned(), time),
        ]);
    }
    text(&rows)
}

/// The data plane's SAs, one per line, and what it dropped.
fn dataplane(status: &Value) -> String {
    let field = |of: &Value, name: &str| match of.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => "-".to_owned(),
    };
    let mut rows = table(["SPI", "DESTINATION", "MODE", "STATE", "SENT", "RECEIVED", "LEFT"]);
    let unused = status.get("engine").and_then(Value::as_str) == Some("none");
    let sas = status.get("sas").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    for sa in sas {
        let is = |name: &str| sa.get(name).and_then(Value::as_bool).unwrap_or(false);
        let state = match (is("sending"), is("leaving")) {
            (true, _) => "sending",
            (false, true) => "leaving",
            (false, false) if unused => "known",
            (false, false) => "receiving",
        };
        rows.add_row([
            field(sa, "spi"),
            field(sa, "destination"),
            field(sa, "mode"),
            state.to_owned(),
            field(sa, "packets_sealed"),
            field(sa, "packets_opened"),
            time(sa.get("remaining").and_then(Value::as_u64).unwrap_or(0)),
        ]);
    }
    let mut out = if sas.is_empty() { "no keys\n".to_owned() } else { text(&rows) };
    let drops = status.get("drops").and_then(Value::as_object);
    let dropped = drops.into_iter().flatten().filter(|(_, n)| n.as_u64().unwrap_or(0) > 0);
    let dropped: Vec<String> = dropped.map(|(reason, n)| format!("{reason} {n}")).collect();
    if !dropped.is_empty() {
        let _ = writeln!(out, "\ndropped: {}", dropped.join(", "));
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use keyferry_model::id::Protocol;
    use keyferry_model::plan::RekeyReason;
    use keyferry_model::reading::Readings;
    use keyferry_model::view::{AckView, MemberView};

    fn member_view(identity: &str, address: &str) -> GroupMember {
        let member = MemberView {
            identity: identity.parse().unwrap(),
            holder: None,
            protocol: Protocol::Gikev2,
            history: vec![Protocol::Gdoi],
            state: MemberState::Active,
            address: address.parse().unwrap(),
            readings: Readings::NONE,
            registrations: 2,
            sender_ids: vec![17],
            in_band: false,
            fragments: false,
            capabilities: None,
            acknowledged: 12,
            missed: 0,
            latency_ms: Some(1234),
        };
        GroupMember { group: "branches".to_owned(), member }
    }

    #[test]
    fn tables_fit_eighty_columns() {
        let list = [
            member_view("10.0.0.1", "10.0.0.1:848"),
            member_view(
                "fqdn:a-router-with-a-long-name.branch.example.org",
                "[2001:db8:1111:2222:3333:4444:5555:6666]:848",
            ),
        ];
        let rekey = RekeyView {
            id: 3,
            reason: RekeyReason::Eviction,
            at: 1_700_000_000,
            epoch: Some(4),
            expected: 12,
            acknowledged: 2,
            missing: (1..=10).map(|n| format!("10.0.0.{n}").parse().unwrap()).collect(),
            acks: vec![AckView { identity: "10.0.1.1".parse().unwrap(), protocol: Protocol::Gdoi, latency_ms: 5 }],
        };
        let both = members(&list) + &rekeys(&[rekey]);
        assert!(both.lines().all(|l| l.chars().count() <= 80), "{both}");
        assert!(both.contains("2023-11-14"), "{both}");
        assert!(both.contains("2/12"), "{both}");
    }

    #[test]
    fn the_data_plane_is_a_table() {
        let status = serde_json::json!({
            "sas": [{ "spi": "0x79f28435", "destination": "239.192.0.1/32 udp", "mode": "tunnel", "sending": true,
                "leaving": false, "packets_sealed": 12, "packets_opened": 3456, "remaining": 3598 }],
            "drops": { "OutNoPols": 2, "InError": 0 },
        });
        let shown = dataplane(&status);
        assert!(shown.lines().all(|l| l.chars().count() <= 80), "{shown}");
        assert!(shown.contains("3456") && shown.ends_with("\ndropped: OutNoPols 2\n"), "{shown}");
        assert_eq!(dataplane(&Value::Null), "no keys\n");
        // An engine that touches no packet has keys, and receives nothing by them.
        let known = dataplane(&serde_json::json!({ "engine": "none", "sas": [{ "spi": "0x79f28435" }] }));
        assert!(known.contains("known") && !known.contains("receiving"), "{known}");
    }

    #[test]
    fn streams_are_a_table() {
        let stream = StreamStatus {
            spi: "0x79f28435".to_owned(),
            name: "1.2.840.10070.61850.8.1.2#0404effc0001".to_owned(),
            encryption: "aes-256-gcm".to_owned(),
            authentication: "none".to_owned(),
            active: false,
            remaining: Some(86_300),
            delivered: Some(75),
        };
        let forever = StreamStatus { active: true, remaining: None, delivered: None, ..stream.clone() };
        let shown = streams(&[stream, forever]);
        assert!(shown.lines().all(|l| l.chars().count() <= 80), "{shown}");
        assert!(shown.contains("waiting") && shown.contains("75 %") && shown.contains("in use"), "{shown}");
    }

    #[test]
    fn times_are_short() {
        assert_eq!([0, 59, 60, 3661, 90_000].map(time), ["0s", "59s", "1m", "1h 1m", "1d 1h"]);
    }
}
