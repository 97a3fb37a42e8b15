"""A script for images without upper: what is fetched goes into a cache, and is read from there next time."""

from __future__ import annotations

from obd.result import ResultFile
from tests.sweep.model import SECTOR, Model
from tests.sweep.script import Run, Say


class Reading(Run):
    """As `Run`, of fewer steps."""

    def __init__(self, place: str, say: Say, model: Model) -> None:
        super().__init__(place, say, model, sparse=False)

    def story(self) -> None:
        """Reads a part, the whole, and the whole again after a restart."""
        if self.attempt("open", self.open):
            self.attempt("read 1", lambda: self.read(0, 100))
            self.attempt("read 2", lambda: self.read(601, 40))
            self.attempt("read all", self._all)
            self.attempt("read all again", self._all)
            self.attempt("close", self.device.close)
        if self.attempt("open again", self.open):
            self.attempt("read 3", self._all)
            self.attempt("close again", self.device.close)

    def clean(self) -> None:
        """The same, without a fault."""
        for _ in range(2):
            self.open()
            self._all()
            self.device.close()
        ResultFile(self._path("result")).success()

    def _all(self) -> None:
        self.read(0, self.device.native.size // SECTOR)
