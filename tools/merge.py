"""overlaybd-merge: flattens all layers of an image into one committed layer."""

from __future__ import annotations

import obdcore
from tools.errors import Failure, describe, say
from tools.layer_options import report, service_config, upload_options, verbose, warn_of_cut
from tools.main import run
from tools.options import Command, Namespace, flag, positional
from tools.output import Output
from tools.progress import Progress
from tools.stack import load_stack
from tools.values import existing_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tools.upload import Upload

COMPRESSION = {"algorithm": "lz4", "block_size": 4096, "checksum": True, "overwrite_header": False}


def merge(args: Namespace) -> int:
    """Runs the command; returns the exit status."""
    if args.output is None:
        raise Failure("failed to create output file, 22: output must be given")
    upload = _upload(args)
    stack = load_stack(args.image_config_path, args.service_config_path)
    compress = COMPRESSION if args.compress else None
    with Output(args.output, replace=True, inputs=stack.files()) as out, Progress("merging") as progress:
        try:
            info = obdcore.lsmt_merge(
                stack.lowers, out.fd, upper=stack.upper, compress=compress, progress=progress
            )
        except OSError as error:
            raise Failure(f"failed to compact: {describe(error)}") from None
        warn_of_cut(info["cut_records"], stack.upper[1] if stack.upper else "")
        digest = upload.send(out.temporary) if upload else ""
    report(info, args.verbose)
    say(digest)
    return 0


def _upload(args: Namespace) -> Upload | None:
    """The upload that is asked for; None without one, and as upstream without compression."""
    if not args.upload:
        return None
    if not args.compress:
        say("WARNING option '--upload' will be ignored without '--compress'")
        return None
    from tools.upload import Upload

    return Upload(args, "failed to upload")


COMMAND = Command(
    "overlaybd-merge",
    "Flattens all layers of an image, and its writable layer if it has one, into one committed layer.",
    options=[
        flag("--compress", default=True, help="compress to a zfile, lz4 in blocks of 4 KiB"),
        flag("-t", help="accepted, without effect"),
        service_config(),
        *upload_options(),
        verbose(),
    ],
    positionals=[
        positional("image_config_path", convert=existing_file, help="image configuration, JSON"),
        positional("output", required=False, help="file to write; an existing one is replaced"),
    ],
    run=merge,
)


def main() -> int:
    """Entry point of the program."""
    return run(COMMAND)
