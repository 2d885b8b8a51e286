//! How large protected packets may be and look (RFC 4301 section 8, RFC 4303 sections 2.7 and 3.3.4).

use std::sync::atomic::{AtomicU32, Ordering};

/// What this member does about the sizes of what it sends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// What becomes of packets that the link does not take.
    pub fragment: Fragment,
    /// The DF bit of a tunnel's outer IPv4 header.
    pub dont_fragment: DontFragment,
}

/// When a packet that would be too large for the link is taken apart. None is that may not be: an IPv4 packet with DF, and
/// one of IPv6, of which its sender learns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fragment {
    /// Before it is protected, each fragment for itself. Where that cannot be, after it: in transport mode (RFC 4303 section
    /// 3.3.4), for SAs that choose by ports, which fragments do not show (RFC 4301 section 7), and for IPv6 packets of the
    /// size that every link takes.
    #[default]
    Before,
    /// After it is protected; of IPv6, too.
    After,
    /// Never.
    Never,
}

/// The DF bit of a tunnel's outer IPv4 header (RFC 4301 section 8.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DontFragment {
    /// As in the packet inside.
    #[default]
    Copy,
    /// Not set, and that of the packet inside does not keep it from being fragmented either.
    Clear,
    /// Set. Such packets are not fragmented after they are protected.
    Set,
}

/// The link that protected packets go through, as far as their sizes are concerned. Workers share it.
#[derive(Debug)]
pub(crate) struct Link {
    mtu: AtomicU32,
    identification: AtomicU32,
}

impl Link {
    /// A link without limit.
    pub(crate) fn new() -> Self {
        Self { mtu: AtomicU32::new(u32::MAX), identification: AtomicU32::new(0) }
    }

    pub(crate) fn set_mtu(&self, mtu: u32) {
        self.mtu.store(mtu, Ordering::Relaxed);
    }

    /// Octets of the largest IP packet.
    pub(crate) fn mtu(&self) -> usize {
        usize::try_from(self.mtu.load(Ordering::Relaxed)).unwrap_or(usize::MAX)
    }

    /// Identifications of fragmented packets go on from here.
    pub(crate) fn set_identification(&self, start: u32) {
        self.identification.store(start, Ordering::Relaxed);
    }

    /// One for the fragments of one packet. They repeat as late as they can (RFC 6864 section 4.3, RFC 7739 section 5.1).
    pub(crate) fn identification(&self) -> u32 {
        self.identification.fetch_add(1, Ordering::Relaxed)
    }
}
