"""The existing Go programs as clients of the tools: the files that they make, their calls word by word."""

import hashlib
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.e2e.commands import BIN

HOME = Path("/opt/overlaybd/bin")
# Layers are told by these, at the beginning: zfile and LSMT. One in a tar is not.
MAGICS = (
    b"ZFile\0\1\0tuji.yyf@Alibaba",
    b"LSMT\0\1\2\0" + bytes.fromhex("657e63d29444084ca2d2c8ec4fcfae8a"),
)


class ToolError(Exception):
    """A tool failed; the text is what the snapshotter shows: all that it has printed."""


def tool(name: str, *words: str | Path) -> None:
    """Calls a tool as they do: nothing but the status counts, output is read only to be shown."""
    program = HOME / name if HOME.exists() else BIN / name
    done = subprocess.run(
        [program, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise ToolError(f"failed to {name}: {done.stdout}: exit status {done.returncode}")


def write_atomically(path: Path, document: Mapping[str, Any]) -> None:
    """Writes a configuration in place of another one, compact, its keys in the order of the Go structure."""
    order = ("repoBlobUrl", "lowers", "upper", "resultFile", "accelerationLayer", "recordTracePath")
    assert set(document) <= set(order)
    temporary = path.with_name(f".{path.name}.tmp")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump({key: document[key] for key in order if key in document}, file, separators=(",", ":"))
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)


def create(home: Path, *words: str) -> dict[str, str]:
    """Makes a writable layer in a directory, unless both its files are there; what an upper says of it."""
    data, index = home / "writable_data", home / "writable_index"
    if not (data.exists() and index.exists()):
        tool("overlaybd-create", data, index, *words)
    return {"index": str(index), "data": str(data)}


def is_local_block(fs: Path) -> bool:
    """Whether a layer that a device can be made of lies in the directory of a snapshot."""
    for path in (fs / "overlaybd.commit", fs / "overlaybd.sealed", fs.parent / "block/writable_data"):
        if path.exists():
            with path.open("rb") as file:
                return file.read(24).startswith(MAGICS)
    return False


class Tree:
    """The directories of snapshots below `root`."""

    def __init__(self, root: Path) -> None:
        self.snapshots = root / "snapshots"
        self.snapshots.mkdir(parents=True)

    def new(self, number: int) -> Path:
        """Makes those of a snapshot, under a name for the time being; the final one."""
        made = self.snapshots / f"new-{number}"
        for name, mode in (("", 0o700), ("fs", 0o755), ("block", 0o711), ("block/mountpoint", 0o711)):
            (made / name).mkdir()
            (made / name).chmod(mode)
        (made / "work").mkdir(0o711)
        (made / "block/init-debug.log").touch()
        return made.rename(self.snapshots / str(number))

    def at(self, number: int, *names: str) -> Path:
        """A path in the directory of a snapshot."""
        return self.snapshots.joinpath(str(number), *names)

    def result(self, number: int) -> str:
        """What came of opening the device."""
        return self.at(number, "block/init-debug.log").read_text()

    def read(self, number: int) -> dict[str, Any]:
        """The configuration of a device."""
        found: dict[str, Any] = json.loads(self.at(number, "block/config.v1.json").read_text())
        return found

    def configure(
        self,
        number: int,
        parent: int | None,
        *lowers: Mapping[str, Any],
        url: str = "",
        upper: Mapping[str, Any] | None = None,
        **more: object,
    ) -> None:
        """Writes the configuration of a snapshot: that of its parent, and what is its own."""
        below = self.read(parent) if parent else {}
        write_atomically(
            self.at(number, "block/config.v1.json"),
            {
                "repoBlobUrl": url or below.get("repoBlobUrl", ""),
                "lowers": [*below.get("lowers", []), *lowers],
                "upper": dict(upper or {}),
                "resultFile": str(self.at(number, "block/init-debug.log")),
                **more,
            },
        )

    def make_writable(
        self, number: int, parent: int | None, *, size_gib: int = 64, kind: str = "append"
    ) -> None:
        """A writable layer on the parent, or of `size_gib` on nothing."""
        size = 0 if parent else size_gib
        words = ("-s",) if kind == "sparse" else ()
        upper = create(self.at(number, "block"), str(size), *words)
        self.configure(number, parent, upper={**upper, **({"vsize": size} if size else {})})

    def seal(self, number: int, parent: int | None) -> str:
        """Commits a writable layer whose device is gone: no byte of it is copied. Its new path."""
        data, index = self.at(number, "block/writable_data"), self.at(number, "block/writable_index")
        tool("overlaybd-commit", "--seal", data, index)
        sealed = data.rename(self.at(number, "fs/overlaybd.sealed"))
        index.unlink()
        assert is_local_block(self.at(number, "fs"))
        self.configure(number, parent, {"dir": str(self.at(number, "fs"))})
        return str(sealed)

    def convert_layer_tar(self, number: int, parent: int | None, fs_type: str = "ext4") -> None:
        """Makes turboOCI's metadata of the `layer.tar` of a snapshot, which stays where it is."""
        tar, work = self.at(number, "layer.tar"), self.at(number, "temp")
        work.mkdir()
        source = tar
        if fs_type == "ext4":
            source = self.at(number, "layer.metadata")
            tool("turboOCI-apply", tar, source, "--export")
        mkfs = ["--mkfs"] if fs_type == "ext4" and not parent else []
        upper = create(work, "256", "-s", "--turboOCI", *mkfs)
        (work / "fake_target").touch()
        service = {
            "logConfig": {"logPath": "", "logLevel": 1},
            "cacheConfig": {"cacheType": "file", "cacheDir": str(work / "cache"), "cacheSizeGB": 4},
            "gzipCacheConfig": {"enable": False},
            "credentialConfig": {"mode": "file", "path": ""},
            "download": {"enable": False},
            "enableAudit": False,
        }
        (work / "service.json").write_text(json.dumps(service))
        document = {
            "repoBlobUrl": "",
            "lowers": self.read(parent)["lowers"] if parent else [],
            "upper": {**upper, "target": str(work / "fake_target")},
            "resultFile": "",
        }
        write_atomically(work / "config.v1.json", document)
        words = ["--service_config_path", str(work / "service.json"), "--fstype", fs_type]
        imported = ["--import"] if fs_type != "erofs" else []
        tool("turboOCI-apply", source, work / "config.v1.json", *words, *imported)
        commit = self.at(number, "fs/overlaybd.commit")
        tool("overlaybd-commit", upper["data"], upper["index"], commit, "-z", "--turboOCI")
        self.configure(number, parent, {"file": str(commit), "targetFile": str(tar)})


class Convertor:
    """The convertor without a kernel: layers one upon another in directories of `home`."""

    def __init__(self, home: Path, *, size_gib: int = 1, base_layer: Path | None = None) -> None:
        self.home = home
        self.lowers: list[dict[str, str]] = [{"file": str(base_layer)}] if base_layer else []
        self._size_gib = size_gib
        self._base = base_layer
        self._uuids: list[str] = []
        self._chain = ""

    def add(self, tar: Path) -> Path:
        """Makes a blob of a layer: a tar, not compressed."""
        home = self._next(tar)
        first = not self._uuids
        mkfs = ["--mkfs"] if first and not self._base else []
        upper = create(home, str(self._size_gib if first else 0), "-s", *mkfs)
        self._configure(home, upper)
        tool("overlaybd-apply", home / "layer.tar", home / "config.json")
        uuids = ["--uuid", self._uuid(tar)]
        if self._uuids:
            uuids += ["--parent-uuid", self._uuids[-1]]
        self._uuids.append(uuids[1])
        out = home / "overlaybd.commit"
        tool("overlaybd-commit", upper["data"], upper["index"], out, "-z", "-t", *uuids)
        self.lowers.append({"file": str(out)})
        return out

    def add_turbo(self, layer: Path, fs_type: str = "ext4") -> Path:
        """Makes metadata of a layer, which may be in gzip; the directory that is packed."""
        home = self._next(layer)
        mkfs = ["--mkfs"] if not self.lowers and fs_type == "ext4" else []
        upper = create(home, "-s", str(self._size_gib), "--turboOCI", *mkfs)
        self._configure(home, {**upper, "target": str(home / "layer.tar")})
        words = ["--fstype", fs_type] if fs_type != "ext4" else []
        index = home / "gzip.meta"
        tool("turboOCI-apply", home / "layer.tar", home / "config.json", "--gz_index_path", index, *words)
        out = home / "overlaybd.commit"
        tool("overlaybd-commit", upper["data"], upper["index"], out, "-z", "--fastoci")
        meta = out.rename(home / f"{fs_type}.fs.meta")
        (home / ".turbo.ociv1").touch()
        lower = {"file": str(meta), "targetFile": str(home / "layer.tar")}
        self.lowers.append(lower | ({"gzipIndex": str(index)} if index.exists() else {}))
        return home

    def _next(self, layer: Path) -> Path:
        digest = hashlib.sha256(layer.read_bytes()).hexdigest()
        home = self.home / f"{len(self.lowers):04}_sha256:{digest}"
        home.mkdir(parents=True)
        (home / "layer.tar").write_bytes(layer.read_bytes())
        return home

    def _configure(self, home: Path, upper: Mapping[str, str]) -> None:
        document = {"repoBlobUrl": "", "lowers": self.lowers, "upper": upper, "resultFile": ""}
        write_atomically(home / "config.json", document)

    def _uuid(self, tar: Path) -> str:
        """That of a layer: the beginning of its chain ID."""
        digest = f"sha256:{hashlib.sha256(tar.read_bytes()).hexdigest()}"
        both = f"{self._chain} {digest}".encode()
        self._chain = f"sha256:{hashlib.sha256(both).hexdigest()}" if self._chain else digest
        hexes = self._chain.removeprefix("sha256:")
        return "-".join((hexes[:8], hexes[8:12], hexes[12:16], hexes[16:20], hexes[20:32]))
