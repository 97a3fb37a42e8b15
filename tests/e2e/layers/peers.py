"""Others who unpack layers: umoci, and the kernel's overlayfs given what containerd would give it."""

import gzip
import hashlib
import json
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.layers import archive
from tests.e2e.layers.archive import Member
from tests.e2e.layers.model import OPAQUE, clean

needs_umoci = pytest.mark.skipif(
    shutil.which("umoci") is None or os.geteuid() != 0, reason="no umoci, or not root"
)
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def layout(directory: Path, layers: list[bytes]) -> None:
    """An OCI layout of one image, `latest`, of these tars."""
    blobs = directory / "blobs/sha256"
    blobs.mkdir(parents=True)

    def blob(data: bytes, media_type: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    stored = [blob(gzip.compress(layer, 1, mtime=0), LAYER) for layer in layers]
    ids = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
    rootfs = {"type": "layers", "diff_ids": ids}
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs}).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(config, "application/vnd.oci.image.config.v1+json"),
        "layers": stored,
    }
    entry = blob(json.dumps(manifest).encode(), str(manifest["mediaType"]))
    entry["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def umoci(home: Path, layers: list[bytes]) -> Path:
    """The root that umoci unpacks of these layers."""
    layout(home / "oci", layers)
    command = ["umoci", "unpack", "--image", f"{home / 'oci'}:latest", str(home / "bundle")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return home / "bundle/rootfs"


class Overlay:
    """Layers as directories of overlayfs; each is made by changing the view of those below."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._lowers: list[Path] = []
        # What is below all: the kernel wants something, and its root is the first layer's.
        self._push("base")

    def _push(self, name: str) -> Path:
        directory = self._home / name
        directory.mkdir(parents=True)
        os.utime(directory, ns=(0, 0))
        self._lowers.insert(0, directory)
        return directory

    def apply(self, members: list[Member]) -> None:
        """Adds a layer: whiteouts first, since they are about layers below, then its files in order."""
        number, lowers = len(self._lowers), ":".join(map(str, self._lowers))
        upper, work, view = (self._home / f"{number}.{word}" for word in ("upper", "work", "view"))
        work.mkdir(parents=True)
        view.mkdir()
        upper.mkdir()
        _copy_attributes(self._lowers[0], upper)
        with _mounted(view, f"lowerdir={lowers},upperdir={upper},workdir={work}"):
            for member in members:
                _hide(os.fsencode(view), member)
            for member in members:
                _unpack(os.fsencode(view), member)
        self._lowers.insert(0, upper)

    @contextmanager
    def view(self) -> Iterator[Path]:
        """All layers, read-only."""
        point = self._home / "all"
        point.mkdir()
        with _mounted(point, f"lowerdir={':'.join(map(str, self._lowers))}", "-r"):
            yield point


@contextmanager
def _mounted(point: Path, options: str, *more: str) -> Iterator[None]:
    subprocess.run(["mount", "-t", "overlay", "-o", options, *more, "overlay", point], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", point], check=True)


def _copy_attributes(of: Path, to: Path) -> None:
    """Owner, permissions and attributes; of overlayfs's own only it knows the meaning."""
    info = of.stat()
    os.chown(to, info.st_uid, info.st_gid)
    to.chmod(info.st_mode & 0o7777)
    for name in os.listxattr(of):
        if not name.startswith("trusted.overlay."):
            os.setxattr(to, name, os.getxattr(of, name))


def _place(root: bytes, member: Member) -> tuple[bytes, bytes]:
    """The directory that a member is in, with what is missing of it made, and its name there."""
    *above, name = clean(member.name) or [b"."]
    for part in above:
        root = os.path.join(root, part)
        if not os.path.lexists(root):
            os.mkdir(root)
            os.chown(root, 0, 0)
            os.chmod(root, 0o755)
    return root, name


def _hide(root: bytes, member: Member) -> None:
    """Carries out a whiteout; other members are none."""
    name = member.name.rpartition(b"/")[2]
    if not name.startswith(b".wh."):
        return
    try:
        directory, _ = _place(root, member)
        hidden = os.listdir(directory) if name == OPAQUE else [name.removeprefix(b".wh.")]
    except NotADirectoryError:
        return  # nothing is below it
    for name in hidden:
        subprocess.run(["rm", "-rf", os.path.join(directory, name)], check=True)


def _unpack(root: bytes, member: Member) -> None:
    """Makes what a member says, with the system calls that any unpacker uses."""
    if member.name.rpartition(b"/")[2].startswith(b".wh."):
        return
    directory, name = _place(root, member)
    path = os.path.join(directory, name)
    is_dir = os.path.isdir(path) and not os.path.islink(path)
    if not (is_dir and member.kind == archive.DIR):
        target = os.path.join(root, member.link)
        same = (
            member.kind == archive.LINK
            and os.path.lexists(path)
            and os.path.samestat(os.lstat(path), os.lstat(target))
        )
        if not same:
            # Made beside its place first: what goes may hold what is linked to.
            beside = path + b".new"
            _make(beside, member, target)
            if os.path.lexists(path):
                subprocess.run(["rm", "-rf", path], check=True)
            os.rename(beside, path)
    if os.path.isdir(path) and not os.path.islink(path):
        for attribute in os.listxattr(path):
            if attribute.startswith(("user.", "trusted.")):
                os.removexattr(path, attribute)
    os.lchown(path, member.uid, member.gid)
    for attribute, value in member.xattrs.items():
        os.setxattr(path, attribute, value, follow_symlinks=False)
    if not os.path.islink(path):
        os.chmod(path, member.mode)
    os.utime(path, ns=(member.mtime, member.mtime), follow_symlinks=False)


def _make(path: bytes, member: Member, target: bytes) -> None:
    match member.kind:
        case archive.DIR:
            os.mkdir(path)
        case archive.FILE:
            with open(path, "xb") as file:
                file.write(member.whole)
        case archive.LINK:
            os.link(target, path, follow_symlinks=False)
        case archive.SYMLINK:
            os.symlink(member.link, path)
        case archive.FIFO:
            os.mkfifo(path)
        case kind:
            type_bits = stat.S_IFCHR if kind == archive.CHAR else stat.S_IFBLK
            os.mknod(path, type_bits, os.makedev(*member.device))
