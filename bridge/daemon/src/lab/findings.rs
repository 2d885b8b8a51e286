//! What the scenario has found so far.

use std::collections::{BTreeMap, BTreeSet};

use keyferry_model::id::Identity;
use keyferry_model::view::{GroupView, MemberView, RekeyView};

use super::checks::{self, Check, Skipped};
use super::patience::Interrupted;
use super::view::View;

/// Checks made and evidence collected.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// Made.
    pub checks: Vec<Check>,
    /// Not made.
    pub skipped: Vec<Skipped>,
    /// SPIs of every epoch seen.
    pub epochs: BTreeMap<u64, BTreeSet<u32>>,
    /// Sender IDs of every registration seen.
    pub sender_ids: Vec<(String, Vec<u32>)>,
    /// Rekeys that the lab asked for, and the members that had to acknowledge them.
    pub expected_acks: Vec<(u64, Vec<Identity>)>,
    /// Rekeys as the gateway last told them, by number; a gateway with a new store forgets them.
    pub rekeys: BTreeMap<u64, RekeyView>,
    /// The last time when the gateway was asked for its members.
    pub members: Vec<MemberView>,
}

impl Findings {
    /// Adds a check.
    pub(super) fn check(&mut self, view: &View, check: Check) {
        view.check(&check);
        self.checks.push(check);
    }

    /// Adds a check that was not made.
    pub(super) fn skip(&mut self, view: &View, name: &str, reason: &str) {
        let skipped = Skipped { name: name.to_owned(), reason: reason.to_owned() };
        view.skipped(&skipped);
        self.skipped.push(skipped);
    }

    /// The outcome of a stage: if it could not be carried out, that is a failed check of its name. Only the user's wish to
    /// end goes on up.
    pub(super) fn stage(&mut self, view: &View, name: &str, outcome: anyhow::Result<()>) -> Result<(), Interrupted> {
        let Err(error) = outcome else { return Ok(()) };
        if error.is::<Interrupted>() {
            return Err(Interrupted);
        }
        self.check(view, Check::failed(name, format!("{error:#}")));
        Ok(())
    }

    /// Remembers what the gateway said.
    pub(super) fn note(&mut self, group: &GroupView, members: Vec<MemberView>, rekeys: Vec<RekeyView>) {
        for epoch in &group.epochs {
            self.epochs.entry(epoch.number).or_default().extend(checks::spis(epoch));
        }
        for member in &members {
            self.sender_ids.push((member.identity.to_string(), member.sender_ids.clone()));
        }
        self.members = members;
        self.rekeys.extend(rekeys.into_iter().map(|r| (r.id, r)));
    }
}
