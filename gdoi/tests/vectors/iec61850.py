#!/usr/bin/env python3
"""SA and KD payloads of a stream group, octet by octet: the case of RFC 8052 appendix A with IANA's numbers.

Prints what iec61850.txt holds. Uses nothing but struct, so it shares no code with what it checks.
"""

import struct

TEK, SA_TEK, IEC_61850 = 1, 16, 3
AUTH_NONE, HMAC_SHA256_128 = 1, 2
AES_CBC_128, AES_GCM_128 = 2, 4


def base128(arc):
    digits = [arc & 0x7F]
    while arc := arc >> 7:
        digits.append(arc & 0x7F | 0x80)
    return bytes(reversed(digits))


def oid(text):
    first, second, *rest = map(int, text.split("."))
    contents = base128(40 * first + second) + b"".join(map(base128, rest))
    return bytes([6, len(contents)]) + contents


NAME = oid("1.2.840.10070.61850.8.1.2")
ADDRESS = bytes([4, 4, 233, 252, 0, 1])  # 233.252.0.1 in an OCTET STRING


def stream(spi, auth, enc, lifetime, attributes=b""):
    selectors = bytes([len(NAME)]) + NAME + struct.pack("!H", len(ADDRESS)) + ADDRESS
    return bytes([IEC_61850]) + selectors + struct.pack("!IHHI", spi, auth, enc, lifetime) + attributes


def chain(kind, bodies):
    out = b""
    for i, body in enumerate(bodies):
        out += struct.pack("!BBH", kind if i + 1 < len(bodies) else 0, 0, 4 + len(body)) + body
    return out


def attribute(kind, value):
    return struct.pack("!HH", kind, len(value)) + value


def key_packet(spi, *attributes):
    body = struct.pack("!BI", 4, spi) + b"".join(attributes)
    return struct.pack("!BBH", TEK, 0, 4 + len(body)) + body


atd = attribute(1, struct.pack("!I", 3300))
kda = struct.pack("!HH", 0x8000 | 2, 75)
sa = struct.pack("!IIHH", 2, 0, SA_TEK, 0) + chain(
    SA_TEK,
    [
        stream(1, HMAC_SHA256_128, AES_CBC_128, 3600),
        stream(2, AUTH_NONE, AES_GCM_128, 12 * 3600, atd + kda),
    ],
)
kd = struct.pack("!HH", 2, 0)
kd += key_packet(1, attribute(2, b"\x42" * 32), attribute(1, b"\x41" * 16))
kd += key_packet(2, attribute(1, b"\x43" * 20))

print("# SA and KD of iec61850.py")
print(sa.hex())
print(kd.hex())
