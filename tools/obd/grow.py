"""`obd grow`: makes a device larger while it is in use."""

from __future__ import annotations

import json

from tools.errors import tell
from tools.obd.common import amount
from tools.obd.running import the_device
from tools.options import Command, Namespace, positional
from tools.values import amount_of_bytes

TIMEOUT_S = 150.0


def grow(args: Namespace) -> int:
    """Runs the command; returns the exit status."""
    from obd.sockets import ask, device_path

    pid, name = the_device(args.device)
    content = {"size_bytes": args.size}
    told = json.loads(ask(pid, "POST", f"{device_path(name)}/resize", content, timeout_s=TIMEOUT_S))
    tell(f"{amount(told['before_bytes'])} before, {amount(told['size_bytes'])} now")
    return 0


COMMAND = Command(
    "grow",
    "Makes a writable device larger while it is in use; the file system on it is not touched.",
    positionals=[
        positional("device", help="process number, or name, address or image of a device"),
        positional(
            "size", convert=amount_of_bytes, help="new size: bytes, or with K, M, G or T behind (20G)"
        ),
    ],
    details="Afterwards `resize2fs` or `xfs_growfs` lets the file system have it. overlaybd-resize is for "
    "images that are not in use, and resizes the file system too.",
    run=grow,
)
