"""Scripts for images as devices and mounts: attached or mounted, written to, taken away, there again."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import obdcore
from obd.sockets import processes
from tests.sweep.model import SECTOR, Model, write_of
from tests.sweep.script import Run, Say
from tests.sweep.shim import Shim
from tests.sweep.world import BASE, DEVICE_BYTES

_DISK_BYTES: Final = 4 << 20
# Longer than anybody looks at a loop device.
_PATIENCE_S: Final = 20.0
_KEPT: Final = b"kept" * 20000
_NEW: Final = b"new" * 20000


def make_attached(home: Path, _: str) -> Path:
    """An image of a layer that is here and an upper."""
    template = home / "template-attach"
    template.mkdir()
    (home / "attach.raw").write_bytes(BASE)
    return _make(template, home / "attach.raw", DEVICE_BYTES)


def make_mounted(home: Path, _: str) -> Path:
    """The same of a file system, and a directory to mount it at."""
    template, tree, raw = home / "template-mount", home / "tree", home / "mount.raw"
    (template / "point").mkdir(parents=True)
    tree.mkdir()
    (tree / "kept").write_bytes(_KEPT)
    make_ext4(tree, raw)
    return _make(template, raw, _DISK_BYTES)


def make_ext4(tree: Path, raw: Path) -> None:
    """A file system with these files."""
    words = ["-q", "-t", "ext4", "-b", "1024", "-E", "lazy_itable_init=0", "-d", str(tree), str(raw)]
    subprocess.run(["mke2fs", *words, str(_DISK_BYTES >> 10)], check=True, capture_output=True)


def make_lower(template: Path, raw: Path) -> None:
    """The layer of a disk, and a service that opens it."""
    with raw.open("rb") as source, (template / "lower").open("xb") as target:
        size = raw.stat().st_size
        obdcore.lsmt_import(source.fileno(), size, target.fileno(), compress={"algorithm": "lz4"}, tar=True)
    (template / "service.json").write_text(json.dumps({"enableAudit": False}))


def _make(template: Path, raw: Path, size_bytes: int) -> Path:
    make_lower(template, raw)
    obdcore.lsmt_create(str(template / "u.data"), str(template / "u.index"), size=size_bytes)
    upper = {"data": "@/u.data", "index": "@/u.index"}
    document = {"lowers": [{"file": "@/lower"}], "upper": upper, "resultFile": "@/result"}
    (template / "config.json").write_text(json.dumps(document))
    return template


class OnMachine(Run):
    """A script whose devices are the machine's; its state has a directory of its own."""

    def __init__(self, place: str, say: Say, model: Model) -> None:
        super().__init__(place, say, model, sparse=False)
        self._shim: Final = Shim()
        self._config: Final = self._path("config.json")
        os.environ["OVERLAYBD_RUN_DIR"] = self._path("run")

    def look(self) -> None:
        """As `obd stat` does, which forgets those who died."""
        with self._shim.paused():
            processes()


class Attached(OnMachine):
    """`obd attach`, `obd list` and `obd detach`."""

    def __init__(self, place: str, say: Say, model: Model) -> None:
        super().__init__(place, say, model)
        self._path_of_device = ""

    def story(self) -> None:
        """Taken away twice: who is told that it failed tries again."""
        if self.attempt("attach", self._attach):
            self.attempt("list", self._list)
            self.attempt("read", self._read_device)
            self.attempt("write", lambda: self._write_device(8, 16, 1))
            self.attempt("read again", self._read_device)
        self.attempt("detach", self._detach)
        self.attempt("detach again", self._detach)
        self.look()

    def clean(self) -> None:
        """The same, of what may be there still."""
        self._surely_detach()
        for content in (2, 3):
            self._attach()
            self._list()
            self._read_device()
            self._write_device(20, 16, content)
            self._surely_detach()
        if self.obd("list"):
            self._say("wrong", "is still listed")
        self.look()

    def _attach(self) -> None:
        self._path_of_device = self.obd("attach", "--via", "fuse", "--rw", self._config).strip()

    def _list(self) -> None:
        found = [each["path"] for each in json.loads(self.obd("list", "--json"))]
        if found != [self._path_of_device]:
            self._say("wrong", f"lists {found}, not {self._path_of_device}")

    def _detach(self) -> None:
        self.obd("detach", self._config)

    def _surely_detach(self) -> None:
        """Others of the machine who look at loop devices, as sweeps do, have each open for a moment."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return self._detach()
            except OSError as error:
                if "busy" not in str(error) or time.monotonic() > deadline:
                    raise

    def _read_device(self) -> None:
        with self._opened(os.O_RDONLY | os.O_DIRECT) as fd, mmap.mmap(-1, DEVICE_BYTES) as buffer:
            if (count := os.preadv(fd, [buffer], 0)) != DEVICE_BYTES:
                raise OSError(5, f"{count} bytes", self._path_of_device)
            if what := self._model.wrong(buffer[:]):
                self._say("wrong", what)

    def _write_device(self, first: int, count: int, content: int) -> None:
        with self._opened(os.O_RDWR) as fd:
            self._say("write", first, count, content)
            os.pwrite(fd, write_of(content, first, count), first * SECTOR)
            os.fsync(fd)
            self._say("done", first, count, content)

    @contextlib.contextmanager
    def _opened(self, flags: int) -> Iterator[int]:
        """The device; only what serves it may fail."""
        with self._shim.paused(), _named(self._path_of_device):
            fd = os.open(self._path_of_device, flags)
            try:
                yield fd
            finally:
                os.close(fd)


class Mounted(OnMachine):
    """`obd mount` and `obd umount`."""

    def __init__(self, place: str, say: Say, model: Model) -> None:
        super().__init__(place, say, model)
        self._point: Final = Path(self._path("point"))

    def story(self) -> None:
        """Taken away twice: who is told that it failed tries again."""
        if self.attempt("mount", self._mount):
            self.attempt("read", self._read)
            self.attempt("write", self._write)
        self.attempt("umount", self._umount)
        self.attempt("umount again", self._umount)
        self.look()

    def clean(self) -> None:
        """The same, of what may be there still."""
        self._umount()
        for _ in range(2):
            self._mount()
            self._read()
            self._write()
            self._umount()
        if os.listdir(self._point):
            self._say("wrong", "is still mounted")
        self.look()

    def _mount(self) -> None:
        self.obd("mount", "--rw", self._config, str(self._point))

    def _umount(self) -> None:
        self.obd("umount", str(self._point))

    def _read(self) -> None:
        with self._shim.paused(), _named(str(self._point)):
            if (self._point / "kept").read_bytes() != _KEPT:
                self._say("wrong", "kept reads as something else")
            if "new" in self._model.made and (self._point / "new").read_bytes() != _NEW:
                self._say("wrong", "new reads as something else")

    def _write(self) -> None:
        with self._shim.paused(), _named(str(self._point)):
            with (self._point / "new").open("wb") as file:
                file.write(_NEW)
                file.flush()
                os.fsync(file.fileno())
            self._say("made", "new")


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Errors of the kernel say which device or mount they are about."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, name) from error
