#!/usr/bin/env python3
"""Certificates and keys for the tests of AUTH, by Python's cryptography.

Writes pki/* beside itself. Each leaf is NAME-KIND.pem (the certificate, then the intermediate's) and NAME-KIND.key. They hold
from 2020 to 2076, but "expired", which ended in 2023; "revoked" stands in crl.pem. Keys are new at each run, so their
value is none.
"""
import datetime
import functools
import pathlib
import sys

HERE = pathlib.Path(__file__).parent / "pki"
sys.path.insert(0, str(pathlib.Path(__file__).parents[3] / "tests/vectors"))

import authority
from authority import END, KINDS, START, hashes, name, names, write, x509

HERE.mkdir(exist_ok=True)
leaf = functools.partial(authority.leaf, HERE)
ours, other = authority.authority("Root", "Devices", "p256"), authority.authority("Other Root", "Other Devices", "ed25519")
write(HERE / "root.pem", ours[0])
write(HERE / "other-root.pem", other[0])
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
write(HERE / "crl.pem", crl)
