//! Messages as octets: putting payloads together, encrypting them, and taking both apart again.

use keyferry_crypto::{BlockCipher, CryptoError, Secret};
use keyferry_wire::{DecodeError, Encode, Header, RawPayload, chain_with_tail};

use crate::reject::Reject;
use crate::wire::registry::flag;

/// The most octets a UDP datagram over IPv4 carries.
pub(crate) const MAX_DATAGRAM: usize = 65_507;

/// An IV, or the last block of ciphertext that serves as one: as long as a block of the cipher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Iv {
    octets: [u8; BlockCipher::MAX_BLOCK],
    len: usize,
}

impl Iv {
    /// The block in front of the octets; `None` if they are fewer.
    pub(crate) fn front(cipher: BlockCipher, octets: &[u8]) -> Option<Self> {
        octets.get(..cipher.block_len()).map(Self::copy)
    }

    /// The last block of the octets; `None` if they are fewer.
    pub(crate) fn back(cipher: BlockCipher, octets: &[u8]) -> Option<Self> {
        octets.get(octets.len().checked_sub(cipher.block_len())?..).map(Self::copy)
    }

    fn copy(block: &[u8]) -> Self {
        let mut octets = [0; BlockCipher::MAX_BLOCK];
        octets[..block.len()].copy_from_slice(block);
        Self { octets, len: block.len() }
    }

    /// The octets.
    pub(crate) fn octets(&self) -> &[u8] {
        &self.octets[..self.len]
    }
}

/// A message that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// It does not fit into a datagram.
    #[error("the message is longer than a datagram can be")]
    TooLong,
    /// The cipher failed.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
}

/// Payloads on their way into a message, in order. They may hold keys, so they are wiped.
#[derive(Debug, Default)]
pub(crate) struct Payloads(Vec<(u8, Secret)>);

impl Payloads {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Appends a payload.
    pub(crate) fn with(mut self, kind: u8, payload: &impl Encode) -> Self {
        self.0.push((kind, Secret::new(payload.to_vec())));
        self
    }

    /// Appends a payload whose body is already there.
    pub(crate) fn with_body(mut self, kind: u8, body: Secret) -> Self {
        self.0.push((kind, body));
        self
    }

    /// Puts a payload in front.
    pub(crate) fn behind(mut self, kind: u8, payload: &impl Encode) -> Self {
        self.0.insert(0, (kind, Secret::new(payload.to_vec())));
        self
    }

    /// Types and bodies, in order.
    #[cfg(feature = "fuzzing")]
    pub(crate) fn list(&self) -> Vec<(u8, Vec<u8>)> {
        self.0.iter().map(|(kind, body)| (*kind, body.expose().to_vec())).collect()
    }

    /// Octets of the chain.
    pub(crate) fn octets(&self) -> usize {
        self.0.iter().map(|(_, body)| 4 + body.len()).sum()
    }

    /// Type of the first payload; zero when there is none.
    pub(crate) fn first(&self) -> u8 {
        self.0.first().map_or(0, |p| p.0)
    }

    /// The chain, with generic headers. `last_next` stands in the last one's Next Payload.
    pub(crate) fn chain(&self, last_next: u8) -> Result<Secret, SealError> {
        let total = self.octets();
        if total > MAX_DATAGRAM {
            return Err(SealError::TooLong);
        }
        // Room for the padding, so that keys are not left behind by a reallocation.
        let mut out = Vec::with_capacity(total + BlockCipher::MAX_BLOCK);
        let next = self.0.iter().skip(1).map(|p| p.0).chain(std::iter::once(last_next));
        for ((_, body), next) in self.0.iter().zip(next) {
            let length = u16::try_from(4 + body.len()).map_err(|_| SealError::TooLong)?;
            out.extend([next, 0]);
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(body.expose());
        }
        Ok(Secret::new(out))
    }
}

/// A header of ours.
pub(crate) fn header(cookies: &[u8; 16], exchange: u8, flags: u8, message_id: u32, next: u8) -> Header {
    let (mut spi_i, mut spi_r) = ([0; 8], [0; 8]);
    spi_i.copy_from_slice(&cookies[..8]);
    spi_r.copy_from_slice(&cookies[8..]);
    Header { spi_i, spi_r, next, major: 1, minor: 0, exchange, flags, message_id }
}

/// Checks version and flags of a header from outside (RFC 2408 sections 3.1 and 5.2): no version but 1.0, no flag that
/// is not defined, and none that asks for authentication without encryption, which nothing here has. A commit flag is
/// ignored: we never wait with keys for the other side to be ready (RFC 6407 section 3.2.1).
pub(crate) fn check_header(header: &Header) -> Result<(), Reject> {
    if (header.major, header.minor) != (1, 0) {
        return Err(Reject::Unauthenticated("version"));
    }
    if header.flags & !(flag::ENCRYPTED | flag::COMMIT) != 0 {
        return Err(Reject::Unauthenticated("flags"));
    }
    Ok(())
}

/// A message in clear.
pub(crate) fn clear(header: &Header, payloads: &Payloads) -> Result<Vec<u8>, SealError> {
    let body = payloads.chain(0)?;
    let datagram = header.encode(body.expose());
    if datagram.len() > MAX_DATAGRAM { Err(SealError::TooLong) } else { Ok(datagram) }
}

/// Octets of an encrypted message with this much plaintext: padded with zeros to whole blocks (RFC 2409 appendix B),
/// not at all where it is aligned.
pub(crate) fn sealed_len(cipher: BlockCipher, plain: usize) -> usize {
    Header::LEN + plain.next_multiple_of(cipher.block_len())
}

/// Encrypts a chain of payloads behind a header. Returns the datagram and its last block.
pub(crate) fn seal(
    cipher: BlockCipher,
    key: &[u8],
    iv: &Iv,
    header: &Header,
    chain: &Secret,
) -> Result<(Vec<u8>, Iv), SealError> {
    let total = sealed_len(cipher, chain.len());
    let len = u32::try_from(total).ok().filter(|_| total <= MAX_DATAGRAM).ok_or(SealError::TooLong)?;
    let mut datagram = Vec::with_capacity(total);
    datagram.extend_from_slice(&header.octets(len));
    datagram.extend_from_slice(chain.expose());
    datagram.resize(total, 0);
    let body = &mut datagram[Header::LEN..];
    cipher.encrypt(key, iv.octets(), body)?;
    let last = Iv::back(cipher, body).unwrap_or(*iv);
    Ok((datagram, last))
}

/// A decrypted body. Whether it means anything is for its hash or signature to say.
#[derive(Debug)]
pub(crate) struct Plain {
    first: u8,
    octets: Secret,
    /// Last block of the ciphertext, the next message's IV in a chained exchange.
    pub(crate) last_block: Iv,
}

/// Payloads of a decrypted body, and the octets they are made of, without padding.
pub(crate) struct Parts<'a> {
    pub(crate) payloads: Vec<RawPayload<'a>>,
    pub(crate) octets: &'a [u8],
}

impl Plain {
    /// The same ciphertext, decrypted with another IV: it changes the first block alone.
    pub(crate) fn under_iv(&self, was: &Iv, is: &[u8]) -> Self {
        let mut octets = self.octets.expose().to_vec();
        octets.iter_mut().zip(was.octets()).zip(is).for_each(|((octet, was), is)| *octet ^= was ^ is);
        Self { first: self.first, octets: Secret::new(octets), last_block: self.last_block }
    }

    /// The same ciphertext where its first block is the IV; `None` if there is no other.
    pub(crate) fn behind_iv(&self) -> Option<Self> {
        let octets = self.octets.expose().get(self.last_block.len..).filter(|rest| !rest.is_empty())?;
        Some(Self { first: self.first, octets: Secret::copy_from(octets), last_block: self.last_block })
    }

    /// Takes the chain apart. At most one block may be padding.
    pub(crate) fn parts(&self) -> Result<Parts<'_>, DecodeError> {
        let octets = self.octets.expose();
        let (payloads, tail) = chain_with_tail(self.first, octets)?;
        let end = octets.len() - tail.len();
        if tail.len() > self.last_block.len {
            return Err(DecodeError { at: end, what: "more padding than a block" });
        }
        Ok(Parts { payloads, octets: &octets[..end] })
    }
}

/// Decrypts the body of a message whose header says that it is encrypted.
pub(crate) fn open(
    cipher: BlockCipher,
    key: &[u8],
    iv: &Iv,
    header: &Header,
    body: &[u8],
) -> Result<Plain, DecodeError> {
    let error = |what| DecodeError { at: Header::LEN, what };
    if header.flags & flag::ENCRYPTED == 0 {
        return Err(error("not encrypted"));
    }
    let last_block = Iv::back(cipher, body).ok_or(error("no ciphertext"))?;
    let mut octets = body.to_vec();
    cipher.decrypt(key, iv.octets(), &mut octets).map_err(|_| error("not whole blocks"))?;
    Ok(Plain { first: header.next, octets: Secret::new(octets), last_block })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::wire::registry::{exchange, payload};
    use crate::wire::seq::Seq;

    fn iv() -> Iv {
        Iv::copy(&[2; 16])
    }

    fn sealed() -> (Header, Vec<u8>) {
        let payloads = Payloads::new().with(payload::SEQ, &Seq(1)).with(payload::SEQ, &Seq(2));
        let header = header(&[7; 16], exchange::PULL, flag::ENCRYPTED, 9, payloads.first());
        let chain = payloads.chain(0).unwrap();
        let (datagram, _) = seal(BlockCipher::Aes128Cbc, &[1; 16], &iv(), &header, &chain).unwrap();
        (header, datagram)
    }

    #[test]
    fn what_was_sealed_opens() {
        let (header, datagram) = sealed();
        assert_eq!(datagram.len(), 28 + 16);
        let (back, body) = Header::decode(&datagram).unwrap();
        assert_eq!(back, header);
        let plain = open(BlockCipher::Aes128Cbc, &[1; 16], &iv(), &back, body).unwrap();
        let parts = plain.parts().unwrap();
        assert_eq!((parts.payloads.len(), parts.octets.len()), (2, 16));
    }

    #[test]
    fn half_blocks_no_blocks_and_clear_text_are_refused() {
        let (header, datagram) = sealed();
        let open = |h: &Header, b: &[u8]| open(BlockCipher::Aes128Cbc, &[1; 16], &iv(), h, b).is_err();
        assert!(open(&header, &datagram[28..43]));
        assert!(open(&header, &[]));
        assert!(open(&Header { flags: 0, ..header }, &datagram[28..]));
    }

    #[test]
    fn padding_up_to_a_block_is_taken_more_is_not() {
        let chain = Payloads::new().with(payload::SEQ, &Seq(1)).chain(0).unwrap();
        for (pad, fits) in [(8, true), (24, false)] {
            let mut padded = chain.expose().to_vec();
            padded.resize(chain.len() + pad, 0);
            let header = header(&[7; 16], exchange::PULL, flag::ENCRYPTED, 9, payload::SEQ);
            let (d, _) = seal(BlockCipher::Aes256Cbc, &[1; 32], &iv(), &header, &Secret::new(padded)).unwrap();
            let plain = open(BlockCipher::Aes256Cbc, &[1; 32], &iv(), &header, &d[28..]).unwrap();
            assert_eq!(plain.parts().is_ok(), fits);
        }
    }

    /// Blocks of 8 octets: 12 and 24 octets of payloads become 16 and 24, each chained to the block before.
    #[test]
    fn triple_des_pads_to_its_own_block() {
        let (cipher, key) = (BlockCipher::TripleDesCbc, [1; 24]);
        let iv = Iv::front(cipher, &[2; 32]).unwrap();
        assert_eq!(iv.octets(), [2; 8]);
        for (body, len) in [(&[0; 8][..], 16), (&[0; 20][..], 24), (&[0; 21][..], 32)] {
            let chain = Payloads::new().with_body(payload::SEQ, Secret::copy_from(body)).chain(0).unwrap();
            let header = header(&[7; 16], exchange::PULL, flag::ENCRYPTED, 9, payload::SEQ);
            let (datagram, last) = seal(cipher, &key, &iv, &header, &chain).unwrap();
            assert_eq!((datagram.len(), sealed_len(cipher, chain.len())), (28 + len, 28 + len));
            assert_eq!(datagram[datagram.len() - 8..], *last.octets());
            let plain = open(cipher, &key, &iv, &header, &datagram[28..]).unwrap();
            assert_eq!(plain.last_block, last);
            assert_eq!(plain.parts().unwrap().octets, chain.expose());
            assert!(open(cipher, &key, &iv, &header, &datagram[28..datagram.len() - 1]).is_err());
        }
    }
}
