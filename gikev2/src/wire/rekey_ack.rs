//! Acknowledgement of a GSA_REKEY (our own extension, docs/extensions.md): one message, from the member to the key server.
//!
//! ```text
//!  IKE header of the Rekey SA, exchange 240, flag R, Message ID of the GSA_REKEY
//!  Vendor ID
//!  +---------------------------------------------------+
//!  |  Notify, protocol 0, no SPI, type 40960           |
//!  +---------------------------------------------------+
//!  |  Key ID of the member's own key                   |
//!  +---------------------------------------------------+
//!  ~  MAC: 32 octets                                   ~
//!  +---------------------------------------------------+
//! ```

use keyferry_crypto::{Prf, Secret};
use keyferry_wire::{ChainWriter, Encode, Header, chain};

use super::notify::Notify;
use super::registry::{ExchangeType, NotifyType, PayloadKind, flags};
use super::vendor::{KEYFERRY, VendorId};
use crate::reject::Reject;

/// Octets of the MAC, which stands last.
const MAC: usize = 32;

/// What the key of the MAC is derived for.
const LABEL: &[u8] = b"Keyferry G-IKEv2 rekey acknowledgement";

/// An acknowledgement as it came: nothing in it is proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RekeyAck<'a> {
    /// SPI of the Rekey SA.
    pub spi: [u8; 16],
    /// Message ID of the message that is acknowledged.
    pub message_id: u32,
    /// Names the member's own key.
    pub key_id: u32,
    /// What the MAC covers.
    covered: &'a [u8],
    mac: &'a [u8],
}

fn header(spi: &[u8; 16], message_id: u32) -> Header {
    let (mut spi_i, mut spi_r) = ([0; 8], [0; 8]);
    spi_i.copy_from_slice(&spi[..8]);
    spi_r.copy_from_slice(&spi[8..]);
    crate::ike_sa::init::header(ExchangeType::REKEY_ACK, spi_i, spi_r, flags::RESPONSE, message_id)
}

/// The key of the MAC: of the member's own key, and of the Rekey SA, so that it is good for nothing else.
fn mac(key: &Secret, spi: &[u8; 16], covered: &[u8]) -> Secret {
    let derived = Prf::HmacSha256.compute(key.expose(), &[LABEL, spi]);
    Prf::HmacSha256.compute(derived.expose(), &[covered])
}

/// The acknowledgement of a message by the holder of `key`.
#[must_use]
pub fn build(spi: &[u8; 16], message_id: u32, (key_id, key): (u32, &Secret)) -> Vec<u8> {
    let mut chain = ChainWriter::new();
    chain.push(PayloadKind::VENDOR_ID.0, &VendorId::ours().to_vec());
    let data = [&key_id.to_be_bytes()[..], &[0; MAC]].concat();
    chain.push(PayloadKind::NOTIFY.0, &Notify::new(NotifyType::REKEY_ACK, data).to_vec());
    let mut message = crate::ike_sa::init::bare(header(spi, message_id), chain);
    let at = message.len() - MAC;
    let value = mac(key, spi, &message[..at]);
    message[at..].copy_from_slice(value.expose());
    message
}

impl<'a> RekeyAck<'a> {
    /// Reads one: exactly as it is built, for it has no options.
    ///
    /// # Errors
    /// [`Reject::Malformed`].
    pub fn parse(header: &Header, datagram: &'a [u8]) -> Result<Self, Reject> {
        const NONE: Reject = Reject::Malformed("not an acknowledgement of a rekey");
        let payloads = chain(header.next, &datagram[Header::LEN.min(datagram.len())..])?;
        let [vendor, notify] = &payloads[..] else { return Err(NONE) };
        let kinds = (vendor.kind, notify.kind) == (PayloadKind::VENDOR_ID.0, PayloadKind::NOTIFY.0);
        let ours = vendor.body == KEYFERRY && header.flags == flags::RESPONSE;
        let said = notify.body.strip_prefix(&Notify::bare(NotifyType::REKEY_ACK).to_vec()[..]).ok_or(NONE)?;
        let (key_id, value) = said.split_at_checked(4).ok_or(NONE)?;
        let key_id = <[u8; 4]>::try_from(key_id).map(u32::from_be_bytes).map_err(|_| NONE)?;
        if !kinds || !ours || value.len() != MAC {
            return Err(NONE);
        }
        let covered = &datagram[..datagram.len() - MAC];
        Ok(Self { spi: header.spi_pair(), message_id: header.message_id, key_id, covered, mac: value })
    }

    /// Did the holder of this key send it?
    #[must_use]
    pub fn is_of(&self, key: &Secret) -> bool {
        mac(key, &self.spi, self.covered).ct_eq(self.mac)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const SPI: [u8; 16] = [0x11; 16];

    fn key() -> Secret {
        Secret::new((0..16).collect())
    }

    fn parse(message: &[u8]) -> Result<RekeyAck<'_>, Reject> {
        let (header, _) = Header::decode(message)?;
        RekeyAck::parse(&header, message)
    }

    /// Computed with Python's hmac: see tests/vectors/rekey_ack.py.
    #[test]
    fn the_octets_are_those_computed_elsewhere() {
        let message = build(&SPI, 7, (0x0102_0304, &key()));
        assert_eq!(hex::encode(&message), include_str!("../../tests/vectors/rekey_ack.txt").trim());
    }

    #[test]
    fn whoever_has_the_key_is_told_from_all_others() {
        let message = build(&SPI, 7, (9, &key()));
        let ack = parse(&message).unwrap();
        assert_eq!((ack.spi, ack.message_id, ack.key_id), (SPI, 7, 9));
        assert!(ack.is_of(&key()) && !ack.is_of(&Secret::new(vec![1; 16])));
        for n in 0..message.len() {
            assert!(parse(&message[..n]).is_err());
            for flip in [1, 0x80] {
                let mut changed = message.clone();
                changed[n] ^= flip;
                assert!(!parse(&changed).is_ok_and(|ack| ack.is_of(&key())), "octet {n}");
            }
        }
    }
}
