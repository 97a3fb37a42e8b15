"""overlaybd-create: makes a new writable layer, or a plain sparse file."""

from __future__ import annotations

import os

import obdcore
from tools.errors import Failure, describe, errno_and_line, say, tell
from tools.layer_options import uuid_or_none, verbose
from tools.main import run
from tools.options import Command, Namespace, flag, option, positional
from tools.values import non_negative

GIB = 1 << 30
# The largest whole number of GiB that a file offset can express.
MAX_VSIZE_GIB = (2**63 - 1) // GIB


def create(args: Namespace) -> int:
    """Runs the command; returns the exit status."""
    if args.vsize > MAX_VSIZE_GIB:
        raise Failure(f"vsize: more than {MAX_VSIZE_GIB} GiB: {args.vsize}")
    if args.mkfs and args.vsize == 0:
        raise Failure("mkfs failed, 22: --mkfs needs a vsize above 0")
    if args.raw:
        _create_raw((args.data_file, args.index_file), args.vsize * GIB)
    else:
        _create_layer(args)
    if args.mkfs:
        _make_file_system(args)
    if args.verbose:
        layer = "turboOCI layer" if _turbo(args) else "sparse layer" if args.s else "append-only layer"
        kind = "plain file" if args.raw else layer
        say(f"{args.data_file}: {kind} of {args.vsize * GIB} bytes")
    tell("overlaybd-create has created files SUCCESSFULLY")
    return 0


def _turbo(args: Namespace) -> bool:
    return bool(args.turboOCI or args.fastoci)


def _create_layer(args: Namespace) -> None:
    parent_uuid = uuid_or_none(args.u, "-u")
    try:
        obdcore.lsmt_create(
            args.data_file,
            args.index_file,
            size=args.vsize * GIB,
            sparse=args.s,
            turbo=_turbo(args),
            parent_uuid=parent_uuid,
        )
    except obdcore.Error as error:
        if error.kind in ("exists", "not-found", "denied", "read-only"):
            raise _cannot_open(error.file or args.data_file, error) from None
        raise Failure(f"failed to create lsmt file object, possibly I/O error! {describe(error)}") from None


def _make_file_system(args: Namespace) -> None:
    """ext4 in the files just made, which are removed again if that fails."""
    try:
        if args.raw:
            obdcore.ext4_create(args.data_file)
        else:
            files = (args.data_file, args.index_file)
            # Nothing is in a target yet, so that an empty one will do.
            image = obdcore.Image([], (*files, os.devnull) if _turbo(args) else files)
            try:
                obdcore.ext4_create(image)
            finally:
                image.close()
    except BaseException as error:
        os.unlink(args.data_file)
        os.unlink(args.index_file)
        if isinstance(error, OSError):
            raise Failure(f"mkfs failed, {errno_and_line(error)}") from None
        raise


def _create_raw(paths: tuple[str, str], size: int) -> None:
    """A sparse data file of `size` bytes and the index file, empty, that callers expect beside it."""
    made: list[str] = []
    try:
        for path, length in zip(paths, (size, 0), strict=True):
            try:
                fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            except OSError as error:
                raise _cannot_open(path, error) from None
            made.append(path)
            try:
                os.ftruncate(fd, length)
                os.fsync(fd)
            finally:
                os.close(fd)
    except BaseException:
        for path in made:
            os.unlink(path)
        raise


def _cannot_open(path: str, error: OSError) -> Failure:
    number = error.errno or 0
    return Failure(f"failed to open file '{path}', {number}: {os.strerror(number)}")


COMMAND = Command(
    "overlaybd-create",
    "Makes a writable layer: a data file and an index file, which must not exist yet.",
    options=[
        option("-u", metavar="UUID", help="uuid of the parent layer; what is not a uuid is ignored"),
        flag("-s", help="sparse layer: the data file is as large as the device, holes take no room"),
        flag("--turboOCI", help="metadata over an original OCI layer that stays as it is; -s means nothing"),
        flag("--fastoci", help="old name of --turboOCI"),
        flag("--raw", help="no layer: data_file becomes a plain sparse file, index_file is empty"),
        flag("--mkfs", help="make an ext4 file system inside"),
        verbose(),
    ],
    positionals=[
        positional("data_file", help="data file to create"),
        positional("index_file", help="index file to create"),
        positional(
            "vsize", convert=non_negative, help="size of the device in GiB; 0: that of the layers under it"
        ),
    ],
    run=create,
)


def main() -> int:
    """Entry point of the program."""
    return run(COMMAND)
