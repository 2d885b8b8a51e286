//! Redirects of IKEv2 (RFC 5685): where a gateway sends members, and which of its key servers a member follows to.

use std::time::Duration;

use keyferry_model::id::Protocol;
use keyferry_model::key_server::KeyServer;
use keyferry_model::redirect::{Following, GatewayName, Redirect, RedirectWhen};

use super::section::Section;

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

const WHEN: [(&str, RedirectWhen); 3] =
    [("command", RedirectWhen::Command), ("full", RedirectWhen::Full), ("always", RedirectWhen::Always)];

/// `[gateway.redirect]`.
pub(super) fn gateway(section: &mut Section<'_>) -> Option<Redirect> {
    let mut section = section.section("redirect")?;
    if !section.has("to") {
        section.error("to", "is missing", "add to = \"192.0.2.2\", or a list of gateways");
    }
    let to: Vec<GatewayName> = section.parsed_list("to", "192.0.2.2").unwrap_or_default();
    let unreachable = |name: &GatewayName| match name {
        GatewayName::Address(ip) => ip.is_multicast() || ip.is_unspecified(),
        GatewayName::Fqdn(_) => false,
    };
    if to.iter().any(unreachable) {
        section.error("to", "is no address that can be reached", "write the other gateway's own address");
    }
    let when = section.choice("when", &WHEN, RedirectWhen::Command);
    let limited = section.named_key("above");
    let above = section.number("above", 1..=100_000, 10_000);
    if limited && when != RedirectWhen::Full {
        section.error("above", "counts only when the gateway is full", "add when = \"full\", or remove it");
    }
    let redirect = Redirect {
        when,
        above: usize::try_from(above).unwrap_or(usize::MAX),
        members: section.parsed_list("members", "10.0.0.1").unwrap_or_default(),
        patience: section.duration("patience", SECOND..=DAY, 60 * SECOND),
        to,
    };
    section.finish();
    (!redirect.to.is_empty()).then_some(redirect)
}

/// How a member follows, if it does. The key servers are those that it turns to by itself, and those that it is only sent to.
pub(super) fn member(
    section: &mut Section<'_>,
    protocol: Protocol,
    (gateways, reserve): (&[KeyServer], &[KeyServer]),
) -> Option<Following> {
    let follows = section.flag("follow_redirects", false);
    let usual = Following::default();
    let most = section.number("max_redirects", 1..=100, u32::try_from(usual.most).unwrap_or(u32::MAX));
    let period = section.duration("redirect_period", SECOND..=DAY, usual.period);
    if follows && protocol == Protocol::Gdoi {
        section.error("follow_redirects", "GDOI has none", "remove it, or write protocol = \"gikev2\"");
    }
    if follows && gateways.len() + reserve.len() < 2 {
        let what = "there is no other key server to be sent to";
        section.error("follow_redirects", what, "name it in gateway, or in redirect_gateway");
    }
    if !follows && !reserve.is_empty() {
        section.error("redirect_gateway", "nobody is sent there", "add follow_redirects = true");
    }
    follows.then_some(Following { most: usize::try_from(most).unwrap_or(usize::MAX), period })
}
