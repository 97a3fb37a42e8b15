"""What the commands that look into images share: how an image is named, opened and shown."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from tools.errors import Failure
from tools.obd.common import log_to_stderr, service_option
from tools.options import Argument, Namespace, flag, option
from tools.values import positive

if TYPE_CHECKING:
    from typing import Any

    import obdcore
    from obd.files import Files

WHAT = "an image configuration, a layer file, [http[s]://]REGISTRY/REPOSITORY[:TAG][@DIGEST] or oci:DIR[:TAG]"
DETAILS = f"""
    IMAGE is {WHAT}; PATH begins with a slash. Only the blocks that are needed are read, through the cache;
    nothing is mounted. Of a whole disk it is the only Linux partition, unless --partition says which.
"""


def image_options() -> list[Argument]:
    """The options that say which file system of which image is meant."""
    return [
        option("--partition", metavar="N", convert=positive, help="of a whole disk the partition N"),
        option(
            "--layers", metavar="N", convert=positive, help="only the lowest N layers of the image, no upper"
        ),
        option(
            "--platform", metavar="OS/ARCH", default="", help="of an image for several (default: this one)"
        ),
        flag("--http", help="plain HTTP"),
        service_option(),
    ]


def open_image(word: str, args: Namespace, **others: Any) -> Files:
    """The files of the image `word`, as the options have it. Raises `OSError`."""
    from obd.files import open_files
    from obd.oci import Platform
    from obd.service import Service

    log_to_stderr()
    wanted = {"partition": args.partition, "layers": args.layers, **others}
    platform = Platform.parse(args.platform) if args.platform else None
    return open_files(word, Service(args.service), platform=platform, plain_http=args.http, **wanted)


def describe_file(path: bytes, info: obdcore.FileStat, target: bytes | None) -> dict[str, Any]:
    """A file, for programs. Bytes of names that are no UTF-8 become lone surrogates, as in Python."""
    found: dict[str, Any] = {
        "path": os.fsdecode(path),
        "type": kind_name(info.mode),
        "mode": f"{info.mode & 0o7777:04o}",
        "uid": info.uid,
        "gid": info.gid,
        "size": info.size,
        "mtime_ns": info.mtime_ns,
        "nlink": info.nlink,
        "ino": info.ino,
    }
    if any(info.device):
        found["device"] = list(info.device)
    return found | ({"target": os.fsdecode(target)} if target is not None else {})


def kind_name(mode: int) -> str:
    """What a file is, by its mode."""
    import stat

    kinds = {
        stat.S_IFREG: "file",
        stat.S_IFDIR: "directory",
        stat.S_IFLNK: "symlink",
        stat.S_IFCHR: "character device",
        stat.S_IFBLK: "block device",
        stat.S_IFIFO: "fifo",
        stat.S_IFSOCK: "socket",
    }
    return kinds.get(stat.S_IFMT(mode), "unknown")


def write_out(data: bytes) -> None:
    """Bytes to standard output. Whoever closes that has had enough, which is no success."""
    try:
        sys.stdout.buffer.write(data)
    except BrokenPipeError:
        sys.stdout = None
        raise Failure("obd: io: standard output was closed") from None


def finish_output() -> None:
    """All of what was written to standard output on its way, or an error."""
    if sys.stdout is not None:
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            sys.stdout = None
            raise Failure("obd: io: standard output was closed") from None
