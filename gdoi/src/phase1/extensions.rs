//! Extensions of IKEv1 that are used only where both sides have announced them by a Vendor ID in their first messages.

use keyferry_wire::RawPayload;

use crate::message::Payloads;
use crate::wire::opaque::VendorId;
use crate::wire::registry::payload;
use crate::wire::rules;

/// Dead Peer Detection 1.0 (RFC 3706 section 5.1).
const DPD: [u8; 16] = [0xaf, 0xca, 0xd7, 0x13, 0x68, 0xa1, 0xf1, 0xc9, 0x6b, 0x86, 0x96, 0xfc, 0x77, 0x57, 0x01, 0x00];

/// Octets of [`DPD`] that do not say its version.
const DPD_NAME: usize = 14;

/// NAT traversal (RFC 3947 section 3.1): the MD5 hash of "RFC 3947".
const NAT_TRAVERSAL: [u8; 16] =
    [0x4a, 0x13, 0x1c, 0x81, 0x07, 0x03, 0x58, 0x45, 0x5c, 0x57, 0x28, 0xf2, 0x0e, 0x95, 0x45, 0x2f];

/// Fragmentation of messages, as vendors have it: the MD5 hash of "FRAGMENTATION".
const FRAGMENTATION: [u8; 16] =
    [0x40, 0x48, 0xb7, 0xd5, 0x6e, 0xbc, 0xe8, 0x85, 0x25, 0xe7, 0xde, 0x7f, 0x00, 0xd6, 0xc2, 0xd3];

/// What may follow it: which messages, this bit those of phase 1.
const FRAGMENTS_PHASE1: u32 = 0x8000_0000;

/// What one side can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extensions {
    /// Answers R-U-THERE (RFC 3706).
    pub(crate) dpd: bool,
    /// Takes fragments of messages.
    pub(crate) fragmentation: bool,
    /// Looks for translators, and goes on at port 4500 behind one.
    pub(crate) nat_traversal: bool,
}

impl Extensions {
    /// What we can do.
    pub(crate) const OURS: Extensions = Extensions { dpd: true, fragmentation: true, nat_traversal: true };

    /// What the payloads of a first message announce. Vendor IDs that we do not know are ignored (RFC 2408 section 3.16).
    pub(crate) fn read(payloads: &[RawPayload<'_>]) -> Self {
        let mut found = Self::default();
        for id in rules::bodies(payloads, payload::VENDOR_ID) {
            // Another minor version changes nothing that we use.
            found.dpd |= id.len() == DPD.len() && id[..DPD_NAME] == DPD[..DPD_NAME] && id[DPD_NAME] == DPD[DPD_NAME];
            found.nat_traversal |= id == NAT_TRAVERSAL;
            found.fragmentation |=
                id.strip_prefix(&FRAGMENTATION).is_some_and(|which| match <[u8; 4]>::try_from(which) {
                    Ok(which) => u32::from_be_bytes(which) & FRAGMENTS_PHASE1 != 0,
                    Err(_) => which.is_empty(),
                });
        }
        found
    }

    /// What both sides can do.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            dpd: self.dpd && other.dpd,
            fragmentation: self.fragmentation && other.fragmentation,
            nat_traversal: self.nat_traversal && other.nat_traversal,
        }
    }

    /// Announces it behind the payloads of a first message.
    pub(crate) fn announce(self, mut payloads: Payloads) -> Payloads {
        if self.dpd {
            payloads = payloads.with(payload::VENDOR_ID, &VendorId(&DPD));
        }
        if self.nat_traversal {
            payloads = payloads.with(payload::VENDOR_ID, &VendorId(&NAT_TRAVERSAL));
        }
        if self.fragmentation {
            let id = [&FRAGMENTATION[..], &FRAGMENTS_PHASE1.to_be_bytes()].concat();
            payloads = payloads.with(payload::VENDOR_ID, &VendorId(&id));
        }
        payloads
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use keyferry_wire::chain;

    use super::*;

    fn read(ids: &[&[u8]]) -> Extensions {
        let payloads = ids.iter().fold(Payloads::new(), |p, id| p.with(payload::VENDOR_ID, &VendorId(id)));
        let octets = payloads.chain(0).unwrap();
        Extensions::read(&chain(payloads.first(), octets.expose()).unwrap())
    }

    #[test]
    fn what_is_announced_is_found_among_unknown_vendor_ids() {
        for ours in [Extensions::OURS, Extensions::default()] {
            let payloads = ours.announce(Payloads::new().with(payload::VENDOR_ID, &VendorId(b"somebody else's")));
            let octets = payloads.chain(0).unwrap();
            assert_eq!(Extensions::read(&chain(payloads.first(), octets.expose()).unwrap()), ours);
        }
        assert_eq!(Extensions::OURS.and(Extensions::default()), Extensions::default());
    }

    #[test]
    fn fragmentation_is_announced_with_and_without_its_capabilities() {
        let with = |octets: &[u8]| [&FRAGMENTATION[..], octets].concat();
        assert!(read(&[&with(&[])]).fragmentation);
        assert!(read(&[&with(&[0xc0, 0, 0, 0])]).fragmentation);
        assert!(!read(&[&with(&[0x40, 0, 0, 0]), &with(&[0x80]), &FRAGMENTATION[..15]]).fragmentation);
    }

    #[test]
    fn only_the_major_version_of_dpd_counts() {
        let version = |octets: &[u8]| [&DPD[..DPD_NAME], octets].concat();
        assert!(read(&[&version(&[1, 7])]).dpd);
        assert!(!read(&[&version(&[2, 0]), &version(&[1]), &version(&[1, 0, 0])]).dpd);
    }
}
