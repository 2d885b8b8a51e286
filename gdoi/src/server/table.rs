//! The table of phase 1 SAs: by their cookies, and by the members they are with.

use std::collections::BTreeMap;

use keyferry_model::credentials::Credentials;
use keyferry_model::id::Identity;

use super::sessions::Session;

/// SAs with one member at most. One is in use, one may take its place, and a member that starts anew and anew leaves some
/// behind; more than that would be room taken from others.
const MAX_PER_MEMBER: usize = 8;

/// Phase 1 SAs.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    by_cookies: BTreeMap<[u8; 16], Session>,
    /// Cookies of each member's SAs, oldest first.
    by_member: BTreeMap<Identity, Vec<[u8; 16]>>,
}

impl Sessions {
    pub(super) fn get(&self, cookies: &[u8; 16]) -> Option<&Session> {
        self.by_cookies.get(cookies)
    }

    pub(super) fn get_mut(&mut self, cookies: &[u8; 16]) -> Option<&mut Session> {
        self.by_cookies.get_mut(cookies)
    }

    pub(super) fn len(&self) -> usize {
        self.by_cookies.len()
    }

    /// Who must go for a new SA with this member: its own oldest, or where the table is full the one idle for longest.
    pub(super) fn displaced_by(&self, member: &Identity, limit: usize) -> Option<[u8; 16]> {
        let own = self.by_member.get(member).filter(|own| own.len() >= MAX_PER_MEMBER);
        let idlest = || self.by_cookies.iter().min_by_key(|(_, s)| s.used()).map(|(cookies, _)| *cookies);
        let full = self.by_cookies.len() >= limit;
        own.and_then(|own| own.first().copied()).or_else(|| full.then(idlest).flatten())
    }

    pub(super) fn insert(&mut self, session: Session) {
        let cookies = *session.cookies();
        self.by_member.entry(session.identity().clone()).or_default().push(cookies);
        self.by_cookies.insert(cookies, session);
    }

    pub(super) fn remove(&mut self, cookies: &[u8; 16]) -> Option<Session> {
        let session = self.by_cookies.remove(cookies)?;
        if let Some(own) = self.by_member.get_mut(session.identity()) {
            own.retain(|c| c != cookies);
            if own.is_empty() {
                self.by_member.remove(session.identity());
            }
        }
        Some(session)
    }

    /// SAs whose members the new credentials do not let in as the former did.
    pub(super) fn without_backing(&self, former: &Credentials, new: &Credentials) -> Vec<[u8; 16]> {
        let lost = self.by_cookies.iter().filter(|(_, s)| !s.is_backed(former, new));
        lost.map(|(cookies, _)| *cookies).collect()
    }

    /// The member's SAs that were there before this one, at the address it is used from. Behind a translator the address says
    /// nothing: there it is the identity alone (RFC 3947 section 6).
    pub(super) fn before(&self, cookies: &[u8; 16]) -> Vec<[u8; 16]> {
        let Some(session) = self.get(cookies) else { return Vec::new() };
        let own = self.by_member.get(session.identity()).into_iter().flatten();
        let anywhere = session.nat().theirs;
        let at = |c: &[u8; 16]| anywhere || self.get(c).is_some_and(|s| s.address() == session.address());
        own.take_while(|c| *c != cookies).filter(|c| at(c)).copied().collect()
    }
}
