//! What fuzzers found worth keeping, again, and each file cut short at several places.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use keyferry_fuzz::TARGETS;

/// Whole endpoints take a while, so they get fewer truncations.
const FEW: usize = 4;

fn files(name: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name);
    let entries = std::fs::read_dir(&directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    let mut files: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
    files.sort();
    files
}

fn replay(name: &str) {
    let (_, target) = TARGETS.iter().find(|(n, _)| *n == name).unwrap();
    let whole = ["esp", "gateway", "gdoi_member", "gdoi_server", "oversize"].contains(&name);
    let files = files(name);
    assert!(!files.is_empty(), "{name} has no corpus");
    for file in files {
        let octets = std::fs::read(&file).unwrap();
        // The name of the file that breaks something stands in front of the panic.
        eprintln!("{}", file.display());
        target(&octets);
        let step = if whole { (octets.len() / FEW).max(1) } else { 1 };
        (0..octets.len()).step_by(step).for_each(|end| target(&octets[..end]));
    }
}

#[test]
fn demux() {
    replay("demux");
}

#[test]
fn esp() {
    replay("esp");
}

#[test]
fn gateway() {
    replay("gateway");
}

#[test]
fn gdoi_member() {
    replay("gdoi_member");
}

#[test]
fn gdoi_message() {
    replay("gdoi_message");
}

#[test]
fn gdoi_payload() {
    replay("gdoi_payload");
}

#[test]
fn gdoi_server() {
    replay("gdoi_server");
}

#[test]
fn gikev2_message() {
    replay("gikev2_message");
}

#[test]
fn gikev2_payload() {
    replay("gikev2_payload");
}

#[test]
fn gikev2_sealed() {
    replay("gikev2_sealed");
}

#[test]
fn host() {
    replay("host");
}

#[test]
fn iec61850() {
    replay("iec61850");
}

#[test]
fn x509() {
    replay("x509");
}

#[test]
fn every_target_has_a_wrapper_and_every_corpus_a_target() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    for (name, _) in TARGETS {
        assert!(fuzz.join(format!("fuzz_targets/{name}.rs")).exists(), "{name} has no wrapper");
    }
    for entry in std::fs::read_dir(fuzz.join("corpus")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(TARGETS.iter().any(|(n, _)| *n == name), "corpus {name} has no target");
    }
}

#[test]
fn oversize() {
    replay("oversize");
}

#[test]
fn stream() {
    replay("stream");
}
