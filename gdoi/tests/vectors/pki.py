#!/usr/bin/env python3
"""Certificates and keys for tests of phase 1, by Python's cryptography.

Writes pki/*.pem beside itself. Each leaf is NAME-KIND.pem (the certificate, then the intermediate's) and NAME-KIND.key. They hold
from 2026 to 2076, but "expired", which ended in mid-2026. Keys are new at each run, so their value is none.
"""
import datetime
import ipaddress
import pathlib

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

HERE = pathlib.Path(__file__).parent / "pki"
START, END = datetime.datetime(2026, 1, 1), datetime.datetime(2076, 1, 1)
KINDS = {
    "rsa": lambda: rsa.generate_private_key(65537, 2048),
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "p521": lambda: ec.generate_private_key(ec.SECP521R1()),
}


def name(common):
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example"), x509.NameAttribute(NameOID.COMMON_NAME, common)]
    )


def issue(subject, public, issuer, key, ca=None, names=(), end=END):
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(START)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca is not None, ca), critical=True)
        .add_extension(
            x509.KeyUsage(ca is None, False, False, False, False, ca is not None, ca is not None, False, False), critical=True
        )
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256())


def write(file, *parts):
    octets = b""
    for part in parts:
        if isinstance(part, x509.Certificate):
            octets += part.public_bytes(serialization.Encoding.PEM)
        else:
            octets += part.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
    (HERE / file).write_bytes(octets)


def authority(root, sub):
    root_key, sub_key = KINDS["p256"](), KINDS["p256"]()
    anchor = issue(root, root_key.public_key(), root, root_key, ca=2)
    middle = issue(sub, sub_key.public_key(), root, root_key, ca=0)
    return anchor, middle, sub, sub_key


def leaf(file, subject, authority, kind, names=(), end=END):
    _, middle, issuer, issuer_key = authority
    key = KINDS[kind]()
    write(f"{file}-{kind}.pem", issue(subject, key.public_key(), issuer, issuer_key, None, names, end), middle)
    write(f"{file}-{kind}.key", key)


def names(address, host):
    return [
        x509.IPAddress(ipaddress.ip_address(address)),
        x509.DNSName(f"{host}.example"),
        x509.RFC822Name(f"{host}@example.org"),
    ]


HERE.mkdir(exist_ok=True)
ours, other = authority("Root", "Devices"), authority("Other Root", "Other Devices")
write("root.pem", ours[0])
write("other-root.pem", other[0])
for kind in KINDS:
    leaf("gateway", "gateway", ours, kind, names("10.84.0.1", "gateway"))
    leaf("gm10", "gm10", ours, kind, names("10.84.0.10", "gm10"))
leaf("gm11", "gm11", ours, "p256", names("10.84.0.11", "gm11"))
leaf("expired", "gm10", ours, "p256", names("10.84.0.10", "gm10"), datetime.datetime(2026, 6, 1))
leaf("stranger", "gm10", other, "p256", names("10.84.0.10", "gm10"))
leaf("other-gateway", "gateway", other, "p256", names("10.84.0.1", "gateway"))
