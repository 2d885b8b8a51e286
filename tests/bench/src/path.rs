//! Whole paths: TUN in, ESP on the wire, ESP in, TUN out, between two network namespaces. Beside them the same way without
//! cryptography, and strongSwan's kernel-libipsec.

mod bare;
mod libipsec;
mod load;
mod meter;
mod net;
mod ours;
mod precedence;
mod queues;
mod search;

use std::time::Duration;

use anyhow::{Context, Result};
use keyferry_model::policy::EspTransform;
use nix::unistd::geteuid;
use serde::Serialize;

use crate::{Size, Wired};
use libipsec::Tunnel;
use load::{Course, Handing};
use meter::Meter;
use net::Net;
use ours::Ends;
use precedence::Precedence;
pub(crate) use queues::{Queues, Work};
use search::{Found, Search};

/// How packets pass between the engine and the kernel.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Ways {
    /// With the TUN device's segmentation offloads.
    pub(crate) offloads: bool,
    pub(crate) wire: Wired,
}

/// Everything about whole paths.
#[derive(Debug, Serialize)]
pub(crate) struct Paths {
    pub(crate) ways: Ways,
    pub(crate) paths: Vec<Path>,
    /// Or why there is none.
    pub(crate) libipsec: Result<Vec<Beside>, String>,
    pub(crate) queues: Vec<Queues>,
}

/// The engine beside the same threads without cryptography.
#[derive(Debug, Serialize)]
pub(crate) struct Path {
    pub(crate) transform: &'static str,
    pub(crate) octets: usize,
    pub(crate) senders: u32,
    pub(crate) handing: Handing,
    pub(crate) ours: Rate,
    pub(crate) bare: Rate,
    /// Of the rates.
    pub(crate) ratio: f64,
    /// The goal with 1,400 octets is 0.75 at least.
    pub(crate) meets_goal: Option<bool>,
}

/// The engine beside kernel-libipsec, packets of one sender.
#[derive(Debug, Serialize)]
pub(crate) struct Beside {
    pub(crate) transform: &'static str,
    pub(crate) octets: usize,
    pub(crate) handing: Handing,
    pub(crate) ours: f64,
    pub(crate) libipsec: Rate,
    /// Ours in terms of theirs.
    pub(crate) ratio: f64,
    /// With packets of 1,400 octets at least this.
    pub(crate) goal: f64,
    pub(crate) meets_goal: Option<bool>,
}

/// The highest rate without loss.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Rate {
    /// Packets per second.
    pub(crate) packets: f64,
    /// Of the IP packets that are protected.
    pub(crate) gbits: f64,
    /// Microseconds of CPU time for each packet, of the threads or processes at both ends.
    pub(crate) cpu: f64,
    /// At half of the rate.
    pub(crate) latency: Latency,
}

/// From the application that sends to the one that receives, in microseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p99_9: f64,
    pub(crate) max: f64,
}

/// A transform as strongSwan names it, and how many times its throughput ours is to be.
struct Transform {
    name: &'static str,
    transform: EspTransform,
    proposal: &'static str,
    goal: f64,
}

const TRANSFORMS: [Transform; 2] = [
    Transform { name: "AES-128-GCM-16", transform: ours::GCM, proposal: "aes128gcm16", goal: 6.0 },
    Transform { name: "AES-128-CBC, SHA-256", transform: ours::CBC, proposal: "aes128-sha256", goal: 4.0 },
];
/// What is sent.
#[derive(Clone, Copy, Debug)]
struct Load {
    octets: usize,
    senders: u32,
    handing: Handing,
}

impl Load {
    const fn new(octets: usize, senders: u32, handing: Handing) -> Self {
        Self { octets, senders, handing }
    }

    /// As `--only` names it.
    fn name(self) -> String {
        format!("{} {} {}", self.octets, self.senders, self.handing.as_str())
    }
}

const LOADS: [Load; 8] = [
    Load::new(1_400, 1, Handing::Singly),
    Load::new(1_400, 8, Handing::Singly),
    Load::new(1_400, 64, Handing::Singly),
    Load::new(64, 1, Handing::Singly),
    Load::new(1_400, 1, Handing::InPieces),
    Load::new(1_400, 8, Handing::InPieces),
    Load::new(1_400, 64, Handing::InPieces),
    Load::new(64, 1, Handing::InPieces),
];
/// Those of them that a smoke test makes do with.
const FEW: [Load; 3] = [LOADS[2], LOADS[3], LOADS[4]];

/// Measures what has `only` in its name (transform, octets, senders), or says why that cannot be.
pub(crate) fn measure(size: Size, only: &str, ways: Ways) -> Result<Result<Paths, String>> {
    if !geteuid().is_root() {
        return Ok(Err("skipped: network namespaces, TUN devices and raw sockets need root".to_owned()));
    }
    if let Err(error) = Net::new() {
        return Ok(Err(format!("skipped: {error:#}")));
    }
    let _precedence = (size != Size::Smoke).then(Precedence::take).transpose()?;
    let wanted = |what: String| what.contains(only);
    let loads = match size {
        Size::Smoke => &FEW[..],
        Size::Quick | Size::Full => &LOADS[..],
    };
    let (mut paths, mut queues) = (Vec::new(), Vec::new());
    let mut libipsec = Ok(Vec::new());
    for transform in &TRANSFORMS {
        let name = transform.name;
        for load in loads.iter().filter(|load| wanted(format!("{name} {}", load.name()))) {
            paths.push(path(transform, *load, size, ways)?);
        }
        let one = paths.iter().filter(|p: &&Path| p.transform == name && p.senders == 1);
        for Path { octets, handing, ours, .. } in one {
            let Ok(rows) = &mut libipsec else { break };
            match beside(transform, Load::new(*octets, 1, *handing), ours.packets, size)? {
                Ok(row) => rows.push(row),
                Err(reason) => libipsec = Err(reason),
            }
        }
        if wanted(format!("{name} queues")) {
            for work in [Work::Sealing, Work::Opening] {
                queues.push(queues::measure(name, transform.transform, 1_400, work, size)?);
            }
        }
    }
    Ok(Ok(Paths { ways, paths, libipsec, queues }))
}

fn path(transform: &Transform, load: Load, size: Size, ways: Ways) -> Result<Path> {
    let meter = Meter::Threads("esp-");
    let (mut ours, mut bare) = (Rate::default(), Rate::default());
    for _ in 0..runs(size) {
        for (best, start) in [(&mut bare, Ends::bare as fn(&_, _, _) -> _), (&mut ours, Ends::engines)] {
            let net = Net::new()?;
            let ends = start(&net, transform.transform, ways)?;
            best.raise(rate(&mut ours::course(&net, load)?, &meter, load.octets, size)?);
            drop(ends);
        }
    }
    let ratio = ours.packets / bare.packets;
    let Load { octets, senders, handing } = load;
    let meets_goal = (octets == 1_400).then_some(ratio >= 0.75);
    Ok(Path { transform: transform.name, octets, senders, handing, ours, bare, ratio, meets_goal })
}

fn beside(transform: &Transform, load: Load, ours: f64, size: Size) -> Result<Result<Beside, String>> {
    let mut libipsec = Rate::default();
    for _ in 0..runs(size) {
        let tunnel = match Tunnel::start(transform.proposal)? {
            Ok(tunnel) => tunnel,
            Err(reason) => return Ok(Err(reason)),
        };
        libipsec.raise(rate(&mut tunnel.course(load)?, &tunnel.meter, load.octets, size)?);
    }
    let (ratio, goal) = (ours / libipsec.packets, transform.goal);
    let Load { octets, handing, .. } = load;
    let meets_goal = (octets == 1_400).then_some(ratio >= goal);
    Ok(Ok(Beside { transform: transform.name, octets, handing, ours, libipsec, ratio, goal, meets_goal }))
}

fn runs(size: Size) -> u32 {
    size.pick(1, 3)
}

/// One search, and one trial at half of what it finds.
fn rate(course: &mut Course<'_>, meter: &Meter, octets: usize, size: Size) -> Result<Rate> {
    let search = match size {
        Size::Smoke => Search { time: Duration::from_millis(50), steps: 8, attempts: 2 },
        Size::Quick => Search { time: Duration::from_millis(400), steps: 5, attempts: 3 },
        Size::Full => Search { time: Duration::from_secs(2), steps: 6, attempts: 3 },
    };
    let found = search.run(|rate, time| {
        let before = meter.read();
        let trial = course.run(rate, time, false)?;
        let cpu = (meter.read() - before).as_secs_f64() * 1e6 / trial.sent.max(1) as f64;
        Ok((trial, cpu))
    })?;
    let Found { rate: packets, along: cpu } = found.context("not even a low rate comes through without loss")?;
    let half = course.run(packets / 2.0, search.time, true)?;
    let latency = Latency::of(half.delays);
    Ok(Rate { packets, gbits: packets * octets as f64 * 8.0 / 1e9, cpu, latency })
}

impl Rate {
    /// Keeps the better one.
    fn raise(&mut self, other: Rate) {
        if other.packets > self.packets {
            *self = other;
        }
    }
}

impl Latency {
    fn of(mut delays: Vec<u32>) -> Self {
        delays.sort_unstable();
        let Some(last) = delays.len().checked_sub(1) else { return Self::default() };
        let at = |share: f64| f64::from(delays[(last as f64 * share).round() as usize]) / 1e3;
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), p99_9: at(0.999), max: at(1.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_stand_where_they_should() {
        let latency = Latency::of((0..=1_000).rev().map(|us| us * 1_000).collect());
        let Latency { p50, p90, p99, p99_9, max } = latency;
        assert_eq!([p50, p90, p99, p99_9, max].map(|us| us.round() as u32), [500, 900, 990, 999, 1_000]);
        assert!(Latency::of(Vec::new()).max.abs() < 1e-9);
    }
}
