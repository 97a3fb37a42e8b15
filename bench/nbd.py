"""NBD: reads of a compressed layer and writes into a log-structured upper, against qemu-nbd.

One load generator (`nbd_load`, an example of the core) drives all servers; everything is in the page cache.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import obdcore

ROOT = Path(__file__).resolve().parents[1]
SIZE = 256 << 20
ROUNDS = 7
SECONDS = 0.7
LOADS = {
    "randread_qd1": ["mode=randread", "size=4096", "depth=1"],
    "randread_qd32": ["mode=randread", "size=4096", "depth=32"],
    "seqread_1m": ["mode=seqread", "size=1048576", "depth=1"],
    "seqread_1m_qd8": ["mode=seqread", "size=1048576", "depth=8"],
}
WRITE = ["mode=randwrite", "size=4096", "depth=32"]


def generator() -> Path:
    """Builds the load generator."""
    command = [
        "cargo",
        "build",
        "--release",
        "--locked",
        "--manifest-path",
        "core/Cargo.toml",
        "--package",
        "overlaybd",
    ]
    command += ["--example", "nbd_load", "--message-format=json", "--quiet"]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return Path(next(line["executable"] for line in lines if line.get("executable")))


def make(raw: Path) -> None:
    """Content that compresses by about half, block by block, and has no long runs of zeros."""
    numbers = random.Random(1)
    with raw.open("wb") as file:
        for _ in range(SIZE >> 20):
            file.write(b"".join(numbers.randbytes(32) + bytes([i & 255 or 1] * 32) for i in range(1 << 14)))


@contextmanager
def qemu_nbd(socket: Path, image: Path, kind: str, *options: str) -> Iterator[str]:
    """A qemu-nbd that serves `image`."""
    command = ["qemu-nbd", "--persistent", "--format", kind, "--socket", str(socket), *options, str(image)]
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 10
        while not socket.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"qemu-nbd does not serve {image}")
            time.sleep(0.01)
        yield f"unix:{socket}"
    finally:
        process.terminate()
        process.wait()


@contextmanager
def ours(socket: Path, lowers: list[Path], upper: tuple[str, str] | None = None) -> Iterator[str]:
    """Our server of an image."""
    server = obdcore.NbdServer({"": obdcore.Image([str(path) for path in lowers], upper)}, f"unix:{socket}")
    try:
        yield server.address
    finally:
        server.stop()


def measure(load: Path, servers: dict[str, str], arguments: list[str]) -> dict[str, list[float]]:
    """Requests a second of each server, in turns, so that what else the machine does hits all alike."""
    rates: dict[str, list[float]] = {name: [] for name in servers}
    for _ in range(ROUNDS):
        for name, address in servers.items():
            command = [str(load), address, *arguments, f"seconds={SECONDS}"]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            rates[name].append(json.loads(done.stdout)["iops"])
    return rates


def report(load: str, arguments: list[str], rates: dict[str, list[float]]) -> None:
    """A line for each peer: the median rate, and the median of the ratios of each turn."""
    large = "size=1048576" in arguments
    for peer in rates.keys() - {"ours"}:
        ratios = sorted(a / b for a, b in zip(rates["ours"], rates[peer], strict=True))
        row = {
            "name": f"nbd.{load}.{peer}",
            "value": sorted(rates["ours"])[ROUNDS // 2],
            "unit": "MiB/s" if large else "IOPS",
            "peer": f"qemu-nbd, {peer}: {sorted(rates[peer])[ROUNDS // 2]:,.0f}",
            "ratio": ratios[ROUNDS // 2],
        }
        print(json.dumps(row), flush=True)


def main() -> None:
    """Measures reads, then writes."""
    load = generator()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        here = Path(folder)
        raw, layer, qcow2 = here / "raw", here / "layer", here / "qcow2"
        make(raw)
        with raw.open("rb") as source, layer.open("xb") as target:
            obdcore.lsmt_import(source.fileno(), SIZE, target.fileno(), compress={"algorithm": "lz4"})
        subprocess.run(["qemu-img", "convert", "-q", "-c", "-O", "qcow2", raw, qcow2], check=True)
        for path in (raw, layer, qcow2):
            with path.open("rb") as file, open(os.devnull, "wb") as nowhere:
                shutil.copyfileobj(file, nowhere, 1 << 20)
        servers = {
            "ours": stack.enter_context(ours(here / "ours.sock", [layer])),
            "raw": stack.enter_context(qemu_nbd(here / "raw.sock", raw, "raw", "--read-only")),
            "qcow2": stack.enter_context(qemu_nbd(here / "qcow2.sock", qcow2, "qcow2", "--read-only")),
        }
        subprocess.run(
            [load, servers["ours"], "depth=32", f"verify={raw}", "seconds=0.3"], check=True, stdout=2
        )
        for name, arguments in LOADS.items():
            report(name, arguments, measure(load, servers, arguments))

    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        here = Path(folder)
        upper = (str(here / "data"), str(here / "index"))
        obdcore.lsmt_create(*upper, size=SIZE)
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", here / "qcow2", str(SIZE)], check=True)
        servers = {
            "ours": stack.enter_context(ours(here / "ours.sock", [], upper)),
            "qcow2": stack.enter_context(qemu_nbd(here / "qcow2.sock", here / "qcow2", "qcow2")),
        }
        report("randwrite", WRITE, measure(load, servers, WRITE))


if __name__ == "__main__":
    main()
