//! Acknowledgements of pushes (RFC 8263).

use std::net::IpAddr;

use keyferry_crypto::{Prf, PrfKey, Secret};
use keyferry_model::id::{GroupId, Identity};
use keyferry_model::policy::AckType;
use keyferry_wire::{Decode, Header, chain};

use crate::identity;
use crate::message::{self, Payloads};
use crate::reject::Reject;
use crate::wire::id::Id;
use crate::wire::opaque;
use crate::wire::registry::{exchange, payload};
use crate::wire::rules::{self, PUSH_ACK};
use crate::wire::seq::Seq;

/// Label of the key derivation, a string that ends with a NUL (RFC 8263 section 3.2).
const LABEL: &[u8] = b"GROUPKEY-PUSH ACK\0";

fn prf(ack: AckType) -> Prf {
    let (AckType::Kek(hash) | AckType::Lkh(hash)) = ack;
    Prf::from_hash(hash)
}

fn bits(octets: usize) -> u16 {
    u16::try_from(octets * 8).unwrap_or(u16::MAX)
}

/// L as it is sent: bits of the PRF's block (RFC 8263 section 3.2 says 512 for SHA-256, so 1024 for SHA-512).
fn length(prf: Prf) -> u16 {
    bits(prf.hash().block_len())
}

/// What L may be for a base key of so many octets, the likeliest first: the text wants bits of the ack_key, which are those of the
/// PRF's output, and those of the base key, and says that both are the PRF's block.
pub(crate) fn lengths(ack: AckType, base: usize) -> Vec<u16> {
    let prf = prf(ack);
    let mut all = vec![length(prf)];
    for other in [bits(prf.output_len()), bits(base)] {
        if !all.contains(&other) {
            all.push(other);
        }
    }
    all
}

/// ack_key. `base` is the KEK or the leaf key, without IV.
fn ack_key(prf: Prf, base: &[u8], spi: &[u8; 16], length: u16) -> Secret {
    prf.compute(base, &[LABEL, spi, &length.to_be_bytes()])
}

/// An ack_key of one rekey SA, ready for many acknowledgements.
#[derive(Debug)]
pub(crate) struct AckKey(PrfKey);

impl AckKey {
    /// `base` is the KEK or the leaf key, without IV.
    pub(crate) fn derive(ack: AckType, base: &[u8], spi: &[u8; 16], length: u16) -> Self {
        let prf = prf(ack);
        Self(PrfKey::new(prf, ack_key(prf, base, spi, length).expose()))
    }
}

/// The acknowledgement of the push with this SEQ under this rekey SA, from the member at this address.
pub(crate) fn build(ack: AckType, base: &[u8], spi: &[u8; 16], seq: u32, ip: IpAddr) -> Option<Vec<u8>> {
    build_with(ack, base, spi, seq, ip, length(prf(ack)))
}

/// The same with any L.
pub(crate) fn build_with(
    ack: AckType,
    base: &[u8],
    spi: &[u8; 16],
    seq: u32,
    ip: IpAddr,
    length: u16,
) -> Option<Vec<u8>> {
    build_of(ack, base, spi, seq, identity::of_identity(&Identity::from_ip(ip)), length)
}

/// The same of any identity.
pub(crate) fn build_of(
    ack: AckType,
    base: &[u8],
    spi: &[u8; 16],
    seq: u32,
    id: Vec<u8>,
    length: u16,
) -> Option<Vec<u8>> {
    let id = Secret::new(id);
    let payloads = Payloads::new().with(payload::SEQ, &Seq(seq)).with_body(payload::ID, id);
    let prf = prf(ack);
    let hash = prf.compute(ack_key(prf, base, spi, length).expose(), &[payloads.chain(0).ok()?.expose()]);
    let payloads = payloads.behind(payload::HASH, &opaque::Hash(hash.expose()));
    message::clear(&message::header(spi, exchange::PUSH_ACK, 0, 0, payload::HASH), &payloads).ok()
}

/// An acknowledgement as it came, not verified yet.
#[derive(Debug)]
pub(crate) struct Ack<'a> {
    pub(crate) spi: [u8; 16],
    pub(crate) seq: u32,
    /// Address that the member claims; where it came from, if its identity is an OID, which says none.
    pub(crate) ip: IpAddr,
    hash: &'a [u8],
    hashed: &'a [u8],
}

impl<'a> Ack<'a> {
    /// Reads one that came from this address. Its identity is an address, or an OID (RFC 8263 section 3.4): no OID is an address,
    /// so it stands for the one it came from, which it would have to be anyway.
    pub(crate) fn read(header: &Header, body: &'a [u8], from: IpAddr) -> Result<Self, Reject> {
        if header.flags != 0 || header.message_id != 0 {
            return Err(Reject::Unauthenticated("flags or message ID of an acknowledgement"));
        }
        let payloads = chain(header.next, body)?;
        PUSH_ACK.check(&payloads)?;
        let hash = rules::body(&payloads, payload::HASH).unwrap_or_default();
        let seq = Seq::exact(rules::body(&payloads, payload::SEQ).unwrap_or_default())?;
        let id = Id::exact(rules::body(&payloads, payload::ID).unwrap_or_default())?;
        let oid = matches!(identity::to_group(&id), Some(GroupId::Oid(_)));
        let ip = identity::to_identity(&id).and_then(|i| i.ip()).or(oid.then_some(from));
        let ip = ip.ok_or(Reject::Unauthenticated("identity of an acknowledgement"))?;
        Ok(Self { spi: header.spi_pair(), seq: seq.0, ip, hash, hashed: &body[4 + hash.len()..] })
    }

    /// Is it authentic by this key?
    pub(crate) fn verify(&self, key: &AckKey) -> bool {
        key.0.verify(&[self.hashed], self.hash)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use keyferry_crypto::Hash;

    use super::*;

    const FROM: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 84, 0, 11));

    const TYPES: [AckType; 4] = [
        AckType::Kek(Hash::Sha256),
        AckType::Lkh(Hash::Sha256),
        AckType::Kek(Hash::Sha512),
        AckType::Lkh(Hash::Sha512),
    ];

    // RFC 8263 has no vectors; these are tests/vectors/ack.py's, by Python's hmac.
    #[test]
    fn acknowledgements_are_those_of_an_independent_computation() {
        let spi: [u8; 16] = std::array::from_fn(|i| u8::try_from(i).unwrap() + 0x30);
        for line in include_str!("../../tests/vectors/ack.txt").lines() {
            let (hash, expected) = line.split_once(' ').unwrap();
            let hash = if hash == "sha256" { Hash::Sha256 } else { Hash::Sha512 };
            let built = build(AckType::Kek(hash), &[7; 16], &spi, 5, "10.84.0.11".parse().unwrap()).unwrap();
            assert_eq!(hex::encode(built), expected);
        }
    }

    #[test]
    fn an_acknowledgement_verifies_with_its_own_key_alone() {
        for ip in ["10.0.0.1", "fd84::1"] {
            for ack in TYPES {
                let built = build(ack, &[1; 32], &[2; 16], 9, ip.parse().unwrap()).unwrap();
                let (header, body) = Header::decode(&built).unwrap();
                let read = Ack::read(&header, body, FROM).unwrap();
                assert_eq!((read.seq, read.ip.to_string().as_str()), (9, ip));
                let lengths = lengths(ack, 16);
                assert_eq!(lengths.len(), 3);
                let key = |base| AckKey::derive(ack, &[base; 32], &[2; 16], lengths[0]);
                assert!(read.verify(&key(1)));
                assert!(!read.verify(&key(3)));
                assert!(!read.verify(&AckKey::derive(ack, &[1; 32], &[2; 16], lengths[1])));
                assert!(Ack::read(&Header { flags: 1, ..header }, body, FROM).is_err());
            }
        }
    }

    /// RFC 8263 section 3.4 names addresses and OIDs, and nothing else.
    #[test]
    fn the_identity_must_be_an_address_or_an_oid() {
        let ids = ["10.0.0.1", "fd84::1", "fqdn:gm1.example", "user:gm1@example", "dn:CN=gm1", "key-id:0a000001"];
        let mut bodies: Vec<Vec<u8>> = ids.map(|id| identity::of_identity(&id.parse().unwrap())).to_vec();
        bodies.push(identity::of_group(&"oid:1.2.840.10070.61850.8.1.2#0404e9fc0001".parse().unwrap()));
        let taken = bodies.into_iter().map(|id| {
            let datagram = build_of(TYPES[1], &[1; 32], &[2; 16], 9, id, 512).unwrap();
            let (header, body) = Header::decode(&datagram).unwrap();
            let ack = Ack::read(&header, body, FROM).ok()?;
            assert!(ack.verify(&AckKey::derive(TYPES[1], &[1; 32], &[2; 16], 512)));
            Some(ack.ip.to_string())
        });
        let expected = [Some("10.0.0.1"), Some("fd84::1"), None, None, None, None, Some("10.84.0.11")];
        assert_eq!(taken.collect::<Vec<_>>(), expected.map(|ip| ip.map(str::to_owned)));
    }

    #[test]
    fn every_change_of_what_is_hashed_is_noticed() {
        let built = build(TYPES[0], &[1; 32], &[2; 16], 9, "10.0.0.1".parse().unwrap()).unwrap();
        let key = AckKey::derive(TYPES[0], &[1; 32], &[2; 16], 512);
        for at in 32..built.len() {
            let mut changed = built.clone();
            changed[at] ^= 1;
            let (header, body) = Header::decode(&changed).unwrap();
            assert!(!Ack::read(&header, body, FROM).is_ok_and(|a| a.verify(&key)), "octet {at}");
        }
    }
}
