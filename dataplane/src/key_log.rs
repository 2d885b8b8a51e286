//! Opt-in: keys for Wireshark.

use std::fmt::Write;
use std::net::IpAddr;

use keyferry_crypto::{AeadMode, BlockCipher, Integrity};
use keyferry_model::policy::{EspTransform, Selector};
use keyferry_model::update::NewSa;
use zeroize::Zeroizing;

/// Takes lines for Wireshark's decryption tables. Nothing is logged unless one is given to
/// [`Sad::set_key_log`](crate::Sad::set_key_log).
pub trait KeyLog {
    /// A line for a table; here the table is always `esp_sa`.
    fn log(&mut self, table: &'static str, line: &str);
}

/// Wireshark's table of ESP SAs.
pub(crate) const TABLE: &str = "esp_sa";

/// Longer than every line, so that none leaves copies of keys where it grew.
const ROOM: usize = 1_024;

/// A line of Wireshark's `esp_sa` table: IP version, source, destination, SPI, cipher and key, MAC and key. `None` for
/// ciphers that Wireshark does not know.
pub(crate) fn esp_sa_line(sa: &NewSa) -> Option<Zeroizing<String>> {
    let version = match sa.policy.destination.address {
        IpAddr::V4(_) => "IPv4",
        IpAddr::V6(_) => "IPv6",
    };
    let keymat = sa.keymat.expose();
    let (cipher, mac, split) = match sa.policy.transform {
        EspTransform::Aead(aead) => {
            let cipher = match (aead.mode(), aead.icv_len()) {
                (AeadMode::Gcm, 8) => "AES-GCM with 8 octet ICV [RFC4106]",
                (AeadMode::Gcm, 12) => "AES-GCM with 12 octet ICV [RFC4106]",
                (AeadMode::Gcm, _) => "AES-GCM with 16 octet ICV [RFC4106]",
                (AeadMode::Ccm | AeadMode::ChaCha20Poly1305, _) => return None,
            };
            (cipher, "NULL", keymat.len())
        }
        // Taken for NULL its IV would be read as the beginning of the payload.
        EspTransform::Gmac(_) => return None,
        EspTransform::CbcHmac(cipher, integrity) => {
            let name = match cipher {
                BlockCipher::TripleDesCbc => "TripleDES-CBC [RFC2451]",
                BlockCipher::Aes128Cbc | BlockCipher::Aes192Cbc | BlockCipher::Aes256Cbc => "AES-CBC [RFC3602]",
            };
            (name, mac(integrity), sa.policy.transform.encryption_len().min(keymat.len()))
        }
        // The nonce belongs to the key.
        EspTransform::CtrHmac(_, integrity) => {
            ("AES-CTR [RFC3686]", mac(integrity), sa.policy.transform.encryption_len().min(keymat.len()))
        }
        EspTransform::NullHmac(integrity) => ("NULL", mac(integrity), 0),
    };
    let (encryption, integrity) = keymat.split_at(split);
    let kept = sa.policy.preservation;
    let outer = |kept, selector| if kept { address(selector) } else { "*".to_owned() };
    let mut line = Zeroizing::new(String::with_capacity(ROOM));
    let (source, destination) =
        (outer(kept.keeps_source(), &sa.policy.source), outer(kept.keeps_destination(), &sa.policy.destination));
    write!(line, "\"{version}\",\"{source}\",\"{destination}\",\"0x{:08x}\",\"{cipher}\",\"", sa.spi).ok()?;
    write_octets(&mut line, encryption)?;
    write!(line, "\",\"{mac}\",\"").ok()?;
    write_octets(&mut line, integrity)?;
    line.push('"');
    Some(line)
}

fn mac(integrity: Integrity) -> &'static str {
    match integrity {
        Integrity::HmacSha1_96 => "HMAC-SHA-1-96 [RFC2404]",
        Integrity::HmacSha256_128 => "HMAC-SHA-256-128 [RFC4868]",
        Integrity::HmacSha384_192 => "HMAC-SHA-384-192 [RFC4868]",
        Integrity::HmacSha512_256 => "HMAC-SHA-512-256 [RFC4868]",
    }
}

/// A single address, or any.
fn address(selector: &Selector) -> String {
    let (first, last) = selector.range();
    if first == last { first.to_string() } else { "*".to_owned() }
}

/// Nothing, where there is no key.
fn write_octets(line: &mut String, key: &[u8]) -> Option<()> {
    if !key.is_empty() {
        line.push_str("0x");
    }
    key.iter().try_for_each(|octet| write!(line, "{octet:02x}")).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use keyferry_crypto::{Aead, AesCtr, Secret};
    use keyferry_model::policy::{EspMode, SaDirection, TrafficPolicy};

    use super::*;
    use crate::testing::{self, any, side};

    #[test]
    fn lines_read_as_wireshark_wants_them() {
        let gcm = EspTransform::Aead(Aead::Aes128Gcm16);
        let mut policy = testing::policy(any(), side("239.192.0.1", 32), EspMode::Tunnel, gcm);
        let sa = |policy: &TrafficPolicy, octets| NewSa {
            spi: 0x1001,
            policy: Arc::new(policy.clone()),
            keymat: Secret::new(vec![0xab; octets]),
            lifetime: Duration::from_secs(1),
            direction: SaDirection::Symmetric,
        };
        assert_eq!(
            *esp_sa_line(&sa(&policy, 20)).unwrap(),
            format!(
                "\"IPv4\",\"*\",\"239.192.0.1\",\"0x00001001\",\"AES-GCM with 16 octet ICV [RFC4106]\",\"0x{}\",\"NULL\",\"\"",
                "ab".repeat(20)
            )
        );
        policy.transform = EspTransform::CbcHmac(BlockCipher::Aes128Cbc, Integrity::HmacSha256_128);
        let line = esp_sa_line(&sa(&policy, 48)).unwrap();
        assert!(line.ends_with(&format!("\"HMAC-SHA-256-128 [RFC4868]\",\"0x{}\"", "ab".repeat(32))));
        policy.transform = EspTransform::Gmac(Aead::Aes128Gcm16);
        assert_eq!(esp_sa_line(&sa(&policy, 20)), None);
        policy.transform = EspTransform::CtrHmac(AesCtr::Aes128Ctr, Integrity::HmacSha1_96);
        let line = esp_sa_line(&sa(&policy, 40)).unwrap();
        let (key, mac) = ("ab".repeat(20), "ab".repeat(20));
        assert!(
            line.ends_with(&format!("\"AES-CTR [RFC3686]\",\"0x{key}\",\"HMAC-SHA-1-96 [RFC2404]\",\"0x{mac}\"")),
            "{}",
            *line
        );
        policy.transform = EspTransform::NullHmac(Integrity::HmacSha512_256);
        let line = esp_sa_line(&sa(&policy, 64)).unwrap();
        let mac = "ab".repeat(64);
        assert!(line.ends_with(&format!("\"NULL\",\"\",\"HMAC-SHA-512-256 [RFC4868]\",\"0x{mac}\"")), "{}", *line);
        policy.transform = EspTransform::Aead(Aead::ChaCha20Poly1305);
        assert_eq!(esp_sa_line(&sa(&policy, 36)), None);
    }
}
