//! What an authentic message of the Informational exchange says (RFC 2409 section 5.7).

use std::time::Duration;

use keyferry_wire::{Decode, Header, attributes};

use crate::phase1::ike_sa::IkeSa;
use crate::reject::Reject;
use crate::wire::delete::Delete;
use crate::wire::notification::Notification;
use crate::wire::registry::{Doi, NotifyType, esp_attribute, payload, phase1, phase1_attribute as attribute, protocol};
use crate::wire::rules::{self, NOTICE};

/// What a notice says. Notifications that we do not know are left out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Notice {
    /// The first error that it reports.
    pub(crate) error: Option<NotifyType>,
    /// R-U-THERE with its sequence number (RFC 3706).
    pub(crate) are_you_there: Option<u32>,
    /// R-U-THERE-ACK with its sequence number.
    pub(crate) here: Option<u32>,
    /// The peer has no other phase 1 SA with us.
    pub(crate) initial_contact: bool,
    /// How long the responder keeps this SA.
    pub(crate) lifetime: Option<Duration>,
    /// Phase 1 SAs that it deletes.
    pub(crate) phase1: Vec<[u8; 16]>,
    /// Rekey SAs that it deletes.
    pub(crate) keks: Vec<[u8; 16]>,
}

impl Notice {
    /// Opens a notice under this SA.
    pub(crate) fn open(sa: &IkeSa, header: &Header, body: &[u8]) -> Result<Self, Reject> {
        let plain = sa.open(header, body, &sa.iv(header.message_id), &[], &NOTICE)?;
        let parts = plain.parts()?;
        let mut notice = Self::default();
        for body in rules::bodies(&parts.payloads, payload::NOTIFICATION) {
            notice.hear(sa, &Notification::exact(body)?);
        }
        for body in rules::bodies(&parts.payloads, payload::DELETE) {
            let delete = Delete::exact(body)?;
            for spi in delete.spis() {
                match <[u8; 16]>::try_from(spi) {
                    Ok(spi) if delete.protocol == protocol::KEK && delete.doi == Doi::GDOI => notice.keks.push(spi),
                    // Whatever the DOI: no TEK has an SPI of 16 octets.
                    Ok(spi) if delete.protocol == phase1::PROTO_ISAKMP => notice.phase1.push(spi),
                    Ok(_) | Err(_) => {}
                }
            }
        }
        Ok(notice)
    }

    fn hear(&mut self, sa: &IkeSa, n: &Notification<'_>) {
        // A status is about this SA, or it names none (RFC 3706 section 6.1).
        let about_us = n.spi.is_empty() || n.spi == sa.cookies();
        let number = || <[u8; 4]>::try_from(n.data).ok().map(u32::from_be_bytes);
        match n.kind {
            kind if kind.is_error() => self.error = self.error.or(Some(kind)),
            _ if !about_us || n.protocol != phase1::PROTO_ISAKMP => {}
            NotifyType::R_U_THERE => self.are_you_there = number(),
            NotifyType::R_U_THERE_ACK => self.here = number(),
            NotifyType::INITIAL_CONTACT => self.initial_contact = true,
            NotifyType::RESPONDER_LIFETIME => self.lifetime = lifetime(n.data),
            _ => {}
        }
    }
}

/// Seconds in the attributes of RESPONDER-LIFETIME: by the numbers of phase 1, or those of IPsec SAs, which RFC 2407
/// section 4.6.3.1 leaves open. Kilobytes are passed over, and what 32 bits cannot say is as good as what they can.
fn lifetime(data: &[u8]) -> Option<Duration> {
    let (mut kind, mut seconds) = (None, None);
    for a in attributes(data).ok()? {
        match a.kind {
            attribute::LIFE_TYPE | esp_attribute::LIFE_TYPE => kind = a.as_u32(),
            attribute::LIFE_DURATION | esp_attribute::LIFE_DURATION => {
                let counts_seconds = kind.take() == Some(u32::from(phase1::SECONDS));
                seconds = a.as_u64().filter(|s| counts_seconds && *s > 0).or(seconds);
            }
            _ => {}
        }
    }
    seconds.map(|s| Duration::from_secs(s.min(u32::MAX.into())))
}

/// Data of RESPONDER-LIFETIME.
pub(crate) fn lifetime_data(lifetime: Duration) -> Vec<u8> {
    let seconds = u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX).to_be_bytes();
    let mut data = Vec::with_capacity(12);
    keyferry_wire::put_short(&mut data, attribute::LIFE_TYPE, phase1::SECONDS);
    keyferry_wire::put_long(&mut data, attribute::LIFE_DURATION, &seconds);
    data
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_are_read_by_both_sets_of_numbers() {
        assert_eq!(lifetime(&lifetime_data(Duration::from_secs(3600))), Some(Duration::from_secs(3600)));
        let ipsec = [0x80, 1, 0, 1, 0x80, 2, 0x0e, 0x10];
        assert_eq!(lifetime(&ipsec), Some(Duration::from_secs(3600)));
        let kilobytes_first = [0x80, 11, 0, 2, 0x80, 12, 0, 9, 0x80, 11, 0, 1, 0x80, 12, 0, 8];
        assert_eq!(lifetime(&kilobytes_first), Some(Duration::from_secs(8)));
        let eternal = [&[0x80, 11, 0, 1, 0, 12, 0, 8][..], &[0xff; 8]].concat();
        assert_eq!(lifetime(&eternal), Some(Duration::from_secs(u32::MAX.into())));
        for bad in [&[][..], &[0x80, 12, 0, 9], &[0x80, 11, 0, 1, 0x80, 12, 0, 0], &[0x80, 11, 0]] {
            assert_eq!(lifetime(bad), None);
        }
    }
}
