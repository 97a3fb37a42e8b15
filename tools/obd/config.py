"""`obd config`: whether a configuration is right, and what it means here and now."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tools.errors import say, tell
from tools.options import Command, Namespace, flag, positional
from tools.values import existing_file

if TYPE_CHECKING:
    from typing import Any

    from obd.config import ImageConfig, ServiceConfig


def check(args: Namespace) -> int:
    """Runs `obd config check`; returns the exit status."""
    for path in args.file:
        config = _load(path, args.as_service)
        for key in config.unknown_keys:
            say(f"obd: warning: {path}: unknown key {key} is ignored")
        tell(f"{path}: ok")
    return 0


def show(args: Namespace) -> int:
    """Runs `obd config show`; returns the exit status."""
    from obd.config import load_image
    from obd.locate import locate
    from obd.secret import without_secrets

    config = load_image(args.file)
    layers = []
    for source in locate(config):
        where = source.path or without_secrets(source.url)
        layers.append(
            {"from": where or "nowhere", "digest": source.lower.digest, "size": source.lower.size_bytes}
        )
    facts: dict[str, Any] = {
        "mode": "writable" if config.writable else "read-only",
        "layers": layers,
        "upper": {"data": config.upper.data, "index": config.upper.index} if config.writable else None,
        "result_file": config.result_file or None,
    }
    if args.json:
        tell(json.dumps(facts, indent=2))
        return 0
    tell(f"{args.file}: {facts['mode']}, {len(layers)} lowers, bottom first:")
    for position, layer in enumerate(layers):
        tell(f"  {position}: {layer['from']}")
    if config.writable:
        tell(f"  upper: {config.upper.data}, index {config.upper.index}")
    return 0


def _load(path: str, as_service: bool) -> ImageConfig | ServiceConfig:
    from obd.config import load_image, load_service

    return load_service(path) if as_service else load_image(path)


_CHECK = Command(
    "check",
    "Checks image configurations: types, values, and what they ask for together.",
    options=[flag("--as-service", help="the files are service configurations")],
    positionals=[positional("file", repeat=True, convert=existing_file, help="configurations")],
    run=check,
)

_SHOW = Command(
    "show",
    "Tells where each layer of an image would be read from on this machine, now.",
    options=[flag("--json", help="for programs")],
    positionals=[positional("file", convert=existing_file, help="image configuration")],
    run=show,
)

COMMAND = Command("config", "Checks and explains configurations.", subcommands=[_CHECK, _SHOW])
