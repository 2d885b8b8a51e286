//! The account in the end: what of the traffic arrived, what was acknowledged, what was seen on the wire.

use std::collections::BTreeSet;

use anyhow::anyhow;

use super::Scenario;
use crate::lab::apps::App;
use crate::lab::checks::{self, Delivery};
use crate::lab::report::{EpochSummary, MemberSummary, Summary, Traffic};

impl Scenario<'_> {
    /// Stops the traffic and looks at all of it, and at what was seen meanwhile.
    pub(super) fn account(&mut self) -> anyhow::Result<()> {
        self.view.stage("stopping the traffic");
        let deliveries = self.stop_and_count()?;
        self.note()?;
        self.findings.check(self.view, checks::lossless("traffic", &deliveries));
        let duplicates = self.duplicates()?;
        self.findings.check(self.view, checks::unrepeated(&duplicates));
        let rekeys: Vec<_> = self
            .findings
            .expected_acks
            .iter()
            .filter(|(_, members)| !members.is_empty())
            .filter_map(|(id, members)| Some((self.findings.rekeys.get(id)?.clone(), members.clone())))
            .collect();
        match rekeys.is_empty() {
            true => self.findings.skip(self.view, "acks", "there is no member to acknowledge"),
            false => self.findings.check(self.view, checks::acknowledged(&rekeys)),
        }
        self.account_in_band()?;
        let seen = self.fleet.watching.seen();
        self.findings.check(self.view, checks::sender_ids(&self.findings.sender_ids, &seen));
        self.findings.check(self.view, checks::wire(&seen, &self.findings.epochs));
        Ok(())
    }

    /// Looks at what the member that moved was told over its IKE SA since.
    fn account_in_band(&mut self) -> anyhow::Result<()> {
        let Some((index, last)) = self.moved else {
            self.findings.skip(self.view, "in-band", "no member has moved: only who registers late is rekeyed in band");
            return Ok(());
        };
        let since: Vec<_> = self.findings.rekeys.values().filter(|r| r.id > last).collect();
        let check = checks::in_band(self.fleet.member_view(index)?.as_ref(), &since);
        self.findings.check(self.view, check);
        Ok(())
    }

    /// Stops all applications; what arrived of all that was meant to.
    fn stop_and_count(&mut self) -> anyhow::Result<Vec<Delivery>> {
        let end: Vec<u64> = self.fleet.apps.iter_mut().map(App::stop).collect::<anyhow::Result<_>>()?;
        let staying = self.staying();
        let start = vec![0; end.len()];
        let mut deliveries = self.fleet.settled(&staying, &staying, &start, &end)?;
        if let Some((gone, then)) = self.evicted.clone() {
            deliveries.extend(self.fleet.settled(&[gone], &staying, &start, &then)?);
            deliveries.extend(self.fleet.settled(&staying, &[gone], &start, &then)?);
        }
        Ok(deliveries)
    }

    /// Packets that members' applications received more than once.
    fn duplicates(&mut self) -> anyhow::Result<Vec<(String, u64)>> {
        let names: Vec<String> = self.fleet.plan.members.iter().map(|m| m.name.clone()).collect();
        let counts = self.fleet.apps.iter_mut().map(|a| Ok(a.report()?.senders.iter().map(|s| s.duplicates).sum()));
        Ok(names.into_iter().zip(counts.collect::<anyhow::Result<Vec<u64>>>()?).collect())
    }

    /// Everything found, for people and machines.
    pub(super) fn summary(&mut self) -> anyhow::Result<Summary> {
        let deliveries = if self.fleet.apps.is_empty() { Vec::new() } else { self.stop_and_count()? };
        let mut members = Vec::new();
        for index in self.all() {
            members.push(self.member_summary(index, &deliveries)?);
        }
        let seen = self.fleet.watching.seen();
        let packets = |spis: &BTreeSet<u32>| spis.iter().filter_map(|s| seen.spis.get(s)).sum();
        let epochs = self.findings.epochs.iter().map(|(number, spis)| EpochSummary {
            number: *number,
            spis: spis.iter().map(|s| format!("{s:#010x}")).collect(),
            packets: packets(spis),
        });
        Ok(Summary {
            ok: self.findings.checks.iter().all(|c| c.ok),
            checks: self.findings.checks.clone(),
            skipped: self.findings.skipped.clone(),
            traffic: Traffic {
                sent: members.iter().map(|m| m.sent).sum(),
                received: members.iter().map(|m| m.received).sum(),
                lost: deliveries.iter().map(|d| d.count.missing).sum(),
                cleartext_on_wire: seen.clear,
            },
            members,
            epochs: epochs.collect(),
            rekeys: self.findings.rekeys.values().cloned().collect(),
        })
    }

    fn member_summary(&mut self, index: usize, deliveries: &[Delivery]) -> anyhow::Result<MemberSummary> {
        let identity = self.fleet.identity(index)?;
        let seen = self.findings.members.iter().find(|v| v.identity == identity).cloned();
        let plan = self.fleet.plan.members.get(index).cloned().ok_or_else(|| anyhow!("no such member"))?;
        let (name, protocol) = (plan.name, plan.protocol);
        let report = if self.fleet.apps.is_empty() { Default::default() } else { self.fleet.app(index)?.report()? };
        Ok(MemberSummary {
            identity,
            protocol: seen.as_ref().map_or(protocol, |v| v.protocol),
            history: seen.as_ref().map(|v| v.history.clone()).unwrap_or_default(),
            state: seen.as_ref().map(|v| v.state),
            address: seen.as_ref().map(|v| v.address),
            registrations: seen.as_ref().map(|v| v.registrations).unwrap_or_default(),
            sender_ids: seen.as_ref().map(|v| v.sender_ids.clone()).unwrap_or_default(),
            acknowledged: seen.as_ref().map(|v| v.acknowledged).unwrap_or_default(),
            sent: report.sent,
            received: report.senders.iter().map(|s| s.received).sum(),
            lost: deliveries.iter().filter(|d| d.receiver == name).map(|d| d.count.missing).sum(),
            duplicates: report.senders.iter().map(|s| s.duplicates).sum(),
            worst_us: report.senders.iter().map(|s| s.worst_us).max().unwrap_or_default(),
            name,
        })
    }
}
