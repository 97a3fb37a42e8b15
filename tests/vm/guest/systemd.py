"""systemd in a guest: the first process of a PID namespace, over the guest's kernel, devices and files.

It needs no boot of its own, and what it starts is supervised for real. Others reach it from inside.
"""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UNITS = Path("/etc/systemd/system")
LOG = Path("/run/systemd.log")
START_S = 120.0
SHELL_S = 200.0

# What starts at first: nothing but the journal, since a whole boot would only take time.
TARGET = """\
[Unit]
Wants=systemd-journald.service
After=systemd-journald.service
DefaultDependencies=no
"""

# It has a view of the mounts for itself, since it may unmount what it finds. It shall mount configfs itself.
START = """
    mount --make-rslave /
    mount -t proc proc /proc
    mountpoint --quiet /sys/kernel/config && umount /sys/kernel/config
    exec /lib/systemd/systemd --unit=guest.target --show-status=no --default-standard-output=journal
"""


class Systemd:
    """The running manager; `pid` is its number for us."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def sh(
        self, script: str, cwd: Path = Path("/"), *, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Runs lines of shell where systemd lives; they stop at the first failure."""
        command = [
            "nsenter",
            f"--target={self.pid}",
            "--mount",
            "--pid",
            f"--wdns={cwd}",
            "bash",
            "-euc",
            script,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SHELL_S, check=False)
        assert not check or done.returncode == 0, f"{script}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.sh(f"systemctl show --value --property={name} {unit}").stdout.strip()

    def journal(self, unit: str) -> str:
        """What a unit and systemd about it have said."""
        self.sh("journalctl --sync")
        return self.sh(f"journalctl --quiet --no-pager --output=cat --unit={unit}").stdout


@contextmanager
def running() -> Iterator[Systemd]:
    """systemd, until the end of the block; then all that it has started is killed."""
    UNITS.mkdir(parents=True, exist_ok=True)
    (UNITS / "guest.target").write_text(TARGET)
    with LOG.open("wb") as log:
        command = ["unshare", "--pid", "--mount", "--fork", "--kill-child", "sh", "-euc", START]
        outer = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield Systemd(_wait(outer))
    finally:
        outer.kill()
        outer.wait()


def _wait(outer: subprocess.Popen[bytes]) -> int:
    """Waits until systemd has started what it shall; its number."""
    children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
    end = time.monotonic() + START_S
    state = ""
    while time.monotonic() < end and outer.poll() is None:
        if pids := children.read_text().split():
            done = Systemd(int(pids[0])).sh("systemctl is-system-running", check=False)
            if (state := done.stdout.strip()) in ("running", "degraded"):
                return int(pids[0])
        time.sleep(0.05)
    raise AssertionError(f"systemd does not start: {state}\n{LOG.read_text()}")
