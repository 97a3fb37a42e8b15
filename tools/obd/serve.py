"""`obd serve`: an image as a block device by NBD, in the foreground."""

from __future__ import annotations

import os
import signal

from tools.errors import describe, say, tell
from tools.obd.common import log_to_stderr, service_option
from tools.options import Command, Namespace, option, positional
from tools.values import existing_file, positive


def serve(args: Namespace) -> int:
    """Runs the command; returns the exit status."""
    import obd
    import obdcore
    from obd.api import start_api
    from obd.credentials.protect import no_core_dumps
    from obd.observer import Observer
    from obd.privileges import KEEPING, SERVING, give_up
    from obd.service import Service

    no_core_dumps()
    log_to_stderr()
    # The API of a service attaches images for who asks it to.
    give_up({*SERVING, *KEEPING} if args.service else SERVING)
    service = Service(args.service)
    with Observer(service, "obd serve") as observer, obd.open(args.config, service) as device:
        end = _signals()
        server = obdcore.NbdServer(
            {args.name: device.native},
            args.nbd,
            workers=args.workers,
            on_error=lambda name, error: say(f"obd: {args.config}: {describe(error)}"),
        )
        try:
            where = uri(server.address, args.name)
            observer.overview.add(args.name, device, where)
            observer.listen()
            if args.service:
                # The configuration of the host is the daemon's to answer for.
                start_api(observer, service, must=False)
            tell(f"ready: {where}")
            os.read(end, 1)
        finally:
            server.stop()
    return 0


def _signals() -> int:
    """A descriptor that can be read once SIGINT or SIGTERM has arrived, in whichever thread."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: None)
    return read_end


def uri(address: str, export: str) -> str:
    """The NBD URI of an address as the server gives it (`unix:PATH` or `HOST:PORT`)."""
    from urllib.parse import quote

    name = quote(export, safe="")
    if address.startswith("unix:"):
        return f"nbd+unix:///{name}?socket={quote(address.removeprefix('unix:'))}"
    return f"nbd://{address}/{name}"


COMMAND = Command(
    "serve",
    "Serves the device of an image by NBD until SIGTERM or Ctrl-C; prints `ready: URI` when it can be used.",
    options=[
        option(
            "--nbd",
            metavar="ADDRESS",
            required=True,
            help="unix:PATH, or HOST:PORT (port 0: any that is free)",
        ),
        option("--name", metavar="NAME", default="", help="name of the export (default: the empty name)"),
        option("--workers", metavar="N", convert=positive, default=16, help="requests worked on at once"),
        service_option(),
    ],
    positionals=[positional("config", convert=existing_file, help="image configuration")],
    run=serve,
)
