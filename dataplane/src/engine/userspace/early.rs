//! Protected packets to groups, taken from the link ahead of the host's IP stack.
//!
//! The IP stack looks a route up for each packet, and offers a copy of it to each raw socket: by the figures in
//! `docs/BENCHMARKS.md` (*Wire*) a quarter of what a received packet costs the kernel. Here packet sockets take it
//! first, and a rule at the interface's ingress hook, which comes next, keeps it from the IP stack. Both are about the
//! same packets: whole ones of ESP, without VLAN tag, that this host was sent for the groups that the engine joins.
//! Everything else goes on to the IP stack and the raw sockets: fragments, which the kernel puts together there,
//! packets to single hosts, groups of others. What the interface overhears of others (promiscuous mode) is not taken,
//! and kept from the IP stack, which would drop it.
//!
//! What is taken so is seen by no packet filter of the host, by no multicast router and by no other ESP of the host.
//!
//! Whatever fails, nothing is kept from the IP stack that is not taken. So it is taken first and then kept away, and
//! the other way round when a group is left:
//!
//! ```text
//!  taken      old -> old and new --------> new
//!  kept away  old ---------------> new --> new
//! ```

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use socket2::Socket;

use super::ingress::{Failure, Ingress};
use super::share::Share;

mod filter;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

pub(super) use filter::refuse;

/// Groups beyond so many stay with the raw sockets: each costs every packet of the interface a comparison.
const MOST: usize = 256;

type Groups = BTreeSet<IpAddr>;

/// Takes packets from the link.
pub(super) trait Take {
    /// Takes those to these groups from now on, and no others. Where this fails all stays as it is.
    fn take(&self, groups: &Groups) -> io::Result<()>;
}

impl Take for (Socket, Share) {
    fn take(&self, groups: &Groups) -> io::Result<()> {
        let (socket, share) = self;
        socket.attach_filter(&filter::of_groups(groups, *share))
    }
}

/// Keeps packets from the IP stack.
pub(super) trait Keep {
    /// Those to these groups from now on, and no others.
    fn keep(&mut self, groups: &Groups) -> Result<(), Failure>;
}

impl Keep for Ingress {
    fn keep(&mut self, groups: &Groups) -> Result<(), Failure> {
        self.set(groups)
    }
}

/// Says of which groups packets are taken.
pub(super) struct Early<T = (Socket, Share), K = Ingress> {
    /// Each with the groups whose packets it takes: at least those that are kept.
    taps: Vec<(T, Groups)>,
    keeper: K,
    /// Those that the IP stack does not get; while it is not `certain`, those that it may not get.
    kept: Groups,
    certain: bool,
    /// What was wanted when it was last told that this cannot be had.
    told: Option<Groups>,
}

impl<T: Take, K: Keep> Early<T, K> {
    /// Takes nothing yet. `taps` are the packet sockets of all shares, and refuse everything.
    pub(super) fn new(taps: impl IntoIterator<Item = T>, keeper: K) -> Self {
        let taps = taps.into_iter().map(|tap| (tap, Groups::new())).collect();
        Self { taps, keeper, kept: Groups::new(), certain: true, told: None }
    }

    /// Takes packets of these groups from now on, and of no others. None is lost; where a group has been joined before,
    /// a packet may come twice while this goes on.
    ///
    /// Packets of groups that cannot be had come by the IP stack. These groups, and whatever else has failed, are tried
    /// again with the next call. Where nf_tables has not said what became of a change, packets of the groups that it
    /// was about may come twice until then, from the link and by a raw socket. A replay window refuses the second; an
    /// SA without one takes it, as it takes every packet that a network repeats.
    pub(super) fn set(&mut self, wanted: impl Iterator<Item = IpAddr>) {
        let wanted: Groups = wanted.collect();
        let reached = self.reach(&self.choose(&wanted));
        self.narrow();
        let left = wanted.difference(&self.kept).count();
        if left == 0 && reached.is_ok() {
            self.told = None;
        } else if self.told.as_ref() != Some(&wanted) {
            let reason = reached.err().map_or_else(|| format!("more than {MOST}"), |error| error.to_string());
            if left > 0 {
                tracing::warn!(groups = left, reason, "packets of so many groups come through the IP stack");
            } else {
                tracing::warn!(reason, "packets of groups that were left may still be kept from the IP stack");
            }
            self.told = Some(wanted);
        }
    }

    /// The groups whose packets are taken.
    pub(super) fn groups(&self) -> &Groups {
        &self.kept
    }

    /// As many as may be: first those that are there.
    fn choose(&self, wanted: &Groups) -> Groups {
        wanted.intersection(&self.kept).chain(wanted.difference(&self.kept)).take(MOST).copied().collect()
    }

    /// Gets from where it is to these groups, or as near as possible. An error says what was in the way.
    fn reach(&mut self, wanted: &Groups) -> io::Result<()> {
        if self.certain && self.kept == *wanted {
            return Ok(());
        }
        let (mut aim, mut short) = (wanted.clone(), Ok(()));
        while let Err(error) = self.widen(&(&self.kept | &aim)) {
            if self.kept.is_subset(wanted) {
                // Half of what is new will do.
                let new: Vec<IpAddr> = aim.difference(&self.kept).copied().collect();
                aim = self.kept.iter().chain(&new[..new.len() / 2]).copied().collect();
                short = Err(error);
            } else {
                // There is more room without those that are left.
                self.keep(&(&self.kept & wanted))?;
                self.narrow();
            }
        }
        self.keep(&aim).and(short)
    }

    /// Has all taps take these at least.
    fn widen(&mut self, groups: &Groups) -> io::Result<()> {
        for (tap, taken) in self.taps.iter_mut().filter(|(_, taken)| !groups.is_subset(taken)) {
            let before = taken.clone();
            tap.take(groups)?;
            taken.clone_from(groups);
            // While one filter takes the place of another there has to be room for both. One that cannot take its own
            // place would leave none to narrower ones.
            if let Err(error) = tap.take(groups) {
                if tap.take(&before).is_ok() {
                    *taken = before;
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Has all taps take what is kept and no more.
    fn narrow(&mut self) {
        for (tap, taken) in self.taps.iter_mut().filter(|(_, taken)| *taken != self.kept) {
            match tap.take(&self.kept) {
                Ok(()) => taken.clone_from(&self.kept),
                Err(error) => tracing::debug!(%error, "packets of groups that were left are still taken"),
            }
        }
    }

    /// Keeps these from the IP stack. All taps take them already.
    fn keep(&mut self, groups: &Groups) -> io::Result<()> {
        if self.certain && self.kept == *groups {
            return Ok(());
        }
        match self.keeper.keep(groups) {
            Ok(()) => {
                self.kept.clone_from(groups);
                self.certain = true;
                Ok(())
            }
            Err(Failure::Refused(error)) => Err(error),
            Err(Failure::Unknown(error)) => {
                self.kept.extend(groups);
                self.certain = false;
                Err(error)
            }
        }
    }
}
