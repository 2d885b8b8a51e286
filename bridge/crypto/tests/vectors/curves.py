#!/usr/bin/python3
"""Computes curves.txt beside this file by pyca/cryptography: group, both private values, both public values, shared secret, in
hexadecimal.

It does not know brainpoolP224r1 (group 27), whose line is appendix A.1 of RFC 6932.
"""

from hashlib import shake_128

from cryptography.hazmat.primitives.asymmetric import ec, x448
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

print(
    27,
    "7c4b7a2c8a4bad1fbb7d79cc0955db7c6a4660ca64cc4778159b495e",
    "63976d4aae6cd0f6dd18defef55d96569d0507c03e74d6486ffa28fb",
    "b104a67a6f6e85e14ec1825e1539e8ecdbbf584922367dd88c6bdcf246d782e7fdb5f60cd8404301ac5949c58edb26bc68ba07695b750a94",
    "2a97089a9296147b71b21a4b574e1278245b536f14d8c2b9d07a874e9b900d7c77a709a797276b8ca1ba61bb95b546fc29f862e44d59d25b",
    "312dfd98783f9fb77b9704945a73beb6dccbe3b65d0f967dcab574eb",
)


def octets(label, length):
    return shake_128(label.encode()).digest(length)


def public(key):
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:].hex()


for number, curve in [(28, ec.BrainpoolP256R1()), (29, ec.BrainpoolP384R1()), (30, ec.BrainpoolP512R1())]:
    length = curve.key_size // 8
    # A leading zero octet, so that the scalar is below the order.
    scalars = [b"\0" + octets(f"{side} {number}", length - 1) for side in "ab"]
    a, b = (ec.derive_private_key(int.from_bytes(s, "big"), curve) for s in scalars)
    shared = a.exchange(ec.ECDH(), b.public_key()).hex()
    print(number, *(s.hex() for s in scalars), public(a), public(b), shared)

scalars = [octets(f"{side} 32", 56) for side in "ab"]
a, b = (x448.X448PrivateKey.from_private_bytes(s) for s in scalars)
publics = [k.public_key().public_bytes_raw().hex() for k in (a, b)]
print(32, *(s.hex() for s in scalars), *publics, a.exchange(b.public_key()).hex())
