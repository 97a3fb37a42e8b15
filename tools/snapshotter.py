"""overlaybd-snapshotter: snapshots for containerd whose layers are read lazily."""

from __future__ import annotations

import sys

from tools.errors import tell
from tools.main import run
from tools.options import Command, Namespace, flag, option, positional

DEFAULT_FILE = "/etc/overlaybd-snapshotter/config.json"
CONTAINERD_FILE = "/etc/containerd/config.toml"


def snapshotter(args: Namespace) -> int:
    """Runs the command; returns the exit status."""
    from obd.snapshotter.config import load
    from obd.snapshotter.process import serve

    serve(load(args.config or DEFAULT_FILE))
    return 0


def configure(args: Namespace) -> int:
    """Runs `configure-containerd`; returns the exit status."""
    from obd.containerd.configure import Wanted, configure
    from obd.oci.platform import own_platform
    from obd.snapshotter.config import load

    config = load(args.snapshotter_config)
    wanted = Wanted(config.address, config.root, args.cri, args.runtime, str(own_platform()))
    changes, copy = configure(args.config, wanted, dry_run=args.dry_run)
    for change in changes:
        tell(change)
    if not changes:
        tell(f"{args.config} says all of it already")
    elif args.dry_run:
        tell("nothing was changed")
    else:
        kept = f" (as it was: {copy})" if copy else ""
        tell(f"{args.config} was changed{kept}; it counts after: systemctl restart containerd")
    return 0


CONFIGURE = Command(
    "overlaybd-snapshotter configure-containerd",
    "Adds the snapshotter to containerd's configuration, of 1.6, 1.7 and 2; restarts nothing.",
    options=[
        flag("--cri", help="Kubernetes' containers use it"),
        option(
            "--runtime", metavar="NAME", default="", help="add a runtime of CRI that uses it (containerd 1.7)"
        ),
        flag("--dry-run", help="only say what would be changed"),
        option(
            "--snapshotter-config",
            metavar="FILE",
            default=DEFAULT_FILE,
            help="of the snapshotter",
        ),
    ],
    positionals=[
        positional("config", required=False, default=CONTAINERD_FILE, help="containerd's configuration")
    ],
    details="A copy of the file is kept beside it.",
    run=configure,
)

COMMAND = Command(
    "overlaybd-snapshotter",
    "Serves containerd's snapshots at a socket until SIGTERM; what runs goes on without it.",
    positionals=[
        positional("config", required=False, help=f"configuration (default {DEFAULT_FILE} if it exists)")
    ],
    details="`overlaybd-snapshotter configure-containerd` tells containerd of it.",
    run=snapshotter,
)


def main() -> int:
    """Entry point of the program, whose only argument is a file: the one subcommand is told apart here."""
    if sys.argv[1:2] == ["configure-containerd"]:
        return run(CONFIGURE, sys.argv[2:])
    return run(COMMAND)
