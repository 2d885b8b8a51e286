//! Finding network address translators between the peers (RFC 3947 section 3.2).

use std::net::{IpAddr, SocketAddr};

use keyferry_crypto::{Hash, Secret};
use keyferry_wire::RawPayload;

use crate::message::Payloads;
use crate::wire::registry::payload;
use crate::wire::rules;

/// Which side a translator stands in front of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Nat {
    /// Ours: we keep its mapping alive.
    pub(crate) ours: bool,
    /// The peer's: its address may change.
    pub(crate) theirs: bool,
}

impl Nat {
    /// Is there any? Then both sides go on at port 4500.
    pub(crate) fn is_there(self) -> bool {
        self.ours || self.theirs
    }
}

/// What the hashes cover besides an address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) hash: Hash,
    pub(crate) cookies: &'a [u8; 16],
    /// We, as we see ourselves.
    pub(crate) own: SocketAddr,
    /// The peer, as we see it.
    pub(crate) peer: SocketAddr,
}

impl Place<'_> {
    fn digest(&self, at: SocketAddr) -> Vec<u8> {
        let port = at.port().to_be_bytes();
        match at.ip() {
            IpAddr::V4(ip) => self.hash.digest(&[self.cookies, &ip.octets(), &port]),
            IpAddr::V6(ip) => self.hash.digest(&[self.cookies, &ip.octets(), &port]),
        }
    }

    /// Adds the NAT-D payloads of our message: where it goes, then where it comes from.
    pub(crate) fn announce(&self, payloads: Payloads) -> Payloads {
        let digest = |at| Secret::new(self.digest(at));
        payloads.with_body(payload::NAT_D, digest(self.peer)).with_body(payload::NAT_D, digest(self.own))
    }

    /// What the NAT-D payloads of the peer's message say; nothing when there are not at least two of them.
    pub(crate) fn find(&self, payloads: &[RawPayload<'_>]) -> Option<Nat> {
        let digests: Vec<&[u8]> = rules::bodies(payloads, payload::NAT_D).collect();
        let [of_us, of_peer @ ..] = digests.as_slice() else { return None };
        if of_peer.is_empty() {
            return None;
        }
        let peer = self.digest(self.peer);
        Some(Nat { ours: *of_us != self.digest(self.own), theirs: of_peer.iter().all(|d| *d != peer) })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use keyferry_wire::chain;

    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// What the one side finds in the other's message.
    fn find(sent: &Place<'_>, seen: &Place<'_>) -> Option<Nat> {
        let payloads = sent.announce(Payloads::new());
        let octets = payloads.chain(0).unwrap();
        seen.find(&chain(payloads.first(), octets.expose()).unwrap())
    }

    #[test]
    fn translators_are_found_on_either_side() {
        let (member, outside, server) = (at("10.0.0.9:848"), at("192.0.2.7:40000"), at("203.0.113.1:848"));
        let place = |own, peer| Place { hash: Hash::Sha256, cookies: &[3; 16], own, peer };
        let none = Nat::default();
        assert_eq!(find(&place(member, server), &place(server, member)), Some(none));
        // In front of the member.
        let theirs = Nat { ours: false, theirs: true };
        assert_eq!(find(&place(member, server), &place(server, outside)), Some(theirs));
        assert_eq!(find(&place(server, outside), &place(member, server)), Some(Nat { ours: true, theirs: false }));
        // The port alone, and both sides at once.
        assert_eq!(find(&place(member, server), &place(server, at("10.0.0.9:849"))), Some(theirs));
        let inside = at("172.16.0.1:848");
        assert_eq!(find(&place(member, server), &place(inside, outside)), Some(Nat { ours: true, theirs: true }));
        assert!(!none.is_there() && theirs.is_there());
        let v6 = place(at("[2001:db8::1]:848"), at("[2001:db8::2]:848"));
        assert_eq!(find(&v6, &Place { own: v6.peer, peer: v6.own, ..v6 }), Some(none));
    }

    #[test]
    fn any_of_several_own_addresses_may_match_and_one_payload_says_nothing() {
        let (a, b) = (at("10.0.0.9:848"), at("203.0.113.1:848"));
        let sent = Place { hash: Hash::Sha1, cookies: &[3; 16], own: a, peer: b };
        let seen = Place { own: b, peer: a, ..sent };
        let wrong = Payloads::new().with_body(payload::NAT_D, Secret::new(sent.digest(b)));
        let octets = wrong.chain(0).unwrap();
        assert_eq!(seen.find(&chain(wrong.first(), octets.expose()).unwrap()), None);
        let several = wrong
            .with_body(payload::NAT_D, Secret::new(vec![1; 20]))
            .with_body(payload::NAT_D, Secret::new(sent.digest(a)));
        let octets = several.chain(0).unwrap();
        assert_eq!(seen.find(&chain(several.first(), octets.expose()).unwrap()), Some(Nat::default()));
    }

    // By Python: hashlib.sha256(bytes(range(16)) + bytes([192, 0, 2, 7]) + (848).to_bytes(2, "big")).hexdigest()
    #[test]
    fn a_digest_is_that_of_an_independent_computation() {
        let cookies: [u8; 16] = std::array::from_fn(|i| u8::try_from(i).unwrap());
        let place =
            Place { hash: Hash::Sha256, cookies: &cookies, own: at("192.0.2.7:848"), peer: at("192.0.2.7:848") };
        assert_eq!(
            hex::encode(place.digest(place.own)),
            "ead68ae232b42cb703e60808ec05c8f3887628bb5fbbb4f011e59a4339b1c3b7"
        );
    }
}
