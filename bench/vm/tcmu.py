"""TCMU: reads of a compressed layer in the page cache, against tcmu-runner and the kernel's own backstore.

usage: python -m bench.vm.tcmu DIRECTORY       in which the packages of tcmu-runner are unpacked
"""

import json
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import median

from bench.nbd import SIZE, make
from bench.vm import servers
from obdcore import lsmt_import

ROUNDS = 5
SECONDS = 0.5
LOADS = {
    "randread_qd1": ("--rw=randread", "--bs=4k", "--iodepth=1"),
    "randread_qd32": ("--rw=randread", "--bs=4k", "--iodepth=32"),
    "seqread_1m": ("--rw=read", "--bs=1m", "--iodepth=1"),
}
PEERS = {"runner": "tcmu-runner, qcow2", "fileio": "the kernel's fileio"}

Rates = dict[str, dict[str, list[float]]]


def image(directory: Path, raw: Path) -> Path:
    """The configuration of an image of one layer that holds what a file holds."""
    layer, config = directory / "layer", directory / "config.json"
    with raw.open("rb") as source, layer.open("xb") as target:
        lsmt_import(source.fileno(), SIZE, target.fileno(), compress={"algorithm": "lz4"})
    config.write_text(json.dumps({"lowers": [{"file": str(layer)}], "resultFile": str(directory / "result")}))
    return config


def measure(here: Path, program: Path) -> Rates:
    """The rates of each load on each server, in turns: two daemons cannot listen to the kernel at once."""
    raw, qcow2 = here / "raw", here / "qcow2"
    make(raw)
    config = image(here, raw)
    servers.tool("qemu-img", "convert", "-q", "-O", "qcow2", "-o", "compat=0.10", raw, qcow2)
    serve: dict[str, Callable[[], AbstractContextManager[Path]]] = {
        "ours": lambda: servers.ours(here, config),
        "runner": lambda: servers.runner(here, program, qcow2),
        "fileio": lambda: servers.fileio(raw),
    }
    rates: Rates = {load: {"ours": [], **{peer: [] for peer in PEERS}} for load in LOADS}
    for _ in range(ROUNDS):
        for name in ("ours", *PEERS):
            with serve[name]() as disk:
                for load, words in LOADS.items():
                    rates[load][name].append(servers.fio(disk, words, SECONDS))
    return rates


def main() -> None:
    """Measures; a line for each load and peer: the median rate, and the median of the ratios of each turn."""
    servers.modules()
    with tempfile.TemporaryDirectory() as folder:
        rates = measure(Path(folder), Path(sys.argv[1]))
    for load, of in rates.items():
        for peer, name in PEERS.items():
            row = {
                "name": f"tcmu.{load}.{peer}",
                "value": median(of["ours"]),
                "unit": "MiB/s" if load == "seqread_1m" else "IOPS",
                "peer": f"{name}: {median(of[peer]):,.0f}",
                "ratio": median(a / b for a, b in zip(of["ours"], of[peer], strict=True)),
            }
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
