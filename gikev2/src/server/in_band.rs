//! GSA_INBAND_REKEY, key server's side (RFC 9838 section 2.4.2): members that are told rekeys over their IKE SAs, one request
//! after the other.
//!
//! An IKE SA and those that were made in its place are one line. What it carries goes along, and who is rekeyed over it is a
//! member no more when its last SA goes (section 2.3.3).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use keyferry_model::drive::Ctx;
use keyferry_model::id::Identity;
use keyferry_model::plan::{InBandTo, RekeyPlan};

use super::established::Purpose;
use super::{Server, Spi, State, cut_up};
use crate::registration::carried::{Carried, Groups};
use crate::rekey::in_band;
use crate::wire::message::Payloads;
use crate::wire::sk::Opened;

/// Rekeys that wait for a member. Whoever is so far behind has lost track.
const WAITING: usize = 16;

/// Names a line.
pub(super) type LineId = u64;

/// A rekey for one member: what of it is to be told next.
#[derive(Clone)]
struct Told {
    plan: Arc<RekeyPlan>,
    to: InBandTo,
    /// It is told that everything is deleted.
    excluded: bool,
    /// Which of the messages.
    at: usize,
}

/// One line of IKE SAs.
struct Line {
    /// Whose.
    identity: Identity,
    groups: Groups,
    spis: BTreeSet<Spi>,
    waiting: VecDeque<Told>,
    /// Which request is out, and over which SA.
    out: Option<(Spi, Told)>,
}

/// All lines with an IKE SA in use.
#[derive(Default)]
pub(super) struct Lines {
    last: LineId,
    lines: BTreeMap<LineId, Line>,
    /// By whose they are.
    of: BTreeMap<Identity, BTreeSet<LineId>>,
    /// Who has lost its last IKE SA, with the group.
    lost: Vec<(String, InBandTo)>,
    /// Lines that go on though an SA of theirs is gone that a request was out over.
    broken: BTreeSet<LineId>,
    none: Groups,
}

impl Lines {
    /// A line begins with an IKE SA.
    pub(super) fn begin(&mut self, identity: Identity, spi: Spi) -> LineId {
        self.last += 1;
        self.of.entry(identity.clone()).or_default().insert(self.last);
        let (groups, spis, waiting) = (Groups::default(), BTreeSet::from([spi]), VecDeque::new());
        self.lines.insert(self.last, Line { identity, groups, spis, waiting, out: None });
        self.last
    }

    /// It goes on with another SA.
    pub(super) fn enter(&mut self, line: LineId, spi: Spi) {
        if let Some(line) = self.lines.get_mut(&line) {
            line.spis.insert(spi);
        }
    }

    /// The SAs in use with a peer.
    pub(super) fn spis_of(&self, identity: &Identity) -> Vec<Spi> {
        let lines = self.of.get(identity).into_iter().flatten().filter_map(|id| self.lines.get(id));
        lines.flat_map(|line| line.spis.iter().copied()).collect()
    }

    /// An SA goes.
    pub(super) fn leave(&mut self, id: LineId, spi: Spi) {
        let Some(line) = self.lines.get_mut(&id) else { return };
        line.spis.remove(&spi);
        if let Some((_, told)) = line.out.take_if(|(over, _)| *over == spi) {
            line.waiting.push_front(told);
            self.broken.insert(id);
        }
        if line.spis.is_empty()
            && let Some(line) = self.lines.remove(&id)
        {
            if let Some(of) = self.of.get_mut(&line.identity) {
                of.remove(&id);
                if of.is_empty() {
                    self.of.remove(&line.identity);
                }
            }
            self.lost.extend(line.groups.lost());
        }
    }

    /// The SAs of a line.
    pub(super) fn spis(&self, line: LineId) -> BTreeSet<Spi> {
        self.lines.get(&line).map(|line| line.spis.clone()).unwrap_or_default()
    }

    pub(super) fn groups(&self, line: LineId) -> &Groups {
        self.lines.get(&line).map_or(&self.none, |line| &line.groups)
    }
}

impl Server {
    /// A member has registered over an SA of this line.
    pub(super) fn note_carried(&mut self, line: LineId, group: &str, carried: Carried) {
        if let Some(line) = self.lines.lines.get_mut(&line) {
            line.groups.note(group.to_owned(), carried);
        }
        self.keep_line(line);
    }

    /// It has left.
    pub(super) fn forget_carried(&mut self, line: LineId, group: &str) {
        if let Some(line) = self.lines.lines.get_mut(&line) {
            line.groups.forget(group);
            line.waiting.retain(|told| told.plan.policy.name != group);
        }
        self.keep_line(line);
    }

    /// Notes in all SAs of a line whether they are to be kept.
    pub(super) fn keep_line(&mut self, line: LineId) {
        let Some(line) = self.lines.lines.get(&line) else { return };
        let (kept, spis) = (line.groups.keeps(), line.spis.clone());
        for spi in spis {
            if let Some(state) = self.in_use(&spi) {
                state.kept = kept;
            }
            self.rearm(spi);
        }
    }

    /// Tells over what SAs are left what was out over one that is gone, and the model who has lost its last one.
    pub(super) fn report_lost(&mut self, ctx: &mut Ctx<'_>) {
        self.linger_connections(ctx.now.mono);
        while let Some(line) = self.lines.broken.pop_first() {
            self.feed(ctx, line);
        }
        if self.lines.lost.is_empty() {
            return;
        }
        for (group, to) in std::mem::take(&mut self.lines.lost) {
            if ctx.model.lose(&group, &to, ctx.now) {
                self.counters.lost += 1;
            }
        }
        ctx.flush();
    }

    /// Tells members of a rekey that are rekeyed in band. What was planned is durable, or queued to be so.
    pub fn rekey_in_band(&mut self, ctx: &mut Ctx<'_>, plan: &Arc<RekeyPlan>) {
        let Some(step) = &plan.in_band else { return };
        let members = step.members.iter().map(|to| (to, false));
        let all: BTreeMap<_, _> = members
            .chain(step.excluded.iter().map(|to| (to, true)))
            .map(|(to, excluded)| ((&to.identity, to.registration), excluded))
            .collect();
        let mut fed = Vec::new();
        for (id, line) in &mut self.lines.lines {
            let Some(to) = line.groups.in_band(&plan.policy.name) else { continue };
            let Some(excluded) = all.get(&(&to.identity, to.registration)).copied() else { continue };
            if excluded {
                // Keys are nothing for it any more.
                line.waiting.retain(|told| told.plan.policy.name != plan.policy.name);
            }
            if line.waiting.len() == WAITING {
                line.waiting.pop_front();
            }
            line.waiting.push_back(Told { plan: Arc::clone(plan), to: to.clone(), excluded, at: 0 });
            fed.push(*id);
        }
        let before = ctx.out.len();
        for line in fed {
            self.feed(ctx, line);
        }
        cut_up(ctx.out, before);
    }

    /// Sends the next request that waits, if none is out.
    pub(super) fn feed(&mut self, ctx: &mut Ctx<'_>, id: LineId) {
        loop {
            let Some(line) = self.lines.lines.get_mut(&id).filter(|line| line.out.is_none()) else { return };
            let Some(told) = line.waiting.front() else { return };
            let free = |spi: &&Spi| match self.sas.get(*spi).map(|e| &e.state) {
                Some(State::Established(state)) => state.requests.is_idle() && state.rekeying.doomed.is_none(),
                Some(State::AwaitKe(_) | State::ExpectAuth(_) | State::AwaitProof(_) | State::Closed(_)) | None => {
                    false
                }
            };
            let Some(spi) = line.spis.iter().find(free).copied() else { return };
            let Some(State::Established(state)) = self.sas.get(&spi).map(|e| &e.state) else { return };
            let chain = match (&told.plan.in_band, state.sa.key_wrap()) {
                _ if told.excluded => (told.at == 0).then(in_band::everything),
                (Some(step), Some((_, default))) => {
                    match in_band::told(&told.plan.policy, step, default, ctx.now.wall) {
                        Ok(messages) => messages.into_iter().nth(told.at),
                        Err(error) => {
                            tracing::error!(member = %told.to.identity, %error, "keys could not be wrapped");
                            None
                        }
                    }
                }
                (None, _) | (_, None) => None,
            };
            let Some(told) = line.waiting.pop_front() else { return };
            let Some(chain) = chain else {
                // Nothing is left to be told of this one.
                if told.excluded {
                    self.forget_carried(id, &told.plan.policy.name.clone());
                }
                continue;
            };
            line.out = Some((spi, told));
            self.ask(ctx, spi, Purpose::InBand, chain);
            return self.rearm(spi);
        }
    }

    /// A member has answered.
    pub(super) fn in_band_answered(&mut self, ctx: &mut Ctx<'_>, id: LineId, opened: &Opened) {
        let Some((_, told)) = self.lines.lines.get_mut(&id).and_then(|line| line.out.take()) else { return };
        let error = Payloads::parse(opened.first, opened.inner.expose(), &[]).map(|p| p.error());
        let group = &told.plan.policy.name;
        match error {
            Ok(None) => {
                if told.at == 0 && !told.excluded {
                    ctx.model.acknowledge_in_band(group, told.plan.id, &told.to, ctx.now);
                    ctx.flush();
                }
                if let Some(line) = self.lines.lines.get_mut(&id) {
                    line.waiting.push_front(Told { at: told.at + 1, ..told });
                }
            }
            refused => {
                tracing::warn!(%group, member = %told.to.identity, rekey = told.plan.id, ?refused,
                    "member does not take a rekey");
                if told.excluded {
                    self.forget_carried(id, &told.plan.policy.name.clone());
                }
            }
        }
        self.feed(ctx, id);
    }
}
