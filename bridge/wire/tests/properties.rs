//! What must hold for any octets at all, and for anything composed here.
#![allow(clippy::unwrap_used)]

use keyferry_wire::{
    Attribute, AttributeValue, ChainWriter, Decode, DecodeError, Deframer, Encode, Frame, Header, Parsed, RawPayload,
    STREAM_PREFIX, StreamError, attributes, chain, chain_until, chain_with_tail, frame, put_long, put_short,
    split_marker,
};
use nom::Parser;
use nom::combinator::{map, verify};
use nom::number::complete::{be_u16, be_u32};
use proptest::prelude::*;

/// Octets that look enough like a chain to be one now and then: payload by payload, the length mostly right.
fn almost_a_chain() -> impl Strategy<Value = Vec<u8>> {
    let payload = (any::<u8>(), any::<u8>(), prop::collection::vec(any::<u8>(), 0..12), -1..2i32, 0..8u8);
    let pieces = prop::collection::vec(payload, 0..8);
    (pieces, prop::collection::vec(any::<u8>(), 0..3), any::<bool>()).prop_map(|(pieces, tail, clean)| {
        let mut out = Vec::new();
        let count = pieces.len();
        for (n, (next, flags, body, skew, odds)) in pieces.into_iter().enumerate() {
            let skew = if odds == 0 { skew } else { 0 };
            let length = u16::try_from(i32::try_from(body.len() + 4).unwrap() + skew).unwrap();
            let next = if n + 1 == count && clean { 0 } else { next.max(1) };
            out.extend([next, flags]);
            out.extend(length.to_be_bytes());
            out.extend(body);
        }
        if !clean {
            out.extend(tail);
        }
        out
    })
}

fn octets(payloads: &[RawPayload<'_>]) -> Vec<u8> {
    payloads.iter().flat_map(RawPayload::to_octets).collect()
}

fn header() -> impl Strategy<Value = Header> {
    (any::<[u8; 8]>(), any::<[u8; 8]>(), any::<u8>(), 0..16u8, 0..16u8, any::<u8>(), any::<u8>(), any::<u32>())
        .prop_map(|(spi_i, spi_r, next, major, minor, exchange, flags, message_id)| Header {
            spi_i,
            spi_r,
            next,
            major,
            minor,
            exchange,
            flags,
            message_id,
        })
}

/// What a stream tells when its octets come in pieces that end at these places.
fn deframed(octets: &[u8], mut cuts: Vec<usize>) -> (Vec<Frame>, Option<StreamError>) {
    let (mut deframer, mut frames, mut from) = (Deframer::responder(), Vec::new(), 0);
    cuts.retain(|cut| *cut < octets.len());
    cuts.sort_unstable();
    cuts.push(octets.len());
    for cut in cuts {
        deframer.push(&octets[from..cut]);
        from = cut;
        loop {
            match deframer.take() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn frames_are_the_same_however_a_stream_is_cut(
        pieces in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..40), 0..4u8), 0..8),
        cuts in prop::collection::vec(0..400usize, 0..12),
    ) {
        let (mut octets, mut messages) = (STREAM_PREFIX.to_vec(), Vec::new());
        for (content, kind) in pieces {
            if kind == 0 {
                // Whatever this is: an ESP packet, a keepalive, nothing, a broken length.
                octets.extend(content);
                prop_assert_eq!(deframed(&octets, cuts.clone()), deframed(&octets, Vec::new()));
                return Ok(());
            }
            octets.extend(frame(&content).unwrap());
            messages.push(Frame::Ike(content));
        }
        prop_assert_eq!(deframed(&octets, cuts), (messages, None));
    }

    #[test]
    fn a_walked_chain_is_the_octets_again(first: u8, bytes in almost_a_chain(), last in prop::collection::vec(any::<u8>(), 0..3)) {
        if let Ok(payloads) = chain(first, &bytes) {
            prop_assert_eq!(&octets(&payloads), &bytes);
        }
        if let Ok(payloads) = chain_until(first, &bytes, &last) {
            prop_assert_eq!(&octets(&payloads), &bytes);
            let ends = payloads.iter().position(|p| last.contains(&p.kind) || p.next == 0);
            prop_assert_eq!(ends, payloads.len().checked_sub(1));
        }
        if let Ok((payloads, tail)) = chain_with_tail(first, &bytes) {
            prop_assert_eq!(&[octets(&payloads), tail.to_vec()].concat(), &bytes);
            let mut at = 0;
            let mut kind = first;
            for p in &payloads {
                prop_assert_eq!((p.at, p.kind), (at, kind));
                at += 4 + p.body.len();
                kind = p.next;
            }
        }
    }

    #[test]
    fn the_honest_half_of_them_is_accepted(bodies in prop::collection::vec((1u8.., prop::collection::vec(any::<u8>(), 0..40), any::<bool>()), 0..10), inner: u8) {
        let compose = || {
            let mut writer = ChainWriter::new();
            for (kind, body, critical) in &bodies {
                if *critical { writer.push_critical(*kind, body) } else { writer.push(*kind, body) }
            }
            writer
        };
        prop_assert_eq!(compose().first_kind(), bodies.first().map_or(0, |b| b.0));
        let (first, bytes) = compose().finish().unwrap();
        let payloads = chain(first, &bytes).unwrap();
        let back: Vec<_> = payloads.iter().map(|p| (p.kind, p.body.to_vec(), p.flags == 0x80)).collect();
        prop_assert_eq!(&back, &bodies);
        for len in 0..bytes.len() {
            prop_assert!(chain(first, &bytes[..len]).is_err());
        }
        let trailing = [&bytes[..], &[1, 2]].concat();
        prop_assert!(chain(first, &trailing).is_err());
        prop_assert_eq!(chain_with_tail(first, &trailing).unwrap().1, &[1, 2]);

        // The same chain with its last payload taken for an encrypted one.
        if let Some((last, _, _)) = bodies.last().filter(|l| bodies.iter().filter(|b| b.0 == l.0).count() == 1) {
            let (first, bytes) = compose().finish_with_next(inner).unwrap();
            let payloads = chain_until(first, &bytes, &[*last]).unwrap();
            prop_assert_eq!(payloads.last().map(|p| p.next), Some(inner));
            prop_assert_eq!(octets(&payloads), bytes);
        }
    }

    #[test]
    fn a_header_is_its_octets(header in header(), body in prop::collection::vec(any::<u8>(), 0..60)) {
        let datagram = header.encode(&body);
        prop_assert_eq!(Header::decode(&datagram), Ok((header, &body[..])));
        prop_assert_eq!(&header.octets(u32::try_from(datagram.len()).unwrap())[..], &datagram[..Header::LEN]);
        prop_assert_eq!(&header.spi_pair()[..], &datagram[..16]);
        for len in 0..datagram.len() {
            prop_assert!(Header::decode(&datagram[..len]).is_err());
        }
    }

    #[test]
    fn a_datagram_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..60), honest: bool) {
        let mut bytes = bytes;
        if honest && bytes.len() >= Header::LEN {
            let length = u32::try_from(bytes.len()).unwrap();
            bytes[24..28].copy_from_slice(&length.to_be_bytes());
        }
        if let Ok((header, body)) = Header::decode(&bytes) {
            prop_assert_eq!(header.encode(body), &bytes[..]);
        } else {
            prop_assert!(!honest || bytes.len() < Header::LEN);
        }
        let (marked, rest) = split_marker(&bytes);
        prop_assert_eq!(bytes.len() - rest.len(), if marked { 4 } else { 0 });
    }

    #[test]
    fn attributes_come_back(list in prop::collection::vec((0..0x8000u16, prop_oneof![any::<u16>().prop_map(Ok), prop::collection::vec(any::<u8>(), 0..12).prop_map(Err)]), 0..8)) {
        let mut bytes = Vec::new();
        // Lengths at which a prefix is whole attributes.
        let mut whole = vec![0];
        for (kind, value) in &list {
            match value {
                Ok(short) => put_short(&mut bytes, *kind, *short),
                Err(long) => put_long(&mut bytes, *kind, long),
            }
            whole.push(bytes.len());
        }
        let expected: Vec<_> = list
            .iter()
            .map(|(kind, value)| Attribute {
                kind: *kind,
                value: match value {
                    Ok(short) => AttributeValue::Short(*short),
                    Err(long) => AttributeValue::Long(long),
                },
            })
            .collect();
        prop_assert_eq!(attributes(&bytes), Ok(expected));
        for len in 0..bytes.len() {
            prop_assert_eq!(attributes(&bytes[..len]).is_ok(), whole.contains(&len));
        }
    }

    #[test]
    fn an_attribute_is_a_number_if_it_fits(value: u64, len in 0..12usize) {
        let octets: Vec<u8> = [&[0; 8][..], &value.to_be_bytes()].concat();
        let long = &octets[octets.len() - len..];
        let attribute = Attribute { kind: 1, value: AttributeValue::Long(long) };
        let kept = if len >= 8 { value } else { value & ((1 << (8 * len)) - 1) };
        prop_assert_eq!(attribute.as_u64(), (1..=8).contains(&len).then_some(kept));
        if len <= 4 {
            prop_assert_eq!(attribute.as_u32().map(u64::from), attribute.as_u64());
        }
    }
}

#[derive(Debug, PartialEq)]
struct Pair(u16, u32);

impl<'a> Decode<'a> for Pair {
    fn decode(input: &'a [u8]) -> Parsed<'a, Self> {
        map((verify(be_u16, |v| *v != 0), be_u32), |(a, b)| Self(a, b)).parse(input)
    }
}

impl Encode for Pair {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.0.to_be_bytes());
        out.extend(self.1.to_be_bytes());
    }
}

#[test]
fn exact_takes_all_or_says_where() {
    let bytes = Pair(1, 2).to_vec();
    assert_eq!(bytes, [0, 1, 0, 0, 0, 2]);
    assert_eq!(Pair::exact(&bytes), Ok(Pair(1, 2)));
    let at = |bytes: &[u8]| Pair::exact(bytes).unwrap_err().at;
    assert_eq!(at(&bytes[..5]), 2);
    assert_eq!(at(&[0, 1, 0, 0, 0, 2, 9]), 6);
    assert_eq!(at(&[0, 0, 0, 0, 0, 2]), 0);
    assert_eq!(at(&[]), 0);
    assert_eq!(DecodeError::new(2, "truncated").shifted(4).to_string(), "truncated at octet 6");
}

/// A parser that descends into octets from elsewhere cannot make the offset underflow.
#[test]
fn an_error_from_elsewhere_is_survived() {
    struct Elsewhere;
    impl<'a> Decode<'a> for Elsewhere {
        fn decode(_: &'a [u8]) -> Parsed<'a, Self> {
            Err(nom::Err::Error(nom::error::Error::new(&[0; 100][..], nom::error::ErrorKind::Verify)))
        }
    }
    assert!(Elsewhere::exact(&[1, 2]).is_err_and(|e| e.at == 0));
}
