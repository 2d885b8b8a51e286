#!/usr/bin/python3
"""Computes signatures.txt beside this file, with the package cryptography: way, public key (SubjectPublicKeyInfo), octets
that are signed, signature; all but the first in hexadecimal. Keys are new each time.
"""

import hashlib

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

OCTETS = bytes(range(20, 52))


def spki(key):
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.DER, form).hex()


def line(way, key, octets, value):
    print(way, spki(key), octets.hex(), value.hex())


def raw(key, octets):
    """PKCS #1 padding of type 1 around the octets, then the private operation."""
    numbers = key.private_numbers()
    n = numbers.public_numbers.n
    length = (n.bit_length() + 7) // 8
    block = b"\0\1" + b"\xff" * (length - 3 - len(octets)) + b"\0" + octets
    return pow(int.from_bytes(block, "big"), numbers.d, n).to_bytes(length, "big")


def fixed(der, size):
    r, s = utils.decode_dss_signature(der)
    return r.to_bytes(size, "big") + s.to_bytes(size, "big")


key = rsa.generate_private_key(65537, 2048)
for name, algorithm in [
    ("sha1", hashes.SHA1()),
    ("sha256", hashes.SHA256()),
    ("sha384", hashes.SHA384()),
    ("sha512", hashes.SHA512()),
]:
    line(f"rsa-{name}", key, OCTETS, key.sign(OCTETS, padding.PKCS1v15(), algorithm))
line("rsa-raw", key, OCTETS, raw(key, OCTETS))
line("rsa-raw", key, OCTETS[:20], raw(key, OCTETS[:20]))
digest = utils.Prehashed(hashes.SHA256())
line("rsa-info-sha256", key, OCTETS, key.sign(OCTETS, padding.PKCS1v15(), digest))
digest = utils.Prehashed(hashes.SHA1())
line("rsa-info-sha1", key, OCTETS[:20], key.sign(OCTETS[:20], padding.PKCS1v15(), digest))

for name, curve, algorithm, size in [
    ("p256", ec.SECP256R1(), hashes.SHA256(), 32),
    ("p384", ec.SECP384R1(), hashes.SHA384(), 48),
    ("p521", ec.SECP521R1(), hashes.SHA512(), 66),
]:
    key = ec.generate_private_key(curve)
    line(f"ecdsa-{name}", key, OCTETS, fixed(key.sign(OCTETS, ec.ECDSA(algorithm)), size))
    octets = hashlib.new(algorithm.name, b"HASH_I").digest()
    digest = ec.ECDSA(utils.Prehashed(algorithm))
    line(f"ecdsa-{name}-digest", key, octets, fixed(key.sign(octets, digest), size))
    line(f"ecdsa-{name}-hashed", key, octets, fixed(key.sign(octets, ec.ECDSA(algorithm)), size))
