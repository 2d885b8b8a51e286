//! IKE_SA_INIT messages, and what goes with them: NAT detection, plain notifies (RFC 7296 sections 1.2, 2.21 and 2.23).

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use keyferry_crypto::Hash;
use keyferry_wire::{ChainWriter, Encode, Header};

use crate::wire::ke::Ke;
use crate::wire::message::Payloads;
use crate::wire::nonce::Nonce;
use crate::wire::notify::Notify;
use crate::wire::registry::{ExchangeType, NotifyType, PayloadKind, ProtocolId, flags};
use crate::wire::sa::Sa;

/// Octets of our nonces: half the key size of every PRF we speak, and more (RFC 7296 section 2.10).
pub(crate) const NONCE_LEN: usize = 32;

/// Header of a bare message.
pub(crate) fn header(exchange: ExchangeType, spi_i: [u8; 8], spi_r: [u8; 8], flags: u8, message_id: u32) -> Header {
    Header { spi_i, spi_r, next: 0, major: 2, minor: 0, exchange: exchange.0, flags, message_id }
}

/// A bare message. Ours are far below the length where a payload does not fit.
pub(crate) fn bare(header: Header, chain: ChainWriter) -> Vec<u8> {
    let (first, body) = chain.finish().unwrap_or_default();
    Header { next: first, ..header }.encode(&body)
}

/// Parts of an IKE_SA_INIT message.
pub(crate) struct Parts<'a> {
    pub(crate) spi_i: [u8; 8],
    pub(crate) spi_r: [u8; 8],
    pub(crate) sa: &'a Sa<'a>,
    pub(crate) ke_method: u16,
    pub(crate) public: &'a [u8],
    pub(crate) nonce: &'a [u8],
    /// Sender and receiver of the message.
    pub(crate) path: (SocketAddr, SocketAddr),
    /// What the sender can do: notifies without data.
    pub(crate) abilities: &'a [NotifyType],
    /// About authentication by certificate: SIGNATURE_HASH_ALGORITHMS of ours, and in a response the body of CERTREQ.
    pub(crate) announcement: Option<Notify<'a>>,
    pub(crate) certificates: Option<Vec<u8>>,
    /// In a request: the gateway that sent its sender here (RFC 5685 section 9.3).
    pub(crate) redirected_from: Option<Notify<'a>>,
}

/// An IKE_SA_INIT request: `[N(COOKIE)], SA, KE, Ni, N(NAT_DETECTION_*), N(SIGNATURE_HASH_ALGORITHMS)`, abilities.
pub(crate) fn request(parts: &Parts<'_>, cookie: Option<&[u8]>) -> Vec<u8> {
    let mut chain = ChainWriter::new();
    if let Some(cookie) = cookie {
        chain.push(PayloadKind::NOTIFY.0, &Notify::new(NotifyType::COOKIE, cookie).to_vec());
    }
    body(parts, &mut chain);
    let header = header(ExchangeType::IKE_SA_INIT, parts.spi_i, [0; 8], flags::INITIATOR, 0);
    bare(header, chain)
}

/// An IKE_SA_INIT response that accepts: `SA, KE, Nr, [CERTREQ,] N(NAT_DETECTION_*), [N(SIGNATURE_HASH_ALGORITHMS),]
/// N(CHILDLESS_IKEV2_SUPPORTED)`.
pub(crate) fn response(parts: &Parts<'_>) -> Vec<u8> {
    let mut chain = ChainWriter::new();
    body(parts, &mut chain);
    let childless = Notify { protocol: ProtocolId::IKE, ..Notify::bare(NotifyType::CHILDLESS_IKEV2_SUPPORTED) };
    chain.push(PayloadKind::NOTIFY.0, &childless.to_vec());
    let header = header(ExchangeType::IKE_SA_INIT, parts.spi_i, parts.spi_r, flags::RESPONSE, 0);
    bare(header, chain)
}

/// Parts of an IKE_SESSION_RESUME request.
pub(crate) struct ResumeParts<'a> {
    pub(crate) spi_i: [u8; 8],
    pub(crate) nonce: &'a [u8],
    pub(crate) ticket: &'a [u8],
    /// Sender and receiver of the message.
    pub(crate) path: (SocketAddr, SocketAddr),
    /// What the sender can do: notifies without data.
    pub(crate) abilities: &'a [NotifyType],
}

/// An IKE_SESSION_RESUME request: `[N(COOKIE)], Ni, N(TICKET_OPAQUE), N(NAT_DETECTION_*)`, abilities (RFC 5723 section 4.3.2).
pub(crate) fn resume_request(parts: &ResumeParts<'_>, cookie: Option<&[u8]>) -> Vec<u8> {
    let mut chain = ChainWriter::new();
    if let Some(cookie) = cookie {
        chain.push(PayloadKind::NOTIFY.0, &Notify::new(NotifyType::COOKIE, cookie).to_vec());
    }
    chain.push(PayloadKind::NONCE.0, &Nonce(Cow::Borrowed(parts.nonce)).to_vec());
    chain.push(PayloadKind::NOTIFY.0, &Notify::new(NotifyType::TICKET_OPAQUE, parts.ticket).to_vec());
    notifies((&parts.spi_i, &[0; 8]), parts.path, parts.abilities, &mut chain);
    bare(header(ExchangeType::IKE_SESSION_RESUME, parts.spi_i, [0; 8], flags::INITIATOR, 0), chain)
}

/// An IKE_SESSION_RESUME response that accepts: `Nr, N(NAT_DETECTION_*)`, abilities.
pub(crate) fn resume_response(
    (spi_i, spi_r): ([u8; 8], [u8; 8]),
    nonce: &[u8],
    path: (SocketAddr, SocketAddr),
    abilities: &[NotifyType],
) -> Vec<u8> {
    let mut chain = ChainWriter::new();
    chain.push(PayloadKind::NONCE.0, &Nonce(Cow::Borrowed(nonce)).to_vec());
    notifies((&spi_i, &spi_r), path, abilities, &mut chain);
    bare(header(ExchangeType::IKE_SESSION_RESUME, spi_i, spi_r, flags::RESPONSE, 0), chain)
}

/// `N(NAT_DETECTION_*)`, and what the sender can do.
fn notifies(
    (spi_i, spi_r): (&[u8; 8], &[u8; 8]),
    path: (SocketAddr, SocketAddr),
    abilities: &[NotifyType],
    chain: &mut ChainWriter,
) {
    nat_detection((spi_i, spi_r), path, chain);
    for ability in abilities {
        chain.push(PayloadKind::NOTIFY.0, &Notify::bare(*ability).to_vec());
    }
}

fn nat_detection((spi_i, spi_r): (&[u8; 8], &[u8; 8]), path: (SocketAddr, SocketAddr), chain: &mut ChainWriter) {
    let ends = [(NotifyType::NAT_DETECTION_SOURCE_IP, path.0), (NotifyType::NAT_DETECTION_DESTINATION_IP, path.1)];
    for (kind, end) in ends {
        chain.push(PayloadKind::NOTIFY.0, &Notify::new(kind, nat_hash(spi_i, spi_r, end)).to_vec());
    }
}

fn body(parts: &Parts<'_>, chain: &mut ChainWriter) {
    chain.push(PayloadKind::SA.0, &parts.sa.to_vec());
    chain.push(PayloadKind::KE.0, &Ke { method: parts.ke_method, data: Cow::Borrowed(parts.public) }.to_vec());
    chain.push(PayloadKind::NONCE.0, &Nonce(Cow::Borrowed(parts.nonce)).to_vec());
    if let Some(certificates) = &parts.certificates {
        chain.push(PayloadKind::CERTREQ.0, certificates);
    }
    nat_detection((&parts.spi_i, &parts.spi_r), parts.path, chain);
    if let Some(announcement) = &parts.announcement {
        chain.push(PayloadKind::NOTIFY.0, &announcement.to_vec());
    }
    if let Some(from) = &parts.redirected_from {
        chain.push(PayloadKind::NOTIFY.0, &from.to_vec());
    }
    for ability in parts.abilities {
        chain.push(PayloadKind::NOTIFY.0, &Notify::bare(*ability).to_vec());
    }
}

/// A response to an unprotected request that says no.
pub(crate) fn refusal(request: &Header, notify: &Notify<'_>) -> Vec<u8> {
    let mut chain = ChainWriter::new();
    chain.push(PayloadKind::NOTIFY.0, &notify.to_vec());
    let flags = flags::RESPONSE | if request.flags & flags::INITIATOR == 0 { flags::INITIATOR } else { 0 };
    bare(header(ExchangeType(request.exchange), request.spi_i, request.spi_r, flags, request.message_id), chain)
}

/// SHA-1 of SPIs, address and port: it hides addresses from nobody, it only shows that they changed on the way.
fn nat_hash(spi_i: &[u8; 8], spi_r: &[u8; 8], end: SocketAddr) -> Vec<u8> {
    let port = end.port().to_be_bytes();
    match end.ip() {
        IpAddr::V4(a) => Hash::Sha1.digest(&[spi_i, spi_r, &a.octets(), &port]),
        IpAddr::V6(a) => Hash::Sha1.digest(&[spi_i, spi_r, &a.octets(), &port]),
    }
}

/// Which ends have a NAT in front of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Nat {
    pub(crate) sender: bool,
    pub(crate) receiver: bool,
}

impl Nat {
    pub(crate) fn is_there(self) -> bool {
        self.sender || self.receiver
    }
}

/// Where does a NAT stand, by what the sender said of the path `(sender, receiver)`? Without the notifies nothing is known,
/// and none is assumed.
pub(crate) fn nat_found(
    payloads: &Payloads<'_>,
    spi_i: &[u8; 8],
    spi_r: &[u8; 8],
    path: (SocketAddr, SocketAddr),
) -> Nat {
    let differs = |kind, end| {
        let hash = nat_hash(spi_i, spi_r, end);
        let mut said = payloads.notifies.iter().filter(|n| n.kind == kind).peekable();
        // A sender with several addresses may send several hashes; one that fits is enough.
        said.peek().is_some() && said.all(|n| n.data.as_ref() != hash)
    };
    Nat {
        sender: differs(NotifyType::NAT_DETECTION_SOURCE_IP, path.0),
        receiver: differs(NotifyType::NAT_DETECTION_DESTINATION_IP, path.1),
    }
}
