#!/usr/bin/env python3
"""Known answers for phase 1 keys, from RFC 2409 section 5 and appendix B, by Python's hmac and hashlib alone.

Writes phase1.txt (cipher key octets, hash, SKEYID_a, Ka, IV, HASH_I | HASH_R) and phase2_iv.txt beside itself.
"""
import hashlib
import hmac
import pathlib

HERE = pathlib.Path(__file__).parent
PSK, SHARED, SA, ID = b"preshared", bytes([5] * 32), b"the SA payload", b"id"
KE_I, KE_R = bytes([1] * 64), bytes([2] * 64)
NI, NR = bytes([3] * 16), bytes([4] * 24)
CKY_I, CKY_R = bytes(range(0x10, 0x18)), bytes(range(0x18, 0x20))


def line(key_len, name):
    def prf(key, data):
        return hmac.new(key, data, name).digest()

    skeyid = prf(PSK, NI + NR)
    d = prf(skeyid, SHARED + CKY_I + CKY_R + b"\0")
    a = prf(skeyid, d + SHARED + CKY_I + CKY_R + b"\1")
    e = prf(skeyid, a + SHARED + CKY_I + CKY_R + b"\2")
    key = e
    if len(e) < key_len:
        k1 = prf(e, b"\0")
        k2 = prf(e, k1)
        key = k1 + k2
    iv = hashlib.new(name, KE_I + KE_R).digest()[:16]
    hash_i = prf(skeyid, KE_I + KE_R + CKY_I + CKY_R + SA + ID)
    hash_r = prf(skeyid, KE_R + KE_I + CKY_R + CKY_I + SA + ID)
    return f"{key_len} {name} {a.hex()} {key[:key_len].hex()} {iv.hex()} {(hash_i + hash_r).hex()}"


lines = [line(n, h) for n in (16, 32) for h in ("sha1", "sha256", "sha384")]
(HERE / "phase1.txt").write_text("\n".join(lines) + "\n")
iv2 = hashlib.sha1(bytes([1] * 16) + (7).to_bytes(4, "big")).digest()[:16].hex()
(HERE / "phase2_iv.txt").write_text(iv2 + "\n")
