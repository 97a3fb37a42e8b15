"""Running the installed commands, and the golden files they are tried on."""

import hashlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import zstandard

BIN = Path(sys.executable).parent
# A command that is to stay is ready, or has ended, by then.
START_S = 120.0
# Longer than any takes, in a guest on a busy machine too.
RUN_S = 240.0
GOLDEN = Path(__file__).resolve().parent.parent / "golden"


@dataclass(frozen=True)
class Done:
    """What a command left: exit status (negative: the signal that ended it) and output."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """The lines of stderr."""
        return self.err.splitlines()


def run(name: str, *args: str | Path, stdin: bytes = b"", env: Mapping[str, str] | None = None) -> Done:
    """Runs the installed command `name` to its end."""
    done = subprocess.run(
        [BIN / name, *args],
        input=stdin,
        capture_output=True,
        timeout=RUN_S,
        check=False,
        env={**os.environ, **(env or {})},
    )
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


def ok(name: str, *args: str | Path, stdin: bytes = b"") -> Done:
    """Runs a command that must succeed."""
    done = run(name, *args, stdin=stdin)
    assert done.status == 0, f"{name} {args}: status {done.status}\n{done.out}{done.err}"
    return done


@contextmanager
def serving(*words: str | Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A running `obd serve` with these arguments, and the URI that it printed."""
    command = [str(BIN / "obd"), "serve", *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            ready, _, _ = select.select([process.stdout], [], [], START_S)
            assert ready, "says nothing"
            word, _, uri = process.stdout.readline().decode().strip().partition(" ")
            assert word == "ready:", process.stderr.read() if process.stderr else ""
            yield process, uri
        finally:
            process.kill()


def end(pid: int, number: int) -> None:
    """Sends a process that is no child of ours a signal (0: none), and waits until it is gone."""
    fd = os.pidfd_open(pid)
    signal.pidfd_send_signal(fd, number)
    ready, _, _ = select.select([fd], [], [], START_S)
    os.close(fd)
    assert ready, f"process {pid} does not end: {stacks(pid)}"


def kill_with_guard(pid: int) -> None:
    """Kills a process that serves a device, and before it the one that would have another take its place."""
    guard = int(Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[1])
    if "obd.attach.keeper" in Path("/proc", str(guard), "cmdline").read_text():
        end(guard, signal.SIGKILL)
    end(pid, signal.SIGKILL)


def stacks(pid: int) -> str:
    """Where in the kernel the threads of a process are."""
    return "; ".join(file.read_text() for file in Path("/proc", str(pid), "task").glob("*/stack"))


def golden(name: str) -> bytes:
    """The golden file `name` (`lsmt/a.commit`), decompressed if it is kept compressed."""
    path = GOLDEN / name
    if path.exists():
        return path.read_bytes()
    packed = path.with_name(path.name + ".zst").read_bytes()
    return zstandard.ZstdDecompressor().stream_reader(packed).read()


def place(directory: Path, *names: str) -> list[Path]:
    """Copies of golden files in `directory`, with their own base names."""
    paths = []
    for name in names:
        path = directory / Path(name).name
        path.write_bytes(golden(name))
        paths.append(path)
    return paths


def sha256(data: bytes) -> str:
    """Its SHA-256, 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def names(directory: Path) -> list[str]:
    """What is in a directory, sorted."""
    return sorted(entry.name for entry in directory.iterdir())
