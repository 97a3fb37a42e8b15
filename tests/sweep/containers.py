"""A script for containers: `obd run` upon the device that all share, and upon one of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Final

from tests.sweep.devices import OnMachine, make_ext4, make_lower
from tests.sweep.script import CONTAINER

# What the command ends with if it finds other bytes than those that belong there.
_WRONG: Final = 77
_CHECK: Final = f'exec 2>/dev/null; [ "$(cat /{{0}})" = {{0}} ] || exit {_WRONG}'
_LOOK: Final = f"{_CHECK.format('kept')}; {_CHECK.format('new')}"
_MAKE: Final = f"{_CHECK.format('kept')}; echo new > /new"


def make_contained(home: Path, _: str) -> Path:
    """An image of one file system, with a shell in it."""
    template, tree, raw = home / "template-run", home / "tree", home / "run.raw"
    for directory in (template, tree / "bin"):
        directory.mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "", tree / "bin")
    for name in ("sh", "cat"):
        (tree / "bin" / name).symlink_to("busybox")
    (tree / "kept").write_text("kept")
    make_ext4(tree, raw)
    make_lower(template, raw)
    (template / "config.json").write_text(json.dumps({"lowers": [{"file": "@/lower"}]}))
    return template


class Contained(OnMachine):
    """What a command wrote whose success was told is there until the container is removed."""

    def story(self) -> None:
        """One that is kept and started again, one with its own device; removed twice, as after a failure."""
        self.attempt("run", self._make)
        self.attempt("again", self._read)
        self.attempt("list", lambda: self._obd_run("--list"))
        self.attempt("run writable", self._run_writable)
        self.attempt("remove", self._remove)
        self.attempt("remove again", self._remove)
        self.attempt("clean", self._clean_up)
        self.look()

    def clean(self) -> None:
        """The same, of what may be there still."""
        self._clean_up()
        if "new" in self._model.made:
            self._read()
        self._remove()
        for _ in range(2):
            self._make()
            self._read()
            self._run_writable()
            self._remove()
        if listed := self._obd_run("--list") + self.obd("list"):
            self._say("wrong", f"is still listed: {listed!r}")
        self.look()

    def _make(self) -> None:
        self._in_container(_MAKE, "--name", CONTAINER, self._path("config.json"))
        self._say("made", "new")

    def _read(self) -> None:
        made = "new" in self._model.made
        self._in_container(_LOOK if made else _CHECK.format("kept"), "--again", CONTAINER)

    def _run_writable(self) -> None:
        self._in_container(
            f"{_MAKE}; {_LOOK}", "--rm", "--rw", "--name", f"{CONTAINER}-rw", self._path("config.json")
        )

    def _remove(self) -> None:
        self._say("removing", "new")
        if self._obd_run("--list"):
            self._obd_run("--remove", CONTAINER)

    def _clean_up(self) -> None:
        self._obd_run("--clean")

    def _in_container(self, script: str, *words: str) -> None:
        """Runs a script, which may fail by what the device says: then it is what tells."""
        words = ("--via", "fuse", "--root", self._path("root"), *words, "--", "/bin/sh", "-c", script)
        status, _, text = self.call("run", *words)
        if status == _WRONG:
            self._say("wrong", "the container has other bytes")
        if status:
            raise OSError(5, text or f"the command ended with {status}", self._path("config.json"))

    def _obd_run(self, *words: str) -> str:
        return self.obd("run", "--root", self._path("root"), *words)
