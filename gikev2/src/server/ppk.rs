//! Postquantum preshared keys, responder's side (RFC 8784 section 3, table 1).

use std::borrow::Cow;

use keyferry_model::settings::Ppk;

use super::auth::{ExpectAuth, FAILED};
use crate::ike_sa::keymat::stir;
use crate::policy::identity::identity_from_wire;
use crate::reject::Reject;
use crate::wire::auth::Auth;
use crate::wire::message::AuthRequest;
use crate::wire::registry::NotifyType;

/// What became of it in an IKE SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PpkUse {
    /// No USE_PPK in IKE_SA_INIT.
    NotAnnounced,
    /// Both sent USE_PPK; the peer has yet to say which.
    Announced,
    /// Stirred into the keys.
    Stirred,
    /// The peer's is none of ours, and need not be: NO_PPK_AUTH counts in the place of AUTH.
    Declined,
}

impl PpkUse {
    /// Is the peer told that there is one? Whoever has none passes over the peer's notify.
    pub(super) fn of(announced: bool, ours: &[Ppk]) -> Self {
        if announced && !ours.is_empty() { PpkUse::Announced } else { PpkUse::NotAnnounced }
    }
}

impl ExpectAuth {
    /// Takes the PPK that a request for authentication names, once. The request is of the peer that sent IKE_SA_INIT: it is under
    /// keys that no PPK is in.
    pub(super) fn take_ppk(&mut self, ours: &[Ppk], request: &AuthRequest<'_>) -> Result<(), Reject> {
        let identity = identity_from_wire(&request.id_i).ok_or(FAILED)?;
        let required = ours.iter().any(|ppk| ppk.required && ppk.is_for(&identity));
        match self.ppk {
            PpkUse::NotAnnounced if required => return Err(FAILED),
            // A request that waited for a job is repeated.
            PpkUse::NotAnnounced | PpkUse::Stirred | PpkUse::Declined => return Ok(()),
            PpkUse::Announced => {}
        }
        let id = request.payloads.notify(NotifyType::PPK_IDENTITY).ok_or(FAILED)?;
        match ours.iter().find(|ppk| ppk.id == id.data.as_ref() && ppk.is_for(&identity)) {
            Some(ppk) => {
                let prf = self.sa.suite.prf;
                self.proof = (stir(prf, &ppk.key, &self.proof.0), stir(prf, &ppk.key, &self.proof.1));
                self.sa.stir(&ppk.key, ppk.rekey);
                self.ppk = PpkUse::Stirred;
                self.ppk_id = Some(ppk.id.clone());
            }
            None if !required && request.payloads.notify(NotifyType::NO_PPK_AUTH).is_some() => {
                self.ppk = PpkUse::Declined;
            }
            None => return Err(FAILED),
        }
        Ok(())
    }

    /// What authenticates the peer.
    pub(super) fn auth_of<'m>(&self, request: &'m AuthRequest<'_>) -> Auth<'m> {
        let instead = request.payloads.notify(NotifyType::NO_PPK_AUTH).filter(|_| self.ppk == PpkUse::Declined);
        let data = instead.map_or(&request.auth.data, |notify| &notify.data);
        Auth { method: request.auth.method, data: Cow::Borrowed(data) }
    }
}
