"""Python's side of `shim.c`: builds it, has a program start with it, arms it in that program."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_SOURCE: Final = Path(__file__).with_name("shim.c")
VARIABLE: Final = "SWEEP_SHIM"
_PLAN: Final = "SWEEP_PLAN"
# What `sweep_arm` takes as the kind of a fault.
_FAIL, _SHORT, _DELAY, _KILL, _TORN = range(1, 6)
TELL: Final = 1
DATA: Final = 2
MACHINE: Final = 4
KILLED_STATUS: Final = 99

# Names that differ from run to run: random parts, and process ids.
_RANDOM: Final = re.compile(r"[0-9a-f]{8,}|(?<=\.)\d+(?=\.)")


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a run: which, on which name (with `*` for what is random), the how-manieth such."""

    op: str
    name: str
    number: int


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens at a call.

    `kind`: an errno by its name, "short", "delay", "kill", or "torn": half of it, then a kill.
    """

    call: Call
    kind: str

    def __str__(self) -> str:
        return f"{self.kind} at {self.call.op} {self.call.name} #{self.call.number}"


def pattern_of(name: str) -> str:
    """The name as a pattern that is the same in every run."""
    return _RANDOM.sub("*", name)


def build(directory: Path | None = None) -> Path:
    """The compiled library; one for each version of the source."""
    version = hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:16]
    home = directory or Path(tempfile.gettempdir())
    library = home / f"sweep-shim-{os.getuid()}-{version}.so"
    if not library.exists():
        draft = library.with_suffix(f".{os.getpid()}")
        words = ["cc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(draft), str(_SOURCE), "-ldl"]
        subprocess.run([*words, "-lpthread"], check=True)
        draft.rename(library)
    return library


def environment(library: Path) -> dict[str, str]:
    """What a program has to be started with."""
    return {**os.environ, "LD_PRELOAD": str(library), VARIABLE: str(library)}


class Shim:
    """The library in this process, which was started with it."""

    def __init__(self) -> None:
        self.library: Final = ctypes.CDLL(os.environ[VARIABLE])
        self.library.sweep_arm.argtypes = [
            *(ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_long),
            *(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_int),
        ]

    def share(self, plan: Path) -> None:
        """From now on the processes that this one starts count with it; `plan` is a file for that."""
        os.environ[_PLAN] = str(plan)
        if self.library.sweep_share(str(plan).encode()) != 0:
            raise OSError(f"{plan}: cannot be shared")

    def record(self, root: str, log: Path, what: int) -> None:
        """Lets nothing fail; each call is a line in the log, with `DATA` only those that change something.

        With `MACHINE` devices, mounts and processes count too.
        """
        log.write_bytes(b"")
        self.library.sweep_arm(root.encode(), b"", b"", 0, 0, 0, str(log).encode(), what)

    def arm(self, root: str, fault: Fault, what: int = 0) -> None:
        """Lets one call fail."""
        kind, number = _FAIL, 0
        if fault.kind in ("short", "delay", "kill", "torn"):
            kind = {"short": _SHORT, "delay": _DELAY, "kill": _KILL, "torn": _TORN}[fault.kind]
        else:
            number = getattr(errno, fault.kind)
        call = fault.call
        self.library.sweep_arm(
            root.encode(), call.op.encode(), call.name.encode(), call.number, kind, number, b"", what
        )

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What this process does meanwhile does not count, and does not fail."""
        self.library.sweep_pause(1)
        try:
            yield
        finally:
            self.library.sweep_pause(0)

    def disarm(self) -> None:
        """From now on nothing is counted."""
        self.library.sweep_disarm()

    @property
    def fired(self) -> bool:
        """Whether the call has come."""
        return bool(self.library.sweep_fired())

    def note(self, text: str) -> None:
        """A line in the log among the calls."""
        self.library.sweep_note(text.encode())


def calls_of(log: bytes) -> list[Call]:
    """The calls that a log without data tells."""
    counts: dict[tuple[str, str], int] = {}
    calls = []
    for line in log.decode().splitlines():
        op, _, _, _, _, path, second, _ = line.split("\t")
        if op == "note":
            continue
        op = {"opened": "create", "emptied": "create"}.get(op, op)
        key = (op, pattern_of(second or path))
        counts[key] = counts.get(key, 0) + 1
        calls.append(Call(*key, counts[key]))
    return calls


def faults_of(call: Call) -> list[Fault]:
    """All that can happen at a call."""
    moves = ["EIO", "kill"]
    kinds = {
        "open": ["EIO", "EINTR", "EMFILE", "kill"],
        "create": ["EIO", "ENOSPC", "EINTR", "kill"],
        "read": ["EIO", "EINTR", "short", "delay", "kill"],
        "write": ["EIO", "ENOSPC", "EINTR", "short", "delay", "kill", "torn"],
        "aio": ["EIO", "ENOSPC", "EINTR", "short", "kill", "torn"],
        "sync": ["EIO", "ENOSPC", "EINTR", "delay", "kill"],
        "connect": ["ECONNREFUSED", "ETIMEDOUT", "EINTR", "kill"],
        # A wait past the deadline ends with EAGAIN: that is how the kernel tells of one.
        "send": ["ECONNRESET", "EAGAIN", "EINTR", "short", "kill"],
        "recv": ["ECONNRESET", "EAGAIN", "EINTR", "short", "delay", "kill"],
        # What the kernel and a FUSE server say to each other comes whole.
        "request": ["EINTR", "delay", "kill"],
        "answer": ["delay", "kill"],
        "ioctl": ["EIO", "EBUSY", "kill"],
        "mount": ["ENOMEM", "kill"],
        "umount": ["EBUSY", "kill"],
        "lock": ["ENOLCK", "kill"],
        "pipe": ["EMFILE", "kill"],
        "fork": ["EAGAIN", "kill"],
        "exec": ["ENOMEM", "kill"],
    }
    more = {"rename", "link", "mkdir", "truncate", "allocate", "copy"}
    return [
        Fault(call, kind) for kind in kinds.get(call.op, [*moves, *(["ENOSPC"] if call.op in more else [])])
    ]
