//! `keyferry trace`: what becomes of packets, or would become of one, in at most 80 columns.

use std::net::IpAddr;
use std::time::{Duration, Instant, UNIX_EPOCH};

use dataplane::DropReason;
use dataplane::engine::kernel::COUNTERS;
use dataplane::packet::protocol;
use serde_json::Value;

use super::client::json;
use super::sa::{fold, number, word};
use super::{TraceArgs, write_out};
use crate::config::{IpProtocol, Network};
use crate::control::{Client, Explained, FlowOf, NOT_SHOWN, TraceFilter, TracedPacket};

/// Between two looks at what came.
const PAUSE: Duration = Duration::from_millis(100);

/// Prints packets until there were enough, or the time is over, or nobody reads any more.
pub(super) fn live(args: &TraceArgs) -> anyhow::Result<()> {
    let mut client = Client::connect(&args.member.socket)?;
    let filter = TraceFilter {
        source: args.source.map(|n| (n.address, n.prefix)),
        destination: args.destination.map(|n| (n.address, n.prefix)),
        protocol: args.protocol.map_or(0, |IpProtocol(number)| number),
        port: args.port.unwrap_or(0),
        spi: args.spi,
    };
    let started = client.trace(args.group.as_ref(), filter)?;
    for group in &started.without {
        eprintln!("group {group}: {NOT_SHOWN}");
    }
    let named = started.groups.len() > 1;
    let until = args.timeout.map(|timeout| Instant::now() + *timeout);
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 && until.is_none_or(|until| Instant::now() < until) {
        let came = client.traced(started.trace)?;
        let mut out = String::new();
        for packet in came.packets.iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
            left -= 1;
            out += &if args.member.json { line(packet)? } else { shown(packet, named) };
        }
        if came.missed > 0 && left > 0 {
            out += &missed(came.missed, args.member.json);
        }
        if !out.is_empty() && !write_out(&out)? {
            break;
        }
        std::thread::sleep(PAUSE);
    }
    Ok(client.end_trace(started.trace)?)
}

/// What would become of a packet.
pub(super) fn dry(args: &TraceArgs, flow: FlowOf) -> anyhow::Result<String> {
    let told = Client::connect(&args.member.socket)?.explain(args.group.as_ref(), flow)?;
    if args.member.json { json(&told) } else { Ok(told.iter().map(explained).collect::<Vec<_>>().join("\n")) }
}

/// The packet that the options of a dry run describe, or what is wrong with them.
pub(super) fn flow(args: &TraceArgs) -> Result<FlowOf, String> {
    let address = |network: Option<Network>, what: &str| {
        let single = network.filter(|n| n.prefix == if n.address.is_ipv4() { 32 } else { 128 });
        single.map(|n| n.address).ok_or_else(|| format!("--dry-run wants one address for --{what}"))
    };
    let (source, destination): (IpAddr, IpAddr) =
        (address(args.source, "source")?, address(args.destination, "destination")?);
    if source.is_ipv4() != destination.is_ipv4() {
        return Err("--source and --destination are of two versions of IP".to_owned());
    }
    Ok(FlowOf {
        source,
        destination,
        protocol: args.protocol.map_or(protocol::UDP, |IpProtocol(number)| number),
        ports: args.port.map(|port| (args.source_port.unwrap_or(port), port)),
        octets: args.octets,
    })
}

fn line(packet: &TracedPacket) -> anyhow::Result<String> {
    Ok(serde_json::to_string(packet)? + "\n")
}

fn missed(packets: u64, as_json: bool) -> String {
    match as_json {
        true => format!("{{\"missed\":{packets}}}\n"),
        false => format!("({packets} further packets are not shown)\n"),
    }
}

/// One packet, step by step.
fn shown(traced: &TracedPacket, named: bool) -> String {
    let packet = &traced.packet;
    let at =
        humantime::format_rfc3339_micros(UNIX_EPOCH + Duration::from_micros(number(packet, "at_micros"))).to_string();
    let at = at.split('T').nth(1).unwrap_or(&at).trim_end_matches('Z').to_owned();
    let size = format!("{} octets", number(packet, "octets_before"));
    let whose = if named { format!("group {}", traced.group) } else { String::new() };
    let (from, to) = ends(packet);
    let direction = word(packet, "direction").unwrap_or_default();
    let mut out =
        fold(&[&format!("{at} {direction:<3}"), &from, &format!("-> {to}"), &protocol(packet), &size, &whose], 4);
    if let Some(policy) = packet.get("policy") {
        let part = |name| word(policy, name).unwrap_or_default();
        let protection = format!("({}, {})", part("mode"), part("transform"));
        out += &step(&["policy", part("source"), &format!("-> {}", part("destination")), &protection]);
    }
    if let Some(spi) = word(packet, "spi") {
        let mut parts = vec![format!("SA {spi}")];
        parts.extend(packet.get("sequence").map(|n| format!("number {n}")));
        parts.extend(word(packet, "iv").map(|iv| format!("IV {iv}")));
        parts.extend(packet.get("sender_id").map(|id| format!("sender ID {id}")));
        let last = parts.len() - 1;
        let parts: Vec<String> =
            parts.into_iter().enumerate().map(|(at, p)| if at < last { p + "," } else { p }).collect();
        out += &step(&parts.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let result = match (word(packet, "result"), word(packet, "reason")) {
        (Some("dropped" | "too-big"), Some(reason)) => because(reason),
        (Some("clear"), _) => "sent in clear, by a local rule".to_owned(),
        (result, _) => format!("{}, {} octets", result.unwrap_or_default(), number(packet, "octets_after")),
    };
    out + &step(&[&result]) + "\n"
}

/// A further line of a packet.
fn step(parts: &[&str]) -> String {
    let (first, rest) = parts.split_first().unwrap_or((&"", &[]));
    let first = format!("  {first}");
    format!("\n{}", fold(&[&[first.as_str()], rest].concat(), 6))
}

fn because(reason: &str) -> String {
    if reason == DropReason::OutTooBig.name() {
        return "too large for the link when protected: dropped, or its parts follow".to_owned();
    }
    let of_userspace = DropReason::ALL.into_iter().map(|known| (known.name(), known.meaning()));
    let known = of_userspace.chain(COUNTERS).find(|(known, _)| *known == reason);
    known.map_or_else(|| format!("dropped: {reason}"), |(_, meaning)| format!("dropped: {reason}, {meaning}"))
}

/// Source and destination with their ports.
fn ends(packet: &Value) -> (String, String) {
    let ports = packet.get("ports").and_then(Value::as_array).map(Vec::as_slice);
    let end = |name, at: usize| {
        let address = word(packet, name).unwrap_or_default();
        match ports.and_then(|ports| ports.get(at)) {
            Some(port) if address.contains(':') => format!("[{address}]:{port}"),
            Some(port) => format!("{address}:{port}"),
            None => address.to_owned(),
        }
    };
    (end("source", 0), end("destination", 1))
}

fn protocol(packet: &Value) -> String {
    let number = u8::try_from(number(packet, "protocol")).unwrap_or_default();
    format!("{},", protocol::name(number))
}

/// What would become of a packet in one group.
fn explained(told: &Explained) -> String {
    let explanation = &told.explanation;
    let mut out = format!("group {}", told.group);
    if explanation.is_null() {
        return out + "\n  nothing is protected here: there are streams alone, or keys only\n";
    }
    if let Some(policy) = explanation.get("policy").filter(|policy| !policy.is_null()) {
        let part = |name| word(policy, name).unwrap_or_default();
        let protection = format!("({}, {})", part("mode"), part("transform"));
        out += &step(&["sent: policy", part("source"), &format!("-> {}", part("destination")), &protection]);
    }
    let tried = explanation.get("tried").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    for tried in tried {
        let spi = word(tried, "spi").unwrap_or_default();
        out += &match word(tried, "refused") {
            Some(reason) => step(&[&format!("sent: SA {spi}"), &because(reason)]),
            None => step(&[&format!("sent: SA {spi} seals it, {} octets then", number(tried, "octets"))]),
        };
    }
    let clear = explanation.get("clear").and_then(Value::as_bool).unwrap_or(false);
    out += &match (word(explanation, "dropped").filter(|_| tried.is_empty()), word(explanation, "why")) {
        (Some(reason), Some(why)) => step(&[&format!("sent: dropped: {reason}, {why}")]),
        (Some(reason), None) => step(&["sent:", &because(reason)]),
        (None, Some(why)) if clear => step(&[&format!("sent: in clear, {why}")]),
        (None, Some(why)) => step(&[&format!("sent: {why}")]),
        (None, None) if clear => step(&["sent: in clear, by a local rule"]),
        (None, None) => String::new(),
    };
    let opened_by = explanation.get("opened_by").and_then(Value::as_array).into_iter().flatten();
    let opened_by: Vec<&str> = opened_by.filter_map(Value::as_str).collect();
    out += &match opened_by.as_slice() {
        [] => step(&["from others: no SA that such a packet may come by"]),
        spis => step(&[&["from others: opened by SA"], spis].concat()),
    };
    out + "\n"
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn traced(packet: Value) -> TracedPacket {
        TracedPacket { group: "fqdn:branches.example.org".parse().unwrap(), packet }
    }

    #[test]
    fn packets_are_shown_step_by_step() {
        let sealed = serde_json::json!({
            "at_micros": 1_700_000_000_123_456u64, "direction": "out", "result": "sealed", "source": "10.0.0.1",
            "destination": "239.192.0.1", "protocol": 17, "ports": [5000, 5001], "octets_before": 1428,
            "octets_after": 1485, "spi": "0x79f28435", "sequence": 12, "iv": "001100000000000c", "sender_id": 17,
            "policy": { "source": "0.0.0.0/0", "destination": "239.192.0.1/32", "mode": "tunnel", "transform": "Aes128Gcm16" },
        });
        assert_eq!(
            shown(&traced(sealed), false),
            "22:13:20.123456 out 10.0.0.1:5000 -> 239.192.0.1:5001 udp, 1428 octets\n  \
             policy 0.0.0.0/0 -> 239.192.0.1/32 (tunnel, Aes128Gcm16)\n  \
             SA 0x79f28435, number 12, IV 001100000000000c, sender ID 17\n  sealed, 1485 octets\n"
        );
        let refused = serde_json::json!({
            "at_micros": 1_700_000_000_123_456u64, "direction": "in", "result": "dropped", "reason": "InStateSeqError",
            "source": "2001:db8:1111:2222:3333:4444:5555:6666", "destination": "ff3e:40:2001:db8:1111:2222:3333:4444",
            "protocol": 50, "octets_before": 1485, "spi": "0x79f28435", "sequence": 4_294_967_295u32,
            "iv": "000102030405060708090a0b0c0d0e0f",
            "policy": { "source": "2001:db8:1111:2222::/64 udp", "mode": "transport",
                "destination": "ff3e:40:2001:db8:1111:2222:3333:4444/128 udp port 65535",
                "transform": "Aes256Cbc, HmacSha512_256" },
        });
        let text = shown(&traced(refused), true);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.contains("group fqdn:branches.example.org"), "{text}");
        assert!(text.ends_with("\n  dropped: InStateSeqError, seen before, or behind the window\n"), "{text}");
    }

    #[test]
    fn a_dry_run_is_told_both_ways() {
        let of = |explanation| explained(&Explained { group: "7".parse().unwrap(), explanation });
        let policy = serde_json::json!({ "source": "0.0.0.0/0", "destination": "239.192.0.1/32", "mode": "tunnel", "transform": "Aes128Gcm16" });
        assert_eq!(
            of(serde_json::json!({
                "policy": policy, "dropped": null, "opened_by": ["0x00001000", "0x00001001"],
                "tried": [
                    { "spi": "0x00001000", "octets": null, "refused": "OutStateSeqError" },
                    { "spi": "0x00001001", "octets": 157, "refused": null },
                ],
            })),
            "group 7\n  sent: policy 0.0.0.0/0 -> 239.192.0.1/32 (tunnel, Aes128Gcm16)\n  \
             sent: SA 0x00001000\n      dropped: OutStateSeqError, the sequence numbers are used up\n  \
             sent: SA 0x00001001 seals it, 157 octets then\n  \
             from others: opened by SA 0x00001000 0x00001001\n"
        );
        assert_eq!(
            of(serde_json::json!({ "policy": null, "tried": [], "dropped": "OutNoPols", "opened_by": [] })),
            "group 7\n  sent: dropped: OutNoPols, no policy, or no keys of it\n  \
             from others: no SA that such a packet may come by\n"
        );
        assert!(of(Value::Null).starts_with("group 7\n  nothing is protected here"));
        // The kernel's ESP has reasons of its own.
        let of = |mut explanation: Value, field: &str, value: Value| {
            explanation[field] = value;
            let text = of(explanation);
            assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
            text
        };
        let kernel = serde_json::json!({ "policy": null, "clear": false, "tried": [], "dropped": null, "opened_by": [], "why": "a reason" });
        assert!(of(kernel.clone(), "clear", true.into()).contains("\n  sent: in clear, a reason\n"));
        assert!(of(kernel.clone(), "why", "a reason".into()).contains("\n  sent: a reason\n"));
        assert!(
            of(kernel.clone(), "dropped", "OutPolBlock".into()).contains("\n  sent: dropped: OutPolBlock, a reason\n")
        );
        let lost = serde_json::json!([{ "spi": "0x00001000", "octets": null, "refused": "OutNoStates" }]);
        let text = of(
            serde_json::json!({ "policy": policy, "clear": false, "dropped": "OutNoStates", "opened_by": [] }),
            "tried",
            lost,
        );
        assert!(text.contains("dropped: OutNoStates, the policy's SA is gone\n"), "{text}");
    }
}
