//! What the key server's work costs in CPU time of one core, beside what it must cost. See docs/BENCHMARKS.md.

mod acks;
mod charon;
mod cpu;
mod endpoint;
mod floor;
mod pki;
mod push;
mod random;
mod registration;
mod report;
mod world;

use anyhow::Result;
use clap::Parser;

use report::Report;

/// Measures the key server's work: registrations, rekeys, acknowledgements.
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
    #[arg(long)]
    smoke: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Registration,
    Rekey,
    Ack,
}

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    Smoke,
    Full,
}

impl Size {
    fn pick(self, smoke: u32, full: u32) -> u32 {
        match self {
            Size::Smoke => smoke,
            Size::Full => full,
        }
    }
}

fn measure(part: Option<Part>, charon: bool, size: Size) -> Result<Report> {
    let wanted = |p| part.is_none_or(|only| only == p);
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
    Ok(report)
}

fn main() -> Result<()> {
    let args = Args::parse();
    let size = if args.smoke { Size::Smoke } else { Size::Full };
    let report = measure(args.part, args.charon, size)?;
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
    #[test]
    fn everything_that_is_measured_runs() {
        let report = measure(None, false, Size::Smoke).unwrap();
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
}
