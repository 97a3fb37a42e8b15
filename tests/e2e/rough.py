"""A node whose snapshotter, containerd and servers of devices are killed at random while it works."""

import hashlib
import os
import random
import re
import signal
import subprocess
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread

import obd.attach
from tests.e2e.commands import run
from tests.e2e.containerd import Node
from tests.e2e.snapshotter import Client, Refused, mounted

APP, PLAIN = "app:v1-obd", "app:v1"
# Containers that stay, and snapshots that are committed, in one round.
LONG, COMMITS = 3, 4
PAUSE_S = (0.1, 1.0)
# A device gives up after ten deaths in a minute, which are meant to be the device's own fault.
DEATHS_PAUSE_S = 7.0
PATIENCE_S = 120.0
# How the names of snapshots begin that containerd knows nothing of.
_OWN = ("key-", "name-", "look-", "last-")


class Story:
    """One round, told by a seed. What succeeds must be right; whatever failed succeeds in the end."""

    def __init__(self, node: Node, seed: int, big: bytes) -> None:
        self.node = node
        self.seed = seed
        self.sum = hashlib.md5(big).hexdigest()
        self.numbers = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.kills: Counter[str] = Counter()
        self.running: dict[str, str] = {}
        self.committed: dict[str, str] = {}
        self._over = Event()
        self._problem: BaseException | None = None

    def tell(self, length_s: float) -> None:
        """Works and kills for some time, then looks what there is."""
        killer = Thread(target=self._kill)
        killer.start()
        steps = (
            self.pull,
            self.pull_plain,
            self.once,
            self.start,
            self.look,
            self.write,
            self.commit,
            self.show,
        )
        try:
            end_s, number = time.monotonic() + length_s, 0
            while time.monotonic() < end_s and self._problem is None:
                number += 1
                step = self.numbers.choice(steps)
                (self.done if step(number) else self.failed)[step.__name__] += 1
        finally:
            self._over.set()
            killer.join()
        if self._problem is not None:
            raise self._problem
        self.verify()
        self.clean()

    def _kill(self) -> None:
        numbers, served_s = random.Random(-self.seed), float("-inf")
        try:
            while not self._over.wait(numbers.uniform(*PAUSE_S)):
                what = numbers.choice(("snapshotter", "containerd", "server", "server"))
                if what == "server":
                    if time.monotonic() < served_s + DEATHS_PAUSE_S or not self._kill_server(numbers):
                        continue
                    served_s = time.monotonic()
                else:
                    self.node.end(what, signal.SIGKILL)
                    if not numbers.randrange(3):
                        self._over.wait(numbers.uniform(*PAUSE_S))
                    self.node.start(what)
                self.kills[what] += 1
        except BaseException as error:
            self._problem = error

    def _kill_server(self, numbers: random.Random) -> bool:
        found = [each for each in obd.attach.attachments() if each.pid and not each.dead]
        if not found:
            return False
        one = numbers.choice(found)
        with suppress(ProcessLookupError):
            os.kill(one.pid, signal.SIGKILL)
            # What is in memory needs no server.
            subprocess.run(["blockdev", "--flushbufs", one.path], check=False, capture_output=True)
        return True

    # Steps: each is done, or has failed since something was killed, and has told nothing wrong.

    def _ctr(self, *words: str) -> str | None:
        done = self.node.ctr(*words)
        told = done.stdout + done.stderr
        assert not re.search(r"(?i)input/output error|bad message|structure needs cleaning", told), told
        return done.stdout if done.returncode == 0 else None

    def _read(self, said: str | None) -> bool:
        assert said is None or said.split()[:1] == [self.sum], f"other bytes: {said}"
        return said is not None

    def pull(self, _: int) -> bool:
        words = ["--address", str(self.node.socket), "--http", self.node.image(APP)]
        return run("obd", "rpull", *words).status == 0

    def pull_plain(self, _: int) -> bool:
        words = ["images", "pull", "--plain-http", "--snapshotter", "overlaybd", self.node.image(PLAIN)]
        return self._ctr(*words) is not None

    def once(self, number: int) -> bool:
        image = self.node.image(self.numbers.choice((APP, APP, PLAIN)))
        words = ["run", "--rm", *self.node.apart, "--snapshotter", "overlaybd", image, f"once-{number}"]
        said = self._ctr(*words, "/bin/md5sum", "/big")
        return self._read(said or None)  # without output, whatever the status, it did not run to its end

    def start(self, number: int) -> bool:
        if len(self.running) == LONG:
            return True
        name, image = f"long-{number}", self.node.image(APP)
        words = ["run", "--detach", *self.node.apart, "--snapshotter", "overlaybd", image, name]
        if self._ctr(*words, "/bin/sh", "-c", "sleep 1000") is None:
            return False
        self.running[name] = ""
        return True

    def _exec(self, name: str, number: int, *command: str) -> str | None:
        return self._ctr("task", "exec", "--exec-id", f"exec-{number}", name, *command)

    def look(self, number: int) -> bool:
        if not self.running:
            return True
        name = self.numbers.choice(sorted(self.running))
        return self._read(self._exec(name, number, "/bin/md5sum", "/big") or None)

    def write(self, number: int) -> bool:
        if not self.running:
            return True
        name, said = self.numbers.choice(sorted(self.running)), f"number {number}"
        # Under a new name, so that a command that failed changes nothing that was there.
        script = f"echo {said} > /etc/{number} && cat /etc/{number}"
        if self._exec(name, number, "/bin/sh", "-c", script) != f"{said}\n":
            return False
        self.running[name] = f"/etc/{number}"
        return True

    def _top(self, client: Client) -> str:
        # Layers of ordinary images have no label of ours.
        lazy = client.names('kind==committed,labels."containerd.io/snapshot/overlaybd/blob-digest"')
        return next((each for each in reversed(lazy) if client.stat(each).parent), "")

    def commit(self, number: int) -> bool:
        if len(self.committed) == COMMITS:
            return True
        client = Client(str(self.node.directory / "snapshotter.sock"))
        try:
            parent = self._top(client)
            if not parent:
                return True
            key, at = f"key-{number}", self.node.directory / "commit"
            with mounted(client.prepare(key, parent), at) as root:
                (root / "etc/name").write_text(key)
            client.commit(f"name-{number}", key)
            self.committed[f"name-{number}"] = key
            return True
        except Refused as error:
            assert error.code in ("UNAVAILABLE", "CANCELLED", "UNKNOWN", "NOT_FOUND"), (error.code, error)
            return False
        finally:
            client.close()

    def show(self, number: int) -> bool:
        if not self.committed:
            return True
        client = Client(str(self.node.directory / "snapshotter.sock"))
        try:
            name = self.numbers.choice(sorted(self.committed))
            self._show(client, f"look-{number}", name)
            client.remove(f"look-{number}")
            return True
        except Refused as error:
            assert error.code in ("UNAVAILABLE", "CANCELLED", "UNKNOWN"), (error.code, error)
            return False
        finally:
            client.close()

    def _show(self, client: Client, key: str, name: str) -> None:
        with mounted(client.view(key, name), self.node.directory / "show") as root:
            assert (root / "etc/name").read_text() == self.committed[name]
            assert hashlib.md5((root / "big").read_bytes()).hexdigest() == self.sum

    # The end.

    def verify(self) -> None:
        """Nothing is lost: what runs reads and has what it wrote, what was committed is there."""
        for number, (name, file) in enumerate(self.running.items()):
            # Again if nothing comes: ctr may lose what a program prints as it ends.
            self._until(
                lambda name=name, number=number: self._read(
                    self._exec(name, 10**6 + number, "/bin/md5sum", "/big") or None
                )
            )
            if file:
                wanted = f"number {file.removeprefix('/etc/')}\n"
                words = (name, 2 * 10**6 + number, "/bin/cat", file)
                self._until(lambda words=words, wanted=wanted: self._exec(*words) == wanted)
        client = Client(str(self.node.directory / "snapshotter.sock"))
        for name in self.committed:
            self._show(client, f"last-{name}", name)
        client.close()

    def _until(self, true: object) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not true():  # type: ignore[operator]
            assert time.monotonic() < deadline, self.node.log.read_text()[-4000:]

    def clean(self) -> None:
        """Nothing is left once all has been removed."""
        node = self.node
        for name in node.ok("containers", "ls", "-q").split():
            node.ctr("task", "kill", "--signal", "KILL", name)
            node.ctr("task", "delete", "--force", name)
            self._until(lambda name=name: node.ctr("containers", "delete", name).returncode == 0)
        self._forget_shims()
        client = Client(str(node.directory / "snapshotter.sock"))
        for key in reversed(client.names()):
            if key.startswith(_OWN):
                client.remove(key)
        client.close()
        for lease in node.ok("leases", "ls", "-q").split():
            node.ok("leases", "rm", lease)
        for image in node.ok("images", "ls", "-q").split():
            node.ok("images", "rm", "--sync", image)
        # The kernel may still use a device whose mount has just gone: it goes with the next garbage.
        self._until(self._collect)
        self._until(lambda: not self._processes("obd.attach.keeper", os.environ["OVERLAYBD_RUN_DIR"]))

    def _collect(self) -> bool:
        """Has containerd collect its garbage; whether nothing is left."""
        self.node.collect()
        return not self.node.left()

    def _forget_shims(self) -> None:
        """Ends what a containerd that was killed had just started, and the next one knows nothing of."""
        for words, pid in self._processes("containerd-shim", str(self.node.directory)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            name = words[words.index("-id") + 1]
            runc = ["runc", "--root", f"{self.node.directory}/runc/default", "delete", "--force", name]
            subprocess.run(runc, check=False, capture_output=True)
        self.node.end("containerd")
        for line in Path("/proc/mounts").read_text().splitlines():
            if line.split()[1].startswith(f"{self.node.directory}/state/"):
                subprocess.run(["umount", "-l", line.split()[1]], check=True)
        self.node.start("containerd")

    def _processes(self, *told: str) -> list[tuple[list[str], int]]:
        """Processes of which command line or environment tell all that."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                words = (process / "cmdline").read_text()
                if all(each in words + (process / "environ").read_text(errors="replace") for each in told):
                    found.append((words.split("\0"), int(process.name)))
        return found
