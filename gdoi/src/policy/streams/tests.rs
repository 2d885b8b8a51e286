use keyferry_wire::Decode;
use proptest::prelude::*;

use super::*;
use crate::policy::take::{Decree, Taking};
use crate::wire::group_sa::GroupSa;
use crate::wire::kd::Kd;
use crate::wire::registry::Doi;

fn short(kind: u16, v: u16) -> Attribute<'static> {
    Attribute { kind, value: AttributeValue::Short(v) }
}

fn long(kind: u16, v: &'static [u8]) -> Attribute<'static> {
    Attribute { kind, value: AttributeValue::Long(v) }
}

fn tek() -> StreamTek<'static> {
    StreamTek {
        name: "1.2.840.10070.61850.8.1.2#0404e9fc0001".parse().unwrap(),
        spi: 1,
        authentication: iec61850::HMAC_SHA256_128,
        encryption: iec61850::AES_CBC_128,
        lifetime: 3600,
        attributes: vec![long(stream_attribute::ATD, &[0, 0, 0, 9]), short(stream_attribute::KDA, 100)],
    }
}

fn read(tek: &StreamTek<'_>) -> Result<StreamDecree, Reject> {
    StreamDecree::read(tek)
}

fn decree(teks: Vec<StreamTek<'static>>) -> Result<Decree, Reject> {
    let sats = teks.into_iter().map(Sat::Iec61850).collect();
    Decree::read(&GroupSa { doi: Doi::GDOI, situation: 0, sak: None, gap: None, sats }, Taking::default())
}

#[test]
fn a_sound_stream_is_taken_whole() {
    let stream = read(&tek()).unwrap();
    assert_eq!((stream.spi, stream.delivered), (1, Some(100)));
    assert_eq!(
        (stream.lifetime, stream.activation_delay),
        (Some(Duration::from_secs(3600)), Some(Duration::from_secs(9)))
    );
    assert_eq!(stream.protection.key_lens(), (16, 32));
    let bare = read(&StreamTek { lifetime: 0, attributes: Vec::new(), ..tek() }).unwrap();
    assert_eq!((bare.lifetime, bare.activation_delay, bare.delivered), (None, None, None));
}

#[test]
fn every_pair_of_numbers_is_known_or_refused() {
    let taken = |authentication, encryption| read(&StreamTek { authentication, encryption, ..tek() }).ok();
    for authentication in 0..=8 {
        for encryption in 0..=8 {
            let fits = matches!((authentication, encryption), (1..=5, 1) | (2..=5, 2 | 3) | (0 | 1, 4 | 5));
            assert_eq!(taken(authentication, encryption).is_some(), fits, "{authentication}, {encryption}");
        }
    }
    assert!(taken(0xf000, 1).is_none() && taken(2, 0xf000).is_none(), "private use");
    for (authentication, number) in AUTHENTICATIONS {
        for (encryption, other) in ENCRYPTIONS {
            let both = StreamProtection::new(authentication, encryption);
            assert_eq!(protection(number, other), both);
        }
    }
}

#[test]
fn authentication_is_numbered_as_the_appendix_of_rfc_8052_does_where_that_is_safe() {
    let gcm = read(&StreamTek { authentication: 0, encryption: iec61850::AES_GCM_128, ..tek() }).unwrap();
    assert_eq!(gcm.protection.authentication(), Authentication::None);
    // HMAC-SHA256-128 in the appendix, no authentication at all everywhere else.
    assert!(read(&StreamTek { authentication: 1, ..tek() }).is_err());
}

#[test]
fn what_is_not_known_of_a_stream_is_refused() {
    for attribute in [
        short(stream_attribute::KDA, 101),
        long(stream_attribute::KDA, &[]),
        long(stream_attribute::ATD, &[0; 9]),
        long(stream_attribute::ATD, &[1, 0, 0, 0, 0]),
        long(stream_attribute::ATD, &[]),
        short(3, 1),
        short(28_672, 1),
    ] {
        assert!(read(&StreamTek { attributes: vec![attribute], ..tek() }).is_err(), "{attribute:?}");
    }
    let twice = vec![short(stream_attribute::KDA, 1), short(stream_attribute::KDA, 1)];
    assert!(read(&StreamTek { attributes: twice, ..tek() }).is_err());
    assert!(read(&StreamTek { spi: 0, ..tek() }).is_err());
    assert!(decree(vec![tek(), tek()]).is_err(), "an SPI twice");
    let forms = vec![short(stream_attribute::ATD, 9), long(stream_attribute::KDA, &[0, 7])];
    let both = read(&StreamTek { attributes: forms, ..tek() }).unwrap();
    assert_eq!((both.activation_delay, both.delivered), (Some(Duration::from_secs(9)), Some(7)), "TV and TLV");
}

fn keys(spi: &'static [u8], attributes: Vec<Attribute<'static>>) -> KeyPacket<'static> {
    KeyPacket { kind: KeyPacketType::TEK, spi, attributes }
}

#[test]
fn keys_must_be_there_once_and_have_their_length() {
    const SPI: &[u8] = &[0, 0, 0, 1];
    let decree = decree(vec![tek()]).unwrap();
    let streams = |packets: Vec<KeyPacket<'static>>| {
        Download::read(&Kd { packets }).and_then(|d| d.streams(&decree)).map(|mut s| s.remove(0))
    };
    let encryption = |len: usize| long(key_attribute::TEK_ALGORITHM_KEY, &[7; 64][..len]);
    let integrity = |len: usize| long(key_attribute::TEK_INTEGRITY_KEY, &[9; 64][..len]);
    let stream = streams(vec![keys(SPI, vec![integrity(32), encryption(16)])]).unwrap();
    assert_eq!(stream.keymat.expose(), [&[7; 16][..], &[9; 32]].concat());
    for packets in [
        vec![],
        vec![keys(SPI, vec![])],
        vec![keys(SPI, vec![integrity(32)])],
        vec![keys(SPI, vec![encryption(16)])],
        vec![keys(SPI, vec![encryption(16), integrity(20)])],
        vec![keys(SPI, vec![encryption(32), integrity(16)])],
        vec![keys(SPI, vec![encryption(16), integrity(32), short(9, 9)])],
        vec![keys(SPI, vec![encryption(16), integrity(32)]), keys(SPI, vec![encryption(16), integrity(32)])],
        vec![keys(&SPI[1..], vec![encryption(16), integrity(32)])],
        vec![keys(&[0, 0, 0, 2], vec![encryption(16), integrity(32)])],
    ] {
        assert!(streams(packets).is_err());
    }
}

/// The delay of the whole message is for what it replaces keys with, not for the keys that are in use.
#[test]
fn of_two_sas_of_a_stream_the_newer_takes_the_delay_of_the_message() {
    let bare = |spi, name: &str| StreamTek { spi, name: name.parse().unwrap(), attributes: Vec::new(), ..none() };
    let own = StreamTek { spi: 4, attributes: vec![short(stream_attribute::ATD, 2)], ..none() };
    let mut decree = decree(vec![bare(1, "1.2.1"), bare(2, "1.2.2"), bare(3, "1.2.1"), own]).unwrap();
    decree.activation_delay = Duration::from_secs(9);
    let streams = Download::read(&Kd { packets: Vec::new() }).unwrap().streams(&decree).unwrap();
    assert_eq!(streams.iter().map(|s| s.activation_delay.as_secs()).collect::<Vec<_>>(), [0, 9, 9, 2]);
}

fn none() -> StreamTek<'static> {
    StreamTek { authentication: iec61850::AUTH_NONE, encryption: iec61850::ENC_NONE, ..tek() }
}

#[test]
fn a_stream_without_protection_has_no_keys() {
    let decree = decree(vec![none()]).unwrap();
    let nothing = Download::read(&Kd { packets: Vec::new() }).unwrap();
    assert!(nothing.streams(&decree).unwrap()[0].keymat.is_empty());
    let some = keys(&[0, 0, 0, 1], vec![long(key_attribute::TEK_ALGORITHM_KEY, &[7; 16])]);
    assert!(Download::read(&Kd { packets: vec![some] }).unwrap().streams(&decree).is_err());
}

/// SA TEKs and KD of tests/vectors/iec61850.py: those of RFC 8052 appendix A.
#[test]
fn streams_of_an_independent_computation_are_taken_and_told_alike() {
    let mut lines = include_str!("../../../tests/vectors/iec61850.txt").lines().filter(|l| !l.starts_with('#'));
    let mut next = || hex::decode(lines.next().unwrap()).unwrap();
    let (sa, kd) = (next(), next());
    let decree = Decree::read(&GroupSa::exact(&sa).unwrap(), Taking::default()).unwrap();
    let kd = Kd::exact(&kd).unwrap();
    let streams = Download::read(&kd).unwrap().streams(&decree).unwrap();
    let [first, second] = streams.as_slice() else { panic!("two streams") };
    assert_eq!(first.name, "1.2.840.10070.61850.8.1.2#0404e9fc0001".parse().unwrap());
    assert_eq!((first.spi, second.spi, &second.name), (1, 2, &first.name));
    assert_eq!((first.lifetime, first.activation_delay), (Some(Duration::from_secs(0x0e10)), Duration::ZERO));
    assert_eq!(first.keymat.expose(), [[0x41; 16].as_slice(), &[0x42; 32]].concat());
    assert_eq!(
        (second.lifetime, second.activation_delay),
        (Some(Duration::from_secs(0xa8c0)), Duration::from_secs(0x0ce4))
    );
    assert_eq!((second.keymat.expose(), second.delivered), ([0x43; 20].as_slice(), Some(75)));

    let policy = |stream: &NewStream| {
        std::sync::Arc::new(keyferry_model::stream::StreamPolicy {
            name: stream.name.clone(),
            protection: stream.protection,
            many_senders: false,
            delivery_assurance: true,
        })
    };
    let wall = Duration::from_secs(1_000_000);
    let epoch = |stream: &NewStream| Epoch {
        number: 1,
        sas: Vec::new(),
        streams: vec![StreamSa { spi: stream.spi, policy: policy(stream), keymat: stream.keymat.duplicate() }],
        announced: wall,
        activates: wall + stream.activation_delay,
        expires: wall + stream.lifetime.unwrap(),
    };
    let telling = |epoch: &Epoch| Telling {
        wall,
        wait: epoch.activates.saturating_sub(wall),
        delayed: false,
        delivered: Some(75),
    };
    let told = |epoch: &Epoch| sats(epoch, telling(epoch)).collect::<Vec<_>>();
    let told: Vec<Vec<u8>> = streams.iter().flat_map(|s| told(&epoch(s))).collect();
    let GroupSa { sats, .. } = GroupSa::exact(&sa).unwrap();
    assert_eq!(told, sats.iter().map(Encode::to_vec).collect::<Vec<_>>());
    let packets = streams.iter().map(|s| key_packet(&epoch(s).streams[0]).unwrap());
    let expected: Vec<Vec<u8>> = kd.packets.iter().map(Encode::to_vec).collect();
    assert_eq!(packets.map(|p| p.expose().to_vec()).collect::<Vec<_>>(), expected);

    for end in 0..sa.len() {
        if let Ok(shorter) = GroupSa::exact(&sa[..end]) {
            assert!(Decree::read(&shorter, Taking::default()).map_or(true, |d| d.streams.len() < 2), "{end} octets");
        }
    }
}

proptest! {
    #[test]
    fn any_numbers_are_survived(
        numbers in (any::<u32>(), 0u16..8, 0u16..8, any::<u32>()),
        kinds in prop::collection::vec((0u16..5, any::<u16>()), 0..4),
    ) {
        let (spi, authentication, encryption, lifetime) = numbers;
        let attributes = kinds.into_iter().map(|(kind, v)| short(kind, v)).collect();
        if let Ok(stream) = read(&StreamTek { spi, authentication, encryption, lifetime, attributes, ..tek() }) {
            prop_assert!(stream.delivered.is_none_or(|d| d <= 100));
            prop_assert!(stream.lifetime.is_none_or(|l| !l.is_zero() && l <= MAX_LIFETIME));
        }
    }
}
