"""Images to look into: trees with all that a file system has, and what a reader finds, in comparable form."""

import hashlib
import io
import os
import stat
import subprocess
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import obdcore
from obd.files import Files, open_files
from obd.files.files import is_directory
from obd.service import Service
from tests.e2e.commands import ok
from tests.e2e.trees import KINDS, OWN, Tree, with_links

MIB = 1 << 20
# A list of permissions as the kernel has it: the owner, user 7, the group, the mask, others.
ACL = bytes.fromhex(
    "02000000 01000600ffffffff 02000400 07000000 04000400ffffffff 10000600ffffffff 20000400ffffffff"
)


def tree_inside(files: Files) -> Tree:
    """All files of an image, as `tests.e2e.trees.tree` describes those of a directory."""
    found: Tree = {}
    numbers: dict[str, int] = {}
    root = files.stat(b"/")
    for path, info in [(b"/", root), *files.walk(b"/", root.ino)]:
        shown = os.fsdecode(path.strip(b"/")) or "."
        if shown == OWN or shown.startswith(f"{OWN}/"):
            continue
        found[shown] = _describe(files, path, info)
        if not is_directory(info):
            numbers[shown] = info.ino
            found[shown]["nlink"] = info.nlink
    return with_links(found, numbers)


def _describe(files: Files, path: bytes, info: obdcore.FileStat) -> dict[str, object]:
    kind = KINDS[stat.S_IFMT(info.mode)]
    row: dict[str, object] = {
        "type": kind,
        "mode": f"{stat.S_IMODE(info.mode):04o}",
        "uid": info.uid,
        "gid": info.gid,
        "mtime": info.mtime_ns,
    }
    if kind == "file":
        digest = hashlib.sha256()
        for piece in files.read(path, info.ino):
            digest.update(piece)
        row |= {"sha256": digest.hexdigest(), "size": info.size}
    if kind == "link":
        row["target"] = os.fsdecode(files.readlink(path, info.ino))
    if kind in ("chr", "blk"):
        row["rdev"] = list(info.device)
    xattrs = files.xattrs(path, info.ino)
    row["xattrs"] = {os.fsdecode(name): value.decode("latin1") for name, value in sorted(xattrs.items())}
    return row


def look(word: str | Path) -> Files:
    """The files of an image, with a service of no configuration."""
    return open_files(str(word), Service())


def imported(raw: Path) -> Path:
    """A layer of a raw image, beside it."""
    layer = raw.with_suffix(".layer")
    ok("obd", "import", raw, layer)
    return layer


def build_layers(home: Path, *archives: bytes) -> list[Path]:
    """Layers of ext4 that these tars make on top of one another, the first one on an empty file system."""
    layers: list[Path] = []
    for number, archive in enumerate(archives):
        pair = (str(home / f"{number}.data"), str(home / f"{number}.index"))
        obdcore.lsmt_create(*pair, size=0 if layers else 256 * MIB)
        image = obdcore.Image([str(layer) for layer in layers], pair)
        if not layers:
            obdcore.ext4_create(image)
        (home / "archive.tar").write_bytes(archive)
        with (home / "archive.tar").open("rb") as source:
            obdcore.ext4_apply(image, source.fileno())
        image.close()
        layers.append(home / f"layer{number}")
        with layers[-1].open("xb") as target:
            obdcore.lsmt_commit(*pair, target.fileno(), compress={"algorithm": "lz4"}, tar=True)
    return layers


def tar(files: dict[str, bytes | str | None]) -> bytes:
    """A tar of files by name: bytes are a file, a text is where a link leads, None is a directory."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.mtime = 1_700_000_000
            if content is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            elif isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
            else:
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return out.getvalue()


def grow(top: Path) -> None:
    """A tree with all kinds of files, as far as this process and the file system here have them."""
    top.mkdir()

    def file(path: str, content: bytes) -> Path:
        full = top / path
        full.parent.mkdir(parents=True, exist_ok=True)
        full.write_bytes(content)
        return full

    for size in (0, 1, 59, 60, 61, 1023, 1024, 4095, 4096, 4097, 70_000, 2_000_000):
        file(f"sizes/{size}", bytes(i * 7 % 251 for i in range(min(size, 5000))) * (size // 5000 + 1))
        os.truncate(top / f"sizes/{size}", size)
    sparse = file("sizes/sparse", b"begin")
    with sparse.open("r+b") as holes:
        for at in range(0, 6_000_000, 300_000):
            holes.seek(at)
            holes.write(b"island")
        holes.truncate(9_000_000)
    for number in range(600):
        file(f"many/a file with a name of some length, number {number}", b"")
    for name in ("ümläut", "a b", "x" * 250, "new\nline", "\\back", "tab\t", os.fsdecode(b"\xff\xfe")):
        file(f"names/{name}", name.encode(errors="surrogateescape"))
    os.link(top / "sizes/4096", top / "names/hard")
    os.symlink("sizes/4096", top / "fast")
    os.symlink("x/" * 200 + "y", top / "slow")
    os.symlink("z" * 59, top / "names/59")
    os.symlink("z" * 60, top / "names/60")
    os.mkfifo(top / "pipe", 0o640)
    (top / "empty").mkdir()
    deep = top
    for _ in range(40):
        deep = deep / "deep"
        deep.mkdir()
    _attributes(file)
    with suppress(PermissionError):
        os.mknod(top / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        os.mknod(top / "disk", 0o600 | stat.S_IFBLK, os.makedev(259, 1_048_575))
        os.chown(file("owned", b"by somebody"), 3_000_000, 70_000)
        os.chown(top / "fast", 65_536, 65_537, follow_symlinks=False)
    os.chmod(top / "sizes/61", 0o6755)
    os.chmod(top / "empty", 0o1777)
    for path, seconds in (("sizes/1", 1), ("empty", 1_234_567_890), ("many", -86_400)):
        os.utime(top / path, (0, seconds))


def _attributes(file: Callable[[str, bytes], Path]) -> None:
    few, many = file("xattrs/few", b"few"), file("xattrs/many", b"many")
    with suppress(OSError):
        os.setxattr(few, "user.mime", b"text/plain")
        os.setxattr(few, "user.empty", b"")
        for number in range(20):
            os.setxattr(many, f"user.number {number}", bytes(number))
        os.setxattr(file("xattrs/shared", b""), "user.mime", b"text/plain")
        os.setxattr(few, "system.posix_acl_access", ACL)
        os.setxattr(few.parent, "system.posix_acl_default", ACL)
        os.setxattr(few, "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
        os.setxattr(many, "trusted.overlay.opaque", b"y")


def mkfs_ext4(image: Path, top: Path, options: str, size: str = "48M") -> Path:
    """A raw image of ext4 (or ext2, ext3) with a tree in it."""
    words = [
        "-q",
        "-F",
        "-N",
        "4096",
        "-E",
        "lazy_itable_init=0,root_owner=0:0",
        *options.split(),
        "-d",
        str(top),
    ]
    subprocess.run(["mke2fs", *words, str(image), size], check=True, capture_output=True)
    return image


def mkfs_erofs(image: Path, top: Path, options: str) -> Path:
    """A raw image of EROFS with a tree in it."""
    image.touch()
    subprocess.run(
        ["mkfs.erofs", "--quiet", *options.split(), str(image), str(top)], check=True, capture_output=True
    )
    return image
