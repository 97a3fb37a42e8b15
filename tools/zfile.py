"""overlaybd-zfile: compresses a file to a zfile, takes it out again, or checks it."""

from __future__ import annotations

import errno
import os

import obdcore
from tools.errors import FAILED, Failure, describe, say, tell
from tools.layer_options import algorithm, block_size, block_size_bytes, report, verbose
from tools.main import run
from tools.options import Command, Namespace, flag, positional
from tools.output import Output
from tools.progress import Progress


def zfile(args: Namespace) -> int:
    """Runs the command; returns the exit status."""
    if args.verify:
        return _verify(args.source_file)
    if args.x:
        _extract(args)
    else:
        _compress(args)
    return 0


def _compress(args: Namespace) -> None:
    # With one name only it is the target, and the bytes come from stdin.
    source: str | None = args.source_file if args.target_file is not None else None
    target: str = args.target_file if args.target_file is not None else args.source_file
    size = block_size_bytes(args.bs)
    fd = 0 if source is None else _open(source)
    try:
        tell(f"compress file {source or 'stdin'} as {target}")
        inputs = [] if source is None else [source]
        with Output(target, replace=args.f, inputs=inputs) as out, Progress("compressing") as progress:
            try:
                info = obdcore.zfile_compress(
                    fd,
                    out.fd,
                    # Upstream takes every other word for lz4 too.
                    algorithm="zstd" if args.algorithm == "zstd" else "lz4",
                    block_size=size,
                    tar=args.t,
                    progress=progress,
                )
            except OSError as error:
                raise Failure(f"compress failed, errno:{_number(error)}: {describe(error)}") from None
    finally:
        if source is not None:
            os.close(fd)
    report(info, args.verbose)
    tell("compress file done.")


def _extract(args: Namespace) -> None:
    source: str = args.source_file
    target: str | None = args.target_file
    if target is None:
        raise Failure("decompress failed, errno:22: -x needs source_file and target_file")
    os.close(_open(source))
    if not obdcore.zfile_detect(source):
        raise Failure(f"format error! {source} should be a zfile.")
    tell(f"decompress file {source} as {target}")
    with (
        Output(target, replace=args.f, mode=0o700, inputs=[source]) as out,
        Progress("decompressing") as progress,
    ):
        try:
            size = obdcore.zfile_decompress(source, out.fd, progress=progress)
        except OSError as error:
            raise Failure(f"decompress failed, errno:{_number(error)}: {describe(error)}") from None
    report({"size": size}, args.verbose)
    tell("decompress file done.")


def _verify(source: str) -> int:
    os.close(_open(source))
    try:
        reader = obdcore.ZFileReader(source)
        has_checksums = bool(reader.info()["checksum"])
        with Progress("checking") as progress:
            reader.verify(progress)
    except OSError as error:
        say(describe(error))
        has_checksums = False
    if not has_checksums:
        tell(f"{source} is not a valid zfile blob or checksum can't be found.")
        return FAILED
    tell(f"{source} is a valid zfile blob.")
    return 0


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise Failure(f"failed to open file {path}, {error.errno}: {error.strerror}") from None


def _number(error: OSError) -> int:
    """The errno that upstream gives: a failed checksum has one of its own."""
    return errno.EUCLEAN if getattr(error, "kind", "") == "corrupt" else error.errno or errno.EIO


COMMAND = Command(
    "overlaybd-zfile",
    "Compresses source_file to a zfile. With one file name it is the target and bytes come from stdin.",
    options=[
        flag("-x", help="decompress instead; a tar wrapper is recognised"),
        flag("--verify", help="only check source_file: structure and every block's checksum"),
        flag("-t", help="wrap the result in a tar"),
        flag("-f", help="replace target_file if it exists"),
        algorithm(),
        block_size(),
        verbose(),
    ],
    positionals=[
        positional("source_file", help="file to read"),
        positional("target_file", required=False, help="file to create, which must not exist yet"),
    ],
    run=zfile,
)


def main() -> int:
    """Entry point of the program."""
    return run(COMMAND)
