//! What is in an Ethernet frame, as far as the lab wants to know.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::tally::MAGIC;

/// A frame's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// An ESP packet.
    Esp(Esp),
    /// UDP to or from the key server's port.
    Ike,
    /// Traffic of the group that anybody can read.
    Clear,
    /// ARP, neighbour discovery, multicast reports and the like.
    Other,
}

/// What an ESP packet shows on its outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Esp {
    /// Outer source.
    pub source: IpAddr,
    /// SPI.
    pub spi: u32,
    /// The octets after the sequence number: the IV of AES-GCM (RFC 4106 section 3.1).
    pub iv: u64,
}

const UDP: u8 = 17;
const ESP: u8 = 50;

/// Looks into a frame. `group` is where the applications' traffic goes, `ike_port` the key server's port. Whatever bears
/// the applications' mark is clear, wherever it stands.
pub(super) fn look(frame: &[u8], group: IpAddr, ike_port: u16) -> Content {
    if contains(frame, MAGIC) {
        return Content::Clear;
    }
    let Some(packet) = ip_packet(frame) else { return Content::Other };
    match (packet.protocol, packet.payload) {
        (ESP, payload) => match esp(packet.source, payload) {
            Some(esp) => Content::Esp(esp),
            None => Content::Other,
        },
        (UDP, [s1, s2, d1, d2, ..]) => {
            let ports = [u16::from_be_bytes([*s1, *s2]), u16::from_be_bytes([*d1, *d2])];
            match ports.contains(&ike_port) {
                true => Content::Ike,
                false if packet.destination == group => Content::Clear,
                false => Content::Other,
            }
        }
        (_, _) => Content::Other,
    }
}

fn contains(frame: &[u8], needle: &[u8]) -> bool {
    frame.windows(needle.len()).any(|w| w == needle)
}

struct Packet<'a> {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    payload: &'a [u8],
}

fn ip_packet(frame: &[u8]) -> Option<Packet<'_>> {
    let (ethernet, packet) = frame.split_first_chunk::<14>()?;
    match [ethernet[12], ethernet[13]] {
        [0x08, 0x00] => ipv4(packet),
        [0x86, 0xdd] => ipv6(packet),
        _ => None,
    }
}

fn ipv4(packet: &[u8]) -> Option<Packet<'_>> {
    let header = packet.first_chunk::<20>()?;
    let address = |at: usize| Some(IpAddr::V4(Ipv4Addr::from(*packet.get(at..)?.first_chunk::<4>()?)));
    let payload = packet.get(usize::from(header[0] & 0x0f) * 4..)?;
    Some(Packet { source: address(12)?, destination: address(16)?, protocol: header[9], payload })
}

fn ipv6(packet: &[u8]) -> Option<Packet<'_>> {
    let (header, mut payload) = packet.split_first_chunk::<40>()?;
    let address = |at: usize| Some(IpAddr::V6(Ipv6Addr::from(*header.get(at..)?.first_chunk::<16>()?)));
    let mut protocol = header[6];
    // Hop-by-hop and destination options, in front of what counts.
    while let (0 | 60, [next, words, ..]) = (protocol, payload) {
        protocol = *next;
        payload = payload.get((usize::from(*words) + 1) * 8..)?;
    }
    Some(Packet { source: address(8)?, destination: address(24)?, protocol, payload })
}

fn esp(source: IpAddr, payload: &[u8]) -> Option<Esp> {
    let (spi, rest) = payload.split_first_chunk::<4>()?;
    let (_sequence, rest) = rest.split_first_chunk::<4>()?;
    let iv = rest.first_chunk::<8>()?;
    Some(Esp { source, spi: u32::from_be_bytes(*spi), iv: u64::from_be_bytes(*iv) })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::lab::tally::Stamp;

    const GROUP: IpAddr = IpAddr::V4(Ipv4Addr::new(239, 192, 0, 1));

    fn ipv4_frame(protocol: u8, destination: [u8; 4], payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 84, 0, 11]);
        frame.extend(destination);
        frame.extend(payload);
        frame
    }

    fn ipv6_frame(next: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, next, 64]);
        frame.extend("fd84::11".parse::<Ipv6Addr>().unwrap().octets());
        frame.extend("ff15::c000:1".parse::<Ipv6Addr>().unwrap().octets());
        frame.extend(payload);
        frame
    }

    #[test]
    fn esp_shows_its_outside() {
        let esp = [0, 0, 0x10, 1, 0, 0, 0, 9, 0, 5, 0, 0, 0, 0, 0, 1, 0xaa];
        let expected = |source: &str| {
            Content::Esp(Esp { source: source.parse().unwrap(), spi: 0x1001, iv: 0x0005_0000_0000_0001 })
        };
        assert_eq!(look(&ipv4_frame(50, [239, 192, 0, 1], &esp), GROUP, 848), expected("10.84.0.11"));
        assert_eq!(look(&ipv6_frame(50, &esp), GROUP, 848), expected("fd84::11"));
        let behind_options = [&[50, 0, 1, 4, 0, 0, 0, 0], &esp[..]].concat();
        assert_eq!(look(&ipv6_frame(0, &behind_options), GROUP, 848), expected("fd84::11"));
    }

    #[test]
    fn cleartext_is_found_by_address_and_by_mark() {
        let udp = [0x16, 0xd8, 0x16, 0xd8, 0, 9, 0, 0, 1];
        assert_eq!(look(&ipv4_frame(17, [239, 192, 0, 1], &udp), GROUP, 848), Content::Clear);
        assert_eq!(look(&ipv4_frame(17, [239, 192, 0, 2], &udp), GROUP, 848), Content::Other);
        let payload = Stamp { sender: 1, sequence: 2, sent_us: 3 }.payload();
        assert_eq!(look(&ipv4_frame(50, [10, 0, 0, 1], &payload), GROUP, 848), Content::Clear);
    }

    #[test]
    fn the_key_servers_port_is_not_the_groups_traffic() {
        let udp = [3, 0x50, 0x12, 0x34, 0, 9, 0, 0, 1];
        assert_eq!(look(&ipv4_frame(17, [239, 192, 84, 8], &udp), GROUP, 848), Content::Ike);
    }

    #[test]
    fn cut_frames_are_survived() {
        let whole = ipv6_frame(0, &[50, 0, 1, 4, 0, 0, 0, 0, 0, 0, 16, 1, 0, 0, 0, 9, 0, 5, 0, 0, 0, 0, 0, 1]);
        for end in 0..whole.len() {
            assert_eq!(look(&whole[..end], GROUP, 848), Content::Other);
        }
    }
}
