//! Security Association payload of phase 1.

use keyferry_wire::{Decode, Encode, Parsed};
use nom::Parser;
use nom::number::complete::be_u32;

use super::proposal::Proposal;
use super::registry::{Doi, payload};
use super::{refuse, substructure, with_length};

/// The most proposals taken in one SA payload.
const MAX_PROPOSALS: usize = 64;

/// Security Association payload with proposals (RFC 2408 section 3.4, RFC 2407 section 4.6.1), for phase 1.
/// GDOI's own form, without proposals, is [`GroupSa`](super::group_sa::GroupSa).
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// !              Domain of Interpretation  (DOI)                  !
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// !                           Situation                           !
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ~                           Proposals                           ~
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Sa<'a> {
    /// Domain of interpretation.
    pub doi: Doi,
    /// Situation.
    pub situation: u32,
    /// Proposals, best first; at least one.
    pub proposals: Vec<Proposal<'a>>,
}

impl Sa<'_> {
    /// SIT_IDENTITY_ONLY (RFC 2407 section 4.2.1).
    pub const IDENTITY_ONLY: u32 = 1;
}

impl<'a> Decode<'a> for Sa<'a> {
    fn decode(input: &'a [u8]) -> Parsed<'a, Self> {
        let (mut left, (doi, situation)) = (be_u32, be_u32).parse(input)?;
        let mut proposals = Vec::new();
        loop {
            let (after, (next, body)) = substructure(left)?;
            let (rest, proposal) = Proposal::decode(body)?;
            if !rest.is_empty() || !matches!(next, 0 | payload::PROPOSAL) || proposals.len() == MAX_PROPOSALS {
                return refuse(left);
            }
            proposals.push(proposal);
            left = after;
            if next == 0 {
                return Ok((left, Self { doi: Doi(doi), situation, proposals }));
            }
        }
    }
}

impl Encode for Sa<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.doi.0.to_be_bytes());
        out.extend_from_slice(&self.situation.to_be_bytes());
        for (i, proposal) in self.proposals.iter().enumerate() {
            let last = i + 1 == self.proposals.len();
            with_length(out, 2, |out| {
                out.extend([if last { 0 } else { payload::PROPOSAL }, 0, 0, 0]);
                proposal.encode(out);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::check::{canonical, round_trip};

    #[test]
    fn phase_1_sa_payloads_round_trip() {
        let proposal = |number| Proposal { number, protocol: 1, spi: &[], transforms: Vec::new() };
        let sa = Sa { doi: Doi::GDOI, situation: 0, proposals: vec![proposal(1), proposal(2)] };
        round_trip(&sa, &mut Vec::new());
        canonical::<Sa<'_>>(&[0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 8, 1, 1, 0, 0]);
    }

    #[test]
    fn an_sa_payload_without_proposals_or_with_an_open_end_is_refused() {
        assert!(Sa::exact(&[0, 0, 0, 1, 0, 0, 0, 1]).is_err());
        assert!(Sa::exact(&[0, 0, 0, 1, 0, 0, 0, 1, 2, 0, 0, 8, 1, 1, 0, 0]).is_err());
        assert!(Sa::exact(&[0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 8, 1, 1, 0, 0, 0]).is_err());
    }
}
