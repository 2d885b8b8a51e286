//! IANA's IKEv2 numbers as far as Keyferry names them. Unknown numbers survive in the newtypes.

use std::fmt;

macro_rules! numbers {
    ($(#[$meta:meta])* $name:ident: $repr:ty { $($(#[$doc:meta])* $known:ident = $value:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub $repr);

        impl $name {
            $($(#[$doc])* pub const $known: Self = Self($value);)*
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match *self {
                    $(Self::$known => f.write_str(stringify!($known)),)*
                    Self(other) => write!(f, concat!(stringify!($name), "({})"), other),
                }
            }
        }
    };
}

numbers! {
    /// Exchange type (RFC 7296 section 3.1, RFC 9838 section 9.3).
    ExchangeType: u8 {
        /// IKE_SA_INIT.
        IKE_SA_INIT = 34,
        /// IKE_AUTH.
        IKE_AUTH = 35,
        /// CREATE_CHILD_SA.
        CREATE_CHILD_SA = 36,
        /// INFORMATIONAL.
        INFORMATIONAL = 37,
        /// IKE_SESSION_RESUME (RFC 5723).
        IKE_SESSION_RESUME = 38,
        /// GSA_AUTH.
        GSA_AUTH = 39,
        /// GSA_REGISTRATION.
        GSA_REGISTRATION = 40,
        /// GSA_REKEY.
        GSA_REKEY = 41,
        /// GSA_INBAND_REKEY.
        GSA_INBAND_REKEY = 42,
        /// IKE_INTERMEDIATE (RFC 9242).
        IKE_INTERMEDIATE = 43,
        /// IKE_FOLLOWUP_KE (RFC 9370).
        IKE_FOLLOWUP_KE = 44,
        /// Acknowledgement of a GSA_REKEY: our own, of the range for private use.
        REKEY_ACK = 240,
    }
}

numbers! {
    /// Payload type (RFC 7296 section 3.2, RFC 9838 section 9.3).
    PayloadKind: u8 {
        /// No next payload.
        NONE = 0,
        /// Security Association; SAg in a registration.
        SA = 33,
        /// Key Exchange.
        KE = 34,
        /// Identification, initiator.
        ID_I = 35,
        /// Identification, responder.
        ID_R = 36,
        /// Certificate.
        CERT = 37,
        /// Certificate Request.
        CERTREQ = 38,
        /// Authentication.
        AUTH = 39,
        /// Nonce.
        NONCE = 40,
        /// Notify.
        NOTIFY = 41,
        /// Delete.
        DELETE = 42,
        /// Vendor ID.
        VENDOR_ID = 43,
        /// Traffic Selectors, initiator.
        TS_I = 44,
        /// Traffic Selectors, responder.
        TS_R = 45,
        /// Encrypted and Authenticated.
        SK = 46,
        /// Configuration.
        CP = 47,
        /// Extensible Authentication.
        EAP = 48,
        /// Group Identification.
        ID_G = 50,
        /// Group Security Association.
        GSA = 51,
        /// Key Download.
        KD = 52,
        /// Encrypted and Authenticated Fragment.
        SKF = 53,
    }
}

impl PayloadKind {
    /// Is it a payload this implementation understands or knowingly skips, so that its critical bit means nothing
    /// (RFC 7296 section 2.5)?
    #[must_use]
    pub fn is_known(self) -> bool {
        matches!(self.0, 33..=48 | 50..=52)
    }
}

numbers! {
    /// Security protocol (RFC 7296 section 3.3.1, RFC 9838 section 9.3).
    ProtocolId: u8 {
        /// No particular protocol; in G-IKEv2's Delete, everything.
        NONE = 0,
        /// IKE.
        IKE = 1,
        /// AH.
        AH = 2,
        /// ESP.
        ESP = 3,
        /// The Rekey SA.
        GIKE_UPDATE = 6,
    }
}

impl ProtocolId {
    /// Octets of an SPI of a group SA (RFC 9838 section 4.4.2); `None` for other protocols.
    #[must_use]
    pub fn group_spi_len(self) -> Option<usize> {
        match self {
            Self::GIKE_UPDATE => Some(16),
            Self::AH | Self::ESP => Some(4),
            _ => None,
        }
    }
}

numbers! {
    /// Transform type (RFC 7296 section 3.3.2, RFC 9838 section 9.3).
    TransformType: u8 {
        /// Encryption.
        ENCR = 1,
        /// Pseudorandom function.
        PRF = 2,
        /// Integrity.
        INTEG = 3,
        /// Key exchange method.
        KE = 4,
        /// Sequence numbers.
        SN = 5,
        /// Additional Key Exchange 1 (RFC 9370); the others follow up to ADDKE7 with 12.
        ADDKE1 = 6,
        /// Key wrap algorithm.
        KWA = 13,
        /// Group controller authentication method.
        GCAUTH = 14,
    }
}

impl TransformType {
    /// The type of the additional key exchange at this place, counted from zero (RFC 9370 section 2.2.1).
    #[must_use]
    pub fn additional_ke(place: usize) -> Option<Self> {
        u8::try_from(place).ok().filter(|place| *place < 7).map(|place| Self(Self::ADDKE1.0 + place))
    }

    /// Is it one of an additional key exchange?
    #[must_use]
    pub fn is_additional_ke(self) -> bool {
        (Self::ADDKE1.0..Self::ADDKE1.0 + 7).contains(&self.0)
    }
}

/// Encryption algorithms (transform type 1).
pub mod encr {
    /// ENCR_3DES (RFC 2451).
    pub const TRIPLE_DES: u16 = 3;
    /// ENCR_NULL (RFC 2410), of data SAs alone.
    pub const NULL: u16 = 11;
    /// ENCR_AES_CBC (RFC 3602).
    pub const AES_CBC: u16 = 12;
    /// ENCR_AES_CTR (RFC 3686).
    pub const AES_CTR: u16 = 13;
    /// AES-CCM with an ICV of 8 octets (RFC 4309, RFC 5282).
    pub const AES_CCM_8: u16 = 14;
    /// AES-CCM with an ICV of 12 octets.
    pub const AES_CCM_12: u16 = 15;
    /// AES-CCM with an ICV of 16 octets.
    pub const AES_CCM_16: u16 = 16;
    /// AES-GCM with an ICV of 8 octets (RFC 4106, RFC 5282).
    pub const AES_GCM_8: u16 = 18;
    /// AES-GCM with an ICV of 12 octets.
    pub const AES_GCM_12: u16 = 19;
    /// AES-GCM with an ICV of 16 octets.
    pub const AES_GCM_16: u16 = 20;
    /// AES-GMAC without encryption (RFC 4543).
    pub const NULL_AUTH_AES_GMAC: u16 = 21;
    /// ChaCha20-Poly1305 (RFC 7634).
    pub const CHACHA20_POLY1305: u16 = 28;
}

/// Pseudorandom functions (transform type 2).
pub mod prf {
    /// PRF_HMAC_SHA1.
    pub const HMAC_SHA1: u16 = 2;
    /// PRF_HMAC_SHA2_256.
    pub const HMAC_SHA2_256: u16 = 5;
    /// PRF_HMAC_SHA2_384.
    pub const HMAC_SHA2_384: u16 = 6;
    /// PRF_HMAC_SHA2_512.
    pub const HMAC_SHA2_512: u16 = 7;
}

/// Integrity algorithms (transform type 3).
pub mod integ {
    /// NONE.
    pub const NONE: u16 = 0;
    /// AUTH_HMAC_SHA1_96.
    pub const HMAC_SHA1_96: u16 = 2;
    /// AUTH_HMAC_SHA2_256_128.
    pub const HMAC_SHA2_256_128: u16 = 12;
    /// AUTH_HMAC_SHA2_384_192.
    pub const HMAC_SHA2_384_192: u16 = 13;
    /// AUTH_HMAC_SHA2_512_256.
    pub const HMAC_SHA2_512_256: u16 = 14;
}

/// Key exchange methods (transform type 4, and those of additional key exchanges).
pub mod ke {
    /// NONE: no such additional key exchange (RFC 9370 section 2.2.1).
    pub const NONE: u16 = 0;
    /// 1024-bit MODP.
    pub const MODP_1024: u16 = 2;
    /// 1536-bit MODP.
    pub const MODP_1536: u16 = 5;
    /// 2048-bit MODP.
    pub const MODP_2048: u16 = 14;
    /// 3072-bit MODP.
    pub const MODP_3072: u16 = 15;
    /// 4096-bit MODP.
    pub const MODP_4096: u16 = 16;
    /// 6144-bit MODP.
    pub const MODP_6144: u16 = 17;
    /// 8192-bit MODP.
    pub const MODP_8192: u16 = 18;
    /// 256-bit random ECP.
    pub const ECP_256: u16 = 19;
    /// 384-bit random ECP.
    pub const ECP_384: u16 = 20;
    /// 521-bit random ECP.
    pub const ECP_521: u16 = 21;
    /// 2048-bit MODP with a subgroup of 256 bits.
    pub const MODP_2048_256: u16 = 24;
    /// Brainpool P224r1 (RFC 6954).
    pub const BRAINPOOL_P224R1: u16 = 27;
    /// Brainpool P256r1.
    pub const BRAINPOOL_P256R1: u16 = 28;
    /// Brainpool P384r1.
    pub const BRAINPOOL_P384R1: u16 = 29;
    /// Brainpool P512r1.
    pub const BRAINPOOL_P512R1: u16 = 30;
    /// Curve25519 (RFC 8031).
    pub const CURVE25519: u16 = 31;
    /// Curve448 (RFC 8031).
    pub const CURVE448: u16 = 32;
    /// ML-KEM-512 (draft-ietf-ipsecme-ikev2-mlkem).
    pub const ML_KEM_512: u16 = 35;
    /// ML-KEM-768.
    pub const ML_KEM_768: u16 = 36;
    /// ML-KEM-1024.
    pub const ML_KEM_1024: u16 = 37;
}

/// Sequence numbers (transform type 5, RFC 9827).
pub mod sn {
    /// 32-bit Sequential Numbers.
    pub const SEQUENTIAL_32: u16 = 0;
    /// Partially Transmitted 64-bit Sequential Numbers.
    pub const PARTIAL_64: u16 = 1;
    /// 32-bit Unspecified Numbers.
    pub const UNSPECIFIED_32: u16 = 2;
}

/// Key wrap algorithms (transform type 13).
pub mod kwa {
    /// AES key wrap with padding (RFC 5649), 128-bit key.
    pub const KW_5649_128: u16 = 1;
    /// AES key wrap with padding, 192-bit key.
    pub const KW_5649_192: u16 = 2;
    /// AES key wrap with padding, 256-bit key.
    pub const KW_5649_256: u16 = 3;
}

/// Group controller authentication methods (transform type 14).
pub mod gcauth {
    /// Whoever has the group's keys is believed.
    pub const IMPLICIT: u16 = 1;
    /// The GCKS signs.
    pub const DIGITAL_SIGNATURE: u16 = 2;
}

/// Transform attributes (RFC 7296 section 3.3.5, RFC 9838 section 9.3).
pub mod transform_attribute {
    /// Key Length in bits, TV.
    pub const KEY_LENGTH: u16 = 14;
    /// Signature Algorithm Identifier, TLV, DER.
    pub const SIGNATURE_ALGORITHM: u16 = 18;
}

/// GSA attributes (RFC 9838 section 4.4.2.2).
pub mod gsa_attribute {
    /// GSA_KEY_LIFETIME, TLV, seconds in 4 octets.
    pub const KEY_LIFETIME: u16 = 1;
    /// GSA_INITIAL_MESSAGE_ID, TLV, 4 octets.
    pub const INITIAL_MESSAGE_ID: u16 = 2;
    /// GSA_NEXT_SPI, TLV, several.
    pub const NEXT_SPI: u16 = 3;
}

/// Group-wide policy attributes (RFC 9838 section 4.4.3.1).
pub mod gw_attribute {
    /// GWP_ATD, TV, seconds.
    pub const ATD: u16 = 1;
    /// GWP_DTD, TV, seconds.
    pub const DTD: u16 = 2;
    /// GWP_SENDER_ID_BITS, TV.
    pub const SENDER_ID_BITS: u16 = 3;
}

/// Key bag attributes (RFC 9838 sections 4.5.2 and 4.5.3).
pub mod bag_attribute {
    /// SA_KEY of a group key bag, TLV.
    pub const SA_KEY: u16 = 1;
    /// WRAP_KEY of a member key bag, TLV, several.
    pub const WRAP_KEY: u16 = 1;
    /// AUTH_KEY of a member key bag, TLV.
    pub const AUTH_KEY: u16 = 2;
    /// GM_SENDER_ID of a member key bag, TLV, several.
    pub const GM_SENDER_ID: u16 = 3;
}

numbers! {
    /// Notify message type (RFC 7296 section 3.10.1, RFC 9838 section 4.7). Below 16384: errors.
    NotifyType: u16 {
        /// A payload with the critical bit is not understood.
        UNSUPPORTED_CRITICAL_PAYLOAD = 1,
        /// The SPIs name no IKE SA here.
        INVALID_IKE_SPI = 4,
        /// A major version we do not speak.
        INVALID_MAJOR_VERSION = 5,
        /// Something is out of range or malformed.
        INVALID_SYNTAX = 7,
        /// A message ID outside the window.
        INVALID_MESSAGE_ID = 9,
        /// None of the proposals is acceptable.
        NO_PROPOSAL_CHOSEN = 14,
        /// Another key exchange group is wanted; its number follows.
        INVALID_KE_PAYLOAD = 17,
        /// The peer did not authenticate.
        AUTHENTICATION_FAILED = 24,
        /// No Child SA will be made on this IKE SA.
        NO_ADDITIONAL_SAS = 35,
        /// The traffic selectors suit nothing.
        TS_UNACCEPTABLE = 38,
        /// Not now; perhaps later.
        TEMPORARY_FAILURE = 43,
        /// The Child SA to be replaced does not exist.
        CHILD_SA_NOT_FOUND = 44,
        /// No such group.
        INVALID_GROUP_ID = 45,
        /// The member may not join.
        AUTHORIZATION_FAILED = 46,
        /// Nothing is known of what the request goes on with (RFC 9370).
        STATE_NOT_FOUND = 47,
        /// The group cannot take the member, or the member leaves.
        REGISTRATION_FAILED = 49,
        /// The only IKE SA of this identity.
        INITIAL_CONTACT = 16384,
        /// Hash of the sender's address and port.
        NAT_DETECTION_SOURCE_IP = 16388,
        /// Hash of the receiver's address and port.
        NAT_DETECTION_DESTINATION_IP = 16389,
        /// Prove that you receive at your address.
        COOKIE = 16390,
        /// Transport mode.
        USE_TRANSPORT_MODE = 16391,
        /// The Child SA that is to be replaced.
        REKEY_SA = 16393,
        /// The initiator may be sent to another gateway (RFC 5685).
        REDIRECT_SUPPORTED = 16406,
        /// To this one.
        REDIRECT = 16407,
        /// This one sent us.
        REDIRECTED_FROM = 16408,
        /// A ticket with its lifetime (RFC 5723).
        TICKET_LT_OPAQUE = 16409,
        /// The wish for one.
        TICKET_REQUEST = 16410,
        /// There will be one, if it is asked for again.
        TICKET_ACK = 16411,
        /// There is none, or this one is not taken.
        TICKET_NACK = 16412,
        /// A ticket that is shown.
        TICKET_OPAQUE = 16413,
        /// IKE SAs without a Child SA are possible (RFC 6023).
        CHILDLESS_IKEV2_SUPPORTED = 16418,
        /// The member will send, and wants so many sender IDs.
        GROUP_SENDER = 16429,
        /// Messages may be cut up (RFC 7383).
        IKEV2_FRAGMENTATION_SUPPORTED = 16430,
        /// Hash algorithms for signatures (RFC 7427).
        SIGNATURE_HASH_ALGORITHMS = 16431,
        /// A postquantum preshared key is to be used (RFC 8784).
        USE_PPK = 16435,
        /// Which one.
        PPK_IDENTITY = 16436,
        /// AUTH without it.
        NO_PPK_AUTH = 16437,
        /// IKE_INTERMEDIATE is understood (RFC 9242).
        INTERMEDIATE_EXCHANGE_SUPPORTED = 16438,
        /// A key exchange follows, and this links it to those before (RFC 9370).
        ADDITIONAL_KEY_EXCHANGE = 16441,
        /// GSA_REKEY is acknowledged: our own, of the range for private use, beside our Vendor ID.
        REKEY_ACK = 40960,
    }
}

impl NotifyType {
    /// Does it report an error (RFC 7296 section 3.10.1)?
    #[must_use]
    pub fn is_error(self) -> bool {
        self.0 < 16384
    }
}

numbers! {
    /// How a gateway is named in a redirect (RFC 5685 section 12).
    GatewayIdType: u8 {
        /// IPv4 address.
        IPV4 = 1,
        /// IPv6 address.
        IPV6 = 2,
        /// FQDN.
        FQDN = 3,
    }
}

numbers! {
    /// Authentication method (RFC 7296 section 3.8, RFC 7427).
    AuthMethod: u8 {
        /// RSA signature with SHA-1.
        RSA = 1,
        /// Shared key.
        SHARED_KEY = 2,
        /// ECDSA on P-256 with SHA-256 (RFC 4754).
        ECDSA_256 = 9,
        /// ECDSA on P-384 with SHA-384.
        ECDSA_384 = 10,
        /// ECDSA on P-521 with SHA-512.
        ECDSA_521 = 11,
        /// Signature with an AlgorithmIdentifier in front.
        DIGITAL_SIGNATURE = 14,
    }
}

numbers! {
    /// Hash algorithm for signatures (RFC 7427 section 7, RFC 8420 section 3).
    HashAlgorithm: u16 {
        /// SHA-1.
        SHA1 = 1,
        /// SHA2-256.
        SHA2_256 = 2,
        /// SHA2-384.
        SHA2_384 = 3,
        /// SHA2-512.
        SHA2_512 = 4,
        /// None: the algorithm takes the octets as they are.
        IDENTITY = 5,
    }
}

numbers! {
    /// Certificate encoding (RFC 7296 section 3.6).
    CertEncoding: u8 {
        /// X.509 certificate for signatures.
        X509_SIGNATURE = 4,
        /// Certificate revocation list.
        CRL = 7,
        /// Hash and URL of an X.509 certificate.
        HASH_AND_URL = 12,
        /// Hash and URL of a bundle of them.
        HASH_AND_URL_OF_BUNDLE = 13,
    }
}

numbers! {
    /// Identification type (RFC 7296 section 3.5).
    IdType: u8 {
        /// An IPv4 address.
        IPV4_ADDR = 1,
        /// A domain name.
        FQDN = 2,
        /// A mail address.
        RFC822_ADDR = 3,
        /// An IPv6 address.
        IPV6_ADDR = 5,
        /// A distinguished name in DER.
        DER_ASN1_DN = 9,
        /// Opaque octets.
        KEY_ID = 11,
    }
}

numbers! {
    /// Traffic selector type (RFC 7296 section 3.13.1).
    TsType: u8 {
        /// Range of IPv4 addresses.
        IPV4_ADDR_RANGE = 7,
        /// Range of IPv6 addresses.
        IPV6_ADDR_RANGE = 8,
    }
}

/// Flags of the IKE header (RFC 7296 section 3.1).
pub mod flags {
    /// Sent by the initiator of the IKE SA.
    pub const INITIATOR: u8 = 0x08;
    /// The sender could speak a higher major version.
    pub const VERSION: u8 = 0x10;
    /// A response.
    pub const RESPONSE: u8 = 0x20;
}

/// Critical bit of a generic payload header.
pub const CRITICAL: u8 = 0x80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_show_their_names() {
        assert_eq!(format!("{:?}", ExchangeType::GSA_REKEY), "GSA_REKEY");
        assert_eq!(format!("{:?}", NotifyType(9999)), "NotifyType(9999)");
    }

    #[test]
    fn errors_end_where_status_begins() {
        assert!(NotifyType::REGISTRATION_FAILED.is_error());
        assert!(!NotifyType::INITIAL_CONTACT.is_error());
    }
}
