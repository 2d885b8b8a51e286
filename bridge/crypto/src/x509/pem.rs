//! PEM (RFC 7468), as files hold it.

use openssl::base64;

/// The bodies of all blocks with this label, in order. `None` if one of them is not base64.
pub(super) fn blocks(octets: &[u8], label: &str) -> Option<Vec<Vec<u8>>> {
    let text = String::from_utf8_lossy(octets);
    let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
    let mut found = Vec::new();
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        if line == begin {
            let body: String = lines.by_ref().take_while(|line| *line != end).collect();
            found.push(base64::decode_block(&body).ok()?);
        }
    }
    Some(found)
}
