//! The figures, for people and for programs.

use std::fmt;

use serde::Serialize;

use crate::acks::Acks;
use crate::charon::Comparison;
use crate::push::Rekey;
use crate::registration::Registration;

/// Everything that was measured.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) registrations: Vec<Registration>,
    /// With charon, or why not; `None` when nobody asked.
    pub(crate) charon: Option<Result<Vec<Comparison>, String>>,
    pub(crate) rekeys: Vec<Rekey>,
    pub(crate) acknowledgements: Vec<Acks>,
}

fn verdict(meets_goal: bool) -> &'static str {
    if meets_goal { "yes" } else { "no" }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.registrations.is_empty() {
            writeln!(f, "REGISTRATION, us of CPU; OVER is the cost less 1.3 floors, at most 40")?;
            writeln!(
                f,
                "PROTOCOL  PROOF                            KE GROUP     COST    FLOOR  RATIO    OVER  GOAL MET"
            )?;
        }
        for r in &self.registrations {
            let Registration { protocol, authentication, group, cost, floor, ratio, over, meets_goal } = r;
            let (protocol, verdict) = (protocol.as_str(), verdict(*meets_goal));
            writeln!(
                f,
                "{protocol:<8}  {authentication:<21}  {group:>18}  {cost:7.1}  {floor:7.1}  {ratio:5.2}  {over:6.1}  {verdict}"
            )?;
        }
        match &self.charon {
            None => {}
            Some(Err(reason)) => writeln!(f, "\nBESIDE CHARON: {reason}")?,
            Some(Ok(rows)) => {
                writeln!(f, "\nBESIDE CHARON, us of CPU; with x25519 at most a fourth")?;
                writeln!(f, "PROOF                  KE GROUP   CHARON     OURS  RATIO  GOAL MET")?;
                for Comparison { authentication, group, charon, ours, ratio, meets_goal } in rows {
                    let verdict = meets_goal.map_or("-", verdict);
                    writeln!(f, "{authentication:<21}  {group:>8}  {charon:7.1}  {ours:7.1}  {ratio:5.2}  {verdict}")?;
                }
            }
        }
        if !self.rekeys.is_empty() {
            writeln!(f, "\nREKEY, us of CPU; PLAN and BUILD together at most 1000, without SIGNING")?;
            writeln!(
                f,
                "PROTOCOL  WHAT                  SIGNATURE    MEMBERS  OCTETS   PLAN  BUILD  SIGNING  GOAL MET"
            )?;
        }
        for r in &self.rekeys {
            let Rekey { protocol, what, signature, members, octets, plan, build, signing, meets_goal, .. } = r;
            let (protocol, verdict) = (protocol.as_str(), verdict(*meets_goal));
            writeln!(
                f,
                "{protocol:<8}  {what:<20}  {signature:<11}  {members:>7}  {octets:>6}  {plan:5.0}  {build:5.0}  {signing:7.0}  {verdict}"
            )?;
        }
        if !self.acknowledgements.is_empty() {
            writeln!(f, "\nACKNOWLEDGEMENT (us of CPU)  MEMBERS  COST  PER SECOND  AT LEAST 200000")?;
        }
        for a in &self.acknowledgements {
            let Acks { kind, members, cost, per_second, meets_goal } = a;
            writeln!(f, "{kind:<27}  {members:>7}  {cost:4.1}  {per_second:10.0}  {}", verdict(*meets_goal))?;
        }
        Ok(())
    }
}
