"""`obd mount`: the file system in an image, mounted; a background process serves it."""

from __future__ import annotations

from tools.errors import say, tell
from tools.obd.common import service_option
from tools.options import Command, Namespace, flag, option, positional
from tools.values import existing_file


def mount(args: Namespace) -> int:
    """Runs the command; returns the exit status."""
    from obd.mount.control import mount_image

    mounted = mount_image(
        args.config, args.directory, service=args.service, read_only=not args.rw, options=args.options
    )
    if mounted.warning:
        say(f"obd: warning: {mounted.warning}")
    tell(f"{args.directory}: {mounted.loop}")
    return 0


COMMAND = Command(
    "mount",
    "Mounts the file system in an image at a directory, by FUSE and a loop device.",
    options=[
        flag("--rw", help="writable; the image must have an upper"),
        option(
            "-o", "--options", metavar="OPTIONS", default="", help="options for mount(8), comma separated"
        ),
        service_option(),
    ],
    positionals=[
        positional("config", convert=existing_file, help="image configuration"),
        positional("directory", help="where to mount"),
    ],
    details="A background process serves the image until `obd umount` (or umount) takes the mount away. "
    "Devices and set-user-ID bits in the image count for nothing, unless -o dev,suid says otherwise.",
    run=mount,
)
