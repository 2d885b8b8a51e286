//! A member is evicted: it hears nothing any more, is heard by nobody, and may not come back.

use std::time::{Duration, Instant};

use keyferry_model::view::MemberState;

use super::{AFTER_DEACTIVATION, Scenario};
use crate::lab::args::BreakOption;
use crate::lab::checks::{self, Check, Leak};
use crate::lab::files::ACTIVATION;
use crate::lab::patience::Interrupted;

/// After the activation delay, and some more for the last rekey message, all senders use the new keys.
const AFTER_ACTIVATION: Duration = Duration::from_millis(ACTIVATION * 1000 + 800);

pub(super) fn play(s: &mut Scenario<'_>) -> anyhow::Result<()> {
    let Some(gone) = s.all().pop() else { return Ok(()) };
    let name = s.fleet.plan.members.get(gone).map(|m| m.name.clone()).unwrap_or_default();
    s.view.stage(&format!("evicting {name}"));
    s.fleet.app(gone)?.stop()?;
    // What it has sent and what was sent to it is under way no more.
    s.fleet.patience.pause(Duration::from_millis(300))?;
    let from = s.fleet.marks()?;
    let before = s.fleet.gateway().status()?;
    let identity = s.fleet.identity(gone)?;
    let asked = Instant::now();
    s.has_evicted(gone, from.clone());
    s.view.relabel(&name, "evicted");
    if s.sabotage() != Some(BreakOption::Evict) {
        let id = s.fleet.gateway().evict(&identity)?;
        s.await_rekey("evict-rekey", id, &before)?;
    }
    s.fleet.patience.pause_until(asked + AFTER_ACTIVATION)?;
    shut_out(s, gone)?;
    s.fleet.patience.pause_until(asked + AFTER_DEACTIVATION)?;
    ignored(s, gone)?;
    refused(s, gone)?;
    let staying = s.staying();
    if staying.len() < 2 {
        s.findings.skip(s.view, "evict-others-lossless", "only one member is left");
        return Ok(());
    }
    let to = s.fleet.marks()?;
    let deliveries = s.fleet.settled(&staying, &staying, &from, &to)?;
    s.findings.check(s.view, checks::lossless("evict-others-lossless", &deliveries));
    Ok(())
}

/// What does it decrypt, now that the new keys are in use?
fn shut_out(s: &mut Scenario<'_>, gone: usize) -> anyhow::Result<()> {
    let staying = s.staying();
    let (from, before) = (s.fleet.marks()?, s.fleet.holding(gone)?);
    s.fleet.patience.pause(Duration::from_secs(2))?;
    let to = s.fleet.marks()?;
    // What is still under way may arrive; none of it should.
    s.fleet.patience.pause(Duration::from_millis(300))?;
    let deliveries = s.fleet.deliveries(&staying, &[gone], &from, &to)?;
    let received = deliveries.iter().map(|d| d.count.received).sum();
    let sent = deliveries.iter().map(|d| d.count.received + d.count.missing).sum();
    let leak = Leak { received, opened: s.fleet.holding(gone)?.opened_since(&before), sent };
    s.findings.check(s.view, checks::shut_out(leak));
    Ok(())
}

/// Does anybody take what it sends, now that the old keys are gone?
fn ignored(s: &mut Scenario<'_>, gone: usize) -> anyhow::Result<()> {
    let from = s.fleet.marks()?;
    s.fleet.app(gone)?.begin()?;
    s.fleet.patience.pause(Duration::from_millis(700))?;
    s.fleet.app(gone)?.stop()?;
    s.fleet.patience.pause(Duration::from_millis(300))?;
    let (staying, to) = (s.staying(), s.fleet.marks()?);
    let deliveries = s.fleet.deliveries(&[gone], &staying, &from, &to)?;
    let sent = to.iter().zip(&from).nth(gone).map(|(to, from)| to - from).unwrap_or_default();
    s.findings.check(s.view, checks::ignored(sent, &deliveries));
    Ok(())
}

/// May it come back? It is started anew, and tries.
fn refused(s: &mut Scenario<'_>, gone: usize) -> anyhow::Result<()> {
    let before = s.fleet.member_view(gone)?;
    s.fleet.start_member(gone)?;
    let answer = s.fleet.patience.until("its registration is refused", Duration::from_secs(5), || {
        let refusal = s.fleet.member(gone)?.refusal()?;
        let came_back = !s.fleet.holding(gone)?.opened.is_empty();
        Ok(if came_back { Some(None) } else { refusal.map(Some) })
    });
    let after = s.fleet.member_view(gone)?;
    let barred = after.as_ref().is_some_and(|v| {
        v.state == MemberState::Evicted && before.as_ref().is_some_and(|b| b.registrations == v.registrations)
    });
    let check = match answer {
        Err(e) if e.is::<Interrupted>() => return Err(e),
        Err(e) => Check::failed("evict-refused", format!("{e:#}")),
        Ok(None) => Check::failed("evict-refused", "it got keys again"),
        Ok(Some(_)) if !barred => Check::failed("evict-refused", "the gateway does not count it as evicted"),
        Ok(Some(reason)) => Check::faultless("evict-refused", format!("it was told: {reason}"), &[]),
    };
    s.findings.check(s.view, check);
    Ok(())
}
