//! A gateway: its groups, who is in them, how rekeys go, and what came over the network.

use keyferry_model::id::Protocol;
use keyferry_model::view::GroupView;

use super::page::{Kind, Number, Page};
use crate::control::GatewayStatus;

/// The metrics of a gateway.
pub(crate) fn gateway(status: &GatewayStatus) -> String {
    let mut page = Page::default();
    process(&mut page, "gateway", &status.version, status.uptime);
    groups(&mut page, &status.groups);
    rekeys(&mut page, &status.groups);
    let (name, help) = ("keyferry_gateway_rekeys_unmade_total", "Rekeys of one protocol that could not be told whole.");
    page.counter(name, help, status.rekeys_unmade);
    network(&mut page, status);
    page.text()
}

/// What every process says.
pub(super) fn process(page: &mut Page, role: &str, version: &str, uptime: u64) {
    page.metric(Kind::Gauge, "keyferry_build_info", "What runs, and its version.", |values| {
        values.put(&[("role", role), ("version", version)], 1);
    });
    page.gauge("keyferry_uptime_seconds", "Time since the start.", uptime);
}

fn groups(page: &mut Page, groups: &[GroupView]) {
    page.gauge("keyferry_gateway_groups", "Groups served.", groups.len() as u64);
    page.metric(Kind::Gauge, "keyferry_gateway_members", "Members registered, by protocol.", |values| {
        for g in groups {
            for (protocol, n) in [(Protocol::Gdoi, g.gdoi_members), (Protocol::Gikev2, g.gikev2_members)] {
                values.put(&[("group", &g.name), ("protocol", &protocol.to_string())], n);
            }
        }
    });
    let of_each: [Number<GroupView>; 4] = [
        ("keyferry_gateway_sender_ids_left", "Sender IDs that can be given until the group is reset.", |g| {
            g.sender_ids_left
        }),
        ("keyferry_gateway_next_rekey_seconds", "Time until the next rekey that comes by itself.", |g| g.next_rekey_in),
        ("keyferry_gateway_epoch", "Number of the newest epoch.", |g| g.epochs.last().map_or(0, |e| e.number)),
        ("keyferry_gateway_epoch_remaining_seconds", "Time until the newest epoch's keys end.", |g| {
            g.epochs.last().map_or(0, |e| e.remaining)
        }),
    ];
    for (name, help, of) in of_each {
        page.metric(Kind::Gauge, name, help, |values| {
            groups.iter().for_each(|g| values.put(&[("group", &g.name)], of(g)));
        });
    }
}

fn rekeys(page: &mut Page, groups: &[GroupView]) {
    let (name, help) = ("keyferry_gateway_rekeys_total", "Rekeys since the group was made.");
    page.metric(Kind::Counter, name, help, |values| {
        groups.iter().for_each(|g| values.put(&[("group", &g.name)], g.rekeys));
    });
    let last = || groups.iter().filter_map(|g| Some((g.name.as_str(), g.last_rekey?)));
    let (name, help) =
        ("keyferry_gateway_last_rekey_expected", "Members that were to acknowledge the last such rekey.");
    page.metric(Kind::Gauge, name, help, |values| {
        last().for_each(|(group, last)| values.put(&[("group", group)], last.expected));
    });
    let (name, help) = ("keyferry_gateway_last_rekey_acknowledged", "Members that have acknowledged it.");
    page.metric(Kind::Gauge, name, help, |values| {
        last().for_each(|(group, last)| values.put(&[("group", group)], last.acknowledged));
    });
    let (name, help) = ("keyferry_gateway_last_rekey_missed", "Members that have not, though their time has passed.");
    page.metric(Kind::Gauge, name, help, |values| {
        last().for_each(|(group, last)| values.put(&[("group", group)], last.missed));
    });
    let (name, help) = ("keyferry_gateway_rekey_messages_sent", "Messages sent under the present rekey SA.");
    page.metric(Kind::Gauge, name, help, |values| {
        for g in groups {
            for sa in &g.rekey_sas {
                values.put(&[("group", &g.name), ("protocol", &sa.protocol.to_string())], sa.sent);
            }
        }
    });
}

fn network(page: &mut Page, status: &GatewayStatus) {
    page.metric(Kind::Gauge, "keyferry_gateway_ike_sas", "Phase 1 SAs of GDOI, and IKE SAs of G-IKEv2.", |values| {
        values.put(&[("protocol", &Protocol::Gdoi.to_string())], status.ike_sas.gdoi);
        values.put(&[("protocol", &Protocol::Gikev2.to_string())], status.ike_sas.gikev2);
    });
    page.gauge("keyferry_gateway_tcp_connections", "TCP connections that are open.", status.connections as u64);
    page.gauge("keyferry_gateway_drained", "Whether members are sent to other gateways.", status.drained.into());
    let d = &status.datagrams;
    let (name, help) =
        ("keyferry_gateway_events_total", "What came in and what became of it, as in keyferry status --json.");
    page.metric(Kind::Counter, name, help, |values| {
        for (protocol, counters) in [(Protocol::Gdoi, &d.gdoi), (Protocol::Gikev2, &d.gikev2)] {
            for (event, n) in counters.as_object().into_iter().flatten() {
                let n = n.as_u64().unwrap_or_default();
                values.put(&[("protocol", &protocol.to_string()), ("event", event)], n);
            }
        }
    });
    for (name, help, n) in [
        ("keyferry_gateway_datagrams_of_neither_total", "Datagrams that belonged to neither protocol.", d.neither),
        ("keyferry_gateway_datagrams_overrun_total", "Datagrams dropped because too many were waiting.", d.overrun),
        ("keyferry_gateway_datagrams_unsent_total", "Datagrams that could not be sent.", d.unsent),
    ] {
        page.counter(name, help, n);
    }
}

#[cfg(test)]
mod tests {
    use keyferry_model::view::{EpochView, LastRekeyView, RekeySaView};

    use super::super::page::reader::{read, value};
    use super::*;
    use crate::control::{DatagramCounters, IkeSas};

    fn group(name: &str, acknowledged: bool) -> GroupView {
        let epoch =
            |number| EpochView { number, spis: Vec::new(), active: true, replaced: false, remaining: 60 * number };
        GroupView {
            name: name.to_owned(),
            ids: Vec::new(),
            gdoi_members: 700,
            gikev2_members: 100,
            epochs: vec![epoch(3), epoch(4)],
            rekey_sas: vec![RekeySaView { protocol: Protocol::Gdoi, spi: "aa".into(), sent: 3, remaining: 60 }],
            next_sender_id: 5,
            sender_ids_left: 250,
            rekeys: 12,
            next_rekey_in: 90,
            last_rekey: acknowledged.then_some(LastRekeyView { id: 12, expected: 800, acknowledged: 797, missed: 2 }),
            common: None,
        }
    }

    #[test]
    fn a_gateway_is_told_whole() {
        let status = GatewayStatus {
            role: "gateway".to_owned(),
            version: "0.1.0".to_owned(),
            uptime: 5,
            listen: Vec::new(),
            drained: false,
            rekeys_unmade: 7,
            listen_tcp: Vec::new(),
            connections: 6,
            ike_sas: IkeSas { gdoi: 1, gikev2: 2 },
            groups: vec![group("branches", true), group("quiet \"one\"", false)],
            datagrams: DatagramCounters {
                gdoi: serde_json::to_value(gdoi::Counters { received: 11, ..Default::default() }).unwrap_or_default(),
                gikev2: serde_json::to_value(gikev2::Counters { acks: 22, ..Default::default() }).unwrap_or_default(),
                neither: 33,
                overrun: 44,
                unsent: 55,
            },
        };
        let text = gateway(&status);
        let page = read(&text);
        let is = |expected: f64, name: &str, labels: &[(&str, &str)]| {
            assert!((value(&page, name, labels) - expected).abs() < 1e-9, "{name} {labels:?} in\n{text}");
        };
        is(2.0, "keyferry_gateway_groups", &[]);
        is(700.0, "keyferry_gateway_members", &[("group", "branches"), ("protocol", "gdoi")]);
        is(250.0, "keyferry_gateway_sender_ids_left", &[("group", "quiet \"one\"")]);
        is(4.0, "keyferry_gateway_epoch", &[("group", "branches")]);
        is(240.0, "keyferry_gateway_epoch_remaining_seconds", &[("group", "branches")]);
        is(12.0, "keyferry_gateway_rekeys_total", &[("group", "branches")]);
        is(797.0, "keyferry_gateway_last_rekey_acknowledged", &[("group", "branches")]);
        is(2.0, "keyferry_gateway_last_rekey_missed", &[("group", "branches")]);
        is(7.0, "keyferry_gateway_rekeys_unmade_total", &[]);
        is(2.0, "keyferry_gateway_ike_sas", &[("protocol", "gikev2")]);
        is(11.0, "keyferry_gateway_events_total", &[("protocol", "gdoi"), ("event", "received")]);
        is(22.0, "keyferry_gateway_events_total", &[("protocol", "gikev2"), ("event", "acks")]);
        is(44.0, "keyferry_gateway_datagrams_overrun_total", &[]);
        // Nobody was to acknowledge anything in the other group.
        assert_eq!(text.matches("\nkeyferry_gateway_last_rekey_missed{").count(), 1);
    }
}
