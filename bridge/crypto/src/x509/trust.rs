//! Whether a certificate is to be trusted (RFC 5280, section 6, as RFC 4945 profiles it).

use std::time::Duration;

use super::certificate::Certificate;
use super::crl::{Crl, Standing};
use super::ocsp::OcspAnswer;
use super::{CertificateError, DistinguishedName, Fault, MAX_CHAIN};

/// Signatures that one check may cost. An honest chain needs one for each certificate; certificates that share a name could
/// ask for many more.
const MAX_SIGNATURES: usize = 16;

/// What revocation lists and OCSP answers must say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Revocation {
    /// Nothing; they are not looked at.
    Ignore,
    /// If there is one of the issuer, it must be current and must not call the certificate revoked.
    #[default]
    IfKnown,
    /// There must be a current one for each certificate of the chain but the anchor.
    Require,
}

/// Anchors, and what they have revoked.
pub struct TrustStore {
    anchors: Vec<Certificate>,
    crls: Vec<Known>,
    revocation: Revocation,
}

/// A revocation list, and which of the anchors have signed it: checked once.
struct Known {
    crl: Crl,
    by: Vec<usize>,
}

impl TrustStore {
    /// A store of these anchors and lists.
    #[must_use]
    pub fn new(anchors: Vec<Certificate>, crls: Vec<Crl>, revocation: Revocation) -> Self {
        let by = |crl: &Crl| (0..anchors.len()).filter(|at| crl.is_by(&anchors[*at])).collect();
        let crls = crls.into_iter().map(|crl| Known { by: by(&crl), crl }).collect();
        Self { anchors, crls, revocation }
    }

    /// What is to be said of a list that cannot be held against these anchors, though one of them has its issuer's name.
    /// Lists of CAs below the anchors are only known once there is a chain.
    #[must_use]
    pub fn unverified(&self) -> Vec<(&Crl, &'static str)> {
        let named = |crl: &Crl| self.anchors.iter().any(|a| a.subject() == crl.issuer());
        let why = |known: &Known| match known {
            Known { crl, .. } if !crl.has_known_signature() => Some("is signed by an algorithm that is not taken"),
            Known { crl, by } if by.is_empty() && named(crl) => Some("is not signed by an anchor that may sign it"),
            Known { .. } => None,
        };
        self.crls.iter().filter_map(|known| why(known).map(|why| (&known.crl, why))).collect()
    }

    /// The anchors' names, for certificate requests.
    pub fn anchor_names(&self) -> impl Iterator<Item = &DistinguishedName> {
        self.anchors.iter().map(Certificate::subject)
    }

    /// The anchors, in the order in which they were given.
    #[must_use]
    pub fn anchors(&self) -> &[Certificate] {
        &self.anchors
    }

    /// Does a list of its issuer's name, or one of these answers, call this certificate revoked? Who has signed that is not looked
    /// at: for who is to be asked to prove itself again, not for who is to be believed.
    #[must_use]
    pub fn is_listed(&self, certificate: &Certificate, ocsp: &[OcspAnswer]) -> bool {
        let listed = self.crls.iter().any(|known| known.crl.lists(certificate))
            || ocsp.iter().any(|answer| answer.lists(certificate));
        self.revocation != Revocation::Ignore && listed
    }

    /// May this certificate be trusted now to sign for its owner in IKE? A chain leads from it over the others to an anchor,
    /// or it is an anchor itself; every certificate of the chain is valid and may do what it does there; none is revoked.
    ///
    /// # Errors
    /// Why not: the fault of the chain that came furthest.
    pub fn check(
        &self,
        leaf: &Certificate,
        intermediates: &[Certificate],
        wall: Duration,
        ocsp: &[OcspAnswer],
    ) -> Result<(), CertificateError> {
        if intermediates.len() >= MAX_CHAIN {
            return Err(CertificateError::TooLarge);
        }
        check_alone(leaf, wall)?;
        let usage = leaf.extensions().key_usage.is_none_or(|usage| usage.signs());
        if !usage || !leaf.extensions().extended.is_none_or(|usage| usage.ike) {
            return Err(fault(leaf, Fault::Usage));
        }
        if self.anchors.contains(leaf) {
            return Ok(());
        }
        let mut search = Search { store: self, intermediates, wall, ocsp, signatures: 0 };
        search.up(&mut vec![leaf])
    }

    /// What is known of the standing of a certificate: revoked by one source is revoked, good by one is good.
    fn standing(
        &self,
        certificate: &Certificate,
        issuer: &Certificate,
        wall: Duration,
        ocsp: &[OcspAnswer],
    ) -> Standing {
        let signed = |known: &&Known| {
            known.crl.issuer() == certificate.issuer()
                && (known.by.iter().any(|at| self.anchors[*at] == *issuer) || known.crl.is_by(issuer))
        };
        let lists: Vec<&Crl> = self.crls.iter().filter(signed).map(|known| &known.crl).collect();
        let listed = |c: &Certificate| lists.iter().any(|list| list.standing(c, wall) == Standing::Revoked);
        let answers = ocsp.iter().map(|answer| answer.standing(certificate, issuer, wall, &listed));
        // A list that was to be looked at and cannot be verified says nothing good of anybody.
        let blind = self.crls.iter().any(|known| known.crl.is_of(certificate) && known.crl.is_unusable_by(issuer));
        let unusable = blind.then_some(Standing::Stale);
        let all: Vec<Standing> =
            lists.iter().map(|list| list.standing(certificate, wall)).chain(answers).chain(unusable).collect();
        [Standing::Revoked, Standing::Good, Standing::Stale]
            .into_iter()
            .find(|standing| all.contains(standing))
            .unwrap_or(Standing::Unknown)
    }

    fn check_revocation(
        &self,
        certificate: &Certificate,
        issuer: &Certificate,
        wall: Duration,
        ocsp: &[OcspAnswer],
    ) -> Result<(), CertificateError> {
        if self.revocation == Revocation::Ignore {
            return Ok(());
        }
        match (self.standing(certificate, issuer, wall, ocsp), self.revocation) {
            (Standing::Revoked, _) => Err(fault(certificate, Fault::Revoked)),
            (Standing::Stale, _) => Err(fault(certificate, Fault::StaleCrl)),
            (Standing::Unknown, Revocation::Require) => Err(fault(certificate, Fault::RevocationUnknown)),
            _ => Ok(()),
        }
    }
}

/// A search for a chain: depth first, each certificate once, within a number of signatures.
struct Search<'a> {
    store: &'a TrustStore,
    intermediates: &'a [Certificate],
    wall: Duration,
    ocsp: &'a [OcspAnswer],
    signatures: usize,
}

impl<'a> Search<'a> {
    /// Goes on from the last certificate of the chain.
    fn up(&mut self, chain: &mut Vec<&'a Certificate>) -> Result<(), CertificateError> {
        let Some(&last) = chain.last() else { return Err(CertificateError::Malformed("no certificate")) };
        let mut worst = fault(last, Fault::NoIssuer);
        if chain.len() >= MAX_CHAIN {
            return Err(fault(last, Fault::PathLength));
        }
        let store = self.store;
        for issuer in store.anchors.iter().chain(self.intermediates) {
            let anchor = store.anchors.contains(issuer);
            if issuer.subject() != last.issuer() || chain.contains(&issuer) {
                continue;
            }
            match self.step(chain, issuer).and_then(|()| {
                if anchor {
                    return Ok(());
                }
                chain.push(issuer);
                let found = self.up(chain);
                chain.pop();
                found
            }) {
                Ok(()) => return Ok(()),
                Err(why) => worst = why,
            }
        }
        Err(worst)
    }

    /// Has this CA issued the last certificate of the chain, and was it allowed to?
    fn step(&mut self, chain: &[&Certificate], issuer: &Certificate) -> Result<(), CertificateError> {
        let Some(&last) = chain.last() else { return Err(CertificateError::Malformed("no certificate")) };
        check_alone(issuer, self.wall)?;
        let path_len = issuer.extensions().ca.ok_or_else(|| fault(issuer, Fault::NotCa))?;
        if !issuer.extensions().key_usage.is_none_or(|usage| usage.signs_certificates()) {
            return Err(fault(issuer, Fault::Usage));
        }
        // CAs between this one and the leaf; those that issued a certificate to themselves do not count (section 6.1.4).
        let between = chain.iter().skip(1).filter(|c| c.subject() != c.issuer()).count();
        if path_len.is_some_and(|most| u32::try_from(between).is_ok_and(|n| n > most)) {
            return Err(fault(issuer, Fault::PathLength));
        }
        self.signatures += 1;
        if self.signatures > MAX_SIGNATURES {
            return Err(CertificateError::TooLarge);
        }
        match last.signed().verify(issuer.key()) {
            None => return Err(fault(last, Fault::WeakSignature)),
            Some(false) => return Err(fault(last, Fault::NoIssuer)),
            Some(true) => {}
        }
        self.store.check_revocation(last, issuer, self.wall, self.ocsp)
    }
}

/// What every certificate of a chain must be, by itself.
fn check_alone(certificate: &Certificate, wall: Duration) -> Result<(), CertificateError> {
    if certificate.extensions().unknown {
        return Err(fault(certificate, Fault::Extension));
    }
    if wall < certificate.not_before() {
        return Err(fault(certificate, Fault::NotYetValid));
    }
    if wall > certificate.not_after() {
        return Err(fault(certificate, Fault::Expired));
    }
    Ok(())
}

fn fault(certificate: &Certificate, fault: Fault) -> CertificateError {
    CertificateError::Chain { subject: certificate.subject().clone(), fault }
}

impl std::fmt::Debug for TrustStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = self.anchors.iter().map(|a| a.subject().to_string()).collect::<Vec<_>>().join("; ");
        write!(f, "TrustStore({names}; {:?}, {} lists)", self.revocation, self.crls.len())
    }
}
