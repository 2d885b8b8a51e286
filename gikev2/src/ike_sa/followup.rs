//! Additional key exchanges for the new keys of an IKE SA (RFC 9370 section 2.2.4).
//!
//! ```text
//!  CREATE_CHILD_SA   HDR, SK{SA, Ni, KEi}       -->
//!                                               <--  HDR, SK{SA, Nr, KEr, N(ADDITIONAL_KEY_EXCHANGE)(link 1)}
//!  IKE_FOLLOWUP_KE   HDR, SK{KEi(1), N(link 1)} -->
//!                                               <--  HDR, SK{KEr(1), N(link 2)}
//!  IKE_FOLLOWUP_KE   HDR, SK{KEi(2), N(link 2)} -->
//!                                               <--  HDR, SK{KEr(2)}
//! ```
//!
//! All of it goes over the old SA, and the new one begins with the last answer. A link is the responder's to make and to know
//! again; who asked sends it back as it is. One series may be under way each way.

use std::borrow::Cow;
use std::time::Duration;

use keyferry_crypto::{CryptoError, KeGroup, Random, Secret};
use keyferry_wire::{ChainWriter, Encode};

use super::rekey::{Accepted, Made, Proposed, Request};
use super::sa::IkeSa;
use crate::algorithms::ke_number;
use crate::keylog::KeyLog;
use crate::reject::Reject;
use crate::wire::ke::Ke;
use crate::wire::message::Payloads;
use crate::wire::notify::Notify;
use crate::wire::registry::{NotifyType, PayloadKind};
use crate::wire::rules;
use crate::wire::sk::Opened;

/// The next request of a series is awaited for so long: the longest time that RFC 9370 section 2.2.4 finds appropriate.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// Octets of a link of ours. It need not be hard to guess: only the peer can send one.
const LINK_LEN: usize = 8;

/// A series that we have begun: CREATE_CHILD_SA has been answered.
pub(crate) struct Following {
    proposed: Proposed,
    accepted: Accepted,
    /// Of the key exchanges so far.
    shared: Vec<Secret>,
}

/// Why a series goes no further.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The peer does not know of it any more.
    #[error("the peer has lost track")]
    Forgotten,
    /// Not now.
    #[error("the peer puts us off")]
    Later,
    /// The peer refuses.
    #[error("refused: {0:?}")]
    Refused(NotifyType),
    /// The peer has given the IKE SA up.
    #[error("the peer has given the IKE SA up")]
    Ended,
    /// What the peer answers makes no sense; it may have a new SA now that we have no keys for.
    #[error("{0}")]
    Broken(Reject),
}

impl Following {
    pub(crate) fn new(proposed: Proposed, accepted: Accepted) -> Self {
        Self { proposed, accepted, shared: Vec::new() }
    }

    /// Do key exchanges follow the first?
    pub(crate) fn is_series(&self) -> bool {
        self.accepted.suite().further().next().is_some()
    }

    /// The peer's public value in CREATE_CHILD_SA.
    pub(crate) fn first_public(&self) -> &[u8] {
        &self.accepted.public
    }

    /// Is the exchange that has been answered followed by another one?
    pub(crate) fn goes_on(&self) -> bool {
        self.shared.len() < self.accepted.suite().further().count()
    }

    /// The secret of the exchange that has been answered. What method follows?
    pub(crate) fn agreed(&mut self, shared: Secret) -> Option<KeGroup> {
        let next = self.accepted.suite().further().nth(self.shared.len());
        self.shared.push(shared);
        next
    }

    /// The method of the exchange under way; none in CREATE_CHILD_SA.
    fn method(&self) -> Option<KeGroup> {
        self.shared.len().checked_sub(1).and_then(|at| self.accepted.suite().further().nth(at))
    }

    /// KEi(n), N(ADDITIONAL_KEY_EXCHANGE).
    pub(crate) fn chain(&self, method: KeGroup, public: &[u8]) -> ChainWriter {
        chain(method, public, self.accepted.link.as_deref())
    }

    /// The peer's public value in its answer to that.
    pub(crate) fn accept(&mut self, opened: &Opened) -> Result<Vec<u8>, Failure> {
        let payloads = Payloads::parse(opened.first, opened.inner.expose(), rules::FOLLOWUP_KE);
        let payloads = payloads.map_err(Failure::Broken)?;
        match payloads.error() {
            None => {}
            Some(NotifyType::STATE_NOT_FOUND) => return Err(Failure::Forgotten),
            Some(NotifyType::TEMPORARY_FAILURE) => return Err(Failure::Later),
            Some(NotifyType::INVALID_SYNTAX) => return Err(Failure::Ended),
            Some(error) => return Err(Failure::Refused(error)),
        }
        let broken = |what| Failure::Broken(Reject::Malformed(what));
        let said: Option<Ke<'_>> = payloads.get(PayloadKind::KE).map_err(Failure::Broken)?;
        let said = said.ok_or(broken("no key exchange in the answer"))?;
        if self.method().map(ke_number) != Some(said.method) {
            return Err(broken("another key exchange than ours"));
        }
        let link = payloads.notify(NotifyType::ADDITIONAL_KEY_EXCHANGE).map(|n| n.data.to_vec());
        if self.goes_on() && link.is_none() {
            return Err(broken("no link to the key exchange that is to follow"));
        }
        self.accepted.link = link;
        Ok(said.data.to_vec())
    }

    /// The lower nonce of CREATE_CHILD_SA.
    pub(crate) fn lowest(&self) -> &[u8] {
        self.proposed.lowest(&self.accepted)
    }

    /// The SA that replaces `old`, once all key exchanges are done.
    pub(crate) fn finish(
        &self,
        old: &IkeSa,
        rng: &mut dyn Random,
        log: Option<&mut (dyn KeyLog + Send)>,
    ) -> Result<(IkeSa, Made), CryptoError> {
        self.proposed.finish(old, &self.accepted, &self.shared, rng, log)
    }
}

/// A series that the peer has begun.
pub(crate) struct Answering {
    request: Request,
    /// Ours, of the new SA.
    spi: [u8; 8],
    /// Of the key exchanges so far.
    shared: Vec<Secret>,
    /// Which request is awaited.
    link: Option<[u8; LINK_LEN]>,
}

impl Answering {
    /// What the peer asks for by CREATE_CHILD_SA, with `spi` as ours.
    pub(crate) fn new(request: Request, spi: [u8; 8]) -> Self {
        Self { request, spi, shared: Vec::new(), link: None }
    }

    /// Method and public value of the peer in CREATE_CHILD_SA.
    pub(crate) fn first(&self) -> (KeGroup, Vec<u8>) {
        (self.request.suite().group, self.request.public.clone())
    }

    /// Method and public value of a request that goes on with it.
    ///
    /// # Errors
    /// STATE_NOT_FOUND for one that goes on with something else; INVALID_SYNTAX for what is not the key exchange that was
    /// negotiated.
    pub(crate) fn next(&self, payloads: &Payloads<'_>) -> Result<(KeGroup, Vec<u8>), Notify<'static>> {
        let link = payloads.notify(NotifyType::ADDITIONAL_KEY_EXCHANGE).map(|n| n.data.as_ref());
        if link.is_none() || link != self.link.as_ref().map(<[u8; LINK_LEN]>::as_slice) {
            return Err(not_found());
        }
        let wrong = || Notify::bare(NotifyType::INVALID_SYNTAX);
        let said: Option<Ke<'_>> = payloads.get(PayloadKind::KE).map_err(|_| wrong())?;
        let said = said.ok_or_else(wrong)?;
        let method = self.shared.len().checked_sub(1).and_then(|at| self.request.suite().further().nth(at));
        let method = method.filter(|m| ke_number(*m) == said.method && said.data.len() == m.public_len());
        method.map(|method| (method, said.data.to_vec())).ok_or_else(wrong)
    }

    /// The answer to the request whose key exchange has been computed.
    pub(crate) fn answer(
        &mut self,
        method: KeGroup,
        (public, shared): (&[u8], Secret),
        rng: &mut dyn Random,
    ) -> ChainWriter {
        let first = self.shared.is_empty();
        self.shared.push(shared);
        self.link = (!self.is_done()).then(|| rng.u64().to_be_bytes());
        let link = self.link.as_ref().map(<[u8; LINK_LEN]>::as_slice);
        if !first {
            return chain(method, public, link);
        }
        let mut chain = self.request.chain(self.spi, public);
        put_link(&mut chain, link);
        chain
    }

    /// Have all key exchanges been computed?
    pub(crate) fn is_done(&self) -> bool {
        self.shared.len() > self.request.suite().further().count()
    }

    /// The lower nonce of CREATE_CHILD_SA.
    pub(crate) fn lowest(&self) -> &[u8] {
        self.request.lowest()
    }

    /// The SA that replaces `old`, once all key exchanges are done.
    pub(crate) fn finish(
        &self,
        old: &IkeSa,
        rng: &mut dyn Random,
        log: Option<&mut (dyn KeyLog + Send)>,
    ) -> Result<(IkeSa, Made), CryptoError> {
        self.request.finish(old, self.spi, &self.shared, rng, log)
    }
}

/// A request goes on with something that is not known (any more). That is not the end of the IKE SA.
pub(crate) fn not_found() -> Notify<'static> {
    Notify::bare(NotifyType::STATE_NOT_FOUND)
}

fn chain(method: KeGroup, public: &[u8], link: Option<&[u8]>) -> ChainWriter {
    let mut chain = ChainWriter::new();
    chain.push(PayloadKind::KE.0, &Ke { method: ke_number(method), data: Cow::Borrowed(public) }.to_vec());
    put_link(&mut chain, link);
    chain
}

fn put_link(chain: &mut ChainWriter, link: Option<&[u8]>) {
    if let Some(link) = link {
        chain.push(PayloadKind::NOTIFY.0, &Notify::new(NotifyType::ADDITIONAL_KEY_EXCHANGE, link).to_vec());
    }
}
