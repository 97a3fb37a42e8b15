"""`obd inspect`: what an image is made of, wherever it lies."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

from tools.errors import Failure, tell
from tools.obd.common import IMAGE_NAMES, amount, log_to_stderr, registry_of, registry_options
from tools.options import Command, Namespace, flag, option, positional


def inspect(args: Namespace) -> int:
    """Runs the command; returns the exit status."""
    if args.json and args.raw:
        raise Failure("obd: invalid: inspect: --json or --raw, not both")
    log_to_stderr()
    from obd.oci import Platform, open_source, own_platform
    from obd.service import Service

    wanted = Platform.parse(args.platform) if args.platform else own_platform()
    service = Service(args.service)
    registry = registry_of(args, service)
    with open_source(args.image, service, plain_http=args.http, registry=registry) as source:
        if args.raw:
            from obd.oci.copy import chosen

            root, data = source.root()
            if args.platform:
                _, data = chosen(source, root, data, wanted)
            _write(data)
            return 0
        from obd.oci.summary import summary

        about = summary(source, wanted)
    if args.json:
        tell(json.dumps(about, indent=2))
    else:
        tell("\n".join(show(about, str(wanted))))
    return 0


def show(about: dict[str, Any], wanted: str) -> list[str]:
    """The lines for people of what `obd.oci.summary` says; `wanted` is the platform that was asked for."""
    return [_clean(line) for line in _lines(about, wanted)]


def _lines(about: dict[str, Any], wanted: str) -> Iterator[str]:
    yield f"image:      {about['name']}"
    yield f"digest:     {about['digest']}"
    yield f"type:       {about['mediaType']}"
    yield from _common(about)
    for entry in about.get("manifests", ()):
        note = _ANNOTATED.get(entry.get("annotations", {}).get("vnd.docker.reference.type"), "")
        yield f"platform:   {entry['platform'] or 'none said':<16} {entry['digest']}{note}"
    for entry in about.get("referrers", ()):
        yield f"referrer:   {entry['digest']} ({entry.get('artifactType', 'of no type')})"
    image = about.get("image")
    if image is None:
        yield f"for {wanted}: no image"
        return
    if "manifests" in about:
        yield ""
        yield f"for {wanted}:"
        yield f"digest:     {image['digest']}"
        yield from _common(image)
    yield from _config(image["config"])
    yield f"layers:     {len(image['layers'])}, {amount(image['size'])}"
    for number, layer in enumerate(image["layers"]):
        notes = [layer[key] for key in ("version", "fsType") if key in layer]
        notes += [f"of {layer['target']}"] if "target" in layer else []
        notes += ["hash tree"] if "tree" in layer else []
        told = f" ({', '.join(notes)})" if notes else ""
        yield f"  {number:>3}  {layer['kind']:<10} {amount(layer['size']):>11}  {layer['digest']}{told}"


_ANNOTATED = {"attestation-manifest": " (attestation)"}


def _common(about: dict[str, Any]) -> Iterator[str]:
    if "artifactType" in about:
        yield f"artifact:   {about['artifactType']}"
    if "subject" in about:
        yield f"refers to:  {about['subject']}"
    for key, value in sorted(about.get("annotations", {}).items()):
        yield f"annotation: {key}={value}"


def _config(config: dict[str, Any]) -> Iterator[str]:
    platform = "/".join(config[key] for key in ("os", "architecture", "variant") if config.get(key))
    if platform:
        yield f"runs on:    {platform}"
    for name, key in (("created", "created"), ("author", "author"), ("user", "User")):
        if key in config:
            yield f"{name + ':':<12}{config[key]}"
    for name, key in (("entrypoint", "Entrypoint"), ("command", "Cmd")):
        if key in config:
            yield f"{name + ':':<12}{json.dumps(config[key])}"
    if "WorkingDir" in config:
        yield f"directory:  {config['WorkingDir']}"
    for name, key in (("env", "Env"), ("port", "ExposedPorts"), ("volume", "Volumes")):
        for value in config.get(key, ()) if isinstance(config.get(key), list | dict) else ():
            yield f"{name + ':':<12}{value}"
    labels = config.get("Labels")
    for key, value in sorted(labels.items()) if isinstance(labels, dict) else ():
        yield f"label:      {key}={value}"


def _clean(line: str) -> str:
    """A line that does to a terminal only what it should: images hold words of foreigners."""
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in line
    )


def _write(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


COMMAND = Command(
    "inspect",
    "Tells what an image is made of: platforms, layers and what each is, how it wants to be run.",
    options=[
        option(
            "--platform", metavar="OS/ARCH", default="", help="of an image for several (default: this one)"
        ),
        flag("--json", help="for programs"),
        flag("--raw", help="the bytes of the manifest or index (with --platform: of the image's manifest)"),
        *registry_options(),
    ],
    positionals=[positional("image", help="the image")],
    details=IMAGE_NAMES,
    run=inspect,
)
