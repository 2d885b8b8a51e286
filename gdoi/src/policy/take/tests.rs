use std::time::Duration;

use keyferry_crypto::{Aead, BlockCipher, Hash, SignatureScheme, SigningKey};
use keyferry_model::policy::{AckType, EspTransform, SequenceNumbers};
use keyferry_model::reading::{Reading, Readings};
use keyferry_model::update::SenderIds;
use keyferry_wire::AttributeValue;

use super::decree::{DEFAULT_LIFETIME, MAX_LIFETIME, REPLAY_WINDOW};
use super::download::MAX_SENDER_IDS;
use super::*;
use crate::wire::endpoint::Endpoint;
use crate::wire::gap::Gap;
use crate::wire::group_sa::GroupSa;
use crate::wire::kd::{Kd, KeyPacket};
use crate::wire::registry::{
    Doi, IdType, KeyPacketType, esp, esp_attribute, gap_attribute, kek, kek_attribute, key_attribute, phase1,
};
use crate::wire::sak::Sak;
use crate::wire::sat::{EspTek, Sat};
use keyferry_model::policy::{AddressPreservation, SaDirection};

fn short(kind: u16, v: u16) -> Attribute<'static> {
    Attribute { kind, value: AttributeValue::Short(v) }
}

fn long(kind: u16, v: &'static [u8]) -> Attribute<'static> {
    Attribute { kind, value: AttributeValue::Long(v) }
}

const GROUP: Endpoint<'static> =
    Endpoint { kind: IdType::IPV4_ADDR, protocol: None, port: 848, data: &[239, 192, 0, 1] };
const ANY: Endpoint<'static> = Endpoint { kind: IdType::IPV4_ADDR, protocol: None, port: 0, data: &[] };

fn sak() -> Sak<'static> {
    Sak {
        protocol: 17,
        source: ANY,
        destination: GROUP,
        spi: [3; 16],
        attributes: vec![
            short(kek_attribute::ALGORITHM, kek::AES),
            short(kek_attribute::KEY_LENGTH, 128),
            long(kek_attribute::LIFETIME, &[0, 0, 14, 16]),
            short(kek_attribute::SIG_HASH, kek::SHA256),
            short(kek_attribute::SIG_ALGORITHM, kek::RSA),
        ],
    }
}

fn tek() -> EspTek<'static> {
    EspTek {
        protocol: 0,
        source: ANY,
        destination: GROUP,
        transform: esp::AES_GCM_16,
        spi: 0x1001,
        attributes: vec![
            short(esp_attribute::LIFE_TYPE, phase1::SECONDS),
            short(esp_attribute::LIFE_DURATION, 600),
            short(esp_attribute::ENCAPSULATION, esp::TUNNEL),
            short(esp_attribute::KEY_LENGTH, 128),
        ],
    }
}

fn sa(sak: Option<Sak<'static>>, teks: Vec<EspTek<'static>>) -> GroupSa<'static> {
    let sats = teks.into_iter().map(Sat::Esp).collect();
    GroupSa { doi: Doi::GDOI, situation: 0, sak, gap: None, sats }
}

const TAKING: Taking = Taking {
    sender: true,
    weak: false,
    unknown_kek_attributes: false,
    registering: false,
    tunnel: Tunnel { local: None, remote: None },
};

fn read(sa: &GroupSa<'_>) -> Result<Decree, Reject> {
    Decree::read(sa, TAKING)
}

fn with<'a>(list: &[Attribute<'a>], more: Attribute<'a>) -> Vec<Attribute<'a>> {
    let mut list: Vec<Attribute<'a>> = list.iter().filter(|a| a.kind != more.kind).copied().collect();
    list.push(more);
    list
}

#[test]
fn a_sound_decree_is_taken_whole() {
    let decree = read(&sa(Some(sak()), vec![tek()])).unwrap();
    let rekey = decree.rekey.unwrap();
    assert_eq!((rekey.cipher, rekey.lifetime), (BlockCipher::Aes128Cbc, Some(Duration::from_secs(3600))));
    assert_eq!(rekey.destination, Some("239.192.0.1:848".parse().unwrap()));
    let [data] = decree.data.as_slice() else { panic!("one data SA") };
    assert_eq!((data.spi, data.lifetime), (0x1001, Duration::from_secs(600)));
    assert_eq!(data.policy.transform, EspTransform::Aead(Aead::Aes128Gcm16));
    assert_eq!((data.policy.source.prefix, data.policy.sequence), (0, SequenceNumbers::Unspecified));
}

/// RFC 2407 section 4.5: each duration is of the type that it follows, in whichever order they come.
#[test]
fn a_lifetime_may_be_told_in_kilobytes_beside_seconds() {
    let seconds = [short(esp_attribute::LIFE_TYPE, phase1::SECONDS), short(esp_attribute::LIFE_DURATION, 600)];
    let kilobytes = |value| [short(esp_attribute::LIFE_TYPE, phase1::KILOBYTES), value];
    let rest = &tek().attributes[2..];
    let lifetimes = |parts: &[&[Attribute<'static>]]| {
        let attributes = [&parts.concat()[..], rest].concat();
        let decree = read(&sa(None, vec![EspTek { attributes, ..tek() }]))?;
        Ok::<_, Reject>((decree.data[0].lifetime, decree.data[0].policy.lifetime_octets))
    };
    let some = kilobytes(long(esp_attribute::LIFE_DURATION, &[0, 0x46, 0x50, 0]));
    let expected = (Duration::from_secs(600), Some(4_608_000 * 1024));
    assert_eq!(lifetimes(&[&seconds, &some]).unwrap(), expected);
    assert_eq!(lifetimes(&[&some, &seconds]).unwrap(), expected);
    assert_eq!(lifetimes(&[&some]).unwrap().0, DEFAULT_LIFETIME);
    assert_eq!(lifetimes(&[&seconds]).unwrap().1, None);
    let most = kilobytes(long(esp_attribute::LIFE_DURATION, &[0xff; 8]));
    assert_eq!(lifetimes(&[&most]).unwrap().1, Some(u64::MAX));
    for bad in [short(esp_attribute::LIFE_DURATION, 0), long(esp_attribute::LIFE_DURATION, &[1; 9])] {
        assert!(lifetimes(&[&seconds, &kilobytes(bad)]).is_err());
    }
}

/// RFC 6407 section 5.5.1 has no use for it, but old key servers send it.
#[test]
fn group_description_is_ignored() {
    for number in [2, 14, 19, 0xffff] {
        let attributes = with(&tek().attributes, short(esp_attribute::GROUP, number));
        let decree = read(&sa(None, vec![EspTek { attributes, ..tek() }])).unwrap();
        assert_eq!(decree.data[0].policy.transform, EspTransform::Aead(Aead::Aes128Gcm16));
    }
}

#[test]
fn an_sa_payload_without_sas_is_refused() {
    assert!(read(&sa(None, vec![])).is_err());
    let gap = Gap { attributes: vec![short(gap_attribute::ATD, 5)] };
    assert!(read(&GroupSa { gap: Some(gap), ..sa(None, vec![]) }).is_err());
    assert!(read(&sa(Some(sak()), vec![])).is_ok());
    assert!(read(&sa(None, vec![tek()])).is_ok());
}

#[test]
fn keys_are_not_printed() {
    let key = |kind| long(kind, &[0xab; 32]);
    let kek =
        KeyPacket { kind: KeyPacketType::KEK, spi: &[3; 16], attributes: vec![key(key_attribute::KEK_ALGORITHM_KEY)] };
    let tek = tek_packet(SPI, vec![key(key_attribute::TEK_ALGORITHM_KEY), key(key_attribute::TEK_INTEGRITY_KEY)]);
    let kd = Kd { packets: vec![kek, tek] };
    let printed = format!("{:?}", Download::read(&kd).unwrap());
    assert!(!printed.contains("171") && !printed.to_lowercase().contains("ab, ab"), "{printed}");
    assert!(printed.contains("Key(32 octets)") && printed.contains("Tek(32 and 32 octets)"), "{printed}");
}

#[test]
fn what_is_not_known_of_a_kek_is_refused() {
    let bad = [
        short(kek_attribute::MANAGEMENT, 2),
        short(kek_attribute::ALGORITHM, 2),
        short(kek_attribute::KEY_LENGTH, 129),
        long(kek_attribute::LIFETIME, &[0, 0, 0, 0]),
        long(kek_attribute::LIFETIME, &[0; 9]),
        short(kek_attribute::SIG_HASH, 2),
        short(kek_attribute::SIG_ALGORITHM, 2),
        short(77, 1),
    ];
    for attribute in bad {
        let sak = Sak { attributes: with(&sak().attributes, attribute), ..sak() };
        assert!(read(&sa(Some(sak), vec![])).is_err(), "{attribute:?}");
    }
    for missing in [0, 1, 3, 4] {
        let mut sak = sak();
        sak.attributes.remove(missing);
        assert!(read(&sa(Some(sak), vec![])).is_err());
    }
    let mut twice = sak();
    twice.attributes.push(twice.attributes[0]);
    assert!(read(&sa(Some(twice), vec![])).is_err());
    assert!(read(&sa(Some(Sak { spi: [0; 16], ..sak() }), vec![])).is_err());
}

#[test]
fn an_acknowledgement_is_asked_for_in_a_type_we_know_or_not_at_all() {
    for (number, expected) in [(1, Some(AckType::Kek(Hash::Sha256))), (4, Some(AckType::Lkh(Hash::Sha512))), (9, None)]
    {
        let sak = Sak { attributes: with(&sak().attributes, short(kek_attribute::ACK_REQUESTED, number)), ..sak() };
        assert_eq!(read(&sa(Some(sak), vec![])).unwrap().rekey.unwrap().ack, expected);
    }
}

#[test]
fn what_is_not_known_of_a_data_sa_is_refused() {
    let bad = [
        short(esp_attribute::LIFE_DURATION, 0),
        short(esp_attribute::ENCAPSULATION, 3),
        short(esp_attribute::KEY_LENGTH, 64),
        short(esp_attribute::AUTHENTICATION, esp::HMAC_SHA2_256),
        short(esp_attribute::ADDRESS_PRESERVATION, 0),
        short(esp_attribute::ADDRESS_PRESERVATION, 5),
        short(esp_attribute::ADDRESS_PRESERVATION, 61_440),
        long(esp_attribute::ADDRESS_PRESERVATION, &[1, 0, 0, 0, 4]),
        short(esp_attribute::DIRECTION, 0),
        short(esp_attribute::DIRECTION, 4),
        short(esp_attribute::DIRECTION, 61_440),
        short(7, 1),
        short(8, 1),
        short(9, 1),
        short(12, 1024),
        short(13, 1),
        short(11, 1),
    ];
    for attribute in bad {
        let tek = EspTek { attributes: with(&tek().attributes, attribute), ..tek() };
        assert!(read(&sa(None, vec![tek])).is_err(), "{attribute:?}");
    }
    assert!(read(&sa(None, vec![EspTek { spi: 255, ..tek() }])).is_err());
    assert!(read(&sa(None, vec![EspTek { transform: 11, ..tek() }])).is_err());
    assert!(read(&sa(None, vec![tek(), tek()])).is_err(), "an SPI twice");
    let transport = with(&tek().attributes, short(esp_attribute::ENCAPSULATION, esp::TRANSPORT));
    let other = EspTek { spi: 0x1002, attributes: transport, ..tek() };
    assert!(read(&sa(None, vec![tek(), other])).is_err(), "mixed modes");
    let six = Endpoint { kind: IdType::IPV6_ADDR, data: &[0xff; 16], ..GROUP };
    let mixed = EspTek { source: GROUP, destination: six, ..tek() };
    assert!(read(&sa(None, vec![mixed])).is_err(), "mixed families");
    let ah = GroupSa { sats: vec![Sat::Other { protocol: 2, body: &[] }], ..sa(None, vec![]) };
    assert!(read(&ah).is_err());
}

/// Numbers by RFC 6407 section 5.5.1.1 and IANA: attributes 14 and 15.
#[test]
fn every_address_preservation_is_taken_where_its_addresses_are_known() {
    let ends = |remote: &str| Tunnel { local: Some([10, 0, 0, 7].into()), remote: remote.parse().ok() };
    let all = [
        (1, AddressPreservation::None),
        (2, AddressPreservation::Source),
        (3, AddressPreservation::Destination),
        (4, AddressPreservation::Both),
    ];
    for (number, preservation) in all {
        let read = |tunnel| {
            let attributes = with(&tek().attributes, short(14, number));
            Decree::read(&sa(None, vec![EspTek { attributes, ..tek() }]), Taking { tunnel, ..TAKING })
        };
        let taken = read(ends("239.255.0.1")).unwrap();
        assert_eq!(taken.data[0].policy.preservation, preservation);
        assert_eq!(read(ends("")).is_ok(), preservation.keeps_destination(), "no destination: {number}");
        assert_eq!(read(ends("ff15::1")).is_ok(), preservation.keeps_destination(), "of another version: {number}");
        assert_eq!(read(Tunnel::default()).is_ok(), preservation == AddressPreservation::Both, "no address: {number}");
    }
    // Nothing is preserved where nothing is put in front.
    let transport = with(&tek().attributes, short(esp_attribute::ENCAPSULATION, esp::TRANSPORT));
    let attributes = with(&transport, short(14, 1));
    let taken = read(&sa(None, vec![EspTek { attributes, ..tek() }])).unwrap();
    assert_eq!(taken.data[0].policy.preservation, AddressPreservation::Both);
}

#[test]
fn every_sa_direction_is_taken_and_one_way_means_one_sender() {
    let all = [(1, SaDirection::SenderOnly), (2, SaDirection::ReceiverOnly), (3, SaDirection::Symmetric)];
    for (number, direction) in all {
        let attributes = with(&tek().attributes, short(15, number));
        let decree = read(&sa(None, vec![EspTek { attributes, ..tek() }])).unwrap();
        assert_eq!(decree.data[0].direction, direction);
        assert_eq!(decree.needs_sender_ids(), direction.sends(), "who only receives has no use for IDs");
        let sequential = decree.data[0].policy.sequence == SequenceNumbers::Sequential;
        assert_eq!(sequential, direction != SaDirection::Symmetric);
    }
}

#[test]
fn lifetimes_come_as_tv_and_tlv() {
    let lifetime = |attributes: Vec<Attribute<'static>>| {
        read(&sa(None, vec![EspTek { attributes, ..tek() }])).map(|d| d.data[0].lifetime)
    };
    let mut list = tek().attributes;
    list[1] = long(esp_attribute::LIFE_DURATION, &[0, 0, 2, 88]);
    assert_eq!(lifetime(list.clone()), Ok(Duration::from_secs(600)));
    list[1] = long(esp_attribute::LIFE_DURATION, &[0xff; 8]);
    assert_eq!(lifetime(list), Ok(MAX_LIFETIME));
    assert_eq!(lifetime(tek().attributes[2..].to_vec()), Ok(DEFAULT_LIFETIME));
}

#[test]
fn one_sender_means_replay_protection() {
    let source = Endpoint { data: &[10, 0, 0, 7], ..GROUP };
    let decree = read(&sa(None, vec![EspTek { source, ..tek() }])).unwrap();
    let policy = &decree.data[0].policy;
    assert_eq!((policy.sequence, policy.replay_window), (SequenceNumbers::Sequential, REPLAY_WINDOW));
}

fn tek_packet(spi: &'static [u8], attributes: Vec<Attribute<'static>>) -> KeyPacket<'static> {
    KeyPacket { kind: KeyPacketType::TEK, spi, attributes }
}

const SPI: &[u8] = &[0, 0, 0x10, 1];

#[test]
fn keys_must_be_there_once_and_have_their_length() {
    let decree = read(&sa(None, vec![tek()])).unwrap();
    let sas = |packets: Vec<KeyPacket<'static>>| {
        let kd = Kd { packets };
        Download::read(&kd).and_then(|mut d| d.data_sas(&decree))
    };
    let key = |len: usize| long(key_attribute::TEK_ALGORITHM_KEY, &[9; 64][..len]);
    assert_eq!(sas(vec![tek_packet(SPI, vec![key(20)])]).unwrap()[0].keymat.len(), 20);
    assert!(sas(vec![]).is_err());
    assert!(sas(vec![tek_packet(SPI, vec![key(16)])]).is_err());
    assert!(sas(vec![tek_packet(SPI, vec![key(20), long(key_attribute::TEK_INTEGRITY_KEY, &[1; 32])])]).is_err());
    assert!(sas(vec![tek_packet(SPI, vec![key(20)]), tek_packet(SPI, vec![key(20)])]).is_err());
    assert!(sas(vec![tek_packet(&[0, 0, 0x10], vec![key(20)])]).is_err());
    assert!(sas(vec![tek_packet(SPI, vec![short(key_attribute::TEK_ALGORITHM_KEY, 1)])]).is_err());
    assert!(sas(vec![tek_packet(SPI, vec![key(20), short(9, 9)])]).is_err());
}

#[test]
fn sender_ids_fit_their_bits() {
    let ids = |attributes: Vec<Attribute<'static>>| {
        let packet = KeyPacket { kind: KeyPacketType::SID, spi: &[], attributes };
        Download::read(&Kd { packets: vec![packet] }).map(|d| d.sender_ids.unwrap())
    };
    let bits = |n| short(key_attribute::SID_BITS, n);
    let value = |v| long(key_attribute::SID_VALUE, v);
    let twelve = ids(vec![bits(12), value(&[0x0f, 0xff]), value(&[0, 0, 0, 1])]).unwrap();
    assert_eq!(twelve, SenderIds { bits: 12, ids: vec![0xfff, 1] });
    assert!(ids(vec![bits(8), value(&[1, 0])]).is_err());
    assert!(ids(vec![bits(33), value(&[1])]).is_err());
    assert!(ids(vec![bits(0)]).is_err());
    assert!(ids(vec![value(&[1])]).is_err());
    assert!(ids(vec![bits(32), value(&[0xff; 5])]).is_err());
    let mut many = vec![bits(32)];
    many.extend(std::iter::repeat_n(value(&[1]), MAX_SENDER_IDS + 1));
    assert!(ids(many).is_err());
}

#[test]
fn a_kek_comes_by_one_way_only() {
    let kek = |attributes: Vec<Attribute<'static>>| KeyPacket { kind: KeyPacketType::KEK, spi: &[3; 16], attributes };
    let good = || kek(vec![long(key_attribute::KEK_ALGORITHM_KEY, &[1; 32])]);
    let read = |packets: Vec<KeyPacket<'static>>| Download::read(&Kd { packets }).map(|_| ());
    assert!(read(vec![good()]).is_ok());
    assert!(read(vec![good(), good()]).is_err());
    assert!(read(vec![kek(vec![])]).is_err());
    assert!(read(vec![kek(vec![long(key_attribute::KEK_ALGORITHM_KEY, &[1; 32]), short(9, 1)])]).is_err());
    let lkh = |attributes| KeyPacket { kind: KeyPacketType::LKH, spi: &[3; 16], attributes };
    assert!(read(vec![good(), lkh(vec![])]).is_err());
    assert!(read(vec![lkh(vec![long(key_attribute::LKH_DOWNLOAD_ARRAY, &[1, 0, 9, 0])])]).is_err());
    assert!(read(vec![KeyPacket { kind: KeyPacketType(9), spi: &[], attributes: vec![] }]).is_err());
}

#[test]
fn signature_keys_are_of_sound_size_and_of_the_algorithms_kind() {
    let key = SigningKey::generate_rsa(2048).unwrap().public_spki();
    assert!(signature_key(&key, SignatureScheme::RsaPkcs1Sha256).is_ok());
    assert!(signature_key(&key, SignatureScheme::EcdsaP256Sha256).is_err());
    assert!(signature_key(&[0x30, 0], SignatureScheme::RsaPkcs1Sha256).is_err());
    // No points of the curve.
    for len in [64, 65, 96, 132] {
        assert!(signature_key(&vec![4; len], SignatureScheme::EcdsaP256Sha256).is_err());
    }
}

#[test]
fn weak_keks_are_taken_only_where_that_is_allowed() {
    let weak = Taking { weak: true, ..TAKING };
    let triple = Sak {
        attributes: with(&sak().attributes, short(kek_attribute::ALGORITHM, kek::TRIPLE_DES))
            .into_iter()
            .filter(|a| a.kind != kek_attribute::KEY_LENGTH)
            .collect(),
        ..sak()
    };
    let sha1 = Sak { attributes: with(&sak().attributes, short(kek_attribute::SIG_HASH, kek::SHA1)), ..sak() };
    for sak in [triple, sha1] {
        let sa = sa(Some(sak), vec![]);
        assert!(Decree::read(&sa, TAKING).is_err());
        assert!(Decree::read(&sa, weak).is_ok());
    }
}

#[test]
fn unknown_attributes_of_a_kek_are_taken_where_that_is_wanted() {
    let odd = Sak { attributes: with(&sak().attributes, short(200, 1)), ..sak() };
    let sa = sa(Some(odd), vec![]);
    assert!(Decree::read(&sa, TAKING).is_err());
    assert!(Decree::read(&sa, Taking { unknown_kek_attributes: true, ..TAKING }).is_ok());
}

/// RFC 6407 section 5.3: it must not be in a GROUPKEY-PULL, and is ignored there.
#[test]
fn the_management_algorithm_counts_in_a_push_only() {
    let odd = Sak { attributes: with(&sak().attributes, short(kek_attribute::MANAGEMENT, 7)), ..sak() };
    assert!(read(&sa(Some(odd.clone()), vec![])).is_err());
    let pulling = Taking { registering: true, ..TAKING };
    assert_eq!(Decree::read(&sa(Some(odd), vec![]), pulling).unwrap().readings, Readings::NONE);
    let absent = Decree::read(&sa(Some(sak()), vec![]), pulling).unwrap();
    assert_eq!(absent.readings, Readings::from_iter([Reading::NoKekManagement]));
    assert_eq!(read(&sa(Some(sak()), vec![])).unwrap().readings, Readings::NONE);
}

#[test]
fn the_readings_of_a_policy_are_noticed() {
    let seen = |sa: &GroupSa<'_>| read(sa).unwrap().readings.iter().collect::<Vec<_>>();
    let long_life = |tek: EspTek<'static>| EspTek {
        attributes: with(&tek.attributes, long(esp_attribute::LIFE_TYPE, &[1]))
            .into_iter()
            .filter(|a| a.kind != esp_attribute::LIFE_TYPE && a.kind != esp_attribute::LIFE_DURATION)
            .collect(),
        ..tek
    };
    assert_eq!(seen(&sa(None, vec![long_life(tek())])), []);
    assert_eq!(seen(&sa(None, vec![tek()])), [Reading::ShortLifetimes]);
    let destination = Endpoint { protocol: Some(17), ..GROUP };
    let tek = EspTek { destination, ..long_life(tek()) };
    assert_eq!(seen(&sa(None, vec![tek])), [Reading::DstIdProt]);
    assert_eq!(seen(&sa(Some(Sak { destination, ..sak() }), vec![])), [Reading::DstIdProt]);
}

#[test]
fn what_has_no_place_in_a_group_is_refused_by_name() {
    let why = |attribute| {
        let attributes = with(&tek().attributes, attribute);
        match read(&sa(None, vec![EspTek { attributes, ..tek() }])) {
            Err(Reject::Unacceptable(what, _)) => what,
            other => panic!("{other:?}"),
        }
    };
    for mode in [3, 4, 61_443, 61_444] {
        assert!(why(short(esp_attribute::ENCAPSULATION, mode)).contains("UDP"));
    }
    assert!(why(short(esp_attribute::EXTENDED_SEQUENCE, 1)).contains("extended"));
    assert!(why(short(esp_attribute::ECN_TUNNEL, 2)).contains("ECN"));
    let ecn = EspTek { attributes: with(&tek().attributes, short(esp_attribute::ECN_TUNNEL, 1)), ..tek() };
    assert!(read(&sa(None, vec![ecn])).is_ok());
    let ah = GroupSa { sats: vec![Sat::Ah(tek())], ..sa(None, vec![]) };
    assert!(matches!(read(&ah), Err(Reject::Unacceptable(what, _)) if what.contains("AH")));
}

/// RFC 6407 section 5.6.1.2 names GMAC's key among those of integrity, RFC 4543 has key and salt as one.
#[test]
fn the_key_of_gmac_comes_in_either_attribute() {
    let gmac = EspTek { transform: esp::NULL_AES_GMAC, ..tek() };
    let decree = read(&sa(None, vec![gmac])).unwrap();
    assert_eq!(decree.data[0].policy.transform, EspTransform::Gmac(Aead::Aes128Gcm16));
    assert!(decree.needs_sender_ids());
    let take = |attributes: Vec<Attribute<'static>>| {
        let kd = Kd { packets: vec![tek_packet(SPI, attributes)] };
        let mut download = Download::read(&kd)?;
        let sas = download.data_sas(&decree)?;
        Ok::<_, Reject>((sas[0].keymat.expose().to_vec(), download.readings))
    };
    let key = |kind, len: usize| long(kind, &[9; 64][..len]);
    let (usual, other) = (key_attribute::TEK_ALGORITHM_KEY, key_attribute::TEK_INTEGRITY_KEY);
    assert_eq!(take(vec![key(usual, 20)]).unwrap(), (vec![9; 20], Readings::NONE));
    assert_eq!(take(vec![key(other, 20)]).unwrap(), (vec![9; 20], Readings::from_iter([Reading::GmacIntegrityKey])));
    assert!(take(vec![key(usual, 16), key(other, 4)]).is_err());
    assert!(take(vec![key(usual, 20), key(other, 20)]).is_err());
    assert!(take(vec![key(other, 16)]).is_err());
}
