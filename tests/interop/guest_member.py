#!/usr/bin/python3
"""A member in a guest under qemu and one outside, in the same group; tests/interop/guest_member.sh prepares both.

    KEYFERRY=target/debug/keyferry tests/interop/guest_member.py VMLINUZ INITRD FOLDER OUTSIDE SWITCH

OUTSIDE is the network namespace of the member outside, SWITCH that of the bridge between. In each case applications on both sides
send numbered packets to each group address, IPv4 and IPv6, while the group is rekeyed. Exits 0 only if nothing of it was lost or came
twice, nothing was on the wire in clear or under other keys than the members say, and the old keys open nothing after their delay.
"""

import collections
import contextlib
import signal
import subprocess
import sys

from guest import Guest, Silence
from guest_sides import KEYFERRY, App, Broken, Inside, Outside, until
from guest_wire import Switch

ESP = 50

# Name, group and its number; the engine that the guest's member is told to use, and the one that it has to use then; whether each
# traffic policy has one sender alone, with a replay window; the version of IP by which the members register.
Case = collections.namedtuple("Case", "name group number engine used windows version", defaults=(False, 4))
CASES = [
    Case("AES-GCM of several senders, tunnel", "gcm-tunnel", 1, "userspace", "userspace"),
    Case("AES-CBC with HMAC, tunnel", "cbc-tunnel", 2, "userspace", "userspace"),
    Case("AES-CBC with HMAC, transport", "cbc-transport", 3, "userspace", "userspace"),
    Case("AES-GCM of one sender, tunnel", "gcm-senders", 4, "userspace", "userspace", windows=True, version=6),
]


def host_address(version, host):
    return f"fd85::{host}" if version == 6 else f"10.85.0.{host}"


def member_config(case, side, engine):
    """The configuration of a member."""
    return f"""[member]
gateway = "{host_address(case.version, 1)}"
group = {case.number}
address = "{host_address(case.version, side.host)}"
interface = "eth0"
psk = "correct horse battery staple"
retry = "1s"
leave_on_exit = true
engine = "{engine}"

[control]
socket = "{side.folder}/member.sock"
"""


class Trial:
    """A case while it is tried."""

    def __init__(self, case, outside, inside, switch, folder):
        self.case, self.outside, self.inside, self.switch = case, outside, inside, switch
        self.sides = (outside, inside)
        self.gateway = f"{folder}/gateway.sock"
        self.addresses = [f"239.192.0.{case.number}", f"ff15::{case.number}"]
        self.apps = []

    def run(self):
        """Yields complaints."""
        self.outside.start_member(member_config(self.case, self.outside, "userspace"))
        self.inside.start_member(member_config(self.case, self.inside, self.case.engine))
        for side in self.sides:
            until(f"the member {side.name} has keys", side.plane)
        if (used := self.inside.plane()["engine"]) != self.case.used:
            raise Broken(f"the guest's member uses the engine {used}")
        with self.switch.capture():
            self.apps = [App(side, address) for side in self.sides for address in self.addresses]
            for app in self.apps:
                app.next("start")
            self.further(50)
            old = self.roll_over()
            sent = {(app.side.host, app.address): app.next("stop") for app in self.apps}
            for app in self.apps:
                with contextlib.suppress(Broken):
                    until("all have come", lambda app=app: self.missing(app, sent) == 0)
            sas = [before + side.plane()["sas"] for side, before in zip(self.sides, old)]
            with contextlib.suppress(Broken):
                until("all is in the capture", lambda: not list(self.check_wire(sas)))
        yield from self.check_wire(sas)
        yield from self.check_counters(sas)
        yield from self.check_replays({sa["spi"] for sa in old[0]})
        for app in self.apps:
            yield from self.check_arrival(app, sent)
        for side in self.sides:
            side.stop_apps()
            side.stop_member()
        print(f"     packets: {sum(sent.values())}, SAs: {len(sas[0])}")

    def further(self, count):
        """Waits until each application has sent so many packets more."""
        marks = [app.next() + count for app in self.apps]
        for app, mark in zip(self.apps, marks):
            until(f"{app.side.name} sends to {app.address}", lambda app=app, mark=mark: app.next() >= mark)

    def roll_over(self):
        """New keys for the group; returns what each member says about the old ones when these are not used any more."""
        old = self.outside.spis()
        subprocess.run([KEYFERRY, "rekey", self.case.group, "--socket", self.gateway], check=True, stdout=subprocess.DEVNULL)
        for side in self.sides:
            until(f"the member {side.name} sends by new keys", lambda side=side: (now := side.spis(sending=True)) and not now & old)
        self.further(50)
        planes = [side.plane()["sas"] for side in self.sides]
        for side, sas in zip(self.sides, planes):
            if not old <= {sa["spi"] for sa in sas}:
                raise Broken(f"the member {side.name} has dropped its old keys before their delay: {sas}")
        for side in self.sides:
            until(f"the member {side.name} drops its old keys", lambda side=side: not side.spis() & old)
        self.further(50)
        return [[sa for sa in sas if sa["spi"] in old] for sas in planes]

    def missing(self, app, sent):
        """How many of the other side's packets have not come to an application."""
        other = self.inside if app.side is self.outside else self.outside
        return app.count(other.host, sent[other.host, app.address])["missing"]

    def check_wire(self, sas):
        """Only ESP, and of each sender as many packets by each SPI as it says."""
        packets = [packet for packet in self.switch.captured() if packet.destination in self.addresses]
        seen = collections.Counter((f"0x{it.payload[:4].hex()}", it.host) for it in packets if it.protocol == ESP)
        if clear := collections.Counter((it.host, it.destination, it.protocol) for it in packets if it.protocol != ESP):
            yield f"in clear on the wire by host, destination and protocol: {dict(clear)}"
        sealed = collections.Counter({(sa["spi"], side.host): sa["packets_sealed"] for side, all in zip(self.sides, sas) for sa in all})
        if seen != sealed:
            yield f"on the wire by SPI and host: {dict(seen)}; the members have counted {dict(sealed)}"

    def check_counters(self, sas):
        """Each member has opened what the other sealed, by each SA."""
        ours, theirs = ({sa["spi"]: sa for sa in it} for it in sas)
        if ours.keys() != theirs.keys():
            yield f"the members have other SAs: {sorted(ours)} and {sorted(theirs)}"
            return
        for spi in ours:
            counts = [(sa["packets_sealed"], sa["packets_opened"]) for sa in (ours[spi], theirs[spi])]
            if counts[0] != counts[1][::-1] or counts[0] == (0, 0):
                yield f"SA {spi}: outside sealed and opened {counts[0]}, the guest {counts[1]}"

    def check_replays(self, old):
        """What was sealed under the old keys opens no more, and with windows nothing opens twice: the first packet of each SA and
        sender comes once more."""
        first = {}
        for packet in self.switch.captured():
            if packet.destination in self.addresses:
                first.setdefault((packet.host, f"0x{packet.payload[:4].hex()}"), packet.frame)
        for side in self.sides:
            frames = {spi: frame for (host, spi), frame in first.items() if host != side.host}
            wanted = {"InNoStates": [frame for spi, frame in frames.items() if spi in old]}
            if self.case.windows:
                wanted["InStateSeqError"] = [frame for spi, frame in frames.items() if spi not in old]
            for reason, frames in wanted.items():
                yield from self.check_drops(side, reason, frames)

    def check_drops(self, side, reason, frames):
        """A side drops these frames for this reason."""
        before = side.plane()["drops"][reason]
        self.switch.inject(side, frames)
        with contextlib.suppress(Broken):
            until("they are dropped", lambda: side.plane()["drops"][reason] == before + len(frames))
        if not frames or (now := side.plane()["drops"])[reason] != before + len(frames):
            yield f"{side.name}: {len(frames)} packets are no {reason}; it was {before}, and is {now}"

    def check_arrival(self, app, sent):
        """All of the other side's packets have come, once and whole."""
        missing, report = self.missing(app, sent), app.ask(do="report")
        if missing or report["foreign"] or report["refused"] or any(it["duplicates"] for it in report["senders"]):
            yield f"{app.side.name}, {app.address}: missing {missing}, {report}"


def run(sides, switch, folder):
    if said := sides[1].set_up():
        print(f"the guest says: {said}")
        return 1
    failed = 0
    for case in CASES:
        complaints = list(Trial(case, *sides, switch, folder).run())
        failed += bool(complaints)
        print(f"{'FAIL' if complaints else 'ok  '} {case.engine}: {case.name}", flush=True)
        for complaint in complaints:
            print(f"     {complaint}")
    return 1 if failed else 0


def main():
    if len(sys.argv) != 6:
        print(__doc__, file=sys.stderr)
        return 2
    kernel, initrd, folder, namespace, switch = sys.argv[1:]
    # All that was started ends with this program, also when that is told to end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    guest = Guest(
        kernel, initrd, folder,
        "-cpu", "max", "-netdev", f"tap,id=cable,ifname={Inside.port},script=no,downscript=no",
        "-device", f"virtio-net-pci,netdev=cable,mac={Inside.mac},romfile=",
        memory=256, within=["ip", "netns", "exec", switch],
    )
    outside, inside = Outside(folder, namespace), Inside(guest)
    try:
        return run((outside, inside), Switch(switch, f"{folder}/cable.pcap"), folder)
    except Broken as broken:
        print(f"FAIL {broken}; the member in the guest:\n{inside.log()}")
        return 1
    except Silence as silence:
        print(f"FAIL {silence}; {guest.last_words()}")
        return 1
    finally:
        outside.end()
        guest.end()


if __name__ == "__main__":
    sys.exit(main())
