#!/usr/bin/python3
"""Computes named.txt beside this file, with the package cryptography: name, AlgorithmIdentifier, public key
(SubjectPublicKeyInfo), octets that are signed, signature; all but the first in hexadecimal. They are the parts of
certificates that were signed with the algorithm. Keys are new each time.
"""

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.x509.oid import NameOID


def value(octets):
    """Length of the value in front, and of its head."""
    if octets[1] < 0x80:
        return octets[1], 2
    count = octets[1] & 0x7F
    return int.from_bytes(octets[2 : 2 + count], "big"), 2 + count


def line(way, key, algorithm, rsa_padding=None):
    who = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, way)])
    certificate = (
        x509.CertificateBuilder(who, who, key.public_key(), 1)
        .not_valid_before(datetime.datetime(2026, 1, 1))
        .not_valid_after(datetime.datetime(2076, 1, 1))
        .sign(key, algorithm, rsa_padding=rsa_padding)
    )
    der = certificate.public_bytes(serialization.Encoding.DER)
    behind = der[value(der)[1] + len(certificate.tbs_certificate_bytes) :]
    identifier = behind[: sum(value(behind))]
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    spki = key.public_key().public_bytes(serialization.Encoding.DER, form)
    print(way, *(o.hex() for o in [identifier, spki, certificate.tbs_certificate_bytes, certificate.signature]))


HASHES = [hashes.SHA256(), hashes.SHA384(), hashes.SHA512()]
key = rsa.generate_private_key(65537, 2048)
for h in HASHES:
    line(f"rsa-{h.name}", key, h, padding.PKCS1v15())
    line(f"pss-{h.name}", key, h, padding.PSS(padding.MGF1(h), padding.PSS.DIGEST_LENGTH))
for h in HASHES:
    line(f"pss-salt-{h.name}", key, h, padding.PSS(padding.MGF1(h), 20))
for curve in [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()]:
    key = ec.generate_private_key(curve)
    for h in HASHES:
        line(f"ecdsa-{h.name}", key, h)
line("ed25519", ed25519.Ed25519PrivateKey.generate(), None)
line("ed448", ed448.Ed448PrivateKey.generate(), None)
