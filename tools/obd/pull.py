"""`obd pull`: all layers of an image to this machine, ahead of their use."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from tools.errors import FAILED, Failure, say, tell
from tools.obd.common import amount, jobs, log_to_stderr, service_option
from tools.options import Command, Namespace, flag, option, positional
from tools.progress import Progress

if TYPE_CHECKING:
    from cache.pull import Pulled
    from obd.pull import Wanted


def pull(args: Namespace) -> int:
    """Runs the command; returns the exit status."""
    if not args.full:
        raise Failure("obd: invalid: pull: only whole layers can be pulled: give --full")
    log_to_stderr()
    wanted = _wanted(args)
    from cache.pull import Pull

    work = Pull(wanted.remote, args.jobs)
    with Progress("pulling") as progress:
        complete = work.run(progress)
    if args.json:
        shown = [{"position": None, "state": "local", "path": path} for path in wanted.local]
        tell(json.dumps({"layers": [*shown, *map(_for_programs, work.outcomes)]}, indent=2))
    else:
        for path in wanted.local:
            tell(f"{path}: local")
        for each in work.outcomes:
            if each.state == "done":
                where = each.layer.directory or "the cache"
                tell(f"{each.layer.digest}: {amount(each.layer.blob.size)} in {where}")
    for each in work.outcomes:
        if each.state != "done":
            line = " ".join(each.error.split("\n"))
            say(f"obd: layer {each.layer.position}: {line}")
    return 0 if complete else FAILED


def _wanted(args: Namespace) -> Wanted:
    """What the one positional names: a file is a configuration, anything else an image."""
    from obd.pull import layers_of_config, layers_of_image
    from obd.service import Service

    if os.path.isfile(args.image):
        from obd.config import load_image

        return layers_of_config(load_image(args.image), Service(args.service))
    from obd.oci.platform import Platform, own_platform
    from obd.reference import parse_reference

    image = parse_reference(args.image, plain_http=args.http)
    if image is None:
        raise Failure(
            f"obd: invalid: {args.image}: neither a file nor [http[s]://]REGISTRY/REPOSITORY[:TAG][@DIGEST]"
        )
    return layers_of_image(
        image, Service(args.service), Platform.parse(args.platform) if args.platform else own_platform()
    )


def _for_programs(each: Pulled) -> dict[str, object]:
    layer = each.layer
    found: dict[str, object] = {
        "position": layer.position,
        "digest": layer.digest,
        "size": layer.blob.size,
        "state": each.state,
        "directory": layer.directory or None,
    }
    return found | ({"error": each.error} if each.error else {})


COMMAND = Command(
    "pull",
    "Brings the remote layers of an image to this machine, checked against their digests.",
    options=[
        flag("--full", help="whole layers: into their directories, or without one into the cache"),
        option("--jobs", metavar="N", convert=jobs, default=4, help="ranges fetched at once"),
        option(
            "--platform", metavar="OS/ARCH", default="", help="of an image for several (default: this one)"
        ),
        flag("--http", help="plain HTTP"),
        flag("--json", help="for programs: what became of each layer"),
        service_option(),
    ],
    positionals=[
        positional("image", help="image configuration, or [http[s]://]REGISTRY/REPOSITORY[:TAG][@DIGEST]")
    ],
    details="Goes on where it was interrupted. Safe while devices use the same layers or download them.",
    run=pull,
)
