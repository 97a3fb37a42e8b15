"""`obd import`: a raw disk image becomes a layer, without its holes and zeros."""

from __future__ import annotations

import os
import stat

from tools.errors import Failure, tell
from tools.layer_options import ALGORITHMS, algorithm, block_size, block_size_bytes
from tools.obd.common import amount
from tools.options import Command, Namespace, flag, option, positional
from tools.output import Output
from tools.progress import Progress
from tools.values import existing_file, integer

SECTOR_BYTES = 512
MAX_THREADS = 256


def import_raw(args: Namespace) -> int:
    """Runs the command; returns the exit status."""
    import obdcore

    compress = None
    if args.z:
        if args.algorithm not in ALGORITHMS:
            raise Failure(f"obd: --algorithm must be one of {', '.join(ALGORITHMS)}")
        if not 0 <= args.threads <= MAX_THREADS:
            raise Failure(f"obd: --threads must be from 0 to {MAX_THREADS}")
        compress = {
            "algorithm": args.algorithm,
            "block_size": block_size_bytes(args.bs),
            "checksum": True,
            "overwrite_header": True,
            "threads": args.threads,
        }
    with open(args.raw, "rb", buffering=0) as source:
        size = _size(source.fileno(), args.raw)
        with (
            Output(args.layer, replace=args.force, inputs=[args.raw]) as out,
            Progress("importing") as progress,
        ):
            obdcore.lsmt_import(
                source.fileno(), size, out.fd, compress=compress, tar=args.tar, progress=progress
            )
            written = os.fstat(out.fd).st_size
    tell(f"{args.layer}: {amount(written)} for a device of {amount(size)}")
    return 0


def _size(fd: int, name: str) -> int:
    """Bytes of a file or block device, rounded up to whole sectors as qemu does with odd images."""
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
        raise Failure(f"obd: invalid: {name}: not a file or block device")
    size = os.lseek(fd, 0, os.SEEK_END)
    os.lseek(fd, 0, os.SEEK_SET)
    if size == 0:
        raise Failure(f"obd: invalid: {name}: empty: a device has at least {SECTOR_BYTES} bytes")
    return -(-size // SECTOR_BYTES) * SECTOR_BYTES


COMMAND = Command(
    "import",
    "Makes a layer of a raw disk image; holes and zeros take no room.",
    options=[
        flag("-z", help="compress to a zfile, with checksums"),
        flag("-t", "--tar", help="wrap in a tar, as blobs in a registry are"),
        flag("-f", "--force", help="replace the output if it exists"),
        algorithm(),
        block_size(),
        option(
            "--threads",
            metavar="N",
            convert=integer,
            default=0,
            help="threads for -z, 0 for one per processor",
        ),
    ],
    positionals=[
        positional("raw", convert=existing_file, help="raw disk image, or a block device"),
        positional("layer", help="layer to write"),
    ],
    run=import_raw,
)
