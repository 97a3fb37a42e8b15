"""`obd info`: what a file is, from the outer wrapping to the layer inside."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tools.errors import FAILED, describe, say, tell
from tools.obd.common import amount
from tools.options import Command, Namespace, flag, positional

if TYPE_CHECKING:
    from typing import Any

NULL_UUID = "00000000-0000-0000-0000-000000000000"


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
            status = FAILED
    if args.json:
        tell(json.dumps(found, indent=2))
    else:
        for facts in found:
            tell("\n".join(for_people(facts)))
    return status


def for_people(facts: dict[str, Any]) -> list[str]:
    """The facts about one file in lines."""
    tar, zfile, lsmt = (facts.get(part) for part in ("tar", "zfile", "lsmt"))
    kind = (
        lsmt["kind"] + ("" if "index" in lsmt["kind"] else " layer") if lsmt else "zfile" if zfile else None
    )
    lines = [f"{facts['file']}: {kind or 'neither a layer nor a zfile'}, {amount(facts['size'])}"]
    if tar:
        lines.append(f"  tar: member {tar['name']}, {amount(tar['size'])} from byte {tar['offset']}")
    if zfile:
        checks = "with checksums" if zfile["checksum"] else "WITHOUT checksums"
        sizes = f"{amount(zfile['stored_size'])} for {amount(zfile['original_size'])}"
        blocks = f"{zfile['blocks']} blocks of {amount(zfile['block_size'])}"
        lines.append(f"  zfile: {zfile['algorithm']}, {checks}, {blocks}; {sizes}")
    if lsmt:
        lines += _lsmt(lsmt)
    return lines


def _lsmt(lsmt: dict[str, Any]) -> list[str]:
    # Where there is a trailer it is what counts: the header was written before the rest was known.
    head = lsmt.get("trailer") or lsmt["header"]
    size = head["virtual_size"]
    lines = [f"  device: {amount(size) if size else 'as large as what is below'}"]
    index = lsmt.get("index")
    if index:
        mapped = f"{amount(index['mapped_bytes'])} in {index['segments']} segments"
        lines.append(f"  index: {mapped}, {amount(index['zeroed_bytes'])} zeroed, {index['padding']} padding")
    for name in ("uuid", "parent_uuid", "tag"):
        if head[name] not in ("", NULL_UUID):
            lines.append(f"  {name.replace('_', ' ')}: {head[name]}")
    return lines


COMMAND = Command(
    "info",
    "Tells what a file is: layer, compressed layer, writable layer, index.",
    options=[flag("--json", help="for programs: a list of objects")],
    positionals=[positional("file", repeat=True, help="files to look at")],
    run=info,
)
