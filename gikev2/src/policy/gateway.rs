//! Other gateways, as redirects name them (RFC 5685 sections 9.2 and 9.3).

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use keyferry_model::redirect::GatewayName;
use keyferry_wire::{Decode, Encode};

use crate::reject::Reject;
use crate::wire::message::Payloads;
use crate::wire::notify::Notify;
use crate::wire::redirect::{GatewayId, Redirect};
use crate::wire::registry::{GatewayIdType, NotifyType};

/// N(REDIRECT); the nonce is empty outside of IKE_SA_INIT.
pub(crate) fn redirect(to: &GatewayName, nonce: &[u8]) -> Notify<'static> {
    let redirect = Redirect { to: gateway_to_wire(to), nonce: Cow::Borrowed(nonce) };
    Notify::new(NotifyType::REDIRECT, redirect.to_vec())
}

/// N(REDIRECTED_FROM).
pub(crate) fn redirected_from(gateway: IpAddr) -> Notify<'static> {
    Notify::new(NotifyType::REDIRECTED_FROM, gateway_to_wire(&GatewayName::Address(gateway)).to_vec())
}

/// The gateway that N(REDIRECTED_FROM) tells, if it is there and sound. Only addresses are valid in it.
pub(crate) fn who_redirected(payloads: &Payloads<'_>) -> Option<IpAddr> {
    let id = GatewayId::exact(&payloads.notify(NotifyType::REDIRECTED_FROM)?.data).ok()?;
    match gateway_from_wire(&id) {
        Some(GatewayName::Address(ip)) => Some(ip),
        Some(GatewayName::Fqdn(_)) | None => None,
    }
}

/// Where N(REDIRECT) sends us, if it is there; with the nonce in a response to IKE_SA_INIT, elsewhere without.
pub(crate) fn redirected(payloads: &Payloads<'_>, nonce: &[u8]) -> Result<Option<GatewayName>, Reject> {
    let Some(notify) = payloads.notify(NotifyType::REDIRECT) else { return Ok(None) };
    let redirect = Redirect::exact(&notify.data)?;
    if redirect.nonce.as_ref() != nonce {
        return Err(Reject::Unauthenticated("a redirect with another nonce"));
    }
    gateway_from_wire(&redirect.to).map(Some).ok_or(Reject::Malformed("no gateway that can be named so"))
}

fn gateway_to_wire(name: &GatewayName) -> GatewayId<'_> {
    let (kind, data): (_, Cow<'_, [u8]>) = match name {
        GatewayName::Address(IpAddr::V4(a)) => (GatewayIdType::IPV4, Cow::Owned(a.octets().to_vec())),
        GatewayName::Address(IpAddr::V6(a)) => (GatewayIdType::IPV6, Cow::Owned(a.octets().to_vec())),
        GatewayName::Fqdn(name) => (GatewayIdType::FQDN, Cow::Borrowed(name.as_bytes())),
    };
    GatewayId { kind, data }
}

fn gateway_from_wire(id: &GatewayId<'_>) -> Option<GatewayName> {
    let address = |ip: IpAddr| GatewayName::Address(ip);
    match id.kind {
        GatewayIdType::IPV4 => <[u8; 4]>::try_from(id.data.as_ref()).ok().map(|a| address(Ipv4Addr::from(a).into())),
        GatewayIdType::IPV6 => <[u8; 16]>::try_from(id.data.as_ref()).ok().map(|a| address(Ipv6Addr::from(a).into())),
        GatewayIdType::FQDN => std::str::from_utf8(&id.data).ok().and_then(GatewayName::fqdn),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn gateways_survive_the_wire() {
        for text in ["192.0.2.1", "2001:db8::1", "fqdn:gw2.example.org"] {
            let name: GatewayName = text.parse().unwrap();
            assert_eq!(gateway_from_wire(&gateway_to_wire(&name)), Some(name), "{text}");
        }
    }

    #[test]
    fn what_names_no_gateway_is_refused() {
        let id = |kind, data: &[u8]| GatewayId { kind: GatewayIdType(kind), data: data.to_vec().into() };
        let none = [id(0, b"a"), id(4, b"a"), id(1, &[1; 5]), id(1, &[]), id(2, &[1; 4]), id(3, b""), id(3, b"a\0b")];
        for id in none.into_iter().chain([id(3, &[0xff; 3]), id(3, &[b'a'; 255])]) {
            assert_eq!(gateway_from_wire(&id), None, "{id:?}");
        }
    }
}
