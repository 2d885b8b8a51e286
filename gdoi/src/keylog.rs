//! Keys for Wireshark, when somebody asked for them.

/// Wireshark's table for IKEv1: initiator's cookie and encryption key of phase 1.
pub(crate) const TABLE: &str = "ikev1_decryption_table";

/// Takes lines for Wireshark's key tables. Whoever reads them reads everything.
pub trait KeyLog {
    /// A line for the table of this name.
    fn log(&mut self, table: &'static str, line: &str);
}
