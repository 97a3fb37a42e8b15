"""`obd stat`: what the devices of this machine are doing, asked from the processes that serve them."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from tools.errors import tell
from tools.obd.common import amount
from tools.obd.running import running
from tools.options import Command, Namespace, flag, option, positional
from tools.values import positive

if TYPE_CHECKING:
    from typing import Any

    Facts = dict[str, Any]
    Row = tuple[str, ...]

HEAD = ("PID", "DEVICE", "READS", "READ", "ERRORS", "WAITED", "FETCHED", "RETRIES", "LOCAL", "IMAGE")
CLEAR = "\x1b[H\x1b[J"


def stat(args: Namespace) -> int:
    """Runs the command; returns the exit status."""
    while True:
        found = running(args.which)
        if args.json:
            tell(json.dumps(found, indent=None if args.watch else 2))
        else:
            lines = detail(found) if args.which and len(found) == 1 else overview(found)
            tell((CLEAR if args.watch else "") + "\n".join(lines))
        if not args.watch:
            return 0
        time.sleep(args.interval)


def overview(found: list[Facts]) -> list[str]:
    """A line for each device, and one for each cache."""
    rows = [row(facts["pid"], device) for facts in found for device in facts["devices"]]
    lines = table([HEAD, *rows]) if rows else ["no devices"]
    for facts in found:
        lines += [cache_line(facts["pid"], cache) for cache in facts["caches"]]
    return lines


def row(pid: int, device: Facts) -> Row:
    """A device in the columns of `HEAD`."""
    layers = device["layers"]
    blobs = [*layers, *(layer["target"] for layer in layers if "target" in layer)]
    total = {key: sum(blob.get(key, 0) for blob in blobs) for key in ("fetched_bytes", "failures")}
    local = sum(layer["state"] != "remote" for layer in layers)
    return (
        str(pid),
        device["name"] or device["address"],
        str(device["reads"]),
        amount(device["read_bytes"]),
        str(device["errors"]),
        str(device["latency"]["network"]["count"]),
        amount(total["fetched_bytes"]),
        str(total["failures"]),
        f"{local}/{len(layers)}",
        device["image"],
    )


def cache_line(pid: int, cache: Facts) -> str:
    """A cache in a line."""
    reads = cache["hits"] + cache["misses"]
    share = f"{100 * cache['hits'] / reads:.1f} % hits" if reads else "not read yet"
    room = f"{amount(cache['used_bytes'])} of {amount(cache['capacity_bytes'])}"
    kept = f"{cache['evictions']} evictions, {cache['repairs']} repairs, {cache['uncached']} uncached"
    return f"{pid}: cache {cache['directory'] or 'in layer directories'}: {room}, {share}, {kept}"


def detail(found: list[Facts]) -> list[str]:
    """All about the devices of one process."""
    (facts,) = found
    lines = [f"{facts['command']}, process {facts['pid']}, {facts['version']}, up {facts['uptime_s']:.0f} s"]
    for device in facts["devices"]:
        kind = "read-only" if device["read_only"] else "writable"
        lines += [
            "",
            f"{device['name'] or device['address']}: {amount(device['size'])}, {kind}, {device['image']}",
        ]
        lines.append(f"  at {device['address']}" + (", recording a trace" if device["recording"] else ""))
        counts = ("reads", "writes", "discards", "flushes", "errors")
        lines.append("  " + ", ".join(f"{device[key]} {key}" for key in counts))
        lines.append(f"  {amount(device['read_bytes'])} read, {amount(device['written_bytes'])} written")
        lines += indent(
            table([("LATENCY", "COUNT", "TOTAL", "P50", "P99"), *map(latency, device["latency"].items())])
        )
        head = ("LAYER", "STATE", "REQUESTS", "FETCHED", "RETRIES", "DOWNLOAD", "SOURCE")
        rows = [row for facts in device["layers"] for row in layer_rows(facts)]
        lines += indent(table([head, *rows]))
        if prefetch := device.get("prefetch"):
            done = "done" if prefetch["done"] else "under way"
            got = f"{prefetch['pieces']} ranges, {amount(prefetch['fetched_bytes'])}"
            got += f", {prefetch['failed']} failed"
            lines.append(f"  prefetch {done}: {got}")
    return lines + [cache_line(facts["pid"], cache) for cache in facts["caches"]]


def latency(item: tuple[str, Facts]) -> Row:
    """A row of latencies."""
    cause, facts = item
    count = facts["count"]
    bounds = (f"<= {time_of(facts[key])}" if count else "-" for key in ("p50_s", "p99_s"))
    return (cause, str(count), time_of(facts["total_s"]), *bounds)


def time_of(seconds: float | None) -> str:
    """A time for people; None is one beyond all bounds."""
    if seconds is None:
        return "long"
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.4g} {unit}"
    return f"{seconds * 1e6:.0f} us"


def layer_rows(facts: Facts) -> list[Row]:
    """A row of a layer, and one of its target if it is of turboOCI."""
    rows = [blob_row(str(facts["position"]), facts["state"], facts)]
    return [*rows, blob_row("", "target", facts["target"])] if "target" in facts else rows


def blob_row(name: str, state: str, facts: Facts) -> Row:
    """A row of a blob."""
    download = facts.get("download")
    progress = f"{download['state']} {amount(download['done_bytes'])}" if download else "-"
    fetched = [str(facts.get("requests", "-")), "-", str(facts.get("failures", "-"))]
    if "fetched_bytes" in facts:
        fetched[1] = amount(facts["fetched_bytes"])
    return (name, state, *fetched, progress, facts["source"])


def indent(lines: list[str]) -> list[str]:
    """Lines moved to the right, after an empty one."""
    return ["", *(f"  {line}" for line in lines)]


def table(rows: list[Row]) -> list[str]:
    """Rows in columns as wide as need be; the last column is not padded."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    return ["  ".join([*map(str.ljust, row[:-1], widths), row[-1]]) for row in rows]


COMMAND = Command(
    "stat",
    "Tells what the devices that are served or mounted here are doing.",
    options=[
        flag("-w", "--watch", help="again and again, until Ctrl-C"),
        option("--interval", metavar="SECONDS", convert=positive, default=2, help="pause of --watch"),
        flag("--json", help="for programs: a list with an object for each process"),
    ],
    positionals=[
        positional("which", required=False, help="a process number, or name, address or image of a device")
    ],
    details="Only processes of the same user are seen.",
    run=stat,
)
