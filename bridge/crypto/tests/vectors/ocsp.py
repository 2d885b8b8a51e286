#!/usr/bin/python3
"""Makes ocsp.txt beside this file, with the package cryptography: name and DER in hexadecimal of certificates, of OCSP
answers about "leaf", and of a list on which the responder is. Everything is current at 1800000000 seconds after the epoch; keys are new each time.
"""

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = datetime.datetime.utcfromtimestamp(1800000000)
DAY = datetime.timedelta(days=1)


def name(cn):
    return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example"), x509.NameAttribute(NameOID.COMMON_NAME, cn)])


def key():
    return ec.generate_private_key(ec.SECP256R1())


def issue(cn, own, issuer, by, *extensions, days=30):
    builder = x509.CertificateBuilder().subject_name(name(cn)).issuer_name(name(issuer)).public_key(own.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(NOW - 40 * DAY).not_valid_after(NOW + days * DAY)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(by, hashes.SHA256())


def put(label, thing):
    print(label, thing.public_bytes(serialization.Encoding.DER).hex())


CA = (x509.BasicConstraints(True, None), True)
RESPONDER = (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]), False)

ca_key, leaf_key, responder_key, other_key = key(), key(), key(), key()
ca = issue("CA", ca_key, "CA", ca_key, CA)
leaf = issue("gm1", leaf_key, "CA", ca_key)
responder = issue("responder", responder_key, "CA", ca_key, RESPONDER)
expired = issue("responder", responder_key, "CA", ca_key, RESPONDER, days=-1)
plain = issue("responder", responder_key, "CA", ca_key)
stranger = issue("responder", other_key, "CA", other_key, RESPONDER)
put("ca", ca)
put("leaf", leaf)
put("neighbour", issue("gm2", leaf_key, "CA", ca_key))


def answer(label, status, by, certificate, since=-1, until=1, algorithm=hashes.SHA1(), carry=True):
    revoked = NOW - 2 * DAY if status == ocsp.OCSPCertStatus.REVOKED else None
    builder = ocsp.OCSPResponseBuilder().add_response(
        cert=leaf,
        issuer=ca,
        algorithm=algorithm,
        cert_status=status,
        this_update=NOW + since * DAY,
        next_update=None if until is None else NOW + until * DAY,
        revocation_time=revoked,
        revocation_reason=None,
    )
    builder = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, certificate)
    if carry:
        builder = builder.certificates([certificate])
    put(label, builder.sign(by, hashes.SHA256()))


GOOD, REVOKED, UNKNOWN = ocsp.OCSPCertStatus.GOOD, ocsp.OCSPCertStatus.REVOKED, ocsp.OCSPCertStatus.UNKNOWN
answer("good-by-ca", GOOD, ca_key, ca, carry=False)
answer("good-by-responder", GOOD, responder_key, responder, algorithm=hashes.SHA256())
answer("good-for-a-day", GOOD, responder_key, responder, since=0, until=None)
answer("revoked", REVOKED, responder_key, responder)
answer("revoked-long-ago", REVOKED, responder_key, responder, since=-9, until=-8)
answer("unknown", UNKNOWN, responder_key, responder)
answer("stale", GOOD, responder_key, responder, since=-3, until=-1)
answer("stale-after-a-day", GOOD, responder_key, responder, since=-2, until=None)
answer("of-the-future", GOOD, responder_key, responder, since=1, until=2)
answer("by-an-expired-responder", GOOD, responder_key, expired)
answer("by-no-responder", GOOD, responder_key, plain)
answer("by-a-stranger", GOOD, other_key, stranger)
answer("by-the-leaf", GOOD, leaf_key, leaf)

entry = x509.RevokedCertificateBuilder().serial_number(responder.serial_number).revocation_date(NOW - DAY).build()
crl = x509.CertificateRevocationListBuilder().issuer_name(name("CA")).last_update(NOW - DAY).next_update(NOW + DAY)
put("list-of-the-responder", crl.add_revoked_certificate(entry).sign(ca_key, hashes.SHA256()))
unable = ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.TRY_LATER)
put("try-later", unable)
