//! Keys for Wireshark, when somebody asked for them.

use keyferry_crypto::{AeadMode, BlockCipher, Integrity, Secret};
use keyferry_model::policy::GroupPolicy;
use keyferry_model::rekey_sa::RekeySa;

use crate::algorithms::Protection;

/// Wireshark's table for IKEv2.
pub const TABLE: &str = "ikev2_decryption_table";

/// Takes lines for Wireshark's key tables. Whoever reads them reads everything.
pub trait KeyLog {
    /// A line for the table of this name.
    fn log(&mut self, table: &'static str, line: &str);
}

/// The line for an IKE SA: SPIs, SK_ei, SK_er, algorithm, SK_ai, SK_ar, algorithm. `None` for ChaCha20-Poly1305, which
/// Wireshark does not know.
pub(crate) fn protected_line(
    protection: Protection,
    spi_i: &[u8],
    spi_r: &[u8],
    initiator: &(Secret, Secret),
    responder: &(Secret, Secret),
) -> Option<String> {
    let (cipher, mac) = match protection {
        Protection::Aead(a) => {
            let mode = match a.mode() {
                AeadMode::Gcm => "GCM",
                AeadMode::Ccm => "CCM",
                AeadMode::ChaCha20Poly1305 => return None,
            };
            let cipher = format!("AES-{mode}-{} with {} octet ICV [RFC5282]", a.key_len() * 8, a.icv_len());
            (cipher, "NONE [RFC4306]")
        }
        Protection::CbcHmac(c, i) => {
            let cipher = match c {
                BlockCipher::TripleDesCbc => "3DES [RFC2451]",
                BlockCipher::Aes128Cbc => "AES-CBC-128 [RFC3602]",
                BlockCipher::Aes192Cbc => "AES-CBC-192 [RFC3602]",
                BlockCipher::Aes256Cbc => "AES-CBC-256 [RFC3602]",
            };
            let mac = match i {
                Integrity::HmacSha1_96 => "HMAC_SHA1_96 [RFC2404]",
                Integrity::HmacSha256_128 => "HMAC_SHA2_256_128 [RFC4868]",
                Integrity::HmacSha384_192 => "HMAC_SHA2_384_192 [RFC4868]",
                Integrity::HmacSha512_256 => "HMAC_SHA2_512_256 [RFC4868]",
            };
            (cipher.to_owned(), mac)
        }
    };
    Some(format!(
        "{},{},{},{},\"{cipher}\",{},{},\"{mac}\"",
        hex(spi_i),
        hex(spi_r),
        hex(initiator.0.expose()),
        hex(responder.0.expose()),
        hex(initiator.1.expose()),
        hex(responder.1.expose()),
    ))
}

/// The line for a Rekey SA: both halves of its SPI, GSK_e and GSK_a as the keys of both directions.
pub(crate) fn rekey_line(protection: Protection, spi: &[u8; 16], keymat: &Secret) -> Option<String> {
    let (e, a) = protection.key_lens();
    let keys = keymat.expose();
    let encryption = keys.get(..e)?;
    let integrity = keys.get(e..e + a)?;
    let pair = || (Secret::copy_from(encryption), Secret::copy_from(integrity));
    protected_line(protection, &spi[..8], &spi[8..], &pair(), &pair())
}

/// The line with which Wireshark decrypts GSA_REKEY messages under a Rekey SA; `None` if the group serves no G-IKEv2.
#[must_use]
pub fn rekey_sa_line(policy: &GroupPolicy, sa: &RekeySa) -> Option<String> {
    rekey_line(policy.gikev2.as_ref()?.protection, &sa.spi, &sa.keymat)
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use keyferry_crypto::Aead;

    use super::*;

    #[test]
    fn lines_have_the_form_of_the_table() {
        let line = rekey_line(Protection::Aead(Aead::Aes128Gcm16), &[0xab; 16], &Secret::new(vec![1; 36])).unwrap();
        let (spi, key) = ("ab".repeat(8), "01".repeat(20));
        let expected =
            format!("{spi},{spi},{key},{key},\"AES-GCM-128 with 16 octet ICV [RFC5282]\",,,\"NONE [RFC4306]\"");
        assert_eq!(line, expected);
        let line = |aead| rekey_line(Protection::Aead(aead), &[0xab; 16], &Secret::new(vec![1; 36]));
        assert!(line(Aead::Aes192Ccm12).unwrap().contains("\"AES-CCM-192 with 12 octet ICV [RFC5282]\""));
        assert_eq!(line(Aead::ChaCha20Poly1305), None);
    }
}
