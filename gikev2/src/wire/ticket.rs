//! What TICKET_LT_OPAQUE carries (RFC 5723 section 7.1). TICKET_OPAQUE is the ticket alone.

use std::borrow::Cow;

use keyferry_wire::{Decode, Encode, Parsed};
use nom::combinator::rest;
use nom::number::complete::be_u32;

use super::fail;

/// A ticket with its lifetime.
///
/// ```text
///  +---------------------------------------+
///  |            Lifetime (seconds)         |
///  +---------------------------------------+
///  ~            Ticket                     ~
///  +---------------------------------------+
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TicketGrant<'a> {
    /// Seconds until it expires.
    pub lifetime: u32,
    /// The ticket, which only its maker understands.
    pub ticket: Cow<'a, [u8]>,
}

impl<'a> Decode<'a> for TicketGrant<'a> {
    fn decode(input: &'a [u8]) -> Parsed<'a, Self> {
        let (input, lifetime) = be_u32(input)?;
        let (input, ticket) = rest(input)?;
        if ticket.is_empty() {
            return fail(ticket);
        }
        Ok((input, Self { lifetime, ticket: Cow::Borrowed(ticket) }))
    }
}

impl Encode for TicketGrant<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.lifetime.to_be_bytes());
        out.extend_from_slice(&self.ticket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::testing::{bytes_round_trip, value_round_trip};

    #[test]
    fn round_trips() {
        value_round_trip(&TicketGrant { lifetime: 3600, ticket: vec![7; 40].into() });
        bytes_round_trip::<TicketGrant<'_>>("00000e10 010203");
        assert!(TicketGrant::exact(&[0, 0, 14, 16]).is_err(), "no ticket");
    }
}
