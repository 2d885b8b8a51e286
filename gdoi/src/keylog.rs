//! Keys for Wireshark and its kin, when somebody asked for them.

/// Wireshark's table for IKEv1: initiator's cookie and encryption key of phase 1.
pub(crate) const TABLE: &str = "ikev1_decryption_table";

/// KEKs as a member gets them: cookie pair, IV, key, in hexadecimal. Wireshark has no such table; whoever checks pushes in
/// a capture has use for it.
pub(crate) const KEKS: &str = "gdoi_kek_table";

/// Octets in hexadecimal.
pub(crate) fn hex(octets: &[u8]) -> String {
    octets.iter().map(|b| format!("{b:02x}")).collect()
}

/// Takes lines for Wireshark's key tables. Whoever reads them reads everything.
pub trait KeyLog {
    /// A line for the table of this name.
    fn log(&mut self, table: &'static str, line: &str);
}
