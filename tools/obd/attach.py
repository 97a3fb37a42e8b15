"""`obd attach`: the device of an image as a block device of this machine."""

from __future__ import annotations

from tools.errors import say, tell
from tools.obd.common import service_option
from tools.options import Command, Namespace, flag, option, positional
from tools.values import Choice, existing_file


def attach(args: Namespace) -> int:
    """Runs the command; returns the exit status."""
    import obd.attach

    attached = obd.attach.attach(args.config, via=args.via, rw=args.rw, service=args.service)
    say(f"obd: {attached.path} by {attached.via}: {attached.why}")
    tell(attached.path)
    return 0


COMMAND = Command(
    "attach",
    "Makes a block device of an image; prints its path, and on stderr by which way, and why.",
    options=[
        option(
            "--via",
            metavar="WAY",
            convert=Choice("auto", "ublk", "tcmu", "nbd", "fuse"),
            default="auto",
            help="auto: the best that works here, of ublk, tcmu (overlaybd-tcmu), nbd (the kernel's client), "
            "fuse (and a loop device)",
        ),
        flag("--rw", help="writable; the image must have an upper"),
        service_option(),
    ],
    positionals=[positional("config", convert=existing_file, help="image configuration")],
    details="The device stays until `obd detach`. If the process that serves it dies, `obd attach` of the "
    "same image serves it again, under its users, if it is read-only, or by ublk or nbd.",
    run=attach,
)
