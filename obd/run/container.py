"""The directory of a container: what it is made of, what it writes, and the lock of who runs it."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from obd.errors import ObdError, about
from obd.replace import replace_file
from obd.run.image import RunImage
from obd.run.locks import locked, open_lock, try_lock

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
# Whoever only looks after a container owns it for no longer.
_PATIENCE_S: Final = 1.0
_LOOK_S: Final = 0.02
# What is being removed, and would be gone but for a crash.
_GONE: Final = ".gone-"
_REMOVABLE: Final = "obd run --remove removes it with what it has written"


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of a container. `rm`: it goes when it ends. `written`: it has been started."""

    image: RunImage
    rw: bool
    rm: bool
    runtime: str
    command: tuple[str, ...] = ()
    written: bool = False


class Container:
    """A container that this process owns. `run` is there while it runs, or was not tidied up after."""

    def __init__(self, root: str, name: str, lock: int) -> None:
        self.root: Final = root
        self.name: Final = name
        self.path: Final = os.path.join(root, "containers", name)
        self.record: Final = os.path.join(self.path, "container.json")
        self.run: Final = os.path.join(self.path, "run")
        self.rootfs: Final = os.path.join(self.run, "rootfs")
        self.started: Final = os.path.join(self.path, "started")
        """The file whose lock the runtime holds while it lives."""
        self.upper: Final = os.path.join(self.path, "upper")
        self.work: Final = os.path.join(self.path, "work")
        self.config: Final = os.path.join(self.path, "config.json")
        """With a writable device: its image configuration."""
        self._lock = lock

    def read(self) -> Record | None:
        """What is known of it; None if it was never complete. Raises `OSError`."""
        try:
            with open(self.record) as file, about(self.record):
                found = _known(Record, json.load(file))
            image = RunImage(**_known(RunImage, found.pop("image")))
            command = tuple(found.pop("command"))
            return Record(image=image, command=command, **found)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise ObdError("corrupt", f"no record of a container ({_REMOVABLE})", self.record) from None

    def write(self, record: Record) -> None:
        """Records what is known of it."""
        document: dict[str, Any] = asdict(record)
        replace_file(self.record, json.dumps(document).encode(), 0o644)

    def remove(self) -> None:
        """Removes it with all that it has written; nothing may be mounted in it."""
        from obd.snapshotter.layout import remove_tree

        gone = os.path.join(self.root, "containers", f"{_GONE}{os.urandom(8).hex()}")
        with _guard(self.root):
            os.rename(self.path, gone)
        remove_tree(gone)

    def close(self) -> None:
        """Owns it no longer."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def create(root: str, name: str) -> Container:
    """A new container; `name` "" has one made up. Raises `ObdError` "exists"."""
    if name and not _NAME.fullmatch(name):
        raise ObdError("invalid", "a name is of letters, digits and _.-, at most 63", name)
    # Both are separators in the options of an overlay.
    if set(root) & set(',:\\"'):
        raise ObdError(
            "invalid", 'containers cannot lie in a directory with one of , : \\ " in its path', root
        )
    os.makedirs(os.path.join(root, "containers"), mode=0o700, exist_ok=True)
    with _guard(root):
        made = name or f"obd-{os.urandom(4).hex()}"
        path = os.path.join(root, "containers", made)
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            what = f"there is one already (--again {made} starts it again, --remove {made} removes it)"
            raise ObdError("exists", what, made) from None
        container = _owned(root, made)
    assert container is not None, "nobody else looks meanwhile"
    return container


def open_container(root: str, name: str) -> Container:
    """A container that is there and does not run. Raises `ObdError`: "not-found", "busy"."""
    if not _NAME.fullmatch(name) or not os.path.isdir(os.path.join(root, "containers", name)):
        raise ObdError("not-found", "no such container (obd run --list)", name)
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        with _guard(root):
            try:
                container = _owned(root, name)
            except FileNotFoundError:
                raise ObdError("not-found", "it is being removed", name) from None
        if container is not None:
            return container
        if time.monotonic() > deadline:
            raise ObdError("busy", "it runs", name)
        time.sleep(_LOOK_S)


def names(root: str) -> list[str]:
    """The names of all containers."""
    try:
        return sorted(name for name in os.listdir(os.path.join(root, "containers")) if _NAME.fullmatch(name))
    except FileNotFoundError:
        return []


def ownerless(root: str) -> Iterator[Container]:
    """Those that nobody owns: kept, or left by one that was killed. The caller owns them meanwhile."""
    from obd.snapshotter.layout import remove_tree

    for name in names(root):
        with _guard(root):
            try:
                container = _owned(root, name)
            except FileNotFoundError:
                continue  # removed meanwhile
        if container is not None:
            try:
                yield container
            finally:
                container.close()
    parent = os.path.join(root, "containers")
    if os.path.isdir(parent):
        for name in os.listdir(parent):
            if name.startswith(_GONE):
                with suppress(FileNotFoundError):  # another does so too
                    remove_tree(os.path.join(parent, name))


def _owned(root: str, name: str) -> Container | None:
    path = os.path.join(root, "containers", name, "lock")
    lock = open_lock(path)
    mine = False
    try:
        mine = try_lock(lock, path)
        return Container(root, name, lock) if mine else None
    finally:
        if not mine:
            os.close(lock)


def _guard(root: str) -> AbstractContextManager[None]:
    """Held while a container comes or goes."""
    return locked(os.path.join(root, "lock"))


def _known(kind: type, found: dict[str, Any]) -> dict[str, Any]:
    """What this version knows of what a record says."""
    return {each.name: found[each.name] for each in fields(kind) if each.name in found}


def peek(root: str, name: str) -> Record | None:
    """What is known of a container, whoever owns it."""
    return Container(root, name, -1).read()
