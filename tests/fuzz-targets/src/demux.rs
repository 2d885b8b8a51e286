//! Which protocol a datagram belongs to, and its header.

use keyferry_gateway::{Route, classify};
use keyferry_wire::{Header, NON_ESP_MARKER, chain};

/// One datagram.
pub fn target(data: &[u8]) {
    let (marker, message, route) = classify(data);
    assert_eq!(data.len() - message.len(), if marker { NON_ESP_MARKER.len() } else { 0 });
    assert_eq!(data == [0xff], route == Route::Keepalive, "one octet keeps a mapping, and nothing else does");
    assert!(message.len() >= Header::LEN || matches!(route, Route::Nowhere | Route::Keepalive));
    let Ok((header, body)) = Header::decode(message) else { return };
    assert!(body.len() + Header::LEN <= message.len());
    let again = header.encode(body);
    assert_eq!(again, message[..again.len()], "a header comes out as it went in");
    assert_eq!(Header::decode(&again).ok(), Some((header, body)));
    if let Ok(payloads) = chain(header.next, body) {
        let octets: usize = payloads.iter().map(|p| 4 + p.body.len()).sum();
        assert_eq!(octets, body.len(), "a chain leaves nothing over");
    }
}
