#!/usr/bin/python3
"""Computes triple_des.txt beside this file, with the package cryptography: key, IV, plaintext, ciphertext, in hexadecimal."""

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

for blocks in [1, 2, 5]:
    key = bytes(17 * n % 256 for n in range(1, 25))
    iv = bytes(range(blocks, blocks + 8))
    plain = bytes(range(8 * blocks))
    run = Cipher(algorithms.TripleDES(key), modes.CBC(iv)).encryptor()
    print(key.hex(), iv.hex(), plain.hex(), (run.update(plain) + run.finalize()).hex())
