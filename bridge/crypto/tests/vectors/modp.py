#!/usr/bin/python3
"""Computes modp.txt beside this file: group, both private values, both public values, shared secret, in hexadecimal.

The primes follow from pi, as RFC 2409 section 6 and RFC 3526 say, so nothing here shares a table with OpenSSL.
"""


def arctan_inverse(x, unity):
    total = power = unity // x
    n, sign = 3, -1
    while power:
        power //= x * x
        total += sign * (power // n)
        n, sign = n + 2, -sign
    return total


def pi(bits):
    """floor(2^bits * pi), by Machin's formula."""
    guard = 64
    unity = 1 << (bits + guard)
    return 4 * (4 * arctan_inverse(5, unity) - arctan_inverse(239, unity)) >> guard


def prime(bits, k):
    return 2**bits - 2 ** (bits - 64) - 1 + 2**64 * (pi(bits - 130) + k)


GROUPS = [(2, 1024, 129093), (5, 1536, 741804), (14, 2048, 124476), (15, 3072, 1690314), (16, 4096, 240904)]
GROUPS += [(17, 6144, 929484), (18, 8192, 4743158)]

for number, bits, k in GROUPS:
    p = prime(bits, k)
    a, b = pow(3, 1000 + number, 2**240), pow(5, 1000 + number, 2**240)
    shared = pow(pow(2, a, p), b, p)
    width = bits // 4
    values = [f"{pow(2, a, p):0{width}x}", f"{pow(2, b, p):0{width}x}", f"{shared:0{width}x}"]
    print(number, f"{a:060x}", f"{b:060x}", *values)
