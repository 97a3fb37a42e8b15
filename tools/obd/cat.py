"""`obd cat`: the content of files in an image."""

from __future__ import annotations

import os

from tools.obd.image_files import DETAILS, finish_output, image_options, open_image, write_out
from tools.options import Command, Namespace, positional


def cat(args: Namespace) -> int:
    """Runs the command; returns the exit status."""
    from obd.files.name import split_name

    for word in args.file:
        image, path = split_name(word)
        with open_image(image, args) as files:
            for piece in files.read(os.fsencode(path)):
                write_out(piece)
    finish_output()
    return 0


COMMAND = Command(
    "cat",
    "Writes files in images to standard output, without mounting these.",
    options=image_options(),
    positionals=[positional("file", repeat=True, help="IMAGE:PATH")],
    details=DETAILS,
    run=cat,
)
