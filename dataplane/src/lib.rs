//! Multicast ESP for group members: the data plane of Keyferry.
//!
//! Standards: ESP (RFC 4303) under the security architecture for multicast (RFC 4301, RFC 5374), congestion marks of tunnels
//! (RFC 6040), AES-GCM (RFC 4106)
//! with sender IDs in the IV (RFC 6054), AES-CBC (RFC 3602) with HMAC-SHA2 (RFC 4868).
//!
//! ```text
//!                 GroupUpdate, flush, time
//!                           |
//!                         [Sad]  policies, roll-over, lifetimes
//!                           |  publishes whole
//!                       [Snapshot]  immutable; counters and windows inside of each SA
//!                      /           \
//!   application -> TUN -> seal       open <- raw socket <- network      (engine::userspace)
//!                          |           |
//!               raw socket -> network  TUN -> application
//! ```
//!
//! What the link does not take once it is protected goes a slow way of its own ([`Oversize`]): in fragments, or not at all and with
//! word to its sender. [`Dummies`] fill silence, where that is wanted.
//!
//! [`Sad`], [`Snapshot`] and everything below them are pure: no sockets, no clock, no randomness of their own. Packets
//! are worked upon in place, in [`Frame`]s that a worker keeps, up to [`BURST`] at a time: those of one SA take their
//! numbers, pass the cipher and move the windows together. The hot path neither allocates nor waits for a lock that a
//! control operation holds. Only [`engine`] touches the system.
//!
//! What never happens: a packet leaves in clear that the member's own [`LocalPolicy`] does not name; a nonce is used twice under a key; a number wraps; a packet that is
//! not authentic changes any state but a counter.

mod burst;
mod classify;
mod drops;
mod dummies;
pub mod engine;
mod flows;
mod frame;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod iv;
mod key_log;
mod lifetime;
mod local;
mod nonce;
mod open;
mod oversize;
pub mod packet;
mod replay;
mod sa;
mod sad;
mod seal;
mod selector;
mod sizes;
mod status;
#[cfg(test)]
mod testing;
mod trace;
mod transform;
mod tunnel;

pub use burst::{BURST, Fate};
pub use drops::DropReason;
pub use dummies::Dummies;
pub use frame::{Frame, HEADROOM, TAILROOM};
pub use iv::IvSource;
pub use key_log::KeyLog;
pub use local::{LocalPolicy, Rule, RuleAction, Way, WithoutKeys};
pub use oversize::{Outlet, Oversize};
pub use replay::{MAX_WINDOW, MIN_WINDOW, WINDOWS_OCTETS, Window};
pub use sad::{ApplyError, Explanation, Flow, MAX_SAS, Sad, Sealed, Snapshot, Tried, Unsuitable, are_sound};
pub use sizes::{DontFragment, FlowPadding, Fragment, Sizes};
pub use status::{PolicyStatus, RuleStatus, SaStatus, SadStatus};
pub use trace::{FlowFilter, Taken, Tap, Traced, TracedStatus};
