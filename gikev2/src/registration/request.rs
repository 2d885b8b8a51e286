//! The member's part: what it asks for.

use keyferry_model::id::GroupId;
use keyferry_model::settings::MemberSettings;
use keyferry_wire::{ChainWriter, Encode};

use crate::policy::identity::group_to_wire;
use crate::policy::sag;
use crate::wire::notify::Notify;
use crate::wire::registry::{NotifyType, PayloadKind};

/// IDg, SAg and GROUP_SENDER: the group to join, what we can do, and whether we will send.
pub(crate) fn join(settings: &MemberSettings, group: &GroupId, chain: &mut ChainWriter) {
    put_group(group, chain);
    chain.push(PayloadKind::SA.0, &sag::capabilities().to_vec());
    if settings.sender_ids > 0 {
        let count = settings.sender_ids.to_be_bytes().to_vec();
        chain.push(PayloadKind::NOTIFY.0, &Notify::new(NotifyType::GROUP_SENDER, count).to_vec());
    }
    if settings.gikev2.ack {
        super::announce_acks(chain);
    }
}

/// IDg and why we leave: REGISTRATION_FAILED at our own wish, NO_PROPOSAL_CHOSEN when the policy does not suit
/// (RFC 9838 section 2.3.2).
pub(crate) fn leave(group: &GroupId, why: NotifyType, chain: &mut ChainWriter) {
    put_group(group, chain);
    chain.push(PayloadKind::NOTIFY.0, &Notify::bare(why).to_vec());
}

/// IDg. A member does not connect for a group that it could not ask for.
fn put_group(group: &GroupId, chain: &mut ChainWriter) {
    if let Some(id) = group_to_wire(group) {
        chain.push(PayloadKind::ID_G.0, &id.to_vec());
    }
}
