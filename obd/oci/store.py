"""What layouts are read from: members by name, whether in a directory or in an archive."""

from __future__ import annotations

import contextlib
import os
import stat
from typing import BinaryIO, Protocol, Self

from obd.errors import ObdError, about, kind_of
from obd.oci.limits import MAX_MANIFEST_BYTES


class Store(Protocol):
    """Files by name, such as `blobs/sha256/…`. Names come from here or from checked digests only."""

    name: str
    """For messages."""

    def open(self, name: str) -> BinaryIO:
        """The file, which is to be closed. Raises `ObdError`: "not-found", or why it cannot be read."""

    def size(self, name: str) -> int:
        """Its bytes. Raises as `open`."""

    def path(self, name: str) -> str | None:
        """The file of this machine that it is, if it is one."""
        return None

    def read(self, name: str) -> bytes:
        """All of a document. Raises as `open`, and "limit" for one that is too long."""
        with about(f"{self.name}/{name}"), contextlib.closing(self.open(name)) as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
        if len(data) > MAX_MANIFEST_BYTES:
            raise ObdError("limit", f"{name} is longer than {MAX_MANIFEST_BYTES} bytes", self.name)
        return data

    def close(self) -> None:
        """Gives back what it holds."""
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Directory(Store):
    """The files below a directory."""

    def __init__(self, path: str) -> None:
        self.name = path

    def open(self, name: str) -> BinaryIO:
        """As `Store.open`."""
        path = os.path.join(self.name, name)
        try:
            # A pipe of that name must not keep us waiting.
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise ObdError(kind_of(error), f"cannot open: {error.strerror}", path) from None
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise ObdError("corrupt", "not a regular file", path)
        return os.fdopen(fd, "rb")

    def size(self, name: str) -> int:
        """As `Store.size`."""
        with self.open(name) as file:
            return os.fstat(file.fileno()).st_size

    def path(self, name: str) -> str | None:
        """As `Store.path`."""
        return os.path.join(self.name, name)
