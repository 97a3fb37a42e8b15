"""overlaybd-commit: turns a writable layer into a committed one, or seals it in place."""

from __future__ import annotations

import obdcore
from tools.errors import Failure, errno_and_line, say, tell
from tools.layer_options import (
    ALGORITHMS,
    algorithm,
    block_size,
    block_size_bytes,
    report,
    upload_options,
    uuid_or_none,
    verbose,
    warn_of_cut,
)
from tools.main import run
from tools.options import Command, Namespace, flag, option, positional
from tools.output import Output
from tools.progress import Progress
from tools.values import existing_file, integer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from tools.upload import Upload

MAX_TAG_BYTES = 256
MAX_THREADS = 256


def commit(args: Namespace) -> int:
    """Runs the command; returns the exit status."""
    if args.seal:
        _seal(args)
        return 0
    digest = _commit(args)
    say(digest)
    tell("overlaybd-commit has committed files SUCCESSFULLY")
    return 0


def _seal(args: Namespace) -> None:
    if args.index_file is None:
        raise Failure("failed to perform seal, 22: index_file is required with --seal")
    try:
        cut = obdcore.lsmt_seal(args.data_file, args.index_file)
    except OSError as error:
        raise Failure(f"failed to perform seal, {errno_and_line(error)}") from None
    warn_of_cut(cut, args.index_file)


def _commit(args: Namespace) -> str:
    """Commits; returns the digest of the uploaded blob, or an empty text without an upload."""
    index: str | None = None if args.commit_sealed else args.index_file
    path: str | None = args.index_file if args.commit_sealed else args.commit_file
    if path is None or (index is None and not args.commit_sealed):
        wanted = "the output" if args.commit_sealed else "index_file and commit_file"
        raise Failure(f"failed to perform commit(), 22: {wanted} must be given")
    tag = args.m.encode(errors="surrogateescape") if args.m else b""
    if len(tag) > MAX_TAG_BYTES:
        raise Failure(f"failed to perform commit(), 105: -m: {len(tag)} bytes, more than {MAX_TAG_BYTES}")
    options: dict[str, Any] = {
        "turbo": bool(args.turboOCI or args.fastoci),
        "uuid": uuid_or_none(args.uuid, "--uuid"),
        "parent_uuid": uuid_or_none(args.parent_uuid, "--parent-uuid"),
        "tag": tag,
        "compress": _compression(args),
        "tar": args.t and args.z,
    }
    upload = _upload(args)
    inputs = [args.data_file] if index is None else [args.data_file, index]
    with Output(path, replace=args.f, inputs=inputs) as out, Progress("committing") as progress:
        try:
            info = obdcore.lsmt_commit(args.data_file, index, out.fd, progress=progress, **options)
        except OSError as error:
            raise Failure(f"failed to perform commit(), {errno_and_line(error)}") from None
        warn_of_cut(info["cut_records"], index or "")
        digest = upload.send(out.temporary) if upload else ""
    report(info, args.verbose)
    return digest


def _compression(args: Namespace) -> dict[str, Any] | None:
    """The options of compression; None without `-z`."""
    if not args.z:
        say("WARNING option '--bs' and '--algorithm' will be ignored without '-z'")
        if args.t:
            say("WARNING option '-t' will be ignored without '-z'")
        return None
    if args.algorithm not in ALGORITHMS:
        raise Failure("invalid '--algorithm' parameters.")
    if not 1 <= args.compress_threads <= MAX_THREADS:
        raise Failure(f"invalid '--compress_threads' parameters: 1 to {MAX_THREADS}")
    return {
        "algorithm": args.algorithm,
        "block_size": block_size_bytes(args.bs),
        "checksum": True,
        "overwrite_header": not args.upload,
        "threads": args.compress_threads,
    }


def _upload(args: Namespace) -> Upload | None:
    """The upload that is asked for; None without one, and as upstream without `-z`."""
    if not args.upload:
        return None
    if not args.z:
        say("WARNING option '--upload' will be ignored without '-z'")
        return None
    if args.t:
        raise Failure("unsupport option with '-t' and '--upload' at the same time.")
    from tools.upload import Upload

    return Upload(args, "failed to commit or upload")


COMMAND = Command(
    "overlaybd-commit",
    "Commits a writable layer into a new file, or seals it in place.",
    options=[
        option("-m", help="message kept in the layer, at most 256 bytes"),
        option("--uuid", metavar="UUID", help="uuid of the result; what is not a uuid is ignored"),
        option(
            "-p",
            "--parent-uuid",
            metavar="UUID",
            help="uuid of its parent (default that of the source)",
        ),
        flag("-z", help="compress to a zfile, with checksums"),
        flag("-t", help="wrap in a tar, only with -z"),
        flag("-f", help="replace the output if it exists"),
        algorithm(),
        block_size(),
        flag("--turboOCI", help="commit metadata made over an original OCI layer"),
        flag("--fastoci", help="old name of --turboOCI"),
        flag("--seal", help="seal data_file in place: it becomes a read-only layer"),
        flag("--commit_sealed", help="data_file is a sealed layer; the second argument is the output"),
        option(
            "--compress_threads",
            metavar="N",
            convert=integer,
            default=1,
            help="threads for -z",
        ),
        *upload_options(),
        verbose(),
    ],
    positionals=[
        positional("data_file", convert=existing_file, help="data file of a writable layer, or sealed layer"),
        positional(
            "index_file",
            required=False,
            help="index file; the output with --commit_sealed",
        ),
        positional("commit_file", required=False, help="output, which must not exist yet"),
    ],
    run=commit,
)


def main() -> int:
    """Entry point of the program."""
    return run(COMMAND)
