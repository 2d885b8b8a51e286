//! The classic capture file format, as libpcap writes it.

use std::io::{self, Write};
use std::time::Duration;

/// Longest frame that is written.
const SNAP_LENGTH: u32 = 65_535;
/// LINKTYPE_ETHERNET.
const ETHERNET: u32 = 1;

/// Writes frames to a capture.
#[derive(Debug)]
pub(super) struct Pcap<W: Write> {
    out: W,
}

impl<W: Write> Pcap<W> {
    /// Begins a capture: little-endian, microseconds, version 2.4.
    pub(super) fn new(mut out: W) -> io::Result<Self> {
        out.write_all(&0xa1b2_c3d4_u32.to_le_bytes())?;
        out.write_all(&[2, 0, 4, 0])?;
        for field in [0, 0, SNAP_LENGTH, ETHERNET] {
            out.write_all(&u32::to_le_bytes(field))?;
        }
        Ok(Self { out })
    }

    /// Adds a frame seen at `at` since the Unix epoch.
    pub(super) fn frame(&mut self, at: Duration, frame: &[u8]) -> io::Result<()> {
        let kept = &frame[..frame.len().min(SNAP_LENGTH as usize)];
        // The format's seconds are of 32 bits.
        let fields = [at.as_secs() as u32, at.subsec_micros(), kept.len() as u32, frame.len() as u32];
        for field in fields {
            self.out.write_all(&field.to_le_bytes())?;
        }
        self.out.write_all(kept)
    }

    /// Ends the capture.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.out.flush()?;
        Ok(self.out)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_capture_is_laid_out_as_libpcap_does() {
        let mut pcap = Pcap::new(Vec::new()).unwrap();
        pcap.frame(Duration::new(0x0102_0304, 5_000), &[0xaa, 0xbb, 0xcc]).unwrap();
        let octets = pcap.finish().unwrap();
        let expected = [
            &[0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 1, 0, 0, 0][..],
            &[4, 3, 2, 1, 5, 0, 0, 0, 3, 0, 0, 0, 3, 0, 0, 0, 0xaa, 0xbb, 0xcc],
        ];
        assert_eq!(octets, expected.concat());
    }
}
