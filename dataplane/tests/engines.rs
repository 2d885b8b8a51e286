//! Engines by their common face, as far as they need neither privileges nor devices.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::{Arc, Mutex};

use dataplane::KeyLog;
use dataplane::engine::{Engine, KeysOnly};
use keyferry_model::policy::EspMode;
use keyferry_model::tunnel::Tunnel;
use support::*;

const GROUP: &str = "239.192.0.1";

/// What was logged.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl KeyLog for Lines {
    fn log(&mut self, _table: &str, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }
}

/// Keys come, roll over and go as everywhere, are logged, and nothing is said to be sent or received.
#[test]
fn the_engine_of_keys_only_has_keys_and_touches_no_packet() {
    let lines = Lines::default();
    let engine = KeysOnly::new(Tunnel::default(), Some(Box::new(lines.clone())));
    let policy = policy(GCM, EspMode::Tunnel, GROUP);
    engine.apply(registration(vec![new_sa(0x1001, &policy, 1)], ids(&[7])), at(0)).unwrap();
    engine.apply(rekey(vec![new_sa(0x1002, &policy, 2)], &[0x1001], 500, 1_500), at(1_000)).unwrap();
    let spis = |engine: &KeysOnly| engine.status().sad.sas.iter().map(|sa| sa.spi.clone()).collect::<Vec<_>>();
    assert_eq!(spis(&engine), ["0x00001001", "0x00001002"]);
    assert_eq!(engine.deadline().map(|due| due.at), Some(at(1_500).mono));
    engine.expire(at(2_500));
    let status = engine.status();
    assert_eq!(spis(&engine), ["0x00001002"]);
    assert!(status.sad.sas.iter().all(|sa| !sa.sending), "{status:?}");
    assert_eq!((status.engine, status.tun, status.interface, status.joined), ("none", None, None, vec![]));
    assert!(!engine.needs_rekey());
    assert_eq!(lines.0.lock().unwrap().len(), 2);
    engine.flush();
    assert!(spis(&engine).is_empty());
    assert_eq!(engine.deadline(), None);
    engine.apply(registration(vec![new_sa(0x1003, &policy, 3)], ids(&[7])), at(3_000)).unwrap();
    engine.expire(at(3_000 + 7 * 86_400_000));
    assert!(spis(&engine).is_empty(), "lifetimes end here, too");
    Box::new(engine).stop();
}
