"""The switch of tests/interop/guest_member.py: what it carries is captured, and frames are put on the cables at its ports."""

import collections
import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys

from esp_kernel import checksum, ip_packet, pseudo_header
from guest_sides import PORT, Broken, Inside, Outside, until

UDP = 17

Packet = collections.namedtuple("Packet", "host source destination protocol payload frame")

# Needs the port and frames in hexadecimal.
INJECT = """
import socket, sys
cable = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
cable.bind((sys.argv[1], 0))
for frame in sys.argv[2:]:
    cable.send(bytes.fromhex(frame))
"""


def clear_frame(packet):
    """A frame with a datagram in clear, between the ends of a packet."""
    payload = b"in clear"
    datagram = struct.pack("!HHHH", PORT, PORT, 8 + len(payload), 0) + payload
    check = checksum(pseudo_header(packet.source, packet.destination, UDP, len(datagram)) + datagram)
    datagram = datagram[:6] + struct.pack("!H", check or 0xFFFF) + datagram[8:]
    version = 6 if ":" in packet.source else 4
    return packet.frame[:14] + ip_packet(version, packet.source, packet.destination, UDP, datagram)


class Switch:
    def __init__(self, namespace, path):
        """In this namespace; captures go to this file."""
        self.within, self.path = ["ip", "netns", "exec", namespace], path

    @contextlib.contextmanager
    def capture(self):
        """What goes over the guest's port, until the end."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        command = ["tcpdump", "-i", Inside.port, "--immediate-mode", "-U", "-B", "16384", "-w", self.path]
        sniffer = subprocess.Popen([*self.within, *command], stderr=subprocess.PIPE, text=True)
        try:
            until("tcpdump writes", lambda: os.path.exists(self.path) and os.path.getsize(self.path))
            yield
        finally:
            sniffer.send_signal(signal.SIGINT)
            _, said = sniffer.communicate()
        if "\n0 packets dropped by kernel" not in said:
            raise Broken(f"tcpdump missed something: {said}")

    def captured(self):
        """The IP packets, each with the host that sent it and its frame."""
        with open(self.path, "rb") as file:
            data = file.read()
        at = 24
        while at + 16 <= len(data):
            (length,) = struct.unpack_from("<8xI", data, at)
            frame = data[at + 16 : at + 16 + length]
            at += 16 + length
            if at > len(data):  # still being written
                return
            host = Inside.host if frame[6:12] == bytes.fromhex(Inside.mac.replace(":", "")) else Outside.host
            kind = int.from_bytes(frame[12:14], "big")
            if kind == 0x0800:
                source, destination = (socket.inet_ntop(socket.AF_INET, frame[it : it + 4]) for it in (26, 30))
                yield Packet(host, source, destination, frame[23], frame[14 + (frame[14] & 15) * 4 :], frame)
            elif kind == 0x86DD:
                source, destination = (socket.inet_ntop(socket.AF_INET6, frame[it : it + 16]) for it in (22, 38))
                yield Packet(host, source, destination, frame[20], frame[54:], frame)

    def inject(self, side, frames):
        """Puts frames on a side's cable."""
        subprocess.run([*self.within, sys.executable, "-c", INJECT, side.port, *(it.hex() for it in frames)], check=True)
