"""overlaybd-apply: applies an OCI layer to the file system of an image."""

from __future__ import annotations

import os
from contextlib import closing, suppress

import obdcore
from tools.errors import Failure, describe, errno_and_line, say, tell
from tools.layer_options import report, service_config, verbose
from tools.main import run
from tools.options import Command, Namespace, flag, option, positional
from tools.progress import Progress
from tools.values import Choice, existing_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MISMATCH = "sha256 checksum mismatch"
SHA256 = "sha256:"


def apply(args: Namespace) -> int:
    """Runs the command; returns the exit status."""
    if args.from_qcow2:
        return _copy_qcow2(args)
    if args.checksum is not None and not args.checksum.startswith(SHA256):
        raise Failure(f"failed to extract: --checksum: not sha256:HEX: {args.checksum}")
    by_reference = args.gz_index_path is not None
    if args.raw and by_reference:
        raise Failure("failed to extract: --gz_index_path is for layers, not for --raw")
    if args.raw:
        done = _apply(args, args.image_config_path)
    else:
        image = open_image(args)
        try:
            done = _apply_by_reference(args, image) if by_reference else _apply(args, image)
        finally:
            # All that was done is durable already.
            with suppress(OSError):
                image.close()
    if args.verbose:
        for note in done.pop("notes"):
            say(note)
    report(done, args.verbose)
    say(args.checksum or "")
    tell("overlaybd-apply done")
    return 0


def _copy_qcow2(args: Namespace) -> int:
    """Copies a disk image, or the root partition in it, to the start of the target."""
    for name in ("mkfs", "gz_index_path", "checksum"):
        if getattr(args, name):
            raise Failure(f"qcow2 conversion failed: --{name} is for layers, not for --from_qcow2")
    try:
        with open(args.input_path, "rb", buffering=0) as source:
            disk = obdcore.DiskImage(source.fileno(), format="qcow2")
        place = "the whole disk"
        if args.extract_rootfs and not args.no_extract_rootfs:
            disk, partition, kind = disk.root()
            place = f"{kind} in {place if partition is None else f'partition {partition}'}"
        if args.raw:
            done = _copy(disk, args.image_config_path)
        else:
            with closing(open_image(args)) as image:
                done = _copy(disk, image)
    except OSError as error:
        raise Failure(f"qcow2 conversion failed: {describe(error)}") from None
    tell(f"{args.input_path}: {place}, {disk.size} bytes: {done['written']} written, {done['zeros']} zeroed")
    tell("qcow2 to overlaybd conversion done")
    return 0


def _copy(disk: obdcore.DiskImage, target: obdcore.Image | str) -> dict[str, int]:
    with Progress("copying") as progress:
        return disk.copy_to(target, progress=progress)


def open_image(args: Namespace) -> obdcore.Image:
    """The image that the configuration describes, which must have a writable layer."""
    from tools.stack import load_stack

    stack = load_stack(args.image_config_path, args.service_config_path)
    if stack.upper is None:
        path = args.image_config_path
        raise Failure(f"failed to create image file: read-only: {path}: has no writable upper")
    upper = stack.upper
    if len(upper) > 2:  # of turboOCI, whose target is not read; in gzip, it has no index yet
        upper = (upper[0], upper[1], os.devnull, None)
    try:
        return obdcore.Image(stack.lowers, upper)
    except OSError as error:
        raise Failure(f"failed to create image file: {describe(error)}") from None


def _apply_by_reference(args: Namespace, image: obdcore.Image) -> dict[str, Any]:
    """What turboOCI-apply does."""
    from tools.turbo_apply import apply_by_reference, write_index

    write_index(args.input_path, args.gz_index_path, args.verbose)
    sha256 = args.checksum.removeprefix(SHA256) if args.checksum is not None else None
    return apply_by_reference(args.input_path, image, fstype=args.fstype, mkfs=args.mkfs, sha256=sha256)


def _apply(args: Namespace, target: obdcore.Image | str) -> dict[str, Any]:
    erofs = args.fstype == "erofs"
    if args.mkfs and not erofs:  # an EROFS begins by itself, on what is nothing but zeros
        try:
            obdcore.ext4_create(target)
        except OSError as error:
            raise Failure(f"mkfs failed, {errno_and_line(error)}") from None
    sha256 = args.checksum.removeprefix(SHA256) if args.checksum is not None else None
    try:
        source = os.open(args.input_path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise Failure(f"failed to extract: {describe(error)}") from None
    try:
        with Progress("applying") as progress:
            work = obdcore.erofs_apply if erofs else obdcore.ext4_apply
            return work(target, source, sha256=sha256, progress=progress)
    except obdcore.Error as error:
        if error.what.startswith(MISMATCH):
            raise Failure(error.what) from None
        raise Failure(f"failed to extract: {describe(error)}") from None
    finally:
        os.close(source)


COMMAND = Command(
    "overlaybd-apply",
    "Applies an OCI layer to the file system of an image.",
    details="""
        The layer is a tar, plain or compressed with gzip or zstd; a FIFO is read as it comes. Nothing is
        mounted, and no privilege is needed. The same layer on the same image gives the same bytes.
    """,
    options=[
        flag("--raw", help="the target is a raw disk image, not an image configuration"),
        flag("--mkfs", help="make an ext4 file system first; EROFS needs none"),
        option(
            "--fstype",
            metavar="ext4|erofs",
            convert=Choice("ext4", "erofs"),
            default="ext4",
            help="the file system",
        ),
        flag("--from_qcow2", help="copy a qcow2 disk image"),
        flag("--extract-rootfs", default=True, help="of a qcow2 image take the Linux root partition alone"),
        flag("--no-extract-rootfs", help="take the whole disk"),
        service_config(),
        option(
            "--gz_index_path",
            metavar="FILE",
            help="as turboOCI-apply: content stays in the layer; its gzip index goes here",
        ),
        option("--checksum", metavar="sha256:HEX", help="what the uncompressed layer must have"),
        verbose(),
    ],
    positionals=[
        positional("input_path", convert=existing_file, help="the layer"),
        positional(
            "image_config_path",
            convert=existing_file,
            help="image configuration with an upper, JSON; with --raw the disk image",
        ),
    ],
    run=apply,
)


def main() -> int:
    """Entry point of the program."""
    return run(COMMAND)
