#!/usr/bin/env python3
"""Certificates and keys for the tests of AUTH, by Python's cryptography.

Writes pki/* beside itself. Each leaf is NAME-KIND.pem (the certificate, then the intermediate's) and NAME-KIND.key. They hold
from 2020 to 2076, but "expired", which ended in 2023; "revoked" stands in crl.pem. Keys are new at each run, so their
value is none.
"""
import datetime
import ipaddress
import pathlib

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.oid import NameOID

HERE = pathlib.Path(__file__).parent / "pki"
START, END = datetime.datetime(2020, 1, 1), datetime.datetime(2076, 1, 1)
KINDS = {
    "rsa": lambda: rsa.generate_private_key(65537, 2048),
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "p521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "ed448": ed448.Ed448PrivateKey.generate,
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
    return builder.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())


def write(file, *parts):
    octets = b""
    for part in parts:
        if hasattr(part, "private_bytes"):
            octets += part.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        else:
            octets += part.public_bytes(serialization.Encoding.PEM)
    (HERE / file).write_bytes(octets)


def authority(root, sub, kind):
    root_key, sub_key = KINDS[kind](), KINDS[kind]()
    anchor = issue(root, root_key.public_key(), root, root_key, ca=2)
    middle = issue(sub, sub_key.public_key(), root, root_key, ca=0)
    return anchor, middle, sub, sub_key


def leaf(file, subject, authority, kind, names=(), end=END):
    _, middle, issuer, issuer_key = authority
    key = KINDS[kind]()
    certificate = issue(subject, key.public_key(), issuer, issuer_key, None, names, end)
    write(f"{file}-{kind}.pem", certificate, middle)
    write(f"{file}-{kind}.key", key)
    return certificate


def names(host, *addresses):
    return [
        *(x509.IPAddress(ipaddress.ip_address(address)) for address in addresses),
        x509.DNSName(f"{host}.example"),
        x509.RFC822Name(f"{host}@example.org"),
    ]


HERE.mkdir(exist_ok=True)
ours, other = authority("Root", "Devices", "p256"), authority("Other Root", "Other Devices", "ed25519")
write("root.pem", ours[0])
write("other-root.pem", other[0])
for kind in KINDS:
    leaf("gateway", "gateway", ours, kind, names("gateway", "10.0.0.254", "2001:db8::fe"))
    leaf("gm1", "gm1", ours, kind, names("gm1", "10.0.0.1", "2001:db8::1"))
leaf("gm2", "gm2", ours, "p256", names("gm2", "10.0.0.2"))
leaf("expired", "gm1", ours, "p256", names("gm1", "10.0.0.1"), datetime.datetime(2023, 6, 1))
leaf("stranger", "gm1", other, "p256", names("gm1", "10.0.0.1"))
leaf("other-gateway", "gateway", other, "p256", names("gateway", "10.0.0.254"))
revoked = leaf("revoked", "gm1", ours, "p256", names("gm1", "10.0.0.1"))
crl = (
    x509.CertificateRevocationListBuilder()
    .issuer_name(name("Devices"))
    .last_update(START)
    .next_update(END)
    .add_revoked_certificate(
        x509.RevokedCertificateBuilder().serial_number(revoked.serial_number).revocation_date(START).build()
    )
    .sign(ours[3], hashes.SHA256())
)
write("crl.pem", crl)
