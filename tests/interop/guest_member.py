#!/usr/bin/python3
"""A member in a guest under qemu and one outside, in the same group; tests/interop/guest_member.sh prepares both.

    KEYFERRY=target/debug/keyferry tests/interop/guest_member.py VMLINUZ INITRD FOLDER OUTSIDE SWITCH

OUTSIDE is the network namespace of the member outside, SWITCH that of the bridge between. In each case applications on both sides
send numbered packets to each group address, IPv4 and IPv6, while the group is rekeyed. Exits 0 only if nothing of it was lost or came
twice, nothing was on the wire in clear or under other keys than the members say, and the old keys open nothing after their delay. Where
the guest's kernel does the work, it must take nothing in clear, have the SAs that it should have, let nothing out in clear when its member
is killed, and keep nothing when that has ended. Keys that the kernel must not have are refused, with nothing in clear either.
"""

import collections
import contextlib
import ipaddress
import re
import signal
import subprocess
import sys

from guest import Guest, Silence, told
from guest_sides import KEYFERRY, App, Broken, Inside, Outside, until
from guest_wire import IN_CLEAR, Switch, clear_frame

ESP = 50
ETHERNET = 14

# What the kernel has no states for.
NETWORK = """
[[group.traffic]]
destination = "239.192.3.0/24"
transform = "aes-128-cbc-hmac-sha2-256"
mode = "transport"
"""

# Name, group and its number; the engine that the guest's member is told to use, and the one that it has to use then, or none; whether
# that member sends; whether each traffic policy has one sender alone, with a replay window; the version of IP by which members register;
# whether the guest has a card that opens what comes by AES-GCM with 128 bits; to what the group's policy turns that the kernel refuses, as
# (what is replaced in the configuration, what takes its place, part of the reason, do old keys stay through the roll-over).
Case = collections.namedtuple(
    "Case", "name group number engine used sends windows version card turns", defaults=(True, False, 4, False, None))
CASES = [
    Case("AES-GCM of several senders, tunnel", "gcm-tunnel", 1, "auto", "userspace"),
    Case("AES-GCM of several senders, tunnel, receiving", "gcm-receiving", 4, "kernel", "kernel", sends=False),
    Case("AES-CBC with HMAC of one sender, tunnel", "cbc-tunnel", 2, "kernel", "kernel", windows=True, version=6),
    Case("AES-CBC with HMAC of several senders, transport", "cbc-transport", 3, "auto", "kernel"),
    Case("AES-GCM of several senders, refused", "gcm-refused", 5, "kernel", None),
    Case("AES-CBC with HMAC, a network more by a rekey", "turns-network", 8, "auto", "kernel",
         turns=("# Here stands the network.", NETWORK, "its destination is not one multicast address", True)),
    Case("AES-CBC with HMAC, to AES-GCM by a reset", "turns-gcm", 9, "auto", "kernel",
         turns=("aes-128-cbc-hmac-sha2-256", "aes-128-gcm", "sender ID", False)),
    # The card stays.
    Case("AES-GCM opened by a card, tunnel", "card-tunnel", 6, "kernel", "kernel", sends=False, card=True),
    Case("AES-GCM opened by a card or not, transport", "card-transport", 7, "kernel", "kernel", sends=False, card=True),
]


def host_address(version, host):
    return f"fd85::{host}" if version == 6 else f"10.85.0.{host}"


def covers(selector, address):
    """Is an address one of those in a selector, as an SA's status has it?"""
    network = ipaddress.ip_network(selector.split()[0])
    return ipaddress.ip_address(address) in network or not network.prefixlen


def member_config(case, side, engine, sends):
    """The configuration of a member."""
    return f"""[member]
gateway = "{host_address(case.version, 1)}"
group = {case.number}
address = "{host_address(case.version, side.host)}"
interface = "{side.interface}"
psk = "correct horse battery staple"
retry = "1s"
leave_on_exit = true
engine = "{engine}"
sender = {str(sends).lower()}

[control]
socket = "{side.folder}/member.sock"
"""


class Trial:
    """A case while it is tried."""

    def __init__(self, case, outside, inside, switch, folder):
        self.case, self.outside, self.inside, self.switch = case, outside, inside, switch
        self.sides = (outside, inside)
        self.folder, self.gateway = folder, f"{folder}/gateway.sock"
        self.addresses = [f"239.192.0.{case.number}", f"ff15::{case.number}"]
        self.apps = []
        # Those that send.
        self.senders = []
        # Of what is looked at half way.
        self.complaints = []

    def run(self):
        """Yields complaints."""
        if self.case.card and self.inside.interface != "nic0":
            self.inside.plug()
        card = self.inside.card() if self.case.card else None
        self.outside.start_member(member_config(self.case, self.outside, "userspace", True))
        self.start_inside()
        until("the member outside has keys", self.outside.plane)
        with self.switch.capture():
            self.apps = [App(side, address) for side in self.sides for address in self.addresses]
            self.senders = [app for app in self.apps if app.side is self.outside or self.case.sends]
            for app in self.senders:
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
        yield from self.complaints
        yield from self.check_wire(sas)
        yield from self.check_counters(sas)
        if card:
            yield from self.check_card(card, sas[1])
        yield from self.check_injected({sa["spi"] for sa in old[0]})
        yield from self.check_table()
        for app in self.apps:
            yield from self.check_arrival(app, sent)
        if card:
            yield from self.check_card_down()
        if self.inside.in_kernel() and self.case.sends:
            yield from self.check_own()
            yield from self.check_kill()
        foreign = self.inside.in_kernel() and self.inside.replace_state()
        yield from self.end(foreign)
        print(f"     packets: {sum(sent.values())}, SAs: {len(sas[0])}")

    def end(self, foreign=None):
        """Ends what runs; nothing is left in the kernel but another's state."""
        for side in self.sides:
            side.stop_apps()
            side.stop_member()
        if foreign:
            if self.inside.kernel_spis() != {foreign}:
                yield f"the guest's kernel has the SAs {self.inside.kernel_spis()}, and {foreign} was another's"
            self.inside.guest.run("ip xfrm state flush")
        if left := self.inside.left_in_kernel():
            yield f"left in the guest's kernel: {left}"
        if self.case.card and (card := self.inside.card())["states"]:
            yield f"left in the card: {card}"

    def start_inside(self):
        """Starts the guest's member, which must get keys and use the right engine."""
        self.inside.start_member(member_config(self.case, self.inside, self.case.engine, self.case.sends))
        until("the member in the guest has keys", self.inside.plane)
        if (used := self.inside.plane()["engine"]) != self.case.used:
            raise Broken(f"the guest's member uses the engine {used}")

    def further(self, count):
        """Waits until each application has sent so many packets more."""
        marks = [app.next() + count for app in self.senders]
        for app, mark in zip(self.senders, marks):
            until(f"{app.side.name} sends to {app.address}", lambda app=app, mark=mark: app.next() >= mark)

    def roll_over(self):
        """New keys for the group; returns what each member says about the old ones when these are not used any more."""
        old = self.outside.spis()
        subprocess.run([KEYFERRY, "rekey", self.case.group, "--socket", self.gateway], check=True, stdout=subprocess.DEVNULL)
        for side in {app.side for app in self.senders}:
            until(f"the member {side.name} sends by new keys", lambda side=side: (now := side.spis(sending=True)) and not now & old)
        self.further(50)
        planes = [side.plane()["sas"] for side in self.sides]
        for side, sas in zip(self.sides, planes):
            if not old <= {sa["spi"] for sa in sas}:
                raise Broken(f"the member {side.name} has dropped its old keys before their delay: {sas}")
        for side in self.sides:
            until(f"the member {side.name} drops its old keys", lambda side=side: not side.spis() & old)
        self.further(50)
        if self.inside.in_kernel():
            if (there := self.inside.kernel_spis()) != (wanted := self.inside.spis()):
                raise Broken(f"the kernel has the SAs {there}, and should have {wanted}")
            self.complaints += self.check_dry_run()
        return [[sa for sa in sas if sa["spi"] in old] for sas in planes]

    def check_dry_run(self):
        """What the guest's member says would become of a packet is what becomes of those that are sent."""
        for address in self.addresses:
            told = self.inside.dry_run(address)
            if told["opened_by"] != sorted(self.opening(address)):
                yield f"dry run to {address}: {told}, and others' packets are opened by {self.opening(address)}"
            if not self.case.sends:
                if told["dropped"] != "OutPolBlock" or told["tried"]:
                    yield f"dry run to {address}: {told}, and the member does not send"
                continue
            packets = [it for it in self.switch.captured() if (it.host, it.destination, it.protocol) == (self.inside.host, address, ESP)]
            spi, octets = f"0x{packets[-1].payload[:4].hex()}", len(packets[-1].frame) - ETHERNET
            if told["tried"] != [{"spi": spi, "octets": octets, "refused": None}]:
                yield f"dry run to {address}: {told}, and {octets} octets leave by {spi}"
        if "--dry-run" not in (said := self.inside.complaint("trace --timeout 1s")):
            yield f"keyferry trace says {said!r}"

    def opening(self, address):
        """By which SAs the guest opens packets that it might have sent itself."""
        source = self.inside.address(address)
        return {sa["spi"] for sa in self.inside.plane()["sas"] if covers(sa["source"], source) and covers(sa["destination"], address)}

    def missing(self, app, sent):
        """How many of the other side's packets have not come to an application."""
        other = self.inside if app.side is self.outside else self.outside
        return app.count(other.host, sent[other.host, app.address])["missing"]

    def check_wire(self, sas):
        """Only ESP, and of each sender as many packets by each SPI as it says."""
        packets = [it for it in self.switch.captured() if it.destination in self.addresses and IN_CLEAR not in it.payload]
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

    def check_injected(self, old):
        """What was sealed under the old keys opens no more, with windows nothing opens twice, and the kernel takes nothing in clear:
        the first packet of each SA and sender comes once more."""
        first = {}
        for packet in self.switch.captured():
            if packet.destination in self.addresses:
                first.setdefault((packet.host, f"0x{packet.payload[:4].hex()}"), packet)
        for side in self.sides:
            packets = {spi: packet for (host, spi), packet in first.items() if host != side.host}
            if side is self.outside and not self.case.sends:
                continue
            yield from self.check_drops(side, "InNoStates", [it.frame for spi, it in packets.items() if spi in old])
            if self.case.windows:
                yield from self.check_drops(side, "InStateSeqError", [it.frame for spi, it in packets.items() if spi not in old])
            # What the userspace engine can do against these is told in the documentation of the member.
            if side is self.inside and side.in_kernel():
                yield from self.check_drops(side, "InTmplMismatch", [clear_frame(it) for spi, it in packets.items() if spi not in old])

    def check_table(self):
        """What people are shown of the guest's member fits 80 columns, and says whose the kernel's counters are."""
        text = self.inside.keyferry(f"sa --details --socket {self.inside.folder}/member.sock")
        if not text or any(len(line) > 80 for line in text.splitlines()) or ("this host" in text) != self.inside.in_kernel():
            yield f"keyferry sa: {text}"
        if ("decrypted by the network device: 0x" in text) != self.case.card:
            yield f"keyferry sa about the card: {text}"

    def check_card(self, before, sas):
        """The card has the states that it is to have, and has opened all that came by them, as the kernel and the member say too; what
        it finds forged is dropped."""
        now = self.inside.card()
        wanted = self.card_spis()
        said, there = set(self.inside.plane()["offloaded"]), self.inside.kernel_spis("offload parameters: dev nic0 dir in")
        if not said == there == wanted or now["states"] != len(wanted):
            yield f"the card should have the SAs {wanted}; the member says {said}, the kernel {there}, the card {now}"
        if len(wanted) < len(self.inside.spis()) and now["refused"] == before["refused"]:
            yield f"the card was asked for nothing that it does not want: {now}"
        came = sum(sa["packets_opened"] for sa in sas if self.is_for_card(sa))
        if (opened := now["opened"] - before["opened"]) != came or not came:
            yield f"the card has opened {opened} packets, the SAs {came}"
        last = [it for it in self.switch.captured() if it.host != self.inside.host and f"0x{it.payload[:4].hex()}" in wanted][-1]
        yield from self.check_drops(self.inside, "InStateProtoError", [last.frame[:-1] + bytes([last.frame[-1] ^ 1])])
        if (forged := self.inside.card()["forged"] - now["forged"]) != 1:
            yield f"the card has found {forged} packets forged"

    @staticmethod
    def is_for_card(sa):
        return "128" in sa["transform"]

    def card_spis(self):
        """SAs that the card is to have."""
        return {sa["spi"] for sa in self.inside.plane()["sas"] if self.is_for_card(sa)}

    def check_card_down(self):
        """With a device the kernel takes its states down; the member has them installed again."""
        wanted = self.inside.spis()
        self.inside.guest.run("ip link set nic0 down")
        if (left := self.inside.kernel_spis()) != wanted - self.card_spis():
            yield f"without the card the kernel has the SAs {left}, of {wanted}"
        self.inside.use("nic0")
        until("the SAs are there again", lambda: self.inside.kernel_spis() == wanted)
        if (now := self.inside.card())["states"] != len(self.card_spis()):
            yield f"the card has not got all its states again: {now}"

    def check_own(self):
        """What an application in the guest sends comes to the others there, but for tunnels of IPv4, from which the kernel takes nothing
        of the host's own; without a card that can, the code for such cards is not loaded, with which nothing of it would come."""
        apps = [app for app in self.apps if app.side is self.inside]
        wanted = [int(":" in app.address or self.case.group.endswith("transport")) for app in apps]
        for app in apps:
            self.inside.send(app.address, "own")
        with contextlib.suppress(Broken):
            until("they come", lambda: [app.ask(do="report")["foreign"] for app in apps] == wanted)
        if (came := [app.ask(do="report")["foreign"] for app in apps]) != wanted:
            yield f"of the guest's own packets there came {came} instead of {wanted}"
        if loaded := self.inside.guest.run("lsmod | grep _offload"):
            yield f"loaded without need: {loaded}"

    def check_drops(self, side, reason, frames):
        """A side drops these frames for this reason."""
        before = side.drops(reason)
        self.switch.inject(side, frames)
        with contextlib.suppress(Broken):
            until("they are dropped", lambda: side.drops(reason) == before + len(frames))
        if (now := side.drops(reason)) != before + len(frames) or not frames:
            yield f"{side.name}: {len(frames)} packets are no {reason}; it was {before}, and is {now}"

    def check_arrival(self, app, sent):
        """All of the other side's packets have come, once and whole."""
        missing, report = self.missing(app, sent), app.ask(do="report")
        if missing or report["foreign"] or report["refused"] or any(it["duplicates"] for it in report["senders"]):
            yield f"{app.side.name}, {app.address}: missing {missing}, {report}"

    def check_kill(self):
        """When the guest's member is killed, nothing leaves in clear, and the next one takes over what it left."""
        self.inside.kill_member()
        with self.switch.capture():
            yield from self.check_silence(lambda packet: packet.protocol != ESP)
        self.start_inside()
        if (there := self.inside.kernel_spis()) != (wanted := self.inside.spis()):
            yield f"after a kill the kernel has the SAs {there}, and should have {wanted}"

    def check_silence(self, wrong):
        """The guest's applications send, and nothing of it is on the wire that is wrong."""
        apps = [app for app in self.apps if app.side is self.inside]
        for app in apps:
            enough = self.tried(app) + 50
            app.next("start")
            until(f"packets to {app.address}", lambda app=app, enough=enough: self.tried(app) >= enough)
            app.next("stop")
        self.inside.guest.run("echo the end >/dev/udp/10.85.0.2/9")
        until("the end is in the capture", lambda: any(b"the end" in packet.payload for packet in self.switch.captured()))
        if any(packet.destination in self.addresses and wrong(packet) for packet in self.switch.captured()):
            yield "there was something on the wire that should not have been"

    @staticmethod
    def tried(app):
        """Packets that an application has sent or could not send."""
        report = app.ask(do="report")
        return report["sent"] + report["refused"]


class GoingOver(Trial):
    """A case in which the group's policy turns, under load, to what the kernel must not have, and userspace takes its place."""

    def run(self):
        """Yields complaints."""
        self.outside.start_member(member_config(self.case, self.outside, "userspace", True))
        self.start_inside()
        until("the member outside has keys", self.outside.plane)
        with self.switch.capture():
            self.senders = [App(side, address) for side in self.sides for address in self.addresses]
            # Past all routes.
            past = [App(self.inside, address, "--send-on eth0", number=33, rate=20) for address in self.addresses]
            self.apps = [*self.senders, *past]
            for app in self.apps:
                app.next("start")
            self.further(50)
            with self.switch.injecting(self.inside, 0.02, self.in_clear()):
                old = self.go_over()
                yield from self.check_gone_over()
                # As the documentation of `engine` says, applications have to join on the TUN device now.
                joined = [App(self.inside, address) for address in self.addresses]
                self.apps += joined
                marks = {(app.side.host, app.address): app.next() for app in self.senders}
                self.further(50)
            sent = {(app.side.host, app.address): app.next("stop") for app in self.senders}
            for app in past:
                app.next("stop")
            receivers = [*joined, *(app for app in self.senders if app.side is self.outside)]
            with contextlib.suppress(Broken):
                until("all have come", lambda: not any(self.missing_since(app, sent, marks) for app in receivers))
            lost = {app.address: self.missing(app, sent) for app in self.senders if app.side is self.outside}
            for sa in old[1]:
                # The kernel has sealed them still, into the TUN device.
                sa["packets_sealed"] -= sum(count for address, count in lost.items() if covers(sa["destination"], address))
            sas = [before + side.plane()["sas"] for side, before in zip(self.sides, old)]
            with contextlib.suppress(Broken):
                until("all is in the capture", lambda: not list(self.check_numbers(sas)))
        yield from self.check_numbers(sas)
        for app in receivers:
            if missing := self.missing_since(app, sent, marks):
                yield f"{app.side.name}, {app.address}: missing {missing} from when userspace has taken over"
        for app in self.apps:
            if app.side is self.inside and app.ask(do="report")["foreign"]:
                yield f"something in clear has come to an application in the guest: {app.ask(do='report')}"
        print(f"     packets: {sum(sent.values())}, of the guest's lost when userspace took over: {[*lost.values()]}")
        yield from self.end()
        if left := self.inside.guest.run("nft list tables"):
            yield f"left in the guest's packet filter: {left}"

    def in_clear(self):
        """Frames as from outside, to each address."""
        packets = list(self.switch.captured())
        for address in self.addresses:
            yield clear_frame(next(it for it in packets if (it.host, it.destination) == (self.outside.host, address)))

    def go_over(self):
        """Turns the group's policy; returns what each member says about the old keys when these are not used any more."""
        old = self.outside.spis()
        what, other, _, stay = self.case.turns
        with open(f"{self.folder}/gateway.toml", "r+") as file:
            before, name, group = file.read().partition(f'name = "{self.case.group}"')
            group, next_group, after = group.partition("[[group]]")
            file.seek(0)
            file.truncate()
            file.write(before + name + group.replace(what, other) + next_group + after)
        subprocess.run([KEYFERRY, "reload", "--socket", self.gateway], check=True, stdout=subprocess.DEVNULL)
        for side in self.sides:
            until(f"the member {side.name} sends by new keys",
                  lambda side=side: side.plane() and (now := side.spis(sending=True)) and not now & old)
        planes = [side.plane()["sas"] for side in self.sides]
        if stay and not all(old <= {sa["spi"] for sa in sas} for sas in planes):
            raise Broken(f"old keys were dropped before their delay: {planes}")
        for side in self.sides:
            until(f"the member {side.name} drops its old keys", lambda side=side: not side.spis() & old)
        return [[sa for sa in sas if sa["spi"] in old] for sas in planes]

    def check_gone_over(self):
        """Userspace and its guard have taken the place of the kernel's ESP, of which nothing is left."""
        if (engine := self.inside.plane()["engine"]) != "userspace":
            yield f"the guest's member uses the engine {engine}"
        if left := self.inside.left_in_kernel():
            yield f"left in the guest's kernel: {left}"
        text = self.inside.keyferry(f"sa --details --socket {self.inside.folder}/member.sock")
        if not re.search(f"not the kernel's ESP: .*{self.case.turns[2]}", " ".join(text.split())):
            yield f"keyferry sa: {text}"
        with contextlib.suppress(Broken):
            until("packets in clear are dropped", lambda: not list(self.check_guard()))
        yield from self.check_guard()

    def check_guard(self):
        """The packet filter stands, is about the group's addresses, and has dropped packets both ways."""
        guard = self.inside.guard()
        dropped = all(re.search(rf"counter {name} {{\s+packets [1-9]", guard) for name in ("arriving", "leaving"))
        if not dropped or not all(address in guard for address in self.addresses):
            yield f"the guard: {guard}"

    def check_numbers(self, sas):
        """Nothing in clear on the wire, no number twice under an SA, and the members count what is there, the guest also what its kernel has
        sent."""
        packets = [it for it in self.switch.captured() if it.destination in self.addresses and it.protocol == ESP]
        numbers = collections.Counter((it.host, it.payload[:8]) for it in packets)
        if twice := [number for number, times in numbers.items() if times > 1]:
            yield f"on the wire twice, by host, SPI and number: {twice[:9]}"
        if self.case.turns[3]:
            yield from self.check_wire(sas)
        elif clear := [it for it in self.switch.captured() if self.is_clear(it)]:
            yield f"in clear on the wire: {clear[:3]}"

    def is_clear(self, packet):
        return packet.destination in self.addresses and packet.protocol != ESP and IN_CLEAR not in packet.payload

    def missing_since(self, app, sent, marks):
        """How many of the other side's packets have not come to an application since userspace has taken over."""
        other = self.inside if app.side is self.outside else self.outside
        whose = other.host, app.address
        return app.count(other.host, sent[whose], marks[whose])["missing"]


class Refusal(Trial):
    """A case in which the guest's engine must not have the group's keys, and says why."""

    def run(self):
        """Yields complaints."""
        self.inside.start_member(member_config(self.case, self.inside, self.case.engine, self.case.sends))
        until("the guest's member says why it has no keys", lambda: "sender ID" in self.inside.said())
        with self.switch.capture():
            self.apps = [App(self.inside, address) for address in self.addresses]
            yield from self.check_silence(lambda _: True)
        for address in self.addresses:
            if (told := self.inside.dry_run(address))["dropped"] != "OutPolBlock" or not told["why"]:
                yield f"dry run to {address}: {told}"
        if there := self.inside.kernel_spis():
            yield f"the kernel has the SAs {there}"
        yield from self.end()


def run(sides, switch, folder):
    if said := sides[1].set_up():
        print(f"the guest says: {said}")
        return 1
    failed = 0
    for case in CASES:
        if case.card and not sides[1].has_card():
            print(f"skip {case.engine}: {case.name}: the card's module could not be built")
            continue
        kind = GoingOver if case.turns else Trial if case.used else Refusal
        complaints = list(kind(case, *sides, switch, folder).run())
        failed += told(f"{case.engine}: {case.name}", complaints)
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
