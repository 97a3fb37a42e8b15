"""`obd pull`: what an image needs to this machine: all layers, ahead of their use, or what opens it."""

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
    from obd.oci.platform import Platform
    from obd.reference import Reference
    from obd.service import Service

TURBO_DIR = "/opt/overlaybd/turbo_meta"


def pull(args: Namespace) -> int:
    """Runs the command; returns the exit status."""
    if not args.full and not args.config:
        what = "only whole layers can be pulled: give --full, or --config for a configuration that reads them"
        raise Failure(f"obd: invalid: pull: {what}")
    from obd.service import Service

    log_to_stderr()
    image, service = _image(args), Service(args.service)
    if args.config:
        if isinstance(image, str):
            raise Failure("obd: invalid: pull: --config is for an image of a registry")
        _write_config(args, image, service)
    return _pull(args, image, service) if args.full else 0


def _image(args: Namespace) -> str | Reference:
    """What the one positional names: a file is a configuration, anything else an image."""
    if os.path.isfile(args.image):
        return str(args.image)
    from obd.reference import parse_reference

    image = parse_reference(args.image, plain_http=args.http)
    if image is None:
        raise Failure(
            f"obd: invalid: {args.image}: neither a file nor [http[s]://]REGISTRY/REPOSITORY[:TAG][@DIGEST]"
        )
    return image


def _platform(args: Namespace) -> Platform:
    from obd.oci.platform import Platform, own_platform

    return Platform.parse(args.platform) if args.platform else own_platform()


def _write_config(args: Namespace, image: Reference, service: Service) -> None:
    from obd.manifest import document_of, image_config
    from tools.output import Output

    with Output(args.config, replace=args.force) as out:
        found = image_config(service.registry(), image, _platform(args), args.dir)
        out.write((json.dumps(document_of(found), indent=2) + "\n").encode())
    if not args.json:
        tell(f"{args.config}: {len(found.lowers)} layers")


def _pull(args: Namespace, image: str | Reference, service: Service) -> int:
    from cache.pull import Pull
    from obd.pull import layers_of_config, layers_of_image

    if isinstance(image, str):
        from obd.config import load_image

        wanted = layers_of_config(load_image(image), service)
    else:
        wanted = layers_of_image(image, service, _platform(args))
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


def _for_programs(each: Pulled) -> dict[str, object]:
    layer = each.layer
    found: dict[str, object] = {
        "position": layer.position,
        **({"target": True} if layer.is_target else {}),
        "digest": layer.digest,
        "size": layer.blob.size,
        "state": each.state,
        "directory": layer.directory or None,
    }
    return found | ({"error": each.error} if each.error else {})


COMMAND = Command(
    "pull",
    "Brings the layers of an image to this machine, checked against their digests, or what opens them there.",
    options=[
        flag("--full", help="whole layers: into their directories, or without one into the cache"),
        option(
            "--config",
            metavar="FILE",
            help="write an image configuration that reads an image from its registry",
        ),
        option(
            "--dir",
            default=TURBO_DIR,
            help=f"with --config: where metadata of turboOCI layers is kept (default {TURBO_DIR})",
        ),
        flag("-f", "--force", help="replace that file if it exists"),
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
