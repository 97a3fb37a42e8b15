"""fio, which writes what it can recognise (a checksum in each block), and verifies what it reads."""

import json
import subprocess
import threading
from pathlib import Path

BLOCK_BYTES = 4096
# A block header tells where it belongs, so that a right block in a wrong place is an error too.
_COMMON = ["--name=x", f"--bs={BLOCK_BYTES}", "--verify=crc32c", "--verify_fatal=1"]


def write(path: Path, size: int) -> None:
    """Makes a file of `size` bytes for `Reader` to check."""
    words = ["--rw=write", "--do_verify=0", "--verify_state_save=0", "--ioengine=psync", f"--size={size}"]
    subprocess.run(["fio", *_COMMON, *words, f"--filename={path}"], check=True, capture_output=True)


class Reader:
    """Reads and verifies all blocks in random order, pass after pass, until it is left.

    `where` are the words that name the target (`--filename=…`). Leaving raises `AssertionError` for the first
    pass that found an error or did not read everything, and prints the longest time a read took.
    """

    def __init__(self, size: int, *where: str) -> None:
        self._size, self._where = size, where
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._fio: subprocess.Popen[str] | None = None
        self.passes = 0
        self.problem = ""
        self.slowest_ms = 0.0

    def _run(self) -> None:
        while not self._stop.is_set() and not self.problem:
            self._pass(self.passes + 1)

    def _pass(self, seed: int) -> None:
        # With a seed of its own each pass has another order.
        words = ["--rw=randread", f"--randseed={seed}", f"--size={self._size}"]
        command = ["fio", *_COMMON, *words, "--output-format=json", *self._where]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as self._fio:
            out, err = self._fio.communicate()
        status = self._fio.returncode
        try:
            (job,) = json.loads(out[out.index("{") :])["jobs"]
        except ValueError:
            self.problem = f"status {status}: {out}{err}"
            return
        read = job["read"]
        self.slowest_ms = max(self.slowest_ms, read["clat_ns"]["max"] / 1e6)
        if status or job["error"] or read["io_bytes"] != self._size:
            self.problem = f"error {job['error']} after {read['io_bytes']} bytes: {err}"
            return
        self.passes += 1

    def __enter__(self) -> "Reader":
        self._thread.start()
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        self._stop.set()
        if failure and self._fio:
            self._fio.kill()  # what it reads may not come
        self._thread.join()
        print(f"fio {self._where}: {self.passes} passes, slowest read {self.slowest_ms:.1f} ms")
        assert failure or not self.problem, self.problem
