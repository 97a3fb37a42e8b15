"""A client of the snapshotter's service, as containerd is one, and its mounts made."""

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from obd.snapshotter.wire import MESSAGES, METHODS, SERVICE

TIMEOUT_S = 60.0


class Refused(Exception):
    """A call that failed: its status code and what was said of it."""

    def __init__(self, error: grpc.RpcError) -> None:
        super().__init__(error.details())
        self.code: str = error.code().name
        self.what: str = error.details() or ""


class Client:
    """Calls the service at a socket."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(f"unix:{address}")

    def close(self) -> None:
        self._channel.close()

    def call(self, name: str, /, *, timeout_s: float = TIMEOUT_S, **fields: Any) -> Any:
        """One call: the answer, or of a stream all answers."""
        method = METHODS[name]
        make: Any = self._channel.unary_stream if method.streams else self._channel.unary_unary
        call = make(
            f"/{SERVICE}/{name}",
            request_serializer=MESSAGES[method.request].SerializeToString,
            response_deserializer=MESSAGES[method.response].FromString,
        )
        metadata = [("containerd-namespace", "default")]
        try:
            answer = call(MESSAGES[method.request](**fields), timeout=timeout_s, metadata=metadata)
            return list(answer) if method.streams else answer
        except grpc.RpcError as error:
            raise Refused(error) from None

    def prepare(self, key: str, parent: str = "", **labels: str) -> list[Any]:
        return list(self.call("Prepare", key=key, parent=parent, labels=labels).mounts)

    def view(self, key: str, parent: str = "", **labels: str) -> list[Any]:
        return list(self.call("View", key=key, parent=parent, labels=labels).mounts)

    def mounts(self, key: str) -> list[Any]:
        return list(self.call("Mounts", key=key).mounts)

    def commit(self, name: str, key: str, labels: Mapping[str, str] | None = None) -> None:
        self.call("Commit", name=name, key=key, labels=dict(labels or {}))

    def remove(self, key: str) -> None:
        self.call("Remove", key=key)

    def stat(self, key: str) -> Any:
        return self.call("Stat", key=key).info

    def update(self, name: str, labels: Mapping[str, str], *fields: str) -> Any:
        mask = MESSAGES["UpdateSnapshotRequest"]().update_mask
        mask.paths.extend(fields)
        info = MESSAGES["Info"](name=name, labels=dict(labels))
        return self.call("Update", info=info, update_mask=mask).info

    def names(self, *filters: str) -> list[str]:
        return [info.name for answer in self.call("List", filters=filters) for info in answer.info]

    def usage(self, key: str) -> tuple[int, int]:
        found = self.call("Usage", key=key)
        return found.size, found.inodes


@contextmanager
def mounted(mounts: list[Any], directory: Path) -> Iterator[Path]:
    """What a snapshot shows, at a directory, as containerd mounts it."""
    (mount,) = mounts
    directory.mkdir(exist_ok=True)
    kind = [] if mount.type == "bind" else ["-t", mount.type]
    options = ["--rbind" if each == "rbind" else each for each in mount.options]
    words = [each for each in options if each == "--rbind"]
    rest = ",".join(each for each in options if each != "--rbind")
    subprocess.run(["mount", *kind, *words, "-o", rest, mount.source, directory], check=True)
    if "ro" in mount.options and mount.type == "bind":
        subprocess.run(["mount", "-o", "remount,bind,ro", directory], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", directory], check=True)


def tree(directory: Path) -> dict[str, str]:
    """The files below a directory and what they say; a directory ends with a slash."""
    found = {}
    for path, names, files in os.walk(directory):
        for name in names:
            found[os.path.relpath(os.path.join(path, name), directory) + "/"] = ""
        for name in files:
            file = Path(path, name)
            found[str(file.relative_to(directory))] = file.read_text()
    return found
