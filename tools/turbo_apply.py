"""turboOCI-apply: makes the metadata of a layer that stays as it is, and its gzip index."""

from __future__ import annotations

import os
from contextlib import suppress

import obdcore
from tools.errors import Failure, describe, say, tell
from tools.layer_options import report, service_config, verbose
from tools.main import run
from tools.options import Command, Namespace, flag, option, positional
from tools.output import Output
from tools.progress import Progress
from tools.values import existing_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

GZIP = b"\x1f\x8b"
MISMATCH = "sha256 checksum mismatch"


def apply(args: Namespace) -> int:
    """Runs the command; returns the exit status."""
    if not args.image_config_path:
        what = "output file" if args.export else "image configuration"
        raise Failure(f"failed to parse image config: no {what} is given")
    if args.fstype not in ("ext4", "erofs"):
        raise Failure(f"failed to extract: --fstype: neither ext4 nor erofs: {args.fstype}")
    if args.export:
        if getattr(args, "import"):
            raise Failure("failed to extract: --export and --import exclude each other")
        write_index(args.input_path, args.gz_index_path, args.verbose)
        _export(args)
        return 0
    from tools.apply import open_image

    image = open_image(args)
    try:
        if not getattr(args, "import"):
            write_index(args.input_path, args.gz_index_path, args.verbose)
        done = apply_by_reference(
            args.input_path, image, fstype=args.fstype, mkfs=args.mkfs, imported=getattr(args, "import")
        )
    finally:
        with suppress(OSError):
            image.close()
    if args.verbose:
        for note in done.pop("notes"):
            say(note)
    report(done, args.verbose)
    tell("turboOCI-apply done")
    return 0


def write_index(source: str, index: str, wanted: bool) -> None:
    """Writes the gzip index of `source` to the file `index`, if it is gzip; `wanted`: tell of it.

    Raises `Failure` also for several members: what lies behind the first could not be read later.
    """
    if not os.path.isfile(source):
        return
    try:
        with open(source, "rb", buffering=0) as file:
            if file.read(len(GZIP)) != GZIP:
                return
            os.lseek(file.fileno(), 0, os.SEEK_SET)
            with Output(index, replace=True, inputs=[source]) as out, Progress("indexing") as progress:
                info = obdcore.gzip_index(file.fileno(), out.fd, progress=progress)
    except OSError as error:
        raise Failure(f"failed to extract: gzip index: {describe(error)}") from None
    report(info, wanted)


def apply_by_reference(
    source: str,
    image: obdcore.Image,
    *,
    fstype: str = "ext4",
    mkfs: bool = False,
    imported: bool = False,
    sha256: str | None = None,
) -> dict[str, Any]:
    """Applies the layer `source` without its content; see `obdcore.turbo_apply`. Raises `Failure`."""
    try:
        with open(source, "rb", buffering=0) as file, Progress("applying") as progress:
            return obdcore.turbo_apply(
                image,
                file.fileno(),
                fstype=fstype,
                mkfs=mkfs and fstype == "ext4",
                imported=imported,
                sha256=sha256,
                progress=progress,
            )
    except obdcore.Error as error:
        if error.what.startswith(MISMATCH):
            raise Failure(error.what) from None
        raise Failure(f"failed to extract: {describe(error)}") from None
    except OSError as error:
        raise Failure(f"failed to extract: {describe(error)}") from None


def _export(args: Namespace) -> None:
    """Writes the layer's headers, which the snapshotter keeps instead of the layer."""
    source = args.input_path
    try:
        with (
            open(source, "rb", buffering=0) as file,
            Output(args.image_config_path, replace=True, inputs=[source]) as out,
            Progress("exporting") as progress,
        ):
            report(obdcore.tar_export(file.fileno(), out.fd, progress=progress), args.verbose)
    except OSError as error:
        raise Failure(f"failed to extract: {describe(error)}") from None


COMMAND = Command(
    "turboOCI-apply",
    "Makes the metadata of an OCI layer whose content is read from the layer itself.",
    details="""
        The layer is a tar, plain, in gzip or in a zfile. The configuration has an upper with a target, which
        overlaybd-create --turboOCI makes and overlaybd-commit --turboOCI commits. The target is not read.
    """,
    options=[
        flag("--mkfs", help="make an ext4 file system first"),
        option("--fstype", metavar="ext4|erofs", default="ext4", help="the file system"),
        option(
            "--gz_index_path",
            metavar="FILE",
            default="gzip.meta",
            help="where the index of a gzip layer is written (gzip.meta in this directory)",
        ),
        flag("--import", help="the input is what --export wrote"),
        flag("--export", help="write the headers of the layer to the second argument, and nothing else"),
        service_config(),
        verbose(),
    ],
    positionals=[
        positional("input_path", convert=existing_file, help="the layer"),
        positional(
            "image_config_path",
            required=False,
            help="image configuration with an upper that has a target; with --export the output",
        ),
    ],
    run=apply,
)


def main() -> int:
    """Entry point of the program."""
    return run(COMMAND)
