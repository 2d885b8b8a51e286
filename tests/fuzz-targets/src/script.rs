//! Octets as instructions.

/// A fuzzer's octets, read one after the other.
#[derive(Clone, Debug)]
pub struct Script<'a> {
    left: &'a [u8],
}

impl<'a> Script<'a> {
    /// A script of these octets.
    #[must_use]
    pub fn new(octets: &'a [u8]) -> Self {
        Self { left: octets }
    }

    /// The next octet; `None` at the end.
    pub fn more(&mut self) -> Option<u8> {
        let (first, left) = self.left.split_first()?;
        self.left = left;
        Some(*first)
    }

    /// The next octet, zero at the end.
    pub fn octet(&mut self) -> u8 {
        self.more().unwrap_or(0)
    }

    /// A number below `n`, from two octets if one is not enough; zero if `n` is.
    pub fn below(&mut self, n: usize) -> usize {
        let wide = if n > 256 { usize::from(self.octet()) << 8 } else { 0 };
        (wide | usize::from(self.octet())).checked_rem(n).unwrap_or(0)
    }

    /// The next `n` octets, fewer at the end.
    pub fn take(&mut self, n: usize) -> &'a [u8] {
        let (taken, left) = self.left.split_at(n.min(self.left.len()));
        self.left = left;
        taken
    }

    /// Changes a message: an octet, its length, what stands at its end, or its cookies to those of another one.
    pub(crate) fn mutate(&mut self, message: &[u8], other: &[u8]) -> Vec<u8> {
        let mut bytes = message.to_vec();
        match self.octet() % 6 {
            0 => {
                let at = self.below(bytes.len());
                let mask = self.octet().max(1);
                if let Some(octet) = bytes.get_mut(at) {
                    *octet ^= mask;
                }
            }
            1 => {
                let end = self.below(bytes.len() + 1);
                bytes.truncate(end);
            }
            2 => {
                let n = usize::from(self.octet());
                bytes.extend_from_slice(self.take(n));
                repair_length(&mut bytes);
            }
            3 => {
                if let (Some(to), Some(from)) = (bytes.get_mut(..16), other.get(..16)) {
                    to.copy_from_slice(from);
                }
            }
            4 => {
                let at = self.below(bytes.len());
                let patch = self.take(4);
                for (octet, new) in bytes.iter_mut().skip(at).zip(patch) {
                    *octet = *new;
                }
            }
            _ => {
                // Exchange type, flags and message ID decide who reads the rest.
                let patch = self.take(6);
                for (octet, new) in bytes.iter_mut().skip(18).zip(patch) {
                    *octet = *new;
                }
            }
        }
        bytes
    }

    /// A datagram of the script's own octets, with a sound header if it wants one.
    pub(crate) fn noise(&mut self) -> Vec<u8> {
        let sound = self.octet();
        let n = usize::from(self.octet());
        let mut bytes = self.take(n).to_vec();
        if sound.is_multiple_of(2) && bytes.len() >= 28 {
            bytes[17] = if sound.is_multiple_of(4) { 0x10 } else { 0x20 };
            repair_length(&mut bytes);
        }
        bytes
    }
}

fn repair_length(message: &mut [u8]) {
    let len = u32::try_from(message.len()).unwrap_or(u32::MAX);
    if let Some(field) = message.get_mut(24..28) {
        field.copy_from_slice(&len.to_be_bytes());
    }
}
