"""`obd import`: a disk image, raw or qcow2, becomes a layer without its holes and zeros."""

from __future__ import annotations

from tools.errors import Failure, tell
from tools.layer_options import ALGORITHMS, algorithm, block_size, block_size_bytes
from tools.obd.common import amount
from tools.options import Command, Namespace, flag, option, positional
from tools.output import Output
from tools.progress import Progress
from tools.values import existing_file, integer

MAX_THREADS = 256


def import_disk(args: Namespace) -> int:
    """Runs the command; returns the exit status."""
    from obd.convert.disk import layer_of_disk

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
    with (
        Output(args.layer, replace=args.force, inputs=[args.disk]) as out,
        Progress("importing") as progress,
    ):
        done = layer_of_disk(
            args.disk,
            out.fd,
            compress,
            rootfs=args.rootfs,
            tar=args.tar,
            format=args.format,
            without_backing=args.no_backing,
            progress=progress,
        )
    if args.rootfs:
        place = "the whole disk" if done["partition"] is None else f"partition {done['partition']}"
        tell(f"{args.disk}: the root is {place}: {done['file_system']}")
    tell(f"{args.layer}: {amount(done['stored_size'])} for a device of {amount(done['virtual_size'])}")
    return 0


COMMAND = Command(
    "import",
    "Makes a layer of a disk image; holes and zeros take no room.",
    details="""
        The image is raw or qcow2, which is told by how it begins. Equal disks give equal layers.
    """,
    options=[
        flag("-z", help="compress to a zfile, with checksums"),
        flag("-t", "--tar", help="wrap in a tar, as blobs in a registry are"),
        flag("-f", "--force", help="replace the output if it exists"),
        flag("--rootfs", help="take the Linux root partition alone"),
        flag(
            "--no-backing", help="of a qcow2 overlay: take what it has itself, to lie on a layer of the rest"
        ),
        option("--format", metavar="raw|qcow2", help="do not look, it is this"),
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
        positional("disk", convert=existing_file, help="disk image, or a block device"),
        positional("layer", help="layer to write"),
    ],
    run=import_disk,
)
