"""What several subcommands of `obd` share."""

from __future__ import annotations

from tools.options import Argument, option
from tools.values import existing_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def service_option() -> Argument:
    """The option `--service`."""
    return option(
        "--service",
        metavar="FILE",
        convert=existing_file,
        help="service configuration (default /etc/overlaybd/overlaybd.json if it exists)",
    )


def log_to_stderr() -> None:
    """Lets warnings of the packages below be seen, one line each."""
    import logging

    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)


def tree(value: Any, indent: int = 0) -> list[str]:
    """Lines that show nested facts to people: `name: value`, parts indented below their name."""
    lines: list[str] = []
    pad = "  " * indent
    for key, item in value.items():
        name = str(key).replace("_", " ")
        if isinstance(item, dict):
            lines += [f"{pad}{name}:", *tree(item, indent + 1)]
        elif isinstance(item, list) and item and isinstance(item[0], dict):
            for position, part in enumerate(item):
                lines += [f"{pad}{name} {position}:", *tree(part, indent + 1)]
        else:
            lines.append(f"{pad}{name}: {_plain(str(key), item)}")
    return lines


def _plain(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and ("size" in key or "bytes" in key or "length" in key) and value >= 1 << 20:
        return f"{value} ({amount(value)})"
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return str(value)


def amount(count: int) -> str:
    """A number of bytes for people: `1.5 GiB`."""
    size = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{count} bytes" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
