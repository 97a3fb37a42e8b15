"""Runs tests in a guest and reports them here, each as if it had run here.

One boot serves all tests of a session that are for its kind of guest. A test that takes the guest down has
failed; the rest run in another boot.
"""

import contextlib
import shlex
import sys
import threading
from collections.abc import Mapping
from functools import partial
from queue import SimpleQueue
from typing import Any, Literal

import pytest

from tests.vm.boot import Guest, Lost
from tests.vm.kernels import Unavailable

# How long a test may take unless it is marked otherwise, and a guest to boot and to collect its tests.
TEST_S = {"uml": 180.0, "qemu": 480.0, "qemu2": 480.0}
BOOT_S = {"uml": 120.0, "qemu": 240.0, "qemu2": 240.0}
# On a busy host an emulated machine may not come up; another attempt then does.
BOOTS = 2
OPTIONS = (
    "-q",
    "--color=no",
    "-p",
    "no:cacheprovider",
    "-o",
    "addopts=--import-mode=importlib --strict-markers",
    # A guest's files are in its memory: what passed tests leave must not fill it.
    "-o",
    "tmp_path_retention_policy=failed",
)


def limit_s(item: pytest.Item, kind: str) -> float:
    """How long a test may take in a guest of a kind."""
    marker = item.get_closest_marker("timeout")
    return float(marker.args[0]) if marker else TEST_S[kind]


class Remote:
    """The tests of a session for one kind of guest.

    `items` are those tests by their node ids, in order; `longest_s` is how long any of them may take.
    """

    def __init__(
        self, config: pytest.Config, kind: str, items: Mapping[str, pytest.Item], longest_s: float
    ) -> None:
        self._config = config
        self._kind = kind
        self._items = items
        self._silence_s = longest_s + BOOT_S[kind]
        self._guest: Guest | None = None
        self._heard: SimpleQueue[dict[str, Any] | Lost] = SimpleQueue()
        self._reports: dict[str, list[pytest.TestReport]] = {name: [] for name in items}
        self._finished: set[str] = set()
        self._running = ""
        self._fruitless = True  # no test has been started in this boot
        self._boots = 0
        self._broken = ""

    def begin(self) -> None:
        """Starts the guest if any test is for it; it is heard when the first of them is asked for."""
        if self._items:
            with contextlib.suppress(Unavailable):  # which then will be told
                self._boot()

    def run(self, name: str) -> list[pytest.TestReport]:
        """The reports of one test, which runs now or has run while the others were waited for."""
        while name not in self._finished:
            try:
                if self._broken:
                    raise Lost(self._broken)
                if self._guest is None:
                    self._boot()
                self._receive(self._heard.get())
            except Unavailable as e:
                self._finish(name, "skipped", str(e))
            except Lost as e:
                self._lose(name, str(e))
        if self._finished == self._items.keys():
            self.stop()
        return self._reports[name]

    def stop(self) -> None:
        """Ends the guest, if there is one."""
        if self._guest:
            self._guest.stop()
        self._guest = None

    def _boot(self) -> None:
        """Starts a guest that runs what has not been run."""
        words = [sys.executable, "-m", "pytest", *OPTIONS, f"--timeout={TEST_S[self._kind]:g}"]
        words += [name for name in self._items if name not in self._finished]
        self._running, self._fruitless = "", True
        self._boots += 1
        self._guest = Guest(self._kind, shlex.join(words))
        self._heard = SimpleQueue()
        listen = partial(_listen, self._guest, self._silence_s, self._heard)
        threading.Thread(target=listen, name=f"hear {self._kind}", daemon=True).start()

    def _receive(self, message: dict[str, Any] | Lost) -> None:
        """Takes what the guest tells: a test starts, reports, is finished, or there will be no more."""
        if isinstance(message, Lost):
            raise message
        if "starts" in message:
            self._running, self._fruitless = message["starts"], False
        elif "finished" in message:
            self._finished.add(message["finished"])
            self._running = ""
        elif "report" in message:
            report = self._config.hook.pytest_report_from_serializable(
                config=self._config, data=message["report"]
            )
            if isinstance(report.longrepr, list):  # why a test is skipped: JSON knows no tuples
                report.longrepr = tuple(report.longrepr)
            self._reports[report.nodeid].append(report)
        else:
            raise Lost(f"pytest in the guest ended with status {message['ended']}")

    def _lose(self, name: str, reason: str) -> None:
        """Blames the loss of a guest on the test that ran or was next, or on all if none could be started."""
        console = self._guest.console() if self._guest else ""
        self.stop()
        if self._fruitless and not self._broken and self._boots < BOOTS:
            return
        if self._fruitless:
            self._broken = reason
        self._finish(self._running or name, "failed", reason, console)

    def _finish(self, name: str, outcome: Literal["failed", "skipped"], text: str, console: str = "") -> None:
        """Reports a test that could not report by itself."""
        item = self._items[name]
        path, line, _ = item.location
        report = pytest.TestReport(
            nodeid=name,
            location=item.location,
            keywords=dict.fromkeys(item.keywords, 1),
            outcome=outcome,
            longrepr=text if outcome == "failed" else (path, line or 0, text),
            when="call" if outcome == "failed" else "setup",
            sections=[("console of the guest", console)] if console else [],
        )
        self._reports[name].append(report)
        self._finished.add(name)


def _listen(guest: Guest, silence_s: float, heard: "SimpleQueue[dict[str, Any] | Lost]") -> None:
    """Hears a guest out, also while nobody asks for its tests: one that is not heard waits, and is late."""
    try:
        for message in guest.messages(silence_s):
            heard.put(message)
    except Lost as e:
        heard.put(e)
    except OSError as e:
        heard.put(Lost(f"the guest cannot be heard: {e}"))  # stopped
