//! Whether a device can do the cryptography of ESP, by generic netlink (`include/uapi/linux/genetlink.h`, `ethtool_netlink.h`).

use crate::engine::netlink::{Attributes, Message, u16_at};

/// The family that tells of families, and its request for one by name.
const CONTROL: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

/// The request for a device's features, and their names in the answer.
const GET_FEATURES: u8 = 11;
const FEATURES_OF: u16 = 1;
const INTERFACE: u16 = 1;
const ACTIVE: u16 = 4;
const BITS: u16 = 3;
const BIT_NAME: u16 = 2;
const ESP_OFFLOAD: &[u8] = b"esp-hw-offload\0";

/// Its attributes have others in them.
const NESTED: u16 = 0x8000;
/// Octets behind the header that all families have.
const FAMILY_HEADER: usize = 4;

/// Asks for the number of the family of messages about devices.
pub(in crate::engine::kernel) fn get_family() -> Message {
    let mut message = Message::new(CONTROL, 0);
    message.octets(&[GET_FAMILY, 1, 0, 0]);
    message.attribute(FAMILY_NAME, |message| message.octets(b"ethtool\0"));
    message
}

/// Asks for the features of a device.
pub(in crate::engine::kernel) fn get_features(family: u16, interface: u32) -> Message {
    let mut message = Message::new(family, 0);
    message.octets(&[GET_FEATURES, 1, 0, 0]);
    message.attribute(FEATURES_OF | NESTED, |message| message.attribute(INTERFACE, |message| message.u32(interface)));
    message
}

/// The family's number, where the kernel has told it.
pub(in crate::engine::kernel) fn family_told(body: &[u8]) -> Option<u16> {
    u16_at(nested(body.get(FAMILY_HEADER..)?, FAMILY_ID)?, 0)
}

/// Does a device do the cryptography of ESP, by what the kernel has told of its features?
pub(in crate::engine::kernel) fn has_esp_offload(body: &[u8]) -> bool {
    let active = || nested(nested(body.get(FAMILY_HEADER..)?, ACTIVE)?, BITS);
    active().is_some_and(|bits| Attributes(bits).any(|(_, bit)| nested(bit, BIT_NAME) == Some(ESP_OFFLOAD)))
}

fn nested(attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    Attributes(attributes).find(|(kind, _)| kind & !NESTED == wanted).map(|(_, value)| value)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::engine::netlink::HEADER;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut message = Message::new(0, 0);
        message.attribute(kind, |message| message.octets(value));
        message.finish(0)[HEADER..].to_vec()
    }

    /// The body of an answer with these attributes.
    fn answer(attributes: &[u8]) -> Vec<u8> {
        [&[0; FAMILY_HEADER], attributes].concat()
    }

    /// As the kernel tells features: those that are on, by number and name.
    fn features(place: u16, names: &[&[u8]]) -> Vec<u8> {
        let bit = |name: &&[u8]| attribute(1 | NESTED, &[attribute(1, &[0; 4]), attribute(BIT_NAME, name)].concat());
        let bits = attribute(BITS | NESTED, &names.iter().flat_map(bit).collect::<Vec<_>>());
        let set = [attribute(1, &[]), attribute(2, &64u32.to_ne_bytes()), bits].concat();
        answer(
            &[attribute(FEATURES_OF | NESTED, &attribute(INTERFACE, &[2; 4])), attribute(place | NESTED, &set)]
                .concat(),
        )
    }

    #[test]
    fn features_that_are_on_are_told_from_others() {
        assert!(has_esp_offload(&features(ACTIVE, &[b"rx-gro\0", ESP_OFFLOAD])));
        // What the hardware could do and is not to, and what has another name.
        for not in
            [features(2, &[ESP_OFFLOAD]), features(ACTIVE, &[b"esp-tx-csum-hw-offload\0"]), features(ACTIVE, &[])]
        {
            assert!(!has_esp_offload(&not));
        }
    }

    #[test]
    fn a_family_has_a_number_or_there_is_none() {
        let told = [attribute(FAMILY_NAME, b"ethtool\0"), attribute(FAMILY_ID, &0x14u16.to_ne_bytes())].concat();
        assert_eq!(family_told(&answer(&told)), Some(0x14));
        assert_eq!(family_told(&answer(&attribute(FAMILY_ID, &[1]))), None);
    }

    proptest! {
        #[test]
        fn whatever_is_read_says_something_or_nothing(cut in 0usize..120, at in 0usize..120, octet in any::<u8>()) {
            let mut octets = features(ACTIVE, &[ESP_OFFLOAD]);
            octets.truncate(octets.len() - cut.min(octets.len()));
            octets.iter_mut().skip(at).take(1).for_each(|it| *it = octet);
            has_esp_offload(&octets);
            family_told(&octets);
        }
    }
}
