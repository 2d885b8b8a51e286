//! The figures, for people and for programs.

use std::fmt;

use serde::Serialize;

use crate::acks::Acks;
use crate::charon::Comparison;
use crate::path::{Beside, Latency, Path, Paths, Queues, Rate, Ways};
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
    /// Whole paths, or why they were not measured; `None` when nobody asked.
    pub(crate) paths: Option<Result<Paths, String>>,
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
        match &self.paths {
            None => Ok(()),
            Some(Err(reason)) => writeln!(f, "\nWHOLE PATHS: {reason}"),
            Some(Ok(paths)) => paths.fmt(f),
        }
    }
}

impl fmt::Display for Paths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.paths.is_empty() {
            self.beside_bare(f)?;
            match &self.libipsec {
                Err(reason) => writeln!(f, "\nBESIDE KERNEL-LIBIPSEC: {reason}")?,
                Ok(rows) if rows.is_empty() => {}
                Ok(rows) => beside_libipsec(f, rows)?,
            }
            self.latencies(f)?;
        }
        if !self.queues.is_empty() {
            writeln!(f, "\nTHREADS, packets per second from full queues; two are to do 1.7 times what one does")?;
            writeln!(f, "TRANSFORM             OCTETS  WORK         ONE      TWO  RATIO  GOAL MET")?;
        }
        for Queues { transform, octets, work, one, two, ratio, meets_goal } in &self.queues {
            let (work, verdict) = (work.as_str(), verdict(*meets_goal));
            writeln!(f, "{transform:<20}  {octets:>6}  {work:<7}  {one:7.0}  {two:7.0}  {ratio:5.2}  {verdict}")?;
        }
        Ok(())
    }
}

impl Paths {
    fn beside_bare(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\nWHOLE PATHS, packets per second without loss, us of CPU for each; BARE is the same way without cryptography,"
        )?;
        let Ways { offloads, wire } = self.ways;
        let offloads = if offloads { "with" } else { "without" };
        writeln!(
            f,
            "at least 0.75 of it with 1400 octets; wire = \"{}\", {offloads} offloads of the TUN device",
            wire.as_str()
        )?;
        writeln!(
            f,
            "TRANSFORM             OCTETS  SENDERS  SENT          OURS  GBIT/S   CPU     BARE  GBIT/S   CPU  RATIO  GOAL MET"
        )?;
        for Path { transform, octets, senders, handing, ours, bare, ratio, meets_goal } in &self.paths {
            let verdict = meets_goal.map_or("-", verdict);
            let side = |r: &Rate| format!("{:7.0}  {:6.2}  {:4.2}", r.packets, r.gbits, r.cpu);
            let (ours, bare, handing) = (side(ours), side(bare), handing.as_str());
            writeln!(
                f,
                "{transform:<20}  {octets:>6}  {senders:>7}  {handing:<9}  {ours}  {bare}  {ratio:5.2}  {verdict}"
            )?;
        }
        Ok(())
    }

    fn latencies(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nLATENCY at half of that rate, us from application to application")?;
        writeln!(
            f,
            "TRANSFORM             OCTETS  SENDERS  SENT       PATH           P50      P90      P99    P99.9      MAX"
        )?;
        let own = self.paths.iter().flat_map(|p| {
            let load = (p.transform, p.octets, p.senders, p.handing);
            [(load, "ours", &p.ours), (load, "bare", &p.bare)]
        });
        let theirs =
            self.libipsec.iter().flatten().map(|b| ((b.transform, b.octets, 1, b.handing), "libipsec", &b.libipsec));
        for ((transform, octets, senders, handing), path, rate) in own.chain(theirs) {
            let Latency { p50, p90, p99, p99_9, max } = rate.latency;
            let handing = handing.as_str();
            writeln!(
                f,
                "{transform:<20}  {octets:>6}  {senders:>7}  {handing:<9}  {path:<8}  {p50:8.0} {p90:8.0} {p99:8.0} {p99_9:8.0} {max:8.0}"
            )?;
        }
        Ok(())
    }
}

fn beside_libipsec(f: &mut fmt::Formatter<'_>, rows: &[Beside]) -> fmt::Result {
    writeln!(f, "\nBESIDE KERNEL-LIBIPSEC, packets per second without loss, us of CPU for each")?;
    writeln!(
        f,
        "TRANSFORM             OCTETS  SENT       LIBIPSEC  GBIT/S    CPU     OURS  RATIO  AT LEAST  GOAL MET"
    )?;
    for Beside { transform, octets, handing, ours, libipsec, ratio, goal, meets_goal } in rows {
        let verdict = meets_goal.map_or("-", verdict);
        let (Rate { packets, gbits, cpu, .. }, handing) = (libipsec, handing.as_str());
        writeln!(
            f,
            "{transform:<20}  {octets:>6}  {handing:<9}  {packets:>8.0}  {gbits:6.2}  {cpu:5.2}  {ours:7.0}  {ratio:5.1}  {goal:8.1}  {verdict}"
        )?;
    }
    Ok(())
}
