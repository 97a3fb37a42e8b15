"""A part of the fault sweep and of the crash states; `make sweep` and `make crash` have all of them."""

import subprocess
import sys

import pytest

from tests.e2e.test_fuse_loop import needs_fuse, needs_loop
from tests.e2e.test_obd_run import needs_containers
from tests.sweep import shim
from tests.sweep.model import ZEROS, Event, Model
from tests.sweep.oplog import File, Op
from tests.sweep.stories import STORIES

pytestmark = pytest.mark.timeout(600)


def program(name: str, *words: str) -> str:
    """What a program of the sweep says, which must find nothing wrong."""
    command = [sys.executable, "-m", f"tests.sweep.{name}", *words]
    done = subprocess.run(
        command, env=shim.environment(shim.build()), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    return done.stdout


# Of each a few, so that all together take half a minute.
SOME = {"log": 83, "sparse": 83, "download": 160, "ocf": 400, "turbo": 120, "images": 160}
SOME |= {"push": 1040, "snapshots": 180, "attach": 380, "mount": 380, "run": 1000}

MARKS = {name: [needs_fuse, needs_loop] for name, story in STORIES.items() if story.machine}
MARKS["run"].append(needs_containers)


@pytest.mark.parametrize(
    "story",
    [pytest.param(name, marks=MARKS.get(name, [])) for name in STORIES],
)
def test_any_call_may_fail(story: str) -> None:
    assert "0 failures" in program("sweep", "--stories", story, "--every", str(SOME[story]))


@needs_fuse
@needs_loop
def test_a_server_that_is_killed_while_it_waits_for_itself_locks_nothing() -> None:
    """It could not die: it was to answer, and with it hung who attached, and all who opened loop devices."""
    words = ["--stories", "attach", "--only", "kill at answer machine/dev/fuse #2"]
    assert "0 failures" in program("sweep", *words)


@pytest.mark.parametrize("layout", ["log", "sparse"])
def test_the_power_may_go_at_any_moment(layout: str) -> None:
    assert "0 failures" in program("crash", "--layouts", layout, "--every", "29", "--more", "1")


@needs_fuse
@needs_loop
def test_ext4_recovers_with_what_was_synced() -> None:
    assert "0 failures" in program("ext4", "--layouts", "log", "--every", "90", "--more", "1")


def test_the_model_knows_what_flushed_means() -> None:
    model = Model(2 * 512, b"")
    events: list[Event] = [["write", 0, 1, 7], ["done", 0, 1, 7], ["flush"], ["write", 1, 1, 8], ["flushed"]]
    for event in events:
        model.feed(event)
    seven, eight = (bytes([number, *bytes(7), sector, *bytes(7)]) * 32 for number, sector in ((7, 0), (8, 1)))
    assert not model.wrong(seven + eight) and not model.wrong(seven + bytes(512))
    assert model.wrong(bytes(512) + eight)
    model.lose_power()
    assert not model.wrong(seven + bytes(512)), "the second write was not flushed"
    assert "sector 0 reads as zeros" in model.wrong(bytes(512) + eight)
    model.feed(["zero", 0, 1, ZEROS])
    assert not model.wrong(bytes(512))


def test_a_file_has_what_was_synced() -> None:
    file = File()
    file.apply(Op("write", 1, 0, 3, "f", "", b"abc"))
    assert (bytes(file.now), file.sure) == (b"abc", b"")
    file.sync()
    file.apply(Op("truncate", 1, 0, 1, "f", "", b""))
    file.apply(Op("write", 1, 2, 1, "f", "", b"d"))
    assert (bytes(file.now), file.sure) == (b"a\0d", b"abc")
