"""`obd ls`: the files in an image."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tools.obd.image_files import (
    DETAILS,
    describe_file,
    finish_output,
    image_options,
    open_image,
    write_out,
)
from tools.options import Command, Namespace, flag, positional

if TYPE_CHECKING:
    from collections.abc import Iterator

    import obdcore
    from obd.files import Files


def ls(args: Namespace) -> int:
    """Runs the command; returns the exit status."""
    from obd.files.files import shown
    from obd.files.name import split_name

    image, path = split_name(args.image)
    top = _bytes(path)
    with open_image(image, args) as files:
        rows = ((name, info, _target(files, name, info)) for name, info in _found(files, top, args))
        if args.json:
            _as_json(rows)
        elif args.null:
            for name, _, _ in rows:
                write_out(name + b"\0")
        else:
            for name, info, target in rows:
                arrow = f" -> {shown(target)}" if target is not None and args.long else ""
                start = _long(info) if args.long else ""
                # What is printable may still be no UTF-8 to this terminal: bytes, as with all names.
                write_out(_bytes(f"{start}{shown(name)}{arrow}\n"))
    finish_output()
    return 0


def _found(files: Files, top: bytes, args: Namespace) -> Iterator[tuple[bytes, obdcore.FileStat]]:
    """What is to be listed: a file itself, or what is in a directory."""
    from obd.files.files import is_directory, join

    info = files.stat(top)
    if args.directory or not is_directory(info):
        yield top, info
    elif args.recursive:
        yield from files.walk(top, info.ino)
    else:
        for name, number in files.entries(top, info.ino):
            yield name, files.number(join(top, name), number)


def _target(files: Files, path: bytes, info: obdcore.FileStat) -> bytes | None:
    return files.readlink(path, info.ino) if info.mode & 0o170000 == 0o120000 else None


def _long(info: obdcore.FileStat) -> str:
    """The columns before a name."""
    import stat
    from datetime import UTC, datetime, timedelta

    size = "{}, {}".format(*info.device) if any(info.device) else str(info.size)
    try:
        when = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=info.mtime_ns // 10**9)
        time = when.strftime("%Y-%m-%d %H:%M:%S")
    except OverflowError:
        time = str(info.mtime_ns // 10**9)
    mode = stat.filemode(info.mode)
    return f"{mode} {info.nlink:>3} {info.uid:>5} {info.gid:>5} {size:>10} {time} "


def _as_json(rows: Iterator[tuple[bytes, obdcore.FileStat, bytes | None]]) -> None:
    """A list, written as it is found: it may be long."""
    before = b"[\n"
    for path, info, target in rows:
        write_out(before + json.dumps(describe_file(path, info, target)).encode())
        before = b",\n"
    write_out(b"[]\n" if before == b"[\n" else b"\n]\n")


def _bytes(path: str) -> bytes:
    import os

    return os.fsencode(path)


COMMAND = Command(
    "ls",
    "Lists files in an image, without mounting it.",
    options=[
        flag("-l", "--long", help="type, mode, links, owner, size, time (UTC) and where links lead"),
        flag("-R", "--recursive", help="all files below, with their paths"),
        flag("-d", "--directory", help="a directory itself, not what is in it"),
        flag("-0", "--null", help="for programs: names as they are, each with a zero byte behind it"),
        flag("--json", help="for programs: a list of objects"),
        *image_options(),
    ],
    positionals=[positional("image", help="IMAGE[:PATH]")],
    details=DETAILS,
    run=ls,
)
