"""`obd doctor`: what is missing on this machine, and how to mend it."""

from __future__ import annotations

import json

from tools.errors import tell
from tools.obd.common import service_option
from tools.options import Command, Namespace, flag, positional
from tools.values import existing_file

BROKEN = 1


def doctor(args: Namespace) -> int:
    """Runs the command; returns the exit status."""
    from dataclasses import asdict

    from obd.doctor import examine

    found = examine(args.config, args.service)
    if args.json:
        tell(json.dumps([asdict(one) for one in found], indent=2, ensure_ascii=False))
    else:
        for one in found:
            fix = f" -- {one.fix}" if one.fix else ""
            tell(f"{one.status:<8} {one.area}: {one.what}{fix}")
    return BROKEN if any(one.status == "problem" for one in found) else 0


COMMAND = Command(
    "doctor",
    "Looks at kernel, rights, daemon, configuration, disk, registries, clock and limits: one line for each "
    "finding, with what to do about it.",
    options=[flag("--json", help="for programs"), service_option()],
    positionals=[
        positional(
            "config",
            repeat=True,
            required=False,
            convert=existing_file,
            help="image configurations to look at, with the registries of their layers",
        )
    ],
    details="Changes nothing. Exit status: 0 nothing is broken, 1 something is.",
    run=doctor,
)
