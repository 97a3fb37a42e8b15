"""`obd commit`: what was written to an image becomes a layer of a new image."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tools.bars import Bars
from tools.errors import Failure, say, tell
from tools.layer_options import ALGORITHMS, block_size, block_size_bytes, warn_of_cut
from tools.obd.common import IMAGE_NAMES, log_to_stderr, registry_of, registry_options
from tools.options import Command, Namespace, flag, option, positional
from tools.output import Output
from tools.stopping import stopping
from tools.values import Choice, Rejected, existing_file

if TYPE_CHECKING:
    from obd.commit import Changes, Committed
    from obd.config import ImageConfig
    from obd.oci.registry_source import RegistrySource
    from obd.registry import Registry


def commit(args: Namespace) -> int:
    """Runs the command; returns the exit status."""
    log_to_stderr()
    from obd.commit import commit_image, open_base
    from obd.config import load_image
    from obd.convert.work import Work
    from obd.interrupted import resume
    from obd.oci import Platform, open_destination, open_source, own_platform
    from obd.service import Service

    config = resume(load_image(args.config))
    changes = _changes(args)
    platform = Platform.parse(args.platform) if args.platform else own_platform()
    service = Service(args.service)
    registry = registry_of(args, service)
    places = {"plain_http": args.http, "registry": registry}
    compress = {
        "algorithm": args.algorithm,
        "block_size": block_size_bytes(args.bs),
        "checksum": True,
        "overwrite_header": True,
        "threads": 0,
    }
    with ExitStack() as stack:
        stack.enter_context(stopping())
        base = None
        if args.base:
            base = open_base(stack.enter_context(open_source(args.base, service, **places)), platform)
        destination = stack.enter_context(open_destination(args.image, service, **places))
        work = stack.enter_context(Work(args.work or ""))
        bars = stack.enter_context(Bars("committing"))

        def told(name: str, doing: str, done: int, total: int) -> None:
            bars.update(f"{name[:19]} {doing}", done, total or done, ended=0 < total <= done)
            bars.tick()

        lowers = _lowers(config, registry)
        made = commit_image(
            config,
            destination,
            work,
            changes,
            told,
            base=base,
            lowers=lowers,
            platform=platform,
            compress=compress,
            upper=not args.no_upper,
            merkle=args.merkle,
        )
    warn_of_cut(made.cut_records, config.upper.index)
    for layer in made.layers:
        tell(f"{layer.digest} {layer.size} {layer.how}")
    tell(f"{made.digest} {made.size} {args.image}")
    if args.write_config:
        _write_config(args, made)
    return 0


def _lowers(config: ImageConfig, registry: Registry) -> RegistrySource | None:
    """The repository that the configuration names."""
    from obd.oci.registry_source import RegistrySource
    from obd.reference import Reference

    url = config.repo_blob_url.rstrip("/")
    if not url:
        return None
    return RegistrySource(registry, Reference(url.removesuffix("/blobs"), "", ""))


def _changes(args: Namespace) -> Changes:
    from obd.commit import Changes

    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    try:
        when = datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now(UTC)
    except (ValueError, OverflowError, OSError):
        raise Failure(f"obd: invalid: SOURCE_DATE_EPOCH: no number of seconds: {epoch[:40]}") from None
    settings: dict[str, Any] = {}
    if args.entrypoint is not None:
        # A program of its own does not get the words that were for the one before.
        settings |= {"Entrypoint": args.entrypoint, "Cmd": None}
    if args.cmd is not None:
        settings["Cmd"] = args.cmd
    if args.user is not None:
        settings["User"] = args.user
    if args.workdir is not None:
        settings["WorkingDir"] = args.workdir
    created = when.strftime("%Y-%m-%dT%H:%M:%SZ")
    return Changes(created, args.message or "", args.author or "", tuple(args.env), settings)


def _write_config(args: Namespace, made: Committed) -> None:
    from obd.config import ImageConfig
    from obd.manifest import document_of, lower
    from obd.oci.name import parse_name
    from obd.reference import Reference

    place = parse_name(args.image, plain_http=args.http)
    if not isinstance(place, Reference):
        raise Failure("obd: invalid: --write-config is for images in a registry")
    lowers = tuple(lower(layer.digest, layer.size, layer.tree) for layer in made.layers)
    config = document_of(ImageConfig(repo_blob_url=f"{place.url}/blobs", lowers=lowers))
    with Output(args.write_config, replace=args.force) as out:
        out.write((json.dumps(config, indent=2) + "\n").encode())
    say(f"{args.write_config}: reads it from there")


def _words(word: str) -> list[str]:
    """A program and its arguments: a JSON array, or one line for the shell, as Docker has it."""
    if not word.lstrip().startswith("["):
        return ["/bin/sh", "-c", word]
    try:
        found = json.loads(word)
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise Rejected("must be a JSON array of texts, or a line for the shell")
    return found


def _variable(word: str) -> str:
    name, mark, _ = word.partition("=")
    if not name or not mark:
        raise Rejected("must be NAME=VALUE")
    return word


COMMAND = Command(
    "commit",
    "Makes a new image of an image and what was written to it.",
    options=[
        option("--base", metavar="IMAGE", help="what the device was made of: its configuration is extended"),
        option("--platform", metavar="OS/ARCH", default="", help="of a base for several (default: this one)"),
        flag("--merkle", help="give the layers hash trees; a base that has them needs no such word"),
        flag("--no-upper", help="only what snapshots have sealed: for a device in use"),
        option("--message", metavar="TEXT", help="what was changed, for the image's history"),
        option("--author", metavar="NAME", help="who changed it"),
        option(
            "--entrypoint", metavar="WORDS", convert=_words, help="program to run: a JSON array, or a line"
        ),
        option("--cmd", metavar="WORDS", convert=_words, help="its arguments, likewise"),
        option(
            "--env", metavar="NAME=VALUE", convert=_variable, repeat=True, help="environment, in addition"
        ),
        option("--user", metavar="USER", help="who runs it"),
        option("--workdir", metavar="DIR", help="where it runs"),
        option(
            "--write-config", metavar="FILE", help="write an image configuration that reads the new image"
        ),
        flag("-f", "--force", help="replace that file if it exists"),
        option(
            "--algorithm",
            metavar="lz4|zstd",
            convert=Choice(*ALGORITHMS),
            default="lz4",
            help="how to compress",
        ),
        block_size(),
        option("--work", metavar="DIR", help="where to work"),
        *registry_options(),
    ],
    positionals=[
        positional("config", convert=existing_file, help="image configuration with an upper"),
        positional("image", help="the new image; its tag is replaced"),
    ],
    details=f"{IMAGE_NAMES} Layers that are there are not sent again; within a registry they are mounted. "
    "SOURCE_DATE_EPOCH sets the time that the image gives.",
    run=commit,
)
