"""`obd config`: whether a configuration is right, and what it means here and now."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from tools.errors import FAILED, describe, say, tell
from tools.options import Command, Namespace, flag, positional
from tools.values import existing_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from obd.config import ImageConfig, ServiceConfig


def check(args: Namespace) -> int:
    """Runs `obd config check`; returns the exit status: that of a failure if any file is wrong."""
    status = 0
    for path in args.file:
        try:
            config = _load(path, args.as_service)
        except OSError as error:
            say(f"obd: {describe(error)}")
            status = FAILED
            continue
        for line in _warnings(config):
            say(f"obd: warning: {path}: {line}")
        tell(f"{path}: ok")
    return status


def _load(path: str, as_service: bool) -> ImageConfig | ServiceConfig:
    from obd.config import load_any, load_service

    return load_service(path) if as_service else load_any(path)


def _warnings(config: ImageConfig | ServiceConfig) -> Iterator[str]:
    from obd.config import ImageConfig, named_files, service_warnings

    if isinstance(config, ImageConfig):
        yield from (f"unknown key {key} is ignored" for key in config.unknown_keys)
        return
    yield from service_warnings(config)
    for key, path in named_files(config):
        if not os.access(path, os.R_OK):
            yield f"{key}: cannot read {path}"


def show(args: Namespace) -> int:
    """Runs `obd config show`; returns the exit status."""
    from obd.config import DEFAULT_SERVICE_FILE, is_service, load_service, parse_image, parse_service
    from obd.config.strict_json import read_object

    if args.file is None:
        config = load_service()
        root = read_object(config.file) if config.file else {}
        name = config.file or f"built-in defaults, since there is no {DEFAULT_SERVICE_FILE}"
        return _show_service(config, root, name, args.json)
    root = read_object(args.file)
    if is_service(root):
        return _show_service(parse_service(root, args.file), root, args.file, args.json)
    return _show_image(parse_image(root, args.file), args.file, args.json)


def _show_service(config: ServiceConfig, root: dict[str, Any], name: str, as_json: bool) -> int:
    from obd.config import effective_settings

    settings = effective_settings(config, root)
    if as_json:
        found = {one.key: {"value": one.value, "from": one.origin} for one in settings}
        tell(json.dumps({"file": config.file or None, "settings": found}, indent=2, ensure_ascii=False))
        return 0
    tell(f"{name}: what counts, and where it is from:")
    for one in settings:
        tell(f"  {one.key} = {json.dumps(one.value, ensure_ascii=False)}  ({one.origin})")
    return 0


def _show_image(config: ImageConfig, name: str, as_json: bool) -> int:
    from obd.locate import locate
    from obd.secret import without_secrets

    layers: list[dict[str, Any]] = []
    for source in locate(config):
        shown: list[dict[str, Any]] = [
            {
                "from": part.path or without_secrets(part.url) or "nowhere",
                "digest": part.lower.digest,
                "size": part.lower.size_bytes,
            }
            for part in source.parts
        ]
        layers.append(shown[0] | ({"target": shown[1]} if shown[1:] else {}))
    facts: dict[str, Any] = {
        "mode": "writable" if config.writable else "read-only",
        "layers": layers,
        "upper": {"data": config.upper.data, "index": config.upper.index} if config.writable else None,
        "result_file": config.result_file or None,
    }
    if as_json:
        tell(json.dumps(facts, indent=2))
        return 0
    tell(f"{name}: {facts['mode']}, {len(layers)} lowers, bottom first:")
    for position, layer in enumerate(layers):
        tell(f"  {position}: {layer['from']}")
        if target := layer.get("target"):
            tell(f"     target: {target['from']}")
    if config.writable:
        tell(f"  upper: {config.upper.data}, index {config.upper.index}")
    return 0


_CHECK = Command(
    "check",
    "Checks configurations of images and services: types, values, and what they ask for together.",
    options=[flag("--as-service", help="the files are service configurations, whatever they look like")],
    positionals=[positional("file", repeat=True, convert=existing_file, help="configurations")],
    run=check,
)

_SHOW = Command(
    "show",
    "Tells where each layer of an image would be read from on this machine now, or which settings of a "
    "service count and where they are from.",
    options=[flag("--json", help="for programs")],
    positionals=[
        positional(
            "file",
            convert=existing_file,
            required=False,
            help="configuration of an image or a service (default the service's of this host)",
        )
    ],
    run=show,
)

COMMAND = Command("config", "Checks and explains configurations.", subcommands=[_CHECK, _SHOW])
