#!/usr/bin/python3
"""A member in a guest under qemu and one outside, in the same group; tests/interop/guest_member.sh prepares both.

    KEYFERRY=target/debug/keyferry tests/interop/guest_member.py VMLINUZ INITRD FOLDER OUTSIDE SWITCH

OUTSIDE is the network namespace of the member outside, SWITCH that of the bridge between. In each case applications on both sides
send numbered packets to each group address, IPv4 and IPv6, while the group is rekeyed. Exits 0 only if nothing of it was lost or came
twice, nothing was on the wire in clear or under other keys than the members say, and the old keys are gone after their delay.
"""

import collections
import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time

from guest import PATIENCE, Guest, Silence

KEYFERRY = os.environ["KEYFERRY"]
GUEST_MAC = "02:00:00:00:00:03"
PORT = 5001
RATE = 100  # packets per second of each application
ESP = 50
OUTSIDE, GUEST = 2, 3
SETUP = """
ip -batch - <<'END'
link set lo up
link set eth0 up
addr add 10.85.0.3/24 dev eth0
addr add fd85::3/64 dev eth0 nodad
route add 224.0.0.0/4 dev eth0
END
"""

Case = collections.namedtuple("Case", "name group number engine")
CASES = [Case("userspace, AES-GCM of several senders, tunnel", "gcm-tunnel", 1, None)]


class Broken(Exception):
    """A member or application that doesn't do what it should."""


def member_config(case, host, folder, engine):
    """What a member's configuration says, the same inside and outside but for the engine."""
    lines = [
        "[member]", 'gateway = "10.85.0.1"', f"group = {case.number}", f'address = "10.85.0.{host}"', 'interface = "eth0"',
        'psk = "correct horse battery staple"', 'retry = "1s"', "leave_on_exit = true",
    ]
    if engine:
        lines.append(f'engine = "{engine}"')
    return "\n".join([*lines, "", "[control]", f'socket = "{folder}/member.sock"', ""])


def addresses(case):
    return [f"239.192.0.{case.number}", f"ff15::{case.number}"]


def app_arguments(host, address):
    at = f"[{address}]:{PORT}" if ":" in address else f"{address}:{PORT}"
    return ["lab", "app", "--sender", str(host), "--group", at, "--rate", str(RATE)]


class Outside:
    """The side of the member outside, in its namespace."""

    name, host = "outside", OUTSIDE

    def __init__(self, folder, namespace):
        self.folder, self.within = folder, ["ip", "netns", "exec", namespace]
        self.member, self.apps = None, []

    def start_member(self, config):
        with open(f"{self.folder}/member.toml", "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(config)
        with open(f"{self.folder}/member-outside.log", "ab") as log:
            self.member = subprocess.Popen([*self.within, KEYFERRY, "member", "--config", f"{self.folder}/member.toml"],
                                           stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def status(self):
        """What its member says about itself; None where it isn't there yet."""
        command = [KEYFERRY, "member-status", "--json", "--socket", f"{self.folder}/member.sock"]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        return json.loads(answer.stdout) if answer.returncode == 0 else None

    def stop_member(self):
        if self.member:
            self.member.terminate()
            self.member.wait()
            self.member = None

    def start_app(self, address):
        app = subprocess.Popen([*self.within, KEYFERRY, *app_arguments(self.host, address)],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.apps.append(app)
        self.reply(app)
        return app

    @staticmethod
    def reply(app):
        for line in app.stdout:
            if (reply := json.loads(line))["is"] != "tick":
                return reply
        raise Broken("an application outside has ended")

    def ask(self, app, **order):
        app.stdin.write(json.dumps(order) + "\n")
        app.stdin.flush()
        return self.reply(app)

    def stop_apps(self):
        while self.apps:
            app = self.apps.pop()
            app.stdin.close()
            app.stdout.close()
            app.wait()

    def end(self):
        self.stop_apps()
        self.stop_member()


class Inside:
    """The side of the member in the guest, by the guest's shell. Programs write into files there."""

    name, host = "guest", GUEST

    def __init__(self, guest):
        self.guest, self.apps = guest, 0

    def start_member(self, config):
        self.guest.run(f"umask 077; cat >/tmp/member.toml <<'END'\n{config}END")
        self.guest.run("keyferry member --config /tmp/member.toml </dev/null >>/tmp/member.log 2>&1 & member=$!")

    def status(self):
        text = self.guest.run("keyferry member-status --json --socket /tmp/member.sock 2>/dev/null")
        return json.loads(text) if text else None

    def stop_member(self):
        self.guest.run('kill "$member"; wait "$member" 2>/dev/null')

    def start_app(self, address):
        number, self.apps = self.apps, self.apps + 1
        file = f"/tmp/app-{number}"
        self.guest.run(f"mkfifo {file}; keyferry {' '.join(app_arguments(self.host, address))} <{file} >{file}.out 2>{file}.log &")
        self.guest.run(f"exec {10 + number}>{file}")
        app = {"number": number, "replies": 0}
        self.reply(app)
        return app

    def reply(self, app):
        """The next reply that is no tick; each is a line, the last one perhaps not whole yet."""
        app["replies"] += 1
        file, count = f"/tmp/app-{app['number']}", app["replies"]
        text = self.guest.run(f"""
until l=$(grep -v '"is":"tick"' {file}.out | sed -n {count}p) && [[ $l == *}} ]]; do
    kill -0 $(jobs -p) 2>/dev/null || {{ cat {file}.log; break; }}
    sleep 0.1
done
echo "$l" """)
        if not text.startswith("{"):
            raise Broken(f"an application in the guest has ended: {text}")
        return json.loads(text)

    def ask(self, app, **order):
        self.guest.run(f"echo '{json.dumps(order)}' >&{10 + app['number']}")
        return self.reply(app)

    def stop_apps(self):
        for number in range(self.apps):
            self.guest.run(f"exec {10 + number}>&-; rm /tmp/app-{number}*")
        self.apps = 0

    def log(self):
        return self.guest.run("cat /tmp/member.log; dmesg | tail -n 20")


def until(what, found):
    """Waits until `found` gives something true."""
    deadline = time.monotonic() + PATIENCE
    while not (it := found()):
        if time.monotonic() > deadline:
            raise Broken(f"not so in {PATIENCE} seconds: {what}")
        time.sleep(0.2)
    return it


def plane(side):
    """What the data plane of a registered member does; None before."""
    status = side.status()
    if not status or not status["registered"]:
        return None
    return status["groups"][0]["dataplane"]


def spis(side, *, sending=False):
    """The SPIs of its SAs, or of those that it sends by."""
    return {sa["spi"] for sa in plane(side)["sas"] if sa["sending"] or not sending}


@contextlib.contextmanager
def capture(switch, path):
    """What goes over the switch's port of the guest, until the end."""
    command = ["tcpdump", "-i", "guest", "--immediate-mode", "-U", "-B", "16384", "-w", path]
    sniffer = subprocess.Popen(["ip", "netns", "exec", switch, *command], stderr=subprocess.PIPE, text=True)
    try:
        until("tcpdump writes", lambda: os.path.exists(path) and os.path.getsize(path))
        yield
    finally:
        sniffer.send_signal(signal.SIGINT)
        _, said = sniffer.communicate()
    if "\n0 packets dropped by kernel" not in said:
        raise Broken(f"tcpdump missed something: {said}")


def packets(path):
    """Host that sent it, destination, protocol and payload of the IP packets in a capture of Ethernet."""
    with open(path, "rb") as file:
        data = file.read()
    at = 24
    while at + 16 <= len(data):
        (length,) = struct.unpack_from("<8xI", data, at)
        frame = data[at + 16 : at + 16 + length]
        at += 16 + length
        if at > len(data):  # still being written
            return
        host = GUEST if frame[6:12] == bytes.fromhex(GUEST_MAC.replace(":", "")) else OUTSIDE
        kind = int.from_bytes(frame[12:14], "big")
        if kind == 0x0800:
            yield host, socket.inet_ntop(socket.AF_INET, frame[30:34]), frame[23], frame[14 + (frame[14] & 15) * 4 :]
        elif kind == 0x86DD:
            yield host, socket.inet_ntop(socket.AF_INET6, frame[38:54]), frame[20], frame[54:]


def roll_over(case, sides, apps, folder):
    """New keys for the group; returns what the members say about the old ones when these are not used any more."""
    old = spis(sides[0])
    subprocess.run([KEYFERRY, "rekey", case.group, "--socket", f"{folder}/gateway.sock"], check=True, stdout=subprocess.DEVNULL)
    for side in sides:
        until(f"the member {side.name} sends by new keys", lambda side=side: (now := spis(side, sending=True)) and not now & old)
    further(apps, 50)
    planes = [plane(side) for side in sides]
    for side, it in zip(sides, planes):
        if not old <= {sa["spi"] for sa in it["sas"]}:
            raise Broken(f"the member {side.name} has dropped its old keys before their delay: {it}")
    for side in sides:
        until(f"the member {side.name} drops its old keys", lambda side=side: not spis(side) & old)
    further(apps, 50)
    return [[sa for sa in it["sas"] if sa["spi"] in old] for it in planes]


def further(apps, count):
    """Waits until each application has sent so many packets more."""
    marks = [side.ask(app, do="mark")["next"] + count for side, app, _ in apps]
    for (side, app, address), mark in zip(apps, marks):
        until(f"{side.name} sends to {address}", lambda side=side, app=app, mark=mark: side.ask(app, do="mark")["next"] >= mark)


def check_arrival(side, app, sender, count):
    """Complaints unless all of a sender's packets have come to an application, once and whole."""
    window = {"sender": sender, "from": 0, "to": count}
    with contextlib.suppress(Broken):
        until("all have come", lambda: side.ask(app, do="count", windows=[window])["counts"][0]["missing"] == 0)
    (counted,) = side.ask(app, do="count", windows=[window])["counts"]
    report = side.ask(app, do="report")
    duplicates = sum(it["duplicates"] for it in report["senders"])
    if counted["missing"] or duplicates or report["foreign"] or report["refused"]:
        yield f"{side.name}: of {count} packets {counted}, {report}"


def check_wire(path, case, sealed):
    """Complaints about what was on the wire: ESP alone, and of each sender as many packets by each SPI as the members say."""
    seen = collections.Counter()
    for host, destination, protocol, payload in packets(path):
        if destination not in addresses(case):
            continue
        if protocol == ESP:
            seen[f"0x{payload[:4].hex()}", host] += 1
        else:
            yield f"in clear on the wire: {host} to {destination}, protocol {protocol}"
    if seen != sealed:
        yield f"on the wire by SPI and host: {dict(seen)}; the members have counted {dict(sealed)}"


def check_counters(case, sides, sas):
    """Complaints unless each member has opened what the other sealed, by each SA."""
    ours, theirs = ({sa["spi"]: sa for sa in it} for it in sas)
    if ours.keys() != theirs.keys():
        yield f"the members have other SAs: {sorted(ours)} and {sorted(theirs)}"
        return
    for spi in ours:
        for side, sender, receiver in ((sides[0], ours[spi], theirs[spi]), (sides[1], theirs[spi], ours[spi])):
            if sender["packets_sealed"] != receiver["packets_opened"] or not sender["packets_sealed"]:
                yield f"{case.name}: SA {spi}: {side.name} sealed {sender}, the other opened {receiver}"


def check(case, sides, folder, switch):
    """Runs a case; yields complaints."""
    outside, inside = sides
    outside.start_member(member_config(case, outside.host, folder, None))
    inside.start_member(member_config(case, inside.host, "/tmp", case.engine))
    for side in sides:
        until(f"the member {side.name} has keys", lambda side=side: plane(side))
    path = f"{folder}/cable.pcap"
    with capture(switch, path):
        apps = [(side, side.start_app(address), address) for side in sides for address in addresses(case)]
        for side, app, _ in apps:
            side.ask(app, do="start")
        further(apps, 50)
        old = roll_over(case, sides, apps, folder)
        sent = {(side, address): side.ask(app, do="stop")["next"] for side, app, address in apps}
        for side, app, address in apps:
            other = inside if side is outside else outside
            yield from check_arrival(side, app, other.host, sent[other, address])
        sas = [before + plane(side)["sas"] for side, before in zip(sides, old)]
        sealed = collections.Counter({(sa["spi"], side.host): sa["packets_sealed"] for side, all in zip(sides, sas) for sa in all})
        with contextlib.suppress(Broken):
            until("all is in the capture", lambda: not list(check_wire(path, case, sealed)))
    yield from check_counters(case, sides, sas)
    yield from check_wire(path, case, sealed)
    for side in sides:
        side.stop_apps()
        side.stop_member()
    print(f"     packets sent: {sum(sent.values())}, by {len(sas[0])} SAs")


def run(guest, sides, folder, switch):
    guest.written("ready.")
    if said := guest.run(SETUP):
        print(f"the guest says: {said}")
        return 1
    failed = 0
    for case in CASES:
        complaints = list(check(case, sides, folder, switch))
        failed += bool(complaints)
        print(f"{'FAIL' if complaints else 'ok  '} {case.name}", flush=True)
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
        "-cpu", "max", "-netdev", "tap,id=cable,ifname=guest,script=no,downscript=no",
        "-device", f"virtio-net-pci,netdev=cable,mac={GUEST_MAC},romfile=",
        memory=256, within=["ip", "netns", "exec", switch],
    )
    outside, inside = Outside(folder, namespace), Inside(guest)
    try:
        return run(guest, (outside, inside), folder, switch)
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
