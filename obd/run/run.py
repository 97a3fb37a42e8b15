"""A container from its beginning to its end: made or found, started, waited for, and tidied up after."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from obd.errors import ObdError, about
from obd.run import rootfs, spec
from obd.run.container import Container, Record, create, open_container, ownerless, peek
from obd.run.locks import open_lock, try_lock
from obd.run.runtime import CommandFailed, Runtime, find_runtime, undisturbed
from obd.run.shared import SharedImage, clean_images
from obd.run.user import resolve_user

if TYPE_CHECKING:
    from collections.abc import Callable

    from obd.run.image import RunImage
    from obd.run.spec import Wishes

# A runtime whose container was killed is gone within so long.
_END_S: Final = 30.0
_LOOK_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Way:
    """How devices are attached: `via` and `service` as of `obd.attach.attach`."""

    via: str
    service: str | None


def new(root: str, name: str, image: RunImage, *, rw: bool, rm: bool, runtime: str) -> Container:
    """A new container, which this process owns. Raises `OSError`."""
    path = find_runtime(runtime)
    container = create(root, name)
    try:
        container.write(Record(image, rw, rm, path))
    except BaseException:
        with undisturbed():
            container.remove()
            container.close()
        raise
    return container


def again(root: str, name: str, *, runtime: str) -> Container:
    """A container that was kept, to be started again. Raises `OSError`."""
    container = open_container(root, name)
    try:
        record = tidy(container)
        if record is None:
            raise ObdError("not-found", "it never came to be", name)
        if runtime:
            container.write(replace(record, runtime=find_runtime(runtime)))
    except BaseException:
        container.close()
        raise
    return container


def run(container: Container, wishes: Wishes, way: Way) -> int:
    """Runs a container of this process to its end; the exit status of its command.

    Whatever happens, nothing of it runs or is mounted afterwards. Raises `OSError`.
    """
    record = container.read()
    assert record is not None
    image = None if record.rw else SharedImage(record.image.document)
    try:
        os.makedirs(container.rootfs, mode=0o700, exist_ok=True)
        rootfs.make_writable(container, record)
        if image is None:
            rootfs.mount_device(container, way.via, way.service)
        else:
            image.provide(way.via, way.service)
            rootfs.mount_overlay(container, image.mount_point)
        return _start(container, record, wishes, image)
    finally:
        with undisturbed():
            try:
                tidy(container)
            finally:
                if image is not None:
                    image.leave()


def _start(container: Container, record: Record, wishes: Wishes, image: SharedImage | None) -> int:
    settings = record.image.settings
    wishes = replace(wishes, command=wishes.command or record.command)
    user = resolve_user(container.rootfs, spec.user_of(settings, wishes))
    digest = {"org.opencontainers.image.base.digest": record.image.digest} if record.image.digest else {}
    annotations = {"org.opencontainers.image.ref.name": record.image.name, **digest}
    document = spec.document(
        settings, wishes, rootfs=container.rootfs, user=user, name=container.name, annotations=annotations
    )
    place = os.path.join(container.run, "config.json")
    with about(place), open(place, "w") as file:
        json.dump(document, file, indent=2)
    container.write(replace(record, command=wishes.command, written=True))
    started = open_lock(container.started)
    try:
        try_lock(started, container.started)
        users = [started] if image is None else [started, image.users]
        return Runtime(record.runtime).run(container.name, container.run, users, terminal=wishes.terminal)
    except CommandFailed:
        container.write(record)  # it has written nothing
        raise
    finally:
        os.close(started)


def tidy(container: Container) -> Record | None:
    """Ends what is left of a container's last run; nothing of that is there afterwards. Raises `OSError`."""
    record = container.read()
    _tidy(container, record)
    return record


def _tidy(container: Container, record: Record | None) -> None:
    if not os.path.isdir(container.run):
        return
    if record is not None and record.written:
        _end(container, Runtime(record.runtime))
    rootfs.unmount(container)
    for name in ("config.json", "log"):
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(container.run, name))
    with suppress(FileNotFoundError):
        os.rmdir(container.rootfs)
    os.rmdir(container.run)


def _end(container: Container, runtime: Runtime) -> None:
    """Ends the runtime, and all that runs in the container."""
    started = open_lock(container.started)
    deadline = time.monotonic() + _END_S
    try:
        while not try_lock(started, container.started):
            if time.monotonic() > deadline:
                raise ObdError("busy", "its runtime does not end", container.name)
            runtime.delete(container.name)
            time.sleep(_LOOK_S)
        # Of a runtime that was killed, the container may live on.
        runtime.delete(container.name)
    finally:
        os.close(started)


def keep_until_committed(container: Container) -> None:
    """Has a container stay, whatever was wanted, if the commit fails or is killed."""
    record = container.read()
    assert record is not None
    container.write(replace(record, rm=False))


def finish(container: Container, *, keep: bool) -> None:
    """Keeps or removes a container that has ended; this process owns it no longer. Raises `OSError`.

    What could not be tidied up stays for `clean`: with the container would go the names of what is mounted.
    """
    with undisturbed():
        try:
            if not keep and not os.path.isdir(container.run):
                container.remove()
        finally:
            container.close()


def remove(container: Container) -> None:
    """Removes a container, also one whose record says nothing any more. Raises `OSError`."""
    keep = True
    try:
        try:
            record = container.read()
        except ObdError:
            record = None
        _tidy(container, record)
        keep = False
    finally:
        finish(container, keep=keep)


def clean(root: str, told: Callable[[str], None]) -> int:
    """Tidies up after all that were killed; how many containers there were of them.

    What cannot be is `told`, and left for the next time.
    """
    count = 0
    with undisturbed():
        for container in ownerless(root):
            try:
                count += _clean(container)
            except OSError as error:
                told(f"{container.name}: {error}")
        try:
            clean_images()
        except OSError as error:
            told(str(error))
    return count


def _clean(container: Container) -> bool:
    left = os.path.isdir(container.run)
    record = tidy(container)
    if record is None or record.rm or not record.written:
        container.remove()
        left = True
    return left


def look(root: str, name: str) -> tuple[str, Record | None]:
    """Whether a container is "running", "ended" or "killed", and what is known of it."""
    try:
        container = open_container(root, name)
    except ObdError as error:
        return ("running", peek(root, name)) if error.kind == "busy" else ("", None)
    try:
        return "killed" if os.path.isdir(container.run) else "ended", container.read()
    finally:
        container.close()
