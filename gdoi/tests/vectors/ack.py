#!/usr/bin/env python3
"""Known answers for GROUPKEY-PUSH acknowledgements, from RFC 8263 section 3, by Python's hmac alone.

Writes ack.txt (hash, whole message) beside itself: KEK sixteen octets 07, SEQ 5, identity 10.84.0.11.
"""
import hmac
import pathlib

BASE, SPI = bytes([7] * 16), bytes(range(0x30, 0x40))
SEQ = bytes([5, 0, 0, 8]) + (5).to_bytes(4, "big")
ID = bytes([0, 0, 0, 12, 1, 0, 0, 0, 10, 84, 0, 11])


def message(name, bits):
    key = hmac.new(BASE, b"GROUPKEY-PUSH ACK\0" + SPI + bits.to_bytes(2, "big"), name).digest()
    digest = hmac.new(key, SEQ + ID, name).digest()
    body = bytes([18, 0]) + (4 + len(digest)).to_bytes(2, "big") + digest + SEQ + ID
    header = SPI + bytes([8, 0x10, 35, 0]) + bytes(4) + (28 + len(body)).to_bytes(4, "big")
    return (header + body).hex()


out = pathlib.Path(__file__).parent / "ack.txt"
out.write_text(f"sha256 {message('sha256', 512)}\nsha512 {message('sha512', 1024)}\n")
