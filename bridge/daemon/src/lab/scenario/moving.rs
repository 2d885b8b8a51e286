//! A member leaves GDOI and comes back by G-IKEv2.

use std::sync::mpsc::TryRecvError;
use std::time::Duration;

use anyhow::anyhow;
use keyferry_model::id::Protocol;

use super::Scenario;
use crate::lab::checks::{self, Check};
use crate::lab::patience::Interrupted;

pub(super) fn play(s: &mut Scenario<'_>) -> anyhow::Result<()> {
    let Some(index) = s.first_gdoi() else {
        for name in ["move", "move-lossless"] {
            s.findings.skip(s.view, name, "there is no GDOI member to move");
        }
        return Ok(());
    };
    let name = s.fleet.plan.members.get(index).map(|m| m.name.clone()).unwrap_or_default();
    s.view.stage(&format!("moving {name} from GDOI to G-IKEv2"));
    s.view.relabel(&name, "gdoi, moving");
    let from = s.fleet.marks()?;
    let before = s.fleet.member_view(index)?;
    let outcome = s.fleet.member(index)?.move_to(Protocol::Gikev2)?;
    let outcome = s.fleet.patience.until("moving", Duration::from_secs(8), || match outcome.try_recv() {
        Ok(outcome) => Ok(Some(outcome)),
        Err(TryRecvError::Empty) => Ok(None),
        Err(TryRecvError::Disconnected) => Ok(Some(Err(anyhow!("the member gave no answer")))),
    });
    let complaint = match outcome {
        Ok(Ok(())) => None,
        Err(e) if e.is::<Interrupted>() => return Err(e),
        Ok(Err(e)) | Err(e) => Some(format!("{e:#}")),
    };
    s.fleet.patience.pause(Duration::from_secs(2))?;
    let after = s.fleet.member_view(index)?;
    let mut check = checks::moved(before.as_ref(), after.as_ref());
    if let Some(complaint) = complaint {
        check = Check::failed("move", format!("{complaint}; {}", check.detail));
    }
    if check.ok {
        s.has_moved(index);
        s.view.relabel(&name, "gdoi > gikev2");
    }
    s.findings.check(s.view, check);
    s.note()?;
    let (all, to) = (s.all(), s.fleet.marks()?);
    let deliveries = s.fleet.settled(&all, &all, &from, &to)?;
    s.findings.check(s.view, checks::lossless("move-lossless", &deliveries));
    Ok(())
}
