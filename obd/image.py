"""Opening an image: its configuration becomes a block device, and the outcome a result file."""

from __future__ import annotations

import logging
import os
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import obdcore
from obd.companions import Companion, start_companions
from obd.config import ConfigError, ImageConfig, check_image, load_image
from obd.errors import line_of
from obd.interrupted import resume
from obd.locate import Source, locate
from obd.reasons import OpenError, refusal
from obd.result import ResultFile
from obd.service import Service
from obd.snapshot import Taken, snapshot, snapshot_to

if TYPE_CHECKING:
    from collections.abc import Callable

    from cache.download import Downloads
    from cache.prefetch import Replay

_log: Final = logging.getLogger("overlaybd.image")


class Device:
    """An open image as a block device. Offsets and lengths are bytes; safe for use by several threads."""

    def __init__(
        self,
        native: obdcore.Image,
        config: ImageConfig,
        sources: list[Source],
        blobs: dict[int, obdcore.RemoteBlob],
        targets: dict[int, obdcore.RemoteBlob],
    ):
        self.native: Final = native
        """The core's image, for front ends."""
        self.config = config
        """What the device is made of, as its file says now: a snapshot changes it."""
        self.sources = tuple(sources)
        """Where each lower comes from, bottom first; a snapshot adds one."""
        self.snapshots = 0
        """Snapshots taken since the device was opened."""
        self.blobs: Final = blobs
        """The remote lowers by their position; a lower that is read locally is not there."""
        self.targets: Final = targets
        """The remote targets of turboOCI layers, likewise."""
        self.recording = False
        """True if the configuration has a trace recorded: then nothing is downloaded beside it."""
        self.prefetch: Replay | None = None
        """What is fetched in advance, if anything is."""
        self.downloads: Downloads | None = None
        """The download of the remote lowers to this machine, if there is one."""
        self.on_grown: Callable[[], None] | None = None
        """Called when the device has grown, for a front end that must tell its users."""
        self._companions: list[Companion] = []
        self._changing: Final = threading.Lock()

    @property
    def size(self) -> int:
        """Virtual size of the device in bytes."""
        return self.native.size

    @property
    def read_only(self) -> bool:
        """True if the image has no upper."""
        return self.native.read_only

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes. Raises `obdcore.Error` if they cannot be had right or lie beyond."""
        return self.native.read_at(offset, length)

    def write(self, offset: int, data: bytes) -> None:
        """Writes all of `data`. It survives a loss of power once `flush` has returned."""
        self.native.write_at(offset, data)

    def discard(self, offset: int, length: int) -> None:
        """Makes the range read as zeros and frees its room where possible."""
        self.native.discard(offset, length)

    def flush(self) -> None:
        """Returns when all that was written is durable."""
        self.native.flush()

    def extents(self, offset: int, length: int) -> list[tuple[int, str]]:
        """Runs of the range in order, as (length, "data" | "zero" | "hole"); only "data" needs reading."""
        return self.native.extents(offset, length)

    def snapshot(self, data: str, index: str, *, sparse: bool = False) -> Taken:
        """Seals the upper, which becomes the topmost lower, and goes on with a new one, all while in use.

        `data` and `index` name the new upper: an empty one if both exist; if neither does they are
        created, `sparse` or log-structured. What was acknowledged before the call is below, and durable
        on return; writes wait for at most 0.1 s. The configuration file of the device, if it has one,
        then says the new layers. After an error the device goes on with right data, and the call can be
        repeated. Raises `ObdError`, `obdcore.Error`.
        """
        with self._changing:
            return snapshot(self, data, index, sparse=sparse)

    def snapshot_to(self, config: str | os.PathLike[str]) -> Taken:
        """As `snapshot`, to what the file `config` describes.

        That must be the lowers of the device, its upper as one more, and a new upper. A copy of the file
        takes the place of the configuration that the device was opened with. If the device is what
        `config` says, as an earlier call did it, nothing more is done. The outcome also goes to
        `resultFile` of `config`, unless that is the device's own.
        """
        with self._changing:
            return snapshot_to(self, os.fspath(config))

    def resize(self, size_bytes: int) -> None:
        """Lets the device grow to `size_bytes`, a multiple of 512, durably, while in use.

        The file system inside is not touched. A smaller size is refused. Raises `obdcore.Error`.
        """
        with self._changing:
            self.native.resize(size_bytes)
            if self.on_grown is not None:
                self.on_grown()

    def statistics(self) -> dict[str, Any]:
        """Counters since the image was opened: requests and bytes, and per lower what was fetched for it.

        `prefetch`, if there is any: what `obdcore.Prefetch.stats` says. `download` of a layer, if it is to be
        downloaded: `state`, `done_bytes`, `error`, as in `cache.download.LayerProgress`. `target` of one of
        turboOCI: the same as of a layer.
        """
        layers: list[dict[str, Any]] = []
        for source in self.sources:
            layer, *target = (
                {"source": part.path or part.shown_url, **(blob.stats() if blob else {})}
                for part, blob in zip(source.parts, self.remote(source.position), strict=False)
            )
            layers.append(layer | ({"target": target[0]} if target else {}))
        for each in self.downloads.progress() if self.downloads else ():
            found = layers[each.position]
            (found["target"] if each.is_target else found)["download"] = {
                "state": each.state,
                "done_bytes": each.done_bytes,
                "error": each.error,
            }
        prefetch = {"prefetch": self.prefetch.stats()} if self.prefetch else {}
        return {**self.native.stats(), "snapshots": self.snapshots, "layers": layers, **prefetch}

    def remote(self, position: int) -> tuple[obdcore.RemoteBlob | None, obdcore.RemoteBlob | None]:
        """The blobs of a lower that are remote: its own, and that of its target."""
        return self.blobs.get(position), self.targets.get(position)

    @property
    def is_local(self) -> bool:
        """True if no part of a lower is in a registry."""
        return not self.blobs and not self.targets

    def endure(self, seconds: float) -> None:
        """Has requests wait so long for a registry that is away, before they fail; 0 ends all waits."""
        for blob in (*self.blobs.values(), *self.targets.values()):
            blob.endure(seconds)

    def attend(self, companion: Companion) -> None:
        """Has `companion` stopped before the device closes."""
        self._companions.append(companion)

    def close(self) -> None:
        """Ends what works beside the device, flushes and closes.

        Front ends that still serve the device keep it open until they end.
        """
        self.endure(0)  # nobody is to wait any more
        while self._companions:
            self._companions.pop().stop()
        self.native.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_device(
    config: str | os.PathLike[str] | ImageConfig,
    service: Service | str | os.PathLike[str] | None = None,
    *,
    sparing: bool = False,
) -> Device:
    """Opens the image that `config`, an object or the path of a file, describes.

    `service` holds what the images of a process share; a path is that of a service configuration, None means
    the host's. `sparing`: little of it will be read, so that remote layers are fetched in small ranges.
    The outcome also goes to `resultFile` of the configuration. Raises `ObdError`.
    """
    try:
        if isinstance(config, ImageConfig):
            check_image(config)
        else:
            config = load_image(config)
    except ConfigError as error:
        result_file = config.result_file if isinstance(config, ImageConfig) else error.result_file
        ResultFile(result_file).failed(str(error))
        raise
    result = ResultFile(config.result_file)
    try:
        if not isinstance(service, Service):
            service = Service(service)
        config = resume(config)
        device = _open(config, service, sparing)
    except BaseException as error:
        result.failed(error.result if isinstance(error, OpenError) else line_of(error))
        raise
    # Not before: what cannot be opened is to fail soon.
    device.endure(service.config.outage_timeout_s)
    start_companions(device, service)
    result.success()
    return device


def _open(config: ImageConfig, service: Service, sparing: bool) -> Device:
    _warn(config)
    sources = locate(config)
    blobs: dict[int, obdcore.RemoteBlob] = {}
    targets: dict[int, obdcore.RemoteBlob] = {}

    def blob(part: Source) -> obdcore.RemoteBlob:
        opened = targets if part.is_target else blobs
        if part.position not in opened:
            if not part.url:
                raise _nowhere(config, part)
            opened[part.position] = service.blob(part.url, part.lower)
            if sparing:
                opened[part.position].spare()
        return opened[part.position]

    first: OpenError | None = None
    while True:
        try:
            natives = [source.native(blob, service.gzip_cache, service.tree) for source in sources]
            native = obdcore.Image(natives, upper_files(config), engine=service.config.io_engine)
            for line in obdcore.engine_notices():
                _log.warning("%s", line)
            return Device(native, config, sources, blobs, targets)
        except OSError as error:
            failure = refusal(error, sources, config)
            # Upstream reports the first failure even if it is that of a local file which was then got round.
            first = first or failure
            bad = failure.source
            if bad is None or not bad.local or not bad.url:
                raise first.with_later(failure) from error
            _log.warning("%s; reading %s from the registry instead", failure.what, bad.title)
            sources[bad.position] = sources[bad.position].remotely(bad)


def upper_files(config: ImageConfig) -> tuple[str, str] | tuple[str, str, str, str | None] | None:
    """The upper as the core takes it, None if the configuration has none."""
    upper = config.upper
    if not config.writable:
        return None
    if not upper.target:
        return upper.data, upper.index
    return upper.data, upper.index, upper.target, upper.gzip_index or None


def _nowhere(config: ImageConfig, part: Source) -> OpenError:
    if not config.repo_blob_url:
        return OpenError("not-found", f"empty repoBlobUrl: {part.nowhere}", source=part)
    what = f"failed to open {part.title}: {part.nowhere} and has no digest"
    return OpenError("not-found", what, source=part)


def _warn(config: ImageConfig) -> None:
    """Logs what the configuration asks for and does not get, where the device is right without it."""
    name = config.file or "image configuration"
    for key in config.unknown_keys:
        _log.warning("%s: unknown key %s is ignored", name, key)
    if bool(config.upper.index) != bool(config.upper.data):
        _log.warning("%s: upper needs both index and data: the device is read-only", name)
