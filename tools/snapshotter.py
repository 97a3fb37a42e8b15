"""overlaybd-snapshotter: snapshots for containerd whose layers are read lazily."""

from __future__ import annotations

from tools.main import run
from tools.options import Command, Namespace, positional

DEFAULT_FILE = "/etc/overlaybd-snapshotter/config.json"


def snapshotter(args: Namespace) -> int:
    """Runs the command; returns the exit status."""
    from obd.snapshotter.config import load
    from obd.snapshotter.process import serve

    serve(load(args.config or DEFAULT_FILE))
    return 0


COMMAND = Command(
    "overlaybd-snapshotter",
    "Serves containerd's snapshots at a socket until SIGTERM; what runs goes on without it.",
    positionals=[
        positional("config", required=False, help=f"configuration (default {DEFAULT_FILE} if it exists)")
    ],
    run=snapshotter,
)


def main() -> int:
    """Entry point of the program."""
    return run(COMMAND)
