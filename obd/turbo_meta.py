"""Metadata of turboOCI layers out of registries: fetched, checked, unpacked into directories of their own."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tarfile
from contextlib import closing
from typing import TYPE_CHECKING, BinaryIO, Final

from obd.config import Lower
from obd.errors import ObdError, kind_of
from obd.oci.layers import target_of
from obd.oci.media import compression
from obd.oci.temporary import sync_directory
from obd.turbo.pack import GZIP_INDEX, MARKER

if TYPE_CHECKING:
    from obd.oci.descriptor import Descriptor
    from obd.oci.protocols import ImageSource

# Where metadata is kept unless somebody says otherwise.
META_DIR: Final = "/opt/overlaybd/turbo_meta"
# File systems by the names of their metadata, those preferred first where the kernel has both.
FILE_SYSTEMS: Final = ("erofs", "ext4")
MARKERS: Final = (MARKER, ".fastoci")
# An archive of metadata, and what it unpacks to: that of a file system with a hundred million files.
MAX_PACKED_BYTES: Final = 4 << 30
MAX_UNPACKED_BYTES: Final = 64 << 30
# What it unpacks to, by its size: metadata is compressed already, so what grows more is a bomb for the disk.
MAX_RATIO: Final = 100
MIN_UNPACKED_BYTES: Final = 64 << 20
# Members of an archive: metadata of each file system, gzip index, marker, and room for what is unknown.
MAX_MEMBERS: Final = 16
# A header that has more of a member than its own fits: a name, a size.
MAX_HEADER_BYTES: Final = 64 << 10
_PIECE_BYTES: Final = 1 << 20
# Of the names of directories that are not whole.
_SUFFIX: Final = ".tmp"
_RANDOM_BYTES: Final = 8
_ATTEMPTS: Final = 100
_EXTENDED: Final = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)


class Metas:
    """The metadata of the layers of one image, in directories below `directory` that digests name."""

    def __init__(self, source: ImageSource, directory: str) -> None:
        self._source: Final = source
        self._directory: Final = os.path.abspath(directory)
        self._file_system = ""

    def lower(self, layer: Descriptor) -> Lower:
        """The turboOCI layer `layer` as a lower, its metadata on this machine.

        All layers get the file system of the first. Raises `ObdError`: "corrupt" for what is no archive or
        lacks what it must have, "unsupported" for a target that cannot be read at random.
        """
        target, media_type = target_of(layer.annotations)
        packed = compression(media_type)
        if packed not in ("", "gzip"):
            what = (
                f"layer {layer.digest}: its target is compressed with {packed}, which is not read at random"
            )
            raise ObdError("unsupported", what, self._source.name)
        home = os.path.join(self._directory, layer.digest.replace(":", "-"))
        if not os.path.isdir(home):
            self._fetch(layer, home)
        there = os.listdir(home)
        file = os.path.join(home, f"{self._choose(there, layer)}.fs.meta")
        index = os.path.join(home, GZIP_INDEX) if GZIP_INDEX in there else ""
        if packed and not index:
            raise ObdError("corrupt", f"layer {layer.digest}: no {GZIP_INDEX} in it", self._source.name)
        return Lower(file=file, dir=home, target_digest=target, gzip_index=index)

    def _choose(self, there: list[str], layer: Descriptor) -> str:
        have = [name for name in FILE_SYSTEMS if f"{name}.fs.meta" in there]
        wanted = self._file_system
        if not wanted:
            wanted = next((name for name in have if _mounts(name)), have[0] if have else "")
        if wanted not in have:
            what = f"layer {layer.digest}: no metadata of {wanted or 'a known file system'} in it"
            raise ObdError("corrupt", what, self._source.name)
        self._file_system = wanted
        return wanted

    def _fetch(self, layer: Descriptor, home: str) -> None:
        """Makes `home`: all of it, or nothing."""
        where = f"{self._source.name}: layer {layer.digest}"
        if layer.size > MAX_PACKED_BYTES:
            what = f"{layer.size} bytes are more than metadata can have ({MAX_PACKED_BYTES})"
            raise ObdError("limit", what, where)
        clear(self._directory)
        temporary, lock = _own_directory(home)
        try:
            with closing(self._source.blob(layer)) as stream:
                most = min(max(layer.size * MAX_RATIO, MIN_UNPACKED_BYTES), MAX_UNPACKED_BYTES)
                unpack(stream, temporary, where, most)
            sync_directory(temporary)
            os.rename(temporary, home)
        except OSError as error:
            # Another process may have been faster; then what is there is the same.
            if not os.path.isdir(home):
                raise ObdError(kind_of(error), str(error), where) from None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            os.close(lock)


def _own_directory(home: str) -> tuple[str, int]:
    """A new directory beside `home`, and the lock that tells it from those of the dead."""
    for _ in range(_ATTEMPTS):
        path = f"{home}.{os.urandom(_RANDOM_BYTES).hex()}{_SUFFIX}"
        os.makedirs(path, mode=0o755)
        with contextlib.suppress(OSError):  # taken for one of the dead before it was locked
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.isdir(path):
                    return path, fd
            os.close(fd)
    raise ObdError("busy", "others keep removing new directories", home)


def clear(directory: str) -> None:
    """Removes the directories of processes that were killed while they made the metadata of a layer."""
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(directory):
            number = name.removesuffix(_SUFFIX).rpartition(".")[2]
            if not name.endswith(_SUFFIX) or len(number) != 2 * _RANDOM_BYTES:
                continue
            path = os.path.join(directory, name)
            with contextlib.suppress(OSError):
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path, ignore_errors=True)
                finally:
                    os.close(fd)


class _Member(tarfile.TarInfo):
    """What `tarfile` is kept from by the hook that it has for this: all of it would be held in memory."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _EXTENDED and self.size > MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {self.size} bytes")
        if self.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.ReadError("a sparse file")
        found: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]
        return found

    def _proc_gnusparse_10(self, *_: object) -> None:
        raise tarfile.ReadError("a sparse file")


def unpack(stream: BinaryIO, directory: str, where: str, most: int | None = None) -> None:
    """Writes the known members of an archive, of at most `most` bytes and read to its end, into `directory`.

    Raises `ObdError` "corrupt" for what is no archive, "limit" for too much of anything, and what the stream
    raises.
    """
    known = {*(f"{name}.fs.meta" for name in FILE_SYSTEMS), GZIP_INDEX, *MARKERS}
    left = MAX_UNPACKED_BYTES if most is None else most
    try:
        with tarfile.open(fileobj=stream, mode="r|*", tarinfo=_Member) as archive:
            for number, member in enumerate(archive):
                left -= member.size
                if number >= MAX_MEMBERS or left < 0:
                    raise ObdError("limit", "too much for the metadata of a layer", where)
                name = os.path.normpath(member.name)
                content = archive.extractfile(member) if name in known and member.isreg() else None
                if content is None:
                    continue
                known.discard(name)
                with open(os.path.join(directory, name), "xb") as file:
                    shutil.copyfileobj(content, file, _PIECE_BYTES)
                    file.flush()
                    os.fsync(file.fileno())
    except OSError:
        raise  # of the stream, of the disk, or ours
    # Besides its own errors `tarfile` raises what it stumbles over: RecursionError for headers of headers,
    # ValueError for numbers that are none, AttributeError and TypeError where gzip breaks off.
    except Exception as error:
        raise ObdError("corrupt", f"not an archive of metadata: {error}", where) from None
    # The digest is known to be right only at the end.
    while stream.read(_PIECE_BYTES):
        pass


def _mounts(file_system: str) -> bool:
    """Whether this kernel has a file system, as far as it says."""
    try:
        with open("/proc/filesystems", encoding="ascii") as file:
            return file_system in file.read().split()
    except OSError:
        return False
