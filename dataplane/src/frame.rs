//! A packet buffer that is filled once and worked upon in place.

/// Octets kept free in front of a packet: the outer IPv6 header, SPI, sequence number and the longest IV.
pub const HEADROOM: usize = 64;
/// Octets kept free behind it: padding, trailer and the longest ICV.
pub const TAILROOM: usize = 64;

/// One packet with room around it, so that sealing and opening neither allocate nor move the payload.
#[derive(Clone, Debug)]
pub struct Frame {
    storage: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Frame {
    /// A frame for packets of up to `capacity` octets.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { storage: vec![0; HEADROOM + capacity + TAILROOM].into_boxed_slice(), start: HEADROOM, end: HEADROOM }
    }

    /// A frame that holds a copy of `packet`.
    #[must_use]
    pub fn holding(packet: &[u8]) -> Self {
        let mut frame = Self::new(packet.len());
        frame.space()[..packet.len()].copy_from_slice(packet);
        frame.filled(packet.len());
        frame
    }

    /// Empties the frame and gives the space to read a packet into. Call [`Frame::filled`] afterwards.
    pub fn space(&mut self) -> &mut [u8] {
        self.start = HEADROOM;
        self.end = HEADROOM;
        let last = self.storage.len() - TAILROOM;
        &mut self.storage[HEADROOM..last]
    }

    /// Says how many octets of [`Frame::space`] are the packet; more than there are counts as all.
    pub fn filled(&mut self, len: usize) {
        self.start = HEADROOM;
        self.end = (HEADROOM + len).min(self.storage.len() - TAILROOM);
    }

    /// The packet.
    #[must_use]
    pub fn packet(&self) -> &[u8] {
        &self.storage[self.start..self.end]
    }

    /// The packet, to be changed in place.
    pub fn packet_mut(&mut self) -> &mut [u8] {
        &mut self.storage[self.start..self.end]
    }

    /// Is there room to grow by `front` octets before and `back` octets behind the packet?
    pub(crate) fn can_grow(&self, front: usize, back: usize) -> bool {
        front <= self.start && back <= self.storage.len() - self.end
    }

    /// Cuts the packet to its first `len` octets, grows it by `front` octets before and `back` octets behind it, with unspecified
    /// content, and gives all of it. `None`, and no change, when there is no room.
    #[inline]
    pub fn wrap(&mut self, len: usize, front: usize, back: usize) -> Option<&mut [u8]> {
        let start = self.start.checked_sub(front)?;
        let end = (self.start + len).min(self.end).checked_add(back)?;
        let packet = self.storage.get_mut(start..end)?;
        (self.start, self.end) = (start, end);
        Some(packet)
    }

    /// Narrows the packet to a part of itself; a part that lies outside empties it.
    pub fn narrow(&mut self, from: usize, len: usize) {
        let start = (self.start + from).min(self.end);
        self.end = (start + len).min(self.end);
        self.start = start;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_keep_their_bounds() {
        let mut frame = Frame::holding(&[1, 2, 3]);
        assert_eq!(frame.packet(), [1, 2, 3]);
        assert!(frame.wrap(3, HEADROOM + 1, 0).is_none());
        assert!(frame.wrap(3, 0, TAILROOM + 1).is_none());
        assert!(frame.wrap(3, 0, usize::MAX).is_none());
        assert_eq!(frame.clone().wrap(2, 1, 1).unwrap(), [0, 1, 2, 3]);
        assert_eq!(frame.wrap(9, HEADROOM, TAILROOM).unwrap().len(), HEADROOM + 3 + TAILROOM);
        frame.narrow(HEADROOM, 3);
        assert_eq!(frame.packet(), [1, 2, 3]);
        frame.narrow(1, 100);
        assert_eq!(frame.packet(), [2, 3]);
        frame.narrow(9, 1);
        assert!(frame.packet().is_empty());
        frame.filled(usize::MAX - HEADROOM);
        assert_eq!(frame.packet().len(), 3);
    }
}
