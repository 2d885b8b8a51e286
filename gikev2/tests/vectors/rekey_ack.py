"""The acknowledgement of a GSA_REKEY as docs/extensions.md describes it, by Python's hmac alone."""

import hashlib
import hmac
import struct


def mac(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.sha256).digest()


spi = bytes([0x11]) * 16
own_key = bytes(range(16))
key_id, message_id = 0x01020304, 7

vendor = b"Keyferry G-IKEv2"
notify = struct.pack(">BBHI", 0, 0, 40960, key_id)
payloads = struct.pack(">BBH", 41, 0, 4 + len(vendor)) + vendor
payloads += struct.pack(">BBH", 0, 0, 4 + len(notify) + 32) + notify
header = spi + struct.pack(">BBBBII", 43, 0x20, 240, 0x20, message_id, 28 + len(payloads) + 32)
derived = mac(own_key, b"Keyferry G-IKEv2 rekey acknowledgement" + spi)
print((header + payloads + mac(derived, header + payloads)).hex())
