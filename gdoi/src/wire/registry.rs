//! Numbers of ISAKMP, IKEv1 and GDOI, as IANA has them.

/// Payload types (RFC 2408 section 3.1, RFC 6407 section 5).
pub mod payload {
    /// Security Association.
    pub const SA: u8 = 1;
    /// Proposal, inside SA.
    pub const PROPOSAL: u8 = 2;
    /// Transform, inside Proposal.
    pub const TRANSFORM: u8 = 3;
    /// Key Exchange.
    pub const KE: u8 = 4;
    /// Identification.
    pub const ID: u8 = 5;
    /// Certificate.
    pub const CERT: u8 = 6;
    /// Certificate Request.
    pub const CERT_REQUEST: u8 = 7;
    /// Hash.
    pub const HASH: u8 = 8;
    /// Signature.
    pub const SIG: u8 = 9;
    /// Nonce.
    pub const NONCE: u8 = 10;
    /// Notification.
    pub const NOTIFICATION: u8 = 11;
    /// Delete.
    pub const DELETE: u8 = 12;
    /// Vendor ID.
    pub const VENDOR_ID: u8 = 13;
    /// SA KEK.
    pub const SAK: u8 = 15;
    /// SA TEK.
    pub const SAT: u8 = 16;
    /// Key Download.
    pub const KD: u8 = 17;
    /// Sequence Number.
    pub const SEQ: u8 = 18;
    /// NAT Discovery (RFC 3947).
    pub const NAT_D: u8 = 20;
    /// Group Associated Policy.
    pub const GAP: u8 = 22;
    /// Fragment, of the private range; all vendors use this one.
    pub const FRAGMENT: u8 = 132;
}

/// Exchange types (RFC 2408 section 3.1, RFC 8263 section 8).
pub mod exchange {
    /// Identity Protection, IKEv1's main mode.
    pub const MAIN_MODE: u8 = 2;
    /// Aggressive, IKEv1's aggressive mode.
    pub const AGGRESSIVE: u8 = 4;
    /// Informational.
    pub const INFORMATIONAL: u8 = 5;
    /// GROUPKEY-PULL.
    pub const PULL: u8 = 32;
    /// GROUPKEY-PUSH.
    pub const PUSH: u8 = 33;
    /// GROUPKEY-PUSH-ACK.
    pub const PUSH_ACK: u8 = 35;
}

/// Header flags (RFC 2408 section 3.1).
pub mod flag {
    /// Payloads after the header are encrypted.
    pub const ENCRYPTED: u8 = 0x01;
    /// Wait for a notice before the keys are used.
    pub const COMMIT: u8 = 0x02;
}

/// Attribute classes of phase 1 (RFC 2409 appendix A).
pub mod phase1_attribute {
    /// Encryption algorithm.
    pub const ENCRYPTION: u16 = 1;
    /// Hash algorithm.
    pub const HASH: u16 = 2;
    /// Authentication method.
    pub const AUTHENTICATION: u16 = 3;
    /// Group description.
    pub const GROUP: u16 = 4;
    /// Life type.
    pub const LIFE_TYPE: u16 = 11;
    /// Life duration.
    pub const LIFE_DURATION: u16 = 12;
    /// Key length in bits.
    pub const KEY_LENGTH: u16 = 14;
}

/// Values of the phase 1 attributes.
pub mod phase1 {
    /// 3DES-CBC as encryption algorithm (RFC 2409 appendix A).
    pub const TRIPLE_DES_CBC: u16 = 5;
    /// AES-CBC as encryption algorithm (RFC 3602 section 5.3).
    pub const AES_CBC: u16 = 7;
    /// Pre-shared key as authentication method.
    pub const PRE_SHARED_KEY: u16 = 1;
    /// RSA signatures as authentication method.
    pub const RSA_SIGNATURES: u16 = 3;
    /// ECDSA with SHA-256 on P-256 as authentication method (RFC 4754).
    pub const ECDSA_256: u16 = 9;
    /// ECDSA with SHA-384 on P-384 as authentication method (RFC 4754).
    pub const ECDSA_384: u16 = 10;
    /// ECDSA with SHA-512 on P-521 as authentication method (RFC 4754).
    pub const ECDSA_521: u16 = 11;
    /// KEY_IKE, the only transform ID of phase 1 (RFC 2407 section 4.4.2.1).
    pub const KEY_IKE: u8 = 1;
    /// PROTO_ISAKMP (RFC 2407 section 4.4.1.1).
    pub const PROTO_ISAKMP: u8 = 1;
    /// Seconds as life type, here and in data SAs.
    pub const SECONDS: u16 = 1;
    /// Kilobytes as life type.
    pub const KILOBYTES: u16 = 2;
}

/// Attribute classes of ESP SAs (RFC 2407 section 4.5, RFC 6407 section 5.5.1.1 and IANA).
pub mod esp_attribute {
    /// SA life type.
    pub const LIFE_TYPE: u16 = 1;
    /// SA life duration.
    pub const LIFE_DURATION: u16 = 2;
    /// Group description; ignored in GDOI.
    pub const GROUP: u16 = 3;
    /// Encapsulation mode.
    pub const ENCAPSULATION: u16 = 4;
    /// Authentication algorithm.
    pub const AUTHENTICATION: u16 = 5;
    /// Key length in bits.
    pub const KEY_LENGTH: u16 = 6;
    /// ECN tunnel (RFC 3168 section 9.2.1.2).
    pub const ECN_TUNNEL: u16 = 10;
    /// Extended sequence numbers (RFC 4304).
    pub const EXTENDED_SEQUENCE: u16 = 11;
    /// Address preservation.
    pub const ADDRESS_PRESERVATION: u16 = 14;
    /// SA direction.
    pub const DIRECTION: u16 = 15;
}

/// Values of the ESP attributes, and transform IDs.
pub mod esp {
    /// ESP_3DES (RFC 2407 section 4.4.4).
    pub const TRIPLE_DES: u8 = 3;
    /// ESP_NULL (RFC 2407 section 4.4.4, RFC 2410).
    pub const NULL: u8 = 11;
    /// AES-CBC as transform (RFC 3602 section 5.1).
    pub const AES_CBC: u8 = 12;
    /// AES in counter mode as transform (RFC 3686 section 9).
    pub const AES_CTR: u8 = 13;
    /// AES-CCM with an ICV of 8 octets as transform (RFC 4309 section 7.2).
    pub const AES_CCM_8: u8 = 14;
    /// AES-CCM with an ICV of 12 octets.
    pub const AES_CCM_12: u8 = 15;
    /// AES-CCM with an ICV of 16 octets.
    pub const AES_CCM_16: u8 = 16;
    /// AES-GCM with an ICV of 8 octets as transform (RFC 4106 section 8.2).
    pub const AES_GCM_8: u8 = 18;
    /// AES-GCM with an ICV of 12 octets.
    pub const AES_GCM_12: u8 = 19;
    /// AES-GCM with an ICV of 16 octets.
    pub const AES_GCM_16: u8 = 20;
    /// AES-GMAC without encryption as transform (RFC 4543 section 9).
    pub const NULL_AES_GMAC: u8 = 23;
    /// HMAC-SHA1.
    pub const HMAC_SHA1: u16 = 2;
    /// HMAC-SHA2-256.
    pub const HMAC_SHA2_256: u16 = 5;
    /// HMAC-SHA2-384.
    pub const HMAC_SHA2_384: u16 = 6;
    /// HMAC-SHA2-512.
    pub const HMAC_SHA2_512: u16 = 7;
    /// Tunnel mode.
    pub const TUNNEL: u16 = 1;
    /// Transport mode.
    pub const TRANSPORT: u16 = 2;
    /// No address is preserved.
    pub const PRESERVE_NONE: u16 = 1;
    /// The source alone is preserved.
    pub const SOURCE_ONLY: u16 = 2;
    /// The destination alone is preserved.
    pub const DESTINATION_ONLY: u16 = 3;
    /// Both addresses are preserved.
    pub const SOURCE_AND_DESTINATION: u16 = 4;
    /// ECN is allowed in the tunnel.
    pub const ECN_ALLOWED: u16 = 1;
    /// For senders only.
    pub const SENDER_ONLY: u16 = 1;
    /// For receivers only.
    pub const RECEIVER_ONLY: u16 = 2;
    /// In both directions.
    pub const SYMMETRIC: u16 = 3;
}

/// Protocol IDs in SA TEK and Delete (RFC 6407 sections 5.5 and 5.9).
pub mod protocol {
    /// The KEK, in Delete.
    pub const KEK: u8 = 0;
    /// GDOI_PROTO_IPSEC_ESP.
    pub const ESP: u8 = 1;
    /// GDOI_PROTO_IPSEC_AH.
    pub const AH: u8 = 2;
    /// GDOI_PROTO_IEC_61850 (RFC 8052 section 4).
    pub const IEC_61850: u8 = 3;
    /// PROTO_IPSEC_ESP of RFC 2407, seen in Deletes.
    pub const IPSEC_ESP: u8 = 3;
}

/// Algorithms of IEC 61850 SA TEKs (RFC 8052 section 4).
pub mod iec61850 {
    /// NONE as authentication.
    pub const AUTH_NONE: u16 = 1;
    /// HMAC-SHA256-128.
    pub const HMAC_SHA256_128: u16 = 2;
    /// HMAC-SHA256.
    pub const HMAC_SHA256: u16 = 3;
    /// AES-GMAC-128.
    pub const AES_GMAC_128: u16 = 4;
    /// AES-GMAC-256.
    pub const AES_GMAC_256: u16 = 5;
    /// NONE as confidentiality.
    pub const ENC_NONE: u16 = 1;
    /// AES-CBC-128.
    pub const AES_CBC_128: u16 = 2;
    /// AES-CBC-256.
    pub const AES_CBC_256: u16 = 3;
    /// AES-GCM-128.
    pub const AES_GCM_128: u16 = 4;
    /// AES-GCM-256.
    pub const AES_GCM_256: u16 = 5;
}

/// Attribute classes of IEC 61850 SA TEKs (RFC 8052 sections 2.2.4 and 4).
pub mod stream_attribute {
    /// SA_ATD, in seconds.
    pub const ATD: u16 = 1;
    /// SA_KDA, per cent.
    pub const KDA: u16 = 2;
}

/// Attribute classes of SA KEK (RFC 6407 section 5.3, RFC 8263 section 2).
pub mod kek_attribute {
    /// KEK_MANAGEMENT_ALGORITHM.
    pub const MANAGEMENT: u16 = 1;
    /// KEK_ALGORITHM.
    pub const ALGORITHM: u16 = 2;
    /// KEK_KEY_LENGTH, in bits.
    pub const KEY_LENGTH: u16 = 3;
    /// KEK_KEY_LIFETIME, in seconds.
    pub const LIFETIME: u16 = 4;
    /// SIG_HASH_ALGORITHM.
    pub const SIG_HASH: u16 = 5;
    /// SIG_ALGORITHM.
    pub const SIG_ALGORITHM: u16 = 6;
    /// SIG_KEY_LENGTH, in bits.
    pub const SIG_KEY_LENGTH: u16 = 7;
    /// KEK_ACK_REQUESTED.
    pub const ACK_REQUESTED: u16 = 9;
}

/// Values of the SA KEK attributes.
pub mod kek {
    /// LKH as management algorithm.
    pub const LKH: u16 = 1;
    /// KEK_ALG_3DES.
    pub const TRIPLE_DES: u16 = 2;
    /// KEK_ALG_AES.
    pub const AES: u16 = 3;
    /// SIG_HASH_SHA1.
    pub const SHA1: u16 = 2;
    /// SIG_HASH_SHA256.
    pub const SHA256: u16 = 3;
    /// SIG_HASH_SHA384.
    pub const SHA384: u16 = 4;
    /// SIG_HASH_SHA512.
    pub const SHA512: u16 = 5;
    /// SIG_ALG_RSA.
    pub const RSA: u16 = 1;
    /// SIG_ALG_ECDSA-256.
    pub const ECDSA_256: u16 = 4;
    /// SIG_ALG_ECDSA-384.
    pub const ECDSA_384: u16 = 5;
    /// SIG_ALG_ECDSA-521.
    pub const ECDSA_521: u16 = 6;
    /// REKEY_ACK_KEK_SHA256.
    pub const ACK_KEK_SHA256: u16 = 1;
    /// REKEY_ACK_LKH_SHA256.
    pub const ACK_LKH_SHA256: u16 = 2;
    /// REKEY_ACK_KEK_SHA512.
    pub const ACK_KEK_SHA512: u16 = 3;
    /// REKEY_ACK_LKH_SHA512.
    pub const ACK_LKH_SHA512: u16 = 4;
}

/// Attribute classes of GAP (RFC 6407 section 5.4).
pub mod gap_attribute {
    /// ACTIVATION_TIME_DELAY, in seconds.
    pub const ATD: u16 = 1;
    /// DEACTIVATION_TIME_DELAY, in seconds.
    pub const DTD: u16 = 2;
    /// SENDER_ID_REQUEST, a count.
    pub const SENDER_ID_REQUEST: u16 = 3;
}

/// Attribute classes of key packets (RFC 6407 sections 5.6.1 to 5.6.4).
pub mod key_attribute {
    /// TEK_ALGORITHM_KEY.
    pub const TEK_ALGORITHM_KEY: u16 = 1;
    /// TEK_INTEGRITY_KEY.
    pub const TEK_INTEGRITY_KEY: u16 = 2;
    /// KEK_ALGORITHM_KEY.
    pub const KEK_ALGORITHM_KEY: u16 = 1;
    /// SIG_ALGORITHM_KEY in a KEK packet.
    pub const KEK_SIG_KEY: u16 = 2;
    /// LKH_DOWNLOAD_ARRAY.
    pub const LKH_DOWNLOAD_ARRAY: u16 = 1;
    /// LKH_UPDATE_ARRAY.
    pub const LKH_UPDATE_ARRAY: u16 = 2;
    /// SIG_ALGORITHM_KEY in an LKH packet.
    pub const LKH_SIG_KEY: u16 = 3;
    /// NUMBER_OF_SID_BITS.
    pub const SID_BITS: u16 = 1;
    /// SID_VALUE.
    pub const SID_VALUE: u16 = 2;
}

/// Domain of interpretation of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Doi(pub u32);

impl Doi {
    /// ISAKMP itself, for phase 1.
    pub const ISAKMP: Doi = Doi(0);
    /// IPsec (RFC 2407).
    pub const IPSEC: Doi = Doi(1);
    /// GDOI (RFC 6407).
    pub const GDOI: Doi = Doi(2);
}

/// Type of an identity (RFC 2407 section 4.6.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IdType(pub u8);

impl IdType {
    /// ID_IPV4_ADDR.
    pub const IPV4_ADDR: IdType = IdType(1);
    /// ID_FQDN.
    pub const FQDN: IdType = IdType(2);
    /// ID_USER_FQDN.
    pub const USER_FQDN: IdType = IdType(3);
    /// ID_IPV4_ADDR_SUBNET.
    pub const IPV4_ADDR_SUBNET: IdType = IdType(4);
    /// ID_IPV6_ADDR.
    pub const IPV6_ADDR: IdType = IdType(5);
    /// ID_IPV6_ADDR_SUBNET.
    pub const IPV6_ADDR_SUBNET: IdType = IdType(6);
    /// ID_IPV4_ADDR_RANGE.
    pub const IPV4_ADDR_RANGE: IdType = IdType(7);
    /// ID_IPV6_ADDR_RANGE.
    pub const IPV6_ADDR_RANGE: IdType = IdType(8);
    /// ID_DER_ASN1_DN.
    pub const DER_ASN1_DN: IdType = IdType(9);
    /// ID_KEY_ID.
    pub const KEY_ID: IdType = IdType(11);
    /// ID_OID (RFC 8052 section 4).
    pub const OID: IdType = IdType(13);

    /// Octets of identification data, where the type fixes them.
    #[must_use]
    pub fn fixed_len(self) -> Option<usize> {
        match self {
            IdType::IPV4_ADDR => Some(4),
            IdType::IPV4_ADDR_SUBNET | IdType::IPV4_ADDR_RANGE => Some(8),
            IdType::IPV6_ADDR => Some(16),
            IdType::IPV6_ADDR_SUBNET | IdType::IPV6_ADDR_RANGE => Some(32),
            _ => None,
        }
    }
}

/// Type of a notification (RFC 2408 section 3.14.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NotifyType(pub u16);

impl NotifyType {
    /// INVALID-COOKIE.
    pub const INVALID_COOKIE: NotifyType = NotifyType(4);
    /// INVALID-SPI.
    pub const INVALID_SPI: NotifyType = NotifyType(11);
    /// NO-PROPOSAL-CHOSEN.
    pub const NO_PROPOSAL_CHOSEN: NotifyType = NotifyType(14);
    /// INVALID-ID-INFORMATION.
    pub const INVALID_ID_INFORMATION: NotifyType = NotifyType(18);
    /// CERT-TYPE-UNSUPPORTED.
    pub const CERT_TYPE_UNSUPPORTED: NotifyType = NotifyType(21);
    /// AUTHENTICATION-FAILED.
    pub const AUTHENTICATION_FAILED: NotifyType = NotifyType(24);
    /// RESPONDER-LIFETIME (RFC 2407 section 4.6.3.1).
    pub const RESPONDER_LIFETIME: NotifyType = NotifyType(24_576);
    /// INITIAL-CONTACT (RFC 2407 section 4.6.3.3).
    pub const INITIAL_CONTACT: NotifyType = NotifyType(24_578);
    /// R-U-THERE (RFC 3706 section 5.2).
    pub const R_U_THERE: NotifyType = NotifyType(36_136);
    /// R-U-THERE-ACK (RFC 3706 section 5.2).
    pub const R_U_THERE_ACK: NotifyType = NotifyType(36_137);

    /// Does it report an error rather than a status?
    #[must_use]
    pub fn is_error(self) -> bool {
        self.0 < 16_384
    }

    /// Its name, for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            NotifyType::INVALID_COOKIE => "INVALID-COOKIE",
            NotifyType::INVALID_SPI => "INVALID-SPI",
            NotifyType::NO_PROPOSAL_CHOSEN => "NO-PROPOSAL-CHOSEN",
            NotifyType::INVALID_ID_INFORMATION => "INVALID-ID-INFORMATION",
            NotifyType::CERT_TYPE_UNSUPPORTED => "CERT-TYPE-UNSUPPORTED",
            NotifyType::AUTHENTICATION_FAILED => "AUTHENTICATION-FAILED",
            _ => "another error",
        }
    }
}

/// Encoding of a certificate (RFC 2408 section 3.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CertEncoding(pub u8);

impl CertEncoding {
    /// X.509 certificate for signatures.
    pub const X509_SIGNATURE: CertEncoding = CertEncoding(4);
    /// Certificate revocation list.
    pub const CRL: CertEncoding = CertEncoding(7);
}

/// Type of a key packet (RFC 6407 section 5.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyPacketType(pub u8);

impl KeyPacketType {
    /// Keys of a data SA.
    pub const TEK: KeyPacketType = KeyPacketType(1);
    /// A single key-encrypting key.
    pub const KEK: KeyPacketType = KeyPacketType(2);
    /// Keys of a key tree.
    pub const LKH: KeyPacketType = KeyPacketType(3);
    /// Sender IDs.
    pub const SID: KeyPacketType = KeyPacketType(4);
}
