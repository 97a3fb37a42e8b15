"""The root file system of a container: an overlay upon the device of the image, or a writable device."""

from __future__ import annotations

import json
import os
import subprocess
import time
from contextlib import suppress
from typing import Final

import obdcore
from obd import attach as attachments
from obd.errors import ObdError
from obd.mount import filesystem
from obd.replace import replace_file
from obd.run.container import Container, Record

# A mount is also in the namespace of a container that is just starting, for a moment.
_PATIENCE_S: Final = 5.0
_LOOK_S: Final = 0.02


def make_writable(container: Container, record: Record) -> None:
    """Makes what the container writes to, if it is not there yet. Raises `OSError`."""
    if not record.rw:
        os.makedirs(container.upper, mode=0o755, exist_ok=True)
        os.chmod(container.upper, 0o755)  # it is seen as the root directory, whatever the umask
        os.makedirs(container.work, mode=0o700, exist_ok=True)
    elif not os.path.exists(container.config):
        data, index = (os.path.join(container.path, f"upper.{kind}") for kind in ("data", "index"))
        for left in (data, index):
            with suppress(FileNotFoundError):
                os.unlink(left)
        obdcore.lsmt_create(data, index, size=0)
        document = {**record.image.document, "upper": {"data": data, "index": index}}
        replace_file(container.config, json.dumps(document, indent=2).encode(), 0o644)


def mount_overlay(container: Container, lower: str) -> None:
    """Mounts the overlay upon the directory `lower`. Raises `ObdError`."""
    options = f"nodev,lowerdir={lower},upperdir={container.upper},workdir={container.work}"
    words = ["mount", "-t", "overlay", "-o", options, "overlay", container.rootfs]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        said = " ".join(done.stderr.decode("utf-8", "replace").split())
        raise ObdError("io", f"no overlay: {said}", container.rootfs)


def mount_device(container: Container, via: str, service: str | None) -> None:
    """Attaches and mounts the container's own device. Raises `OSError`."""
    device = attachments.attach(container.config, via=via, rw=True, service=service)
    with open(device.path, "rb") as file:
        head = file.read(filesystem.HEAD_BYTES)
    if filesystem.kind_of_filesystem(head) == "erofs":
        what = "its file system, EROFS, cannot be written to: run it without --rw"
        raise ObdError("unsupported", what, container.name)
    filesystem.mount(device.path, container.rootfs, head, read_only=False)


def unmount(container: Container) -> None:
    """Takes back whatever of it is there; all that was written is durable then. Raises `OSError`."""
    take_away(container.rootfs, container.config if os.path.exists(container.config) else "")


def take_away(directory: str, config: str) -> None:
    """Unmounts what is at `directory`, and detaches the image `config` ("": none). Raises `OSError`."""
    deadline = time.monotonic() + _PATIENCE_S
    lost = ""
    while True:
        try:
            if filesystem.is_mount_point(directory):
                lost = filesystem.unmount(directory)
            if config:
                attachments.detach(config)
            if lost:
                raise ObdError("io", f"the last writes may be lost: {lost}")
            return
        except ObdError as error:
            if error.kind != "busy" or time.monotonic() > deadline:
                raise
        time.sleep(_LOOK_S)
