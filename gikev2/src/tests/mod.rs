//! Whole runs in memory: members and a key server over a virtual network on virtual time.
#![allow(clippy::unwrap_used)]

mod acknowledging;
mod attacks;
mod certificates;
mod establishing;
mod faults;
mod following;
mod followup;
mod followup_hostile;
mod forger;
mod forms;
mod fragments;
mod hostile;
mod ike_rekeying;
mod in_band;
mod nat;
mod pki;
mod ppk;
mod quantum;
mod readings;
mod redirecting;
mod registering;
mod rekey_fragments;
mod rekeying;
mod replays;
mod restarts;
mod resuming;
mod several;
mod support;
mod tcp;
mod telling;
mod under_way;
