//! What is in a ticket: all that RFC 5723 section 5 takes from there, and what else says whether it is to be believed.

use std::time::Duration;

use keyferry_crypto::Secret;
use nom::Parser;
use nom::combinator::all_consuming;
use nom::multi::length_data;
use nom::number::complete::be_u16;

/// How the peer had proved itself when the ticket was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::server) enum Proven {
    /// By a pre-shared key: its MAC under SK_d.
    Psk(Vec<u8>),
    /// By a certificate: in DER, and the digest of the anchors it was held against.
    Certificate(Vec<u8>, Vec<u8>),
}

/// The state of an IKE SA.
#[derive(Debug)]
pub(in crate::server) struct Content {
    /// Until when the ticket is good, by the wall clock.
    pub(in crate::server) expires: Duration,
    /// When the peer has to prove itself anew, by the wall clock.
    pub(in crate::server) ends: Option<Duration>,
    /// Bodies of IDi and IDr.
    pub(in crate::server) ids: (Vec<u8>, Vec<u8>),
    /// How the peer had proved itself.
    pub(in crate::server) proven: Proven,
    /// Its postquantum preshared key: PPK_ID, and the key's MAC under SK_d.
    pub(in crate::server) ppk: Option<(Vec<u8>, Vec<u8>)>,
    /// The algorithms, as an SA payload.
    pub(in crate::server) sa: Vec<u8>,
    /// SK_d.
    pub(in crate::server) derive: Secret,
    /// Our SPI and the peer's.
    pub(in crate::server) spis: ([u8; 8], [u8; 8]),
}

/// Fields of a content.
const FIELDS: usize = 12;

impl Content {
    /// Each field behind its length.
    pub(super) fn encode(&self) -> Secret {
        let seconds = |d: Duration| d.as_secs().to_be_bytes();
        let ends = self.ends.map(seconds);
        let (how, proof, anchors): (u8, &[u8], &[u8]) = match &self.proven {
            Proven::Psk(mac) => (1, mac, &[]),
            Proven::Certificate(der, anchors) => (2, der, anchors),
        };
        let (ppk_id, ppk) = self.ppk.as_ref().map_or((&[][..], &[][..]), |(id, mac)| (id, mac));
        let expires = seconds(self.expires);
        let fields: [&[u8]; FIELDS] = [
            &expires,
            ends.as_ref().map_or(&[], |ends| &ends[..]),
            &self.ids.0,
            &self.ids.1,
            &[how],
            proof,
            anchors,
            ppk_id,
            ppk,
            &self.sa,
            self.derive.expose(),
            &[self.spis.0, self.spis.1].concat(),
        ];
        // Of the right size from the start, so that no copy of SK_d is left behind.
        let mut bytes = Vec::with_capacity(fields.iter().map(|f| 2 + f.len()).sum());
        for field in fields {
            // None is near that; one that were would not be read again.
            bytes.extend(u16::try_from(field.len()).unwrap_or(u16::MAX).to_be_bytes());
            bytes.extend_from_slice(field);
        }
        Secret::new(bytes)
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let field = || length_data(be_u16::<&[u8], nom::error::Error<&[u8]>>);
        let all = (
            field(),
            field(),
            field(),
            field(),
            field(),
            field(),
            field(),
            field(),
            field(),
            field(),
            field(),
            field(),
        );
        let (_, fields) = all_consuming(all).parse(bytes).ok()?;
        let (expires, ends, id_i, id_r, how, proof, anchors, ppk_id, ppk, sa, derive, spis) = fields;
        let seconds = |bytes: &[u8]| Some(Duration::from_secs(u64::from_be_bytes(bytes.try_into().ok()?)));
        let (own, peer) = spis.split_first_chunk()?;
        let proven = match how {
            [1] => Proven::Psk(proof.to_vec()),
            [2] => Proven::Certificate(proof.to_vec(), anchors.to_vec()),
            _ => return None,
        };
        Some(Self {
            expires: seconds(expires)?,
            ends: if ends.is_empty() { None } else { Some(seconds(ends)?) },
            ids: (id_i.to_vec(), id_r.to_vec()),
            proven,
            ppk: (!ppk_id.is_empty()).then(|| (ppk_id.to_vec(), ppk.to_vec())),
            sa: sa.to_vec(),
            derive: Secret::copy_from(derive),
            spis: (*own, peer.try_into().ok()?),
        })
    }
}
