//! What can go wrong.

use openssl::error::ErrorStack;

/// Why a cryptographic operation failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CryptoError {
    /// A key, nonce or buffer has a length the algorithm does not take.
    #[error("wrong length of {0}")]
    Length(&'static str),
    /// The peer's public value is not a member of the group, or gives away the shared secret.
    #[error("the peer's public value is not acceptable")]
    BadPublicValue,
    /// A tag, padding or wrapped key did not verify.
    #[error("authentication failed")]
    Unauthentic,
    /// A key that cannot be read, or is too weak or too large.
    #[error("unusable key: {0}")]
    BadKey(&'static str),
    /// A signature key that cannot be read, or is too weak or too large.
    #[error("unusable signature key: {0}")]
    SignatureKey(&'static str),
    /// The work was not done.
    #[error("not done")]
    NotDone,
    /// OpenSSL refused.
    #[error("OpenSSL: {0}")]
    OpenSsl(#[from] ErrorStack),
}
