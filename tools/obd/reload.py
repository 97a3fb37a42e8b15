"""`obd reload`: has running processes read their service configuration anew."""

from __future__ import annotations

import json

from tools.errors import FAILED, Failure, describe, say, tell
from tools.obd.running import running
from tools.options import Command, Namespace, flag, positional

# What came of a key, for people.
WORDS = {
    "applied": "counts now",
    "new_devices": "counts for devices that are opened from now on",
    "restart": "needs a restart",
    "no_effect": "has no effect",
}


def reload(args: Namespace) -> int:
    """Runs the command; returns the exit status."""
    from obd.sockets import ask

    found = running(args.which)
    if not found:
        raise Failure("obd: not-found: no process serves anything here")
    status, told = 0, []
    for facts in found:
        pid = facts["pid"]
        try:
            told.append({"pid": pid, **json.loads(ask(pid, "POST", "/v1/reload"))})
        except OSError as error:
            say(f"obd: {describe(error)}")
            status = FAILED
    if args.json:
        tell(json.dumps(told, indent=2))
        return status
    for one in told:
        changes = [f"{key} {words}" for member, words in WORDS.items() for key in one[member]]
        for line in changes or ["nothing has changed"]:
            tell(f"{one['pid']}: {line}")
        for line in one["warnings"]:
            say(f"obd: warning: process {one['pid']}: {line}")
    return status


COMMAND = Command(
    "reload",
    "Has processes that serve devices read their service configuration anew.",
    options=[flag("--json", help="for programs: a list with an object for each process")],
    positionals=[
        positional(
            "which", required=False, help="a process number, or a device of it (default: all processes)"
        )
    ],
    details="Prints each key that has changed and when it counts. A wrong configuration changes nothing.",
    run=reload,
)
