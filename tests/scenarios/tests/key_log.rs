//! What the gateway writes for Wireshark opens everything that it says under Rekey SAs.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keyferry_model::id::{Identity, Protocol};
use keyferry_scenarios::fleet::Fleet;
use keyferry_scenarios::policy::{NAME, Variant};

/// GSA_REKEY (RFC 9838 section 2.4.1), behind both SPIs, the next payload and the version.
const GSA_REKEY: u8 = 41;
const EXCHANGE: usize = 18;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<BTreeSet<String>>>);

impl gdoi::KeyLog for Lines {
    fn log(&mut self, _: &'static str, _: &str) {}
}

impl gikev2::KeyLog for Lines {
    fn log(&mut self, table: &'static str, line: &str) {
        assert_eq!(table, "ikev2_decryption_table");
        self.0.lock().unwrap().insert(line.to_owned());
    }
}

/// Eviction makes another Rekey SA, and a restart tells nobody's keys anew.
#[test]
fn keys_of_every_rekey_sa_are_written_before_it_is_used() {
    let mut fleet = Fleet::new(7, Variant::default());
    fleet.join([12, 13, 14], Protocol::Gikev2);
    fleet.run(Duration::from_secs(20));
    fleet.kill();
    fleet.boot();
    let lines = Lines::default();
    fleet.gateway.as_mut().unwrap().set_key_log(Box::new(lines.clone()), Box::new(lines.clone()));
    fleet.net.log.clear();
    let gone = Identity::from_ip(Variant::default().family.host(13));
    fleet.command(|g, now, rng| g.evict(now, rng, NAME, &gone)).unwrap();
    fleet.run(Duration::from_secs(60));
    fleet.command(|g, now, rng| g.rekey(now, rng, NAME)).unwrap();
    fleet.run(Duration::from_secs(60));
    let rekeys = fleet.net.log.iter().filter(|p| p.bytes[EXCHANGE] == GSA_REKEY);
    let hex = |octets: &[u8]| octets.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let spis: BTreeSet<String> = rekeys.map(|p| format!("{},{},", hex(&p.bytes[..8]), hex(&p.bytes[8..16]))).collect();
    assert_eq!(spis.len(), 2, "one before the eviction, one after it");
    let lines = lines.0.lock().unwrap();
    for spi in spis {
        assert_eq!(lines.iter().filter(|line| line.starts_with(&spi)).count(), 1, "{spi}");
    }
}
