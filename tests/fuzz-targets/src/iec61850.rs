//! Streams of IEC 61850 (RFC 8052): names by OID, SA TEKs, and the keys for them.

use gdoi::fuzzing;
use gdoi::wire::iec61850::StreamTek;
use keyferry_wire::{Decode, Encode};

/// An even first octet: an SA TEK behind its length of two octets, then the body of a KD payload. An odd one: the body of an
/// ID payload.
pub fn target(data: &[u8]) {
    let Some((kind, octets)) = data.split_first() else { return };
    if kind % 2 == 1 {
        return fuzzing::read_group(octets);
    }
    let Some((length, octets)) = octets.split_first_chunk() else { return };
    let Some((tek, kd)) = octets.split_at_checked(u16::from_be_bytes(*length).into()) else { return };
    if let Ok(value) = StreamTek::exact(tek) {
        let again = value.to_vec();
        assert_eq!(StreamTek::exact(&again).as_ref(), Ok(&value), "what was encoded means the same");
    }
    fuzzing::read_stream(tek, kd);
}
