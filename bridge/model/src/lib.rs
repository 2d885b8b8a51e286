//! The group model that both protocols share.
//!
//! A [`Group`](group::Group) owns everything that must be the same for a GDOI member and a G-IKEv2 member of one
//! group: traffic policies, [epochs](epoch::Epoch) of traffic keys, sender IDs (RFC 6054), the rekey SAs with their
//! counters and key trees (LKH, RFC 2627), the members and the [ledger] of acknowledgements. A rekey starts
//! here as one [`RekeyPlan`](plan::RekeyPlan); each protocol renders its own messages from it.
//!
//! ```text
//!  gdoi ---- offer / admit / acknowledge ---> Model <--- offer / admit --- gikev2
//!                                              |
//!              RekeyPlan (steps per protocol)  +--> StoreOp (durable before anything is sent)
//! ```
//!
//! Nothing here does I/O, reads a clock or draws randomness on its own.

pub mod admission;
pub mod capabilities;
pub mod credentials;
pub mod drive;
pub mod epoch;
pub mod flows;
pub mod group;
pub mod holder;
pub mod id;
pub mod key_server;
pub mod ledger;
pub mod lkh;
pub mod member;
mod members;
pub mod oid;
pub mod plan;
pub mod policy;
pub mod reading;
pub mod redirect;
pub mod rekey_sa;
pub mod sender_id;
pub mod settings;
pub mod store;
pub mod stream;
pub mod time;
pub mod tunnel;
pub mod update;
pub mod view;
pub mod work;

mod groups;
pub use groups::{MemberAt, Model, RekeySaInfo};
