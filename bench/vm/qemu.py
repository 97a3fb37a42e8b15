"""Reads with one processor and with two, and by ublk beside TCMU: what User Mode Linux cannot tell.

usage: python -m bench.vm.qemu DIRECTORY       where the content lies
"""

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from bench.vm import servers
from bench.vm.content import Content
from obdcore import Image, UblkDevice

ROUNDS = 5
SECONDS = 1.5
SECOND_PROCESSOR = Path("/sys/devices/system/cpu/cpu1/online")


@contextmanager
def ublk(content: Content) -> Iterator[Path]:
    """A disk by ublk, served by this process."""
    device = UblkDevice(Image([str(content.layer)]))
    yield Path(device.path)
    device.remove()


@contextmanager
def one_processor() -> Iterator[None]:
    """Takes the other one away for a while."""
    SECOND_PROCESSOR.write_text("0")
    yield
    SECOND_PROCESSOR.write_text("1")


def main() -> None:
    """Measures in turns; a line for each promise."""
    servers.modules()
    servers.tool("modprobe", "ublk_drv")
    rates: dict[str, list[float]] = {name: [] for name in ("one", "two", "tcmu_qd1", "ublk_qd1", "ublk_qd32")}
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        given = Content(Path(sys.argv[1]))
        content = given.copy(here, given.layer)

        def load(disk: Path, name: str, depth: int) -> None:
            words = ("--rw=randread", "--bs=4k", f"--iodepth={depth}")
            rates[name].append(servers.fio(disk, words, SECONDS))

        for _ in range(ROUNDS):
            with one_processor(), servers.ours(here, content.config) as disk:
                load(disk, "one", 32)
            with servers.ours(here, content.config) as disk:
                load(disk, "two", 32)
                load(disk, "tcmu_qd1", 1)
            with ublk(content) as disk:
                load(disk, "ublk_qd1", 1)
                load(disk, "ublk_qd32", 32)
    for name, mine, peer, words in (
        ("processors.randread_qd32", "two", "one", "one processor"),
        ("ublk.randread_qd1", "ublk_qd1", "tcmu_qd1", "TCMU"),
        ("ublk.randread_qd32", "ublk_qd32", "two", "TCMU"),
    ):
        row = {
            "name": name,
            "value": median(rates[mine]),
            "unit": "IOPS",
            "peer": f"{words}: {median(rates[peer]):,.0f}",
            "ratio": median(a / b for a, b in zip(rates[mine], rates[peer], strict=True)),
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
