//! Protected packets to groups, taken from the link ahead of the host's IP stack.
//!
//! The IP stack looks a route up for each packet, and offers a copy of it to each raw socket: by the figures in
//! `docs/BENCHMARKS.md` (*Wire*) a quarter of what a received packet costs the kernel. Here a packet socket takes it first, and a rule at the
//! interface's ingress hook, which comes next, keeps it from the IP stack. Both are about the same packets: whole ones of ESP, without VLAN
//! tag, that this host was sent for the groups that the engine joins. Everything else goes on to the IP stack and the raw sockets: fragments,
//! which the kernel puts together there, packets to single hosts, groups of others.
//!
//! What is taken so is seen by no packet filter of the host, by no multicast router and by no other ESP of the host.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use socket2::Socket;

use super::ingress::Ingress;
use super::share::Share;

mod filter;

pub(super) use filter::refuse;

/// Groups beyond so many stay with the raw sockets: each costs every packet of the interface a comparison.
const MOST: usize = 256;

/// Says of which groups packets are taken.
pub(super) struct Early {
    ingress: Ingress,
    taps: Vec<(Socket, Share)>,
    groups: BTreeSet<IpAddr>,
    /// What is wanted in vain, and was told once; it is tried again and again.
    refused: Option<BTreeSet<IpAddr>>,
}

impl Early {
    /// Takes nothing yet. `taps` are the packet sockets of all shares.
    pub(super) fn new(taps: Vec<(Socket, Share)>, ingress: Ingress) -> Self {
        Self { ingress, taps, groups: BTreeSet::new(), refused: None }
    }

    /// Takes packets of these groups from now on, and of no others. None is lost; if a new group has been joined before, a packet may come both ways.
    /// Where this fails all stays as it is.
    pub(super) fn set(&mut self, wanted: impl Iterator<Item = IpAddr>) {
        let wanted: BTreeSet<IpAddr> = wanted.take(MOST).collect();
        if wanted == self.groups {
            return;
        }
        let both = self.groups.union(&wanted).copied().collect();
        match self.attach(&both).and_then(|()| self.ingress.set(&wanted)) {
            Ok(()) => (self.groups, self.refused) = (wanted, None),
            Err(error) => {
                if self.refused.as_ref() != Some(&wanted) {
                    tracing::warn!(%error, "packets of new groups are not taken ahead of the IP stack, and come through it");
                }
                self.refused = Some(wanted);
            }
        }
        if let Err(error) = self.attach(&self.groups) {
            tracing::debug!(%error, "packets of groups that were left are still taken");
        }
    }

    /// Of these the packets are taken.
    pub(super) fn groups(&self) -> &BTreeSet<IpAddr> {
        &self.groups
    }

    fn attach(&self, groups: &BTreeSet<IpAddr>) -> io::Result<()> {
        self.taps.iter().try_for_each(|(tap, share)| tap.attach_filter(&filter::of_groups(groups, *share)))
    }
}
