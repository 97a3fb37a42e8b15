"""`obd umount`: takes a mounted image away and waits until what was written to it is on disk."""

from __future__ import annotations

from tools.errors import tell
from tools.options import Command, Namespace, positional


def umount(args: Namespace) -> int:
    """Runs the command; returns the exit status."""
    from obd.mount.control import unmount_image

    if not unmount_image(args.directory):
        tell(f"{args.directory}: no image is mounted here")
    return 0


COMMAND = Command(
    "umount",
    "Unmounts an image and waits until its upper is on disk. Not mounted is fine.",
    positionals=[positional("directory", help="where it is mounted")],
    run=umount,
)
