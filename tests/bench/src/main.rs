//! What the key server's work costs in CPU time of one core, beside what it must cost; and what whole paths of packets carry. See docs/BENCHMARKS.md.

mod acks;
mod charon;
mod cpu;
mod endpoint;
mod floor;
mod path;
mod pki;
mod push;
mod random;
mod registration;
mod report;
mod world;

use anyhow::Result;
use clap::{Parser, ValueEnum};

use serde::Serialize;

use path::Ways;
use report::Report;

/// Measures the key server's work (registrations, rekeys, acknowledgements), and whole paths of packets.
#[derive(Debug, Parser)]
struct Args {
    /// Print JSON instead of tables.
    #[arg(long)]
    json: bool,
    /// Only this part.
    #[arg(value_enum)]
    part: Option<Part>,
    /// Compare registrations by G-IKEv2 with strongSwan's charon, which must be installed; needs root.
    #[arg(long)]
    charon: bool,
    /// Few and small samples: figures mean little, but everything runs.
    #[arg(long, conflicts_with = "quick")]
    smoke: bool,
    /// Fewer runs of whole paths: figures are rough.
    #[arg(long)]
    quick: bool,
    /// Only whole paths whose transform, octets, senders and way of sending (as in the tables, with a blank between) contain this.
    #[arg(long, default_value = "")]
    only: String,
    /// Whole paths without the segmentation offloads of the TUN device.
    #[arg(long)]
    no_offloads: bool,
    /// How protected packets come and go in whole paths.
    #[arg(long, value_enum, default_value_t)]
    wire: Wired,
}

/// As members have it in their configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
enum Wired {
    /// Sent as frames, received by the IP stack.
    Auto,
    /// Sent as frames, received ahead of the IP stack.
    #[default]
    Link,
    /// Sent and received by the IP stack.
    Raw,
}

impl Wired {
    fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Link => "link",
            Self::Raw => "raw",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Registration,
    Rekey,
    Ack,
    /// Packets from application to application, between two network namespaces; needs root.
    Path,
}

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    Smoke,
    /// Whole paths in fewer runs.
    Quick,
    Full,
}

impl Size {
    fn pick(self, smoke: u32, full: u32) -> u32 {
        match self {
            Size::Smoke => smoke,
            Size::Quick | Size::Full => full,
        }
    }
}

fn measure(parts: &[Part], charon: bool, size: Size, (only, ways): (&str, Ways)) -> Result<Report> {
    let wanted = |part| parts.contains(&part);
    let mut report = Report::default();
    if wanted(Part::Registration) {
        report.registrations = registration::measure(size)?;
        if charon {
            report.charon = Some(charon::measure(size, &report.registrations)?);
        }
    }
    if wanted(Part::Rekey) {
        report.rekeys = push::measure(size)?;
    }
    if wanted(Part::Ack) {
        report.acknowledgements = acks::measure(size)?;
    }
    if wanted(Part::Path) {
        report.paths = Some(path::measure(size, only, ways)?);
    }
    Ok(report)
}

fn main() -> Result<()> {
    let args = Args::parse();
    let size = match (args.smoke, args.quick) {
        (true, _) => Size::Smoke,
        (_, true) => Size::Quick,
        _ => Size::Full,
    };
    let parts = args.part.map_or(Part::value_variants().to_vec(), |part| vec![part]);
    let ways = Ways { offloads: !args.no_offloads, wire: args.wire };
    let report = measure(&parts, args.charon, size, (&args.only, ways))?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Every figure is there; how large it is depends on the machine.
    const WAYS: Ways = Ways { offloads: true, wire: Wired::Link };

    #[test]
    fn everything_of_the_key_server_is_measured() {
        let parts = [Part::Registration, Part::Rekey, Part::Ack];
        let report = measure(&parts, false, Size::Smoke, ("", WAYS)).unwrap();
        assert_eq!(report.registrations.len(), 11);
        assert!(report.registrations.iter().all(|r| r.cost > 0.0 && r.floor > 0.0));
        assert!(report.rekeys.len() >= 4);
        assert!(report.rekeys.iter().all(|r| r.octets > 500 && r.plan > 0.0 && r.signing > 0.0));
        assert_eq!(report.acknowledgements.len(), 4);
        assert!(report.acknowledgements.iter().all(|a| a.per_second > 0.0));
        let json = serde_json::to_value(&report).unwrap();
        assert!(json["registrations"][0]["ratio"].is_number());
        assert!(report.to_string().contains("push of 100 policies"));
    }

    /// The same; of whole paths a few loads.
    #[test]
    fn whole_paths_are_measured() {
        let report = measure(&[Part::Path], false, Size::Smoke, ("", WAYS)).unwrap();
        let text = report.to_string();
        let paths = match report.paths.unwrap() {
            Ok(paths) => paths,
            Err(reason) => return println!("{reason}"),
        };
        assert_eq!((paths.paths.len(), paths.queues.len()), (6, 4));
        assert!(paths.paths.iter().all(|p| p.ours.packets > 0.0 && p.ours.cpu > 0.0 && p.bare.cpu > 0.0), "{text}");
        assert!(paths.paths.iter().all(|p| p.ours.latency.p50 > 0.0 && p.bare.latency.max > 0.0), "{text}");
        match &paths.libipsec {
            Ok(rows) => assert!(rows.len() == 4 && rows.iter().all(|b| b.libipsec.packets > 0.0), "{text}"),
            Err(reason) => println!("{reason}"),
        }
        assert!(paths.queues.iter().all(|q| q.one > 0.0 && q.two > 0.0), "{text}");
        assert!(text.contains("AES-128-GCM-16          1400       64"), "{text}");
    }
}
