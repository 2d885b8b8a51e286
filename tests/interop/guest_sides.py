"""The two sides of tests/interop/guest_member.py: a member and applications in a network namespace, and the same in a guest."""

import json
import os
import subprocess
import time

from guest import PATIENCE

KEYFERRY = os.environ["KEYFERRY"]
PORT = 5001
RATE = 100  # packets per second of each application
PAYLOAD = 200  # octets of each packet


class Broken(Exception):
    """A member or application that doesn't do what it should."""


def until(what, found):
    """Waits until `found` gives something true."""
    deadline = time.monotonic() + PATIENCE
    while not (it := found()):
        if time.monotonic() > deadline:
            raise Broken(f"not so in {PATIENCE} seconds: {what}")
        time.sleep(0.2)
    return it


class App:
    """Sends numbered packets to a group address, and counts the other side's."""

    def __init__(self, side, address, options="", *, number=0, rate=RATE):
        """`number` is the sender's in its packets, where it is not the host's."""
        self.side, self.address = side, address
        self.handle = side.start_app(
            f"--sender {number or side.host} --group {socket_address(address)} --rate {rate} {options}".split())

    def ask(self, **order):
        return self.side.ask(self.handle, json.dumps(order))

    def next(self, do="mark"):
        """Number of the packet that it sends next."""
        return self.ask(do=do)["next"]

    def count(self, sender, sent, first=0):
        """How many of so many packets, from one on, have come."""
        (counted,) = self.ask(do="count", windows=[{"sender": sender, "from": first, "to": sent}])["counts"]
        return counted


def socket_address(address):
    return f"[{address}]:{PORT}" if ":" in address else f"{address}:{PORT}"


class Side:
    """What both have in common: what is to be known about their member."""

    def plane(self):
        """What the data plane of the registered member does; None before."""
        if self.ended():
            raise Broken(f"the member {self.name} has ended")
        text = self.keyferry(f"sa --json --socket {self.folder}/member.sock")
        (group,) = json.loads(text) if text else [{"registered": False}]
        return group["dataplane"] if group["registered"] else None

    def said(self):
        """What the member says about itself."""
        return self.keyferry(f"member-status --json --socket {self.folder}/member.sock")

    def drops(self, reason):
        """How many packets were dropped for this reason."""
        return self.plane()["drops"][reason]

    def spis(self, *, sending=False):
        """The SPIs of its SAs, or of those that it sends by."""
        return {sa["spi"] for sa in self.plane()["sas"] if sa["sending"] or not sending}


class Outside(Side):
    """In a namespace, at the switch's second port."""

    name, host, port, interface = "outside", 2, "port2", "eth0"

    def __init__(self, folder, namespace):
        self.folder, self.within = folder, ["ip", "netns", "exec", namespace]
        self.member, self.apps = None, []

    def start_member(self, config):
        with open(f"{self.folder}/member.toml", "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(config)
        with open(f"{self.folder}/member-outside.log", "ab") as log:
            self.member = subprocess.Popen([*self.within, KEYFERRY, "member", "--config", f"{self.folder}/member.toml"],
                                           stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def ended(self):
        """Has its member?"""
        return self.member.poll() is not None

    @staticmethod
    def keyferry(arguments):
        """What a command writes; nothing where it fails."""
        return subprocess.run([KEYFERRY, *arguments.split()], capture_output=True, text=True, check=False).stdout

    def stop_member(self):
        if self.member:
            self.member.terminate()
            self.member.wait()
            self.member = None

    def start_app(self, arguments):
        app = subprocess.Popen([*self.within, KEYFERRY, "lab", "app", *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.apps.append(app)
        self.reply(app)
        return app

    @staticmethod
    def reply(app):
        for line in app.stdout:
            if (reply := json.loads(line))["is"] != "tick":
                return reply
        raise Broken("an application outside has ended")

    def ask(self, app, order):
        app.stdin.write(f"{order}\n")
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


class Inside(Side):
    """In the guest, by its shell; what its programs write goes into files there."""

    name, host, port = "guest", 3, "guest"
    mac = "02:00:00:00:00:03"

    def __init__(self, guest, folder="/tmp"):
        self.guest, self.folder, self.apps, self.interface = guest, folder, [], None

    def set_up(self):
        """Returns complaints."""
        self.guest.written("ready.")
        return self.guest.run("ip link set lo up") + self.use("eth0")

    def use(self, interface):
        """Gives an interface addresses and routes; returns complaints."""
        self.interface = interface
        return self.guest.run(f"""
ip -batch - <<'END'
link set {interface} up
addr replace 10.85.0.{self.host}/24 dev {interface}
addr replace fd85::{self.host}/64 dev {interface} nodad
route replace 224.0.0.0/4 dev {interface}
END
""")

    def has_card(self):
        """Is there one that opens ESP (guest_nic.c)?"""
        return bool(self.guest.run("ls /guest_nic.ko 2>/dev/null"))

    def plug(self):
        """Puts that card between the cable and IP."""
        said = self.guest.run("insmod /guest_nic.ko; ip addr flush dev eth0; echo 1 >/proc/sys/net/ipv6/conf/eth0/disable_ipv6")
        if said := said + self.use("nic0"):
            raise Broken(f"the card: {said}")

    def card(self):
        """What the card has and has done."""
        lines = self.guest.run("cd /sys/module/guest_nic/parameters && grep . *; cd /").splitlines()
        return {name: int(count) for name, count in (line.split(":") for line in lines)}

    def start_member(self, config):
        self.guest.run(f"umask 077; cat >{self.folder}/member.toml <<'END'\n{config}END")
        self.guest.run(f"keyferry member --config {self.folder}/member.toml </dev/null >>{self.folder}/member.log 2>&1 & member=$!")

    def ended(self):
        """Has its member?"""
        return not self.guest.run('kill -0 "$member" 2>/dev/null && echo runs')

    def keyferry(self, arguments):
        """What a command writes; nothing where it fails."""
        return self.guest.run(f"keyferry {arguments} 2>/dev/null")

    def kill_member(self):
        self.guest.run('kill -9 "$member"; wait "$member" 2>/dev/null')

    def stop_member(self):
        self.guest.run('kill "$member"; wait "$member" 2>/dev/null')

    def start_app(self, arguments):
        app = {"file": f"{self.folder}/app-{len(self.apps)}", "descriptor": 10 + len(self.apps), "replies": 0}
        self.apps.append(app)
        self.guest.run("mkfifo {file}; keyferry lab app {0} <{file} >{file}.out 2>{file}.log &".format(" ".join(arguments), **app))
        self.guest.run("exec {descriptor}>{file}".format(**app))
        self.reply(app)
        return app

    def reply(self, app):
        """The next reply that is no tick. A line that is being written may not be whole yet."""
        app["replies"] += 1
        text = self.guest.run("""
until line=$(grep -v '"is":"tick"' {file}.out | sed -n {replies}p) && [[ $line == *}} ]]; do
    [[ ! -s {file}.log ]] || break
    sleep 0.1
done
echo "$line" """.format(**app))
        if not text:
            raise Broken(f"an application in the guest fails: {self.guest.run('cat {file}.log'.format(**app))}")
        return json.loads(text)

    def ask(self, app, order):
        self.guest.run(f"echo '{order}' >&{app['descriptor']}")
        return self.reply(app)

    def stop_apps(self):
        for app in self.apps:
            self.guest.run("exec {descriptor}>&-; rm {file}*".format(**app))
        self.apps = []

    def in_kernel(self):
        """Does the guest's kernel protect the traffic?"""
        return self.plane()["engine"] == "kernel"

    def drops(self, reason):
        """By the kernel's own counter where it does the work."""
        return self.guest.drops()[f"Xfrm{reason}"] if self.in_kernel() else super().drops(reason)

    def dry_run(self, destination):
        """What would become of a packet of an application in the guest."""
        octets = (40 if ":" in destination else 20) + 8 + PAYLOAD
        flow = f"--source {self.address(destination)} --destination {destination} --port {PORT} --octets {octets}"
        (group,) = json.loads(self.keyferry(f"trace --dry-run --json {flow} --socket {self.folder}/member.sock"))
        return group["explanation"]

    def address(self, other):
        """Its address of the same version of IP as another."""
        return f"fd85::{self.host}" if ":" in other else f"10.85.0.{self.host}"

    def complaint(self, arguments):
        """What a command that fails says."""
        return self.guest.run(f"keyferry {arguments} --socket {self.folder}/member.sock 2>&1 >/dev/null || true")

    def kernel_spis(self, having=""):
        """The SPIs of the SAs that the kernel has, and of which it says this."""
        states = [state.split() for state in self.guest.run("ip xfrm state").split("\nsrc ") if having in state]
        return {words[words.index("spi") + 1] for words in states if "spi" in words}

    def replace_state(self):
        """Puts another's state into the place of one of the member's, and gives its SPI."""
        words = self.guest.run("ip xfrm state").split()
        destination, spi = words[words.index("dst") + 1], words[words.index("spi") + 1]
        key = f"dst {destination} proto esp spi {spi}"
        said = self.guest.run(
            f"ip xfrm state delete {key} 2>&1"
            f" && ip xfrm state add src {self.address(destination)} {key} reqid 7 mode transport"
            f" enc 'cbc(aes)' 0x{'07' * 16} auth 'hmac(sha256)' 0x{'07' * 32} 2>&1"
        )
        if said:
            raise Broken(f"another's state: {said}")
        return spi

    def send(self, address, text):
        """Sends a datagram, which the guest's own applications get too, if all is well."""
        self.guest.run(f"echo {text} >/dev/udp/{address}/{PORT}")

    def left_in_kernel(self):
        """SAs and policies that the kernel has."""
        return self.guest.run("ip xfrm state; ip xfrm policy")

    def guard(self):
        """The member's packet filter, if it stands."""
        return self.guest.run("nft list table inet keyferry-kf0 2>/dev/null")

    def log(self):
        return self.guest.run(f"cat {self.folder}/member.log")
