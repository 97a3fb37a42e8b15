"""`obd rpull`: an image brought to containerd without its layers, which are read when they are used."""

from __future__ import annotations

import json

from tools.errors import Failure, tell
from tools.obd.common import log_to_stderr, service_option
from tools.options import Command, Namespace, flag, option, positional

ADDRESS = "/run/containerd/containerd.sock"


def rpull(args: Namespace) -> int:
    """Runs the command; returns the exit status."""
    from obd.containerd.client import Containerd
    from obd.containerd.pull import pull
    from obd.oci.platform import Platform, own_platform
    from obd.oci.registry_source import RegistrySource
    from obd.reference import parse_reference
    from obd.service import Service

    log_to_stderr()
    reference = parse_reference(args.image, plain_http=args.http)
    if reference is None:
        raise Failure(f"obd: invalid: {args.image}: not REGISTRY/REPOSITORY[:TAG][@DIGEST]")
    service = Service(args.service)
    with (
        Containerd(args.address, args.namespace) as containerd,
        RegistrySource(service.registry(), reference) as source,
    ):
        done = pull(
            containerd,
            source,
            args.image,
            platform=Platform.parse(args.platform) if args.platform else own_platform(),
            snapshotter=args.snapshotter,
            download=args.download_blobs,
        )
    if args.json:
        shown = {"digest": done.digest, "lazy": done.lazy, "fetched": done.fetched, "present": done.present}
        tell(json.dumps(shown, indent=2))
    else:
        here = f", {done.present} here already" if done.present else ""
        tell(f"{done.digest}: {done.lazy} layers are read lazily, {done.fetched} were fetched{here}")
    return 0


COMMAND = Command(
    "rpull",
    "Brings an image to containerd without its layers, which overlaybd-snapshotter has read lazily.",
    options=[
        option("--address", default=ADDRESS, metavar="SOCKET", help="containerd's"),
        option("-n", "--namespace", default="default", metavar="NAME", help="of containerd"),
        option("--snapshotter", default="overlaybd", metavar="NAME", help="its name in containerd"),
        flag("--download-blobs", help="fetch the blobs of the layers all the same"),
        option(
            "--platform", metavar="OS/ARCH", default="", help="of an image for several (default: this one)"
        ),
        flag("--http", help="plain HTTP"),
        flag("--json", help="for programs: how many layers are lazy, fetched and here already"),
        service_option(),
    ],
    positionals=[positional("image", help="REGISTRY/REPOSITORY[:TAG][@DIGEST], which becomes its name")],
    details="Layers that are not overlaybd's are fetched and unpacked as usual.",
    run=rpull,
)
