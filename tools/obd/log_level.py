"""`obd log-level`: tells or changes what running processes put into their logs."""

from __future__ import annotations

import json

from tools.errors import FAILED, Failure, describe, say, tell
from tools.obd.running import running
from tools.options import Command, Namespace, option, positional
from tools.values import Choice


def log_level(args: Namespace) -> int:
    """Runs the command; returns the exit status."""
    from obd.sockets import ask

    found = running(args.process)
    if not found:
        raise Failure("obd: not-found: no process serves anything here")
    status = 0
    for facts in found:
        pid = facts["pid"]
        try:
            if args.level is None:
                told = json.loads(ask(pid, "GET", "/v1/log-level"))
                tell(f"{pid}: {told['level']}")
            else:
                told = json.loads(ask(pid, "PUT", "/v1/log-level", {"level": args.level}))
                tell(f"{pid}: {told['level']}, it was {told['before']}")
        except OSError as error:
            say(f"obd: {describe(error)}")
            status = FAILED
    return status


COMMAND = Command(
    "log-level",
    "Tells the log level of processes that serve devices, or sets it.",
    options=[
        option(
            "--process", metavar="WHICH", help="a process number, or a device of it (default: all processes)"
        )
    ],
    positionals=[
        positional(
            "level",
            required=False,
            convert=Choice("debug", "info", "warning", "error", "fatal"),
            help="debug, info, warning, error or fatal",
        )
    ],
    details="It holds until the process ends, or reads a configuration whose log level has changed.",
    run=log_level,
)
