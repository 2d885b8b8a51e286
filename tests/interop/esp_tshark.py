#!/usr/bin/python3
"""What the data plane writes for Wireshark opens what it sealed: every transform that Wireshark knows, both modes, IPv4 and IPv6.

    cargo build -p dataplane --example esp
    tests/interop/esp_tshark.py target/debug/examples/esp

Wireshark 4.0 knows neither AES-CCM, ChaCha20-Poly1305 nor GMAC: of those nothing is written. Exits 0 only if every packet was read,
with a correct ICV.
"""

import pathlib
import struct
import subprocess
import sys
import tempfile

from esp_scapy import TRANSFORMS, Subject, octets, plain_packet

SIZES = (0, 13, 100)
# Raw IP, of pcap(5).
RAW = 101

# Octets of each transform's keying material: of what Wireshark knows, and of what it does not.
KNOWN = {name: key + mac for name, (cipher, key, _, mac) in TRANSFORMS.items() if cipher not in ("AES-CCM", "CHACHA20-POLY1305")}
UNKNOWN = {name: key for name, (_, key, _, _) in TRANSFORMS.items() if name not in KNOWN}
for bits in (128, 192, 256):
    KNOWN |= {f"aes{bits}gcm{icv}": bits // 8 + 4 for icv in (8, 12)}
    UNKNOWN[f"aes{bits}gmac"] = bits // 8 + 4


def seal(subject, transform, keymat_len, mode, version, spi):
    """Sealed packets, and the line of keys."""
    common = dict(mode=mode, transform=transform, spi=spi, keymat=octets(f"keymat {spi}", keymat_len).hex(), sender_id=7, sender_id_bits=12)
    answers = [subject.ask(op="seal", packet=bytes(plain_packet(version, size)).hex(), **common) for size in SIZES]
    assert all("packet" in answer for answer in answers), (transform, answers)
    assert not any("keys" in answer for answer in answers[1:])
    return [bytes.fromhex(answer["packet"]) for answer in answers], answers[0].get("keys")


def write_pcap(path, packets):
    with open(path, "wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, RAW))
        for packet in packets:
            file.write(struct.pack("<IIII", 0, 0, len(packet), len(packet)) + packet)


def read(folder, pcap):
    """What tshark makes of each packet: whether its ICV is good, and the payload of UDP within."""
    command = ["tshark", "-r", pcap, "-T", "fields", "-E", "separator=;", "-o", "esp.enable_encryption_decode:TRUE"]
    command += ["-o", "esp.enable_authentication_check:TRUE", "-o", "esp.enable_null_encryption_decode_heuristic:FALSE"]
    command += ["-e", "esp.icv_good", "-e", "udp.dstport", "-e", "udp.payload"]
    done = subprocess.run(command, env={"WIRESHARK_CONFIG_DIR": folder, "PATH": "/usr/bin:/bin"}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, text=True)
    return [line.split(";") for line in done.stdout.splitlines()]


def main():
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    subject = Subject(sys.argv[1])
    lines, packets, expected = [], [], []
    spi = 0x1001
    for transform, keymat_len in KNOWN.items():
        for mode in ("transport", "tunnel"):
            for version in (4, 6):
                sealed, keys = seal(subject, transform, keymat_len, mode, version, spi)
                assert keys, f"no keys of {transform}"
                lines.append(keys)
                packets += sealed
                expected += [(f"{transform} {mode} IPv{version}", octets("payload", size).hex()) for size in SIZES]
                spi += 1
    for transform, keymat_len in UNKNOWN.items():
        assert seal(subject, transform, keymat_len, "tunnel", 4, spi)[1] is None, transform
        spi += 1

    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "esp_sa").write_text("".join(line + "\n" for line in lines))
        pcap = f"{folder}/esp.pcap"
        write_pcap(pcap, packets)
        seen = read(folder, pcap)
        # Without the keys it reads nothing, or this test would prove nothing.
        pathlib.Path(folder, "esp_sa").write_text("")
        blind = read(folder, pcap)
    assert len(seen) == len(blind) == len(expected), (len(seen), len(blind), len(expected))
    failed = {}
    for (good, port, payload), (what, plain) in zip(seen, expected):
        if port != "5001" or payload != plain:
            failed[what] = f"port {port!r}, payload {payload!r}, not {plain!r}"
        elif good not in ("1", "True"):
            failed[what] = f"ICV {good!r}"
    for what, why in failed.items():
        print(f"FAIL {what}: {why}")
    unread = sum(port != "5001" for _, port, _ in blind)
    assert unread == len(blind), f"{len(blind) - unread} packets are read without keys"
    print(f"{len(expected)} packets of {len(lines)} SAs, {len(failed)} failures; nothing written of {', '.join(UNKNOWN)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
