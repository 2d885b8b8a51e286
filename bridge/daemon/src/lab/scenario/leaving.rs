//! The member that moved leaves the group, over the IKE SA it came by (RFC 9838 section 2.3.2).

use std::time::Duration;

use super::Scenario;
use crate::lab::checks::{self, Check};
use crate::lab::patience::Interrupted;

pub(super) fn play(s: &mut Scenario<'_>) -> anyhow::Result<()> {
    let Some((index, _)) = s.moved else {
        s.findings.skip(
            s.view,
            "leave",
            "no member has moved: the others' IKE SAs went with the gateway that was killed",
        );
        return Ok(());
    };
    let name = s.fleet.plan.members.get(index).map(|m| m.name.clone()).unwrap_or_default();
    s.view.stage(&format!("{name} leaves the group"));
    let outcome = s.fleet.member(index)?.leave();
    let complaint = outcome.err().map(|e| format!("{e:#}"));
    let mut check = None;
    let outcome = s.fleet.patience.until("leaving", Duration::from_secs(3), || {
        let found = checks::left(s.fleet.member_view(index)?.as_ref());
        let done = found.ok;
        check = Some(found);
        Ok(done.then_some(()))
    });
    match (check, outcome) {
        (_, Err(e)) if e.is::<Interrupted>() => return Err(e),
        (Some(check), _) => {
            let check = match complaint {
                Some(complaint) => Check::failed("leave", format!("{complaint}; {}", check.detail)),
                None => check,
            };
            s.findings.check(s.view, check);
        }
        (None, outcome) => outcome?,
    }
    s.note()
}
