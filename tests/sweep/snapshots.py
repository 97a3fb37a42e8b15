"""A script for the snapshotter: what containerd asks of it for an image and a container, short of devices."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final

from obd.oci.digest import chain_ids
from obd.snapshotter import labels as L
from obd.snapshotter.config import SnapshotterConfig
from obd.snapshotter.errors import SnapshotError
from obd.snapshotter.reconcile import reconcile
from obd.snapshotter.service import _status
from obd.snapshotter.snapshots import Caller, Snapshots
from obd.snapshotter.wire import COMMITTED
from tests.sweep.model import Model
from tests.sweep.script import Run, Say
from tests.sweep.shim import Shim
from tests.sweep.world import make_template

_CALLER: Final = Caller()
_CONTENT: Final = b"content" * 1000
_DIGEST: Final = "sha256:" + "ab" * 32
_REMOTE: Final = chain_ids(["layer", _DIGEST])[-1]
_LABELS: Final = {
    L.TARGET: _REMOTE,
    L.BLOB_DIGEST: _DIGEST,
    L.BLOB_SIZE: "4096",
    L.IMAGE_REFERENCE: "registry.example/app:x",
}


def make_snapshots(home: Path, url: str) -> Path:
    """A layer that a pull brings, and nothing else."""
    template = home / "template-snapshots"
    make_template(home / "snapshots", url, sparse=False)
    template.mkdir()
    (template / "overlaybd.commit").write_bytes((home / "snapshots" / "lower").read_bytes())
    for name in ("config.json", "service.json"):
        (template / name).write_text("{}")
    return template


class Snapshotter(Run):
    """Each call has its effect for good, or an error; what it made in vain goes."""

    def __init__(self, place: str, say: Say, model: Model) -> None:
        super().__init__(place, say, model, sparse=False)
        os.environ["OVERLAYBD_RUN_DIR"] = self._path("run")
        logging.getLogger("overlaybd.snapshotter").setLevel(logging.CRITICAL)
        self._shim: Final = Shim()
        self._snapshots: Snapshots | None = None

    def story(self) -> None:
        """An image of three layers and a container, which becomes an image; then all is removed."""
        if not self.attempt("open", self._open):
            return
        for name, step in self._steps().items():
            self.attempt(name, step)
        for _ in range(2):  # who is told that it failed tries again
            self.attempt("remove all", self._remove_all)
            self.attempt("clean up", self._clean_up)
        self.attempt("close", self._close)

    def clean(self) -> None:
        """After a restart all is as it was told; then the same once more."""
        self._open()
        self._check()
        self._remove_all()
        for step in self._steps().values():
            step()
            self._check()
        self._close()
        self._open()
        self._check()
        self._remove_all()
        self._clean_up()
        if left := os.listdir(self._there.layout.snapshots):
            self._say("wrong", f"{left} remain when all has been removed")
        self._close()

    def _steps(self) -> dict[str, Callable[[], None]]:
        return {
            "unpack": lambda: self._unpack("unpack-1", "", "unpacked", "file", _CONTENT),
            "pull": lambda: self._unpack("unpack-2", "", "layer", "overlaybd.commit", self._layer()),
            "stay remote": self._stay_remote,
            "run": self._container,
            "label": lambda: self._call(lambda: self._there.update("unpacked", {"a": "b"}, ["labels.a"])),
            "commit": self._commit,
            "view": self._view,
            "remove": lambda: self._remove(_REMOTE),
        }

    # ---- calls

    def _open(self) -> None:
        def begin() -> None:
            self._snapshots = Snapshots(SnapshotterConfig(root=self._path("root"), containerd=""))
            reconcile(self._snapshots)

        self._call(begin)

    @property
    def _there(self) -> Snapshots:
        assert self._snapshots is not None
        return self._snapshots

    def _call(self, work: Callable[[], object]) -> None:
        """As the service does it: a failure has a status, and a line that says what it is about."""
        try:
            work()
        except (SnapshotError, OSError, sqlite3.Error) as error:
            code, line = _status("", error)
            if "/" not in line and "snapshot" not in line:
                self._say("wrong", f"does not say where: {code} {line!r}")
            raise OSError(5, f"{code}: {line}", self._path("root")) from error

    def _unpack(self, key: str, parent: str, name: str, file: str, content: bytes) -> None:
        def work() -> None:
            [mount] = self._there.prepare(key, parent, {L.TARGET: name}, _CALLER)
            with self._shim.paused():
                (Path(mount.source) / file).write_bytes(content)
            self._there.commit(key, name, {}, _CALLER)

        self._call(work)
        self._say("made", name)

    def _stay_remote(self) -> None:
        def work() -> None:
            with contextlib.suppress(SnapshotError):
                self._there.prepare("remote-1", "layer", _LABELS, _CALLER)
            self._there.stat(_REMOTE)

        self._call(work)
        self._say("made", _REMOTE)

    def _container(self) -> None:
        def work() -> None:
            [mount] = self._there.prepare("container", "unpacked", {}, _CALLER)
            [upper] = [each.removeprefix("upperdir=") for each in mount.options if "upperdir=" in each]
            with self._shim.paused():
                (Path(upper) / "file").write_bytes(_CONTENT)

        self._call(work)
        self._say("made", "container")

    def _commit(self) -> None:
        self._say("removing", "container")
        self._call(lambda: self._there.commit("container", "committed", {}, _CALLER))
        self._say("made", "committed")

    def _view(self) -> None:
        def work() -> None:
            self._there.view("view", "unpacked", {}, _CALLER)
            self._there.mounts("view", _CALLER)
            self._there.remove("view")

        self._call(work)

    def _remove(self, name: str) -> None:
        self._say("removing", name)
        self._call(lambda: self._there.remove(name, _CALLER))

    def _remove_all(self) -> None:
        with self._shim.paused():
            names = [each.name for each in reversed(self._there.records.all())]
        for name in names:
            self._remove(name)

    def _clean_up(self) -> None:
        """As the service does every ten seconds."""
        reconcile(self._there)

    def _close(self) -> None:
        self._there.close()

    def _layer(self) -> bytes:
        with self._shim.paused():
            return Path(self._path("overlaybd.commit")).read_bytes()

    # ---- what must hold

    def _check(self) -> None:
        """What was made is there with its content; what is remembered has a directory, and the reverse."""
        with self._shim.paused():
            found = {each.name: each for each in self._there.records.all()}
            for name in self._model.made:
                if name not in found:
                    self._say("wrong", f"snapshot {name} is lost")
                elif (name == "container") == (found[name].kind == COMMITTED):
                    self._say("wrong", f"snapshot {name} is of kind {found[name].kind}")
            numbers = self._there.layout.numbers()
            if sorted(each.id for each in found.values()) != numbers:
                self._say("wrong", f"directories {numbers} of snapshots {found}")
            for name, file in (("unpacked", "file"), ("committed", "file"), ("layer", "overlaybd.commit")):
                if name in found:
                    self._check_content(found[name].id, file)

    def _check_content(self, number: int, file: str) -> None:
        try:
            content = (Path(self._there.layout.fs(number)) / file).read_bytes()
            if content != (_CONTENT if file == "file" else self._layer()):
                self._say("wrong", f"{file} of snapshot {number} is not what it was")
            if file != "file":
                lowers = json.loads(Path(self._there.layout.config(number)).read_text())["lowers"]
                if [Path(lower["dir"]) for lower in lowers] != [Path(self._there.layout.fs(number))]:
                    self._say("wrong", f"snapshot {number} is a device of {lowers}")
        except (OSError, ValueError, KeyError) as error:
            self._say("wrong", f"snapshot {number} cannot be read: {error}")
