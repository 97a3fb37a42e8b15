"""`obd info`: what a file is, layer by layer of wrapping."""

from __future__ import annotations

import json

from tools.errors import describe, say, tell
from tools.obd.common import tree
from tools.options import Command, Namespace, flag, positional


def info(args: Namespace) -> int:
    """Runs the command; returns the exit status."""
    import obdcore

    status = 0
    found = []
    for path in args.file:
        try:
            found.append({"file": path, **obdcore.layer_info(path)})
        except OSError as error:
            say(f"obd: {describe(error)}")
            status = 255
    if args.json:
        tell(
            json.dumps(found if len(args.file) > 1 else found[0] if found else None, indent=2, default=_text)
        )
    else:
        for facts in found:
            name = facts.pop("file")
            tell("\n".join([f"{name}:", *tree(facts, 1)]))
    return status


def _text(value: object) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


COMMAND = Command(
    "info",
    "Tell what a file is: layer, compressed layer, writable layer, index.",
    options=[flag("--json", help="for programs: one object, or a list of them for several files")],
    positionals=[positional("file", repeat=True, help="files to look at")],
    run=info,
)
