"""`obd trace`: looks at traces, and records one from a device that is in use."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import TYPE_CHECKING

from tools.errors import FAILED, Failure, say, tell
from tools.obd.common import amount
from tools.obd.running import device_of_image, the_device
from tools.options import Command, Namespace, flag, option, positional
from tools.values import existing_file, positive

if TYPE_CHECKING:
    from typing import Any

    Facts = dict[str, Any]

# How often to look whether the process that records is still there.
POLL_S = 1.0
# What a trace file takes for each record, and before the first.
RECORD_BYTES = 24


def show(args: Namespace) -> int:
    """Runs `obd trace show`; returns the exit status."""
    facts = describe_file(args.file)
    if args.json:
        tell(json.dumps(facts, indent=2))
    elif facts["kind"] == "trace":
        for record in facts["records"]:
            tell(f"{record['layer']:>5} {record['offset']:>15} {record['bytes']:>10}")
        for layer in facts["layers"]:
            what = f"{layer['records']} records, {amount(layer['bytes'])}"
            tell(f"layer {layer['layer']}: {what}, up to byte {layer['end']}")
        passed = f", {facts['passed_over']} passed over" if facts["passed_over"] else ""
        sums = f"{len(facts['records'])} records, {amount(facts['bytes'])}{passed}"
        tell(f"{args.file}: {sums}")
    elif facts["kind"] == "list":
        tell(f"{args.file}: no trace: a list of {facts['lines']} paths")
    elif facts["kind"] == "empty":
        tell(f"{args.file}: empty: as recordTracePath it asks for a recording")
    if "damage" in facts:
        say(f"obd: {args.file}: {facts['damage']}")
        return FAILED
    return 0


def describe_file(path: str) -> Facts:
    """What a trace file holds: `kind`, and what there is to say of that kind. Raises `OSError`."""
    import obdcore
    from cache.prefetch import load_file
    from tools.errors import describe

    data = load_file(path)
    if not data:
        return {"kind": "empty"}
    if not obdcore.trace_detect(data):
        lines = (line.strip() for line in data.splitlines())
        return {"kind": "list", "lines": sum(line != b"" and not line.startswith(b"#") for line in lines)}
    try:
        records = obdcore.trace_parse(data)
    except obdcore.Error as error:
        return {"kind": "damaged", "damage": describe(error)}
    layers: dict[int, Facts] = {}
    for layer, offset, length in records:
        facts = layers.setdefault(layer, {"layer": layer, "records": 0, "bytes": 0, "end": 0})
        facts["records"] += 1
        facts["bytes"] += length
        facts["end"] = max(facts["end"], offset + length)
    return {
        "kind": "trace",
        "records": [{"layer": layer, "offset": offset, "bytes": length} for layer, offset, length in records],
        "layers": [layers[layer] for layer in sorted(layers)],
        "bytes": sum(facts["bytes"] for facts in layers.values()),
        # Of other kinds than reads, or of no bytes.
        "passed_over": len(data) // RECORD_BYTES - 1 - len(records),
    }


def record(args: Namespace) -> int:
    """Runs `obd trace record`; returns the exit status."""
    from cache.trace import write_file
    from obd.sockets import ask, device_path

    if (args.config is None) == (args.device is None):
        raise Failure("obd: trace record wants either an image configuration or --device")
    pid, name = the_device(args.device) if args.device else device_of_image(args.config)
    folder = os.path.dirname(args.output) or "."
    if not os.path.isdir(folder) or os.path.isdir(args.output):
        raise Failure(f"obd: {args.output}: cannot become a file")
    # From here on a signal ends the recording, not the command.
    ending = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, ending)
    trace = f"{device_path(name)}/trace"
    ask(pid, "POST", f"{trace}/start")
    say(f"obd: recording {name or 'the device'} of process {pid}; Ctrl-C ends it")
    wait(ending, args.seconds, pid)
    data = ask(pid, "POST", f"{trace}/stop")
    write_file(args.output, data)
    tell(f"{args.output}: {len(data) // RECORD_BYTES - 1} records")
    return 0


def wait(ending: set[signal.Signals], seconds: int | None, pid: int) -> None:
    """Until one of the signals comes, the time is over, or process `pid` is gone."""
    end = None if seconds is None else time.monotonic() + seconds
    while os.path.exists(f"/proc/{pid}"):
        left = POLL_S if end is None else min(POLL_S, end - time.monotonic())
        if left <= 0 or signal.sigtimedwait(ending, left):
            return
    raise Failure(f"obd: process {pid} has ended, and its recording with it")


COMMAND = Command(
    "trace",
    "Looks at traces, and records what a device in use reads from now on.",
    subcommands=[
        Command(
            "show",
            "Prints the records of a trace (layer, offset, bytes), and sums for each layer.",
            options=[flag("--json", help="for programs")],
            positionals=[positional("file", convert=existing_file, help="trace, or list of paths")],
            details="Layer 0 is the bottom one. A damaged trace fails, and what is wrong is said.",
            run=show,
        ),
        Command(
            "record",
            "Records what a device that is served or mounted reads, until Ctrl-C.",
            options=[
                option("--device", metavar="DEVICE", help="instead: process number, or name of a device"),
                option(
                    "-o", "--output", metavar="FILE", required=True, help="trace to write, replaced if there"
                ),
                option("--seconds", metavar="N", convert=positive, help="ends by itself after so long"),
            ],
            positionals=[positional("config", required=False, help="image configuration that is in use")],
            details="Only processes of the same user are seen.",
            run=record,
        ),
    ],
)
