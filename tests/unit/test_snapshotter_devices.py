"""Devices of snapshots that are slow to come up: who waits for them, who does not, and what remains."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Barrier, BrokenBarrierError, Event, Thread
from typing import Any

import pytest

import obdcore
from obd.attach import Attachment
from obd.errors import ObdError
from obd.mount import filesystem
from obd.snapshotter import devices, process, writable
from obd.snapshotter.config import SnapshotterConfig
from obd.snapshotter.errors import FAILED_PRECONDITION, SnapshotError
from obd.snapshotter.layout import Layout
from obd.snapshotter.reconcile import reconcile
from obd.snapshotter.snapshots import Caller, Snapshots
from obd.snapshotter.watch import Watch
from obd.snapshotter.wire import ACTIVE

SLOW, QUICK = 1, 2


class Machine:
    """Attaches nothing; of the snapshot `SLOW` not before `go`."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.go = Event()
        self.begun = Event()
        self.attached: dict[str, Attachment] = {}
        self.calls = 0

    def find(self, config: str) -> Attachment | None:
        return self.attached.get(config)

    def attach(self, config: str, **_: Any) -> Attachment:
        self.calls += 1
        if config == self.layout.config(SLOW):
            self.begun.set()
            assert self.go.wait(60)
        self.attached[config] = Attachment(config, "/dev/null", "fuse", config, True)
        return self.attached[config]

    def detach(self, config: str) -> bool:
        return self.attached.pop(config, None) is not None


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    layout = Layout(str(tmp_path))
    for number in (SLOW, QUICK):
        layout.make(number, active=False, owner_of=None)
    machine = Machine(layout)
    monkeypatch.setattr(devices, "attachments", machine)
    return machine


@pytest.fixture
def made(machine: Machine, tmp_path: Path) -> Iterator[devices.Devices]:
    yield devices.Devices(SnapshotterConfig(root=str(tmp_path), address=""), machine.layout)
    machine.go.set()


def provide(made: devices.Devices, number: int, patience_s: float = 60.0) -> str:
    return made.provide(number, time.monotonic() + patience_s, rw=False, mount=False)


def test_many_who_wait_for_a_slow_device_keep_nobody_from_another(
    made: devices.Devices, machine: Machine
) -> None:
    many = 2 * devices.THREADS
    with ThreadPoolExecutor(many) as pool:
        waiting = [pool.submit(provide, made, SLOW) for _ in range(many)]
        assert machine.begun.wait(60)
        assert provide(made, QUICK) == "/dev/null"
        assert not any(each.done() for each in waiting)
        machine.go.set()
        assert {each.result(60) for each in waiting} == {"/dev/null"}
    assert machine.calls == 2


def test_a_device_that_nobody_waits_for_any_more_is_taken_away(
    made: devices.Devices, machine: Machine
) -> None:
    with pytest.raises(SnapshotError, match="not there in time") as caught:
        provide(made, SLOW, patience_s=0.01)
    assert caught.value.code == "DEADLINE_EXCEEDED"
    assert machine.begun.wait(60)
    machine.go.set()
    with made.turn(SLOW):
        pass  # it has ended
    assert not machine.attached
    assert provide(made, SLOW) == "/dev/null"
    assert machine.attached


def test_a_device_stays_for_who_waits_longer(made: devices.Devices, machine: Machine) -> None:
    with ThreadPoolExecutor(1) as pool:
        patient = pool.submit(provide, made, SLOW)
        assert machine.begun.wait(60)
        with pytest.raises(SnapshotError):
            provide(made, SLOW, patience_s=0.0)
        machine.go.set()
        assert patient.result(60) == "/dev/null"
    assert machine.attached


def test_a_cleanup_leaves_alone_what_is_just_being_made(tmp_path: Path) -> None:
    snapshots = Snapshots(SnapshotterConfig(root=str(tmp_path / "root"), address="", containerd=""))
    directory = Path(snapshots.layout.snapshots, "new-7")
    cleaner = Thread(target=snapshots.cleanup)
    with snapshots.records.transaction():
        directory.mkdir()
        cleaner.start()
        cleaner.join(0.1)
        assert cleaner.is_alive()
        directory.rename(directory.with_name("7"))
    cleaner.join(60)
    assert directory.with_name("7").exists()
    directory.mkdir()  # of a process that was killed
    snapshots.cleanup()
    assert not directory.exists()
    snapshots.close()


def test_a_writable_layer_can_be_sealed_again_after_any_step(tmp_path: Path) -> None:
    snapshots = Snapshots(SnapshotterConfig(root=str(tmp_path / "root"), address="", containerd=""))
    made = snapshots.records.create(ACTIVE, "key", "", {})
    for number, killed_after in enumerate(("nothing", "sealing", "renaming", "all"), made.id):
        snapshots.layout.make(number, active=True, owner_of=None)
        data, index = snapshots.layout.upper(number)
        obdcore.lsmt_create(data, index, size=1 << 20)
        image = obdcore.Image([], (data, index))
        image.write_at(0, b"kept".ljust(4096))
        image.close()
        if killed_after != "nothing":
            obdcore.lsmt_seal(data, index)
        sealed = snapshots.layout.fs(number) + "/overlaybd.sealed"
        if killed_after in ("renaming", "all"):
            Path(data).rename(sealed)
        if killed_after == "all":
            Path(index).unlink()
        assert writable.seal(snapshots.layout, number) == sealed
        assert not Path(index).exists()
        assert writable.is_sealed(snapshots.layout, number)
        with open(sealed, "rb") as file:
            assert file.read(8)
    snapshots.close()


def test_a_sealed_layer_is_durable_in_its_place_before_its_log_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout(str(tmp_path))
    layout.make(SLOW, active=True, owner_of=None)
    data, index = layout.upper(SLOW)
    obdcore.lsmt_create(data, index, size=1 << 20)
    synced: list[tuple[str, bool]] = []
    monkeypatch.setattr(
        writable,
        "sync_directory",
        lambda path: synced.append((os.path.dirname(path), os.path.exists(index))),
    )
    sealed = writable.seal(layout, SLOW)
    assert synced == [(os.path.dirname(sealed), True)]


def test_a_device_that_is_slow_to_be_served_again_holds_up_no_start(
    made: devices.Devices, machine: Machine
) -> None:
    config = machine.layout.config(SLOW)
    machine.attached[config] = Attachment(config, "/dev/null", "nbd", config, True, dead=True)
    for _ in range(3):  # it is looked for again and again
        made.serve_again_soon(SLOW, rw=False)
    assert machine.begun.wait(60)
    assert machine.attached[config].dead
    machine.go.set()
    with made.turn(SLOW):
        assert not machine.attached[config].dead
    assert machine.calls == 1


def test_servers_that_cannot_be_told_end_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable() -> list[Attachment]:
        raise PermissionError(13, "Permission denied", "state.json")

    snapshots = Snapshots(SnapshotterConfig(root=str(tmp_path / "root"), address="", containerd=""))
    monkeypatch.setattr("obd.attach.attachments", unreadable)
    watch = Watch()
    watch.wake()
    process._wait(watch, snapshots)
    watch.close()
    snapshots.close()


class Exhausted:
    """In which no thread can be started, until there is `room`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room = False
        start = Thread.start

        def tried(thread: Thread) -> None:
            if not self.room:
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(Thread, "start", tried)


def test_a_device_that_no_thread_could_be_had_for_is_provided_later(
    made: devices.Devices, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Exhausted(monkeypatch)
    with pytest.raises(SnapshotError, match="thread") as caught:
        provide(made, QUICK)
    assert caught.value.code == "UNAVAILABLE"
    machine.room = True
    assert provide(made, QUICK) == "/dev/null"


def test_a_device_that_no_thread_could_be_had_for_is_served_again_later(
    made: devices.Devices, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = machine.layout.config(SLOW)
    machine.attached[config] = Attachment(config, "/dev/null", "nbd", config, True, dead=True)
    threads = Exhausted(monkeypatch)
    made.serve_again_soon(SLOW, rw=False)
    threads.room = True
    made.serve_again_soon(SLOW, rw=False)
    assert machine.begun.wait(60)


def test_an_image_that_is_first_used_twice_at_once_is_marked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = str(tmp_path / "root")
    snapshots = Snapshots(SnapshotterConfig(root=root, address="", containerd="", convert_layers=True))
    caller = Caller()
    snapshots.prepare("extract-1 base", "", {}, caller)
    snapshots.commit("extract-1 base", "base", {}, caller)
    # Each of the two sees that there is no mark yet.
    both, exists = Barrier(2), os.path.exists

    def slow(path: str) -> bool:
        found = exists(path)
        if path.endswith("/convert"):
            with suppress(BrokenBarrierError):
                both.wait(60)
        return found

    monkeypatch.setattr(os.path, "exists", slow)
    with ThreadPoolExecutor(2) as pool:
        made = [pool.submit(snapshots.prepare, key, "base", {}, caller) for key in ("one", "two")]
        assert all(each.result(60) for each in made)
    snapshots.close()
    assert os.path.getsize(snapshots.layout.wish(1)) == 0


def test_a_directory_whose_device_stays_keeps_its_name(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(config: str) -> bool:
        raise ObdError("busy", "in use", config)

    snapshots = Snapshots(SnapshotterConfig(root=str(tmp_path / "other"), address="", containerd=""))
    snapshots.layout.make(SLOW, active=False, owner_of=None)
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(machine, "detach", busy)
        reconcile(snapshots)
    assert snapshots.layout.numbers() == [SLOW]
    reconcile(snapshots)
    assert os.listdir(snapshots.layout.snapshots) == []
    snapshots.close()


def test_what_lacks_what_was_written_to_it_is_not_committed(
    made: devices.Devices, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    provide(made, QUICK)
    made.check_whole(QUICK)
    monkeypatch.setattr(filesystem, "is_mount_point", lambda _: True)
    monkeypatch.setattr(filesystem, "unmount", lambda _: "not durable")
    assert made.release(QUICK) and not machine.attached, "it goes all the same"
    for _ in range(2):  # who was told so tries again
        with pytest.raises(SnapshotError, match="lacks what could not be made durable") as caught:
            made.check_whole(QUICK)
        assert caught.value.code == FAILED_PRECONDITION
    machine.go.set()
    provide(made, SLOW)
    monkeypatch.setattr(filesystem, "is_mount_point", lambda _: False)

    def lossy(config: str) -> bool:
        raise ObdError("io", "the last writes may be lost", config)

    monkeypatch.setattr(machine, "detach", lossy)
    assert made.release(SLOW)
    with pytest.raises(SnapshotError):
        made.check_whole(SLOW)
