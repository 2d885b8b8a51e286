//! GSA_REKEY: one message from the key server to all members (RFC 9838 section 2.4.1).
//!
//! ```text
//!  GMs                                      GCKS
//!       <-- HDR, SK{[GSA, KD,] [D,] [N(USE_TRANSPORT_MODE),] [AUTH]}
//! ```
//!
//! The header's SPIs are the Rekey SA's, both flags are 0 (reading 3), and the message ID counts the messages under that
//! Rekey SA. A new Rekey SA comes under GSK_w of the present one, or, when members are excluded, under the tops of the
//! key tree, with the tree's changed keys in a member key bag (readings 6 and 7). A member that is rekeyed in band gets none
//! of that: see `in_band`.
//!
//! A long message may come in fragments (RFC 9838 section 2.4.1.2), which `fragments` puts together before anything else looks
//! at it.

pub(crate) mod fragments;
pub(crate) mod group;
pub(crate) mod in_band;
pub(crate) mod receive;
mod render;
pub(crate) mod signature;
mod unsigned;

pub use crate::keylog::rekey_sa_line;
pub use crate::wire::sk::datagrams;
pub use render::{RenderError, prepare, render};
pub use unsigned::Unsigned;
