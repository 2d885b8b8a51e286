"""A Debian kernel under qemu, as tests/interop/guest.sh makes it: its shell listens on the first serial line, and what the kernel
says goes to a file by the second."""

import os
import selectors
import subprocess
import time

PATIENCE = 60  # seconds: the emulated processor may get little of the real one


class Silence(Exception):
    """The guest didn't do in time what it was asked."""


class Guest:
    def __init__(self, kernel, initrd, folder, *devices, memory=128, within=()):
        """Boots it, with these options of qemu's, and `within` in front of the command."""
        self.console = f"{folder}/console"
        self.process = subprocess.Popen(
            [*within, "qemu-system-x86_64", "-accel", "tcg", "-machine", "pc", "-m", str(memory), "-nodefaults", "-no-user-config",
             "-no-reboot", "-display", "none", "-kernel", kernel, "-initrd", initrd,
             "-append", "console=ttyS1 panic=-1 quiet", "-chardev", "stdio,id=shell,signal=off", "-serial", "chardev:shell",
             "-serial", f"file:{self.console}", *devices],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        self.typed, self.commands = b"", 0
        self.ready = selectors.DefaultSelector()
        self.ready.register(self.process.stdout, selectors.EVENT_READ, self.read)

    def read(self):
        if data := os.read(self.process.stdout.fileno(), 65536):
            self.typed += data
        else:
            raise Silence("qemu ended")

    def wait(self, what, found):
        """Takes in what the guest says and sends until `found` gives something; returns that."""
        deadline = time.monotonic() + PATIENCE
        while (it := found()) is None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise Silence(f"no {what} in {PATIENCE} seconds")
            for key, _ in self.ready.select(left):
                key.data()
        return it

    def written(self, end):
        """What the guest's shell writes before a line that is `end`."""

        def found():
            before, line, _ = self.typed.partition(f"{end}\n".encode())
            return before if line else None

        before = self.wait(f"line {end!r}", found)
        self.typed = b""
        return before.decode(errors="replace").strip()

    def run(self, script):
        """What a script for the guest's shell writes."""
        self.commands += 1
        end = f"done {self.commands}."
        self.process.stdin.write(f"{script}\necho {end}\n".encode())
        self.process.stdin.flush()
        return self.written(end)

    def drops(self):
        """The kernel's counters of packets that XFRM dropped."""
        words = self.run("cat /proc/net/xfrm_stat").split()
        return {name: int(count) for name, count in zip(words[::2], words[1::2])}

    def last_words(self):
        """What helps to find out why it is silent."""
        with open(self.console, errors="replace") as console:
            return f"on the line: {self.typed!r}; the end of the guest's console:\n{console.read()[-4000:]}"

    def end(self):
        self.process.kill()
        self.process.wait()


def told(name, complaints):
    """Prints what came of a case. Has it failed?"""
    print(f"{'FAIL' if complaints else 'ok  '} {name}", flush=True)
    for complaint in complaints:
        print(f"     {complaint}")
    return bool(complaints)
