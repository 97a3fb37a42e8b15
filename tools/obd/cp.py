"""`obd cp`: files out of an image."""

from __future__ import annotations

import os

from tools.errors import say
from tools.obd.image_files import DETAILS, image_options, open_image
from tools.options import Command, Namespace, flag, positional


def cp(args: Namespace) -> int:
    """Runs the command; returns the exit status."""
    from obd.files.copy import Copier
    from obd.files.name import split_name

    image, path = split_name(args.source)
    with open_image(image, args) as files:
        copier = Copier(files, replace=args.force, note=lambda line: say(f"obd: {line}"))
        copier.copy(os.fsencode(path), args.target, recursive=args.recursive)
    return 0


COMMAND = Command(
    "cp",
    "Copies files out of an image, without mounting it.",
    options=[
        flag("-r", "--recursive", help="directories, with all that is in them; links stay links"),
        flag("-f", "--force", help="replace files that are there"),
        *image_options(),
    ],
    positionals=[
        positional("source", help="IMAGE:PATH"),
        positional("target", help="where to; into it if that is a directory"),
    ],
    details=f"""
        Keeps permissions, times, holes, links and extended attributes as far as allowed; as root also
        owners and devices. Whatever names and links the image has, nothing is written outside of the target.
        {DETAILS}
    """,
    run=cp,
)
