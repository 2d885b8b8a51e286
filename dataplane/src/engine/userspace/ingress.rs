//! Packets of groups that the IP stack is not to see, because somebody else has taken them from the interface before.
//!
//! ```text
//!  interface -> packet sockets of all protocols -> traffic control -> [ingress hook: drop] -> IP stack -> raw sockets
//! ```
//!
//! What a packet socket receives goes on to the IP stack all the same, which looks up a route for it and gives a copy to every
//! raw socket, for nothing. A rule of nf_tables at the interface's ingress hook ends that. It drops what is certain to be ESP to
//! one of the groups, as it would be handed to a raw socket: unfragmented, with no IPv6 extension header before it, and without
//! a VLAN tag, since a tag means another interface. The kernel counts a tag that the device has taken off as part of the
//! frame here, so such a frame has the tag's type where others have that of IP.
//!
//! Copies of what this host itself sends to groups, which the IP stack makes for its own sockets, pass this hook too,
//! and packet sockets do not take them. They have no link-layer header, so since about Linux 6.5 nothing matches. An
//! older kernel reads the IP header in its place: the copies of other programs' ESP would be dropped whose source is in
//! 8.0.0.0/16, or has 0x86dd in octets 4 and 5 (IPv6). Nothing else tells them: nf_tables calls them multicast like
//! those that came.
//!
//! The table belongs to the netlink socket it was made by (`NFT_TABLE_F_OWNER`, Linux 5.12). No other process can change it, not
//! even by flushing the whole ruleset, and the kernel removes it when the socket closes, however the process ends. So there is
//! no time at which packets are dropped that nobody takes, but for a moment: whoever takes packets begins before [`Ingress::set`]
//! names their group, and ends after it no longer does.
//! An older kernel refuses the flag, and with it the table.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::process;
use std::time::Duration;

use nix::net::if_::if_nametoindex;

use crate::engine::netlink::{Answer, Message, Netlink};
use crate::packet::IpVersion;

mod message;

use message::Table;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

const NETLINK_NETFILTER: i32 = 12;

/// The kernel answers at once; this is in case it does not.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a read ends with then.
const SILENCE: i32 = nix::errno::Errno::EAGAIN as i32;

/// Why something is not known to be done.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The kernel says so: nothing has changed.
    #[error(transparent)]
    Refused(io::Error),
    /// It has been asked for, and the kernel has not said what became of it.
    #[error(transparent)]
    Unknown(io::Error),
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(error) | Failure::Unknown(error) => error,
        }
    }
}

/// Keeps ESP packets to groups from the IP stack of the network namespace it was opened in, until it is dropped.
pub(super) struct Ingress {
    netlink: Netlink,
    table: Table,
}

impl Ingress {
    /// Makes a table with a chain at the ingress hook of an Ethernet interface. Nothing is dropped yet.
    pub(super) fn open(interface: &str) -> io::Result<Self> {
        // Newer kernels would wait for an interface that is not there.
        if_nametoindex(interface)
            .map_err(|error| io::Error::new(io::ErrorKind::NotFound, format!("interface {interface}: {error}")))?;
        // Processes of different PID namespaces can have the same ID, and one process several engines.
        let mut chance = [0; 4];
        getrandom::fill(&mut chance).map_err(io::Error::other)?;
        let table = Table::named(&format!("keyferry-early-{}-{:08x}", process::id(), u32::from_ne_bytes(chance)));
        let mut ingress = Self { netlink: Netlink::open(NETLINK_NETFILTER, PATIENCE)?, table };
        let (table, chain) = (ingress.table.make(), ingress.table.chain(interface));
        ingress.transact(vec![("a table with an owner", table), ("a chain at ingress", chain)])?;
        Ok(ingress)
    }

    /// Drops, from now on, what goes to these groups and no others. In one step: a packet meets the old groups or the
    /// new ones. It waits as long as another process has nf_tables to itself.
    pub(super) fn set(&mut self, groups: &BTreeSet<IpAddr>) -> Result<(), Failure> {
        let mut steps = vec![("to forget its rules", self.table.forget())];
        for version in [IpVersion::V4, IpVersion::V6] {
            let groups: Vec<IpAddr> = groups.iter().copied().filter(|group| IpVersion::of(*group) == version).collect();
            if !groups.is_empty() {
                steps.push(("a set", self.table.set(version, groups.len())));
                steps.extend(self.table.elements(version, &groups).map(|message| ("groups in a set", message)));
                steps.push(("a rule", self.table.rule(version)));
            }
        }
        self.transact(steps)
    }

    /// Has all of it done or nothing, and waits until it is. Each step is named as what nf_tables is asked for.
    fn transact(&mut self, steps: Vec<(&str, Message)>) -> Result<(), Failure> {
        let (names, messages): (Vec<_>, Vec<_>) = steps.into_iter().unzip();
        let sent = self.netlink.send(message::transaction(messages)).map_err(Failure::Unknown)?;
        // The acknowledgement is the last step's. What fails is told before it: by its own step, or by the transaction's
        // beginning if nothing could be tried or what was tried did not stand in the end.
        let answer = self.netlink.receive(sent, |place, answer| {
            let step = place.checked_sub(1).and_then(|at| names.get(at));
            match answer {
                Answer::Done => Some(Ok(Ok(()))),
                Answer::Failed(error) => Some(Ok(Err(refused(step.copied().unwrap_or("a transaction"), &error)))),
                Answer::Told { .. } => None,
            }
        });
        answer.unwrap_or_else(|error| {
            Err(Failure::Unknown(match error.raw_os_error() {
                Some(SILENCE) => io::Error::new(io::ErrorKind::TimedOut, "nf_tables does not answer"),
                Some(_) | None => error,
            }))
        })
    }
}

fn refused(step: &str, error: &io::Error) -> Failure {
    Failure::Refused(io::Error::new(error.kind(), format!("nf_tables refuses {step}: {error}")))
}
