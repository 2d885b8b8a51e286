//! Sending members to other gateways, and following (RFC 5685). Only IKEv2 can do that.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use crate::id::Identity;

/// What another gateway is called in a redirect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GatewayName {
    /// By its address.
    Address(IpAddr),
    /// By its name, which nobody here resolves: a member knows the address that belongs to it, or does not follow.
    Fqdn(String),
}

/// The longest name of a host (RFC 1035 section 2.3.4).
const MAX_NAME: usize = 253;

impl GatewayName {
    /// A name of a host, if it is one: printable, without spaces, not too long.
    #[must_use]
    pub fn fqdn(name: &str) -> Option<Self> {
        let fits = !name.is_empty() && name.len() <= MAX_NAME && name.bytes().all(|b| b.is_ascii_graphic());
        fits.then(|| GatewayName::Fqdn(name.to_owned()))
    }

    /// Is it this key server?
    #[must_use]
    pub fn names(&self, address: IpAddr, identity: Option<&Identity>) -> bool {
        match (self, identity) {
            (GatewayName::Address(ip), _) => *ip == address,
            (GatewayName::Fqdn(name), Some(Identity::Fqdn(known))) => name.eq_ignore_ascii_case(known),
            (GatewayName::Fqdn(_), _) => false,
        }
    }
}

impl fmt::Display for GatewayName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GatewayName::Address(ip) => ip.fmt(f),
            GatewayName::Fqdn(name) => write!(f, "fqdn:{name}"),
        }
    }
}

impl FromStr for GatewayName {
    type Err = &'static str;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        if let Ok(ip) = s.parse() {
            return Ok(GatewayName::Address(ip));
        }
        s.strip_prefix("fqdn:").and_then(GatewayName::fqdn).ok_or("a gateway is an address or fqdn:NAME")
    }
}

/// When a gateway sends members away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RedirectWhen {
    /// When the operator says so.
    #[default]
    Command,
    /// Newcomers while there are [`Redirect::above`] IKE SAs, too.
    Full,
    /// Always.
    Always,
}

/// Where and when a gateway sends members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// The other gateways; members are spread over them.
    pub to: Vec<GatewayName>,
    /// When.
    pub when: RedirectWhen,
    /// So many IKE SAs are enough for [`RedirectWhen::Full`].
    pub above: usize,
    /// These members are sent there whenever they authenticate, and not before: nobody else learns who is served where
    /// (RFC 5685 section 11).
    pub members: Vec<Identity>,
    /// A member that was sent away has so long before its IKE SA is deleted (RFC 5685 section 5).
    pub patience: Duration,
}

/// How a member follows. Only to key servers that its configuration names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Following {
    /// At most so many times (MAX_REDIRECTS of RFC 5685 section 7)
    pub most: usize,
    /// within this time (REDIRECT_LOOP_DETECT_PERIOD).
    pub period: Duration,
}

impl Default for Following {
    /// Five times in 300 seconds (RFC 5685 section 7).
    fn default() -> Self {
        Self { most: 5, period: Duration::from_secs(300) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn gateways_survive_their_text_form() {
        for text in ["192.0.2.1", "2001:db8::1", "fqdn:gw2.example.org"] {
            assert_eq!(text.parse::<GatewayName>().unwrap().to_string(), text);
        }
        let long = format!("fqdn:{}", "a".repeat(MAX_NAME + 1));
        for text in ["gw2.example.org", "fqdn:", "fqdn:a b", "fqdn:\u{e4}.example", "", long.as_str()] {
            assert!(text.parse::<GatewayName>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_name_is_that_of_an_identity() {
        let (ip, identity) = (IpAddr::from([192, 0, 2, 1]), Identity::Fqdn("gw1.example".into()));
        let name = GatewayName::Fqdn("GW1.example".into());
        assert!(name.names(ip, Some(&identity)));
        assert!(!name.names(ip, None) && !name.names(ip, Some(&Identity::from_ip(ip))));
        assert!(GatewayName::Address(ip).names(ip, Some(&identity)));
        assert!(!GatewayName::Address([192, 0, 2, 2].into()).names(ip, Some(&identity)));
    }
}
