//! Security Association payload of GDOI.

use keyferry_wire::{Decode, DecodeError, Encode, Parsed, RawPayload, chain};
use nom::Parser;
use nom::number::complete::{be_u16, be_u32};

use super::gap::Gap;
use super::refuse;
use super::registry::{Doi, payload};
use super::sak::Sak;
use super::sat::Sat;

/// The most SA TEKs taken in one SA payload.
const MAX_SATS: usize = 1000;

/// Security Association payload of GDOI (RFC 6407 section 5.2): what the key server decrees.
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// !                              DOI                              !
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// !                           Situation                           !
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ! SA Attribute Next Payload     !          RESERVED2            !
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ~               SAK, GAP, SAT ..., as a payload chain           ~
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
///
/// Whether the attribute payloads stand inside or after the SA payload can be read in two ways. They stand inside here;
/// [`GroupSa::from_payloads`] takes both.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupSa<'a> {
    /// Domain of interpretation.
    pub doi: Doi,
    /// Situation, zero.
    pub situation: u32,
    /// Policy of the rekey SA.
    pub sak: Option<Sak<'a>>,
    /// Policy of the group.
    pub gap: Option<Gap<'a>>,
    /// Policies of the data SAs, oldest first.
    pub sats: Vec<Sat<'a>>,
}

impl<'a> GroupSa<'a> {
    /// Takes the SA payload out of a message, with attribute payloads inside it or behind it.
    ///
    /// # Errors
    /// No SA payload, or one that cannot be decoded.
    pub fn from_payloads(payloads: &[RawPayload<'a>]) -> Result<Self, DecodeError> {
        let sa = payloads.iter().find(|p| p.kind == payload::SA);
        let sa = sa.ok_or(DecodeError { at: 0, what: "no SA payload" })?;
        let behind: Vec<(u8, &'a [u8])> = payloads
            .iter()
            .filter(|p| matches!(p.kind, payload::SAK | payload::GAP | payload::SAT))
            .map(|p| (p.kind, p.body))
            .collect();
        if behind.is_empty() {
            return Self::exact(sa.body);
        }
        let error = DecodeError { at: sa.at, what: "SA attribute payloads" };
        let (left, (doi, situation, _first)) = head(sa.body).map_err(|_| error)?;
        if !left.is_empty() {
            return Err(error);
        }
        Self::assemble(doi, situation, behind).ok_or(error)
    }

    /// Do the attribute payloads stand behind the SA payload?
    #[must_use]
    pub fn stands_apart(payloads: &[RawPayload<'_>]) -> bool {
        payloads.iter().any(|p| matches!(p.kind, payload::SAK | payload::GAP | payload::SAT))
    }

    /// Sorts attribute payloads, which must come as SAK, GAP, SATs (RFC 6407 section 5.2.1).
    fn assemble(doi: Doi, situation: u32, payloads: impl IntoIterator<Item = (u8, &'a [u8])>) -> Option<Self> {
        let mut sa = Self { doi, situation, sak: None, gap: None, sats: Vec::new() };
        for (kind, body) in payloads {
            match kind {
                payload::SAK if sa.sak.is_none() && sa.gap.is_none() && sa.sats.is_empty() => {
                    sa.sak = Some(Sak::exact(body).ok()?);
                }
                payload::GAP if sa.gap.is_none() && sa.sats.is_empty() => sa.gap = Some(Gap::exact(body).ok()?),
                payload::SAT if sa.sats.len() < MAX_SATS => sa.sats.push(Sat::exact(body).ok()?),
                _ => return None,
            }
        }
        Some(sa)
    }
}

fn head(input: &[u8]) -> Parsed<'_, (Doi, u32, u16)> {
    let (left, (doi, situation, first, _reserved)) = (be_u32, be_u32, be_u16, be_u16).parse(input)?;
    Ok((left, (Doi(doi), situation, first)))
}

impl<'a> Decode<'a> for GroupSa<'a> {
    fn decode(input: &'a [u8]) -> Parsed<'a, Self> {
        let (left, (doi, situation, first)) = head(input)?;
        let payloads = match u8::try_from(first) {
            Ok(0) if left.is_empty() => Ok(Vec::new()),
            Ok(0) | Err(_) => return refuse(left),
            Ok(first) => chain(first, left),
        };
        let Ok(payloads) = payloads else { return refuse(left) };
        match Self::assemble(doi, situation, payloads.iter().map(|p| (p.kind, p.body))) {
            Some(sa) => Ok((&left[left.len()..], sa)),
            None => refuse(left),
        }
    }
}

impl Encode for GroupSa<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        let sak = self.sak.iter().map(|p| (payload::SAK, p.to_vec()));
        let gap = self.gap.iter().map(|p| (payload::GAP, p.to_vec()));
        let sats = self.sats.iter().map(|p| (payload::SAT, p.to_vec()));
        let parts: Vec<(u8, Vec<u8>)> = sak.chain(gap).chain(sats).collect();
        out.extend(encode_parts(self.doi, self.situation, &parts, true));
    }
}

/// The body of an SA payload with these attribute payloads, given by type and body, in their order: inside, or only named
/// because they stand behind.
#[must_use]
pub fn encode_parts(doi: Doi, situation: u32, parts: &[(u8, Vec<u8>)], inside: bool) -> Vec<u8> {
    let inner = if inside { parts } else { &[] };
    let mut out = Vec::with_capacity(12 + inner.iter().map(|(_, body)| 4 + body.len()).sum::<usize>());
    out.extend_from_slice(&doi.0.to_be_bytes());
    out.extend_from_slice(&situation.to_be_bytes());
    out.extend_from_slice(&[0, parts.first().map_or(0, |p| p.0), 0, 0]);
    let next = inner.iter().skip(1).map(|p| p.0).chain(std::iter::once(0));
    for ((_, body), next) in inner.iter().zip(next) {
        // Attribute payloads are far below the limit of a payload: names of at most 255 octets and a few attributes.
        let length = u16::try_from(4 + body.len()).unwrap_or(u16::MAX);
        out.extend_from_slice(&[next, 0]);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(body);
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::wire::check::round_trip;
    use crate::wire::endpoint::Endpoint;
    use crate::wire::registry::IdType;

    fn sample() -> GroupSa<'static> {
        let any = Endpoint::new(IdType::IPV4_ADDR, 848, &[10, 0, 0, 1]);
        GroupSa {
            doi: Doi::GDOI,
            situation: 0,
            sak: Some(Sak { protocol: 17, source: any, destination: any, spi: [1; 16], attributes: Vec::new() }),
            gap: Some(Gap { attributes: Vec::new() }),
            sats: vec![Sat::Other { protocol: 8, body: &[1] }, Sat::Other { protocol: 9, body: &[2] }],
        }
    }

    #[test]
    fn group_sa_payloads_round_trip() {
        round_trip(&sample(), &mut Vec::new());
        round_trip(&GroupSa { sak: None, gap: None, ..sample() }, &mut Vec::new());
        round_trip(&GroupSa { sak: None, gap: None, sats: Vec::new(), ..sample() }, &mut Vec::new());
    }

    #[test]
    fn attribute_payloads_behind_the_sa_payload_are_taken_too() {
        let octets = sample().to_vec();
        let (outer, inner) = octets.split_at(12);
        let mut bytes = vec![payload::SAK, 0, 0, 16];
        bytes.extend_from_slice(outer);
        bytes.extend_from_slice(inner);
        let payloads = chain(payload::SA, &bytes).unwrap();
        assert_eq!(GroupSa::from_payloads(&payloads).unwrap(), sample());
    }

    #[test]
    fn attribute_payloads_out_of_order_are_refused() {
        let sat = [payload::GAP, 0, 0, 5, 2];
        let gap = [0, 0, 0, 4];
        let head = [0, 0, 0, 2, 0, 0, 0, 0, 0, payload::SAT, 0, 0];
        let octets: Vec<u8> = [&head[..], &sat, &gap].concat();
        assert!(GroupSa::exact(&octets).is_err());
    }
}
