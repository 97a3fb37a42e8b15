"""`obd snapshot`: seals the upper of a device in use and puts a new one on top."""

from __future__ import annotations

import json
import os

from tools.errors import Failure, tell
from tools.obd.running import the_device
from tools.options import Command, Namespace, flag, option, positional
from tools.values import existing_file

# A sealed layer is flushed first: as long as the API itself may take.
TIMEOUT_S = 150.0


def snapshot(args: Namespace) -> int:
    """Runs the command; returns the exit status."""
    from obd.sockets import ask, device_path

    if (args.config is None) == (args.data is None) or (args.data is None) != (args.index is None):
        raise Failure("obd: snapshot wants either a new image configuration or --data and --index")
    if args.sparse and args.config:
        raise Failure("obd: --sparse goes with --data and --index")
    # The process may have another working directory.
    wanted = {
        key: os.path.abspath(getattr(args, key)) for key in ("config", "data", "index") if getattr(args, key)
    }
    content = {**wanted, **({"sparse": True} if args.sparse else {})}
    pid, name = the_device(args.device)
    answer = ask(pid, "POST", f"{device_path(name)}/snapshot", content, timeout_s=TIMEOUT_S)
    told = json.loads(answer)
    if args.json:
        tell(json.dumps(told, indent=2))
    elif told["repeated"]:
        tell(f"{told['sealed']}: sealed already")
    else:
        tell(f"{told['sealed']}: sealed; writes waited {1000 * told['pause_s']:.1f} ms")
    return 0


COMMAND = Command(
    "snapshot",
    "Takes a live snapshot: what has been written becomes a layer, writes go to a new upper.",
    options=[
        option("--data", metavar="FILE", help="data file of the new upper"),
        option("--index", metavar="FILE", help="its index; both are made if neither is there"),
        flag("--sparse", help="make them sparse"),
        flag("--json", help="for programs"),
    ],
    positionals=[
        positional("device", help="process number, or name, address or image of a device"),
        positional(
            "config",
            required=False,
            convert=existing_file,
            help="new image configuration: the device's layers, its upper as one more, a new upper",
        ),
    ],
    details="The configuration of the device then says the new layers. A file system on the device is in the "
    "snapshot as after a crash: `sync` or `fsfreeze` before makes it whole.",
    run=snapshot,
)
