#!/usr/bin/env python3
"""Known answers for GROUPKEY-PULL and GROUPKEY-PUSH, from RFC 6407 sections 3.2, 4 and 5, RFC 2409 section 5 and appendix B.

Writes pull.txt (messages 1 to 4, then 2 and 4 with SEQ in message 2, then 4 without any) and push.txt (PKCS #1 key and
SubjectPublicKeyInfo in DER, message), pushes.txt and certificate.txt beside itself. By Python's hmac and hashlib; AES by the package "cryptography"; RSA
is computed here, with primes that follow from a seed.
"""
import hashlib
import hmac
import pathlib

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

HERE = pathlib.Path(__file__).parent


def n16(n):
    return n.to_bytes(2, "big")


def n32(n):
    return n.to_bytes(4, "big")


def tv(kind, value):
    return n16(0x8000 | kind) + n16(value)


def tlv(kind, value):
    return n16(kind) + n16(len(value)) + value


def chain(payloads, last=0):
    """Payloads with their generic headers."""
    nexts = [kind for kind, _ in payloads[1:]] + [last]
    return b"".join(bytes([n, 0]) + n16(4 + len(body)) + body for (_, body), n in zip(payloads, nexts))


def header(cookies, first, exchange, message_id, length):
    return cookies + bytes([first, 0x10, exchange, 1]) + n32(message_id) + n32(length)


def aes(key, iv, data):
    e = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
    return e.update(data) + e.finalize()


def padded(data):
    return data + bytes(-len(data) % 16)


# RSA

def prime(seed):
    n = int.from_bytes(b"".join(hashlib.sha256(seed + bytes([i])).digest() for i in range(4)), "big")
    n |= 3 << 1022 | 1
    while n % 65537 == 1 or any(n % p == 0 for p in (3, 5, 7, 11, 13, 17, 19, 23)) or not probably(n):
        n += 2
    return n


def probably(n):
    d, s = n - 1, 0
    while d % 2 == 0:
        d, s = d // 2, s + 1
    for a in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37):
        x = pow(a, d, n)
        if x in (1, n - 1):
            continue
        for _ in range(s - 1):
            x = x * x % n
            if x == n - 1:
                break
        else:
            return False
    return True


def der(tag, body):
    length = len(body)
    if length < 128:
        return bytes([tag, length]) + body
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(octets)]) + octets + body


def der_int(n):
    return der(2, n.to_bytes(n.bit_length() // 8 + 1, "big"))


P, Q, E = prime(b"p"), prime(b"q"), 65537
N, D = P * Q, pow(65537, -1, (P - 1) * (Q - 1))
PRIVATE = der(0x30, b"".join(map(der_int, (0, N, E, D, P, Q, D % (P - 1), D % (Q - 1), pow(Q, -1, P)))))
RSA_ENCRYPTION = bytes.fromhex("300d06092a864886f70d0101010500")
SPKI = der(0x30, RSA_ENCRYPTION + der(3, b"\0" + der(0x30, der_int(N) + der_int(E))))
SHA256_INFO = bytes.fromhex("3031300d060960864801650304020105000420")


def sign(data):
    info = SHA256_INFO + hashlib.sha256(data).digest()
    block = b"\0\1" + b"\xff" * (256 - 3 - len(info)) + b"\0" + info
    return pow(int.from_bytes(block, "big"), D, N).to_bytes(256, "big")


# Policy and keys

KEK_SPI, KEK_IV, KEK = bytes(range(0x30, 0x40)), bytes([0x41] * 16), bytes([0x42] * 16)
GROUP, SERVER, REKEY = bytes([239, 192, 0, 1]), bytes([10, 84, 0, 1]), bytes([239, 192, 84, 1])


def endpoint(kind, port, data):
    return bytes([kind]) + n16(port) + bytes([len(data)]) + data


def sat(spi):
    any_source = endpoint(4, 0, bytes(8))
    attributes = tv(1, 1) + tlv(2, n32(3600)) + tv(4, 1) + tv(14, 4) + tv(6, 128) + tv(15, 3)
    return bytes([1, 0]) + any_source + endpoint(1, 0, GROUP) + bytes([20]) + n32(spi) + attributes


SAK = (bytes([17]) + endpoint(1, 848, SERVER) + endpoint(1, 848, REKEY) + KEK_SPI + bytes(4)
       + tv(2, 3) + tv(3, 128) + tlv(4, n32(86400)) + tv(5, 3) + tv(6, 1))


def sa(parts):
    return n32(2) + n32(0) + n16(parts[0][0]) + n16(0) + chain(parts)


def packet(kind, spi, attributes):
    return bytes([kind, 0]) + n16(5 + len(spi) + len(attributes)) + bytes([len(spi)]) + spi + attributes


def kd(packets):
    return n16(len(packets)) + n16(0) + b"".join(packets)


def tek(spi, octet):
    return packet(1, n32(spi), tlv(1, bytes([octet] * 20)))


# GROUPKEY-PULL, under the phase 1 keys of phase1.py with AES-128 and SHA-256

COOKIES, PSK, SHARED = bytes(range(0x10, 0x20)), b"preshared", bytes([5] * 32)
NI1, NR1, LAST = bytes([3] * 16), bytes([4] * 24), bytes([0x23] * 16)
MESSAGE_ID, NI, NR = 0x05050505, bytes([5] * 32), bytes([6] * 24)


def prf(key, data):
    return hmac.new(key, data, "sha256").digest()


skeyid = prf(PSK, NI1 + NR1)
skeyid_d = prf(skeyid, SHARED + COOKIES + b"\0")
skeyid_a = prf(skeyid, skeyid_d + SHARED + COOKIES + b"\1")
ka = prf(skeyid, skeyid_a + SHARED + COOKIES + b"\2")[:16]


def sealed(iv, nonces, payloads):
    digest = prf(skeyid_a, n32(MESSAGE_ID) + nonces + chain(payloads))
    body = aes(ka, iv, padded(chain([(8, digest)] + payloads)))
    return header(COOKIES, 8, 32, MESSAGE_ID, 28 + len(body)) + body


def pull(seq_in_2, seq_in_4):
    seq = (18, n32(4))
    one = sealed(hashlib.sha256(LAST + n32(MESSAGE_ID)).digest()[:16], b"", [(10, NI), (5, bytes([11, 0, 0, 0]) + n32(1234))])
    policy = [(10, NR), (1, sa([(15, SAK), (22, tv(1, 5) + tv(2, 15)), (16, sat(0x1001))]))]
    two = sealed(one[-16:], NI, policy + [seq] * seq_in_2)
    three = sealed(two[-16:], NI + NR, [(22, tv(3, 2))])
    keys = kd([
        packet(2, KEK_SPI, tlv(1, KEK_IV + KEK) + tlv(2, SPKI)),
        tek(0x1001, 0x51),
        packet(4, b"", tv(1, 12) + tlv(2, n16(7)) + tlv(2, n16(8))),
    ])
    four = sealed(three[-16:], NI + NR, [seq] * seq_in_4 + [(17, keys)])
    return [one, two, three, four]


lines = pull(0, 1)
early, none = pull(1, 0), pull(0, 0)
lines += [early[1], early[3], none[3]]
(HERE / "pull.txt").write_text("\n".join(m.hex() for m in lines) + "\n")

# GROUPKEY-PUSH: SEQ 5, a Delete, delays, one data SA

parts = [
    (18, n32(5)),
    (12, n32(2) + bytes([1, 4]) + n16(1) + n32(0x1001)),
    (1, sa([(22, tv(1, 5) + tv(2, 15)), (16, sat(0x1002))])),
    (17, kd([tek(0x1002, 0x52)])),
]
before = chain(parts, last=9)
total = 28 + len(padded(before + bytes(4 + 256)))
head = header(KEK_SPI, 18, 33, 0, total)
signature = sign(b"rekey" + head + before)
message = head + aes(KEK, KEK_IV, padded(before + bytes([0, 0]) + n16(4 + 256) + signature))
(HERE / "push.txt").write_text("\n".join(m.hex() for m in (PRIVATE, SPKI, message)) + "\n")

# The same key in a self-signed certificate (RFC 5280 section 4.1), as some key servers send it

NAME = der(0x30, der(0x31, der(0x30, bytes.fromhex("0603550403") + der(0x0c, b"gcks"))))
SHA256_RSA = bytes.fromhex("300d06092a864886f70d01010b0500")
VALIDITY = der(0x30, der(0x17, b"250101000000Z") + der(0x17, b"450101000000Z"))
tbs = der(0x30, der(0xa0, der_int(2)) + der_int(1) + SHA256_RSA + NAME + VALIDITY + NAME + SPKI)
certificate = der(0x30, tbs + SHA256_RSA + der(3, b"\0" + sign(tbs)))
(HERE / "certificate.txt").write_text("\n".join(m.hex() for m in (SPKI, certificate)) + "\n")

# GROUPKEY-PUSH with every signature and KEK, and in other readings: a line for each, of signature, cipher, reading, IV and
# KEK, public key, message. ECDSA as in RFC 4754, computed here over curves whose generators the package "cryptography" knows

CURVES = {
    "ecdsa-p256": (ec.SECP256R1(), 2**256 - 2**224 + 2**192 + 2**96 - 1,
                   0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551, "sha256"),
    "ecdsa-p384": (ec.SECP384R1(), 2**384 - 2**128 - 2**96 + 2**32 - 1,
                   0xffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973, "sha384"),
    "ecdsa-p521": (ec.SECP521R1(), 2**521 - 1,
                   2**521 - 0x5ae79787c40d069948033feb708f65a2fc44a36477663b851449048e16ec79bf7, "sha512"),
}


def add(a, b, p):
    """Sum of two points of a curve with a = -3; None is the point at infinity."""
    if a is None or b is None:
        return a or b
    if a[0] == b[0] and (a[1] + b[1]) % p == 0:
        return None
    slope = (3 * a[0] * a[0] - 3) * pow(2 * a[1], -1, p) if a == b else (b[1] - a[1]) * pow(b[0] - a[0], -1, p)
    x = (slope * slope - a[0] - b[0]) % p
    return x, (slope * (a[0] - x) - a[1]) % p


def times(k, point, p):
    total = None
    while k:
        if k & 1:
            total = add(total, point, p)
        point = add(point, point, p)
        k >>= 1
    return total


def point_of(d, curve):
    n = ec.derive_private_key(d, curve).public_key().public_numbers()
    return n.x, n.y


def ecdsa(name, data, again):
    curve, p, order, hash_name = CURVES[name]
    secret = int.from_bytes(hashlib.sha512(b"d" + name.encode()).digest() * 2, "big") % (order - 1) + 1
    assert times(secret, point_of(1, curve), p) == point_of(secret, curve)
    digest = hashlib.new(hash_name, data).digest()
    digest = hashlib.new(hash_name, digest).digest() if again else digest
    e = int.from_bytes(digest, "big") >> max(0, 8 * len(digest) - order.bit_length())
    k = int.from_bytes(hashlib.sha512(b"k" + data).digest() * 2, "big") % (order - 1) + 1
    r = times(k, point_of(1, curve), p)[0] % order
    signature = pow(k, -1, order) * (e + r * secret) % order
    half = (p.bit_length() + 7) // 8
    public = ec.derive_private_key(secret, curve).public_key()
    spki = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return r.to_bytes(half, "big") + signature.to_bytes(half, "big"), spki


INFOS = {"rsa-sha1": ("sha1", bytes.fromhex("3021300906052b0e03021a05000414")),
         "rsa-sha2-256": ("sha256", SHA256_INFO),
         "rsa-sha2-384": ("sha384", bytes.fromhex("3041300d060960864801650304020205000430")),
         "rsa-sha2-512": ("sha512", bytes.fromhex("3051300d060960864801650304020305000440"))}


def rsa(name, data, again, raw):
    hash_name, info = INFOS[name]
    digest = hashlib.new(hash_name, data).digest()
    digest = hashlib.new(hash_name, digest).digest() if again else digest
    inner = digest if raw else info + digest
    block = b"\0\1" + b"\xff" * (256 - 3 - len(inner)) + b"\0" + inner
    return pow(int.from_bytes(block, "big"), D, N).to_bytes(256, "big"), SPKI


LENGTHS = {"aes-128": 16, "aes-192": 24, "aes-256": 32, "3des": 24}


def pushed(scheme, cipher, reading):
    block = 8 if cipher == "3des" else 16
    iv, key = bytes(range(0x61, 0x61 + block)), bytes(range(0x81, 0x81 + LENGTHS[cipher]))
    algorithm = algorithms.TripleDES if cipher == "3des" else algorithms.AES
    size = 2 * ((CURVES[scheme][1].bit_length() + 7) // 8) if scheme in CURVES else 256
    plain_len = len(before) + 4 + size
    wire = 28 + plain_len + -plain_len % block + block * (reading == "prefixed-iv")
    length = 28 + plain_len if reading == "sig-unpadded-length" else wire
    covered = header(KEK_SPI, 18, 33, 0, length)
    if reading == "sig-clear-flags":
        covered = covered[:19] + b"\0" + covered[20:]
    data = b"rekey" + b"\0" * (reading == "sig-nul") + covered + before
    again = reading == "sig-hashed-twice"
    signature, public = ecdsa(scheme, data, again) if scheme in CURVES else rsa(scheme, data, again, reading == "sig-raw")
    plain = before + bytes([0, 0]) + n16(4 + size) + signature
    first = {"zero-iv": bytes(block), "prefixed-iv": bytes([0x99] * block)}.get(reading, iv)
    e = Cipher(algorithm(key), modes.CBC(first)).encryptor()
    body = e.update(plain + bytes(-len(plain) % block)) + e.finalize()
    message = header(KEK_SPI, 18, 33, 0, wire) + first * (reading == "prefixed-iv") + body
    return " ".join([scheme, cipher, reading, (iv + key).hex(), public.hex(), message.hex()])


lines = [pushed(scheme, cipher, "usual") for scheme, cipher in [
    ("rsa-sha1", "3des"), ("rsa-sha2-256", "aes-192"), ("rsa-sha2-384", "aes-256"), ("rsa-sha2-512", "aes-128"),
    ("ecdsa-p256", "aes-128"), ("ecdsa-p384", "aes-192"), ("ecdsa-p521", "aes-256"), ("ecdsa-p256", "3des")]]
lines += [pushed(scheme, "aes-128", reading) for scheme in ("rsa-sha2-256", "ecdsa-p384") for reading in (
    "sig-nul", "sig-unpadded-length", "sig-clear-flags", "sig-hashed-twice", "zero-iv", "prefixed-iv")]
lines += [pushed("rsa-sha2-256", "aes-128", "sig-raw")]
(HERE / "pushes.txt").write_text("\n".join(lines) + "\n")
