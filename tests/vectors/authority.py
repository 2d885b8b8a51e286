"""Certification authorities and their certificates, by Python's cryptography: for the scripts that make those of tests.

They hold from 2020 to 2076 where nothing else is said.
"""
import datetime
import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.oid import NameOID

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
    """A subject."""
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
    """Writes certificates and keys into a file."""
    octets = b""
    for part in parts:
        if hasattr(part, "private_bytes"):
            octets += part.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        else:
            octets += part.public_bytes(serialization.Encoding.PEM)
    file.write_bytes(octets)


def authority(root, sub, kind):
    """A root, a CA below it, the name of that and its key."""
    root_key, sub_key = KINDS[kind](), KINDS[kind]()
    anchor = issue(root, root_key.public_key(), root, root_key, ca=2)
    middle = issue(sub, sub_key.public_key(), root, root_key, ca=0)
    return anchor, middle, sub, sub_key


def leaf(folder, file, subject, authority, kind, names=(), end=END):
    """Writes a certificate with the CA's behind it, and its key."""
    _, middle, issuer, issuer_key = authority
    key = KINDS[kind]()
    certificate = issue(subject, key.public_key(), issuer, issuer_key, None, names, end)
    write(folder / f"{file}-{kind}.pem", certificate, middle)
    write(folder / f"{file}-{kind}.key", key)
    return certificate


def names(host, *addresses):
    """Names of a host for a certificate."""
    return [
        *(x509.IPAddress(ipaddress.ip_address(address)) for address in addresses),
        x509.DNSName(f"{host}.example"),
        x509.RFC822Name(f"{host}@example.org"),
    ]
