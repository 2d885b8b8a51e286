//! `keyferry sa`: what a member's data plane does, SA by SA, in at most 80 columns.

use std::fmt::Write;

use comfy_table::CellAlignment;
use dataplane::DropReason;
use dataplane::engine::kernel::COUNTERS;
use serde_json::Value;

use super::tables::{WIDTH, table, text, time};
use crate::control::{GuardStatus, JoinedStatus};

/// Numbers up to this are written out.
const WRITTEN_OUT: u64 = 99_999_999;

/// The SAs of each group, and below what was dropped.
pub(super) fn groups(joined: &[JoinedStatus], details: bool) -> String {
    joined.iter().map(|group| group_of(group, details)).collect::<Vec<_>>().join("\n")
}

fn group_of(joined: &JoinedStatus, details: bool) -> String {
    let plane = &joined.dataplane;
    let Some(engine) = &joined.engine else { return format!("group {}: streams alone, no data plane\n", joined.group) };
    let mut out = format!("group {}", joined.group);
    if let Some(tun) = &joined.tun {
        let _ = write!(out, ", device {tun}");
    }
    let _ = write!(out, ", engine {engine}");
    if let Some(interface) = word(plane, "interface") {
        let _ = write!(out, " at {interface}");
    }
    out.push('\n');
    out += &troubles(joined, details);
    let sas = list(plane, "sas");
    if sas.is_empty() {
        out += "no keys\n";
    }
    let idle = if engine == "none" { "known" } else { "receiving" };
    // Through a roll-over the SAs of a policy stand together, oldest first.
    let mut policies: Vec<(String, Vec<&Value>)> = Vec::new();
    for sa in sas {
        let policy = policy(sa);
        match policies.iter_mut().find(|(known, _)| *known == policy) {
            Some((_, sas)) => sas.push(sa),
            None => policies.push((policy, vec![sa])),
        }
    }
    for (policy, sas) in &policies {
        let _ = write!(out, "\n{policy}\n{}", rows(sas, idle));
        for sa in sas {
            if is(sa, "needs_rekey") {
                let spi = word(sa, "spi").unwrap_or_default();
                let _ = writeln!(out, "{spi} runs out of numbers, IVs or octets: new keys are due");
            }
            if details {
                out += &more(sa);
            }
        }
    }
    let offloaded: Vec<&str> = list(plane, "offloaded").iter().filter_map(Value::as_str).collect();
    if !offloaded.is_empty() {
        let _ = writeln!(out, "\n{}", fold(&[&["decrypted by the network device:"], offloaded.as_slice()].concat(), 4));
    }
    out + &rules(plane) + &drops(plane, sas, joined.guard.as_ref(), engine == "kernel")
}

/// What does not work as it should, and with `details` why it is not the kernel that does it.
fn troubles(joined: &JoinedStatus, details: bool) -> String {
    let plane = &joined.dataplane;
    let refused = plane.get("refused").and_then(Value::as_object).into_iter().flatten();
    let refused = refused.map(|(group, why)| ("not joined:", format!("{group}: {}", why.as_str().unwrap_or_default())));
    let problem = word(plane, "problem").map(|problem| ("tried again and again:", problem.to_owned()));
    let declined = joined.declined.clone().filter(|_| details).map(|why| ("not the kernel's ESP:", why));
    let unguarded = joined.unguarded.clone().map(|why| ("not guarded against clear packets:", why));
    let uncounted = joined.guard.as_ref().and_then(|guard| guard.uncounted.clone());
    let uncounted = uncounted.map(|why| ("what the guard drops is not counted:", why));
    let all = declined.into_iter().chain(unguarded).chain(uncounted).chain(problem).chain(refused);
    all.map(|(what, why)| sentence(&format!("{what} {why}")) + "\n").collect()
}

/// Words on as many lines as it takes.
fn sentence(text: &str) -> String {
    fold(&text.split_whitespace().collect::<Vec<_>>(), 4)
}

/// The member's own rules, and what was sent in clear for want of keys.
fn rules(plane: &Value) -> String {
    let mut out = String::new();
    for rule in list(plane, "rules") {
        let part = |name| word(rule, name).unwrap_or_default();
        let action = format!("rule: {}", part("action"));
        let packets = format!("({}, {} packets)", part("direction"), count(number(rule, "packets")));
        let parts = [&action, part("source"), &format!("-> {}", part("destination")), &packets];
        let _ = writeln!(out, "{}", fold(&parts, 4));
    }
    if let n @ 1.. = number(plane, "clear_without_keys") {
        let _ = writeln!(out, "protected traffic sent in clear, for there were no keys: {} packets", count(n));
    }
    if out.is_empty() { out } else { format!("\n{out}") }
}

/// Traffic and protection.
fn policy(sa: &Value) -> String {
    let part = |name| word(sa, name).unwrap_or_default();
    let protection = match word(sa, "preserves") {
        Some("both") | None => format!("{}, {}", part("mode"), part("transform")),
        Some(kept) => format!("{} that preserves {kept}, {}", part("mode"), part("transform")),
    };
    fold(&[part("source"), &format!("-> {}", part("destination")), &format!("({protection})")], 4)
}

/// Words side by side, those that find no room on lines of their own.
pub(super) fn fold(parts: &[&str], indent: usize) -> String {
    let mut out = String::new();
    let mut used = 0;
    for part in parts.iter().filter(|part| !part.is_empty()) {
        let width = part.chars().count();
        if used == 0 {
            used = width;
        } else if used + 1 + width <= usize::from(WIDTH) {
            out.push(' ');
            used += 1 + width;
        } else {
            let _ = write!(out, "\n{:indent$}", "");
            used = indent + width;
        }
        out += part;
    }
    out
}

/// `idle` is what an SA does that neither sends nor goes.
fn rows(sas: &[&Value], idle: &str) -> String {
    let mut rows = table(["SPI", "STATE", "SEALED", "OPENED", "DROPPED", "SEQUENCE", "LEFT"]);
    for sa in sas {
        let state = match (is(sa, "sending"), is(sa, "leaving")) {
            (true, false) => "sending",
            (true, true) => "sending, leaving",
            (false, true) => "leaving",
            (false, false) => idle,
        };
        rows.add_row([
            word(sa, "spi").unwrap_or_default().to_owned(),
            state.to_owned(),
            count(number(sa, "packets_sealed")),
            count(number(sa, "packets_opened")),
            count(counters(sa, "drops").map(|(_, n)| n).sum()),
            count(number(sa, "sequence")),
            time(number(sa, "remaining")),
        ]);
    }
    for column in rows.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    text(&rows)
}

/// What has no room in the table.
fn more(sa: &Value) -> String {
    let windows = sa.get("replay_senders").and_then(Value::as_u64);
    let windows = windows.map_or_else(|| "no replay protection".to_owned(), |n| format!("replay windows {n}"));
    let spi = word(sa, "spi").unwrap_or_default();
    let dummies = match number(sa, "dummies_sent") {
        0 => String::new(),
        n => format!("{spi} dummies sent {n}\n"),
    };
    let life = match sa.get("lifetime_octets").and_then(Value::as_u64) {
        None => String::new(),
        Some(limit) => format!("{spi} lifetime {limit} octets, {} used\n", number(sa, "lifetime_used")),
    };
    let direction = word(sa, "direction").unwrap_or_default();
    let octets = match sa.get("octets_both").and_then(Value::as_u64) {
        Some(both) => format!("octets sealed and opened {both}"),
        None => format!("octets sealed {}, opened {}", number(sa, "octets_sealed"), number(sa, "octets_opened")),
    };
    format!("{}\n{life}{dummies}", fold(&[&format!("{spi} {direction},"), &format!("{octets},"), &windows], 4))
}

/// Whose drops are those that the kernel has counted, but for those of single SAs.
const HOST: &str = "this host";

/// What the guard drops, and what that means.
const GUARDED: [(&str, &str); 2] =
    [("InClear", "came in clear, past the TUN device"), ("OutClear", "was to leave in clear, past the TUN device")];

/// Drops by reason, of each SA, of those that are gone, of none, and of the guard.
fn drops(plane: &Value, sas: &[Value], guard: Option<&GuardStatus>, in_kernel: bool) -> String {
    let mut found: Vec<(String, String, u64)> = Vec::new();
    let mut add = |whose: &str, counters: &mut dyn Iterator<Item = (&str, u64)>| {
        found.extend(counters.map(|(reason, n)| (reason.to_owned(), whose.to_owned(), n)));
    };
    for sa in sas {
        add(word(sa, "spi").unwrap_or_default(), &mut counters(sa, "drops"));
    }
    add("ended SAs", &mut counters(plane, "drops_of_ended_sas"));
    add(if in_kernel { HOST } else { "no SA" }, &mut counters(plane, "drops_without_sa"));
    if let Some(guard) = guard {
        let dropped = GUARDED.iter().zip([guard.dropped_in, guard.dropped_out]).filter(|(_, n)| *n > 0);
        add("guard", &mut dropped.map(|((reason, _), n)| (*reason, n)));
    }
    if found.is_empty() {
        return "\nnothing dropped\n".to_owned();
    }
    let meanings: Vec<(&str, &str)> = match in_kernel {
        true => COUNTERS.into(),
        false => DropReason::ALL.into_iter().map(|reason| (reason.name(), reason.meaning())).chain(GUARDED).collect(),
    };
    let place = |name: &str| meanings.iter().position(|(known, _)| *known == name);
    found.sort_by_key(|(reason, ..)| place(reason).unwrap_or(usize::MAX));
    let mut rows = table(["DROPPED", "PACKETS", "OF", "WHICH MEANS"]);
    let mut before = "";
    for (reason, whose, n) in &found {
        let (name, meaning) = match reason == before {
            true => ("", ""),
            false => {
                (reason.as_str(), place(reason).and_then(|at| meanings.get(at)).map_or("-", |(_, meaning)| meaning))
            }
        };
        rows.add_row([name, &count(*n), whose, meaning]);
        before = reason;
    }
    rows.column_iter_mut().skip(1).take(1).for_each(|column| {
        column.set_cell_alignment(CellAlignment::Right);
    });
    let everybodys = match found.iter().any(|(_, whose, _)| whose == HOST) {
        true => {
            sentence(&format!(
                "\"{HOST}\": everybody's IPsec in this network namespace since the member started, by /proc/net/xfrm_stat"
            )) + "\n"
        }
        false => String::new(),
    };
    format!("\n{}{everybodys}", text(&rows))
}

/// A number in at most eight digits and a letter.
fn count(n: u64) -> String {
    let mut scaled = n;
    let mut letter = "";
    for next in ["k", "M", "G", "T", "P"] {
        if scaled <= WRITTEN_OUT {
            break;
        }
        scaled /= 1000;
        letter = next;
    }
    format!("{scaled}{letter}")
}

pub(super) fn word<'v>(of: &'v Value, name: &str) -> Option<&'v str> {
    of.get(name).and_then(Value::as_str)
}

pub(super) fn number(of: &Value, name: &str) -> u64 {
    of.get(name).and_then(Value::as_u64).unwrap_or(0)
}

fn is(of: &Value, name: &str) -> bool {
    of.get(name).and_then(Value::as_bool).unwrap_or(false)
}

fn list<'v>(of: &'v Value, name: &str) -> &'v [Value] {
    of.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// Names and numbers, zeros left out.
fn counters<'v>(of: &'v Value, name: &str) -> impl Iterator<Item = (&'v str, u64)> {
    let object = of.get(name).and_then(Value::as_object).into_iter().flatten();
    object.map(|(name, n)| (name.as_str(), n.as_u64().unwrap_or(0))).filter(|(_, n)| *n > 0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A member in the middle of a roll-over, with a policy of each IP version.
    fn joined() -> JoinedStatus {
        let sa = |spi: &str, source: &str, destination: &str, sending: bool, sealed: u64| {
            serde_json::json!({
                "spi": spi, "mode": "tunnel", "transform": "Aes256Cbc, HmacSha256_128", "direction": "symmetric",
                "preserves": "both", "source": source, "destination": destination, "sending": sending,
                "leaving": !sending, "remaining": if sending { 86_399 } else { 58 }, "packets_sealed": sealed,
                "octets_sealed": sealed * 1400, "packets_opened": 18_446_744_073_709_551_615u64, "octets_opened": 1,
                "sequence": 4_294_967_295u64, "replay_senders": 12, "needs_rekey": sending,
                "drops": { "InStateSeqError": 3, "InStateProtoError": 12_345_678_901u64 },
            })
        };
        let (from, to) =
            ("2001:db8:1111:2222:3333::/80 udp port 5000", "ff3e:40:2001:db8:1111:2222:3333:4444/128 udp port 5000");
        let plane = serde_json::json!({
            "engine": "userspace", "interface": "enp1s0f1np1",
            "sas": [
                sa("0x79f28435", from, to, false, 4_000_000_000), sa("0x79f28437", "0.0.0.0/0", "239.192.0.1/32", false, 5),
                sa("0x8a04b3c1", from, to, true, 7), sa("0x8a04b3c2", "0.0.0.0/0", "239.192.0.1/32", true, 0),
            ],
            "drops": { "InError": 1, "InStateSeqError": 13 },
            "drops_without_sa": { "InNoStates": 17, "InError": 1 }, "drops_of_ended_sas": { "InStateSeqError": 1 },
        });
        JoinedStatus {
            group: "1234".parse().unwrap(),
            registered: true,
            engine: Some("userspace".to_owned()),
            declined: None,
            unguarded: None,
            guard: None,
            tun: Some("kf0".to_owned()),
            streams: Vec::new(),
            dataplane: plane,
        }
    }

    #[test]
    fn a_roll_over_fits_eighty_columns() {
        let shown = groups(&[joined()], true);
        assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
        let heading = "0.0.0.0/0 -> 239.192.0.1/32 (tunnel, Aes256Cbc, HmacSha256_128)";
        assert_eq!(shown.matches(heading).count(), 1, "{shown}");
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        for line in [
            "0x8a04b3c1 sending 7 18446744T 12345678k 4294967k 23h 59m",
            "InNoStates 17 no SA no SA with this SPI and destination",
            "InStateSeqError 3 0x79f28435 seen before, or behind the window",
            "1 ended SAs",
            "0x8a04b3c2 runs out of numbers, IVs or octets: new keys are due",
        ] {
            assert!(shown.lines().any(|l| words(l) == line), "{line} in\n{shown}");
        }
        assert!(!groups(&[joined()], false).contains("replay windows") && !shown.contains("dummies"));
        let mut joined = joined();
        joined.dataplane["sas"][3]["dummies_sent"] = u64::MAX.into();
        let shown = groups(&[joined], true);
        assert!(shown.contains("0x8a04b3c2 dummies sent 18446744073709551615\n"), "{shown}");
    }

    #[test]
    fn rules_and_lifetimes_in_octets_are_shown_where_there_are_any() {
        let mut joined = joined();
        assert!(!groups(std::slice::from_ref(&joined), true).contains("rule:"));
        let rule = |action: &str, destination: &str| {
            let source = "2001:db8:1111:2222:3333::/80 udp port 5000";
            let packets = 18_446_744_073_709_551_615u64;
            serde_json::json!({ "action": action, "direction": "both", "source": source, "destination": destination, "packets": packets })
        };
        let to = "ff3e:40:2001:db8:1111:2222:3333:4444/128 udp port 5000";
        joined.dataplane["rules"] = vec![rule("discard", to), rule("bypass even if protected", to)].into();
        joined.dataplane["clear_without_keys"] = u64::MAX.into();
        joined.dataplane["sas"][0]["lifetime_octets"] = u64::MAX.into();
        joined.dataplane["sas"][0]["lifetime_used"] = 12.into();
        let shown = groups(&[joined], true);
        assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
        for part in [
            "rule: discard 2001:db8:1111:2222:3333::/80 udp port 5000\n",
            "(both, 18446744T packets)",
            "rule: bypass even if protected",
            "for there were no keys: 18446744T packets\n",
            "0x79f28435 lifetime 18446744073709551615 octets, 12 used\n",
        ] {
            assert!(shown.contains(part), "{part} in\n{shown}");
        }
    }

    #[test]
    fn what_the_kernel_does_is_told_as_the_kernels() {
        let mut joined = joined();
        (joined.engine, joined.tun) = (Some("kernel".to_owned()), None);
        let plane = &mut joined.dataplane;
        plane["problem"] = "the kernel does not take it: somebody else's XFRM policy is about the same packets".into();
        plane["refused"] = serde_json::json!({ "239.192.0.9": "No buffer space available (os error 105)" });
        plane["offloaded"] = serde_json::json!(["0x79f28435", "0x8a04b3c1"]);
        plane["sas"][0]["octets_both"] = u64::MAX.into();
        plane["drops_without_sa"] = serde_json::json!({ "OutPolBlock": 4, "OutBundleCheckError": u64::MAX, "New": 1 });
        let shown = groups(std::slice::from_ref(&joined), true);
        assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
        let words = shown.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in [
            "engine kernel at enp1s0f1np1 tried again and again: the kernel does not take it: somebody else's XFRM",
            "not joined: 239.192.0.9: No buffer space",
            "decrypted by the network device: 0x79f28435 0x8a04b3c1",
            "0x79f28435 symmetric, octets sealed and opened 18446744073709551615, replay windows 12",
            "OutPolBlock 4 this host no keys to send by",
            "OutBundleCheckError 18446744T this host the way to send has just changed",
            "InStateSeqError 3 0x79f28435 seen before, or behind the window",
            "New 1 this host -",
            "\"this host\": everybody's IPsec in this network namespace",
        ] {
            assert!(words.contains(part), "{part} in\n{shown}");
        }
        joined.declined =
            Some("the kernel puts no sender ID into IVs (RFC 6054), so it must not send by a counter mode".into());
        joined.engine = Some("userspace".to_owned());
        joined.unguarded = Some("the program nft is missing".to_owned());
        joined.guard = Some(GuardStatus {
            table: "keyferry-kf0".to_owned(),
            dropped_in: u64::MAX,
            dropped_out: 5,
            uncounted: Some("nft: it did not end within 5 s and was killed".to_owned()),
        });
        let shown = groups(&[joined], true);
        let words = shown.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in [
            "InClear 18446744T guard came in clear, past the TUN device OutClear 5 guard was to leave in clear,",
            "what the guard drops is not counted: nft: it did not end within 5 s and was killed",
        ] {
            assert!(words.contains(part), "{part} in\n{shown}");
        }
        assert!(shown.contains("\nnot guarded against clear packets: the program nft is missing\n"), "{shown}");
        assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
        assert!(
            shown.contains("\nnot the kernel's ESP: the kernel puts no sender ID") && !shown.contains(HOST),
            "{shown}"
        );
    }

    #[test]
    fn little_is_said_where_little_is() {
        let mut joined = joined();
        joined.dataplane = serde_json::json!({ "sas": [], "drops": { "InError": 0 } });
        assert_eq!(
            groups(std::slice::from_ref(&joined), false),
            "group 1234, device kf0, engine userspace\nno keys\n\nnothing dropped\n"
        );
        let (table, [dropped_in, dropped_out]) = ("keyferry-kf0".to_owned(), [0, 0]);
        joined.guard = Some(GuardStatus { table, dropped_in, dropped_out, uncounted: None });
        assert!(groups(std::slice::from_ref(&joined), false).ends_with("\nnothing dropped\n"));
        (joined.tun, joined.engine) = (None, Some("none".to_owned()));
        joined.dataplane = serde_json::json!({ "sas": [{ "spi": "0x79f28435" }] });
        let shown = groups(std::slice::from_ref(&joined), false);
        assert!(shown.starts_with("group 1234, engine none\n"), "{shown}");
        // It has keys, and receives nothing by them.
        assert!(shown.contains("known") && !shown.contains("receiving"), "{shown}");
        joined.engine = None;
        assert_eq!(groups(&[joined], false), "group 1234: streams alone, no data plane\n");
    }

    #[test]
    fn the_manual_has_what_the_guard_drops() {
        let manual = include_str!("../../../../docs/operation.md");
        for (reason, meaning) in GUARDED {
            assert!(manual.contains(&format!("\n| `{reason}` | {meaning} | ")), "{reason}");
        }
    }

    #[test]
    fn numbers_keep_their_column() {
        assert_eq!([0, 99_999_999, 100_000_000, u64::MAX].map(count), ["0", "99999999", "100000k", "18446744T"]);
    }
}
