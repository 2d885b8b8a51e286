//! The member's own policy, as its configuration says.

use std::net::{IpAddr, Ipv4Addr};

use dataplane::{LocalPolicy, WithoutKeys};
use keyferry_model::flows::{Flow, Flows};
use keyferry_model::policy::Selector;

use crate::config::MemberGroup;

/// Senders of either IP version.
const ANY_SOURCE: Selector = Selector { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), prefix: 0, protocol: 0, port: 0 };

/// The member's rules. Until the group has told what it protects, that is what the configuration has routed into the device,
/// and what it expects beyond multicast of any kind.
pub(super) fn policy(group: &MemberGroup, accept: &Flows) -> LocalPolicy {
    let without_keys = if group.danger_clear_without_keys {
        let usual = Flows::multicast();
        let named = accept.0.iter().filter(|flow| !usual.contains(flow));
        let expected = group.protect.iter().map(|(address, prefix)| Flow::to(*address, *prefix)).chain(named.copied());
        WithoutKeys::Clear(expected.map(|flow| (flow.source.unwrap_or(ANY_SOURCE), flow.destination)).collect())
    } else {
        WithoutKeys::Drop
    };
    LocalPolicy { rules: group.rules.clone(), without_keys }
}
