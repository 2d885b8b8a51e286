//! What both generations of IKE share on the wire.
//!
//! ISAKMP (RFC 2408) and IKEv2 (RFC 7296) have the same header, the same generic payload header and the same attribute
//! format; GDOI and G-IKEv2 build on these. Everything here parses datagrams that anybody may have sent: no parser
//! panics, allocates by an unchecked length, or accepts octets that it does not understand the place of.

mod attribute;
mod chain;
mod codec;
mod header;
mod stream;

pub use attribute::{Attribute, AttributeValue, attributes, put_long, put_short};
pub use chain::{ChainTooLong, ChainWriter, MAX_PAYLOADS, RawPayload, chain, chain_until, chain_with_tail};
pub use codec::{Decode, DecodeError, Encode, Parsed};
pub use header::{Header, NON_ESP_MARKER, major_version, split_marker};
pub use stream::{Deframer, Frame, MAX_FRAMED, STREAM_PREFIX, StreamError, frame};
