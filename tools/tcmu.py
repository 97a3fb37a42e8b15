"""overlaybd-tcmu: the daemon that serves images as disks of the kernel."""

from __future__ import annotations

from tools.main import run
from tools.options import Command, Namespace, flag, positional


def tcmu(args: Namespace) -> int:
    """Runs the command; returns the exit status."""
    from obd.daemon.start import serve

    serve(args.service_config, takeover=args.takeover)
    return 0


COMMAND = Command(
    "overlaybd-tcmu",
    "Serves the images of all TCMU backstores with the configuration overlaybd/PATH[;ID] until SIGTERM.",
    options=[
        flag(
            "--takeover",
            help="take the place of the daemon that is running, whose disks go on; it stays if that fails",
        )
    ],
    positionals=[
        positional(
            "service_config",
            required=False,
            help="service configuration (default /etc/overlaybd/overlaybd.json if it exists)",
        )
    ],
    run=tcmu,
)


def main() -> int:
    """Entry point of the program."""
    return run(COMMAND)
