//! Payloads whose body is one field: Key Exchange, Hash, Signature, Vendor ID.

use keyferry_wire::{Decode, Encode, Parsed};

use super::refuse;

macro_rules! opaque {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name<'a>(pub &'a [u8]);

        impl<'a> Decode<'a> for $name<'a> {
            fn decode(input: &'a [u8]) -> Parsed<'a, Self> {
                if input.is_empty() {
                    return refuse(input);
                }
                Ok((&input[input.len()..], Self(input)))
            }
        }

        impl Encode for $name<'_> {
            fn encode(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(self.0);
            }
        }
    };
}

opaque! {
    /// Key Exchange payload (RFC 2408 section 3.7): a Diffie-Hellman public value, at least one octet.
    ///
    /// ```text
    ///  0                   1                   2                   3
    ///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    /// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    /// ~                       Key Exchange Data                       ~
    /// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    /// ```
    Ke
}

opaque! {
    /// Hash payload (RFC 2408 section 3.11): output of the PRF, at least one octet.
    ///
    /// ```text
    ///  0                   1                   2                   3
    ///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    /// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    /// ~                           Hash Data                           ~
    /// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    /// ```
    Hash
}

opaque! {
    /// Signature payload (RFC 2408 section 3.12), at least one octet.
    ///
    /// ```text
    ///  0                   1                   2                   3
    ///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    /// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    /// ~                        Signature Data                         ~
    /// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    /// ```
    Sig
}

opaque! {
    /// Vendor ID payload (RFC 2408 section 3.16), at least one octet.
    ///
    /// ```text
    ///  0                   1                   2                   3
    ///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    /// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    /// ~                        Vendor ID (VID)                        ~
    /// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    /// ```
    VendorId
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::check::{canonical, round_trip};

    #[test]
    fn opaque_payloads_round_trip() {
        round_trip(&Ke(&[1; 64]), &mut Vec::new());
        round_trip(&Hash(&[2; 32]), &mut Vec::new());
        round_trip(&Sig(&[3; 256]), &mut Vec::new());
        round_trip(&VendorId(b"keyferry"), &mut Vec::new());
        canonical::<Ke<'_>>(&[7; 9]);
        canonical::<Hash<'_>>(&[7; 20]);
        canonical::<Sig<'_>>(&[7; 5]);
        canonical::<VendorId<'_>>(&[7; 16]);
        assert!(Ke::exact(&[]).is_err());
    }
}
