"""What a run leaves on this machine besides files: mounts, loop devices, processes; how that goes away."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from obd.mount.filesystem import cut_off, mounts, type_at

# How long what was let go of may take to be gone: the last steps of a process are its own.
_PATIENCE_S: Final = 20.0
# A process that was killed is gone by then, or never.
_DEATH_S: Final = 30.0
_ROUNDS: Final = 10


def left_of(place: Path) -> list[str]:
    """What there is of `place`, in words, once it has had time to go."""
    end = time.monotonic() + _PATIENCE_S
    while (found := list(_left(place))) and time.monotonic() < end:
        time.sleep(0.01)
    return [what for what, _ in found]


def scrub(place: Path) -> None:
    """Takes all of it away, whatever it takes."""
    for _ in range(_ROUNDS):
        found = [words for _, words in _left(place)]
        for _, point in mounts() if found else ():
            if point.startswith(f"{place}/") and type_at(point).startswith("fuse"):
                cut_off(point)  # who waits for it can be killed then
        for words in found:
            if words[0] == "kill":
                _kill(int(words[1]))
            else:
                subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if not found:
            return


@contextmanager
def scrubbed(place: Path) -> Iterator[None]:
    """At the end, and also if this process is killed, nothing of `place` is there any more."""
    theirs, ours = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        # A process of its own, which also a terminal's interrupt does not end.
        os.setsid()
        os.close(ours)
        select.select([theirs], [], [])
        scrub(place)
        shutil.rmtree(place, ignore_errors=True)
        os._exit(0)
    os.close(theirs)
    try:
        yield
    finally:
        os.close(ours)
        os.waitpid(pid, 0)


def _left(place: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """What, and the command that takes it away. Users come before what they use."""
    name = os.fsencode(place)
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if process.name.isdigit() and int(process.name) != os.getpid():
                said = (process / "cmdline").read_bytes() + b"\0" + (process / "environ").read_bytes()
                if name + b"/" in said or name + b"\0" in said:
                    words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    yield f"process {words.strip()}", ("kill", process.name)
    devices = []
    for file in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            if file.read_text().startswith(f"{place}/"):
                number = (file.parents[1] / "dev").read_text().strip()
                devices.append((f"/dev/{file.parts[3]}", number))
    for number, point in mounts():
        if point.startswith(f"{place}/") or number in {each for _, each in devices}:
            yield f"mount {point.removeprefix(f'{place}/')}", ("umount", "-l", point)
    for path, _ in devices:
        yield "loop device", ("losetup", "-d", path)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        process = os.pidfd_open(pid)
        signal.pidfd_send_signal(process, signal.SIGKILL)
        select.select([process], [], [], _DEATH_S)
        os.close(process)
