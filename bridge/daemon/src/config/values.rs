//! Values with a text form of their own: networks, protocols of IP, algorithms.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use keyferry_crypto::x509::DistinguishedName;
use keyferry_crypto::{
    Aead, AesCtr, BlockCipher, Hash, Integrity, KeGroup, KeyKind, SignatureAlgorithm, SignatureScheme,
};
use keyferry_model::flows::{Flow, Flows};
use keyferry_model::policy::{AckType, EspTransform, RekeyProtection, RekeyTransport, Selector};

/// ESP transforms by name.
pub(crate) const TRANSFORMS: &[(&str, EspTransform)] = &[
    ("aes-128-gcm", EspTransform::Aead(Aead::Aes128Gcm16)),
    ("aes-192-gcm", EspTransform::Aead(Aead::Aes192Gcm16)),
    ("aes-256-gcm", EspTransform::Aead(Aead::Aes256Gcm16)),
    ("aes-128-gcm-12", EspTransform::Aead(Aead::Aes128Gcm12)),
    ("aes-192-gcm-12", EspTransform::Aead(Aead::Aes192Gcm12)),
    ("aes-256-gcm-12", EspTransform::Aead(Aead::Aes256Gcm12)),
    ("aes-128-ccm", EspTransform::Aead(Aead::Aes128Ccm16)),
    ("aes-192-ccm", EspTransform::Aead(Aead::Aes192Ccm16)),
    ("aes-256-ccm", EspTransform::Aead(Aead::Aes256Ccm16)),
    ("aes-128-ccm-12", EspTransform::Aead(Aead::Aes128Ccm12)),
    ("aes-192-ccm-12", EspTransform::Aead(Aead::Aes192Ccm12)),
    ("aes-256-ccm-12", EspTransform::Aead(Aead::Aes256Ccm12)),
    ("chacha20-poly1305", EspTransform::Aead(Aead::ChaCha20Poly1305)),
    ("null-auth-aes-128-gmac", EspTransform::Gmac(Aead::Aes128Gcm16)),
    ("null-auth-aes-192-gmac", EspTransform::Gmac(Aead::Aes192Gcm16)),
    ("null-auth-aes-256-gmac", EspTransform::Gmac(Aead::Aes256Gcm16)),
    ("aes-128-cbc-hmac-sha2-256", EspTransform::CbcHmac(BlockCipher::Aes128Cbc, Integrity::HmacSha256_128)),
    ("aes-192-cbc-hmac-sha2-256", EspTransform::CbcHmac(BlockCipher::Aes192Cbc, Integrity::HmacSha256_128)),
    ("aes-256-cbc-hmac-sha2-256", EspTransform::CbcHmac(BlockCipher::Aes256Cbc, Integrity::HmacSha256_128)),
    ("aes-128-cbc-hmac-sha2-384", EspTransform::CbcHmac(BlockCipher::Aes128Cbc, Integrity::HmacSha384_192)),
    ("aes-192-cbc-hmac-sha2-384", EspTransform::CbcHmac(BlockCipher::Aes192Cbc, Integrity::HmacSha384_192)),
    ("aes-256-cbc-hmac-sha2-384", EspTransform::CbcHmac(BlockCipher::Aes256Cbc, Integrity::HmacSha384_192)),
    ("aes-128-cbc-hmac-sha2-512", EspTransform::CbcHmac(BlockCipher::Aes128Cbc, Integrity::HmacSha512_256)),
    ("aes-192-cbc-hmac-sha2-512", EspTransform::CbcHmac(BlockCipher::Aes192Cbc, Integrity::HmacSha512_256)),
    ("aes-256-cbc-hmac-sha2-512", EspTransform::CbcHmac(BlockCipher::Aes256Cbc, Integrity::HmacSha512_256)),
    ("aes-128-ctr-hmac-sha2-256", EspTransform::CtrHmac(AesCtr::Aes128Ctr, Integrity::HmacSha256_128)),
    ("aes-192-ctr-hmac-sha2-256", EspTransform::CtrHmac(AesCtr::Aes192Ctr, Integrity::HmacSha256_128)),
    ("aes-256-ctr-hmac-sha2-256", EspTransform::CtrHmac(AesCtr::Aes256Ctr, Integrity::HmacSha256_128)),
    ("aes-128-ctr-hmac-sha2-384", EspTransform::CtrHmac(AesCtr::Aes128Ctr, Integrity::HmacSha384_192)),
    ("aes-192-ctr-hmac-sha2-384", EspTransform::CtrHmac(AesCtr::Aes192Ctr, Integrity::HmacSha384_192)),
    ("aes-256-ctr-hmac-sha2-384", EspTransform::CtrHmac(AesCtr::Aes256Ctr, Integrity::HmacSha384_192)),
    ("aes-128-ctr-hmac-sha2-512", EspTransform::CtrHmac(AesCtr::Aes128Ctr, Integrity::HmacSha512_256)),
    ("aes-192-ctr-hmac-sha2-512", EspTransform::CtrHmac(AesCtr::Aes192Ctr, Integrity::HmacSha512_256)),
    ("aes-256-ctr-hmac-sha2-512", EspTransform::CtrHmac(AesCtr::Aes256Ctr, Integrity::HmacSha512_256)),
    ("null-hmac-sha2-256", EspTransform::NullHmac(Integrity::HmacSha256_128)),
    ("null-hmac-sha2-384", EspTransform::NullHmac(Integrity::HmacSha384_192)),
    ("null-hmac-sha2-512", EspTransform::NullHmac(Integrity::HmacSha512_256)),
];

/// Weak ones: short tags as in [`WEAK_PROTECTIONS`], and HMAC-SHA1, for fleets that know nothing newer.
pub(crate) const WEAK_TRANSFORMS: &[(&str, EspTransform)] = &[
    ("aes-128-gcm-8", EspTransform::Aead(Aead::Aes128Gcm8)),
    ("aes-192-gcm-8", EspTransform::Aead(Aead::Aes192Gcm8)),
    ("aes-256-gcm-8", EspTransform::Aead(Aead::Aes256Gcm8)),
    ("aes-128-ccm-8", EspTransform::Aead(Aead::Aes128Ccm8)),
    ("aes-192-ccm-8", EspTransform::Aead(Aead::Aes192Ccm8)),
    ("aes-256-ccm-8", EspTransform::Aead(Aead::Aes256Ccm8)),
    ("aes-128-cbc-hmac-sha1", EspTransform::CbcHmac(BlockCipher::Aes128Cbc, Integrity::HmacSha1_96)),
    ("aes-192-cbc-hmac-sha1", EspTransform::CbcHmac(BlockCipher::Aes192Cbc, Integrity::HmacSha1_96)),
    ("aes-256-cbc-hmac-sha1", EspTransform::CbcHmac(BlockCipher::Aes256Cbc, Integrity::HmacSha1_96)),
    ("aes-128-ctr-hmac-sha1", EspTransform::CtrHmac(AesCtr::Aes128Ctr, Integrity::HmacSha1_96)),
    ("aes-192-ctr-hmac-sha1", EspTransform::CtrHmac(AesCtr::Aes192Ctr, Integrity::HmacSha1_96)),
    ("aes-256-ctr-hmac-sha1", EspTransform::CtrHmac(AesCtr::Aes256Ctr, Integrity::HmacSha1_96)),
    ("null-hmac-sha1", EspTransform::NullHmac(Integrity::HmacSha1_96)),
];

/// KEK ciphers of GDOI by name.
pub(crate) const KEK_CIPHERS: &[(&str, BlockCipher)] = &[
    ("aes-128-cbc", BlockCipher::Aes128Cbc),
    ("aes-192-cbc", BlockCipher::Aes192Cbc),
    ("aes-256-cbc", BlockCipher::Aes256Cbc),
    ("3des-cbc", BlockCipher::TripleDesCbc),
];

/// Signatures of GDOI's pushes by name.
pub(crate) const PUSH_SIGNATURES: &[(&str, SignatureScheme)] = &[
    ("rsa-sha2-256", SignatureScheme::RsaPkcs1Sha256),
    ("rsa-sha2-384", SignatureScheme::RsaPkcs1Sha384),
    ("rsa-sha2-512", SignatureScheme::RsaPkcs1Sha512),
    ("ecdsa-p256", SignatureScheme::EcdsaP256Sha256),
    ("ecdsa-p384", SignatureScheme::EcdsaP384Sha384),
    ("ecdsa-p521", SignatureScheme::EcdsaP521Sha512),
    ("rsa-sha1", SignatureScheme::RsaPkcs1Sha1),
];

/// Signatures of G-IKEv2's rekeys by name, and the kind of key that makes them.
pub(crate) const REKEY_SIGNATURES: &[(&str, (SignatureAlgorithm, KeyKind))] = &[
    ("rsa-sha2-256", (SignatureAlgorithm::RsaPkcs1(Hash::Sha256), KeyKind::Rsa)),
    ("rsa-sha2-384", (SignatureAlgorithm::RsaPkcs1(Hash::Sha384), KeyKind::Rsa)),
    ("rsa-sha2-512", (SignatureAlgorithm::RsaPkcs1(Hash::Sha512), KeyKind::Rsa)),
    ("rsa-pss-sha2-256", (SignatureAlgorithm::RsaPss(Hash::Sha256), KeyKind::Rsa)),
    ("rsa-pss-sha2-384", (SignatureAlgorithm::RsaPss(Hash::Sha384), KeyKind::Rsa)),
    ("rsa-pss-sha2-512", (SignatureAlgorithm::RsaPss(Hash::Sha512), KeyKind::Rsa)),
    ("ecdsa-p256", (SignatureAlgorithm::Ecdsa(Hash::Sha256), KeyKind::EcP256)),
    ("ecdsa-p384", (SignatureAlgorithm::Ecdsa(Hash::Sha384), KeyKind::EcP384)),
    ("ecdsa-p521", (SignatureAlgorithm::Ecdsa(Hash::Sha512), KeyKind::EcP521)),
    ("ed25519", (SignatureAlgorithm::Ed25519, KeyKind::Ed25519)),
    ("ed448", (SignatureAlgorithm::Ed448, KeyKind::Ed448)),
];

/// Acknowledgement types of RFC 8263 by name.
pub(crate) const ACKS: &[(&str, Option<AckType>)] = &[
    ("kek-sha256", Some(AckType::Kek(Hash::Sha256))),
    ("kek-sha512", Some(AckType::Kek(Hash::Sha512))),
    ("lkh-sha256", Some(AckType::Lkh(Hash::Sha256))),
    ("lkh-sha512", Some(AckType::Lkh(Hash::Sha512))),
    ("none", None),
];

/// Protection of G-IKEv2 rekey messages by name.
pub(crate) const PROTECTIONS: &[(&str, RekeyProtection)] = &[
    ("aes-128-gcm", RekeyProtection::Aead(Aead::Aes128Gcm16)),
    ("aes-192-gcm", RekeyProtection::Aead(Aead::Aes192Gcm16)),
    ("aes-256-gcm", RekeyProtection::Aead(Aead::Aes256Gcm16)),
    ("aes-128-gcm-12", RekeyProtection::Aead(Aead::Aes128Gcm12)),
    ("aes-192-gcm-12", RekeyProtection::Aead(Aead::Aes192Gcm12)),
    ("aes-256-gcm-12", RekeyProtection::Aead(Aead::Aes256Gcm12)),
    ("aes-128-ccm", RekeyProtection::Aead(Aead::Aes128Ccm16)),
    ("aes-192-ccm", RekeyProtection::Aead(Aead::Aes192Ccm16)),
    ("aes-256-ccm", RekeyProtection::Aead(Aead::Aes256Ccm16)),
    ("aes-128-ccm-12", RekeyProtection::Aead(Aead::Aes128Ccm12)),
    ("aes-192-ccm-12", RekeyProtection::Aead(Aead::Aes192Ccm12)),
    ("aes-256-ccm-12", RekeyProtection::Aead(Aead::Aes256Ccm12)),
    ("chacha20-poly1305", RekeyProtection::Aead(Aead::ChaCha20Poly1305)),
    ("aes-128-cbc-hmac-sha2-256", RekeyProtection::CbcHmac(BlockCipher::Aes128Cbc, Integrity::HmacSha256_128)),
    ("aes-192-cbc-hmac-sha2-256", RekeyProtection::CbcHmac(BlockCipher::Aes192Cbc, Integrity::HmacSha256_128)),
    ("aes-256-cbc-hmac-sha2-256", RekeyProtection::CbcHmac(BlockCipher::Aes256Cbc, Integrity::HmacSha256_128)),
    ("aes-256-cbc-hmac-sha2-384", RekeyProtection::CbcHmac(BlockCipher::Aes256Cbc, Integrity::HmacSha384_192)),
    ("aes-256-cbc-hmac-sha2-512", RekeyProtection::CbcHmac(BlockCipher::Aes256Cbc, Integrity::HmacSha512_256)),
];

/// Weak ones: with a tag of 8 octets one forgery in 2^64 tries succeeds, and one under GCM tells the way to more.
pub(crate) const WEAK_PROTECTIONS: &[(&str, RekeyProtection)] = &[
    ("aes-128-gcm-8", RekeyProtection::Aead(Aead::Aes128Gcm8)),
    ("aes-192-gcm-8", RekeyProtection::Aead(Aead::Aes192Gcm8)),
    ("aes-256-gcm-8", RekeyProtection::Aead(Aead::Aes256Gcm8)),
    ("aes-128-ccm-8", RekeyProtection::Aead(Aead::Aes128Ccm8)),
    ("aes-192-ccm-8", RekeyProtection::Aead(Aead::Aes192Ccm8)),
    ("aes-256-ccm-8", RekeyProtection::Aead(Aead::Aes256Ccm8)),
];

/// Key wrap of G-IKEv2 by name: octets of the wrapping key (RFC 5649).
pub(crate) const WRAPS: &[(&str, usize)] = &[("aes-128-kwp", 16), ("aes-192-kwp", 24), ("aes-256-kwp", 32)];

/// Key exchange groups by name.
pub(crate) const KE_GROUPS: &[(&str, KeGroup)] = &[
    ("modp-2048", KeGroup::Modp2048),
    ("modp-3072", KeGroup::Modp3072),
    ("modp-4096", KeGroup::Modp4096),
    ("ecp-256", KeGroup::Ecp256),
    ("ecp-384", KeGroup::Ecp384),
    ("ecp-521", KeGroup::Ecp521),
    ("x25519", KeGroup::X25519),
];

/// Key exchange methods of IKEv2 by name.
pub(crate) const IKE2_METHODS: &[(&str, KeGroup)] = &[
    ("modp-2048", KeGroup::Modp2048),
    ("modp-3072", KeGroup::Modp3072),
    ("modp-4096", KeGroup::Modp4096),
    ("modp-6144", KeGroup::Modp6144),
    ("modp-8192", KeGroup::Modp8192),
    ("ecp-256", KeGroup::Ecp256),
    ("ecp-384", KeGroup::Ecp384),
    ("ecp-521", KeGroup::Ecp521),
    ("brainpool-224", KeGroup::Brainpool224),
    ("brainpool-256", KeGroup::Brainpool256),
    ("brainpool-384", KeGroup::Brainpool384),
    ("brainpool-512", KeGroup::Brainpool512),
    ("x25519", KeGroup::X25519),
    ("x448", KeGroup::X448),
    ("ml-kem-512", KeGroup::MlKem512),
    ("ml-kem-768", KeGroup::MlKem768),
    ("ml-kem-1024", KeGroup::MlKem1024),
];

/// Weak ones of IKEv2.
pub(crate) const WEAK_IKE2_METHODS: &[(&str, KeGroup)] = &[("modp-2048-256", KeGroup::Modp2048s256)];

/// Weak ones of phase 1 of IKEv1.
pub(crate) const WEAK_KE_GROUPS: &[(&str, KeGroup)] =
    &[("modp-1024", KeGroup::Modp1024), ("modp-1536", KeGroup::Modp1536), ("modp-2048-256", KeGroup::Modp2048s256)];

/// Weak hashes of phase 1 of IKEv1.
pub(crate) const WEAK_HASHES: &[(&str, Hash)] = &[("sha1", Hash::Sha1)];

/// Ciphers of phase 1 of IKEv1 by name.
pub(crate) const PHASE1_CIPHERS: &[(&str, BlockCipher)] = KEK_CIPHERS;

/// Weak ones.
pub(crate) const WEAK_PHASE1_CIPHERS: &[(&str, BlockCipher)] = &[("3des-cbc", BlockCipher::TripleDesCbc)];

/// Hashes by name.
pub(crate) const HASHES: &[(&str, Hash)] =
    &[("sha2-256", Hash::Sha256), ("sha2-384", Hash::Sha384), ("sha2-512", Hash::Sha512)];

/// Octets of the longest key that a transform uses for encryption, or in its place.
pub(crate) fn transform_strength(transform: EspTransform) -> usize {
    match transform {
        EspTransform::Aead(a) | EspTransform::Gmac(a) => a.key_len(),
        EspTransform::CbcHmac(c, _) => c.key_len(),
        EspTransform::CtrHmac(c, _) => c.key_len(),
        EspTransform::NullHmac(_) => 0,
    }
}

/// Octets of the encryption key of a G-IKEv2 rekey SA.
pub(crate) fn protection_strength(protection: RekeyProtection) -> usize {
    match protection {
        RekeyProtection::Aead(a) => a.key_len(),
        RekeyProtection::CbcHmac(c, _) => c.key_len(),
    }
}

/// An address with a prefix length: `10.0.0.0/8`, or an address alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Network {
    pub(crate) address: IpAddr,
    pub(crate) prefix: u8,
}

impl FromStr for Network {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let (address, prefix) = s.split_once('/').map_or((s, None), |(a, p)| (a, Some(p)));
        let address: IpAddr = address.parse().map_err(|_| "it is no IP address".to_owned())?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => width,
            Some(p) => p.parse().ok().filter(|p| *p <= width).ok_or_else(|| format!("/{p} is no prefix length"))?,
        };
        let network = masked(address, prefix);
        if network != address {
            return Err(format!("bits behind the prefix are set; the network is {network}/{prefix}"));
        }
        Ok(Self { address, prefix })
    }
}

/// Traffic that a key server may decide about: `multicast`, a network of receivers, or `SENDERS -> RECEIVERS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Accepted(pub(crate) Vec<Flow>);

impl FromStr for Accepted {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        if s == "multicast" {
            return Ok(Self(Flows::multicast().to_vec()));
        }
        let (source, destination) = match s.split_once("->") {
            Some((source, destination)) => (Some(source.trim().parse::<Network>()?), destination.trim().parse()?),
            None => (None, s.parse::<Network>()?),
        };
        if source.is_some_and(|s| s.address.is_ipv4() != destination.address.is_ipv4()) {
            return Err("senders and receivers are of different families".to_owned());
        }
        let selector = |n: Network| Selector { address: n.address, prefix: n.prefix, protocol: 0, port: 0 };
        Ok(Self(vec![Flow { source: source.map(selector), destination: selector(destination) }]))
    }
}

fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(a) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V4((u32::from(a) & mask).into())
        }
        IpAddr::V6(a) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V6((u128::from(a) & mask).into())
        }
    }
}

/// A distinguished name, innermost part first (RFC 4514): `CN=gm1,O=Example,C=DE`.
#[derive(Clone, Debug)]
pub(crate) struct Subject(pub(crate) DistinguishedName);

impl FromStr for Subject {
    type Err = keyferry_crypto::x509::NameError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        DistinguishedName::parse(s).map(Self)
    }
}

/// Number of an IP protocol; zero is any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IpProtocol(pub(crate) u8);

impl FromStr for IpProtocol {
    type Err = &'static str;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Ok(Self(match s {
            "any" => 0,
            "icmp" => 1,
            "tcp" => 6,
            "udp" => 17,
            "icmpv6" => 58,
            "sctp" => 132,
            other => {
                other.parse().map_err(|_| "it is neither a number nor one of any, icmp, tcp, udp, icmpv6, sctp")?
            }
        }))
    }
}

/// A number of octets with its unit: `10GB`, or `10 GiB` in powers of 1,024.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Octets(pub(crate) u64);

/// Units of octets.
const UNITS: &[(&str, u64)] = &[
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

impl FromStr for Octets {
    type Err = &'static str;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let digits = s.find(|c: char| !c.is_ascii_digit()).unwrap_or(s.len());
        let (number, unit) = s.split_at(digits);
        let number: u64 = number.parse().map_err(|_| "it does not begin with a whole number")?;
        let unit = UNITS.iter().find(|(name, _)| *name == unit.trim()).map(|(_, unit)| *unit);
        let unit = unit.ok_or("its unit is none of MB, GB, TB, MiB, GiB, TiB")?;
        number.checked_mul(unit).map(Self).ok_or("it is more than can be counted")
    }
}

/// Where rekey messages go: `unicast`, or a multicast address with its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RekeyTarget(pub(crate) RekeyTransport);

impl FromStr for RekeyTarget {
    type Err = &'static str;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        if s == "unicast" {
            return Ok(Self(RekeyTransport::Unicast));
        }
        let to: SocketAddr = s.parse().map_err(|_| "it is neither \"unicast\" nor an address with a port")?;
        if !to.ip().is_multicast() {
            return Err("it is no multicast address");
        }
        if to.port() == 0 {
            return Err("the port is zero");
        }
        Ok(Self(RekeyTransport::Multicast(to)))
    }
}

/// An address with or without a port; without one it is 848.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint(pub(crate) SocketAddr);

/// The same for TCP: without a port it is 4500, which RFC 9329 section 2 wants to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TcpEndpoint(pub(crate) SocketAddr);

impl FromStr for TcpEndpoint {
    type Err = &'static str;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        endpoint(s, TCP_PORT).map(Self)
    }
}

/// The port that RFC 9329 gives to IKE over TCP.
pub(crate) const TCP_PORT: u16 = 4500;

/// The port that IANA gave to GDOI and G-IKEv2.
pub(crate) const PORT: u16 = 848;

impl FromStr for Endpoint {
    type Err = &'static str;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        endpoint(s, PORT).map(Self)
    }
}

/// An address with its port, or a port at the loopback address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LoopbackEndpoint(pub(crate) SocketAddr);

impl FromStr for LoopbackEndpoint {
    type Err = &'static str;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let at = match s.parse() {
            Ok(port) => SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            Err(_) => s.parse().map_err(|_| "it is neither a port nor an address with one")?,
        };
        if at.port() == 0 { Err("there is no port 0") } else { Ok(Self(at)) }
    }
}

fn endpoint(s: &str, port: u16) -> Result<SocketAddr, &'static str> {
    if let Ok(ip) = s.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, port));
    }
    s.parse().map_err(|_| "it is no address, or address and port")
}
