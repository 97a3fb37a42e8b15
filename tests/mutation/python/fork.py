"""pytest in a forked process, so that what is slow to import is imported once."""

import builtins
import contextlib
import gc
import importlib
import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

ROOT = Path(__file__).resolve().parents[3]
# Nothing that is tried, nor anything that imports it.
PRELOADED = (
    *("pytest_timeout", "obdcore", "requests", "tomlkit", "yaml", "http.server", "unittest.mock"),
    *("concurrent.futures.thread", "sqlite3", "socketserver", "tarfile", "zstandard", "lz4.frame"),
)
# A mutant may ask for any amount of memory, or write on and on; the tests need far less.
MEMORY, FILE = 6 << 30, 64 << 30
# By which what a test has left running is known.
TOKEN = "MUTANT_RUN"

Item = TypeVar("Item")


class Chosen:
    """Has pytest run some tests, in a given order (or all), and tells what became of them."""

    def __init__(self, names: list[str] | None, reached: Any = None) -> None:
        self._order = None if names is None else {name: number for number, name in enumerate(names)}
        self._reached = reached
        self.failed = ""
        self.imported: list[int] = []
        self.tests: dict[str, tuple[float, list[int]]] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave out all others."""
        if self._order is not None:
            order = self._order
            items[:] = sorted((item for item in items if item.nodeid in order), key=lambda i: order[i.nodeid])
        if self._reached is not None:
            self.imported = self._take()

    def _take(self) -> list[int]:
        data = bytes(self._reached)
        self._reached[:] = bytes(len(data))
        return [number for number, byte in enumerate(data) if byte]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[Any]:
        """Note what the test has reached, and how long it took."""
        begin = time.monotonic()
        result = yield
        if self._reached is not None:
            self.tests[item.nodeid] = (time.monotonic() - begin, self._take())
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note who fails; a test that does not pass reaches nothing."""
        if report.failed and not self.failed:
            self.failed = report.nodeid
        if not report.passed and self._reached is not None:
            self.tests.pop(report.nodeid, None)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note what cannot even be imported."""
        if report.failed and not self.failed:
            self.failed = report.nodeid


def preload() -> None:
    """Import what all tests need."""
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.freeze()


def _child(files: list[str], names: list[str] | None, env: dict[str, str], folder: str, out: Path) -> int:
    os.setsid()
    for limit, value in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_FSIZE, FILE)):
        resource.setrlimit(limit, (value, value))
    log = os.open(f"{out}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ |= env | {"TMPDIR": folder, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PROPTEST_RNG_SEED": "1"}
    tempfile.tempdir = None
    marks = None
    if "MUTANTS_REACHED" in env:
        marks = importlib.import_module("sitecustomize").reached()
        builtins.__mutants_reached__ = marks  # type: ignore[attr-defined]
    chosen = Chosen(names, marks)
    options = ["-q", "-p", "pytest_timeout", "-p", "no:cacheprovider", "-p", "no:warnings"]
    if names is not None:
        options.append("--exitfirst")
    status = pytest.main([*options, *files], plugins=[chosen])
    out.write_text(
        json.dumps(
            {
                "status": int(status),
                "failed": chosen.failed,
                "imported": chosen.imported,
                "tests": chosen.tests,
            }
        )
    )
    return 0


def _kill_all(token: str) -> None:
    """End what the test has started and left."""
    mark = f"{TOKEN}={token}".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and entry.name != str(os.getpid()):
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    os.kill(int(entry.name), signal.SIGKILL)


def run(
    files: list[str], names: list[str] | None, env: dict[str, str], timeout_s: float, out: Path
) -> dict[str, Any] | None:
    """Run tests of some files in a fork; None if they do not end in time.

    Otherwise `status` as of pytest (or minus a signal), `failed`, and what was reached.
    """
    folder = tempfile.mkdtemp(prefix="mutant-")
    token = f"{os.getpid()}-{time.monotonic_ns()}"
    out.unlink(missing_ok=True)
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = _child(files, names, env | {TOKEN: token}, folder, out)
        finally:
            os._exit(status)
    fd = os.pidfd_open(pid)
    try:
        ended, _, _ = select.select([fd], [], [], timeout_s)
        if not ended:
            return None
        _, status = os.waitpid(pid, 0)
        try:
            return dict(json.loads(out.read_bytes()))
        except (OSError, ValueError):
            return {"status": -(status & 127) or status >> 8, "failed": "", "imported": [], "tests": {}}
    finally:
        os.close(fd)
        with contextlib.suppress(OSError):
            os.killpg(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
        _kill_all(token)
        shutil.rmtree(folder, ignore_errors=True)


def share(
    items: Sequence[Item], jobs: int, do: Callable[[Item, Path], dict[str, Any]], log: Path, work: Path
) -> None:
    """Do something with each item in one of several processes; adds a line of JSON each to `log`."""
    sys.stdout.flush()
    workers = []
    for job in range(jobs):
        if pid := os.fork():
            workers.append(pid)
            continue
        status = 1
        try:
            with log.open("a") as out:
                for item in items[job::jobs]:
                    out.write(json.dumps(do(item, work / f"job-{job}")) + "\n")
                    out.flush()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    if any(os.waitpid(pid, 0)[1] for pid in workers):
        raise SystemExit("a process that tries mutants has failed")
