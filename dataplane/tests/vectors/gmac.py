#!/usr/bin/env python3
"""Known answers for ESP with AES-GMAC (RFC 4543 section 3): writes gmac.txt, keying material and packet, beside itself.

The tag is AES-GCM's over SPI, sequence number, IV, payload and trailer, with nothing encrypted; by the package "cryptography".
"""
import pathlib

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

lines = []
for key_len in (16, 24, 32):
    for size in (1, 64):
        key, salt = bytes(range(key_len)), bytes([0xa1, 0xa2, 0xa3, 0xa4])
        iv = (0xabc << 52 | size).to_bytes(8, "big")
        payload = bytes((i * 11) % 256 for i in range(size))
        padding = bytes(range(1, 1 + -(size + 2) % 4))
        clear = bytes.fromhex("0000100100000007") + iv + payload + padding + bytes([len(padding), 17])
        lines.append((key + salt).hex() + " " + (clear + AESGCM(key).encrypt(salt + iv, b"", clear)).hex())
(pathlib.Path(__file__).parent / "gmac.txt").write_text("\n".join(lines) + "\n")
