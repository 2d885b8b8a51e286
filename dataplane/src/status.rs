//! What people and monitoring are told.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use keyferry_model::policy::{AddressPreservation, EspMode, EspTransform, SaDirection, Selector, TrafficPolicy};
use serde::Serialize;

use crate::local::Rule;
use crate::packet::protocol;
use crate::sa::{Sa, Traffic};

/// One data SA.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SaStatus {
    /// SPI in hexadecimal, `0x` and eight digits.
    pub spi: String,
    /// `transport` or `tunnel`.
    pub mode: &'static str,
    /// Protection, for people.
    pub transform: String,
    /// Whose implementation of it is used.
    pub cipher: &'static str,
    /// `symmetric`, `sender-only` or `receiver-only`.
    pub direction: &'static str,
    /// Addresses that the outer header of tunnel mode repeats: `both`, `source`, `destination` or `none`; absent in transport
    /// mode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preserves: Option<&'static str>,
    /// Senders: network, and protocol and port where they matter.
    pub source: String,
    /// Receivers, likewise.
    pub destination: String,
    /// Is it used to send?
    pub sending: bool,
    /// Is its removal under way?
    pub leaving: bool,
    /// Seconds until it ends.
    pub remaining: u64,
    /// Plain packets protected.
    pub packets_sealed: u64,
    /// Octets of them.
    pub octets_sealed: u64,
    /// Dummy packets sent.
    pub dummies_sent: u64,
    /// Plain packets recovered.
    pub packets_opened: u64,
    /// Octets of them.
    pub octets_opened: u64,
    /// Octets of both ways together: of an SA that carries packets both ways, the kernel does not tell them apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub octets_both: Option<u64>,
    /// Highest sequence number sent.
    pub sequence: u32,
    /// Replay windows that were made; absent without replay protection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay_senders: Option<usize>,
    /// Its lifetime in octets; absent where only time ends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lifetime_octets: Option<u64>,
    /// Octets of that which are used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lifetime_used: Option<u64>,
    /// Are its sequence numbers, IVs or octets running out?
    pub needs_rekey: bool,
    /// Packets dropped that were its own, by reason; only reasons that there were.
    pub drops: BTreeMap<&'static str, u64>,
}

/// A line of the traffic policy: what it is about, and how it is protected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PolicyStatus {
    /// Senders: network, and protocol and port where they matter.
    pub source: String,
    /// Receivers, likewise.
    pub destination: String,
    /// `transport` or `tunnel`.
    pub mode: &'static str,
    /// Protection, for people.
    pub transform: String,
}

impl PolicyStatus {
    pub(crate) fn of(policy: &TrafficPolicy) -> Self {
        Self {
            source: side(&policy.source),
            destination: side(&policy.destination),
            mode: mode(policy.mode),
            transform: transform(policy.transform),
        }
    }
}

/// A SAD.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SadStatus {
    /// SAs, oldest first.
    pub sas: Vec<SaStatus>,
    /// This member's sender IDs.
    pub sender_ids: Vec<u32>,
    /// Is an SA running out of numbers or octets, and no other there to take its place?
    pub needs_rekey: bool,
    /// Packets dropped, by reason, whether an SA was theirs or not.
    pub drops: BTreeMap<&'static str, u64>,
    /// Of these, those that were no SA's; only reasons that there were.
    pub drops_without_sa: BTreeMap<&'static str, u64>,
    /// Of these, those of SAs that are gone; only reasons that there were.
    pub drops_of_ended_sas: BTreeMap<&'static str, u64>,
    /// Local rules, in the order in which they are tried.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<RuleStatus>,
    /// Packets that the group protects and that were sent in clear for want of keys, as was chosen.
    pub clear_without_keys: u64,
}

/// A local rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleStatus {
    /// `discard`, `bypass` or `bypass even if protected`.
    pub action: &'static str,
    /// `out`, `in` or `both`.
    pub direction: &'static str,
    /// Senders: network, and protocol and port where they matter.
    pub source: String,
    /// Receivers, likewise.
    pub destination: String,
    /// Packets that it has decided about.
    pub packets: u64,
    /// Octets of them.
    pub octets: u64,
}

impl RuleStatus {
    pub(crate) fn of(rule: &Rule, counted: &Traffic) -> Self {
        let (packets, octets) = counted.get();
        Self {
            action: rule.action.name(),
            direction: rule.way.name(),
            source: side(&rule.source),
            destination: side(&rule.destination),
            packets,
            octets,
        }
    }
}

impl SaStatus {
    pub(crate) fn of(sa: &Sa, direction: SaDirection, sending: bool, leaving: bool, remaining: Duration) -> Self {
        let (packets_sealed, octets_sealed) = sa.state.sealed.get();
        let (packets_opened, octets_opened) = sa.state.opened.get();
        let both = sa.state.octets_both.load(Ordering::Relaxed);
        let (sequence, needs_rekey) = sa.state.numbers.used(sa.is_counter_mode());
        Self {
            spi: format!("{:#010x}", sa.spi),
            mode: mode(sa.policy.mode),
            transform: transform(sa.policy.transform),
            cipher: sa.transform.library(),
            direction: match direction {
                SaDirection::Symmetric => "symmetric",
                SaDirection::SenderOnly => "sender-only",
                SaDirection::ReceiverOnly => "receiver-only",
            },
            preserves: (sa.policy.mode == EspMode::Tunnel).then_some(match sa.policy.preservation {
                AddressPreservation::Both => "both",
                AddressPreservation::Source => "source",
                AddressPreservation::Destination => "destination",
                AddressPreservation::None => "none",
            }),
            source: side(&sa.policy.source),
            destination: side(&sa.policy.destination),
            sending,
            leaving,
            remaining: remaining.as_secs(),
            packets_sealed,
            octets_sealed,
            dummies_sent: sa.state.dummies(),
            packets_opened,
            octets_opened,
            octets_both: (both > 0).then_some(both),
            sequence,
            replay_senders: sa.state.windows.as_ref().map(|windows| windows.senders()),
            lifetime_octets: sa.policy.lifetime_octets,
            lifetime_used: sa.policy.lifetime_octets.map(|_| sa.state.used.get()),
            needs_rekey: needs_rekey || sa.is_running_out(),
            drops: sa.state.drops.counted(),
        }
    }
}

fn mode(mode: EspMode) -> &'static str {
    match mode {
        EspMode::Transport => "transport",
        EspMode::Tunnel => "tunnel",
    }
}

fn transform(transform: EspTransform) -> String {
    match transform {
        EspTransform::Aead(aead) => format!("{aead:?}"),
        EspTransform::Gmac(aead) => format!("{aead:?} for authentication alone"),
        EspTransform::CbcHmac(cipher, integrity) => format!("{cipher:?}, {integrity:?}"),
        EspTransform::CtrHmac(cipher, integrity) => format!("{cipher:?}, {integrity:?}"),
        EspTransform::NullHmac(integrity) => format!("{integrity:?} for authentication alone"),
    }
}

fn side(selector: &Selector) -> String {
    let mut text = format!("{}/{}", selector.address, selector.prefix);
    if selector.protocol != 0 {
        text += &format!(" {}", protocol::name(selector.protocol));
    }
    if selector.port != 0 {
        text += &format!(" port {}", selector.port);
    }
    text
}
