//! Typed messages: what is left to work with once the rules of an exchange hold.

use std::collections::BTreeSet;

use keyferry_wire::{Decode, RawPayload, chain};

use super::auth::Auth;
use super::delete::Delete;
use super::gsa::Gsa;
use super::id::Id;
use super::kd::Kd;
use super::ke::Ke;
use super::nonce::Nonce;
use super::notify::Notify;
use super::registry::{NotifyType, PayloadKind};
use super::rules::{self, Rule};
use super::sa::Sa;
use super::vendor::KEYFERRY;
use crate::reject::Reject;

/// Payloads of one message, checked against the rules of its exchange.
#[derive(Debug)]
pub struct Payloads<'a> {
    raw: Vec<RawPayload<'a>>,
    /// The notifies, in their order.
    pub notifies: Vec<Notify<'a>>,
}

impl<'a> Payloads<'a> {
    /// Splits the payloads beginning with kind `first` and checks them.
    ///
    /// # Errors
    /// What [`rules::check`] says, or [`Reject::Malformed`] for a broken chain or notify.
    pub fn parse(first: u8, bytes: &'a [u8], rules: &[Rule]) -> Result<Self, Reject> {
        let raw = chain(first, bytes)?;
        rules::check(rules, &raw)?;
        let notifies = raw
            .iter()
            .filter(|p| p.kind == PayloadKind::NOTIFY.0)
            .map(|p| Notify::exact(p.body))
            .collect::<Result<_, _>>()?;
        Ok(Self { raw, notifies })
    }

    /// The first payload of a kind as it is on the wire.
    #[must_use]
    pub fn body(&self, kind: PayloadKind) -> Option<&'a [u8]> {
        self.raw.iter().find(|p| p.kind == kind.0).map(|p| p.body)
    }

    /// The first payload of a kind, decoded.
    ///
    /// # Errors
    /// [`Reject::Malformed`].
    pub fn get<T: Decode<'a>>(&self, kind: PayloadKind) -> Result<Option<T>, Reject> {
        self.body(kind).map(T::exact).transpose().map_err(Reject::from)
    }

    /// All payloads of a kind, decoded.
    ///
    /// # Errors
    /// [`Reject::Malformed`].
    pub fn all<T: Decode<'a>>(&self, kind: PayloadKind) -> Result<Vec<T>, Reject> {
        let bodies = self.raw.iter().filter(|p| p.kind == kind.0);
        bodies.map(|p| T::exact(p.body).map_err(Reject::from)).collect()
    }

    /// The first notify of a type.
    #[must_use]
    pub fn notify(&self, kind: NotifyType) -> Option<&Notify<'a>> {
        self.notifies.iter().find(|n| n.kind == kind)
    }

    /// The first notify that reports an error.
    #[must_use]
    pub fn error(&self) -> Option<NotifyType> {
        self.notifies.iter().map(|n| n.kind).find(|k| k.is_error())
    }

    /// Is GSA_REKEY acknowledged? The number that says so means that beside our Vendor ID alone.
    #[must_use]
    pub fn speaks_of_acks(&self) -> bool {
        let ours = self.raw.iter().any(|p| p.kind == PayloadKind::VENDOR_ID.0 && p.body == KEYFERRY);
        ours && self.notify(NotifyType::REKEY_ACK).is_some()
    }

    fn need<T: Decode<'a>>(&self, kind: PayloadKind) -> Result<T, Reject> {
        self.get(kind)?.ok_or(Reject::Malformed("a payload is missing"))
    }
}

/// Proposals, public value and nonce: an IKE_SA_INIT request, one for new keys of an IKE SA, or a response that accepts.
#[derive(Debug)]
pub struct Init<'a> {
    /// SA.
    pub sa: Sa<'a>,
    /// KE.
    pub ke: Ke<'a>,
    /// Nonce.
    pub nonce: Nonce<'a>,
    /// Everything else.
    pub payloads: Payloads<'a>,
}

impl<'a> Init<'a> {
    /// A request.
    ///
    /// # Errors
    /// As [`Payloads::parse`].
    pub fn request(first: u8, bytes: &'a [u8]) -> Result<Self, Reject> {
        Self::of(Payloads::parse(first, bytes, rules::INIT_REQUEST)?)
    }

    /// SA, KE and nonce out of payloads that should have them.
    ///
    /// # Errors
    /// [`Reject::Malformed`].
    pub fn of(payloads: Payloads<'a>) -> Result<Self, Reject> {
        let sa: Sa<'a> = payloads.need(PayloadKind::SA)?;
        // A number is all that says which proposal was chosen (RFC 7296 section 3.3.1).
        let mut numbers = BTreeSet::new();
        if !sa.proposals.iter().all(|proposal| numbers.insert(proposal.number)) {
            return Err(Reject::Malformed("two proposals of one number"));
        }
        Ok(Self { sa, ke: payloads.need(PayloadKind::KE)?, nonce: payloads.need(PayloadKind::NONCE)?, payloads })
    }
}

/// An IKE_SESSION_RESUME request (RFC 5723 section 4.3.2).
#[derive(Debug)]
pub struct Resume<'a> {
    /// Nonce.
    pub nonce: Nonce<'a>,
    /// The ticket, which is for its maker to understand.
    pub ticket: Vec<u8>,
    /// Everything else.
    pub payloads: Payloads<'a>,
}

impl<'a> Resume<'a> {
    /// A request.
    ///
    /// # Errors
    /// As [`Payloads::parse`].
    pub fn request(first: u8, bytes: &'a [u8]) -> Result<Self, Reject> {
        let payloads = Payloads::parse(first, bytes, rules::RESUME_REQUEST)?;
        let ticket = payloads.notify(NotifyType::TICKET_OPAQUE).ok_or(Reject::Malformed("no ticket"))?.data.to_vec();
        Ok(Self { nonce: payloads.need(PayloadKind::NONCE)?, ticket, payloads })
    }
}

/// What a CREATE_CHILD_SA request asks for (RFC 7296 section 1.3).
#[derive(Debug)]
pub enum ChildRequest<'a> {
    /// New keys for the IKE SA.
    Rekey(Init<'a>),
    /// A Child SA; or a new one in the place of the one that REKEY_SA names.
    Child(Option<Notify<'a>>),
}

impl<'a> ChildRequest<'a> {
    /// A request. Only one for a Child SA has traffic selectors.
    ///
    /// # Errors
    /// As [`Payloads::parse`].
    pub fn of(first: u8, bytes: &'a [u8]) -> Result<Self, Reject> {
        let payloads = Payloads::parse(first, bytes, rules::CHILD_REQUEST)?;
        let replaced = payloads.notify(NotifyType::REKEY_SA).cloned();
        let selectors = [PayloadKind::TS_I, PayloadKind::TS_R].iter().any(|kind| payloads.body(*kind).is_some());
        match replaced.is_some() || selectors {
            true => Ok(Self::Child(replaced)),
            false => Init::of(payloads).map(Self::Rekey),
        }
    }
}

/// Who the initiator is and proof of it: IKE_AUTH or GSA_AUTH request.
#[derive(Debug)]
pub struct AuthRequest<'a> {
    /// Initiator's identity.
    pub id_i: Id<'a>,
    /// The same as on the wire, for the signed octets.
    pub id_i_body: &'a [u8],
    /// Identity asked of the responder.
    pub id_r: Option<Id<'a>>,
    /// Proof.
    pub auth: Auth<'a>,
    /// Group asked for (GSA_AUTH only).
    pub registration: Option<Registration<'a>>,
    /// A Child SA was asked for (IKE_AUTH only).
    pub child: bool,
    /// Notifies and the rest.
    pub payloads: Payloads<'a>,
}

impl<'a> AuthRequest<'a> {
    /// An IKE_AUTH request.
    ///
    /// # Errors
    /// As [`Payloads::parse`].
    pub fn ike(first: u8, bytes: &'a [u8]) -> Result<Self, Reject> {
        let payloads = Payloads::parse(first, bytes, rules::IKE_AUTH_REQUEST)?;
        let child = payloads.body(PayloadKind::SA).is_some();
        Self::of(payloads, None, child)
    }

    /// A GSA_AUTH request.
    ///
    /// # Errors
    /// As [`Payloads::parse`].
    pub fn group(first: u8, bytes: &'a [u8]) -> Result<Self, Reject> {
        let payloads = Payloads::parse(first, bytes, rules::GSA_AUTH_REQUEST)?;
        let registration = Registration::of(&payloads)?;
        Self::of(payloads, Some(registration), false)
    }

    fn of(payloads: Payloads<'a>, registration: Option<Registration<'a>>, child: bool) -> Result<Self, Reject> {
        Ok(Self {
            id_i: payloads.need(PayloadKind::ID_I)?,
            id_i_body: payloads.body(PayloadKind::ID_I).unwrap_or_default(),
            id_r: payloads.get(PayloadKind::ID_R)?,
            // Without AUTH the initiator wants EAP (RFC 7296 section 2.16), which there is none of here.
            auth: payloads.get(PayloadKind::AUTH)?.ok_or(Reject::Unacceptable(NotifyType::AUTHENTICATION_FAILED))?,
            registration,
            child,
            payloads,
        })
    }
}

/// What a member says about the group it means (RFC 9838 sections 2.3.1 and 2.3.2).
#[derive(Debug)]
pub struct Registration<'a> {
    /// The group.
    pub group: Id<'a>,
    /// Transforms the member can do.
    pub transforms: Option<Sa<'a>>,
    /// GROUP_SENDER: it will send, and wants so many sender IDs.
    pub sender: Option<u32>,
    /// It reports an error: it leaves.
    pub leaving: Option<NotifyType>,
    /// It acknowledges GSA_REKEY, if it is asked to (an extension of our own).
    pub acks: bool,
}

impl<'a> Registration<'a> {
    /// A GSA_REGISTRATION request.
    ///
    /// # Errors
    /// As [`Payloads::parse`].
    pub fn request(first: u8, bytes: &'a [u8]) -> Result<Self, Reject> {
        Self::of(&Payloads::parse(first, bytes, rules::REGISTRATION_REQUEST)?)
    }

    fn of(payloads: &Payloads<'a>) -> Result<Self, Reject> {
        let sender = match payloads.notify(NotifyType::GROUP_SENDER) {
            None => None,
            Some(n) => match <[u8; 4]>::try_from(n.data.as_ref()) {
                Ok(count) => Some(u32::from_be_bytes(count)),
                Err(_) => return Err(Reject::Malformed("GROUP_SENDER has four octets of data")),
            },
        };
        let leaving =
            payloads.error().filter(|e| [NotifyType::REGISTRATION_FAILED, NotifyType::NO_PROPOSAL_CHOSEN].contains(e));
        Ok(Self {
            group: payloads.need(PayloadKind::ID_G)?,
            transforms: payloads.get(PayloadKind::SA)?,
            sender,
            leaving,
            acks: payloads.speaks_of_acks(),
        })
    }
}

/// Policy and keys, from a registration's answer or a GSA_REKEY.
#[derive(Debug)]
pub struct GroupKeys<'a> {
    /// Policy.
    pub gsa: Option<Gsa<'a>>,
    /// Keys.
    pub kd: Option<Kd<'a>>,
    /// SAs to delete.
    pub deletes: Vec<Delete<'a>>,
    /// USE_TRANSPORT_MODE was there.
    pub transport_mode: bool,
    /// GSA_REKEY is to be acknowledged (an extension of our own).
    pub acks: bool,
}

impl<'a> GroupKeys<'a> {
    /// Out of payloads whose rules hold.
    ///
    /// # Errors
    /// [`Reject::Malformed`].
    pub fn of(payloads: &Payloads<'a>) -> Result<Self, Reject> {
        Ok(Self {
            gsa: payloads.get(PayloadKind::GSA)?,
            kd: payloads.get(PayloadKind::KD)?,
            deletes: payloads.all(PayloadKind::DELETE)?,
            transport_mode: payloads.notify(NotifyType::USE_TRANSPORT_MODE).is_some(),
            acks: payloads.speaks_of_acks(),
        })
    }
}
