"""What processes that keep devices say and leave when they fail, and what is said of a device then."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest

import obd.attach
from obd.attach import control, guard, keeper, process
from obd.attach.fuse import FuseWay
from obd.attach.process import Request
from obd.attach.ways import Way
from obd.convert.layer import digest_of_file
from obd.errors import ObdError
from obd.mount.control import unmount_image
from obd.oci.body import FileBody
from obd.state import State, StateDirectory
from tests.unit.descriptors import opened


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OVERLAYBD_RUN_DIR", str(tmp_path / "run"))
    path = tmp_path / "config.json"
    path.write_text("{}")
    return path


@contextmanager
def unreadable(kind: str, key: Path) -> Iterator[StateDirectory]:
    """The state of a device, of which just now nobody can see what it says."""
    place = StateDirectory(kind, str(key))
    assert place.acquire()
    place.write(State(str(key), "fuse", True, path="/dev/loop0", pid=1))
    place.release()
    facts = Path(place.path, "state.json")
    facts.rename(facts.with_name("kept"))
    facts.mkdir()
    yield place
    facts.rmdir()
    facts.with_name("kept").rename(facts)
    assert place.read() is not None, "nothing is lost"


def test_a_device_for_which_no_pipe_is_to_be_had_is_named(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> tuple[int, int]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    for call in ("os.pipe2", "subprocess.Popen"):
        with monkeypatch.context() as patch:
            patch.setattr(call, refuse)
            with pytest.raises(OSError, match="Too many open files") as caught:
                obd.attach.attach(config, via="fuse")
        assert caught.value.filename == str(config)
        assert obd.attach.attachments() == []


def test_a_device_whose_state_cannot_be_read_is_not_called_detached(config: Path) -> None:
    with unreadable("attach", config) as place:
        for call in (
            lambda: obd.attach.detach(config),
            lambda: obd.attach.attach(config, via="fuse"),
            lambda: obd.attach.find(config),
            obd.attach.attachments,
        ):
            with pytest.raises(OSError, match=r"state\.json"):
                call()
        assert place.acquire_existing(), "the lock is free again"
        place.release()


def test_a_mount_whose_state_cannot_be_read_is_not_called_unmounted(config: Path) -> None:
    with unreadable("mounts", config.parent) as place:
        with pytest.raises(OSError, match=r"state\.json"):
            unmount_image(str(config.parent))
        assert place.acquire_existing(), "the lock is free again"
        place.release()


def test_a_failure_is_told_though_undoing_fails_too(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def set_up(_: object, undo: ExitStack) -> None:
        @undo.callback
        def close() -> None:
            raise ObdError("io", "an earlier flush failed")

        raise ObdError("no-space", "flush failed", "the upper")

    monkeypatch.setattr(keeper.Keeper, "set_up", set_up)
    monkeypatch.setattr(keeper, "Stops", lambda: None)
    place = StateDirectory("attach", str(config))
    assert place.acquire()
    read, write = os.pipe()
    request = Request("attach", str(config), str(config), None, "fuse", read_only=True)
    assert keeper.keep(request, place, write, FuseWay()) == 1
    with open(read, "rb") as report:
        assert json.loads(report.read()) == {"kind": "no-space", "error": "the upper: flush failed"}
    assert not os.path.exists(place.path)
    place.release()


def test_who_cannot_take_the_place_of_a_dead_keeper_ends_as_if_killed(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Users wait for another one; they would get errors of an image that is closed under them."""

    def set_up(_: object, undo: ExitStack) -> None:
        undo.callback((config.parent / "closed").touch)
        raise ObdError("io", "no more files")

    monkeypatch.setattr(keeper.Keeper, "set_up", set_up)
    monkeypatch.setattr(keeper, "Stops", lambda: None)
    place = StateDirectory("attach", str(config))
    assert place.acquire()
    read, write = os.pipe()
    request = Request("attach", str(config), str(config), None, "fuse", read_only=True, again=True)
    child = os.fork()
    if child == 0:
        keeper.keep(request, place, write, FuseWay())
        os._exit(2)
    os.close(write)
    with open(read, "rb") as report:
        assert json.loads(report.read()) == {"kind": "io", "error": "no more files"}
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert not (config.parent / "closed").exists() and os.path.exists(place.path)
    place.release()


def test_who_hears_of_a_keepers_death_finds_its_lock_free(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was said to be just being attached, by whoever asked at once."""

    def spawn(place: StateDirectory, report: int) -> subprocess.Popen[bytes]:
        # The last that it does takes a moment, and the starter's child is not the one that has the lock.
        script = f"import os, time; os.fork() and os._exit(0); os.close({report}); time.sleep(0.3)"
        return subprocess.Popen(
            [sys.executable, "-S", "-c", script], stdin=subprocess.PIPE, pass_fds=(place.lock, report)
        )

    monkeypatch.setattr(process, "_spawn", spawn)
    monkeypatch.setattr(process, "DYING_S", 60.0)
    place = StateDirectory("attach", str(config))
    assert place.acquire()
    with pytest.raises(ObdError, match="the process that keeps the device ended"):
        process.start(Request("attach", str(config), str(config), None, "fuse", read_only=True), place)
    assert place.acquire_existing() is True
    place.release()


def test_who_takes_a_device_away_waits_for_the_end_of_its_process(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are open for longer than its state is there: a cache's file system could not be unmounted yet."""
    place = StateDirectory("attach", str(config))
    assert place.acquire()
    ends, go_on = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(go_on)
        os.read(ends, 1)  # as the last that a keeper does, which takes a while
        os._exit(0)
    place.write(State(str(config), "fuse", True, path="/dev/loop0", pid=child))
    place.release()  # the child still has it
    mine = StateDirectory("attach", str(config))
    monkeypatch.setattr(process, "DYING_S", 60.0)
    with process.until_ended(mine):
        assert os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        place.remove()
        threading.Timer(0.2, os.close, (go_on,)).start()
    assert os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG) is not None
    os.close(ends)


def test_a_flush_that_failed_once_is_told_when_the_device_is_taken_away(config: Path) -> None:
    """The kernel tells of it once: the next attempt goes well."""
    place = StateDirectory("attach", str(config))
    assert place.acquire()
    place.write(State(str(config), "nbd", False, path="/dev/nbd0", pid=os.getpid()))
    by, served = Mock(spec=Way), Mock(path="/dev/nbd0")
    there = [True, True]
    by.is_ours.side_effect = lambda *_: bool(there) and there.pop()
    by.take_away.side_effect = [ObdError("io", "not durable", "/dev/nbd0"), None]
    stops = Mock(fd=os.open("/dev/zero", os.O_RDONLY))  # asked to end whenever it looks
    request = Request("attach", str(config), str(config), None, "nbd", read_only=False)
    one = keeper.Keeper(request, place, stops, by)
    one.observer, one._served, one._device = Mock(), served, Mock()
    one.wait()
    assert one.end() == 1
    known = place.read()
    assert known is not None and known.error == "io: /dev/nbd0: not durable"
    served.stop.assert_called_once()
    os.close(stops.fd)
    place.release()


def test_who_has_the_number_of_a_dead_keeper_is_not_asked_to_end(config: Path) -> None:
    place = StateDirectory("attach", str(config))
    assert place.acquire(), "as one who just looks at what the keeper left"
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as bystander:
        control._ask_to_end(StateDirectory("attach", str(config)), bystander.pid)
    assert bystander.returncode == 0
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=(place.lock,)) as its_own:
        control._ask_to_end(StateDirectory("attach", str(config)), its_own.pid)
    assert its_own.returncode == -signal.SIGTERM
    place.release()


def test_another_server_is_started_as_soon_as_there_may_be_a_process(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, fork, refusals = StateDirectory("attach", str(config)), os.fork, [errno.EAGAIN] * 2

    def limited() -> int:
        if refusals:
            raise BlockingIOError(refusals.pop(), "Resource temporarily unavailable")
        return fork()

    def serve(_connection: int, report: int, again: bool) -> int:
        return 0 if again and os.write(report, b"{}") else 1

    monkeypatch.setattr(os, "fork", limited)
    monkeypatch.setattr(guard._Guard, "_is_there", lambda _: True)
    monkeypatch.setattr(guard, "_reopen_log", lambda: None)
    one = guard._Guard(place, -1, serve)
    before = set(opened("pipe:"))
    assert one._restart(State(str(config), "fuse", False, path="/dev/loop0"))
    assert (one._reap(), refusals) == (0, [])
    assert set(opened("pipe:")) <= before


def test_between_two_servers_it_is_the_guard_who_is_asked_to_end(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = StateDirectory("attach", str(config))
    seen = config.with_name("seen")

    def serve(_connection: int, report: int, again: bool) -> int:
        known = place.read()
        if known is not None and not seen.exists():
            seen.touch()
            place.write(replace(known, pid=os.getpid()))
            return 1  # before it could say that it serves
        seen.write_text(str(known and known.pid))
        return 0 if os.write(report, b"{}") else 1

    monkeypatch.setattr(guard._Guard, "_is_there", lambda _: True)
    monkeypatch.setattr(guard, "_reopen_log", lambda: None)
    assert place.acquire()
    known = State(str(config), "fuse", False, path="/dev/loop0", pid=os.getpid())
    place.write(known)
    one = guard._Guard(place, -1, serve)
    assert one._restart(known)
    assert (one._reap(), seen.read_text()) == (0, str(os.getpid()))
    place.release()


def test_a_server_that_cannot_die_is_known_by_any_of_its_threads(tmp_path: Path) -> None:
    for thread in ("7", "8"):
        (tmp_path / "task" / thread).mkdir(parents=True)
    for first in (tmp_path, tmp_path / "task" / "7"):
        (first / "status").write_text("State:\tZ (zombie)\nSigPnd:\t0000000000000100\n")
    assert not guard._cannot_die(str(tmp_path)), "a thread may have ended since the look at which there are"
    held = tmp_path / "task" / "8" / "status"
    held.write_text("State:\tD (disk sleep)\nSigPnd:\t0000000000000000\n")
    assert not guard._cannot_die(str(tmp_path)), "it was not killed"
    held.write_text("State:\tD (disk sleep)\nSigPnd:\t0000000000000100\n")
    assert guard._cannot_die(str(tmp_path))
    (tmp_path / "status").write_text(held.read_text())
    held.unlink()
    assert guard._cannot_die(str(tmp_path)), "the first thread itself"


def test_an_error_of_reading_says_of_which_file() -> None:
    path = "/proc/self/mem"  # its first bytes cannot be read
    with pytest.raises(OSError) as raised:
        digest_of_file(path, lambda _done, _total: None)
    assert raised.value.filename == path
    with open(path, "rb") as file, pytest.raises(OSError) as raised:
        next(FileBody(file).pieces(0, 10))
    assert raised.value.filename == path
