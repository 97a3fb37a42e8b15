"""All layers of one image: one is applied while the one below is compressed and the next is fetched."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

import obdcore
from obd.convert.chain import key_of
from obd.convert.fetch import Fetch
from obd.convert.layer import FullError, Lower, apply_layer, commit_layer
from obd.convert.options import LayerResult, Options
from obd.convert.plan import MAX_VSIZE_BYTES, ImagePlan, Step, first_vsize
from obd.convert.record import Made
from obd.errors import ObdError, kind_of, line_of

if TYPE_CHECKING:
    from obd.convert.crew import Crew
    from obd.convert.target import Target
    from obd.convert.work import Work
    from obd.oci.protocols import ImageSource


class Watch(Protocol):
    """Who is told how it goes."""

    def work(self, name: str, doing: str, done: int, total: int) -> None:
        """What is done with a layer (or a disk), in bytes of all (0: not known). By any thread.

        `fetching`, `applying`, `compressing`, `pushing`; of each at last that all is done, if it is known.
        """

    def tick(self) -> None:
        """Called often by the thread that called `convert`; what it raises ends the work."""


# Layers that may wait as fetched archives; as sealed files, until they are compressed.
_FETCHED: Final = 2
_SEALED: Final = 2


@dataclass(slots=True)
class _Layer:
    """Where one layer is on its way. `sealed` and `path` are files: before it was compressed, and after."""

    step: Step
    key: str
    made: Made | None = None
    there: bool = False
    sealed: str = ""
    path: str = ""
    fetch: Fetch | None = None
    finishing: Future[None] | None = None
    pushing: Future[None] | None = None
    notes: tuple[str, ...] = ()
    built: bool = field(default=False)


class Build:
    """Makes the layers of `plan` and puts them into the target. `name` tells its files from others'."""

    def __init__(
        self,
        name: str,
        plan: ImagePlan,
        source: ImageSource,
        target: Target,
        work: Work,
        crew: Crew,
        options: Options,
        watch: Watch,
    ) -> None:
        self._name = name
        self._plan = plan
        self._source = source
        self._target = target
        self._work = work
        self._crew = crew
        self._options = options
        self._watch = watch
        self.vsize_bytes = options.vsize_bytes or first_vsize(plan)
        self._layers: list[_Layer] = []

    def run(self) -> list[tuple[Made, LayerResult]]:
        """The finished layers, bottom first, all of which are in the target.

        A device that proves too small is made twice as large, unless its size was given. Raises `OSError`.
        """
        while True:
            try:
                self._begin()
                self._make()
                self._settle()
                return [self._outcome(layer) for layer in self._layers]
            except FullError as error:
                self._settle()
                larger = self.vsize_bytes * 2
                if self._options.vsize_bytes or larger > MAX_VSIZE_BYTES:
                    what = f"the content does not fit into {self.vsize_bytes >> 20} MiB: {error}"
                    raise ObdError("no-space", f"{self._plan.entry.digest}: {what}") from None
                self.vsize_bytes = larger

    @property
    def notes(self) -> Iterator[str]:
        """What was passed over in the archives of the layers."""
        for layer in self._layers:
            for note in layer.notes:
                yield f"layer {layer.step.position}: {note}"

    def _begin(self) -> None:
        """Finds out what was done before, and so what is left."""
        shape = {**self._options.parameters(), "vsize": self.vsize_bytes, "library": _library(self._options)}
        self._layers = [_Layer(step, key_of(step.chain_id, shape)) for step in self._plan.steps]
        if not self._options.reuse:
            return
        for asked in [self._crew.submit(self._crew.pushes, self._look, layer) for layer in self._layers]:
            asked.result()

    def _look(self, layer: _Layer) -> None:
        made = self._work.records.get(layer.key)
        if made is None:
            return
        layer.path = self._work.finished(layer.key, made) or ""
        layer.there = self._target.has(made)
        if layer.path or layer.there:
            layer.made = made

    def _make(self) -> None:
        wanted = [layer for layer in self._layers if layer.made is None]
        if wanted:
            below = self._layers[: wanted[-1].step.position]
            # Those that are done, but cannot be read: there is nothing to put others on.
            wanted = [layer for layer in below if self._unreadable(layer)] + wanted[-1:]
        for at, layer in enumerate(wanted):
            for ahead in wanted[at : at + 1 + _FETCHED]:
                self._fetch(ahead)
            if at >= _SEALED:
                _result(wanted[at - _SEALED].finishing)
            self._apply(layer)
            layer.finishing = self._crew.submit(self._crew.layers, self._finish, layer)
        for layer in self._layers:
            # An interrupted run had it ready.
            if not layer.built and not layer.there:
                layer.pushing = self._crew.submit(self._crew.pushes, self._push, layer)

    def _unreadable(self, layer: _Layer) -> bool:
        if layer.made is None:
            return True
        return not layer.path and self._target.lower(layer.made, self._work.path) is None

    def _fetch(self, layer: _Layer) -> None:
        if layer.fetch is not None:
            return
        path = self._file(layer, "fetched")
        layer.fetch = Fetch(self._source, layer.step.source, path, self._crew.check)
        self._crew.submit(self._crew.fetches, self._run_fetch, layer)

    def _run_fetch(self, layer: _Layer) -> None:
        assert layer.fetch is not None
        with of_layer(layer.step):
            layer.fetch.run(self._told(layer, "fetching"))

    def _apply(self, layer: _Layer) -> None:
        fetch, sealed = layer.fetch, self._file(layer, "sealed")
        assert fetch is not None
        lowers = [self._lower(each) for each in self._layers[: layer.step.position]]
        try:
            archive = fetch.open()
            try:
                with of_layer(layer.step), self._crew.turn():
                    applied = apply_layer(
                        lowers,
                        archive,
                        sealed,
                        vsize_bytes=self.vsize_bytes,
                        fs=self._options.fs,
                        sha256=layer.step.diff_id.partition(":")[2],
                        told=self._told(layer, "applying"),
                    )
            except OSError:
                if (why := fetch.failure()) is not None:
                    raise why from None
                raise
            finally:
                os.close(archive)
            with of_layer(layer.step):
                fetch.wait()
        finally:
            fetch.close()
        layer.sealed, layer.notes, layer.built = sealed, applied.notes, True

    def _lower(self, layer: _Layer) -> Lower:
        """The layer as it can be read now. Only the thread that applies calls this."""
        if layer.sealed and layer.finishing is not None and layer.finishing.done():
            _result(layer.finishing)
            os.unlink(layer.sealed)
            layer.sealed = ""
        if layer.sealed or layer.path:
            return layer.sealed or layer.path
        assert layer.made is not None
        lower = self._target.lower(layer.made, self._work.path)
        assert lower is not None
        return lower

    def _finish(self, layer: _Layer) -> None:
        with of_layer(layer.step), self._crew.turn():
            told = self._told(layer, "compressing")
            path = self._file(layer, "new")
            layer.made = commit_layer(layer.sealed, path, layer.step, self._options, told)
        layer.path = self._work.finish(layer.key, path, layer.made)
        layer.pushing = self._crew.submit(self._crew.pushes, self._push, layer)

    def _push(self, layer: _Layer) -> None:
        made = layer.made
        assert made is not None
        with of_layer(layer.step):
            self._target.put(made, layer.path, self._told(layer, "pushing"))
        if self._target.place:
            known = Made(made.digest, made.size, made.diff_id, made.kind, (self._target.place,))
            self._work.records.put(layer.key, known)

    def _settle(self) -> None:
        """Waits for all that is under way."""
        for layer in self._layers:
            _result(layer.finishing)
            _result(layer.pushing)
            if layer.fetch is not None:
                layer.fetch.close()
            if layer.sealed:
                os.unlink(layer.sealed)
                layer.sealed = ""

    def _outcome(self, layer: _Layer) -> tuple[Made, LayerResult]:
        made = layer.made
        assert made is not None
        how = "built" if layer.built else "reused"
        return made, LayerResult(made.digest, made.size, layer.step.source.digest, how)

    def _file(self, layer: _Layer, what: str) -> str:
        mib = self.vsize_bytes >> 20
        return self._work.temporary(f"{self._name}.{mib}.{layer.step.position}.{what}")

    def _told(self, layer: _Layer, doing: str) -> Callable[[int, int], None]:
        name = f"{self._plan.platform} {layer.step.source.digest.partition(':')[2][:12]}"

        def told(done: int, total: int) -> None:
            self._crew.check()
            self._watch.work(name, doing, done, total)

        return told


def _library(options: Options) -> str:
    """The version of what decides with us where things lie in a file system."""
    return obdcore.ext4_version() if options.fs == "ext4" else ""


def _result(work: Future[None] | None) -> None:
    if work is not None:
        work.result()


@contextmanager
def of_layer(step: Step) -> Iterator[None]:
    """Has errors say which layer they are of."""
    try:
        yield
    except OSError as error:
        name = f"layer {step.position} {step.source.digest}"
        if isinstance(error, ObdError) and error.what.startswith(name):
            raise
        kind = kind_of(error)
        raise ObdError(kind, f"{name}: {_cause(error, kind)}") from None


def _cause(error: OSError, kind: str) -> str:
    if isinstance(error, obdcore.Error):
        # Not the name of its file: that is one of ours, or a pipe.
        at = "" if error.offset is None else f"at {error.offset}"
        return ": ".join(part for part in (at, error.what, error.cause) if part)
    return line_of(error).removeprefix(f"{kind}: ")
