"""TCMU: reads of a compressed layer in the page cache, against tcmu-runner and the kernel's own backstore.

usage: python -m bench.vm.tcmu CONTENT RUNNER       in directories: the content, and tcmu-runner
"""

import json
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import median

from bench.vm import servers
from bench.vm.content import Content

ROUNDS = 5
SECONDS = 0.5
LOADS = {
    "randread_qd1": ("--rw=randread", "--bs=4k", "--iodepth=1"),
    "randread_qd32": ("--rw=randread", "--bs=4k", "--iodepth=32"),
    "seqread_1m": ("--rw=read", "--bs=1m", "--iodepth=1"),
}
PEERS = {"runner": "tcmu-runner, qcow2", "fileio": "the kernel's fileio"}

Rates = dict[str, dict[str, list[float]]]


def measure(here: Path, given: Content, program: Path) -> Rates:
    """The rates of each load on each server, in turns: two daemons cannot listen to the kernel at once."""
    content = given.copy(here, given.raw, given.layer, given.qcow2)
    serve: dict[str, Callable[[], AbstractContextManager[Path]]] = {
        "ours": lambda: servers.ours(here, content.config),
        "runner": lambda: servers.runner(here, program, content.qcow2),
        "fileio": lambda: servers.fileio(content.raw),
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
        rates = measure(Path(folder), Content(Path(sys.argv[1])), Path(sys.argv[2]))
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
