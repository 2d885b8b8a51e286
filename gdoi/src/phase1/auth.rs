//! Messages 5 and 6 of main mode: identity and hash.

use keyferry_crypto::Secret;
use keyferry_model::id::Identity;
use keyferry_wire::Decode;

use crate::identity;
use crate::message::{Payloads, Plain};
use crate::reject::Reject;
use crate::wire::id::Id;
use crate::wire::notification::Notification;
use crate::wire::opaque::Hash;
use crate::wire::registry::{NotifyType, payload};
use crate::wire::rules::{self, MAIN_AUTH};

/// What the message of the other side holds, its hash not checked yet.
pub(crate) struct Claim<'a> {
    /// Body of the ID payload, which the hash covers.
    pub(crate) id: &'a [u8],
    pub(crate) hash: &'a [u8],
    /// Is there an INITIAL-CONTACT beside it? The hash does not cover it, the encryption hides it.
    pub(crate) initial_contact: bool,
}

impl<'a> Claim<'a> {
    /// Reads a decrypted message. With the wrong key it is noise, so whatever is wrong means "not authentic".
    pub(crate) fn read(plain: &'a Plain) -> Result<Self, Reject> {
        let noise = Reject::Unauthenticated("message does not decrypt");
        let parts = plain.parts().map_err(|_| noise)?;
        MAIN_AUTH.check(&parts.payloads).map_err(|_| noise)?;
        let id = rules::body(&parts.payloads, payload::ID).ok_or(noise)?;
        let hash = rules::body(&parts.payloads, payload::HASH).ok_or(noise)?;
        let notifications = rules::bodies(&parts.payloads, payload::NOTIFICATION);
        let kinds = notifications.filter_map(|n| Notification::exact(n).ok()).map(|n| n.kind);
        let initial_contact = kinds.into_iter().any(|kind| kind == NotifyType::INITIAL_CONTACT);
        Ok(Self { id, hash, initial_contact })
    }

    /// The identity, once the hash has proved the claim.
    pub(crate) fn identity(&self) -> Result<Identity, Reject> {
        let id = Id::exact(self.id)?;
        let refused = |what| Reject::Unacceptable(what, NotifyType::INVALID_ID_INFORMATION);
        if !id.fits_phase1() {
            return Err(refused("protocol or port of the identity"));
        }
        identity::to_identity(&id).ok_or(refused("type or form of the identity"))
    }
}

/// Payloads of the message that proves an identity.
pub(crate) fn payloads(id: &[u8], hash: &Secret) -> Payloads {
    Payloads::new().with_body(payload::ID, Secret::copy_from(id)).with(payload::HASH, &Hash(hash.expose()))
}
