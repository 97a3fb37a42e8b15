"""`obd detach`: takes a block device away and waits until what was written to it is on disk."""

from __future__ import annotations

from tools.errors import tell
from tools.options import Command, Namespace, positional


def detach(args: Namespace) -> int:
    """Runs the command; returns the exit status."""
    import obd.attach

    if not obd.attach.detach(args.device):
        tell(f"{args.device}: not attached")
    return 0


COMMAND = Command(
    "detach",
    "Takes away a device of `obd attach`, unless it is in use, and waits until its upper is on disk. "
    "Not attached is fine.",
    positionals=[positional("device", help="the device, its image configuration, or its name in `obd list`")],
    run=detach,
)
