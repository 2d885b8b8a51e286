#!/usr/bin/env python3
"""Known answers for ESP with combined modes other than AES-GCM-16 (RFC 4106, RFC 4309 section 3, RFC 7634 section 2): writes
aead.txt, algorithm, keying material, packet and what is in it, beside itself; by the package "cryptography".

SPI and sequence number are authenticated, payload and trailer encrypted; a nonce is the salt and the IV.
"""
import pathlib

from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM, ChaCha20Poly1305


def sealed(mode, key, icv, nonce, header, clear):
    if mode == "gcm":
        return AESGCM(key).encrypt(nonce, clear, header)[: len(clear) + icv]
    if mode == "ccm":
        return AESCCM(key, tag_length=icv).encrypt(nonce, clear, header)
    return ChaCha20Poly1305(key).encrypt(nonce, clear, header)


lines = []
algorithms = [("gcm", key, icv) for key in (16, 24, 32) for icv in (8, 12)]
algorithms += [("ccm", key, icv) for key in (16, 24, 32) for icv in (8, 12, 16)]
for mode, key_len, icv in [*algorithms, ("chacha20poly1305", 32, 16)]:
    key, salt = bytes(range(key_len)), bytes([0xa1, 0xa2, 0xa3, 0xa4])[: 3 if mode == "ccm" else 4]
    iv = (0xabc << 52 | key_len << 8 | icv).to_bytes(8, "big")
    payload = bytes((i * 11) % 256 for i in range(61))
    padding = bytes(range(1, 1 + -(len(payload) + 2) % 4))
    clear = payload + padding + bytes([len(padding), 17])
    header = bytes.fromhex("0000100100000007")
    packet = header + iv + sealed(mode, key, icv, salt + iv, header, clear)
    lines.append(f"{mode}-{key_len}-{icv} {(key + salt).hex()} {packet.hex()} {clear.hex()}")
(pathlib.Path(__file__).parent / "aead.txt").write_text("\n".join(lines) + "\n")
