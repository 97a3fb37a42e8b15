"""overlaybd-ublk: images as disks of the kernel's ublk driver."""

from __future__ import annotations

from tools.errors import Failure, describe, say, tell
from tools.main import run
from tools.obd.common import amount, service_option
from tools.options import Argument, Command, Namespace, flag, option
from tools.values import existing_file, non_negative


def add(args: Namespace) -> int:
    """Adds a disk; prints its path."""
    import obd.ublk

    path = obd.ublk.add(
        args.config,
        number=args.number,
        service=args.service,
        read_only=True if args.read_only else None,
        queues=args.queues,
        depth=args.depth,
    )
    tell(path)
    return 0


def list_(args: Namespace) -> int:
    """Lists all disks."""
    import json
    from dataclasses import asdict

    import obd.ublk

    found = obd.ublk.devices()
    if args.json:
        tell(json.dumps([asdict(disk) for disk in found], indent=2))
        return 0
    for disk in found:
        mode = "read-only" if disk.read_only else "writable"
        server = f"process {disk.pid}" if disk.pid else "no process"
        what = disk.config or "not ours"
        tell(f"{disk.path}: {what}, {disk.state}, {mode}, {amount(disk.size_bytes)}, {server}")
    return 0


def delete(args: Namespace) -> int:
    """Removes a disk."""
    import obd.ublk

    obd.ublk.remove(args.number, force=args.force)
    return 0


def recover(args: Namespace) -> int:
    """Serves one disk again, or all whose server has died; prints their paths."""
    import obd.ublk

    if (args.number is None) == (not args.all):
        raise Failure("either -n or --all is required")
    if not args.all:
        tell(obd.ublk.recover(args.number))
        return 0
    status = 0
    for disk in obd.ublk.devices():
        if disk.config and disk.state == "dead":
            try:
                tell(obd.ublk.recover(disk.number))
            except OSError as error:
                say(f"{disk.path}: {describe(error)}")
                status = 255
    return status


def _number(*, required: bool = False) -> Argument:
    return option(
        "-n", "--number", metavar="N", convert=non_negative, required=required, help="of /dev/ublkbN"
    )


COMMAND = Command(
    "overlaybd-ublk",
    "Images as disks of the kernel's ublk driver, /dev/ublkbN; each has a process that serves it.",
    subcommands=[
        Command(
            "add",
            "Makes a disk of an image; prints its path.",
            options=[
                option(
                    "--config",
                    metavar="FILE",
                    convert=existing_file,
                    required=True,
                    help="image configuration; the disk is writable if it has an upper",
                ),
                _number(),
                option(
                    "-q",
                    "--queues",
                    metavar="COUNT",
                    convert=non_negative,
                    default=0,
                    help="hardware queues (default: as many as processors, up to 4)",
                ),
                option(
                    "-d",
                    "--depth",
                    metavar="COUNT",
                    convert=non_negative,
                    default=0,
                    help="requests of each queue (default: 128)",
                ),
                flag("--read-only", help="read-only, also with an upper"),
                service_option(),
            ],
            details="If the process that served the same image has died, its disk is served again.",
            run=add,
        ),
        Command(
            "list",
            "Lists all disks, those of other programs too.",
            options=[flag("--json", help="for programs")],
            run=list_,
        ),
        Command(
            "del",
            "Removes a disk and waits until its upper is on disk. One in use stays.",
            options=[
                _number(required=True),
                flag("-f", "--force", help="also one in use: its users get errors"),
            ],
            run=delete,
        ),
        Command(
            "recover",
            "Serves disks again whose processes have died: their users wait, and go on.",
            options=[
                _number(),
                flag("--all", help="all of them"),
            ],
            run=recover,
        ),
    ],
)


def main() -> int:
    """Entry point of the program."""
    return run(COMMAND)
