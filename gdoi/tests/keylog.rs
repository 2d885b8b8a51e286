//! The log of keys, for whoever asks for it.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use gdoi::KeyLog;
use keyferry_model::plan::RekeyReason;
use support::{Bench, Setup, secs};

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<BTreeMap<&'static str, Vec<String>>>>);

impl KeyLog for Lines {
    fn log(&mut self, table: &'static str, line: &str) {
        self.0.lock().unwrap().entry(table).or_default().push(line.to_owned());
    }
}

/// A member that logs its keys writes each KEK that it gets: cookie pair, IV and key.
#[test]
fn each_kek_is_logged() {
    let mut bench = Bench::new(Setup::default());
    bench.add(10);
    bench.add(11);
    let log = Lines::default();
    bench.nodes.get_mut(&10).unwrap().member.set_key_log(Box::new(log.clone()));
    bench.run(secs(10));
    let spi = |bench: &Bench| bench.nodes[&10].member.status().rekey_spi.unwrap();
    let mut spis = vec![spi(&bench)];
    bench.rekey(RekeyReason::Eviction, &[11]);
    bench.run(secs(10));
    spis.push(spi(&bench));
    let lines = log.0.lock().unwrap();
    assert_eq!(lines["ikev1_decryption_table"].len(), 1);
    let mut keks: Vec<Vec<&str>> = lines["gdoi_kek_table"].iter().map(|line| line.split(',').collect()).collect();
    keks.dedup();
    assert_eq!(keks.iter().map(|k| k[0].to_owned()).collect::<Vec<_>>(), spis);
    assert!(keks.iter().all(|k| k.len() == 3 && k[1].len() == 32 && k[2].len() == 32), "{keks:?}");
    assert_ne!(keks[0][2], keks[1][2]);
}
