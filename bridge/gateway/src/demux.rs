//! Which protocol a datagram belongs to: the major version in the IKE header says so, never the port.

use keyferry_wire::{Header, major_version, split_marker};

/// Where a datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Major version 1: ISAKMP, so GDOI (RFC 2408 section 3.1).
    Gdoi,
    /// Major version 2 (RFC 7296 section 3.1), or a later one, which IKEv2 answers with its own version.
    Gikev2,
    /// A translator's mapping is kept alive (RFC 3948 section 2.3); nothing is to be done.
    Keepalive,
    /// Too short for a header, or a version before 1.
    Nowhere,
}

/// All that a NAT keepalive holds.
const KEEPALIVE: &[u8] = &[0xff];

/// Takes off a non-ESP marker (RFC 3948 section 2.2), says whether there was one, and where the rest goes.
#[must_use]
pub fn classify(datagram: &[u8]) -> (bool, &[u8], Route) {
    if datagram == KEEPALIVE {
        return (false, datagram, Route::Keepalive);
    }
    let (marker, message) = split_marker(datagram);
    let route = match major_version(message) {
        Some(_) if message.len() < Header::LEN => Route::Nowhere,
        None | Some(0) => Route::Nowhere,
        Some(1) => Route::Gdoi,
        Some(_) => Route::Gikev2,
    };
    (marker, message, route)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(version: u8) -> Vec<u8> {
        let mut m = vec![1; Header::LEN];
        m[17] = version;
        m
    }

    #[test]
    fn the_version_decides() {
        assert_eq!(classify(&message(0x10)).2, Route::Gdoi);
        assert_eq!(classify(&message(0x20)).2, Route::Gikev2);
        assert_eq!(classify(&message(0x30)).2, Route::Gikev2);
        assert_eq!(classify(&message(0x00)).2, Route::Nowhere);
    }

    #[test]
    fn a_marker_is_taken_off() {
        let mut marked = vec![0; 4];
        marked.extend(message(0x20));
        let (marker, rest, route) = classify(&marked);
        assert!(marker && rest == message(0x20) && route == Route::Gikev2);
    }

    #[test]
    fn a_keepalive_is_one_octet() {
        assert_eq!(classify(&[0xff]).2, Route::Keepalive);
        assert_eq!(classify(&[0xff, 0xff]).2, Route::Nowhere);
        assert_eq!(classify(&[0]).2, Route::Nowhere);
    }

    #[test]
    fn short_datagrams_go_nowhere() {
        for len in 0..Header::LEN {
            assert_eq!(classify(&message(0x10)[..len]).2, Route::Nowhere);
        }
    }
}
