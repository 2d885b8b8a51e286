//! What a gateway and a member are told about the life of IKEv1's phase 1 and of IKE SAs.

use std::time::Duration;

use gdoi::{Dpd, NAT_PORT, Phase1Doi, Phase1Options};
use gikev2::IkeOptions;

use super::section::Section;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// Phase 1 at a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatewayLife {
    /// The longest life of a phase 1 SA.
    pub lifetime: Duration,
    /// When silent members are asked whether they are alive.
    pub dpd: Option<Dpd>,
    /// The longest IP packet before messages are cut up.
    pub fragment_size: usize,
    /// How IKE SAs are kept.
    pub ike: IkeOptions,
}

const PHASE1_DOIS: [(&str, Phase1Doi); 3] =
    [("gdoi", Phase1Doi::Gdoi), ("ipsec", Phase1Doi::Ipsec), ("isakmp", Phase1Doi::Isakmp)];

pub(super) fn gateway(section: &mut Section<'_>) -> GatewayLife {
    let fragment_size = fragment_size(section);
    GatewayLife {
        lifetime: section.duration("phase1_lifetime", 60 * SECOND..=7 * DAY, DAY),
        dpd: dpd(section, Duration::ZERO),
        fragment_size,
        ike: ike(section, fragment_size),
    }
}

pub(super) fn member(section: &mut Section<'_>) -> Phase1Options {
    Phase1Options {
        doi: section.choice("phase1_doi", &PHASE1_DOIS, Phase1Doi::Gdoi),
        lifetime: section.duration("phase1_lifetime", 60 * SECOND..=7 * DAY, DAY),
        keep: section.flag("keep_phase1", false),
        dpd: dpd(section, 30 * SECOND),
        fragment_size: fragment_size(section),
        nat_port: section.flag("nat_traversal", true).then_some(NAT_PORT),
        nat_keepalive: section.duration("nat_keepalive", SECOND..=HOUR, 20 * SECOND),
    }
}

/// The same for a member, whose way through NATs is that of both protocols.
pub(super) fn member_ike(section: &mut Section<'_>, life: &Phase1Options) -> IkeOptions {
    IkeOptions { nat_port: life.nat_port, nat_keepalive: life.nat_keepalive, ..ike(section, life.fragment_size) }
}

/// How IKE SAs are kept; a liveness of zero asks nobody. The bound on packets is that of phase 1.
fn ike(section: &mut Section<'_>, fragment_size: usize) -> IkeOptions {
    let liveness = section.duration("ike_liveness", Duration::ZERO..=HOUR, Duration::ZERO);
    if !liveness.is_zero() && liveness < SECOND {
        section.error("ike_liveness", "is too short", "at least 1s, or 0s to ask nobody");
    }
    IkeOptions {
        lifetime: section.duration("ike_lifetime", 60 * SECOND..=7 * DAY, 8 * HOUR),
        liveness: (!liveness.is_zero()).then_some(liveness),
        fragment_size,
        ..IkeOptions::default()
    }
}

/// The longest life of tickets of IKEv2; zero gives none.
pub(super) fn ticket_lifetime(section: &mut Section<'_>) -> Option<Duration> {
    let lifetime = section.duration("ticket_lifetime", Duration::ZERO..=DAY, Duration::ZERO);
    if !lifetime.is_zero() && lifetime < 60 * SECOND {
        section.error("ticket_lifetime", "is too short", "at least 1m, or 0s to give no tickets");
    }
    (!lifetime.is_zero()).then_some(lifetime)
}

/// An interval of zero asks nobody.
fn dpd(section: &mut Section<'_>, default: Duration) -> Option<Dpd> {
    let interval = section.duration("dpd", Duration::ZERO..=HOUR, default);
    let retry = section.duration("dpd_retry", SECOND..=60 * SECOND, 4 * SECOND);
    let tries = u8::try_from(section.number("dpd_tries", 1..=20, 5)).unwrap_or(5);
    if !interval.is_zero() && interval < SECOND {
        section.error("dpd", "is too short", "at least 1s, or 0s to ask nobody");
    }
    (!interval.is_zero()).then_some(Dpd { interval, retry, tries })
}

pub(super) fn fragment_size(section: &mut Section<'_>) -> usize {
    usize::try_from(section.number("fragment_size", 576..=65_535, 1280)).unwrap_or(1280)
}
