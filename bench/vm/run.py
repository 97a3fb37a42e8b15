"""Runs the benchmarks that need a real kernel, each in a guest, and writes `bench/out/results-vm.json`.

They print rows as `bench.run` has them; a line of theirs goes to the host as it is.
"""

import shlex
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from bench import run
from bench.vm.bars import BARS, GUESTS
from bench.vm.content import Content
from tests.vm import kernels
from tests.vm.boot import Guest, Lost

# A benchmark measures for so long, at most, before it tells something.
SILENCE_S = 600
# The kernel wants 8 MiB for the ring of each of 200 devices.
MEMORY_MIB = 4096


def rows(content: Content, benchmark: str) -> Iterator[run.Row]:
    """Runs a benchmark in a guest; what it measures."""
    words = [sys.executable, "-m", f"bench.vm.{benchmark}", str(content.directory)]
    if benchmark == "tcmu":
        words.append(str(kernels.runner()))
    command = f"{shlex.join(words)} >/dev/ttyS1"
    with Guest(GUESTS[benchmark], command, memory_mib=MEMORY_MIB) as guest:
        try:
            *found, last = guest.messages(SILENCE_S)
            if last["ended"]:
                raise Lost(f"it ended with status {last['ended']}")
        except Lost as e:
            raise OSError(f"{e}\n{guest.console()}") from e
    yield from found


def main() -> int:
    """Measures all, or what the one argument names; 1 if something could not be measured."""
    with tempfile.TemporaryDirectory() as folder:
        content = Content(Path(folder))
        content.make()
        return run.measure_all(BARS, partial(rows, content), run.RESULTS.with_name("results-vm.json"))


if __name__ == "__main__":
    sys.exit(main())
