#!/usr/bin/env python3
"""How tshark opens the protected messages of a capture of IKEv2, against a count of our own.

    gikev2_capture.py CAPTURE KEYS

KEYS is a file in the form of Wireshark's ikev2_decryption_table. An IKE SA with additional key exchanges (RFC 9370) has keys of
several generations under one pair of SPIs, for which that table has no place, so tshark runs once for each generation: a message is
opened when one of them opens it. Prints how many messages of each exchange there are, and fails where one stays closed.
"""

import os
import re
import struct
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict

NAMES = {34: "IKE_SA_INIT", 35: "IKE_AUTH", 36: "CREATE_CHILD_SA", 37: "INFORMATIONAL", 39: "GSA_AUTH", 40: "GSA_REGISTRATION",
         41: "GSA_REKEY", 42: "GSA_INBAND_REKEY", 43: "IKE_INTERMEDIATE", 44: "IKE_FOLLOWUP_KE"}
SK, SKF = 46, 53
WANTED = {35, 36, 37, 39, 40, 41, 42, 43}


def frames(path):
    """Frame numbers from 1 with the UDP payloads of IPv4 in a capture of Ethernet."""
    with open(path, "rb") as file:
        data = file.read()
    order = "<" if data[:4] in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1") else ">"
    assert struct.unpack(order + "I", data[20:24])[0] == 1, "not Ethernet"
    at, number = 24, 0
    while at + 16 <= len(data):
        length = struct.unpack(order + "I", data[at + 8:at + 12])[0]
        packet = data[at + 16:at + 16 + length]
        at, number = at + 16 + length, number + 1
        if packet[12:14] == b"\x08\x00" and packet[23] == 17:
            yield number, packet[14 + (packet[14] & 15) * 4 + 8:]


def protected(message):
    """The exchange of an IKEv2 message, and the payload that protects it, or none."""
    following, version, exchange = message[16], message[17], message[18]
    if version >> 4 != 2 or struct.unpack(">I", message[24:28])[0] != len(message):
        return None, None
    at = 28
    while following not in (0, SK, SKF):
        following, at = message[at], at + struct.unpack(">H", message[at + 2:at + 4])[0]
    return exchange, following or None


def opened(capture, directory):
    """Which frames tshark opens with a correct ICV, and all that it says."""
    environment = dict(os.environ, WIRESHARK_CONFIG_DIR=directory)
    command = ["tshark", "-r", capture, "-d", "udp.port==848,isakmp", "-V", "-Y", "isakmp && !icmp"]
    text = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    found = {}
    for frame in re.split(r"^(?=Frame \d+:)", text, flags=re.MULTILINE):
        head = re.match(r"Frame (\d+):", frame)
        if head and re.search(r"Integrity Checksum Data: .*\[correct\]", frame):
            found[int(head[1])] = frame
    return found


def main(capture, keys):
    generations = defaultdict(list)
    with open(keys, encoding="ascii") as file:
        for line in file:
            spis = tuple(line.split(",", 2)[:2])
            if line not in generations[spis]:
                generations[spis].append(line)
    messages, cut_up = {}, {}
    for number, message in frames(capture):
        if len(message) >= 28:
            exchange, by = protected(message)
            if by:
                messages[number] = (exchange, by)
            if by == SKF:
                # SPIs, exchange, flags and message ID name what was cut up.
                cut_up[number] = message[:16] + message[18:24]
    texts = {}
    for generation in range(max(map(len, generations.values()))):
        with tempfile.TemporaryDirectory() as directory:
            with open(os.path.join(directory, "ikev2_decryption_table"), "w", encoding="ascii") as file:
                file.writelines(lines[min(generation, len(lines) - 1)] for lines in generations.values())
            texts.update(opened(capture, directory))
    closed = [number for number in messages if number not in texts]
    assert not closed, f"not opened: {[(number, *messages[number]) for number in closed]}"
    assert len(texts) == len(messages), "tshark opens messages that are none"
    broken = [number for number, text in texts.items() if "Malformed" in text]
    assert not broken, f"malformed: {broken}"
    seen = Counter(exchange for exchange, _ in messages.values())
    assert WANTED <= set(seen), f"exchanges that were not seen: {WANTED - set(seen)}"
    for exchange, count in sorted(seen.items()):
        print(f"ok: {NAMES.get(exchange, exchange)} ({exchange}): {count} protected messages, all with a correct ICV")
    whole = {cut_up[number] for number, text in texts.items() if "Reassembled ISAKMP length" in text}
    assert whole == set(cut_up.values()) and whole, "fragments that tshark does not put together"
    print(f"ok: fragments: {len(cut_up)}, put together to {len(whole)} messages")
    deletes = sum("Payload: Delete (42)" in text for text in texts.values())
    assert deletes, "no Delete"
    print(f"ok: messages with Deletes: {deletes}")
    several = sum(len(lines) > 1 for lines in generations.values())
    assert several, "no keys of several generations"
    print(f"ok: IKE SAs and Rekey SAs: {len(generations)}, of them with keys of several generations: {several}")
    print(f"ok: all: {len(messages)}")


main(*sys.argv[1:])
