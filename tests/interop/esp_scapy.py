#!/usr/bin/python3
"""ESP of the data plane against scapy's, both ways.

    cargo build -p dataplane --example esp
    tests/interop/esp_scapy.py target/debug/examples/esp
    tests/interop/esp_scapy.py --vectors > dataplane/tests/vectors/scapy.txt

Both modes, IPv4 and IPv6, with and without traffic flow padding and dummies, and all that both know: AES-GCM-16, AES-CCM-16, ChaCha20-Poly1305; AES-CBC, AES-CTR and NULL with
HMAC-SHA1-96, HMAC-SHA2-256-128, HMAC-SHA2-384-192 and HMAC-SHA2-512-256. (scapy 2.5 knows neither shorter tags nor GMAC.) With
`--vectors` it writes packets that scapy sealed, for the data plane's own tests. Needs Debian's python3-scapy. Exits 0 only if all agree.
"""

import hashlib
import itertools
import json
import logging
import subprocess
import sys

logging.getLogger("scapy").setLevel(logging.ERROR)
from scapy.layers.inet import IP, UDP  # noqa: E402
from scapy.layers.inet6 import IPv6  # noqa: E402
from scapy.layers.ipsec import ESP, SecurityAssociation  # noqa: E402
from scapy.packet import Raw  # noqa: E402

MACS = {"sha1": ("HMAC-SHA1-96", 20), "sha256": ("SHA2-256-128", 32), "sha384": ("SHA2-384-192", 48), "sha512": ("SHA2-512-256", 64)}

# Cipher, octets of its key with salt or nonce, MAC, octets of its key.
TRANSFORMS = {"chacha20poly1305": ("CHACHA20-POLY1305", 36, "NULL", 0)}
for bits in (128, 192, 256):
    TRANSFORMS[f"aes{bits}gcm16"] = ("AES-GCM", bits // 8 + 4, "NULL", 0)
    TRANSFORMS[f"aes{bits}ccm16"] = ("AES-CCM", bits // 8 + 3, "NULL", 0)
    for mac in MACS:
        TRANSFORMS[f"aes{bits}-{mac}"] = ("AES-CBC", bits // 8, *MACS[mac])
        TRANSFORMS[f"aes{bits}ctr-{mac}"] = ("AES-CTR", bits // 8 + 4, *MACS[mac])
for mac in MACS:
    TRANSFORMS[f"null-{mac}"] = ("NULL", 0, *MACS[mac])
COUNTERS = ("AES-GCM", "AES-CCM", "AES-CTR", "CHACHA20-POLY1305")
STEP = 256
SIZES = [0, 1, 2, 3, 13, 14, 15, 16, 100, 1300]
SOURCES = {4: ("10.0.0.1", "239.192.0.1"), 6: ("fd00::1", "ff15::1")}


def octets(name, count):
    """The same octets in each run, different ones for each name."""
    out, block = b"", 0
    while len(out) < count:
        out += hashlib.sha256(f"{name}/{block}".encode()).digest()
        block += 1
    return out[:count]


def plain_packet(version, size):
    source, group = SOURCES[version]
    ip = IP(src=source, dst=group, ttl=9, id=7, tos=0x28) if version == 4 else IPv6(src=source, dst=group, hlim=9)
    cls = IP if version == 4 else IPv6
    return cls(bytes(ip / UDP(sport=5000, dport=5001) / Raw(octets("payload", size))))


def association(transform, mode, version, spi, keymat):
    cipher, key_len, mac, mac_len = TRANSFORMS[transform]
    source, group = SOURCES[version]
    outer = None
    if mode == "tunnel":
        outer = IP(src=source, dst=group) if version == 4 else IPv6(src=source, dst=group)
    return SecurityAssociation(
        ESP, spi=spi, crypt_algo=cipher, crypt_key=keymat[:key_len] or None,
        auth_algo=mac, auth_key=keymat[key_len:key_len + mac_len] or None, tunnel_header=outer,
    )


def parse(version, raw):
    return IP(raw) if version == 4 else IPv6(raw)


def cases():
    combinations = itertools.product(TRANSFORMS, ("transport", "tunnel"), (4, 6))
    for number, (transform, mode, version) in enumerate(combinations):
        spi = 0x1001 + number
        _, key_len, _, mac_len = TRANSFORMS[transform]
        yield transform, mode, version, spi, octets(f"keymat {spi}", key_len + mac_len)


def vectors():
    print("# ESP packets sealed by scapy 2.5; written by tests/interop/esp_scapy.py --vectors.")
    print("# transform mode spi keymat plain-packet sealed-packet")
    for transform, mode, version, spi, keymat in cases():
        # Of each transform one mode with IPv4 and the other with IPv6, by turns.
        if (mode == "tunnel") ^ (version == 6) ^ bool(list(TRANSFORMS).index(transform) % 2):
            continue
        sa = association(transform, mode, version, spi, keymat)
        for number, size in enumerate((5, 64), start=1):
            plain = plain_packet(version, size)
            sealed = bytes(sa.encrypt(parse(version, bytes(plain)), seq_num=number))
            print(transform, mode, f"{spi:08x}", keymat.hex(), bytes(plain).hex(), sealed.hex())


class Subject:
    def __init__(self, binary):
        self.process = subprocess.Popen([binary], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def check(subject, transform, mode, version, spi, keymat):
    """The complaints about one combination."""
    sa = association(transform, mode, version, spi, keymat)
    common = dict(mode=mode, transform=transform, spi=spi, keymat=keymat.hex(), sender_id=0xABC, sender_id_bits=12)
    for number, size in enumerate(SIZES, start=1):
        plain = bytes(plain_packet(version, size))

        answer = subject.ask(op="seal", packet=plain.hex(), **common)
        if "packet" not in answer:
            yield f"size {size}: not sealed: {answer}"
            continue
        sealed = bytes.fromhex(answer["packet"])
        esp = parse(version, sealed)[ESP]
        if (esp.spi, esp.seq) != (spi, number):
            yield f"size {size}: SPI and sequence number {esp.spi:#x}, {esp.seq}"
        if TRANSFORMS[transform][0] in COUNTERS and bytes(esp.data)[:8] != (0xABC << 52 | number).to_bytes(8, "big"):
            yield f"size {size}: IV {bytes(esp.data)[:8].hex()}"
        try:
            opened = bytes(sa.decrypt(parse(version, sealed)))
        except Exception as error:  # scapy raises many kinds
            yield f"size {size}: scapy refuses: {error!r}"
        else:
            if opened != plain:
                yield f"size {size}: scapy opens {opened.hex()}, not {plain.hex()}"
        damaged = sealed[:-1] + bytes([sealed[-1] ^ 1])
        try:
            sa.decrypt(parse(version, damaged))
            yield f"size {size}: scapy takes a damaged packet, so this test proves nothing"
        except Exception:
            pass

        theirs = bytes(sa.encrypt(parse(version, plain), seq_num=1000 + number))
        answer = subject.ask(op="open", packet=theirs.hex(), **common)
        if answer.get("packet") != plain.hex():
            yield f"size {size}: scapy's packet opens as {answer}, not {plain.hex()}"
        damaged = theirs[:-1] + bytes([theirs[-1] ^ 1])
        answer = subject.ask(op="open", packet=damaged.hex(), **common)
        if answer.get("drop") != "InStateProtoError":
            yield f"size {size}: a damaged packet gives {answer}"


def check_disguised(subject, transform, mode, version, spi, keymat):
    """The complaints about padded packets and dummies."""
    spi += 0x1000
    sa = association(transform, mode, version, spi, keymat)
    common = dict(mode=mode, transform=transform, spi=spi, keymat=keymat.hex(), sender_id=0xABD, sender_id_bits=12, step=STEP)
    head = 0 if mode == "tunnel" else {4: 20, 6: 40}[version]
    for size in SIZES:
        plain = bytes(plain_packet(version, size))
        sealed = bytes.fromhex(subject.ask(op="seal", packet=plain.hex(), **common).get("packet", ""))
        # As near to a multiple as whole blocks are.
        if not sealed or -len(sealed) % STEP >= 16:
            yield f"padded, size {size}: {len(sealed)} octets"
            continue
        opened = bytes(sa.decrypt(parse(version, sealed)))[head:]
        length = len(plain) - head
        if opened[:length] != plain[head:] or any(opened[length:]) or (size == 0 and len(opened) == length):
            yield f"padded, size {size}: scapy opens {opened.hex()}, not {plain[head:].hex()} and zeros"
        answer = subject.ask(op="open", packet=sealed.hex(), **common)
        if answer.get("packet") != plain.hex():
            yield f"padded, size {size}: opens as {answer}, not {plain.hex()}"

    dummy = bytes.fromhex(subject.ask(op="dummy", packet=plain.hex(), **common).get("packet", ""))
    opened = bytes(sa.decrypt(parse(version, dummy)))
    next_header = opened[{4: 9, 6: 6}[version]] if mode == "transport" else 59
    if any(opened[head:]) or next_header != 59:
        yield f"scapy opens a dummy as {opened.hex()}"
    answer = subject.ask(op="open", packet=dummy.hex(), **common)
    if answer.get("drop") != "InDummy":
        yield f"a dummy gives {answer}"


def main():
    if sys.argv[1:] == ["--vectors"]:
        vectors()
        return 0
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    subject = Subject(sys.argv[1])
    failed = 0
    for transform, mode, version, spi, keymat in cases():
        case = (subject, transform, mode, version, spi, keymat)
        complaints = [*check(*case), *check_disguised(*case)]
        failed += bool(complaints)
        print(f"{'FAIL' if complaints else 'ok  '} {transform} {mode} IPv{version}", flush=True)
        for complaint in complaints:
            print(f"     {complaint}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
