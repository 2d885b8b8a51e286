#!/usr/bin/env python3
"""Known answers for ESP with a cipher and an HMAC apart (RFC 3602, RFC 3686, RFC 2410; RFC 2404, RFC 4868): writes separate.txt,
cipher, MAC, keying material, packet and what is in it, beside itself; by the package "cryptography" and by Python's hmac.

Everything in front of the ICV is authenticated. AES-CTR's counter block is nonce, IV and one.
"""
import hmac
import pathlib

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

MACS = {"sha1": (20, 12), "sha256": (32, 16), "sha384": (48, 24), "sha512": (64, 32)}


def encrypted(name, key, nonce, iv, clear):
    if name == "null":
        return clear
    mode = modes.CBC(iv) if name == "cbc" else modes.CTR(nonce + iv + bytes([0, 0, 0, 1]))
    context = Cipher(algorithms.AES(key), mode).encryptor()
    return context.update(clear) + context.finalize()


lines = []
ciphers = [("cbc", key) for key in (16, 24, 32)] + [("ctr", key) for key in (16, 24, 32)] + [("null", 0)]
for name, key_len in ciphers:
    for mac, (mac_len, icv) in MACS.items():
        key, nonce = bytes(range(key_len)), bytes([0xb1, 0xb2, 0xb3, 0xb4]) if name == "ctr" else b""
        mac_key = bytes((3 * i + 1) % 256 for i in range(mac_len))
        iv = bytes((7 * i + key_len + icv) % 256 for i in range({"cbc": 16, "ctr": 8, "null": 0}[name]))
        payload = bytes((i * 13) % 256 for i in range(73))
        padding = bytes(range(1, 1 + -(len(payload) + 2) % (16 if name == "cbc" else 4)))
        clear = payload + padding + bytes([len(padding), 17])
        packet = bytes.fromhex("0000200100000009") + iv + encrypted(name, key, nonce, iv, clear)
        packet += hmac.digest(mac_key, packet, mac)[:icv]
        lines.append(f"{name}-{key_len} {mac} {(key + nonce + mac_key).hex()} {packet.hex()} {clear.hex()}")
(pathlib.Path(__file__).parent / "separate.txt").write_text("\n".join(lines) + "\n")
