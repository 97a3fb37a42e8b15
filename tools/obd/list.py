"""`obd list`: which images are attached as block devices, and how."""

from __future__ import annotations

import json

from tools.errors import tell
from tools.options import Command, Namespace, flag


def list_(args: Namespace) -> int:
    """Runs the command; returns the exit status."""
    from dataclasses import asdict

    import obd.attach

    found = obd.attach.attachments()
    if args.json:
        tell(json.dumps([asdict(one) for one in found], indent=2))
        return 0
    for one in found:
        mode = "read-only" if one.read_only else "writable"
        cure = "start overlaybd-tcmu" if one.via == "tcmu" else "obd attach serves it again"
        dead = f", its server died ({cure})" if one.dead else ""
        tell(f"{one.path}: {one.config} by {one.via}, {mode}{dead}")
    return 0


COMMAND = Command(
    "list",
    "Lists the devices of `obd attach`; removes what a crash left, unless it is in use.",
    options=[flag("--json", help="for programs")],
    run=list_,
)
