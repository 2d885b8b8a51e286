//! The gateway is killed and started over its store.

use std::fs;
use std::time::Duration;

use anyhow::Context;

use super::Scenario;
use crate::lab::args::BreakOption;
use crate::lab::checks;

pub(super) fn play(s: &mut Scenario<'_>) -> anyhow::Result<()> {
    s.view.stage("killing the gateway (SIGKILL)");
    let all = s.all();
    let from = s.fleet.marks()?;
    let before = s.fleet.snapshot(&all)?;
    s.fleet.kill_gateway()?;
    s.fleet.patience.pause(Duration::from_secs(1))?;
    if s.sabotage() == Some(BreakOption::Restart) {
        let store = s.fleet.files.path("gateway.redb");
        fs::remove_file(&store).with_context(|| store.display().to_string())?;
    }
    s.view.stage("starting the gateway over its store");
    let forgotten = s.first_gdoi().filter(|_| s.sabotage() == Some(BreakOption::Move));
    let forgotten = forgotten.and_then(|i| s.fleet.plan.members.get(i)).cloned();
    s.fleet.start_gateway(forgotten.as_ref(), true)?;
    // Whoever wanted to register again would do so now.
    s.fleet.patience.pause(Duration::from_millis(500))?;
    let after = s.fleet.snapshot(&all)?;
    s.findings.check(s.view, checks::kept_keys(&before, &after));
    s.findings.check(s.view, checks::kept_members(&before, &after));
    s.note()?;
    s.rekey("restart-rekey", "rekeying after the restart")?;
    let to = s.fleet.marks()?;
    let deliveries = s.fleet.settled(&all, &all, &from, &to)?;
    s.findings.check(s.view, checks::lossless("restart-lossless", &deliveries));
    Ok(())
}
