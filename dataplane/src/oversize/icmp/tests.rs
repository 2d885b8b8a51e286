use super::*;

fn v4_packet(protocol: u8, kind: u8) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 9, protocol, 0, 0, 192, 0, 2, 1, 198, 51, 100, 1];
    packet.push(kind);
    packet.resize(1_400, 7);
    ipv4::rewrite(&mut packet, 20, protocol);
    packet
}

fn v6_packet(protocol: u8, kind: u8) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 0, protocol, 9];
    packet.extend("2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
    packet.extend("2001:db8::2".parse::<Ipv6Addr>().unwrap().octets());
    packet.push(kind);
    packet.resize(1_400, 7);
    ipv6::rewrite(&mut packet, 6, protocol);
    packet
}

fn told(packet: &[u8], room: usize) -> Option<usize> {
    next_hop(packet, &Headers::parse(packet).unwrap(), room)
}

/// The checksum of an ICMPv6 message over its pseudo-header, by plain addition.
fn sum6(message: &[u8]) -> u32 {
    let len = u32::try_from(message.len() - 40).unwrap();
    let pairs = message[8..].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let sum = pairs.sum::<u32>() + len + 58;
    (sum & 0xffff) + (sum >> 16)
}

#[test]
fn ipv4_senders_are_told_the_mtu() {
    let packet = v4_packet(protocol::UDP, 0);
    let message = too_big(&packet, &Headers::parse(&packet).unwrap(), 1_300, || None).unwrap();
    let headers = Headers::parse(&message).unwrap();
    assert_eq!((headers.source, headers.total), ("192.0.0.8".parse().unwrap(), 576));
    assert_eq!(headers.destination, "192.0.2.1".parse::<IpAddr>().unwrap());
    assert_eq!((checksum(&message[..20]), checksum(&message[20..])), (0, 0));
    assert_eq!((&message[20..22], &message[24..28]), (&[3, 4][..], &[0, 0, 0x05, 0x14][..]));
    assert_eq!(message[28..], packet[..548]);
    let short = &packet[..100];
    let mut short = short.to_vec();
    ipv4::rewrite(&mut short, 20, protocol::UDP);
    let message = too_big(&short, &Headers::parse(&short).unwrap(), 68, || None).unwrap();
    assert_eq!(message[28..], short);
}

#[test]
fn ipv6_senders_are_told_the_mtu() {
    let packet = v6_packet(protocol::UDP, 0);
    let from: Ipv6Addr = "2001:db8::9".parse().unwrap();
    let message = too_big(&packet, &Headers::parse(&packet).unwrap(), 1_300, || Some(from)).unwrap();
    let headers = Headers::parse(&message).unwrap();
    assert_eq!((headers.source, headers.total), (from.into(), 1_280));
    assert_eq!(headers.destination, "2001:db8::1".parse::<IpAddr>().unwrap());
    assert_eq!((message[7], &message[40..42], &message[44..48]), (64, &[2, 0][..], &[0, 0, 0x05, 0x14][..]));
    assert_eq!(message[48..], packet[..1_232]);
    assert_eq!(sum6(&message), 0xffff);
    assert!(too_big(&packet, &Headers::parse(&packet).unwrap(), 1_300, || None).is_none(), "nobody to speak");
}

#[test]
fn errors_groups_and_impossible_senders_are_not_answered() {
    let mut packet = v4_packet(protocol::UDP, 0);
    assert_eq!(told(&packet, 1_300), Some(1_300));
    for kind in 0..=255 {
        let error = [3, 4, 5, 11, 12].contains(&kind);
        assert_eq!(told(&v4_packet(protocol::ICMP, kind), 1_300).is_none(), error, "{kind}");
        let error = kind < 128 || kind == 137;
        assert_eq!(told(&v6_packet(protocol::ICMPV6, kind), 1_300).is_none(), error, "{kind}");
    }
    for source in [[0, 0, 0, 0], [0, 1, 2, 3], [127, 0, 0, 1], [224, 0, 0, 1], [240, 0, 0, 1], [255; 4]] {
        packet[12..16].copy_from_slice(&source);
        assert_eq!(told(&packet, 1_300), None, "{source:?}");
    }
    packet[12..16].copy_from_slice(&[10, 0, 0, 1]);
    for destination in [[239, 192, 0, 1], [255; 4]] {
        packet[16..20].copy_from_slice(&destination);
        assert_eq!(told(&packet, 1_300), None, "{destination:?}");
    }
    packet[16..20].copy_from_slice(&[10, 0, 0, 2]);
    assert!(told(&packet, 1_300).is_some());
    packet[7] = 1;
    assert_eq!(told(&packet, 1_300), None, "a later fragment");

    let mut packet = v6_packet(protocol::UDP, 0);
    packet[24] = 0xff;
    assert_eq!(told(&packet, 1_300), Some(1_300), "of IPv6 groups senders are told");
    for source in ["::", "::1", "ff02::1"] {
        packet[8..24].copy_from_slice(&source.parse::<Ipv6Addr>().unwrap().octets());
        assert_eq!(told(&packet, 1_300), None, "{source}");
    }
    // A later fragment of ICMPv6 does not show whether it is of an error.
    let mut packet = v6_packet(44, protocol::ICMPV6);
    packet[40..48].copy_from_slice(&[protocol::ICMPV6, 0, 1, 0, 0, 0, 0, 7]);
    assert_eq!(told(&packet, 1_300), None);
    packet[40] = protocol::UDP;
    assert_eq!(told(&packet, 1_300), Some(1_300));
}

#[test]
fn nobody_is_told_to_go_below_what_every_link_takes() {
    assert_eq!(told(&v4_packet(protocol::UDP, 0), 20), Some(68));
    assert_eq!(told(&v6_packet(protocol::UDP, 0), 900), Some(1_280));
    let mut small = v6_packet(protocol::UDP, 0);
    small.truncate(1_280);
    ipv6::rewrite(&mut small, 6, protocol::UDP);
    assert_eq!(told(&small, 900), None, "smaller ones are of no help");
}
