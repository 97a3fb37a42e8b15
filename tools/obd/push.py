"""`obd push`: layers of this machine into a registry, as blobs or as an image."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from tools.errors import Failure, tell
from tools.obd.common import log_to_stderr, registry_of, registry_options
from tools.options import Command, Namespace, flag, option, positional
from tools.output import Output
from tools.progress import Progress
from tools.values import existing_file

if TYPE_CHECKING:
    from obd.oci import Descriptor


def push(args: Namespace) -> int:
    """Runs the command; returns the exit status."""
    url, tag = target(args.to, plain_http=args.http)
    from obd.oci.platform import own_platform
    from obd.push import Repository
    from obd.service import Service

    log_to_stderr()
    repository = Repository(registry_of(args, Service(args.service)), url)
    layers = []
    for path in args.layer:
        with Progress(f"pushing {os.path.basename(path)}") as progress:
            layers.append(repository.push_file(path, progress))
        tell(f"{layers[-1].digest} {layers[-1].size} {path}")
    if tag:
        manifest = repository.push_manifest(tag, layers, architecture=own_platform().architecture)
        tell(f"{manifest.digest} {manifest.size} {args.to}")
    if args.config:
        _write_config(args.config, f"{url}/blobs", layers, force=args.force)
    return 0


def target(word: str, *, plain_http: bool = False) -> tuple[str, str]:
    """The URL of a repository and the tag in `[SCHEME://]HOST[:PORT]/REPOSITORY[:TAG]`."""
    from obd.reference import parse_reference

    found = parse_reference(word, plain_http=plain_http)
    if found is None or found.digest:
        raise Failure(f"obd: invalid: --to {word}: must be REGISTRY/REPOSITORY[:TAG]")
    return found.url, found.tag


def _write_config(path: str, blobs_url: str, layers: list[Descriptor], *, force: bool) -> None:
    config = {
        "repoBlobUrl": blobs_url,
        "lowers": [{"digest": layer.digest, "size": layer.size} for layer in layers],
    }
    with Output(path, replace=force) as out:
        out.write((json.dumps(config, indent=2) + "\n").encode())


COMMAND = Command(
    "push",
    "Pushes layers, bottom first, to a registry; with a tag also as an image.",
    options=[
        option(
            "--to",
            metavar="TARGET",
            required=True,
            help="[http[s]://]REGISTRY/REPOSITORY[:TAG]; http by itself only for this machine",
        ),
        option(
            "--config", metavar="FILE", help="write an image configuration that reads the layers from there"
        ),
        flag("-f", "--force", help="replace that file if it exists"),
        *registry_options(),
    ],
    positionals=[positional("layer", repeat=True, convert=existing_file, help="layers, bottom first")],
    run=push,
)
