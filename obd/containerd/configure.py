"""Containerd's own configuration: the snapshotter is added to it, whatever its version; the rest stays."""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Final

import tomlkit
from tomlkit.exceptions import TOMLKitError

from obd.errors import ObdError
from obd.replace import replace_file

DEFAULT_FILE: Final = "/etc/containerd/config.toml"
MAX_BYTES: Final = 1 << 20
NAME: Final = "overlaybd"

# Where each version of the file has the settings of CRI: of images, and of its runtimes.
_CRI: Final = {
    1: (("plugins", "cri", "containerd"), ("plugins", "cri", "containerd")),
    2: (("plugins", "io.containerd.grpc.v1.cri", "containerd"),) * 2,
    3: (
        ("plugins", "io.containerd.cri.v1.images"),
        ("plugins", "io.containerd.cri.v1.runtime", "containerd"),
    ),
}
_TRANSFER: Final = ("plugins", "io.containerd.transfer.v1.local")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be so: where the snapshotter listens and keeps its files, and who uses it."""

    address: str
    root: str
    cri: bool = False
    """Kubernetes' containers use it, unless their runtime class says otherwise."""
    runtime: str = ""
    """Name of a runtime of CRI, for a runtime class, whose containers use it; "" for none."""
    platform: str = "linux/amd64"


def configured(text: str, wanted: Wanted, where: str = "config.toml") -> tuple[str, list[str]]:
    """The file with what is wanted, and what was changed, in words. Raises `ObdError`."""
    try:
        document = tomlkit.parse(text)
    except (TOMLKitError, RecursionError) as error:
        raise ObdError("invalid", f"no TOML: {error}", where) from error
    version = document.get("version", 2 if not text.strip() else 1)
    if version not in _CRI:
        raise ObdError("unsupported", f"version = {version!r}: known are 1, 2 and 3", where)
    if not text.strip():
        document["version"] = version
    editor = _Editor(document, where)
    plugin = ("proxy_plugins", NAME)
    editor.put(plugin, "type", "snapshot")
    editor.put(plugin, "address", wanted.address)
    if version == 3:
        # Else pulls by the transfer service tell the snapshotter nothing of the image.
        editor.put((*plugin, "exports"), "root", wanted.root)
        editor.put((*plugin, "exports"), "enable_remote_snapshot_annotations", "true")
        editor.add(_TRANSFER, "unpack_config", {"platform": wanted.platform, "snapshotter": NAME})
    images, runtimes = _CRI[version]
    if wanted.cri or wanted.runtime:
        editor.put(images, "disable_snapshot_annotations", False)
    if wanted.cri:
        editor.put(images, "snapshotter", NAME)
    if wanted.runtime:
        runtime = (*runtimes, "runtimes", wanted.runtime)
        editor.put(runtime, "runtime_type", "io.containerd.runc.v2")
        editor.put(runtime, "snapshotter", NAME)
    return tomlkit.dumps(document), editor.changes


class _Editor:
    """Changes a document, and remembers what it changed."""

    def __init__(self, document: tomlkit.TOMLDocument, where: str) -> None:
        self._document = document
        self._where = where
        self.changes: list[str] = []

    def put(self, path: tuple[str, ...], key: str, value: object) -> None:
        """Has a key say something."""
        table = self._table(path)
        if key in table and table[key] == value:
            return
        table[key] = value
        self.changes.append(f"{_dotted((*path, key))} = {_shown(value)}")

    def add(self, path: tuple[str, ...], key: str, entry: Mapping[str, str]) -> None:
        """Has a list of tables hold an entry."""
        table = self._table(path)
        entries = table.get(key)
        if entries is None:
            table[key] = entries = tomlkit.aot()
        if not isinstance(entries, list):
            raise ObdError("invalid", f"{_dotted((*path, key))} is no list of tables", self._where)
        if not any(dict(each) == dict(entry) for each in entries):
            added = tomlkit.table()
            added.update(entry)
            entries.append(added)
            self.changes.append(f"{_dotted((*path, key))} has {dict(entry)}")

    def _table(self, path: tuple[str, ...]) -> MutableMapping[str, Any]:
        """A table, made if there is none."""
        table: MutableMapping[str, Any] = self._document
        for at, name in enumerate(path):
            if name not in table:
                table[name] = tomlkit.table(is_super_table=at + 1 < len(path))
            found = table[name]
            if not isinstance(found, MutableMapping):
                raise ObdError("invalid", f"{_dotted(path[: at + 1])} is no table", self._where)
            table = found
        return table


def _dotted(path: tuple[str, ...]) -> str:
    return ".".join(f'"{each}"' if "." in each else each for each in path)


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else f'"{value}"'


def configure(path: str, wanted: Wanted, *, dry_run: bool = False) -> tuple[list[str], str]:
    """Changes the file `path`, which need not exist. Returns what was changed, and the copy made before ("").

    Raises `ObdError`; then nothing has been changed. Nothing is restarted.
    """
    try:
        with open(path, encoding="utf-8") as file:
            before = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        before = ""
    except UnicodeDecodeError as error:
        raise ObdError("invalid", f"no text: {error}", path) from error
    if len(before) > MAX_BYTES:
        raise ObdError("limit", f"more than {MAX_BYTES} bytes", path)
    after, changes = configured(before, wanted, path)
    if not changes or dry_run:
        return changes, ""
    copy = ""
    if before:
        copy = f"{path}.{time.strftime('%Y%m%d-%H%M%S')}.bak"
        shutil.copy2(path, copy)
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    replace_file(path, after.encode(), stat.S_IMODE(os.stat(path).st_mode) if before else 0o644)
    return changes, copy
