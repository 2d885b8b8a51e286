//! Which packets a line of a traffic policy is about (RFC 4301 section 4.4.1.1).

use keyferry_model::policy::Selector;

use crate::packet::Headers;

/// Do both sides of a traffic policy match a packet? For multicast they are never swapped (RFC 5374 section 4.1.1).
pub(crate) fn covers(source: &Selector, destination: &Selector, packet: &Headers) -> bool {
    (is_any(source) || source.contains(packet.source))
        && destination.contains(packet.destination)
        && admits(source, destination, packet)
}

/// Do protocols and ports match, whatever the addresses?
pub(crate) fn admits(source: &Selector, destination: &Selector, packet: &Headers) -> bool {
    let (from, to) = packet.ports.unzip();
    side(source, packet.upper, from) && side(destination, packet.upper, to)
}

/// An all-zero source with prefix 0 stands for senders of either IP version.
fn is_any(source: &Selector) -> bool {
    source.prefix == 0 && source.address.is_unspecified()
}

/// A port that a fragment or another protocol hides matches only "any".
fn side(selector: &Selector, protocol: u8, port: Option<u16>) -> bool {
    (selector.protocol == 0 || selector.protocol == protocol) && (selector.port == 0 || port == Some(selector.port))
}
