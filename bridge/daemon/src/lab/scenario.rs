//! What the lab plays: registration, traffic, rekeys, a crash of the gateway, a move, an eviction, a leave.
//!
//! ```text
//! start -> register -> traffic -----------------------------------------------------> stop -> account -> one leaves
//!                        rekey x3 -> kill, restart, rekey -> move one -> evict one
//! ```

mod evict;
mod leaving;
mod moving;
mod restart;
mod summary;

use std::time::{Duration, Instant};

use super::args::{Args, BreakOption};
use super::checks;
use super::files::DEACTIVATION;
use super::findings::Findings;
use super::fleet::Fleet;
use super::patience::Interrupted;
use super::report::Summary;
use super::view::{Row, View};

/// Long enough for a rekey, its copies, and acknowledgements.
const REKEY_PATIENCE: Duration = Duration::from_secs(5);
/// After the deactivation delay everything of the old keys is gone.
const AFTER_DEACTIVATION: Duration = Duration::from_millis(DEACTIVATION * 1000 + 300);

/// The scenario's state.
pub(super) struct Scenario<'a> {
    pub(super) fleet: Fleet,
    pub(super) view: &'a View,
    pub(super) findings: Findings,
    sabotage: Option<BreakOption>,
    /// Protocol each member speaks now: is it GDOI?
    gdoi: Vec<bool>,
    /// The member that moved to G-IKEv2, and the last rekey before that.
    moved: Option<(usize, u64)>,
    /// The member that was evicted, and the marks of that moment: nothing of what came later was meant for it.
    evicted: Option<(usize, Vec<u64>)>,
}

impl<'a> Scenario<'a> {
    pub(super) fn new(args: &Args, fleet: Fleet, view: &'a View) -> Self {
        let gdoi = (0..args.members()).map(|n| n < args.gdoi).collect();
        Self { fleet, view, findings: Findings::default(), sabotage: args.sabotage, gdoi, moved: None, evicted: None }
    }

    /// Plays everything. Errors are those that keep the lab from running at all.
    pub(super) fn play(&mut self) -> anyhow::Result<Summary> {
        self.view.stage("starting the gateway");
        self.fleet.start_gateway(None, false)?;
        if self.register()? {
            self.fleet.start_apps()?;
            self.show();
            self.play_with_traffic()?;
        } else {
            self.findings.skip(self.view, "everything else", "not all members are registered");
        }
        self.summary()
    }

    /// The lab, to be kept or ended.
    pub(super) fn into_fleet(self) -> Fleet {
        self.fleet
    }

    fn play_with_traffic(&mut self) -> anyhow::Result<()> {
        let outcome = self.begin_traffic();
        self.findings.stage(self.view, "traffic-flows", outcome)?;
        let outcome = self.three_rekeys();
        self.findings.stage(self.view, "rekeys", outcome)?;
        let outcome = restart::play(self);
        self.findings.stage(self.view, "restart", outcome)?;
        let outcome = moving::play(self);
        self.findings.stage(self.view, "move", outcome)?;
        let outcome = evict::play(self);
        self.findings.stage(self.view, "evict", outcome)?;
        let outcome = self.account();
        self.findings.stage(self.view, "traffic", outcome)?;
        let outcome = leaving::play(self);
        Ok(self.findings.stage(self.view, "leave", outcome)?)
    }

    /// All members of the plan.
    pub(super) fn all(&self) -> Vec<usize> {
        (0..self.fleet.plan.members.len()).collect()
    }

    /// All members but the evicted one.
    pub(super) fn staying(&self) -> Vec<usize> {
        let gone = self.evicted.as_ref().map(|(index, _)| *index);
        self.all().into_iter().filter(|i| Some(*i) != gone).collect()
    }

    /// Asks the gateway for what it knows and remembers it.
    pub(super) fn note(&mut self) -> anyhow::Result<()> {
        let gateway = self.fleet.gateway();
        let (group, members, rekeys) = (gateway.status()?, gateway.members()?, gateway.rekeys()?);
        self.findings.note(&group, members, rekeys);
        Ok(())
    }

    fn register(&mut self) -> anyhow::Result<bool> {
        self.view.stage("registering all members");
        for index in self.all() {
            self.fleet.start_member(index)?;
        }
        let expected = self.fleet.expected()?;
        let gateway = self.fleet.gateway();
        let mut last = None;
        let outcome = self.fleet.patience.until("registering", Duration::from_secs(20), || {
            let check = checks::registered(&expected, &gateway.members()?);
            let holdings = self.fleet.holdings(&self.all())?;
            if check.ok && holdings.iter().all(|h| !h.opened.is_empty()) {
                return Ok(Some(check));
            }
            last = Some(check);
            Ok(None)
        });
        let outcome = match (outcome, last) {
            // Who is missing says more than that time is up.
            (Err(e), Some(check)) if !check.ok && !e.is::<Interrupted>() => Ok(check),
            (outcome, _) => outcome,
        };
        let good = outcome.as_ref().is_ok_and(|c| c.ok);
        let outcome = outcome.map(|check| self.findings.check(self.view, check));
        self.findings.stage(self.view, "registered", outcome)?;
        if !good {
            for name in std::iter::once("gateway").chain(self.fleet.plan.members.iter().map(|m| m.name.as_str())) {
                self.view.say(&format!("--- end of the log of {name}\n{}", self.fleet.log_tail(name)));
            }
        }
        self.note()?;
        Ok(good)
    }

    fn show(&self) {
        let row = |(index, member): (usize, &super::plan::MemberPlan)| Row {
            name: member.name.clone(),
            protocol: member.protocol.to_string(),
            address: member.address.to_string(),
            ticks: self.fleet.apps.get(index).map(super::apps::App::ticks).unwrap_or_default(),
        };
        let rows = self.fleet.plan.members.iter().enumerate().map(row).collect();
        self.view.show(rows, self.fleet.watching.clone());
    }

    fn begin_traffic(&mut self) -> anyhow::Result<()> {
        self.view.stage(&format!("sending to {}", self.fleet.plan.traffic));
        for app in &mut self.fleet.apps {
            app.begin()?;
        }
        self.fleet.patience.pause(Duration::from_millis(1500))?;
        let (all, to) = (self.all(), self.fleet.marks()?);
        let from = vec![0; to.len()];
        let deliveries = self.fleet.settled(&all, &all, &from, &to)?;
        self.findings.check(self.view, checks::lossless("traffic-flows", &deliveries));
        Ok(())
    }

    fn three_rekeys(&mut self) -> anyhow::Result<()> {
        let victim =
            self.fleet.plan.members.last().map(|m| m.number).filter(|_| self.sabotage == Some(BreakOption::Rekey));
        if let Some(victim) = victim {
            self.fleet.topology.cut_off(victim, true)?;
        }
        let from = self.fleet.marks()?;
        let mut outcome = Ok(());
        for n in 1..=3 {
            outcome = outcome.and(self.rekey(&format!("rekey-{n}"), &format!("rekey {n} of 3")));
        }
        if let Some(victim) = victim {
            self.fleet.topology.cut_off(victim, false)?;
        }
        outcome?;
        let (all, to) = (self.all(), self.fleet.marks()?);
        let deliveries = self.fleet.settled(&all, &all, &from, &to)?;
        self.findings.check(self.view, checks::lossless("rekey-lossless", &deliveries));
        Ok(())
    }

    /// Rekeys the group by command, and waits until the old keys are gone.
    pub(super) fn rekey(&mut self, check: &str, story: &str) -> anyhow::Result<()> {
        self.view.stage(story);
        let gateway = self.fleet.gateway();
        let before = gateway.status()?;
        let asked = Instant::now();
        let id = gateway.rekey()?;
        self.await_rekey(check, id, &before)?;
        Ok(self.fleet.patience.pause_until(asked + AFTER_DEACTIVATION)?)
    }

    /// Does a member have to acknowledge rekeys? GDOI's do, those of G-IKEv2 that can, and who is told them in band.
    fn must_acknowledge(&self, index: usize) -> bool {
        let can = self.fleet.plan.members.get(index).is_some_and(|m| self.fleet.plan.acknowledges(m));
        self.gdoi.get(index) == Some(&true) || can || self.moved.is_some_and(|(moved, _)| moved == index)
    }

    /// Waits until all who stay have the keys of a rekey, and those who have to have acknowledged it.
    pub(super) fn await_rekey(
        &mut self,
        name: &str,
        id: u64,
        before: &keyferry_model::view::GroupView,
    ) -> anyhow::Result<()> {
        let staying = self.staying();
        let asked = staying.iter().filter(|i| self.must_acknowledge(**i));
        let must_acknowledge = asked.map(|i| self.fleet.identity(*i)).collect::<anyhow::Result<Vec<_>>>()?;
        let gateway = self.fleet.gateway();
        let wants_acks = self.sabotage != Some(BreakOption::Ack);
        let mut check = None;
        let outcome = self.fleet.patience.until("rekeying", REKEY_PATIENCE, || {
            let found = checks::rekeyed(name, before, &gateway.status()?, &self.fleet.holdings(&staying)?);
            let rekeys: Vec<_> = gateway.rekeys()?.into_iter().filter(|r| r.id == id).collect();
            let acks = rekeys.first().map_or(0, |r| r.acks.len());
            let done = found.ok && (acks >= must_acknowledge.len() || !wants_acks);
            check = Some(found);
            Ok(done.then_some(()))
        });
        match (check, outcome) {
            // Whether the keys arrived is this check; acknowledgements have one of their own.
            (Some(check), Err(e)) if !e.is::<Interrupted>() => self.findings.check(self.view, check),
            (Some(check), Ok(())) => self.findings.check(self.view, check),
            (_, outcome) => outcome?,
        }
        self.findings.expected_acks.push((id, must_acknowledge));
        self.note()
    }

    /// A member speaks G-IKEv2 from now on.
    pub(super) fn has_moved(&mut self, index: usize) {
        if let Some(gdoi) = self.gdoi.get_mut(index) {
            *gdoi = false;
            let last = self.findings.rekeys.keys().next_back().copied().unwrap_or_default();
            self.moved = Some((index, last));
        }
    }

    /// The sabotage asked for, if any.
    pub(super) fn sabotage(&self) -> Option<BreakOption> {
        self.sabotage
    }

    /// The first member that speaks GDOI.
    pub(super) fn first_gdoi(&self) -> Option<usize> {
        self.gdoi.iter().position(|g| *g)
    }

    /// Remembers who was evicted, and when.
    pub(super) fn has_evicted(&mut self, index: usize, marks: Vec<u64>) {
        self.evicted = Some((index, marks));
    }
}
