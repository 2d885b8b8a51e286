//! An IKE SA with its keys: seals what we send, opens what the peer sent.

use std::time::Duration;

use keyferry_crypto::{CryptoError, Random, Secret};
use keyferry_wire::{ChainWriter, Header};

use super::keymat::{IkeKeys, key_wrap_key, stir};
use super::reassembly::Reassembly;
use super::{Role, Suite};
use crate::algorithms::KeyWrap;
use crate::keylog::{KeyLog, protected_line};
use crate::reject::Reject;
use crate::wire::registry::{ExchangeType, flags};
use crate::wire::sk::{Fragment, Opened, SealError, SkKeys};

/// Keys and SPIs of an IKE SA.
pub(crate) struct IkeSa {
    pub(crate) spi_i: [u8; 8],
    pub(crate) spi_r: [u8; 8],
    pub(crate) suite: Suite,
    role: Role,
    outgoing: SkKeys,
    incoming: SkKeys,
    derive: Secret,
    wrap: Option<Secret>,
    /// The IV of the next message in a counter mode. It starts anywhere and counts up, so it never repeats.
    next_iv: u64,
    /// The most octets of a datagram, if the peer takes fragments.
    limit: Option<usize>,
    /// Fragments of the peer's request and of its response.
    parts: [Reassembly; 2],
    /// It is to get new keys before anything of groups goes over it.
    early: bool,
}

/// A request or a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Request,
    Response,
}

impl IkeSa {
    /// Takes the keys into use; SK_pi and SK_pr stay with whoever authenticates.
    pub(crate) fn new(
        role: Role,
        suite: Suite,
        spi_i: [u8; 8],
        spi_r: [u8; 8],
        keys: IkeKeys,
        rng: &mut dyn Random,
        log: Option<&mut (dyn KeyLog + Send)>,
    ) -> Result<(Self, (Secret, Secret)), CryptoError> {
        let IkeKeys { initiator, responder, proof, derive, wrap } = keys;
        if let Some(log) = log
            && let Some(line) = protected_line(suite.protection, &spi_i, &spi_r, &initiator, &responder)
        {
            log.log(crate::keylog::TABLE, &line);
        }
        let of_initiator = SkKeys::new(suite.protection, initiator.0.expose(), initiator.1.expose())?;
        let of_responder = SkKeys::new(suite.protection, responder.0.expose(), responder.1.expose())?;
        let (outgoing, incoming) = match role {
            Role::Initiator => (of_initiator, of_responder),
            Role::Responder => (of_responder, of_initiator),
        };
        Ok((
            Self {
                spi_i,
                spi_r,
                suite,
                role,
                outgoing,
                incoming,
                derive,
                wrap,
                next_iv: rng.u64(),
                limit: None,
                parts: Default::default(),
                early: false,
            },
            proof,
        ))
    }

    /// The IV that the next message will have, if it has one of a counter mode.
    pub(crate) fn next_iv(&self) -> u64 {
        self.next_iv
    }

    /// Goes on where another object with the same keys stopped.
    pub(crate) fn continue_at(&mut self, next_iv: u64) {
        self.next_iv = next_iv;
    }

    /// The default key wrap key and its algorithm, if one was negotiated.
    pub(crate) fn key_wrap(&self) -> Option<(KeyWrap, &Secret)> {
        self.suite.key_wrap.zip(self.wrap.as_ref())
    }

    /// Stirs a postquantum preshared key into SK_d, and so into the default key wrap key and all that comes of them
    /// (RFC 8784 section 3). Where new keys come before registrations it says so from now on.
    pub(crate) fn stir(&mut self, ppk: &Secret, renew: bool) {
        self.early = renew;
        let prf = self.suite.prf;
        self.derive = stir(prf, ppk, &self.derive);
        self.wrap = self.suite.key_wrap.map(|k| key_wrap_key(prf, &self.derive, k.key_len()));
    }

    /// Is it to get new keys before anything of groups goes over it?
    pub(crate) fn is_early(&self) -> bool {
        self.early
    }

    /// SK_d.
    pub(crate) fn derive(&self) -> &Secret {
        &self.derive
    }

    /// Our SPI.
    pub(crate) fn own_spi(&self) -> [u8; 8] {
        match self.role {
            Role::Initiator => self.spi_i,
            Role::Responder => self.spi_r,
        }
    }

    /// The peer's SPI.
    pub(crate) fn peer_spi(&self) -> [u8; 8] {
        match self.role {
            Role::Initiator => self.spi_r,
            Role::Responder => self.spi_i,
        }
    }

    /// A protected message.
    pub(crate) fn seal(
        &mut self,
        exchange: ExchangeType,
        direction: Direction,
        message_id: u32,
        chain: ChainWriter,
        rng: &mut dyn Random,
    ) -> Result<Vec<u8>, SealError> {
        let (first, inner) = chain.finish().map_err(|_| SealError::TooLong)?;
        let mut bits = match self.role {
            Role::Initiator => flags::INITIATOR,
            Role::Responder => 0,
        };
        if direction == Direction::Response {
            bits |= flags::RESPONSE;
        }
        let header = super::init::header(exchange, self.spi_i, self.spi_r, bits, message_id);
        let inner = Secret::new(inner);
        // An IKE SA has at most 2^33 message IDs of a few fragments, so this never comes round.
        let limit = self.limit.unwrap_or(usize::MAX);
        let (message, next) = self.outgoing.seal_within(limit, &header, first, inner.expose(), self.next_iv, rng)?;
        self.next_iv = next;
        Ok(message)
    }

    /// The peer takes fragments: what we send has at most so many octets in a datagram.
    pub(crate) fn set_limit(&mut self, limit: Option<usize>) {
        self.limit = limit;
    }

    pub(crate) fn limit(&self) -> Option<usize> {
        self.limit
    }

    /// Takes a fragment of a message that may have so many octets; returns the message when it is whole.
    pub(crate) fn take_fragment(
        &mut self,
        datagram: &[u8],
        most: usize,
        now: Duration,
    ) -> Result<Option<Vec<u8>>, Reject> {
        let fragment = Fragment::of(datagram).ok_or(Reject::Malformed("no fragment"))?;
        if self.limit.is_none() {
            return Err(Reject::Misbehaved("fragments were not announced"));
        }
        let (header, _) = Header::decode(datagram)?;
        let parts = &mut self.parts[usize::from(header.flags & flags::RESPONSE != 0)];
        let incoming = &self.incoming;
        parts.take((header.message_id, fragment), datagram, most, now, || incoming.open_part(datagram).map(|_| ()))
    }

    /// Octets of fragments that wait for their rest.
    pub(crate) fn fragments(&self) -> usize {
        self.parts.iter().map(Reassembly::octets).sum()
    }

    /// Throws them away: the peer sends all of them again.
    pub(crate) fn drop_fragments(&mut self) {
        self.parts = Default::default();
    }

    /// Verifies and decrypts a message of the peer.
    pub(crate) fn open(&self, datagram: &[u8]) -> Result<Opened, Reject> {
        let opened = self.incoming.open(datagram)?;
        match opened.header.flags & flags::INITIATOR == 0 {
            from_responder if from_responder == (self.role == Role::Initiator) => Ok(opened),
            _ => Err(Reject::Malformed("the initiator flag contradicts the SPIs")),
        }
    }

    /// From now on nothing can be sealed.
    #[cfg(test)]
    #[allow(clippy::unwrap_used)]
    pub(crate) fn fail_for_test(&mut self) {
        self.outgoing = SkKeys::useless().unwrap();
    }

    /// Is this a message to us over this SA, by its SPIs and by which end it says it comes from?
    pub(crate) fn is_named_by(&self, header: &Header) -> bool {
        let from_initiator = header.flags & flags::INITIATOR != 0;
        let to_us = from_initiator == (self.role == Role::Responder);
        to_us && header.spi_i == self.spi_i && header.spi_r == self.spi_r
    }
}
