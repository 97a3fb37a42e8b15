"""All layers of one image: one is applied while the one below is compressed and the next is fetched."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

import obdcore
from obd.convert.chain import key_of
from obd.convert.fetch import Fetch
from obd.convert.layer import Applied, FullError, Lower, apply_layer, commit_layer
from obd.convert.options import LayerResult, Options
from obd.convert.plan import MAX_VSIZE_BYTES, ImagePlan, Step, first_vsize
from obd.convert.record import Made
from obd.errors import ObdError, kind_of, line_of
from obd.oci.trees import LayerTree, make_tree

if TYPE_CHECKING:
    from obd.convert.crew import Crew
    from obd.convert.target import Target
    from obd.convert.work import Work
    from obd.oci.protocols import ImageSource


class Watch(Protocol):
    """Who is told how it goes."""

    def work(self, name: str, doing: str, done: int, total: int) -> None:
        """What is done with a layer (or a disk), in bytes of all (0: not known). By any thread.

        `fetching`, `applying`, `compressing`, `pushing`, `hashing`; of each at last that all is done, if that
        is known.
        """

    def tick(self) -> None:
        """Called often by the thread that called `convert`; what it raises ends the work."""


# Layers that may wait as fetched archives; as sealed files, until they are compressed.
_FETCHED: Final = 2
_SEALED: Final = 2


@dataclass(slots=True)
class Layer:
    """Where one layer is on its way. `sealed` and `path` are files: before it was compressed, and after.

    One of turboOCI (`turbo`) has its metadata in `meta`, and with a compressed original `gzip_index`.
    """

    step: Step
    key: str
    made: Made | None = None
    there: bool = False
    sealed: str = ""
    path: str = ""
    meta: str = ""
    gzip_index: str = ""
    turbo: bool = False
    fetch: Fetch | None = None
    fetching: Future[None] | None = None
    finishing: Future[None] | None = None
    pushing: Future[None] | None = None
    notes: tuple[str, ...] = ()
    built: bool = False


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
        self.name = name
        self._plan = plan
        self.source = source
        self.target = target
        self.work = work
        self.crew = crew
        self.options = options
        self._watch = watch
        self.vsize_bytes = options.vsize_bytes or first_vsize(plan)
        self.layers: list[Layer] = []
        self.trees: tuple[LayerTree | None, ...] = ()
        """Those of the finished layers, if any were asked for."""

    def run(self) -> list[tuple[Made, LayerResult]]:
        """The finished layers, bottom first, all of which are in the target.

        A device that proves too small is made twice as large, unless its size was given. Raises `OSError`.
        """
        while True:
            try:
                self._begin()
                self._make()
                self._settle()
                self._prove()
                return [self._outcome(layer) for layer in self.layers]
            except FullError as error:
                self._settle()
                larger = self.vsize_bytes * 2
                if self.options.vsize_bytes or larger > MAX_VSIZE_BYTES:
                    what = f"the content does not fit into {self.vsize_bytes >> 20} MiB: {error}"
                    raise ObdError("no-space", f"{self._plan.entry.digest}: {what}") from None
                self.vsize_bytes = larger

    @property
    def notes(self) -> Iterator[str]:
        """What was passed over in the archives of the layers."""
        for layer in self.layers:
            for note in layer.notes:
                yield f"layer {layer.step.position}: {note}"

    def _begin(self) -> None:
        """Finds out what was done before, and so what is left."""
        shape = {**self.options.parameters(), "vsize": self.vsize_bytes, "library": _library(self.options)}
        self.layers = [Layer(step, self._key(step, shape)) for step in self._plan.steps]
        if not self.options.reuse:
            return
        for asked in [self.crew.submit(self.crew.pushes, self._look, layer) for layer in self.layers]:
            asked.result()

    def _key(self, step: Step, shape: dict[str, object]) -> str:
        return key_of(step.chain_id, shape)

    def _look(self, layer: Layer) -> None:
        """Finds out whether the layer was made before, and is in the target or here."""
        made = self.work.records.get(layer.key)
        if made is None:
            return
        layer.path = self.work.finished(layer.key, made) or ""
        layer.there = self.target.has(made)
        if layer.path or layer.there:
            layer.made = made

    def _make(self) -> None:
        wanted = [layer for layer in self.layers if layer.made is None]
        if wanted:
            below = self.layers[: wanted[-1].step.position]
            # Those that are done, but cannot be read: there is nothing to put others on.
            wanted = [layer for layer in below if self._unreadable(layer)] + wanted[-1:]
        for at, layer in enumerate(wanted):
            for ahead in wanted[at : at + 1 + _FETCHED]:
                self._fetch(ahead)
            if at >= _SEALED:
                _result(wanted[at - _SEALED].finishing)
            self._apply(layer)
            layer.finishing = self.crew.submit(self.crew.layers, self._finish, layer)
        for layer in self.layers:
            # An interrupted run had it ready.
            if not layer.built and not layer.there:
                layer.pushing = self.crew.submit(self.crew.pushes, self._push, layer)

    def _unreadable(self, layer: Layer) -> bool:
        if layer.made is None:
            return True
        return not layer.path and self.target.lower(layer.made, self.work.path) is None

    def _fetch(self, layer: Layer) -> None:
        if layer.fetch is not None:
            return
        path = self._file(layer, "fetched")
        layer.fetch = Fetch(self.source, layer.step.source, path, self.crew.check)
        layer.fetching = self.crew.submit(self.crew.fetches, self._run_fetch, layer)

    def _run_fetch(self, layer: Layer) -> None:
        assert layer.fetch is not None
        with of_layer(layer.step):
            layer.fetch.run(self._told(layer, "fetching"))

    def _apply(self, layer: Layer) -> None:
        fetch, sealed = layer.fetch, self._file(layer, "sealed")
        assert fetch is not None
        lowers = [self._lower(each) for each in self.layers[: layer.step.position]]
        try:
            archive = fetch.open()
            try:
                with of_layer(layer.step), self.crew.turn():
                    applied = self._apply_archive(layer, lowers, archive, sealed)
            except OSError:
                if (why := fetch.failure()) is not None:
                    raise why from None
                raise
            finally:
                os.close(archive)
            with of_layer(layer.step):
                fetch.wait()
        finally:
            self._applied(layer)
        layer.sealed, layer.notes, layer.built = applied.path, applied.notes, True

    def _apply_archive(self, layer: Layer, lowers: Sequence[Lower], archive: int, path: str) -> Applied:
        return apply_layer(
            lowers,
            archive,
            path,
            vsize_bytes=self.vsize_bytes,
            fs=self.options.fs,
            sha256=layer.step.diff_id.partition(":")[2],
            told=self._told(layer, "applying"),
        )

    def _applied(self, layer: Layer) -> None:
        """The archive is not needed any more."""
        if layer.fetch is not None:
            layer.fetch.close()

    def _lower(self, layer: Layer) -> Lower:
        """The layer as it can be read now. Only the thread that applies calls this."""
        if layer.sealed and layer.finishing is not None and layer.finishing.done():
            _result(layer.finishing)
            os.unlink(layer.sealed)
            layer.sealed = ""
        if layer.sealed or layer.path:
            return layer.sealed or layer.path
        assert layer.made is not None
        lower = self.target.lower(layer.made, self.work.path)
        assert lower is not None
        return lower

    def _finish(self, layer: Layer) -> None:
        with of_layer(layer.step), self.crew.turn():
            told = self._told(layer, "compressing")
            path = self._file(layer, "new")
            layer.made = commit_layer(layer.sealed, path, layer.step, self.options, told)
        layer.path = self.work.finish(layer.key, path, layer.made)
        layer.pushing = self.crew.submit(self.crew.pushes, self._push, layer)

    def _push(self, layer: Layer) -> None:
        """Puts a finished layer into the target."""
        made = layer.made
        assert made is not None
        with of_layer(layer.step):
            self.target.put(made, layer.path, self._told(layer, "pushing"))
        if self.target.place:
            self.work.records.put(layer.key, replace(made, places=(self.target.place,)))

    def _settle(self) -> None:
        """Waits for all that is under way."""
        for layer in self.layers:
            _result(layer.fetching)
            _result(layer.finishing)
            _result(layer.pushing)
            if layer.fetch is not None:
                layer.fetch.close()
            if layer.sealed:
                os.unlink(layer.sealed)
                layer.sealed = ""

    def _prove(self) -> None:
        """Makes the hash trees of all layers, and puts their leaves into the target."""
        if not self.options.merkle:
            return
        making = [self.crew.submit(self.crew.pushes, self._tree, layer) for layer in self.layers]
        self.trees = tuple(each.result() for each in making)

    def _tree(self, layer: Layer) -> LayerTree | None:
        assert layer.made is not None
        total, told = layer.made.size, self._told(layer, "hashing")
        with of_layer(layer.step), self.target.open(layer.made, layer.path) as stream:
            found = make_tree(stream, lambda done: told(done, total))
            if found is None:
                return None
            tree, leaves = found
            self.target.destination.put_blob(tree.leaves, leaves)
        return tree

    def _outcome(self, layer: Layer) -> tuple[Made, LayerResult]:
        made = layer.made
        assert made is not None
        how = "built" if layer.built else "reused"
        return made, LayerResult(made.digest, made.size, layer.step.source.digest, how)

    def _file(self, layer: Layer, what: str) -> str:
        mib = self.vsize_bytes >> 20
        return self.work.temporary(f"{self.name}.{mib}.{layer.step.position}.{what}")

    def _told(self, layer: Layer, doing: str) -> Callable[[int, int], None]:
        name = f"{self._plan.platform} {layer.step.source.digest.partition(':')[2][:12]}"

        def told(done: int, total: int) -> None:
            self.crew.check()
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
