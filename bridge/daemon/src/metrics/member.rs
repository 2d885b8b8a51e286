//! A member: what it is, what happened to it, and what its data plane did, group by group and SA by SA.

use std::collections::BTreeMap;

use dataplane::engine::EngineStatus;
use dataplane::{RuleStatus, SaStatus};

use super::page::{Kind, Number, Optional, Page, Values};
use crate::control::MemberStatus;

/// The metrics of a member and of the data planes of its groups.
pub(crate) fn member(status: &MemberStatus, planes: &[(String, EngineStatus)]) -> String {
    let mut page = Page::default();
    registration(&mut page, status);
    groups(&mut page, planes);
    rules(&mut page, planes);
    sas(&mut page, planes);
    page.text()
}

fn registration(page: &mut Page, status: &MemberStatus) {
    super::gateway::process(page, "member", &status.version, status.uptime);
    page.metric(Kind::Gauge, "keyferry_member_protocol", "The protocol that the member registers by.", |values| {
        values.put(&[("protocol", &status.protocol.to_string())], 1);
    });
    page.metric(Kind::Gauge, "keyferry_member_registered", "Whether the member has the keys of the group.", |values| {
        for joined in &status.groups {
            values.put(&[("group", &joined.group.to_string())], u8::from(joined.registered));
        }
    });
    let (name, help) = (
        "keyferry_member_unguarded",
        "Whether nothing keeps clear packets away that go past the TUN device, where something should.",
    );
    page.metric(Kind::Gauge, name, help, |values| {
        for joined in &status.groups {
            values.put(&[("group", &joined.group.to_string())], u8::from(joined.unguarded.is_some()));
        }
    });
    let (name, help) = (
        "keyferry_member_guard_packets_dropped_total",
        "Packets of protected groups that the guard has dropped, since they came or were to leave in clear.",
    );
    page.metric(Kind::Counter, name, help, |values| {
        for joined in &status.groups {
            // What is not up to date is not told.
            let Some(guard) = joined.guard.as_ref().filter(|guard| guard.uncounted.is_none()) else { continue };
            for (direction, packets) in [("in", guard.dropped_in), ("out", guard.dropped_out)] {
                values.put(&[("group", &joined.group.to_string()), ("direction", direction)], packets);
            }
        }
    });
    let c = &status.counters;
    for (name, help, value) in [
        ("keyferry_member_registrations_total", "Registrations that succeeded.", c.registrations),
        ("keyferry_member_rekeys_total", "Rekey messages accepted.", c.rekeys),
        ("keyferry_member_acknowledgements_total", "Rekey messages acknowledged.", c.acknowledgements),
        ("keyferry_member_exclusions_total", "Exclusions and deletions of everything by the key server.", c.exclusions),
        ("keyferry_member_refusals_total", "Refusals by the key server.", c.refusals),
        ("keyferry_member_unanswered_total", "Exchanges that the key server never answered.", c.unanswered),
        ("keyferry_member_moves_total", "Moves to the other protocol.", c.moves),
        ("keyferry_member_datagrams_overrun_total", "Datagrams dropped because too many were waiting.", status.overrun),
    ] {
        page.counter(name, help, value);
    }
}

/// What groups have as a whole.
fn groups(page: &mut Page, planes: &[(String, EngineStatus)]) {
    page.metric(
        Kind::Gauge,
        "keyferry_dataplane_info",
        "Which engine protects the group's traffic, and where.",
        |values| {
            for (group, plane) in planes {
                let [tun, interface] = [&plane.tun, &plane.interface].map(|name| name.as_deref().unwrap_or_default());
                values.put(&[("group", group), ("engine", plane.engine), ("tun", tun), ("interface", interface)], 1);
            }
        },
    );
    let gauges: [Number<EngineStatus>; 6] = [
        ("keyferry_dataplane_sas", "Data SAs installed.", |plane| plane.sad.sas.len() as u64),
        ("keyferry_dataplane_sender_ids", "Sender IDs of this member.", |plane| plane.sad.sender_ids.len() as u64),
        ("keyferry_dataplane_joined", "Multicast addresses joined.", |plane| plane.joined.len() as u64),
        ("keyferry_dataplane_refused", "Multicast addresses that could not be joined.", |plane| {
            plane.refused.len() as u64
        }),
        ("keyferry_dataplane_needs_rekey", "Whether a sending SA runs out of sequence numbers or IVs.", |plane| {
            plane.sad.needs_rekey.into()
        }),
        ("keyferry_dataplane_problem", "Whether the engine tries something again and again in vain.", |plane| {
            plane.problem.is_some().into()
        }),
    ];
    for (name, help, of) in gauges {
        page.metric(Kind::Gauge, name, help, |values| {
            planes.iter().for_each(|(group, plane)| values.put(&[("group", group)], of(plane)));
        });
    }
    let drops = |values: &mut Values<'_>, of: fn(&EngineStatus) -> &BTreeMap<&'static str, u64>| {
        for (group, plane) in planes {
            of(plane).iter().for_each(|(reason, n)| values.put(&[("group", group), ("reason", reason)], n));
        }
    };
    let (name, help) =
        ("keyferry_dataplane_packets_dropped_total", "Packets dropped, by reason, with an SA or without.");
    page.metric(Kind::Counter, name, help, |values| drops(values, |plane| &plane.sad.drops));
    let (name, help) = ("keyferry_dataplane_packets_dropped_without_sa_total", "Of these, those that were no SA's.");
    page.metric(Kind::Counter, name, help, |values| drops(values, |plane| &plane.sad.drops_without_sa));
}

/// The member's own rules.
fn rules(page: &mut Page, planes: &[(String, EngineStatus)]) {
    let numbers: [Number<RuleStatus>; 2] = [
        ("keyferry_dataplane_rule_packets_total", "Packets that a rule of the member has decided about.", |rule| {
            rule.packets
        }),
        (
            "keyferry_dataplane_rule_bytes_total",
            "Octets of packets that a rule of the member has decided about.",
            |rule| rule.octets,
        ),
    ];
    for (name, help, of) in numbers {
        page.metric(Kind::Counter, name, help, |values| {
            for (group, plane) in planes {
                for (number, rule) in (1..).zip(&plane.sad.rules) {
                    let labels = [
                        ("group", group.as_str()),
                        ("rule", &format!("{number}")),
                        ("action", rule.action),
                        ("direction", rule.direction),
                        ("source", &rule.source),
                        ("destination", &rule.destination),
                    ];
                    values.put(&labels, of(rule));
                }
            }
        });
    }
    let (name, help) = (
        "keyferry_dataplane_packets_clear_without_keys_total",
        "Packets that the group protects, sent in clear for want of keys, as was chosen.",
    );
    page.metric(Kind::Counter, name, help, |values| {
        planes.iter().for_each(|(group, plane)| values.put(&[("group", group)], plane.sad.clear_without_keys));
    });
}

/// What SAs have, as long as they are there.
fn sas(page: &mut Page, planes: &[(String, EngineStatus)]) {
    let all = || planes.iter().flat_map(|(group, plane)| plane.sad.sas.iter().map(move |sa| (group.as_str(), sa)));
    page.metric(Kind::Gauge, "keyferry_dataplane_sa_info", "What the SA protects, and how.", |values| {
        for (group, sa) in all() {
            let labels = [
                ("group", group),
                ("spi", &sa.spi),
                ("mode", sa.mode),
                ("transform", &sa.transform),
                ("direction", sa.direction),
                ("source", &sa.source),
                ("destination", &sa.destination),
            ];
            values.put(&labels, 1);
        }
    });
    let counters: [Number<SaStatus>; 5] = [
        ("packets_sealed_total", "Plain packets protected.", |sa| sa.packets_sealed),
        ("bytes_sealed_total", "Octets of plain packets protected.", |sa| sa.octets_sealed),
        ("packets_opened_total", "Plain packets recovered.", |sa| sa.packets_opened),
        ("bytes_opened_total", "Octets of plain packets recovered.", |sa| sa.octets_opened),
        ("dummies_sent_total", "Dummy packets sent.", |sa| sa.dummies_sent),
    ];
    let gauges: [Number<SaStatus>; 5] = [
        ("sa_sequence", "Highest sequence number sent, of 4294967295.", |sa| sa.sequence.into()),
        ("sa_remaining_seconds", "Time until the SA ends.", |sa| sa.remaining),
        ("sa_sending", "Whether the SA is used to send.", |sa| sa.sending.into()),
        ("sa_leaving", "Whether the SA's removal is under way.", |sa| sa.leaving.into()),
        ("sa_needs_rekey", "Whether the SA runs out of sequence numbers or IVs.", |sa| sa.needs_rekey.into()),
    ];
    let numbers = counters.map(|number| (Kind::Counter, number)).into_iter().chain(gauges.map(|n| (Kind::Gauge, n)));
    for (kind, (name, help, of)) in numbers {
        page.metric(kind, &format!("keyferry_dataplane_{name}"), help, |values| {
            all().for_each(|(group, sa)| values.put(&[("group", group), ("spi", &sa.spi)], of(sa)));
        });
    }
    let (name, help) = ("keyferry_dataplane_sa_offloaded", "Whether a network device decrypts what comes by the SA.");
    page.metric(Kind::Gauge, name, help, |values| {
        for (group, plane) in planes {
            for sa in &plane.sad.sas {
                values.put(&[("group", group), ("spi", &sa.spi)], u8::from(plane.offloaded.contains(&sa.spi)));
            }
        }
    });
    let optional: [Optional<SaStatus>; 4] = [
        (
            Kind::Counter,
            "bytes_both_total",
            "Octets of packets of both ways, where the kernel does not tell them apart.",
            |sa| sa.octets_both,
        ),
        (Kind::Gauge, "sa_replay_senders", "Replay windows that the SA has made.", |sa| {
            sa.replay_senders.map(|n| n as u64)
        }),
        (Kind::Gauge, "sa_lifetime_bytes", "Octets that end the SA.", |sa| sa.lifetime_octets),
        (Kind::Gauge, "sa_lifetime_used_bytes", "Octets of these that are used.", |sa| sa.lifetime_used),
    ];
    for (kind, name, help, of) in optional {
        page.metric(kind, &format!("keyferry_dataplane_{name}"), help, |values| {
            for (group, sa) in all() {
                of(sa).iter().for_each(|n| values.put(&[("group", group), ("spi", &sa.spi)], n));
            }
        });
    }
    let (name, help) = ("keyferry_dataplane_sa_packets_dropped_total", "Packets of the SA dropped, by reason.");
    page.metric(Kind::Counter, name, help, |values| {
        for (group, sa) in all() {
            for (reason, n) in &sa.drops {
                values.put(&[("group", group), ("spi", &sa.spi), ("reason", reason)], n);
            }
        }
    });
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::time::Duration;

    use dataplane::{DropReason, Frame, IvSource, LocalPolicy, Rule, RuleAction, Sad, Way};
    use keyferry_crypto::{Aead, Secret, SeededRandom};
    use keyferry_model::id::Protocol;
    use keyferry_model::policy::{
        AddressPreservation, EspMode, EspTransform, SaDirection, Selector, SequenceNumbers, TrafficPolicy,
    };
    use keyferry_model::time::Now;
    use keyferry_model::update::{GroupUpdate, NewSa, Removal, SenderIds};

    use super::super::page::reader::{read, value};
    use super::*;
    use crate::control::{GuardStatus, JoinedStatus, MemberCounters};

    /// A data plane in the middle of a roll-over, over which packets went.
    fn plane() -> EngineStatus {
        let side = |address: &str, prefix| Selector { address: address.parse().unwrap(), prefix, protocol: 0, port: 0 };
        let policy = Arc::new(TrafficPolicy {
            source: side("::", 0),
            destination: side("ff15::1", 128),
            mode: EspMode::Tunnel,
            transform: EspTransform::Aead(Aead::Aes128Gcm16),
            sequence: SequenceNumbers::Sequential,
            replay_window: 64,
            preservation: AddressPreservation::Both,
            only_sender: None,
            lifetime_octets: None,
        });
        let sa = |spi, seed| NewSa {
            spi,
            policy: Arc::clone(&policy),
            keymat: Secret::random(20, &mut SeededRandom::new(seed)),
            lifetime: Duration::from_secs(3600),
            direction: SaDirection::Symmetric,
        };
        let update = |install, remove| GroupUpdate {
            install,
            remove: Removal::Spis(remove),
            sender_ids: Some(SenderIds { bits: 16, ids: vec![7] }),
            activation_delay: Duration::from_secs(1),
            deactivation_delay: Duration::from_secs(2),
        };
        let now = Now { mono: Duration::ZERO, wall: Duration::from_secs(1_700_000_000) };
        let mut sad = Sad::new();
        let rule = Rule {
            source: side("::", 0),
            destination: side("ff15::2", 128),
            action: RuleAction::Discard,
            way: Way::Out,
        };
        sad.set_local_policy(LocalPolicy { rules: vec![rule], ..LocalPolicy::default() });
        sad.apply(update(vec![sa(0x1000, 1)], vec![]), now).unwrap();
        let mut ivs = IvSource::new(&mut SeededRandom::new(1));
        let plain =
            [&[0x60, 0, 0, 0, 0, 4, 59, 9][..], &[0xfd; 16], &[0xff, 0x15], &[0; 13], &[1], &[1, 2, 3, 4]].concat();
        let mut frame = Frame::holding(&plain);
        sad.snapshot().seal(&mut frame, &mut ivs).unwrap();
        let sealed = frame.packet().to_vec();
        sad.snapshot().open(&mut frame).unwrap();
        for _ in 0..3 {
            let mut again = Frame::holding(&sealed);
            assert_eq!(sad.snapshot().open(&mut again), Err(DropReason::InStateSeqError));
        }
        assert!(sad.snapshot().open(&mut Frame::holding(&plain)).is_err());
        let other = [plain.get(..39).unwrap(), &[2, 1, 2, 3, 4]].concat();
        assert_eq!(sad.snapshot().seal(&mut Frame::holding(&other), &mut ivs), Err(DropReason::OutPolBlock));
        sad.apply(update(vec![sa(0x1001, 2)], vec![0x1000]), now).unwrap();
        EngineStatus {
            engine: "userspace",
            tun: Some("kf0".to_owned()),
            interface: Some("eth0".to_owned()),
            joined: vec!["ff15::1".parse().unwrap()],
            early: Vec::new(),
            refused: BTreeMap::new(),
            problem: Some("the kernel does not take it".to_owned()),
            offloaded: vec!["0x00001001".to_owned()],
            sad: sad.status(),
        }
    }

    fn status() -> MemberStatus {
        let at: SocketAddr = "[2001:db8::1]:848".parse().unwrap();
        let group = |id: &str| JoinedStatus {
            group: id.parse().unwrap(),
            registered: id == "8400",
            engine: Some("userspace".to_owned()),
            tun: Some("kf0".to_owned()),
            streams: Vec::new(),
            declined: None,
            unguarded: None,
            guard: Some(GuardStatus {
                table: "keyferry-kf0".to_owned(),
                dropped_in: 17,
                dropped_out: 3,
                uncounted: (id != "8400").then(|| "nft: it did not end".to_owned()),
            }),
            dataplane: serde_json::Value::Null,
        };
        MemberStatus {
            role: "member".to_owned(),
            version: "0.1.0".to_owned(),
            uptime: 17,
            protocol: Protocol::Gikev2,
            moving_to: None,
            state: "registered".to_owned(),
            registered: false,
            identity: "10.0.0.1".parse().unwrap(),
            local: at,
            gateway: at,
            gateways: vec![at],
            listening: Vec::new(),
            overrun: 4,
            counters: MemberCounters { registrations: 2, rekeys: 9, ..MemberCounters::default() },
            last_error: None,
            key_log: None,
            machine: serde_json::Value::Null,
            groups: vec![group("8400"), group("fqdn:two.example.org")],
        }
    }

    #[test]
    fn a_member_is_told_whole() {
        let text = member(&status(), &[("8400".to_owned(), plane()), ("fqdn:two.example.org".to_owned(), plane())]);
        let page = read(&text);
        let is = |expected: f64, name: &str, labels: &[(&str, &str)]| {
            assert!((value(&page, name, labels) - expected).abs() < 1e-9, "{name} {labels:?} in\n{text}");
        };
        is(1.0, "keyferry_build_info", &[("role", "member"), ("version", "0.1.0")]);
        is(1.0, "keyferry_member_protocol", &[("protocol", "gikev2")]);
        is(1.0, "keyferry_member_registered", &[("group", "8400")]);
        is(0.0, "keyferry_member_registered", &[("group", "fqdn:two.example.org")]);
        is(0.0, "keyferry_member_unguarded", &[("group", "8400")]);
        let guard = "keyferry_member_guard_packets_dropped_total";
        is(17.0, guard, &[("group", "8400"), ("direction", "in")]);
        is(3.0, guard, &[("group", "8400"), ("direction", "out")]);
        assert_eq!(text.matches(&format!("\n{guard}{{")).count(), 2, "{text}");
        is(9.0, "keyferry_member_rekeys_total", &[]);
        let old = [("group", "8400"), ("spi", "0x00001000")];
        is(1.0, "keyferry_dataplane_packets_sealed_total", &old);
        is(44.0, "keyferry_dataplane_bytes_sealed_total", &old);
        is(1.0, "keyferry_dataplane_packets_opened_total", &old);
        is(1.0, "keyferry_dataplane_sa_sequence", &old);
        is(2.0, "keyferry_dataplane_sa_remaining_seconds", &old);
        is(1.0, "keyferry_dataplane_sa_leaving", &old);
        is(1.0, "keyferry_dataplane_sa_replay_senders", &old);
        is(0.0, "keyferry_dataplane_sa_needs_rekey", &old);
        let by = |reason| [("group", "8400"), ("spi", "0x00001000"), ("reason", reason)];
        is(3.0, "keyferry_dataplane_sa_packets_dropped_total", &by("InStateSeqError"));
        is(3600.0, "keyferry_dataplane_sa_remaining_seconds", &[("group", "8400"), ("spi", "0x00001001")]);
        is(3.0, "keyferry_dataplane_packets_dropped_total", &[("group", "8400"), ("reason", "InStateSeqError")]);
        is(0.0, "keyferry_dataplane_packets_dropped_total", &[("group", "8400"), ("reason", "OutError")]);
        is(1.0, "keyferry_dataplane_packets_dropped_without_sa_total", &[("group", "8400"), ("reason", "InHdrError")]);
        let rule = [
            ("group", "8400"),
            ("rule", "1"),
            ("action", "discard"),
            ("direction", "out"),
            ("source", "::/0"),
            ("destination", "ff15::2/128"),
        ];
        is(1.0, "keyferry_dataplane_rule_packets_total", &rule);
        is(44.0, "keyferry_dataplane_rule_bytes_total", &rule);
        is(0.0, "keyferry_dataplane_packets_clear_without_keys_total", &[("group", "8400")]);
        is(1.0, "keyferry_dataplane_problem", &[("group", "8400")]);
        is(0.0, "keyferry_dataplane_sa_offloaded", &old);
        is(1.0, "keyferry_dataplane_sa_offloaded", &[("group", "8400"), ("spi", "0x00001001")]);
        is(0.0, "keyferry_dataplane_dummies_sent_total", &old);
        assert!(!text.contains("lifetime") && !text.contains("bytes_both"), "{text}");
        is(2.0, "keyferry_dataplane_sas", &[("group", "fqdn:two.example.org")]);
    }

    #[test]
    fn without_a_data_plane_nothing_is_said_of_one() {
        let text = member(&status(), &[]);
        assert!(!read(&text).is_empty() && !text.contains("dataplane"), "{text}");
    }
}
