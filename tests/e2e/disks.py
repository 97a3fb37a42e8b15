"""Images for front ends to serve, and running the tools that use them."""

import random
import subprocess
from pathlib import Path

from obdcore import Image, lsmt_commit, lsmt_create, lsmt_import

MIB = 1 << 20


def tool(*command: str | Path, stdin: bytes = b"", timeout_s: float = 60) -> str:
    """Runs a tool that must succeed; its output."""
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout.decode()}{done.stderr.decode()}"
    return done.stdout.decode()


def fails(*command: str | Path) -> str:
    """Runs a tool that must fail by itself, not by a signal; what it said."""
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert done.returncode > 0, f"{command}: {done.returncode}\n{done.stdout.decode()}{done.stderr.decode()}"
    return done.stdout.decode() + done.stderr.decode()


def content(size: int, seed: int = 1) -> bytes:
    """Bytes as a disk holds them: half zeros in long runs, the rest compressible by half."""
    numbers = random.Random(seed)
    parts = []
    for _ in range(0, size, 65536):
        parts.append(bytes(65536) if numbers.random() < 0.5 else numbers.randbytes(32).ljust(64, b"-") * 1024)
    return b"".join(parts)[:size]


def layer(path: Path, data: bytes) -> Path:
    """A compressed layer that holds `data`."""
    raw = path.with_suffix(".raw")
    raw.write_bytes(data)
    with raw.open("rb") as source, path.open("xb") as target:
        lsmt_import(source.fileno(), len(data), target.fileno(), compress={"algorithm": "lz4"})
    raw.unlink()
    return path


def read_only(directory: Path, data: bytes) -> Image:
    """A read-only image that holds `data`."""
    return Image([str(layer(directory / "layer", data))])


def writable(directory: Path, *, size: int = 0, data: bytes = b"", sparse: bool = False) -> Image:
    """A writable image of `size` zeros or upon a layer that holds `data`."""
    pair = (str(directory / "upper.data"), str(directory / "upper.index"))
    lsmt_create(*pair, size=size or len(data), sparse=sparse)
    return Image([str(layer(directory / "lower", data))] if data else [], pair)


def commit(directory: Path, name: str) -> Image:
    """What has been written to the upper of a closed image in `directory`, as a read-only image."""
    target = directory / name
    with target.open("xb") as output:
        lsmt_commit(
            str(directory / "upper.data"),
            str(directory / "upper.index"),
            output.fileno(),
            compress={"algorithm": "lz4"},
        )
    return Image([str(target)])
