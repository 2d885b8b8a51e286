//! Registration: GSA_AUTH and GSA_REGISTRATION, both ends (RFC 9838 section 2.3).
//!
//! ```text
//!  GM                                                      GCKS
//!  HDR, SK{IDi, [IDr], AUTH, IDg, [SAg], [N(GROUP_SENDER)]} -->      GSA_AUTH
//!                     <-- HDR, SK{IDr, AUTH, GSA, KD, [N]}           or IDr, AUTH, N(error)
//!
//!  HDR, SK{IDg, [SAg], [N(GROUP_SENDER)]} -->                        GSA_REGISTRATION
//!                     <-- HDR, SK{GSA, KD, [N]}                      or N(error)
//!
//!  HDR, SK{IDg, N(REGISTRATION_FAILED)} -->                          leaving
//!                     <-- HDR, SK{}
//! ```

pub(crate) mod carried;
pub(crate) mod grant;
pub(crate) mod request;
pub(crate) mod serve;
pub(crate) mod working_path;

use keyferry_wire::{ChainWriter, Encode};

use crate::wire::notify::Notify;
use crate::wire::registry::{NotifyType, PayloadKind};
use crate::wire::vendor::VendorId;

/// Says that GSA_REKEY is acknowledged: from a member that it can, from the key server that it wants that.
fn announce_acks(chain: &mut ChainWriter) {
    chain.push(PayloadKind::VENDOR_ID.0, &VendorId::ours().to_vec());
    chain.push(PayloadKind::NOTIFY.0, &Notify::bare(NotifyType::REKEY_ACK).to_vec());
}
