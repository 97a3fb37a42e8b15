"""What pytest does otherwise with tests for guests: outside they are run there, inside they are told of."""

import json
import os
from pathlib import Path

import pytest

from tests.vm.boot import KINDS
from tests.vm.remote import Remote, limit_s

INSIDE = os.environ.get("OVERLAYBD_GUEST", "")
NAMED = [kind for kind in (INSIDE or os.environ.get("OVERLAYBD_GUESTS", "")).split(",") if kind]
# Guests that are booted if a test is marked for them, and those in which all others run.
WANTED = NAMED or [*KINDS]
USUAL = NAMED or [KINDS[0]]
TESTS = Path(__file__).with_name("guest")


def kind_of(item: pytest.Item) -> str:
    """The kind of guest that a test runs in; empty if it is for none that is wanted, or for no guest."""
    if TESTS not in item.path.parents or not isinstance(item, pytest.Function):
        return ""
    kind = item.callspec.params["guest"]
    return kind if kind in KINDS else ""


class Outside:
    """On the host: boots guests, and reports what they report."""

    def __init__(self) -> None:
        self._remotes: dict[str, Remote] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for kind in WANTED:
            items = {item.nodeid: item for item in session.items if kind_of(item) == kind}
            longest_s = max((limit_s(item, kind) for item in items.values()), default=0)
            self._remotes[kind] = Remote(session.config, kind, items, longest_s)
            for item in items.values():
                item.add_marker(pytest.mark.timeout(0), append=False)  # time is kept in the guest
        if not session.config.option.collectonly:
            for kind in WANTED[1:]:
                self._remotes[kind].begin()  # it takes its time, while others run

    def pytest_runtest_protocol(self, item: pytest.Item) -> object:
        if not (kind := kind_of(item)):
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._remotes[kind].run(item.nodeid):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def pytest_unconfigure(self) -> None:
        for remote in self._remotes.values():
            remote.stop()


class Inside:
    """In a guest: each step of a test is a line of JSON to the host."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._line = open("/dev/ttyS1", "w", encoding="ascii", buffering=1)  # noqa: SIM115

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._tell(starts=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._tell(report=self._config.hook.pytest_report_to_serializable(config=self._config, report=report))

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._tell(finished=nodeid)

    def _tell(self, **message: object) -> None:
        self._line.write(json.dumps(message) + "\n")
