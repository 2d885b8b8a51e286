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

# Needs the port, a pause after which it begins anew, in seconds, if it is to, and frames in hexadecimal.
INJECT = """
import socket, sys, time
cable = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
cable.bind((sys.argv[1], 0))
pause = float(sys.argv[2])
while True:
    for frame in sys.argv[3:]:
        cable.send(bytes.fromhex(frame))
    if not pause:
        break
    time.sleep(pause)
"""

IN_CLEAR = b"in clear"


def clear_frame(packet):
    """A frame with a datagram in clear, between the ends of a packet."""
    datagram = struct.pack("!HHHH", PORT, PORT, 8 + len(IN_CLEAR), 0) + IN_CLEAR
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
        subprocess.run(self.injector(side, 0, frames), check=True)

    @contextlib.contextmanager
    def injecting(self, side, pause, frames):
        """Does so again and again, until the end."""
        injector = subprocess.Popen(self.injector(side, pause, frames))
        try:
            yield
        finally:
            injector.kill()
            injector.wait()

    def injector(self, side, pause, frames):
        return [*self.within, sys.executable, "-c", INJECT, side.port, str(pause), *(it.hex() for it in frames)]
