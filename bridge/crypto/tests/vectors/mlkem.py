#!/usr/bin/python3
"""Computes mlkem.txt beside this file: method, seed (d, z), message m, encapsulation key, ciphertext, shared secret, and the
secret of the same ciphertext with one bit changed, in hexadecimal.

ML-KEM is written out here from FIPS 203, without regard to speed or side channels. For the parameter sets that pyca/cryptography
knows, it is asked whether it agrees.
"""

from hashlib import sha3_256, sha3_512, shake_128, shake_256

from cryptography.hazmat.primitives.asymmetric import mlkem

N, Q = 256, 3329


def bitrev7(i):
    return int(f"{i:07b}"[::-1], 2)


ZETA = [pow(17, bitrev7(i), Q) for i in range(128)]
GAMMA = [pow(17, 2 * bitrev7(i) + 1, Q) for i in range(128)]


def ntt(f):  # Algorithm 9
    f, i, length = list(f), 1, 128
    while length >= 2:
        for start in range(0, N, 2 * length):
            for j in range(start, start + length):
                t = ZETA[i] * f[j + length] % Q
                f[j + length], f[j] = (f[j] - t) % Q, (f[j] + t) % Q
            i += 1
        length //= 2
    return f


def inverse_ntt(f):  # Algorithm 10
    f, i, length = list(f), 127, 2
    while length <= 128:
        for start in range(0, N, 2 * length):
            for j in range(start, start + length):
                t = f[j]
                f[j] = (t + f[j + length]) % Q
                f[j + length] = ZETA[i] * (f[j + length] - t) % Q
            i -= 1
        length *= 2
    return [x * 3303 % Q for x in f]


def multiply(f, g):  # Algorithm 11
    h = []
    for i in range(128):
        a0, a1, b0, b1 = f[2 * i], f[2 * i + 1], g[2 * i], g[2 * i + 1]
        h += [(a0 * b0 + a1 * b1 * GAMMA[i]) % Q, (a0 * b1 + a1 * b0) % Q]
    return h


def add(f, g):
    return [(a + b) % Q for a, b in zip(f, g)]


def dot(fs, gs):
    total = [0] * N
    for f, g in zip(fs, gs):
        total = add(total, multiply(f, g))
    return total


def bits(data):
    return [byte >> i & 1 for byte in data for i in range(8)]


def encode(f, d):  # Algorithm 5
    number = 0
    for i, a in enumerate(f):
        number |= a << i * d
    return number.to_bytes(32 * d, "little")


def decode(data, d):  # Algorithm 6
    number = int.from_bytes(data, "little")
    modulus = Q if d == 12 else 1 << d
    return [(number >> i * d & (1 << d) - 1) % modulus for i in range(N)]


def compress(f, d):
    return [((x << d + 1) + Q) // (2 * Q) % (1 << d) for x in f]


def decompress(f, d):
    return [(2 * Q * y + (1 << d)) >> d + 1 for y in f]


def sample_ntt(seed):  # Algorithm 7
    stream, a, at = shake_128(seed).digest(3 * 2000), [], 0
    while len(a) < N:
        c = stream[at : at + 3]
        at += 3
        for d in (c[0] + 256 * (c[1] % 16), c[1] // 16 + 16 * c[2]):
            if d < Q and len(a) < N:
                a.append(d)
    return a


def sample_cbd(data, eta):  # Algorithm 8
    b = bits(data)
    take = lambda i, o: sum(b[2 * i * eta + o * eta + j] for j in range(eta))
    return [(take(i, 0) - take(i, 1)) % Q for i in range(N)]


def noise(seed, n, eta):
    return sample_cbd(shake_256(seed + bytes([n])).digest(64 * eta), eta)


def matrix(rho, k):
    return [[sample_ntt(rho + bytes([j, i])) for j in range(k)] for i in range(k)]


def key_gen(k, eta1, d):  # Algorithm 13
    g = sha3_512(d + bytes([k])).digest()
    rho, sigma = g[:32], g[32:]
    a = matrix(rho, k)
    s = [ntt(noise(sigma, i, eta1)) for i in range(k)]
    e = [ntt(noise(sigma, k + i, eta1)) for i in range(k)]
    t = [add(dot(a[i], s), e[i]) for i in range(k)]
    return b"".join(encode(x, 12) for x in t) + rho, s


def encrypt(k, eta1, du, dv, ek, m, r):  # Algorithm 14
    t = [decode(ek[384 * i : 384 * (i + 1)], 12) for i in range(k)]
    a = matrix(ek[384 * k :], k)
    y = [ntt(noise(r, i, eta1)) for i in range(k)]
    e1 = [noise(r, k + i, 2) for i in range(k)]
    e2 = noise(r, 2 * k, 2)
    u = [add(inverse_ntt(dot([a[j][i] for j in range(k)], y)), e1[i]) for i in range(k)]
    mu = decompress(decode(m, 1), 1)
    v = add(add(inverse_ntt(dot(t, y)), e2), mu)
    return b"".join(encode(compress(x, du), du) for x in u) + encode(compress(v, dv), dv)


def decrypt(k, du, dv, s, c):  # Algorithm 15
    u = [decompress(decode(c[32 * du * i : 32 * du * (i + 1)], du), du) for i in range(k)]
    v = decompress(decode(c[32 * du * k :], dv), dv)
    w = inverse_ntt(dot(s, [ntt(x) for x in u]))
    return encode(compress([(a - b) % Q for a, b in zip(v, w)], 1), 1)


def decapsulate(k, eta1, du, dv, ek, s, z, c):  # Algorithm 18
    m = decrypt(k, du, dv, s, c)
    g = sha3_512(m + sha3_256(ek).digest()).digest()
    again = encrypt(k, eta1, du, dv, ek, m, g[32:])
    return g[:32] if again == c else shake_256(z + c).digest(32)


SETS = [(35, 2, 3, 10, 4, None), (36, 3, 2, 10, 4, mlkem.MLKEM768PrivateKey), (37, 4, 2, 11, 5, mlkem.MLKEM1024PrivateKey)]

for method, k, eta1, du, dv, other in SETS:
    for case in range(3):
        draw = shake_256(f"{method} {case}".encode()).digest(96)
        d, z, m = draw[:32], draw[32:64], draw[64:]
        ek, s = key_gen(k, eta1, d)
        g = sha3_512(m + sha3_256(ek).digest()).digest()
        c = encrypt(k, eta1, du, dv, ek, m, g[32:])
        shared = g[:32]
        assert decapsulate(k, eta1, du, dv, ek, s, z, c) == shared
        changed = bytes([c[0] ^ 1]) + c[1:]
        rejected = decapsulate(k, eta1, du, dv, ek, s, z, changed)
        assert rejected != shared
        if other:
            key = other.from_seed_bytes(d + z)
            assert key.public_key().public_bytes_raw() == ek
            assert key.decapsulate(c) == shared and key.decapsulate(changed) == rejected
        print(method, *(x.hex() for x in (d + z, m, ek, c, shared, rejected)))
