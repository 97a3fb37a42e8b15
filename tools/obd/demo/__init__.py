"""`obd demo`: from packages to an ordinary image, a lazily read one and a changed one; a table at the end."""

from __future__ import annotations

from tools.options import Command, Namespace, flag, option


def demo(args: Namespace) -> int:
    """Runs the command; returns the exit status."""
    from tools.obd.demo.command import run

    return run(args)


COMMAND = Command(
    "demo",
    "Shows the whole way of an image on this machine, with numbers; leaves nothing behind.",
    options=[
        option(
            "--directory", help="where to work (default: the system's temporary directory)", metavar="DIR"
        ),
        option(
            "--mirror",
            help="Debian mirror to build from",
            metavar="URL",
            default="http://deb.debian.org/debian",
        ),
        flag("--from-host", help="take the files from this machine instead of a mirror"),
        flag("--quiet", help="do not print the commands that are run"),
    ],
    run=demo,
)
