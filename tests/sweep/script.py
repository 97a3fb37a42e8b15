"""What a run of the sweep does, step by step, and what it says about each: events for whoever judges it.

A step that fails must fail with an `OSError` that says what happened; the next ones are done all the same, as
far as they can be.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import obd
import obdcore
from obd.image import Device
from obd.result import ResultFile
from tests.sweep.model import SECTOR, ZEROS, Event, Model, write_of
from tests.sweep.world import BASE, DEVICE_BYTES
from tools import commit, zfile
from tools.main import run as run_command
from tools.obd import command as obd_command

# Longest time that a download may take here: less than what `children` takes for hanging.
_PATIENCE_S: Final = 40.0
# The container of the script that has one. Cgroups are those of the machine, so sweeps have different ones;
# `pattern_of` takes so many digits for random.
CONTAINER: Final = f"swept-{os.getpid():08}"
# A file, a URL, a layer or a container.
_WHERE: Final = re.compile(rf"(?<![\w/])/\w|://|sha256:|\b{CONTAINER}\b")
# Commands that know of no service configuration.
_WITHOUT_SERVICE: Final = ("detach", "list", "umount")

Say = Callable[[Event], None]


class Run:
    """One run in a world. `say` gets the events for `Model`, and `["wrong", what]` for what must not be."""

    def __init__(self, place: str, say: Say, model: Model, *, sparse: bool) -> None:
        self._place: Final = place
        self._tell: Final = say
        self._model: Final = model
        self._sparse: Final = sparse
        self._device: Device | None = None

    def _path(self, name: str) -> str:
        return os.path.join(self._place, name)

    def _say(self, *event: str | int) -> None:
        self._model.feed(list(event))
        self._tell(list(event))

    def attempt(self, name: str, work: Callable[[], object]) -> bool:
        """A step: true if it was done."""
        self._say("step", name)
        try:
            work()
        except OSError as error:
            self._say("error", name, *_described(error))
            return False
        except Exception as error:
            self._say("wrong", f"{name}: {type(error).__name__}: {error}")
            return False
        self._say("ok", name)
        return True

    # ---- the device

    def open(self) -> None:
        """Opens the image."""
        self._device = obd.open(self._path("config.json"), self._path("service.json"))

    @property
    def device(self) -> Device:
        """The device, which is open."""
        assert self._device is not None
        return self._device

    def read(self, first: int, count: int) -> None:
        """Reads sectors: right bytes or an error."""
        data = self.device.read(first * SECTOR, count * SECTOR)
        if what := self._model.wrong(data, first):
            self._say("wrong", what)

    def write(self, first: int, count: int, content: int) -> None:
        """Writes sectors."""
        self._say("write", first, count, content)
        self.device.write(first * SECTOR, write_of(content, first, count))
        self._say("done", first, count, content)

    def discard(self, first: int, count: int) -> None:
        """Discards sectors."""
        self._say("zero", first, count, ZEROS)
        self.device.discard(first * SECTOR, count * SECTOR)
        self._say("done", first, count, ZEROS)

    def flush(self) -> None:
        """Makes durable what was acknowledged."""
        self._say("flush")
        self.device.flush()
        self._say("flushed")

    def snapshot(self) -> None:
        """A live snapshot to an upper of the other layout; what it seals is durable afterwards."""
        self._say("flush")
        self.device.snapshot(self._path("u1.data"), self._path("u1.index"), sparse=not self._sparse)
        self._say("flushed")

    def download(self) -> None:
        """Waits until the layer is here, and reads all."""
        if self.device.downloads is not None:
            waiter = threading.Thread(target=self.device.downloads.join, daemon=True)
            waiter.start()
            waiter.join(_PATIENCE_S)
            if waiter.is_alive():
                self._say("wrong", "the download does not end")
            failed = [each.error for each in self.device.downloads.progress() if each.state != "done"]
            if failed:
                raise OSError(5, f"download: {failed[0]}", self._path("layer"))
        self.read(0, DEVICE_BYTES // SECTOR)

    def close(self) -> None:
        """Closes the device."""
        device, self._device = self._device, None
        if device is not None:
            self._say("flush")
            device.close()
            self._say("flushed")

    # ---- commands

    def command(self, out: str, call: Callable[[list[str]], int], *words: str) -> None:
        """Runs a command that makes the file `out`, which must be whole or not be there."""
        said, told = io.StringIO(), io.TextIOWrapper(io.BytesIO())
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(told):
            status = call([*words, self._path(out)])
        text = said.getvalue().strip()
        if status != 0:
            if not text or "Traceback" in text:
                self._say("wrong", f"{out}: status {status} and says {text!r}")
            raise OSError(5, text, out)
        self._say("made", out)

    def call(self, name: str, *words: str) -> tuple[int, str, str]:
        """Runs a command of `obd`, which says where it failed: its status, stdout and stderr."""
        said, told = io.StringIO(), io.TextIOWrapper(io.BytesIO())
        service = () if name in _WITHOUT_SERVICE else ("--service", self._path("service.json"))
        argv = [name, *service, *words]
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(told):
            status = run_command(obd_command(argv), argv)
        text = said.getvalue().strip()
        if "Traceback" in text or (status and text and not _WHERE.search(text)):
            self._say("wrong", f"{name}: status {status}, says not where: {text!r}")
        told.seek(0)
        return status, told.read(), text

    def obd(self, name: str, *words: str) -> str:
        """Runs a command of `obd`, which ends well or says why not; what it tells on stdout."""
        status, told, text = self.call(name, *words)
        if status and not text:
            self._say("wrong", f"{name}: status {status} and says nothing")
        if status:
            raise OSError(5, text, name)
        return told

    def commit(self) -> None:
        """Commits the newest upper into a compressed layer."""
        top = "u1" if self.took_snapshot() else "u0"
        words = ["-f", "-z", "-t", self._path(f"{top}.data"), self._path(f"{top}.index")]
        self.command("committed", lambda argv: run_command(commit.COMMAND, argv), *words)

    def compress(self) -> None:
        """Compresses a file."""
        self.command("zfile", lambda argv: run_command(zfile.COMMAND, argv), "-f", self._path("raw"))

    def took_snapshot(self) -> bool:
        """Whether the configuration says so."""
        try:
            return "u1.data" in Path(self._path("config.json")).read_text()
        except OSError as error:
            raise OSError(error.errno, error.strerror, "config.json") from None

    def check_made(self, name: str) -> None:
        """A file under its final name must be whole."""
        path = self._path(name)
        if not os.path.exists(path):
            return
        try:
            if name == "zfile":
                reader = obdcore.ZFileReader(path)
                if reader.read_at(0, len(BASE) + 1) != BASE:
                    self._say("wrong", "zfile: has other bytes")
            else:
                obdcore.layer_verify(path)
        except OSError as error:
            self._say("wrong", f"{name}: not whole under its final name: {error}")

    # ---- the whole

    def story(self) -> None:
        """All of it."""
        if self.attempt("open", self.open):
            self.attempt("read 1", lambda: self.read(0, 128))
            self.attempt("read 2", lambda: self.read(600, 40))
            self.attempt("write 1", lambda: self.write(0, 16, 1))
            self.attempt("write 2", lambda: self.write(101, 1, 2))
            self.attempt("discard", lambda: self.discard(32, 16))
            self.attempt("write 3", lambda: self.write(200, 128, 3))
            self.attempt("flush 1", self.flush)
            self.attempt("write 4", lambda: self.write(8, 16, 4))
            self.attempt("snapshot", self.snapshot)
            self.attempt("write 5", lambda: self.write(10, 3, 5))
            self.attempt("write 6", lambda: self.write(1500, 16, 6))
            self.attempt("flush 2", self.flush)
            self.attempt("write 7", lambda: self.write(300, 60, 7))
            self.attempt("download", self.download)
            self.attempt("close", self.close)
        self.attempt("commit", self.commit)
        self.attempt("compress", self.compress)
        if self.attempt("open again", self.open):
            self.attempt("read all", lambda: self.read(0, DEVICE_BYTES // SECTOR))
            self.attempt("write 8", lambda: self.write(64, 8, 8))
            self.attempt("close again", self.close)

    def clean(self) -> None:
        """The next run, in which nothing fails: must succeed throughout, and do what is left to do."""
        self.open()
        self.read(0, DEVICE_BYTES // SECTOR)
        self._model.settle(self.device.read(0, DEVICE_BYTES))
        self.write(64, 8, 9)
        self.flush()
        if not self.took_snapshot():
            self.snapshot()
        self.write(1000, 8, 10)
        self.flush()
        self.download()
        self.close()
        for name, make in (("committed", self.commit), ("zfile", self.compress)):
            self.check_made(name)
            make()
            self.check_made(name)
        self.open()
        self.read(0, DEVICE_BYTES // SECTOR)
        self.close()
        ResultFile(self._path("result")).success()


def _described(error: OSError) -> tuple[str, str]:
    """Kind and line of an error; the kind is "" for one that does not say enough."""
    line = " ".join(str(error).split())
    kind = getattr(error, "kind", "") or (f"errno {error.errno}" if error.errno and error.strerror else "")
    if not kind or not (error.filename or "/" in line) or isinstance(error, InterruptedError):
        print(f"unclear: {type(error).__name__} {line}", file=sys.stderr)
        return "", line
    return kind, line
