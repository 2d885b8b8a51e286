//! Whose window a packet counts in.

use std::fmt;
use std::net::IpAddr;

use keyferry_crypto::{Hash, Secret};

/// Who a window belongs to, in three numbers, so that two are compared, and spread, without a look at what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sender {
    kind: u64,
    high: u64,
    low: u64,
}

impl Sender {
    /// A sender ID, and of what comes under it one strand.
    #[inline]
    pub(crate) fn id(id: u32, strand: Strand) -> Self {
        Self { kind: 0, high: strand.0.into(), low: id.into() }
    }

    /// A source address.
    #[inline]
    pub(crate) fn source(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => Self { kind: 4, high: 0, low: ip.to_bits().into() },
            IpAddr::V6(ip) => Self { kind: 6, high: (ip.to_bits() >> 64) as u64, low: ip.to_bits() as u64 },
        }
    }
}

/// One of the parts into which the packets of a sender ID fall by the hosts that they come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Strand(u8);

impl Strand {
    /// How many there are: few enough for the windows of a large fleet, and so many that up to eight threads have nearly equal parts of
    /// them.
    pub(crate) const COUNT: u8 = 24;
    /// 2^32 by the golden ratio: multiples of it are spread evenly, whatever part of the addresses it is that differs.
    pub(crate) const SPREAD: u32 = 0x9e37_79b1;
    /// Bits of the product that are not looked at.
    pub(crate) const SHIFT: u32 = 16;

    /// Of packets whose source says nothing.
    pub(crate) const ONLY: Self = Self(0);

    /// That of a source address. Filters of raw sockets compute the same.
    #[inline]
    pub(crate) fn of(source: IpAddr) -> Self {
        let folded = match source {
            IpAddr::V4(ip) => ip.to_bits(),
            IpAddr::V6(ip) => {
                let half = (ip.to_bits() >> 64) as u64 ^ ip.to_bits() as u64;
                (half >> 32) as u32 ^ half as u32
            }
        };
        let spread = folded.wrapping_mul(Self::SPREAD) >> Self::SHIFT;
        Self((spread % u32::from(Self::COUNT)) as u8)
    }

    /// Its number.
    #[cfg(test)]
    pub(crate) fn number(self) -> u8 {
        self.0
    }
}

/// Spreads senders over tables, by numbers that nobody outside of the group knows: hosts choose their addresses, and whoever could
/// foretell places could fill one of them with many.
///
/// The upper half of a sum of 32-bit words, each times a random number of 64 bits, is strongly universal (Dietzfelbinger 1996): any two
/// senders come to the same place as rarely as by chance.
pub(super) struct Mixer([u64; 6]);

impl Mixer {
    /// The numbers follow from the SA's keying material, which they do not tell.
    pub(super) fn new(keymat: &Secret) -> Self {
        let digest = Hash::Sha512.digest(&[b"keyferry replay windows", keymat.expose()]);
        let mut numbers = [0; 6];
        for (number, octets) in numbers.iter_mut().zip(digest.as_chunks().0) {
            *number = u64::from_be_bytes(*octets);
        }
        Self(numbers)
    }

    #[inline]
    pub(super) fn hash(&self, sender: Sender) -> u32 {
        let [start, numbers @ ..] = self.0;
        let Sender { kind, high, low } = sender;
        let words = [kind as u32, (high >> 32) as u32, high as u32, (low >> 32) as u32, low as u32];
        let add = |sum: u64, (number, word): (u64, u32)| sum.wrapping_add(number.wrapping_mul(word.into()));
        (numbers.into_iter().zip(words).fold(start, add) >> 32) as u32
    }
}

impl fmt::Debug for Mixer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mixer")
    }
}
