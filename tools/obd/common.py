"""What several subcommands of `obd` share."""

from __future__ import annotations

from tools.options import Argument, option
from tools.values import existing_file


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


def amount(count: int) -> str:
    """A number of bytes for people: `1.5 GiB`."""
    size = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{count} bytes" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
