//! The ESP packet (RFC 4303 section 2) as a view over octets.
//!
//! ```text
//! |               Security Parameters Index (SPI)                 |
//! |                      Sequence Number                          |
//! |                    IV (8 or 16 octets)                        |
//! |                    Payload Data (variable)                    |
//! |            Padding (0-255 octets)             |  Pad  | Next  |
//! |                 ICV (variable)                                |
//! ```

/// Octets of SPI and sequence number.
pub const HEADER_LEN: usize = 8;
/// Octets of pad length and next header.
pub const TRAILER_LEN: usize = 2;

/// A view over an ESP packet, from the SPI on.
#[derive(Debug)]
pub struct EspPacket<T> {
    octets: T,
}

impl<T: AsRef<[u8]>> EspPacket<T> {
    /// A view, unless SPI and sequence number are cut off.
    #[must_use]
    pub fn new(octets: T) -> Option<Self> {
        (octets.as_ref().len() >= HEADER_LEN).then_some(Self { octets })
    }

    /// SPI.
    #[must_use]
    pub fn spi(&self) -> u32 {
        self.word(0)
    }

    /// Sequence number.
    #[must_use]
    pub fn sequence(&self) -> u32 {
        self.word(4)
    }

    fn word(&self, at: usize) -> u32 {
        self.octets.as_ref().get(at..).and_then(|b| b.first_chunk::<4>()).map_or(0, |b| u32::from_be_bytes(*b))
    }
}

impl<T: AsMut<[u8]>> EspPacket<T> {
    /// Writes SPI and sequence number.
    pub fn set_header(&mut self, spi: u32, sequence: u32) {
        if let Some(header) = self.octets.as_mut().first_chunk_mut::<HEADER_LEN>() {
            // As one, for what is written in two is slow to be read as one.
            *header = (u64::from(spi) << 32 | u64::from(sequence)).to_be_bytes();
        }
    }
}

/// Octets of padding that make payload and trailer a multiple of `block`, which is a power of two.
#[must_use]
pub(crate) fn padding_len(payload: usize, block: usize) -> usize {
    (payload + TRAILER_LEN).wrapping_neg() & (block - 1)
}

/// 1, 2, 3 and so on.
const PADDING: [u8; 255] = {
    let mut octets = [0; 255];
    let mut at = 0u8;
    while at < 255 {
        octets[at as usize] = at + 1;
        at += 1;
    }
    octets
};

/// Writes `padding` octets 1, 2, 3 and so on (RFC 4303 section 2.4), their number and the next header to where `octets` begin.
/// Of what stands behind these, up to fourteen octets are then unspecified: the ICV comes there. `None` if there is no room.
#[inline(always)]
pub(crate) fn write_trailer(octets: &mut [u8], padding: usize, next_header: u8) -> Option<()> {
    const STEP: usize = 16;
    match (octets.first_chunk_mut::<STEP>(), PADDING.first_chunk::<STEP>()) {
        // Padding to blocks of a cipher is one store.
        (Some(first), Some(all)) if padding <= STEP => *first = *all,
        _ => write_padding(octets, padding)?,
    }
    *octets.get_mut(padding..)?.first_chunk_mut()? = [u8::try_from(padding).ok()?, next_header];
    Some(())
}

#[cold]
#[inline(never)]
fn write_padding(octets: &mut [u8], padding: usize) -> Option<()> {
    octets.get_mut(..padding)?.copy_from_slice(PADDING.get(..padding)?);
    Some(())
}

/// Splits decrypted octets into the length of the payload and the next header. `None` when the padding is not what a
/// sender must have written.
#[inline]
pub(crate) fn read_trailer(plain: &[u8]) -> Option<(usize, u8)> {
    const STEP: usize = size_of::<u64>();
    let (rest, &[pad_len, next_header]) = plain.split_last_chunk::<TRAILER_LEN>()?;
    let padding = usize::from(pad_len);
    let payload = rest.len().checked_sub(padding)?;
    let is_right = match (rest.last_chunk::<STEP>(), PADDING.first_chunk::<STEP>()) {
        // Short padding is compared in one word: what it must be, moved to the end, as far as there is any.
        (Some(last), Some(all)) if padding <= STEP => {
            let before = u64::BITS - u32::from(pad_len) * u8::BITS;
            let expected = u64::from_be_bytes(*all).checked_shr(before).unwrap_or(0);
            (u64::from_be_bytes(*last) ^ expected).checked_shl(before).unwrap_or(0) == 0
        }
        _ => rest.get(payload..) == PADDING.get(..padding),
    };
    is_right.then_some((payload, next_header))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn trailers_are_read_as_written() {
        for payload in 0..40 {
            for block in [4, 16] {
                let pad = padding_len(payload, block);
                assert_eq!((payload + pad + TRAILER_LEN) % block, 0);
                let mut plain = vec![0xaa; payload + pad + TRAILER_LEN];
                // With room for an ICV behind it, and without.
                for room in [0, 16] {
                    let mut octets = [&plain[..], &vec![0; room]].concat();
                    write_trailer(&mut octets[payload..], pad, 17).unwrap();
                    assert_eq!(read_trailer(&octets[..plain.len()]), Some((payload, 17)));
                }
                assert!(write_trailer(&mut plain[payload + 1..], pad, 17).is_none());
            }
        }
    }

    #[test]
    fn each_octet_of_padding_must_be_right() {
        for payload in [0, 1, 7, 8, 9, 40] {
            for padding in 0..=255 {
                let mut plain = vec![0xaa; payload];
                plain.extend((1..=255).take(padding));
                plain.extend([padding as u8, 4]);
                assert_eq!(read_trailer(&plain), Some((payload, 4)));
                for at in payload..payload + padding {
                    for flipped in [1, 0x80] {
                        plain[at] ^= flipped;
                        assert_eq!(read_trailer(&plain), None, "{at} of {padding}");
                        plain[at] ^= flipped;
                    }
                }
                let len = plain.len();
                assert!(payload > 0 || padding == 0 || read_trailer(&plain[1..len]).is_none());
            }
        }
    }

    #[test]
    fn wrong_padding_is_refused() {
        assert_eq!(read_trailer(&[1, 2, 3, 3, 4]), Some((0, 4)));
        assert_eq!(read_trailer(&[1, 2, 4, 3, 4]), None);
        assert_eq!(read_trailer(&[1, 2, 3, 4, 4]), None);
        assert_eq!(read_trailer(&[0]), None);
        let mut longest: Vec<u8> = (1..=255).collect();
        longest.extend([255, 59]);
        assert_eq!(read_trailer(&longest), Some((0, 59)));
    }
}
