"""`obd copy`: an image from one place to another, unchanged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tools.bars import Bars
from tools.errors import Failure, tell
from tools.obd.common import IMAGE_NAMES, amount, jobs, log_to_stderr, registry_of, registry_options
from tools.options import Command, Namespace, flag, option, positional
from tools.stopping import stopping

if TYPE_CHECKING:
    from obd.oci import Descriptor


def copy(args: Namespace) -> int:
    """Runs the command; returns the exit status."""
    if args.all and args.platform:
        raise Failure("obd: invalid: copy: --all or --platform, not both")
    log_to_stderr()
    from obd.oci import Platform, open_destination, open_source, own_platform
    from obd.oci.copy import copy
    from obd.service import Service

    wanted = None
    if not args.all:
        wanted = Platform.parse(args.platform) if args.platform else own_platform()
    service = Service(args.service)
    registry = registry_of(args, service)
    places = {"plain_http": args.http, "registry": registry}
    with (
        stopping(),
        open_source(args.source, service, **places) as source,
        open_destination(args.destination, service, **places) as destination,
        _Watch() as watch,
    ):
        copied = copy(source, destination, wanted, jobs=args.jobs, watch=watch)
    tell(f"{copied.digest} {args.destination}: {watch.outcome()}")
    return 0


class _Watch(Bars):
    """Shows and counts the blobs."""

    def __init__(self) -> None:
        super().__init__("copying")
        self._ended: dict[str, tuple[str, int]] = {}

    def blob(self, blob: Descriptor, state: str, done: int) -> None:
        """As `obd.oci.copy.Watch.blob`."""
        ended = state not in ("waiting", "copying")
        if ended:
            self._ended[blob.digest] = state, blob.size
        self.update(
            blob.digest.partition(":")[2][:12], done, blob.size, running=state == "copying", ended=ended
        )

    def outcome(self) -> str:
        """What became of all blobs: `3 blobs copied (12.3 MiB), 2 there`."""
        words = []
        for state in ("copied", "mounted", "there"):
            sizes = [size for ended, size in self._ended.values() if ended == state]
            if sizes or state == "copied":
                words.append(f"{len(sizes)} {state} ({amount(sum(sizes))})")
        return ", ".join(words)


COMMAND = Command(
    "copy",
    "Copies an image between registries, OCI layouts and archives; every digest stays what it is.",
    options=[
        option(
            "--platform", metavar="OS/ARCH", default="", help="of an image for several (default: this one)"
        ),
        flag("--all", help="the image for all platforms, with its index"),
        option("--jobs", metavar="N", convert=jobs, default=4, help="blobs copied at once"),
        *registry_options(),
    ],
    positionals=[
        positional("source", help="the image"),
        positional("destination", help="where to; its tag is replaced, an archive must not exist"),
    ],
    details=f"{IMAGE_NAMES} Blobs that are there are not sent again; within a registry they are mounted.",
    run=copy,
)
