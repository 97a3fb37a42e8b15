"""A root file system in a directory, as an image of one layer: always the same archive for the same tree."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO, Final, cast

from obd.errors import ObdError, kind_of
from obd.oci.descriptor import Descriptor
from obd.oci.digest import Verified, check
from obd.oci.fields import encode
from obd.oci.manifest import Manifest
from obd.oci.media import OCI_CONFIG, OCI_LAYER
from obd.oci.protocols import ImageSource

if TYPE_CHECKING:
    from obd.oci.platform import Platform

_PIECE_BYTES: Final = 1 << 20
_BLOCK: Final = tarfile.BLOCKSIZE
_XATTR: Final = "SCHILY.xattr."
_KINDS: Final = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
}
# Attributes that belong to the file system and not to the file, or that no archive can carry.
_LEFT_OUT: Final = ("security.selinux", "trusted.overlay.", "user.overlay.", "system.nfs4_acl")


class TreeSource(ImageSource):
    """The tree below `path` for `platform`. It is read twice: once for its digest, once for each use."""

    def __init__(self, path: str, platform: Platform) -> None:
        self.name = path
        self._path = path
        self._platform = platform
        self._config = self._manifest = b""

    def root(self) -> tuple[Descriptor, bytes]:
        """As `ImageSource.root`; reads the tree."""
        found, size = hashlib.sha256(usedforsecurity=False), 0
        for piece in archive(self._path):
            found.update(piece)
            size += len(piece)
        layer = Descriptor(OCI_LAYER, f"sha256:{found.hexdigest()}", size)
        self._config = encode(
            {
                **self._platform.to_json(),
                "config": {},
                "rootfs": {"type": "layers", "diff_ids": [layer.digest]},
                "history": [{"created_by": "obd convert"}],
            }
        )
        manifest = Manifest(Descriptor.of(self._config, OCI_CONFIG), (layer,))
        self._manifest = manifest.encode()
        return Descriptor.of(self._manifest, manifest.media_type), self._manifest

    def manifest(self, descriptor: Descriptor) -> bytes:
        """As `ImageSource.manifest`."""
        return check(self._manifest, descriptor, self.name)

    def blob(self, descriptor: Descriptor) -> BinaryIO:
        """As `ImageSource.blob`: a tree that has changed meanwhile is another one."""
        if descriptor.media_type == OCI_CONFIG:
            return io.BytesIO(check(self._config, descriptor, self.name))
        stream = cast(BinaryIO, _Pieces(archive(self._path)))
        return cast(BinaryIO, io.BufferedReader(Verified(stream, descriptor, self.name), _PIECE_BYTES))


class _Pieces(io.RawIOBase):
    """A stream of what an iterator gives."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._left = memoryview(b"")

    def readable(self) -> bool:
        """True."""
        return True

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes, none at the end."""
        while not self._left:
            if (piece := next(self._pieces, None)) is None:
                return b""
            self._left = memoryview(piece)
        taken = self._left[: size if size >= 0 else len(self._left)]
        self._left = self._left[len(taken) :]
        return bytes(taken)


def archive(root: str, *, upper: bool = False) -> Iterator[bytes]:
    """The tree as a tar, in pieces: members in the order of their names, with all that a file system keeps.

    Sockets are left out, and what is mounted below. With `upper` the tree is an upper directory of overlayfs,
    and what it takes away is told as archives of layers tell it. Raises `ObdError`.
    """
    first = os.stat(root)
    if not stat.S_ISDIR(first.st_mode):
        raise ObdError("invalid", "not a directory", root)
    links: dict[tuple[int, int], str] = {}
    waiting = [("./", root)]
    while waiting:
        name, path = waiting.pop()
        try:
            info = os.lstat(path)
            if upper and stat.S_ISCHR(info.st_mode) and info.st_rdev == 0:
                directory, _, last = name.rpartition("/")
                yield _marker(f"{directory}/.wh.{last}")
                continue
            yield from _member(name, path, info, links)
            if upper and stat.S_IFMT(info.st_mode) in (stat.S_IFDIR, stat.S_IFREG) and _is_opaque(path):
                yield _marker(f"{name.rstrip('/')}/.wh..wh..opq")
            if stat.S_ISDIR(info.st_mode) and info.st_dev == first.st_dev:
                # The last one comes next.
                for entry in sorted(os.listdir(path), key=os.fsencode, reverse=True):
                    waiting.append((f"{name.rstrip('/')}/{entry}", os.path.join(path, entry)))
        except ObdError:
            raise
        except OSError as error:
            raise ObdError(kind_of(error), error.strerror or str(error), path) from None
    yield bytes(2 * _BLOCK)


def _member(name: str, path: str, info: os.stat_result, links: dict[tuple[int, int], str]) -> Iterator[bytes]:
    kind = _KINDS.get(stat.S_IFMT(info.st_mode))
    if kind is None:
        return
    member = tarfile.TarInfo(name)
    member.type, member.mode = kind, stat.S_IMODE(info.st_mode)
    member.uid, member.gid = info.st_uid, info.st_gid
    extended = _xattrs(path)
    member.mtime, rest = divmod(info.st_mtime_ns, 10**9)
    if rest or member.mtime < 0:
        extended["mtime"] = _seconds(info.st_mtime_ns)
    if kind in (tarfile.CHRTYPE, tarfile.BLKTYPE):
        member.devmajor, member.devminor = os.major(info.st_rdev), os.minor(info.st_rdev)
    if kind == tarfile.SYMTYPE:
        member.linkname = os.readlink(path)
    first = links.setdefault((info.st_dev, info.st_ino), name) if info.st_nlink > 1 else name
    if first != name and kind != tarfile.DIRTYPE:
        member.type, member.linkname = tarfile.LNKTYPE, first
    member.pax_headers = extended
    if member.type == tarfile.REGTYPE:
        member.size = info.st_size
    yield member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    if member.size:
        yield from _content(path, member.size)


def _marker(name: str) -> bytes:
    """An empty file that says what is taken away."""
    member = tarfile.TarInfo(name)
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _is_opaque(path: str) -> bool:
    """Whether a directory of an upper hides what is below. Raises `ObdError` for what has others' content."""
    found = os.listxattr(path)
    for name in ("trusted.overlay.redirect", "trusted.overlay.metacopy"):
        if name in found:
            raise ObdError("unsupported", f"its content is elsewhere ({name})", path)
    return "trusted.overlay.opaque" in found and os.getxattr(path, "trusted.overlay.opaque") == b"y"


def _seconds(ns: int) -> str:
    """A time as PAX writes it."""
    sign, whole = ("-", -ns) if ns < 0 else ("", ns)
    return f"{sign}{whole // 10**9}.{whole % 10**9:09d}".rstrip("0").rstrip(".")


def _xattrs(path: str) -> dict[str, str]:
    found = {}
    for name in sorted(os.listxattr(path, follow_symlinks=False)):
        if not name.startswith(_LEFT_OUT):
            value = os.getxattr(path, name, follow_symlinks=False)
            found[_XATTR + name] = value.decode("utf-8", "surrogateescape")
    return found


def _content(path: str, size: int) -> Iterator[bytes]:
    left = size
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(fd, "rb", buffering=0) as file:
        while left:
            piece = file.read(min(left, _PIECE_BYTES))
            if not piece:
                raise ObdError("corrupt", "became shorter while it was read", path)
            left -= len(piece)
            yield piece
    yield bytes(-size % _BLOCK)
