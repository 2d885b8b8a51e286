//! What a member learns from its key server, in a form that no longer knows the protocol.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::{Random, Secret};

use crate::drive::{ConnectionId, Transmit};
use crate::oid::OidName;
use crate::policy::{SaDirection, TrafficPolicy};
use crate::stream::StreamProtection;
use crate::time::Now;

/// A data SA to install.
#[derive(Debug)]
pub struct NewSa {
    /// SPI on the wire.
    pub spi: u32,
    /// Selectors, mode, algorithms.
    pub policy: Arc<TrafficPolicy>,
    /// Keying material, [`EspTransform::keymat_len`](crate::policy::EspTransform::keymat_len) octets.
    pub keymat: Secret,
    /// Time until the keys must not be used any more.
    pub lifetime: Duration,
    /// Which way packets go.
    pub direction: SaDirection,
}

/// Which data SAs go, after the deactivation delay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removal {
    /// These SPIs (possibly none).
    Spis(Vec<u32>),
    /// All that are not in the same update's `install`.
    All,
}

/// Sender IDs for counter modes (RFC 6054).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SenderIds {
    /// Width of a sender ID in the IV, in bits.
    pub bits: u8,
    /// Values for this member alone; used one after the other.
    pub ids: Vec<u32>,
}

/// Changes to a member's data plane, from a registration or a rekey.
///
/// Lists of SAs are oldest first: of two with the same selectors the later one is the newer. Receivers use all at once;
/// a sender switches to the newest `activation_delay` after the update, unless it has no other.
#[derive(Debug)]
pub struct GroupUpdate {
    /// SAs to install; one whose SPI is already there with the same keys is left as it is.
    pub install: Vec<NewSa>,
    /// SAs to remove.
    pub remove: Removal,
    /// Sender IDs, at a registration only. `None` leaves those there are.
    pub sender_ids: Option<SenderIds>,
    /// ATD.
    pub activation_delay: Duration,
    /// DTD.
    pub deactivation_delay: Duration,
}

/// Keys of an IEC 61850 stream, for whoever protects its messages.
#[derive(Debug)]
pub struct NewStream {
    /// SPI, which IEC 61850 calls a key ID.
    pub spi: u32,
    /// Which messages.
    pub name: OidName,
    /// How they are protected.
    pub protection: StreamProtection,
    /// Encryption key with its salt, then authentication key with its salt, as
    /// [`key_lens`](StreamProtection::key_lens) says.
    pub keymat: Secret,
    /// Time until the keys must not be used any more; `None` never ends.
    pub lifetime: Option<Duration>,
    /// Time until they may be used at all, for sending or receiving (RFC 8052 section 2.2.4.1).
    pub activation_delay: Duration,
    /// Per cent of the members that have them, if the key server says (SA_KDA).
    pub delivered: Option<u8>,
}

/// Changes to a member's streams, from a registration or a rekey.
#[derive(Debug)]
pub struct StreamUpdate {
    /// Streams to install, oldest first; of one that is there only its times and delivery may have changed.
    pub install: Vec<NewStream>,
    /// Streams to remove, after the deactivation delay.
    pub remove: Removal,
    /// DTD.
    pub deactivation_delay: Duration,
    /// Sender IDs for counter modes with several senders, at a registration only. `None` leaves those there are.
    pub sender_ids: Option<SenderIds>,
}

/// What happened to a member, for its log and status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberEvent {
    /// Phase 1 or the IKE SA stands.
    Connected,
    /// Registered; keys came with an update.
    Registered,
    /// A rekey message was accepted; its sequence number or message ID.
    Rekeyed {
        /// GDOI SEQ or G-IKEv2 message ID.
        counter: u32,
    },
    /// A rekey message was acknowledged.
    Acknowledged {
        /// GDOI SEQ of the push.
        counter: u32,
    },
    /// The key server closed the registration SA; the group's keys stay.
    Disconnected,
    /// The key server excluded this member, or deleted everything: keys are gone, it registers anew if it may.
    Excluded,
    /// The key server refused: why. The member tries again after a delay.
    Refused(String),
    /// No answer from the key server after all retransmissions. The member tries again after a delay.
    Unanswered,
    /// The member left the group at its own wish.
    Left,
}

/// What a member's endpoint wants done.
#[derive(Debug)]
pub enum MemberOutput {
    /// Send.
    Send(Transmit),
    /// Apply to the data plane.
    Update(GroupUpdate),
    /// Hand to whoever protects IEC 61850 streams.
    Streams(StreamUpdate),
    /// Remove all data SAs and streams at once.
    Flush,
    /// Be ready to receive rekey messages sent to this address (join it when it is multicast).
    Listen(SocketAddr),
    /// Open a TCP connection; what becomes of it is told through `connected` and `disconnected`.
    Dial {
        /// What to call it.
        id: ConnectionId,
        /// Our address; a local port is to be chosen.
        from: IpAddr,
        /// The key server's.
        to: SocketAddr,
    },
    /// Close a connection, once what is queued for it has gone. Nothing is told of it any more.
    HangUp(ConnectionId),
    /// Tell the user.
    Event(MemberEvent),
    /// About a further group of the same member, by its place behind the first: an update, streams, a flush, an event.
    Of(usize, Box<MemberOutput>),
}

/// What a member's endpoint works with during one step. Outputs are carried out in order.
pub struct MemberCtx<'a> {
    /// The present.
    pub now: Now,
    /// Randomness.
    pub rng: &'a mut dyn Random,
    /// Where outputs go.
    pub out: &'a mut Vec<MemberOutput>,
}

impl MemberCtx<'_> {
    /// Queues a datagram.
    pub fn send(&mut self, transmit: Transmit) {
        self.out.push(MemberOutput::Send(transmit));
    }

    /// Queues an event.
    pub fn event(&mut self, event: MemberEvent) {
        self.out.push(MemberOutput::Event(event));
    }
}
