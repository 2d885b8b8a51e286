#!/usr/bin/python3
"""Computes aead.txt beside this file by pyca/cryptography: algorithm, key, nonce, associated data, plaintext, ciphertext, tag,
in hexadecimal, `-` where there is nothing.

GCM with a short tag is GCM with 16 octets of tag, of which the first are sent (NIST SP 800-38D section 7.1).
"""

from hashlib import shake_128

from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM, ChaCha20Poly1305


def octets(label, length):
    return shake_128(label.encode()).digest(length)


def sealed(mode, key, icv, nonce, aad, plain):
    if mode == "gcm":
        return AESGCM(key).encrypt(nonce, plain, aad)[: len(plain) + icv]
    if mode == "ccm":
        return AESCCM(key, tag_length=icv).encrypt(nonce, plain, aad)
    return ChaCha20Poly1305(key).encrypt(nonce, plain, aad)


ALGORITHMS = [("gcm", bits // 8, icv) for bits in (128, 192, 256) for icv in (8, 12, 16)]
ALGORITHMS += [("ccm", bits // 8, icv) for bits in (128, 192, 256) for icv in (8, 12, 16)]
ALGORITHMS += [("chacha20poly1305", 32, 16)]

for mode, key_len, icv in ALGORITHMS:
    for plain_len, aad_len in ((1, 32), (16, 32), (61, 8), (200, 0)):
        name = f"{mode}-{key_len}-{icv}"
        key = octets(f"key {name} {plain_len}", key_len)
        nonce = octets(f"nonce {name} {plain_len}", 11 if mode == "ccm" else 12)
        aad, plain = octets("aad", aad_len), octets("plain", plain_len)
        out = sealed(mode, key, icv, nonce, aad, plain)
        fields = [key, nonce, aad, plain, out[:plain_len], out[plain_len:]]
        print(name, *(f.hex() or "-" for f in fields))
