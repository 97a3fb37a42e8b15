"""Live snapshot: the upper of an open device becomes a lower, and the device's configuration follows."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from obd.config import ConfigError, ImageConfig, Lower, Upper
from obd.config.image import parse_image
from obd.config.strict_json import MAX_CONFIG_BYTES, parse_object, read_object
from obd.errors import ObdError, kind_of, line_of
from obd.interrupted import announced, same_file
from obd.locate import Source, locate
from obd.replace import sync_directory
from obd.result import ResultFile

if TYPE_CHECKING:
    from obd.image import Device


@dataclass(frozen=True, slots=True)
class Taken:
    """What came of a snapshot."""

    sealed: str
    """The data file that was the upper, now the topmost lower."""
    pause_s: float
    """How long writes waited for it, seconds."""
    segments: int
    """Entries of the sealed layer's index."""
    repeated: bool = False
    """True if the device was as asked for already: an earlier call had done it."""


def snapshot(device: Device, data: str, index: str, *, sparse: bool) -> Taken:
    """Takes a snapshot and adds it to the file that the device was opened with, if there is one."""
    before = device.snapshots
    upper = _finished(device)
    if device.snapshots > before and same_file(data, upper.data) and same_file(index, upper.index):
        return _repeated(device)
    new_upper = replace(upper, data=os.path.abspath(data), index=os.path.abspath(index))
    sealed = os.path.abspath(upper.data)
    lowers = list(device.config.lowers)
    lowers.insert(len(device.config.data_lowers), Lower(file=sealed))
    config = replace(device.config, lowers=tuple(lowers), upper=new_upper)
    content = _extended(device.config, config, sealed) if config.file else b""
    return _take(device, config, content, sparse=sparse)


def snapshot_to(device: Device, path: str) -> Taken:
    """Takes the snapshot that the file `path` describes, and reports to its result file.

    A copy of `path` takes the place of the device's configuration.
    """
    mine = device.config.result_file
    result_file = ""
    try:
        content = _content(path)
        config = parse_image(parse_object(content, path), path)
        result_file = config.result_file
        taken = _take_to(device, config, content)
    except BaseException as error:
        result_file = error.result_file if isinstance(error, ConfigError) else result_file
        if result_file != mine:
            ResultFile(result_file).failed(line_of(error))
        raise
    if result_file != mine:
        ResultFile(result_file).success()
    return taken


def _take_to(device: Device, config: ImageConfig, content: bytes) -> Taken:
    _finished(device)
    if _describes(config, device.config, device.sources):
        _Replacement(device.config.file, content, config.file).publish()
        return _repeated(device)
    _check_follows(config, device)
    return _take(device, config, content, sparse=False)


def _finished(device: Device) -> Upper:
    """The upper, once what an earlier snapshot left to do is done: that changes the configuration."""
    if device.read_only:
        raise ObdError("read-only", "no snapshot: the device has no upper", device.config.file)
    if device.native.snapshot_unfinished:
        device.native.flush()
    return device.config.upper


def _repeated(device: Device) -> Taken:
    return Taken(device.sources[-1].path if device.sources else "", 0.0, 0, repeated=True)


def _take(device: Device, config: ImageConfig, content: bytes, *, sparse: bool) -> Taken:
    old = device.config.upper
    mine = device.config.file
    replacement = _Replacement(mine, content, config.file)
    sealed = os.path.abspath(old.data)
    position = len(device.config.data_lowers)
    source = Source(position, config.data_lowers[position], sealed, "")
    become = replace(config, file=mine)

    def publish() -> None:
        replacement.publish()
        device.config = become
        device.sources = (*device.sources, source)
        device.snapshots += 1

    try:
        taken = device.native.snapshot(
            config.upper.data,
            config.upper.index,
            sparse=sparse,
            announce=replacement.announce,
            publish=publish,
        )
    except BaseException:
        if not device.native.snapshot_unfinished:
            replacement.drop()
        raise
    return Taken(sealed, taken["pause_s"], taken["segments"])


class _Replacement:
    """New content for a configuration file, durable beside it, and put in its place in one step.

    All that may fail for want of room or permission is done before the snapshot. From the announcement on it
    has a name by which `obd.interrupted` finds it, should this process die.
    """

    def __init__(self, path: str, content: bytes, like: str) -> None:
        """`like` is a file whose permissions the new one gets. An empty `path` has nothing replaced."""
        self._path: Final = os.path.realpath(path) if path else ""
        self._temporary: Final = f"{self._path}.snapshot"
        self._name = self._temporary
        self._in_place = not self._path
        if self._in_place:
            return
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._temporary)
            with open(self._temporary, "xb") as file:
                file.write(content)
                os.fchmod(file.fileno(), os.stat(like).st_mode & 0o777)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            self.drop()
            raise self._failure("cannot be written", error) from None
        except BaseException:
            self.drop()
            raise

    def announce(self) -> None:
        """Has the snapshot finished by whoever opens the configuration next, durably."""
        if self._path:
            try:
                os.rename(self._temporary, announced(self._path))
                self._name = announced(self._path)
                sync_directory(self._path)
            except OSError as error:
                raise self._failure("cannot be announced", error) from None

    def publish(self) -> None:
        """Puts the content in place, durably. May be called again after a failure."""
        try:
            if not self._in_place:
                os.replace(self._name, self._path)
                self._in_place = True
            if self._path:
                sync_directory(self._path)
        except OSError as error:
            raise self._failure("cannot be put in place", error) from None

    def _failure(self, what: str, error: OSError) -> ObdError:
        return ObdError(kind_of(error), f"the new configuration {what}: {error.strerror}", self._path)

    def drop(self) -> None:
        """Leaves all as it was."""
        with contextlib.suppress(OSError):
            os.unlink(self._name)
            sync_directory(self._path)


def _content(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot open: {error.strerror}", kind=kind_of(error), file=path) from None


def _extended(old: ImageConfig, new: ImageConfig, sealed: str) -> bytes:
    """The file `old` was read from, with one more lower and the new upper; all else as it stands there."""
    root: dict[str, Any] = read_object(old.file)
    now = parse_image(root, old.file)
    if (now.lowers, now.upper) != (old.lowers, old.upper):
        what = (
            "was changed since the device was opened: make a new configuration and take the snapshot to that"
        )
        raise ObdError("invalid", what, old.file)
    root.setdefault("lowers", []).insert(len(old.data_lowers), {"file": sealed})
    root["upper"].update(data=new.upper.data, index=new.upper.index)
    return json.dumps(root, indent=2).encode() + b"\n"


def _check_follows(config: ImageConfig, device: Device) -> None:
    """Refuses a configuration that a restart would make another device of than the snapshot does."""
    old = device.config
    if not config.writable:
        raise ObdError("invalid", "upper must name both index and data: that of the new upper", config.file)
    if config.upper.target:
        raise ObdError("unsupported", "upper.target: no snapshot to an upper of turboOCI", config.file)
    for key, mine, theirs in (
        ("data", old.upper.data, config.upper.data),
        ("index", old.upper.index, config.upper.index),
    ):
        if same_file(mine, theirs):
            raise ObdError("invalid", f"upper.{key}: {theirs} is that of the present upper", config.file)
    lowers = config.data_lowers
    if len(lowers) != len(device.sources) + 1:
        what = (
            f"lowers: {len(lowers)} layers, but the device has {len(device.sources)} and one is to be added"
        )
        raise ObdError("invalid", what, config.file)
    found = locate(config)
    for source, present in zip(found, device.sources, strict=False):
        if not _same_layer(source, present):
            what = f"lowers[{source.position}] is not the layer that the device has there"
            raise ObdError("invalid", what, config.file)
    if not same_file(found[-1].path, old.upper.data):
        what = f"lowers[{len(found) - 1}] must be the present upper, {old.upper.data}"
        raise ObdError("invalid", what, config.file)


def _describes(config: ImageConfig, present: ImageConfig, sources: tuple[Source, ...]) -> bool:
    """Whether `config` is of the very layers that the device is made of."""
    if len(config.data_lowers) != len(sources) or not config.writable:
        return False
    same = (_same_layer(one, other) for one, other in zip(locate(config), sources, strict=True))
    upper = config.upper
    return (
        all(same)
        and same_file(upper.data, present.upper.data)
        and same_file(upper.index, present.upper.index)
    )


def _same_layer(one: Source, other: Source) -> bool:
    if len(one.parts) != len(other.parts):
        return False
    return all(_same_part(mine, theirs) for mine, theirs in zip(one.parts, other.parts, strict=True))


def _same_part(one: Source, other: Source) -> bool:
    if one.lower.digest and other.lower.digest:
        return one.lower.digest == other.lower.digest
    return same_file(one.path, other.path)
