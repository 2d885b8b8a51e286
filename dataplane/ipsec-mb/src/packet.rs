//! An ESP packet as the library is given it.

use std::marker::PhantomData;

/// The longest ICV.
pub const MAX_ICV: usize = 32;

/// The longest packet, in octets in front of its ICV: the library keeps lengths in 16 bits.
pub const MAX_LEN: usize = 65_534;

/// One packet to work upon in place.
///
/// ```text
/// | what is only authenticated | body: what is enciphered | ICV |
/// ```
#[repr(C)]
#[derive(Debug)]
pub struct Packet<'p> {
    data: *mut u8,
    len: u32,
    body: u32,
    icv_len: u32,
    iv: [u8; 16],
    tag: [u8; MAX_ICV],
    octets: PhantomData<&'p mut [u8]>,
}

impl<'p> Packet<'p> {
    /// A packet whose body begins at `body` and whose ICV has `icv_len` octets. The IV has sixteen octets for CBC; otherwise
    /// the first twelve count. `None` if these parts are not there, or too long for the library.
    #[inline]
    #[must_use]
    pub fn new(esp: &'p mut [u8], body: usize, icv_len: usize, iv: [u8; 16]) -> Option<Self> {
        let len = esp.len().checked_sub(icv_len).filter(|len| (body..=MAX_LEN).contains(len))?;
        if icv_len > MAX_ICV {
            return None;
        }
        Some(Self {
            data: esp.as_mut_ptr(),
            len: u32::try_from(len).ok()?,
            body: u32::try_from(body).ok()?,
            icv_len: u32::try_from(icv_len).ok()?,
            iv,
            tag: [0; MAX_ICV],
            octets: PhantomData,
        })
    }

    /// What was computed, as long as the ICV.
    #[inline]
    #[must_use]
    pub fn tag(&self) -> &[u8] {
        &self.tag[..self.icv_len as usize]
    }

    /// The packet, with its ICV.
    #[inline]
    fn octets(&mut self) -> &mut [u8] {
        #[allow(unsafe_code)]
        // SAFETY: these are the pointer and the length of the slice that `new` was given, borrowed for 'p by `octets`.
        unsafe {
            std::slice::from_raw_parts_mut(self.data, (self.len + self.icv_len) as usize)
        }
    }

    /// The ICV that the packet bears.
    #[inline]
    #[must_use]
    pub fn icv(&self) -> &[u8] {
        #[allow(unsafe_code)]
        // SAFETY: as in `octets`, of which this is the last part.
        unsafe {
            std::slice::from_raw_parts(self.data.add(self.len as usize), self.icv_len as usize)
        }
    }

    /// The body.
    #[inline]
    pub fn body(&mut self) -> &mut [u8] {
        let (body, len) = (self.body as usize, self.len as usize);
        &mut self.octets()[body..len]
    }

    /// Writes what was computed to where the ICV stands.
    #[inline]
    pub fn put_tag(&mut self) {
        let (len, tag) = (self.len as usize, self.tag);
        for (octet, from) in self.octets()[len..].iter_mut().zip(tag) {
            *octet = from;
        }
    }

    /// Is the body whole blocks?
    pub(crate) fn is_whole(&self) -> bool {
        (self.len - self.body).is_multiple_of(16)
    }

    pub(crate) fn icv_len(&self) -> usize {
        self.icv_len as usize
    }
}
