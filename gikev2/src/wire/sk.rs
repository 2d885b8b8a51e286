//! Encrypted payload (RFC 7296 section 3.14; AEAD: RFC 5282 section 3), and Encrypted Fragment payload (RFC 7383
//! section 2.5).
//!
//! ```text
//!  +--------------------------------------------------+
//!  | IKE header                                       | \
//!  +-----------+----------+---------------------------+  | AEAD: associated data
//!  | Next      | C, RSVD  |      Payload Length       |  |
//!  +-----------+----------+---------------------------+  |
//!  |    Fragment Number   |      Total Fragments      | /   fragments alone (reading 4)
//!  +----------------------+---------------------------+
//!  ~ Initialization Vector (AEAD 8, CBC 16 octets)    ~
//!  +--------------------------------------------------+
//!  ~ encrypted: payloads, padding, pad length         ~
//!  +--------------------------------------------------+
//!  ~ Integrity Checksum Data                          ~   HMAC: over all that stands before it
//!  +--------------------------------------------------+
//! ```
//!
//! A message in fragments is handled as their datagrams one after the other, each of which says its length: so it is
//! remembered, repeated and compared like any other, and taken apart where it is sent.

use keyferry_crypto::{Aead, AeadKey, BlockCipher, CryptoError, Integrity, IntegrityKey, Random, Secret};
use keyferry_wire::{Header, chain_until};

use super::registry::PayloadKind;
use crate::algorithms::Protection;
use crate::reject::Reject;

/// Octets of a generic payload header.
pub(crate) const PAYLOAD_HEADER: usize = 4;
const AEAD_IV: usize = Aead::IV;

/// Octets of a fragment's number and of their total.
const FRAGMENT_FIELDS: usize = 4;

/// Which fragment of how many, counted from one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Its number.
    pub number: u16,
    /// How many there are.
    pub total: u16,
}

impl Fragment {
    /// What a datagram says that it is; `None` if it is no fragment, or an impossible one.
    #[must_use]
    pub fn of(datagram: &[u8]) -> Option<Self> {
        let (_, body) = Header::decode(datagram).ok().filter(|(h, _)| h.next == PayloadKind::SKF.0)?;
        let fields = body.get(PAYLOAD_HEADER..PAYLOAD_HEADER + FRAGMENT_FIELDS)?;
        let word = |at: usize| u16::from_be_bytes([fields[at], fields[at + 1]]);
        let fragment = Self { number: word(0), total: word(2) };
        (1..=fragment.total).contains(&fragment.number).then_some(fragment)
    }
}

/// The datagrams of a message.
#[must_use]
pub fn datagrams(mut message: &[u8]) -> Vec<&[u8]> {
    let mut all = Vec::with_capacity(1);
    while !message.is_empty() {
        let said = message.get(24..28).map(|l| l.iter().fold(0, |n, b| n << 8 | usize::from(*b)));
        let len = said.filter(|len| (Header::LEN..message.len()).contains(len)).unwrap_or(message.len());
        let (datagram, rest) = message.split_at(len);
        all.push(datagram);
        message = rest;
    }
    all
}

/// The first datagram of a message, which stands for all of it when it is repeated (RFC 7383 section 2.6.1).
pub(crate) fn first_datagram(message: &[u8]) -> &[u8] {
    datagrams(message).first().copied().unwrap_or_default()
}

/// Keys of one direction.
pub struct SkKeys(Keys);

enum Keys {
    Aead { key: AeadKey, salt: Secret },
    CbcHmac { cipher: BlockCipher, key: Secret, integrity: Integrity, mac: Box<IntegrityKey> },
}

/// What an Encrypted payload held.
#[derive(Debug)]
pub struct Opened {
    /// Header of the message.
    pub header: Header,
    /// Second octet of the payload's header: critical bit and reserved bits.
    pub flags: u8,
    /// Kind of the first payload inside.
    pub first: u8,
    /// The payloads inside, without padding.
    pub inner: Secret,
}

/// A message that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// A cipher failed.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
    /// The payloads do not fit into one message.
    #[error("the message is too long")]
    TooLong,
}

impl SkKeys {
    /// Keys for a protection: SK_e (with its salt for a combined mode) and SK_a, or GSK_e and GSK_a.
    ///
    /// # Errors
    /// Keys of the wrong length.
    pub fn new(protection: Protection, encryption: &[u8], integrity: &[u8]) -> Result<Self, CryptoError> {
        let (e, a) = protection.key_lens();
        if encryption.len() != e || integrity.len() != a {
            return Err(CryptoError::Length("key"));
        }
        Ok(Self(match protection {
            Protection::Aead(alg) => {
                let (key, salt) = encryption.split_at(alg.key_len());
                Keys::Aead { key: AeadKey::new(alg, key)?, salt: Secret::copy_from(salt) }
            }
            Protection::CbcHmac(cipher, alg) => Keys::CbcHmac {
                cipher,
                key: Secret::copy_from(encryption),
                integrity: alg,
                mac: Box::new(IntegrityKey::new(alg, integrity)),
            },
        }))
    }

    /// Keys that nothing can be sealed with.
    #[cfg(test)]
    pub(crate) fn useless() -> Result<Self, CryptoError> {
        let key = AeadKey::new(Aead::Aes128Gcm16, &[0; 16])?;
        Ok(Self(Keys::Aead { key, salt: Secret::new(Vec::new()) }))
    }

    /// A whole message: header, Encrypted payload. `first` is the kind of the first payload in `inner`; `unique` must
    /// never repeat under these keys, for it becomes the IV of a counter mode. CBC draws its IV.
    ///
    /// # Errors
    /// The message is too long, or the cipher failed.
    pub fn seal(
        &self,
        header: &Header,
        first: u8,
        inner: &[u8],
        unique: u64,
        rng: &mut dyn Random,
    ) -> Result<Vec<u8>, SealError> {
        self.seal_part(header, first, None, inner, unique, rng)
    }

    /// A whole message in datagrams of at most `limit` octets; the next unique number after it.
    ///
    /// # Errors
    /// The message is too long, or the cipher failed.
    pub fn seal_within(
        &self,
        limit: usize,
        header: &Header,
        first: u8,
        inner: &[u8],
        unique: u64,
        rng: &mut dyn Random,
    ) -> Result<(Vec<u8>, u64), SealError> {
        if Header::LEN + PAYLOAD_HEADER + self.overhead(inner.len()) <= limit {
            let message = self.seal(header, first, inner, unique, rng)?;
            return Ok((message, unique.wrapping_add(1)));
        }
        let room = limit.saturating_sub(Header::LEN + PAYLOAD_HEADER + FRAGMENT_FIELDS);
        let chunk = self.chunk(room);
        let total = u16::try_from(inner.len().div_ceil(chunk)).map_err(|_| SealError::TooLong)?;
        let mut message = Vec::with_capacity(usize::from(total) * limit);
        for (number, (chunk, unique)) in (1..=total).zip(inner.chunks(chunk).zip(unique..)) {
            let first = if number == 1 { first } else { PayloadKind::NONE.0 };
            message.extend(self.seal_part(header, first, Some(Fragment { number, total }), chunk, unique, rng)?);
        }
        Ok((message, unique.wrapping_add(u64::from(total))))
    }

    /// Octets of IV, content, padding and ICV.
    fn overhead(&self, inner: usize) -> usize {
        match &self.0 {
            Keys::Aead { key, .. } => AEAD_IV + inner + 1 + key.algorithm().icv_len(),
            Keys::CbcHmac { cipher, integrity, .. } => {
                cipher.block_len() + (inner + 1).next_multiple_of(cipher.block_len()) + integrity.icv_len()
            }
        }
    }

    /// The most content that takes so much room; a little even if it does not fit.
    fn chunk(&self, room: usize) -> usize {
        const LEAST: usize = 64;
        let content = match &self.0 {
            Keys::Aead { key, .. } => room.saturating_sub(AEAD_IV + 1 + key.algorithm().icv_len()),
            Keys::CbcHmac { cipher, integrity, .. } => {
                let blocks = room.saturating_sub(cipher.block_len() + integrity.icv_len());
                (blocks - blocks % cipher.block_len()).saturating_sub(1)
            }
        };
        content.max(LEAST)
    }

    fn seal_part(
        &self,
        header: &Header,
        first: u8,
        fragment: Option<Fragment>,
        inner: &[u8],
        unique: u64,
        rng: &mut dyn Random,
    ) -> Result<Vec<u8>, SealError> {
        let total = Header::LEN + payload_header(fragment) + self.overhead(inner.len());
        let mut message = start(header, first, fragment, total)?;
        match &self.0 {
            Keys::Aead { key, salt } => {
                let algorithm = key.algorithm();
                let iv = unique.to_be_bytes();
                let mut buffer = [0; Aead::MAX_NONCE];
                let nonce = algorithm.nonce(salt.expose(), &iv, &mut buffer)?;
                let mut plain = padded(inner, inner.len() + 1);
                let mut icv = vec![0; algorithm.icv_len()];
                key.seal(nonce, &message, &mut plain, &mut icv)?;
                message.extend(iv);
                message.append(&mut plain);
                message.append(&mut icv);
                Ok(message)
            }
            Keys::CbcHmac { cipher, key, integrity, mac } => {
                let block = cipher.block_len();
                let whole = (inner.len() + 1).next_multiple_of(block);
                let mut iv = [0; BlockCipher::MAX_BLOCK];
                let iv = &mut iv[..block];
                rng.fill(iv);
                let mut plain = padded(inner, whole);
                cipher.encrypt(key.expose(), iv, &mut plain)?;
                message.extend_from_slice(iv);
                message.append(&mut plain);
                let mut icv = vec![0; integrity.icv_len()];
                mac.compute_into(&[&message], &mut icv);
                message.append(&mut icv);
                Ok(message)
            }
        }
    }

    /// Verifies and decrypts a message that consists of an Encrypted payload alone, or of all its fragments in their order.
    /// What was in fragments looks as if it never had been.
    ///
    /// # Errors
    /// [`Reject::Unauthenticated`] for a wrong ICV, [`Reject::Malformed`] for what cannot be such a message,
    /// [`Reject::Misbehaved`] where the ICV is right and what it covers makes no sense.
    pub fn open(&self, message: &[u8]) -> Result<Opened, Reject> {
        const APART: Reject = Reject::Malformed("not all fragments of one message");
        let parts = datagrams(message);
        let [first, ..] = parts.as_slice() else { return Err(SHORT) };
        let mut whole = self.open_part(first)?;
        if whole.header.next != PayloadKind::SKF.0 {
            return if parts.len() == 1 { Ok(whole) } else { Err(APART) };
        }
        let named = |h: &Header| (h.spi_pair(), h.exchange, h.flags, h.message_id);
        let mut inner = Vec::with_capacity(message.len());
        for (number, part) in (1..=u16::MAX).zip(&parts) {
            let fragment = Fragment::of(part).ok_or(APART)?;
            let opened = self.open_part(part)?;
            if fragment.number != number
                || usize::from(fragment.total) != parts.len()
                || named(&opened.header) != named(&whole.header)
            {
                return Err(APART);
            }
            inner.extend_from_slice(opened.inner.expose());
        }
        whole.header.next = PayloadKind::SK.0;
        whole.inner = Secret::new(inner);
        Ok(whole)
    }

    /// Verifies and decrypts a datagram: a whole message, or one fragment.
    pub(crate) fn open_part(&self, datagram: &[u8]) -> Result<Opened, Reject> {
        let (header, body) = Header::decode(datagram)?;
        let chain = chain_until(header.next, body, &[PayloadKind::SK.0, PayloadKind::SKF.0])?;
        let mut sk = match chain.as_slice() {
            [sk] if [PayloadKind::SK.0, PayloadKind::SKF.0].contains(&sk.kind) => *sk,
            _ => return Err(Reject::Malformed("not one Encrypted payload")),
        };
        let mut associated = Header::LEN + PAYLOAD_HEADER;
        if sk.kind == PayloadKind::SKF.0 {
            sk.body = sk.body.get(FRAGMENT_FIELDS..).ok_or(SHORT)?;
            associated += FRAGMENT_FIELDS;
        }
        let plain = match &self.0 {
            Keys::Aead { key, salt } => {
                let (iv, rest) = sk.body.split_first_chunk::<AEAD_IV>().ok_or(SHORT)?;
                let at = rest.len().checked_sub(key.algorithm().icv_len()).ok_or(SHORT)?;
                let (sealed, icv) = rest.split_at(at);
                let mut buffer = [0; Aead::MAX_NONCE];
                let nonce = key.algorithm().nonce(salt.expose(), iv, &mut buffer).map_err(|_| SHORT)?;
                let mut plain = sealed.to_vec();
                key.open(nonce, &datagram[..associated], &mut plain, icv)
                    .map_err(|_| Reject::Unauthenticated("wrong ICV"))?;
                plain
            }
            Keys::CbcHmac { cipher, key, integrity, mac } => {
                let at = sk.body.len().checked_sub(integrity.icv_len()).ok_or(SHORT)?;
                let (sealed, icv) = sk.body.split_at(at);
                let covered = &datagram[..datagram.len() - integrity.icv_len()];
                if !mac.verify(&[covered], icv) {
                    return Err(Reject::Unauthenticated("wrong ICV"));
                }
                let (iv, sealed) = sealed.split_at_checked(cipher.block_len()).ok_or(SHORT)?;
                if sealed.is_empty() || !sealed.len().is_multiple_of(cipher.block_len()) {
                    return Err(Reject::Misbehaved("not whole blocks"));
                }
                let mut plain = sealed.to_vec();
                cipher.decrypt(key.expose(), iv, &mut plain).map_err(|_| Reject::Malformed("decryption failed"))?;
                plain
            }
        };
        let inner = unpad(plain)?;
        Ok(Opened { header, flags: sk.flags, first: sk.next, inner })
    }
}

const SHORT: Reject = Reject::Malformed("Encrypted payload too short");

fn payload_header(fragment: Option<Fragment>) -> usize {
    PAYLOAD_HEADER + fragment.map_or(0, |_| FRAGMENT_FIELDS)
}

/// Header and payload header of a datagram that will have `total` octets.
fn start(header: &Header, first: u8, fragment: Option<Fragment>, total: usize) -> Result<Vec<u8>, SealError> {
    let kind = if fragment.is_some() { PayloadKind::SKF } else { PayloadKind::SK };
    let header = Header { next: kind.0, ..*header };
    let length = u16::try_from(total - Header::LEN).map_err(|_| SealError::TooLong)?;
    let mut message = Vec::with_capacity(total);
    message.extend(header.octets(u32::try_from(total).map_err(|_| SealError::TooLong)?));
    message.extend([first, 0]);
    message.extend(length.to_be_bytes());
    if let Some(Fragment { number, total }) = fragment {
        message.extend(number.to_be_bytes());
        message.extend(total.to_be_bytes());
    }
    Ok(message)
}

/// Payloads, zeros and the pad length: `whole` octets, at most a block more than the payloads. The buffer is made in its
/// full size, for growing would leave a copy behind.
fn padded(inner: &[u8], whole: usize) -> Vec<u8> {
    let mut plain = Vec::with_capacity(whole);
    plain.extend_from_slice(inner);
    plain.resize(whole - 1, 0);
    plain.push(u8::try_from(whole - 1 - inner.len()).unwrap_or(u8::MAX));
    plain
}

/// Takes off the pad length (the last octet) and as much padding as it says.
fn unpad(mut plain: Vec<u8>) -> Result<Secret, Reject> {
    let pad = plain.last().copied().ok_or(Reject::Misbehaved("no pad length"))?;
    let keep = plain.len().checked_sub(usize::from(pad) + 1);
    match keep {
        Some(keep) => {
            plain.truncate(keep);
            Ok(Secret::new(plain))
        }
        None => {
            drop(Secret::new(plain));
            Err(Reject::Misbehaved("padding exceeds the payload"))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use keyferry_crypto::{Aead, SeededRandom};

    use super::*;

    const BLOCK: usize = 16;

    fn header() -> Header {
        Header { spi_i: [1; 8], spi_r: [2; 8], next: 0, major: 2, minor: 0, exchange: 37, flags: 8, message_id: 5 }
    }

    fn suites() -> Vec<SkKeys> {
        let aeads = Aead::ALL.map(Protection::Aead);
        let cbc = Protection::CbcHmac(BlockCipher::Aes256Cbc, Integrity::HmacSha256_128);
        let keys = |p: Protection| {
            let (e, a) = p.key_lens();
            SkKeys::new(p, &vec![7; e], &vec![8; a]).unwrap()
        };
        aeads.into_iter().chain([cbc]).map(keys).collect()
    }

    #[test]
    fn what_is_sealed_opens() {
        let mut rng = SeededRandom::new(1);
        for keys in suites() {
            for len in [0, 1, 15, 16, 17, 100] {
                let inner = vec![9; len];
                let message = keys.seal(&header(), 41, &inner, 77, &mut rng).unwrap();
                let opened = keys.open(&message).unwrap();
                assert_eq!(opened.inner.expose(), inner);
                assert_eq!((opened.first, opened.flags, opened.header.message_id), (41, 0, 5));
            }
        }
    }

    #[test]
    fn no_change_goes_unnoticed() {
        let mut rng = SeededRandom::new(1);
        for keys in suites() {
            let message = keys.seal(&header(), 41, &[9; 20], 77, &mut rng).unwrap();
            for i in 0..message.len() {
                let mut changed = message.clone();
                changed[i] ^= 0x10;
                assert!(keys.open(&changed).is_err(), "octet {i}");
                assert!(keys.open(&message[..i]).is_err(), "cut at {i}");
            }
        }
    }

    /// A message as some other end might pad it.
    fn with_padding(keys: &SkKeys, inner: &[u8], pad: u8) -> Vec<u8> {
        let mut plain = inner.to_vec();
        plain.extend((0..pad).map(|n| n ^ 0x5a));
        plain.push(pad);
        let total = |around: usize| Header::LEN + PAYLOAD_HEADER + around + plain.len();
        match &keys.0 {
            Keys::Aead { key, salt } => {
                let mut icv = vec![0; key.algorithm().icv_len()];
                let mut message = start(&header(), 41, None, total(AEAD_IV + icv.len())).unwrap();
                let nonce = [salt.expose(), &[1; AEAD_IV]].concat();
                key.seal(&nonce, &message, &mut plain, &mut icv).unwrap();
                message.extend([1; AEAD_IV]);
                message.append(&mut plain);
                message.append(&mut icv);
                message
            }
            Keys::CbcHmac { cipher, key, integrity, mac } => {
                let mut message = start(&header(), 41, None, total(cipher.block_len() + integrity.icv_len())).unwrap();
                cipher.encrypt(key.expose(), &[1; BLOCK], &mut plain).unwrap();
                message.extend([1; BLOCK]);
                message.append(&mut plain);
                let mut icv = vec![0; integrity.icv_len()];
                mac.compute_into(&[&message], &mut icv);
                message.append(&mut icv);
                message
            }
        }
    }

    /// Whatever its octets are (RFC 7296 section 3.14, RFC 5282 section 3).
    #[test]
    fn padding_of_any_length_is_taken_off() {
        for keys in suites() {
            let block = if matches!(keys.0, Keys::Aead { .. }) { 1 } else { BLOCK };
            for pad in 0..=255_u8 {
                // As many payload octets as make whole blocks.
                let len = block * 3 - (usize::from(pad) + 1) % block;
                let inner = vec![9; len];
                let opened = keys.open(&with_padding(&keys, &inner, pad)).unwrap();
                assert_eq!(opened.inner.expose(), inner);
            }
        }
    }

    /// A pad length that exceeds what is there.
    #[test]
    fn more_padding_than_octets_is_refused() {
        let keys = &suites()[0];
        let mut plain = [200; 20];
        let mut message = start(&header(), 41, None, Header::LEN + PAYLOAD_HEADER + AEAD_IV + 20 + 16).unwrap();
        let Keys::Aead { key, salt } = &keys.0 else { unreachable!("the first suite is AES-GCM") };
        let nonce = [salt.expose(), &[1; AEAD_IV]].concat();
        let mut icv = [0; 16];
        key.seal(&nonce, &message, &mut plain, &mut icv).unwrap();
        message.extend([1; AEAD_IV]);
        message.extend(plain);
        message.extend(icv);
        assert!(matches!(keys.open(&message), Err(Reject::Misbehaved("padding exceeds the payload"))));
    }

    /// The buffer never grows, so no copy of the payloads is left behind.
    #[test]
    fn plaintext_is_put_together_in_one_buffer() {
        for (len, whole) in [(0, 1), (20, 21), (15, 16), (17, 32)] {
            let plain = padded(&vec![9; len], whole);
            assert_eq!((plain.len(), plain.capacity()), (whole, whole));
            assert_eq!(usize::from(plain[whole - 1]), whole - 1 - len);
        }
    }

    #[test]
    fn a_message_that_does_not_fit_is_an_error() {
        let mut rng = SeededRandom::new(1);
        for keys in suites() {
            let sealed = keys.seal(&header(), 41, &vec![0; 65_535], 1, &mut rng);
            assert!(matches!(sealed, Err(SealError::TooLong)));
        }
    }

    /// What comes out of fragments is what went in, and no datagram exceeds the limit.
    #[test]
    fn fragments_put_together_are_the_message() {
        let mut rng = SeededRandom::new(1);
        for keys in suites() {
            for len in [0, 1, 400, 485, 490, 500, 1000, 5000, 60_000] {
                let inner: Vec<u8> = (0..len).map(|n: usize| n.to_le_bytes()[0]).collect();
                let (message, next) = keys.seal_within(548, &header(), 41, &inner, 77, &mut rng).unwrap();
                let parts = datagrams(&message);
                assert_eq!(next, 77 + parts.len() as u64);
                assert!(parts.iter().all(|p| p.len() <= 548), "{len}");
                let opened = keys.open(&message).unwrap();
                assert_eq!((opened.first, opened.header.next, opened.inner.expose()), (41, 46, &inner[..]));
                assert_eq!(parts.len() > 1, message[16] == PayloadKind::SKF.0);
                assert!(parts.len() > 1 || len < 500);
                if parts.len() > 1 {
                    // The first names what is inside, the others nothing (RFC 7383 section 2.5).
                    let firsts: Vec<u8> = parts.iter().map(|p| keys.open_part(p).unwrap().first).collect();
                    assert!(firsts[0] == 41 && firsts[1..].iter().all(|f| *f == 0));
                    // Neither too few, nor in another order, nor of two messages.
                    assert!(keys.open(&parts[1..].concat()).is_err());
                    assert!(keys.open(&parts[..parts.len() - 1].concat()).is_err());
                    assert!(keys.open(&parts.iter().rev().copied().collect::<Vec<_>>().concat()).is_err());
                    let other = Header { message_id: 6, ..header() };
                    let (other, _) = keys.seal_within(548, &other, 41, &inner, 99, &mut rng).unwrap();
                    let mixed = [&[first_datagram(&other)], &parts[1..]].concat().concat();
                    assert!(keys.open(&mixed).is_err());
                }
            }
        }
    }

    /// RESERVED of a message is that of its first fragment (RFC 9838 section 2.4.1.2), and under the ICV as all of it.
    #[test]
    fn reserved_is_that_of_the_first_fragment() {
        let keys = &suites()[0];
        let Keys::Aead { key, salt } = &keys.0 else { unreachable!("the first suite is AES-GCM") };
        let part = |number: u16, reserved: u8| {
            let mut icv = vec![0; key.algorithm().icv_len()];
            let mut plain = padded(&[9; 20], 21);
            let total = Header::LEN + PAYLOAD_HEADER + FRAGMENT_FIELDS + AEAD_IV + 21 + icv.len();
            let mut message = start(&header(), 41, Some(Fragment { number, total: 2 }), total).unwrap();
            message[29] = reserved;
            key.seal(&[salt.expose(), &number.to_be_bytes(), &[1; 6]].concat(), &message, &mut plain, &mut icv)
                .unwrap();
            message.extend(number.to_be_bytes());
            message.extend([1; 6]);
            [message, plain, icv].concat()
        };
        for (first, second) in [(0x15, 0), (0, 0x15), (0x7f, 0x01)] {
            let opened = keys.open(&[part(1, first), part(2, second)].concat()).unwrap();
            assert_eq!((opened.flags, opened.inner.len()), (first, 40));
        }
    }

    /// Number and total are under the ICV (reading 4), and impossible ones are none.
    #[test]
    fn numbers_of_fragments_cannot_be_changed() {
        let mut rng = SeededRandom::new(1);
        for keys in suites() {
            let (message, _) = keys.seal_within(548, &header(), 41, &[7; 1000], 77, &mut rng).unwrap();
            let part = first_datagram(&message);
            for at in 0..part.len() {
                let mut changed = part.to_vec();
                changed[at] ^= 1;
                assert!(keys.open_part(&changed).is_err(), "octet {at}");
            }
            let said = |number: u16, total: u16| {
                let mut changed = part.to_vec();
                changed[32..34].copy_from_slice(&number.to_be_bytes());
                changed[34..36].copy_from_slice(&total.to_be_bytes());
                Fragment::of(&changed)
            };
            assert_eq!(said(2, 3), Some(Fragment { number: 2, total: 3 }));
            assert_eq!([said(0, 3), said(4, 3), said(0, 0), said(1, 0)], [None; 4]);
            assert_eq!(said(1, 65_535), Some(Fragment { number: 1, total: 65_535 }));
        }
    }

    /// RFC 7296 section 3.14: the Encrypted payload is the last one, and here the only one.
    #[test]
    fn nothing_stands_beside_the_encrypted_payload() {
        let mut rng = SeededRandom::new(1);
        for keys in suites() {
            let message = keys.seal(&header(), 41, &[9; 20], 77, &mut rng).unwrap();
            let (header, sealed) = Header::decode(&message).unwrap();
            let behind = header.encode(&[sealed, &[0, 0, 0, 4]].concat());
            let before = Header { next: 43, ..header }.encode(&[&[PayloadKind::SK.0, 0, 0, 4], sealed].concat());
            for changed in [behind, before] {
                assert!(matches!(keys.open(&changed), Err(Reject::Malformed(_))));
            }
        }
    }

    /// RFC 7296 section 3.14: CBC draws a new IV for each message, so equal ones look different.
    #[test]
    fn equal_messages_in_cbc_have_different_ivs() {
        let mut rng = SeededRandom::new(1);
        let keys = suites().pop().unwrap();
        let mut seal = || keys.seal(&header(), 41, &[9; 20], 77, &mut rng).unwrap()[32..32 + BLOCK].to_vec();
        let ivs: std::collections::BTreeSet<Vec<u8>> = (0..20).map(|_| seal()).collect();
        assert_eq!(ivs.len(), 20);
    }
}
