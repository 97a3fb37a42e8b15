"""`obd diff`: which files differ between two images."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from tools.errors import Failure
from tools.obd.image_files import (
    DETAILS,
    describe_file,
    finish_output,
    image_options,
    open_image,
    write_out,
)
from tools.options import Command, Namespace, flag, option, positional
from tools.progress import Progress
from tools.values import positive

if TYPE_CHECKING:
    from typing import Any

    import obdcore
    from obd.files import Files
    from obd.files.diff import Change

SIGNS = {"added": "+", "removed": "-", "changed": "~"}


def diff(args: Namespace) -> int:
    """Runs the command; returns the exit status."""
    from obd.files.diff import Comparison
    from obd.files.files import shown

    if len(args.image) > 2:
        raise Failure("obd: invalid: diff: two images, or one, can be compared")
    base: int | None = args.base_layers
    if len(args.image) == 1 and base is None:
        base = _all_but_one(args)
    before = open_image(args.image[0], args, layers=base)
    with before, open_image(args.image[-1], args) as after, Progress("comparing") as progress:
        rows = []
        for change in Comparison(before, after, times=not args.ignore_times, progress=progress).changes():
            if args.json:
                rows.append(_for_programs(before, after, change))
            elif args.null:
                write_out(SIGNS[change.kind].encode() + change.path + b"\0")
            else:
                what = f" ({', '.join(change.what)})" if change.what else ""
                write_out(os.fsencode(f"{SIGNS[change.kind]} {shown(change.path)}{what}\n"))
        if args.json:
            write_out(json.dumps(rows, indent=2).encode() + b"\n")
    finish_output()
    return 0


def _all_but_one(args: Namespace) -> int:
    """Of one image compared with itself: the layers below its topmost one."""
    with open_image(args.image[0], args) as files:
        below = len(files.device.sources) - (0 if files.device.config.writable else 1)
    if below < 1:
        raise Failure(f"obd: invalid: {args.image[0]}: has one layer: nothing to compare it with")
    return below


def _for_programs(before: Files, after: Files, change: Change) -> dict[str, Any]:
    found: dict[str, Any] = {"path": os.fsdecode(change.path), "change": change.kind}
    if change.what:
        found["differs"] = list(change.what)
    for key, files, info in (("before", before, change.before), ("after", after, change.after)):
        if info is not None:
            row = describe_file(change.path, info, _target(files, change.path, info))
            del row["path"]
            found[key] = row
    return found


def _target(files: Files, path: bytes, info: obdcore.FileStat) -> bytes | None:
    return files.readlink(path, info.ino) if info.mode & 0o170000 == 0o120000 else None


COMMAND = Command(
    "diff",
    "Tells which files differ between two images, or what the top layer of one has changed.",
    options=[
        option(
            "--base-layers", metavar="N", convert=positive, help="of the first image only the lowest N layers"
        ),
        flag("--ignore-times", help="times of change do not count"),
        flag("-0", "--null", help="for programs: + - or ~ and the path, each with a zero byte behind it"),
        flag("--json", help="for programs: a list of objects"),
        *image_options(),
    ],
    positionals=[positional("image", repeat=True, help="IMAGE, or two of them: before and after")],
    details=f"""
        + added, - removed, ~ changed, and in what: type, mode, owner, size, device, target, content, xattrs,
        times. Content is read only where the two do not share it.
        {DETAILS}
    """,
    run=diff,
)
