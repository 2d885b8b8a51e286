#!/usr/bin/env python3
"""Certificates and keys for tests of phase 1, by Python's cryptography.

Writes pki/*.pem beside itself. Each leaf is NAME-KIND.pem (the certificate, then the intermediate's) and NAME-KIND.key. They hold
until 2076, but "expired", which ended in mid-2026. Keys are new at each run, so their value is none.
"""
import datetime
import functools
import pathlib
import sys

HERE = pathlib.Path(__file__).parent / "pki"
sys.path.insert(0, str(pathlib.Path(__file__).parents[3] / "tests/vectors"))

import authority
from authority import names, write

HERE.mkdir(exist_ok=True)
leaf = functools.partial(authority.leaf, HERE)
ours, other = authority.authority("Root", "Devices", "p256"), authority.authority("Other Root", "Other Devices", "p256")
write(HERE / "root.pem", ours[0])
write(HERE / "other-root.pem", other[0])
for kind in ("rsa", "p256", "p384", "p521"):
    leaf("gateway", "gateway", ours, kind, names("gateway", "10.84.0.1"))
    leaf("gm10", "gm10", ours, kind, names("gm10", "10.84.0.10"))
leaf("gm11", "gm11", ours, "p256", names("gm11", "10.84.0.11"))
leaf("expired", "gm10", ours, "p256", names("gm10", "10.84.0.10"), datetime.datetime(2026, 6, 1))
leaf("stranger", "gm10", other, "p256", names("gm10", "10.84.0.10"))
leaf("other-gateway", "gateway", other, "p256", names("gateway", "10.84.0.1"))
