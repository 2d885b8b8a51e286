#!/usr/bin/env python3
"""Opens every GDOI message of a capture, independently of Keyferry: by RFC 2409, RFC 6407 and RFC 8263, with Python's hashlib
and hmac, and AES and signatures of the package "cryptography".

Takes a folder with lab.pcap and the key files written beside it. Fails on a message that does not open, payloads left over or
out of place, a wrong hash of an acknowledgement, a wrong signature or a SEQ that does not grow.
"""
import collections
import hashlib
import hmac
import pathlib
import struct
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, utils
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

MAIN, INFORMATIONAL, PULL, PUSH, ACK = 2, 5, 32, 33, 35
SA, KE, ID, HASH, SIG, NONCE, NOTIFY, DELETE, VENDOR, SAT, KD, SEQ, GAP = 1, 4, 5, 8, 9, 10, 11, 12, 13, 16, 17, 18, 22
HASHES = {2: "sha1", 4: "sha256", 5: "sha384", 6: "sha512"}
HEADER = 28
BLOCK = 16


def fail(text):
    sys.exit(f"FAILED: {text}")


def datagrams(path):
    """Source address and payload of each UDP datagram from or to port 848, 500 or 4500; copies of one frame once."""
    octets = path.read_bytes()
    at, seen = 24, set()
    while at < len(octets):
        (length,) = struct.unpack_from("<8xI", octets, at)
        frame = octets[at + 16 : at + 16 + length]
        at += 16 + length
        kind = int.from_bytes(frame[12:14], "big")
        if kind == 0x0800 and frame[23] == 17:
            ip, udp = frame[26:30], 14 + (frame[14] & 15) * 4
        elif kind == 0x86DD and frame[20] == 17:
            ip, udp = frame[22:38], 54
        else:
            continue
        ports = struct.unpack_from("!HH", frame, udp)
        (length,) = struct.unpack_from("!H", frame, udp + 4)
        payload = frame[udp + 8 : udp + length]
        if payload[:4] == bytes(4):
            payload = payload[4:]
        if {848, 500, 4500} & set(ports) and len(payload) >= HEADER and payload[17] == 0x10 and (ip, payload) not in seen:
            seen.add((ip, payload))
            yield ip, payload


def chain(first, octets, padded):
    """Payloads as (type, body, offset of the generic header). Behind them there may be less than a block of padding."""
    payloads, at = [], 0
    while first:
        if at + 4 > len(octets):
            raise ValueError("payloads are cut off")
        following, _, length = struct.unpack_from("!BBH", octets, at)
        if length < 4 or at + length > len(octets):
            raise ValueError(f"payload {first} has the length {length}")
        payloads.append((first, octets[at + 4 : at + length], at))
        first, at = following, at + length
    left = octets[at:]
    if (left and not padded) or len(left) >= BLOCK or any(left):
        raise ValueError(f"{len(left)} octets behind the payloads")
    return payloads


def decrypt(key, iv, body):
    decryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).decryptor()
    return decryptor.update(body) + decryptor.finalize()


def attributes(octets):
    at = 0
    while at < len(octets):
        kind, value = struct.unpack_from("!HH", octets, at)
        at += 4
        if kind & 0x8000:
            yield kind & 0x7FFF, value.to_bytes(2, "big")
        else:
            yield kind, octets[at : at + value]
            at += value


def key_packets(kd):
    """Type, SPI and attributes of each packet."""
    (count,) = struct.unpack_from("!H", kd)
    at = 4
    for _ in range(count):
        kind, _, length, spi = struct.unpack_from("!BBHB", kd, at)
        yield kind, kd[at + 5 : at + 5 + spi], list(attributes(kd[at + 5 + spi : at + length]))
        at += length
    if at != len(kd):
        raise ValueError("octets behind the key packets")


def body(payloads, kind):
    return next((b for k, b, _ in payloads if k == kind), None)


def kinds(payloads):
    return [k for k, _, _ in payloads if k != VENDOR]


class Phase1:
    """One phase 1 exchange, and what is said under its SA."""

    def __init__(self, key):
        self.key = key
        self.hash = self.last = None
        self.public, self.pulls, self.opened = [], {}, collections.Counter()

    def main(self, message):
        if not message[19] & 1:
            payloads = chain(message[16], message[HEADER:], False)
            if body(payloads, KE) is not None:
                self.public.append(body(payloads, KE))
            elif message[8:16] != bytes(8):
                # The transform that was chosen: SA, proposal and transform headers, then its attributes.
                chosen = dict(attributes(body(payloads, SA)[8 + 8 + 8 :]))
                self.hash = HASHES[int.from_bytes(chosen[2], "big")]
            return
        if self.last is None:
            self.last = self.digest(b"".join(self.public))[:BLOCK]
        payloads = chain(message[16], decrypt(self.key, self.last, message[HEADER:]), True)
        if kinds(payloads)[0] != ID or not {HASH, SIG} & set(kinds(payloads)):
            raise ValueError(f"payloads {kinds(payloads)} in message 5 or 6")
        self.last = message[-BLOCK:]
        self.opened["main"] += 1

    def digest(self, octets):
        return hashlib.new(self.hash, octets).digest()

    def iv(self, message):
        return self.digest(self.last + message[20:24])[:BLOCK]

    def informational(self, message):
        payloads = chain(message[16], decrypt(self.key, self.iv(message), message[HEADER:]), True)
        if kinds(payloads)[0] != HASH or not set(kinds(payloads)[1:]) <= {NOTIFY, DELETE}:
            raise ValueError(f"payloads {kinds(payloads)} in an informational message")
        self.opened["informational"] += 1

    def pull(self, message):
        number, iv = self.pulls.get(message[20:24], (0, None))
        payloads = chain(message[16], decrypt(self.key, iv or self.iv(message), message[HEADER:]), True)
        expected = [[[HASH, NONCE, ID]], [[HASH, NONCE, SA]], [[HASH], [HASH, GAP]], [[HASH, SEQ, KD]]][number]
        if kinds(payloads) not in expected:
            raise ValueError(f"payloads {kinds(payloads)} in message {number + 1} of a PULL")
        self.pulls[message[20:24]] = (number + 1, message[-BLOCK:])
        self.opened["pull"] += 1
        return body(payloads, KD)


def is_signed(key, signed, signature):
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            algorithm = {256: hashes.SHA256, 384: hashes.SHA384, 521: hashes.SHA512}[key.curve.key_size]
            half = len(signature) // 2
            r, s = (int.from_bytes(part, "big") for part in (signature[:half], signature[half:]))
            key.verify(utils.encode_dss_signature(r, s), signed, ec.ECDSA(algorithm()))
            return True
    except InvalidSignature:
        return False
    for algorithm in (hashes.SHA256, hashes.SHA384, hashes.SHA512):
        try:
            key.verify(signature, signed, padding.PKCS1v15(), algorithm())
            return True
        except InvalidSignature:
            pass
    return False


class Group:
    """What all members share."""

    def __init__(self, keks):
        self.keks = keks
        self.signers, self.told, self.seqs, self.opened = {}, set(), {}, collections.Counter()

    def learn(self, kd):
        """Keys told in a PULL or a push."""
        for kind, spi, attrs in key_packets(kd):
            if kind not in (2, 3):
                continue
            for number, value in attrs:
                if number == {2: 2, 3: 3}[kind]:
                    self.signers[value] = serialization.load_der_public_key(value)
                elif number == 1 and b"".join(self.keks[spi]) in value:
                    # IV and key, alone or at the end of the way through the tree.
                    self.told.add(spi)

    def push(self, message):
        spi = message[:16]
        iv, key = self.keks[spi]
        plain = decrypt(key, iv, message[HEADER:])
        payloads = chain(message[16], plain, True)
        order = kinds(payloads)
        if order[0] != SEQ or order[-1] != SIG or not set(order[1:-1]) <= {DELETE, SA, KD}:
            raise ValueError(f"payloads {order} in a push")
        signed = b"rekey" + message[:HEADER] + plain[: payloads[-1][2]]
        if not any(is_signed(key, signed, payloads[-1][1]) for key in self.signers.values()):
            raise ValueError("no key that was told verifies the signature of a push")
        (seq,) = struct.unpack("!I", body(payloads, SEQ))
        if seq <= self.seqs.get(spi, 0):
            raise ValueError(f"SEQ {seq} after {self.seqs.get(spi)}")
        self.seqs[spi] = seq
        kd = body(payloads, KD)
        if kd is not None:
            for kind, tek, _ in key_packets(kd):
                if kind == 1 and tek not in body(payloads, SA):
                    raise ValueError("a key of an SA that the policy does not name")
            self.learn(kd)
        self.opened["push"] += 1

    def ack(self, message):
        spi = message[:16]
        payloads = chain(message[16], message[HEADER:], False)
        if kinds(payloads) != [HASH, SEQ, ID]:
            raise ValueError(f"payloads {kinds(payloads)} in an acknowledgement")
        (seq,) = struct.unpack("!I", body(payloads, SEQ))
        if not 0 < seq <= self.seqs.get(spi, 0):
            raise ValueError(f"acknowledgement of push {seq}, which was not sent")
        name, bits = {32: ("sha256", 512), 64: ("sha512", 1024)}[len(body(payloads, HASH))]
        key = hmac.new(self.keks[spi][1], b"GROUPKEY-PUSH ACK\0" + spi + bits.to_bytes(2, "big"), name).digest()
        expected = hmac.new(key, message[HEADER + payloads[1][2] :], name).digest()
        if not hmac.compare_digest(expected, body(payloads, HASH)):
            raise ValueError("wrong hash of an acknowledgement")
        self.opened["ack"] += 1


def table(folder, name):
    path = folder / name
    if not path.exists():
        fail(f"{name} was not written")
    return [[bytes.fromhex(field) for field in line.split(",")] for line in path.read_text().splitlines()]


def main():
    folder = pathlib.Path(sys.argv[1])
    exchanges = {cookie: Phase1(key) for cookie, key in table(folder, "ikev1_decryption_table")}
    group = Group({spi: (iv, key) for spi, iv, key in table(folder, "gdoi_kek_table")})
    for number, (_, message) in enumerate(datagrams(folder / "lab.pcap")):
        exchange = message[18]
        try:
            if exchange == PUSH:
                group.push(message)
            elif exchange == ACK:
                group.ack(message)
            elif exchange == MAIN:
                exchanges[message[:8]].main(message)
            elif exchange == PULL:
                kd = exchanges[message[:8]].pull(message)
                if kd is not None:
                    group.learn(kd)
            elif exchange == INFORMATIONAL and message[19] & 1:
                exchanges[message[:8]].informational(message)
            elif exchange != INFORMATIONAL:
                raise ValueError("unknown exchange")
        except (ValueError, KeyError, struct.error) as error:
            fail(f"datagram {number}, exchange {exchange}: {error!r}")
    opened = sum((phase1.opened for phase1 in exchanges.values()), group.opened)
    print("opened:", ", ".join(f"{count} {name}" for name, count in sorted(opened.items())))
    at_least = {"main": 4, "pull": 8, "push": 4, "ack": 4, "informational": 1}
    missing = [name for name, count in at_least.items() if opened[name] < count]
    if missing:
        fail(f"too few messages: {missing}")
    if not group.told:
        fail("no KEK that a PULL told is the one that was logged")
    if unused := set(group.seqs) - set(group.keks):
        fail(f"pushes under unknown keys: {unused}")


if __name__ == "__main__":
    main()
