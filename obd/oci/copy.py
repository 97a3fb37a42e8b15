"""Copies an image, or all of an index, from one place to another: every byte and digest stays what it is."""

from __future__ import annotations

import threading
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Final, Protocol

from obd.errors import ObdError, kind_of
from obd.oci import fields
from obd.oci.descriptor import Descriptor
from obd.oci.layers import is_foreign
from obd.oci.limits import MAX_INDEX_DEPTH, MAX_MANIFESTS, MAX_MANIFESTS_BYTES
from obd.oci.manifest import Index, parse_manifest
from obd.oci.platform import Platform
from obd.oci.protocols import ImageDestination, ImageSource
from obd.oci.trees import carry_trees

# Attempts at a blob by what went wrong: what may pass, and what may have been damaged on its way.
_ATTEMPTS: Final = {"io": 3, "timed-out": 3, "corrupt": 2}
_TICK_S: Final = 0.1
# Time for what is under way when another part failed or the user has had enough.
_STOP_S: Final = 2.0


class Watch(Protocol):
    """Who is told how it goes."""

    def blob(self, blob: Descriptor, state: str, done: int) -> None:
        """How far it is: `waiting`, `copying`, and at last `copied`, `there` or `mounted`. By any thread."""

    def tick(self) -> None:
        """Called often by the thread that called `copy`; what it raises ends the copying."""


def copy(
    source: ImageSource,
    destination: ImageDestination,
    wanted: Platform | None,
    *,
    jobs: int,
    watch: Watch,
) -> Descriptor:
    """Copies what `source` names under the tag of `destination`; returns what was given the tag.

    Of an index the image for `wanted`, None for all of it. `jobs` blobs are copied at a time, each by a
    stream. The manifests come last, and the one with the tag after all others; the destination is left open.
    Raises `OSError` as both do, and "limit" for indexes that nobody makes.
    """
    plan = _Plan(source, wanted)
    work = _Work(source, destination, watch)
    try:
        work.run(tuple(plan.blobs.values()), jobs)
    finally:
        work.stop.set()
    *others, (last, data) = plan.manifests
    for descriptor, layers in plan.images:
        carry_trees(source, destination, descriptor, layers)
        watch.tick()
    for descriptor, content in others:
        destination.put_manifest(descriptor, content, None)
        watch.tick()
    destination.put_manifest(last, data, destination.tag)
    return last


class _Plan:
    """What is to be copied: `blobs` by digest, and `manifests`, each after those that it names.

    `images`: the manifests with their layers.
    """

    def __init__(self, source: ImageSource, wanted: Platform | None) -> None:
        self.blobs: Final[dict[str, Descriptor]] = {}
        self.manifests: Final[list[tuple[Descriptor, bytes]]] = []
        self.images: Final[list[tuple[Descriptor, tuple[Descriptor, ...]]]] = []
        self._source: Final = source
        self._seen: Final[set[str]] = set()
        self._bytes = 0
        root, data = source.root()
        if wanted is not None:
            root, data = chosen(source, root, data, wanted)
        self._add(root, data, 0)

    def _add(self, descriptor: Descriptor, data: bytes, depth: int) -> None:
        self._bytes += len(data)
        if self._bytes > MAX_MANIFESTS_BYTES:
            what = f"manifests of more than {MAX_MANIFESTS_BYTES} bytes together"
            raise ObdError("limit", what, self._source.name)
        found = parse_manifest(data, descriptor.media_type, self._source.name)
        if isinstance(found, Index):
            if depth >= MAX_INDEX_DEPTH:
                what = f"indexes in indexes, more than {MAX_INDEX_DEPTH} deep"
                raise ObdError("limit", what, self._source.name)
            for entry in found.manifests:
                if entry.digest not in self._seen:
                    self._seen.add(entry.digest)
                    if len(self._seen) > MAX_MANIFESTS:
                        raise ObdError("limit", f"more than {MAX_MANIFESTS} manifests", self._source.name)
                    self._add(entry, self._source.manifest(entry), depth + 1)
        else:
            self.images.append((descriptor, found.layers))
            self.blobs.update({blob.digest: blob for blob in found.blobs if not is_foreign(blob)})
        self.manifests.append((descriptor, data))


def chosen(source: ImageSource, root: Descriptor, data: bytes, wanted: Platform) -> tuple[Descriptor, bytes]:
    """The manifest for a platform, of an index or in place of one. Raises `OSError`."""
    for _ in range(MAX_INDEX_DEPTH + 1):
        found = parse_manifest(data, root.media_type, source.name)
        if not isinstance(found, Index):
            return root, data
        with fields.at(source.name):
            root = found.choose(wanted)
        data = source.manifest(root)
    raise ObdError("limit", f"indexes in indexes, more than {MAX_INDEX_DEPTH} deep", source.name)


class _Stopped(Exception):
    """Another blob failed, or the user has had enough."""


class _Work:
    """Blobs on their way, several at a time."""

    def __init__(self, source: ImageSource, destination: ImageDestination, watch: Watch) -> None:
        self._source = source
        self._destination = destination
        self._watch = watch
        self.stop: Final = threading.Event()

    def run(self, blobs: tuple[Descriptor, ...], jobs: int) -> None:
        """Copies them. Raises what the first that failed raised."""
        for blob in blobs:
            self._watch.blob(blob, "waiting", 0)
        pool = ThreadPoolExecutor(jobs, "obd-copy")
        waiting: set[Future[None]] = {pool.submit(self._blob, blob) for blob in blobs}
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=_TICK_S, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
                self._watch.tick()
        finally:
            self.stop.set()
            for future in waiting:
                future.cancel()
            wait(waiting, timeout=_STOP_S)
            pool.shutdown(wait=False, cancel_futures=True)

    def _blob(self, blob: Descriptor) -> None:
        if self._destination.has_blob(blob):
            self._watch.blob(blob, "there", blob.size)
            return
        self._proceed()
        if self._destination.mount_blob(blob, self._source):
            self._watch.blob(blob, "mounted", blob.size)
            return
        for attempt in range(1, max(_ATTEMPTS.values()) + 1):
            try:
                self._send(blob)
                break
            except OSError as error:
                if self.stop.is_set() or attempt >= _ATTEMPTS.get(kind_of(error), 1):
                    raise
        self._watch.blob(blob, "copied", blob.size)

    def _send(self, blob: Descriptor) -> None:
        self._proceed()

        def progress(done: int, _: int) -> None:
            self._proceed()
            self._watch.blob(blob, "copying", done)

        with self._source.blob(blob) as stream:
            self._destination.put_blob(blob, stream, progress)

    def _proceed(self) -> None:
        if self.stop.is_set():
            raise _Stopped
