#!/usr/bin/python3
"""ESP of the data plane against the Linux kernel's, both ways; tests/interop/kernel_esp.sh prepares the guest.

    tests/interop/esp_kernel.py target/debug/examples/esp VMLINUZ INITRD

The guest's one interface is a cable to this program, an Ethernet frame per datagram of a Unix socket; its shell listens on the
serial line. Inwards, echo requests to a group that the guest has joined are sealed by the data plane; the kernel opens them and
answers in the clear, so the answers show what it made of them. Outwards, the guest's shell sends UDP to another group, and the data
plane opens what comes. Each direction has an SPI and keys of its own: the kernel knows no sender IDs, so the two must not
share a counter mode's key. Exits 0 only if all agree.
"""

import hashlib
import itertools
import json
import selectors
import signal
import socket
import struct
import subprocess
import sys
import tempfile

from guest import Guest, Silence, told

# Transform: octets of the AEAD's key and salt, its name in the kernel and the bits of its ICV; or octets of the cipher's key and
# nonce, its name in the kernel, and the MAC's name here.
AEADS = {
    "aes128gcm16": (20, "rfc4106(gcm(aes))", 128),
    "aes192gcm16": (28, "rfc4106(gcm(aes))", 128),
    "aes256gcm16": (36, "rfc4106(gcm(aes))", 128),
    "aes128gcm12": (20, "rfc4106(gcm(aes))", 96),
    "aes256gcm8": (36, "rfc4106(gcm(aes))", 64),
    "aes128ccm16": (19, "rfc4309(ccm(aes))", 128),
    "aes256ccm16": (35, "rfc4309(ccm(aes))", 128),
    "chacha20poly1305": (36, "rfc7539esp(chacha20,poly1305)", 128),
    "aes128gmac": (20, "rfc4543(gcm(aes))", 128),
    "aes256gmac": (36, "rfc4543(gcm(aes))", 128),
}
CIPHERS = {
    "aes128-sha256": (16, "cbc(aes)", "sha256"),
    "aes256-sha256": (32, "cbc(aes)", "sha256"),
    "aes256-sha384": (32, "cbc(aes)", "sha384"),
    "aes256-sha512": (32, "cbc(aes)", "sha512"),
    "aes128-sha1": (16, "cbc(aes)", "sha1"),
    "aes128ctr-sha256": (20, "rfc3686(ctr(aes))", "sha256"),
    "aes256ctr-sha512": (36, "rfc3686(ctr(aes))", "sha512"),
    "null-sha256": (0, "ecb(cipher_null)", "sha256"),
}
# Octets of the key, bits of the ICV.
MACS = {"sha1": (20, 96), "sha256": (32, 128), "sha384": (48, 192), "sha512": (64, 256)}

US = {4: "10.0.0.1", 6: "fd00::1"}
GUEST = {4: "10.0.0.2", 6: "fd00::2"}
# The group that the guest has joined, which makes it an address of its own, so that it sends to another.
GROUP = {4: "239.192.0.1", 6: "ff15::1"}
THEIR_GROUP = {4: "239.192.0.2", 6: "ff15::2"}
OUR_MAC, GUEST_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"
GROUP_MAC = {4: "01:00:5e:40:00:01", 6: "33:33:00:00:00:01"}
ETHERTYPE = {4: 0x0800, 6: 0x86DD}
ECHO = {4: (1, 8, 0), 6: (58, 128, 129)}  # protocol, type of the request, type of the answer
UDP, ESP, PORT = 17, 50, 5001
STEP = 256
IN_SIZES = [0, 1, 2, 3, 13, 16, 100, 1300]
OUT_SIZES = [1, 2, 3, 14, 100, 1000]  # more than 1,024 octets the shell writes in pieces

# The route goes that makes the IPv6 group an address like others: answers would come from it.
SETUP = f"""
ip -batch - <<'END'
link set lo up
link set eth0 up
addr add {GUEST[4]}/24 dev eth0
addr add {GUEST[6]}/64 dev eth0 nodad
neigh add {US[4]} lladdr {OUR_MAC} nud permanent dev eth0
neigh add {US[6]} lladdr {OUR_MAC} nud permanent dev eth0
addr add {GROUP[4]}/32 dev eth0 autojoin
addr add {GROUP[6]}/128 dev eth0 autojoin nodad
route add 224.0.0.0/4 dev eth0
END
# The kernel adds the route a moment after the address.
n=0; until ip -6 route del local {GROUP[6]}/128 dev eth0 table local 2>/dev/null; do n=$((n + 1)); [ $n -lt 100 ] || break; sleep 0.1; done
echo 0 >/proc/sys/net/ipv4/icmp_echo_ignore_broadcasts
"""


def octets(name, count):
    """The same octets in each run, different ones for each name."""
    blocks = (hashlib.sha256(f"{name}/{block}".encode()).digest() for block in range(count // 32 + 1))
    return b"".join(blocks)[:count]


def text(name, count):
    """Octets that a shell can write as they are."""
    return octets(name, count // 2 + 1).hex()[:count].encode()


def mac(address):
    return bytes.fromhex(address.replace(":", ""))


def ip(address):
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def checksum(data):
    total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ip_packet(version, source, destination, protocol, payload):
    if version == 6:
        return struct.pack("!IHBB", 6 << 28, len(payload), protocol, 9) + ip(source) + ip(destination) + payload
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 7, 0, 9, protocol, 0) + ip(source) + ip(destination)
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + payload


def parse_ip(packet):
    """Source, destination, protocol, payload; None if it isn't one whole IP packet without options."""
    if packet[:1] == b"\x45" and len(packet) >= 20 and not checksum(packet[:20]):
        length, protocol = int.from_bytes(packet[2:4], "big"), packet[9]
        source, destination, start = packet[12:16], packet[16:20], 20
    elif packet[:1] and packet[0] >> 4 == 6 and len(packet) >= 40:
        length, protocol = 40 + int.from_bytes(packet[4:6], "big"), packet[6]
        source, destination, start = packet[8:24], packet[24:40], 40
    else:
        return None
    family = socket.AF_INET if start == 20 else socket.AF_INET6
    if length < start or length > len(packet):
        return None
    return socket.inet_ntop(family, source), socket.inet_ntop(family, destination), protocol, packet[start:length]


def pseudo_header(source, destination, protocol, length):
    if ":" in source:
        return ip(source) + ip(destination) + struct.pack("!II", length, protocol)
    return ip(source) + ip(destination) + struct.pack("!HH", protocol, length)


def echo_request(version, number, payload):
    protocol, kind, _ = ECHO[version]
    message = struct.pack("!BBHHH", kind, 0, 0, 0x4B46, number) + payload
    pseudo = pseudo_header(US[6], GROUP[6], protocol, len(message)) if version == 6 else b""
    message = message[:2] + struct.pack("!H", checksum(pseudo + message)) + message[4:]
    return ip_packet(version, US[version], GROUP[version], protocol, message)


class Subject:
    """The data plane, as a filter."""

    def __init__(self, binary):
        self.process = subprocess.Popen([binary], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def seal(self, packet, **sa):
        answer = self.ask(op="seal", packet=packet.hex(), **sa)
        if "packet" not in answer:
            raise ValueError(f"not sealed: {answer}")
        return bytes.fromhex(answer["packet"])


class CabledGuest(Guest):
    """Its interface is on a cable to us."""

    def __init__(self, kernel, initrd, folder):
        here, self.there = f"{folder}/here", f"{folder}/there"
        self.cable = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.cable.bind(here)
        self.frames = []
        super().__init__(
            kernel, initrd, folder,
            "-netdev", f"dgram,id=cable,local.type=unix,local.path={self.there},remote.type=unix,remote.path={here}",
            "-device", f"virtio-net-pci,netdev=cable,mac={GUEST_MAC},romfile=",
        )
        self.ready.register(self.cable, selectors.EVENT_READ, lambda: self.frames.append(self.cable.recv(65536)))

    def send(self, version, packet):
        frame = mac(GROUP_MAC[version]) + mac(OUR_MAC) + struct.pack("!H", ETHERTYPE[version]) + packet
        self.cable.sendto(frame, self.there)

    def packet(self, what, wanted):
        """The next IP packet that is wanted, with its parts; others (reports of membership) are left aside."""

        def found():
            while self.frames:
                frame = self.frames.pop(0)
                parsed = parse_ip(frame[14:]) if int.from_bytes(frame[12:14], "big") in ETHERTYPE.values() else None
                if parsed and wanted(*parsed):
                    return frame[14:], parsed
            return None

        return self.wait(what, found)


def algorithm(transform, keymat):
    """The words of `ip xfrm state` for a transform and its keys."""
    if transform in AEADS:
        _, name, bits = AEADS[transform]
        return f"aead '{name}' 0x{keymat.hex()} {bits}"
    key_len, name, mac_name = CIPHERS[transform]
    key = f"0x{keymat[:key_len].hex()}" if key_len else "''"
    return f"enc '{name}' {key} auth-trunc 'hmac({mac_name})' 0x{keymat[key_len:].hex()} {MACS[mac_name][1]}"


def keymat_len(transform):
    return AEADS[transform][0] if transform in AEADS else CIPHERS[transform][0] + MACS[CIPHERS[transform][2]][0]


def install(guest, version, inbound, outbound):
    """An SA and a policy for each direction in the guest's kernel, and nothing else there; returns its complaints."""
    everyone, bits = ("::/0", 128) if version == 6 else ("0.0.0.0/0", 32)
    lines = ["xfrm state flush", "xfrm policy flush"]
    for way, protocol, reqid, source, group, sa in (
        ("in", ECHO[version][0], 1, "", GROUP[version], inbound),
        ("out", UDP, 2, f"src {GUEST[version]}", THEIR_GROUP[version], outbound),
    ):
        mode, keys = sa["mode"], algorithm(sa["transform"], bytes.fromhex(sa["keymat"]))
        ends = f"{source} dst {group}"
        lines.append(f"xfrm state add {ends} proto esp spi {sa['spi']} reqid {reqid} mode {mode} replay-window 32 {keys}")
        lines.append(f"xfrm policy add dir {way} src {everyone} dst {group}/{bits} proto {protocol} "
                     f"tmpl {ends if mode == 'tunnel' else ''} proto esp reqid {reqid} mode {mode}")
    return guest.run("ip -batch - <<'END'\n" + "\n".join(lines) + "\nEND")


def answered(guest, version, number, payload):
    """A complaint unless the next answer of the guest is the one to this request."""
    protocol, _, kind = ECHO[version]
    expected = (GUEST[version], US[version], protocol, bytes([kind]))
    _, (*_, message) = guest.packet("answer", lambda *parts: (*parts[:3], parts[3][:1]) == expected)
    at, got = int.from_bytes(message[6:8], "big"), message[8:]
    if (at, got) != (number, payload):
        return f"in: the next answer should be number {number} with {payload.hex()}, and is number {at} with {got.hex()}"
    return None


def check_in(subject, guest, version, sa):
    """Echo requests that the data plane sealed, and others that the kernel must drop."""
    before = guest.drops()
    for number, size in enumerate(IN_SIZES, start=1):
        payload = octets("request", size)
        sealed = subject.seal(echo_request(version, number, payload), **sa)
        guest.send(version, sealed)
        if complaint := answered(guest, version, number, payload):
            yield complaint

    # Each of these would be answered before the last one, did it not fall.
    dummy = subject.ask(op="dummy", packet=echo_request(version, 98, b"").hex(), **sa)
    guest.send(version, bytes.fromhex(dummy["packet"]))
    refused = echo_request(version, 99, b"refused")
    fresh = subject.seal(refused, **sa)
    guest.send(version, fresh[:-1] + bytes([fresh[-1] ^ 1]))
    wrong = dict(sa, keymat=octets("wrong", len(sa["keymat"]) // 2).hex())
    for _ in range(len(IN_SIZES) + 2):  # up to a sequence number that is not spent
        other = subject.seal(refused, **wrong)
    guest.send(version, other)
    guest.send(version, subject.seal(refused, **dict(sa, spi=sa["spi"] + 1000)))
    guest.send(version, sealed)
    guest.send(version, refused)
    guest.send(version, subject.seal(echo_request(version, 100, b"last"), **sa))
    if complaint := answered(guest, version, 100, b"last"):
        yield complaint

    drops = {name: count - before[name] for name, count in guest.drops().items() if count != before[name]}
    # The damaged one, the wrong key and the dummy; the unknown SPI; the replay; the one in the clear.
    expected = {"XfrmInStateProtoError": 3, "XfrmInNoStates": 1, "XfrmInStateSeqError": 1, "XfrmInTmplMismatch": 1}
    if drops != expected:
        yield f"in: the kernel dropped {drops}, not {expected}"


def check_out(subject, guest, version, sa):
    """Datagrams that the kernel sealed."""
    for number, size in enumerate(OUT_SIZES, start=1):
        payload = text("datagram", size)
        said = guest.run(f"printf %s {payload.decode()} >/dev/udp/{THEIR_GROUP[version]}/{PORT}")
        if said:
            yield f"out: size {size}: the guest says: {said}"
            continue
        # In the clear it would be on the cable by now, too.
        sealed, (*_, protocol, esp) = guest.packet(
            "datagram", lambda _, to, protocol, __: to == THEIR_GROUP[version] and protocol in (ESP, UDP))
        if protocol != ESP or struct.unpack("!II", esp[:8]) != (sa["spi"], number):
            yield f"out: size {size}: protocol {protocol}, {esp[:8].hex()}"
            continue
        damaged = sealed[:-1] + bytes([sealed[-1] ^ 1])
        wrong = dict(sa, keymat=octets("wrong", len(sa["keymat"]) // 2).hex())
        for what, packet, keys in (("damaged", damaged, sa), ("under a wrong key", sealed, wrong)):
            answer = subject.ask(op="open", packet=packet.hex(), **keys)
            if answer.get("drop") != "InStateProtoError":
                yield f"out: size {size}: {what} it opens as {answer}"
        answer = subject.ask(op="open", packet=sealed.hex(), **sa)
        parsed = parse_ip(bytes.fromhex(answer.get("packet", "")))
        if parsed is None or parsed[:3] != (GUEST[version], THEIR_GROUP[version], UDP):
            yield f"out: size {size}: the kernel's packet {sealed.hex()} opens as {answer}"
            continue
        datagram = parsed[3]
        if datagram[8:] != payload or datagram[2:4] != struct.pack("!H", PORT):
            yield f"out: size {size}: {datagram.hex()}, not {payload.hex()}"
        if checksum(pseudo_header(GUEST[version], THEIR_GROUP[version], UDP, len(datagram)) + datagram):
            yield f"out: size {size}: the datagram's checksum is wrong"


def check(subject, guest, number, transform, mode, version):
    common = dict(mode=mode, transform=transform, sender_id=0xABC, sender_id_bits=12)
    sas = [dict(common, spi=spi, keymat=octets(f"keymat {spi}", keymat_len(transform)).hex())
           for spi in (0x1000 + 2 * number, 0x1001 + 2 * number)]
    if mode == "tunnel" and number % 2:
        # The kernel drops what is behind the packet inside.
        sas[0]["step"] = STEP
    if said := install(guest, version, *sas):
        yield f"the guest's ip says: {said}"
        return
    yield from check_in(subject, guest, version, sas[0])
    yield from check_out(subject, guest, version, sas[1])


def run(subject, guest):
    guest.written("ready.")
    if said := guest.run(SETUP):
        print(f"the guest says: {said}")
        return 1
    failed = 0
    for number, (transform, mode, version) in enumerate(itertools.product([*AEADS, *CIPHERS], ("transport", "tunnel"), (4, 6))):
        try:
            complaints = list(check(subject, guest, number, transform, mode, version))
        except Silence as silence:
            raise Silence(f"{transform} {mode} IPv{version}: {silence}; dropped so far: {guest.drops()}") from None
        failed += told(f"{transform} {mode} IPv{version}", complaints)
    return 1 if failed else 0


def main():
    if len(sys.argv) != 4:
        print(__doc__, file=sys.stderr)
        return 2
    binary, kernel, initrd = sys.argv[1:]
    # The guest ends with this program, also when that is told to end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory() as folder:
        guest = CabledGuest(kernel, initrd, folder)
        try:
            return run(Subject(binary), guest)
        except Silence as silence:
            print(f"FAIL {silence}; {guest.last_words()}")
            return 1
        finally:
            guest.end()


if __name__ == "__main__":
    sys.exit(main())
