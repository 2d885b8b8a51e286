//! X.509 certificates as IKE uses them (RFC 5280, profiled for IKE by RFC 4945).
//!
//! Certificates come from the network before their owner has proved anything, so they are read in Rust, strictly and within
//! bounds; OpenSSL checks the signatures. What is not understood is refused: a critical extension, a name constraint, a
//! signature algorithm without a name here.

mod certificate;
mod crl;
mod extensions;
mod name;
mod ocsp;
mod pem;
mod time;
mod trust;

pub use certificate::{AltName, Certificate};
pub use crl::Crl;
pub use name::{DistinguishedName, NameError};
pub use ocsp::OcspAnswer;
pub use trust::{Revocation, TrustStore};

use crate::CryptoError;
use crate::der::Malformed;

/// Octets that a certificate may have.
pub const MAX_CERTIFICATE: usize = 16 * 1024;

/// Certificates in a chain, the peer's own and the anchor included.
pub const MAX_CHAIN: usize = 8;

/// Why a certificate is not taken.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CertificateError {
    /// It cannot be read.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// Longer than [`MAX_CERTIFICATE`], or more of them than [`MAX_CHAIN`].
    #[error("too large, or too many certificates")]
    TooLarge,
    /// Its key is of a kind or size that is not taken.
    #[error(transparent)]
    Key(#[from] CryptoError),
    /// Something is wrong with a certificate of the chain.
    #[error("certificate of {subject}: {fault}")]
    Chain {
        /// Whose certificate.
        subject: DistinguishedName,
        /// What.
        fault: Fault,
    },
}

/// What is wrong with a certificate of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Its time has not come.
    #[error("not yet valid")]
    NotYetValid,
    /// Its time is over.
    #[error("expired")]
    Expired,
    /// Neither an anchor nor a certificate beside it has issued it.
    #[error("no trusted issuer")]
    NoIssuer,
    /// The chain is too long, or longer than an issuer allows.
    #[error("the chain is longer than it may be")]
    PathLength,
    /// It has issued another but is no CA's (RFC 5280 section 4.2.1.9).
    #[error("not a CA's certificate")]
    NotCa,
    /// Its key usage or extended key usage does not cover the use (RFC 4945 sections 5.1.3.2 and 5.1.3.12).
    #[error("the key is not for this use")]
    Usage,
    /// It is signed with an algorithm that is not taken, such as SHA-1.
    #[error("signed with an algorithm that is not taken")]
    WeakSignature,
    /// It has a critical extension, or constraints, that are not understood.
    #[error("an extension that is not understood")]
    Extension,
    /// It is revoked.
    #[error("revoked")]
    Revoked,
    /// There is no revocation list or OCSP answer for it, and there must be.
    #[error("nothing tells whether it is revoked")]
    RevocationUnknown,
    /// The revocation list of its issuer, or the OCSP answer about it, is out of date.
    #[error("the revocation list or OCSP answer is out of date")]
    StaleCrl,
}

impl From<Malformed> for CertificateError {
    fn from(_: Malformed) -> Self {
        CertificateError::Malformed("not plain DER")
    }
}
