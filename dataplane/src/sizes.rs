//! How large protected packets may be and look (RFC 4301 section 8, RFC 4303 sections 2.7 and 3.3.4).

use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// What this member does about the sizes of what it sends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// What becomes of packets that the link does not take.
    pub fragment: Fragment,
    /// The DF bit of a tunnel's outer IPv4 header.
    pub dont_fragment: DontFragment,
    /// How long protected packets are made.
    pub padding: FlowPadding,
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

/// How long protected packets are made, headers included, so that their lengths tell less of what is inside (RFC 4303 section
/// 2.7). In transport mode only whole UDP datagrams can be padded. Receivers must know of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum FlowPadding {
    /// Not longer than they must be.
    #[default]
    None,
    /// A multiple of so many octets.
    Step(NonZeroU16),
    /// The first of these that is long enough, in rising order; behind the last there is the link's MTU.
    Lengths(Arc<[u16]>),
    /// As long as the link takes.
    Mtu,
}

impl FlowPadding {
    /// How long a packet is made that must have `len` octets and may have `most`: as near below as its cipher lets it be.
    pub(crate) fn target(&self, len: usize, most: usize) -> usize {
        let target = match self {
            FlowPadding::None => len,
            FlowPadding::Step(step) => len.next_multiple_of(usize::from(step.get())),
            FlowPadding::Lengths(lengths) => {
                lengths.iter().map(|length| usize::from(*length)).find(|length| *length >= len).unwrap_or(most)
            }
            FlowPadding::Mtu => most,
        };
        target.min(most).max(len)
    }
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
