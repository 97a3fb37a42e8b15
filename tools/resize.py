"""overlaybd-resize: changes the virtual size of an image's writable layer."""

from __future__ import annotations

import time

import obdcore
from tools.errors import Failure, describe, tell
from tools.layer_options import service_config, verbose
from tools.main import run
from tools.options import Command, Namespace, option
from tools.stack import load_stack

GIB = 1 << 30
# Every failure while running has this status, not 255 as elsewhere.
FAILED = 1


def resize(args: Namespace) -> int:
    """Runs the command; returns the exit status."""
    start = time.monotonic()
    gib = size_gib(args.size)
    try:
        stack = load_stack(args.config, args.service_config_path)
    except Failure as failure:
        raise Failure(str(failure), FAILED) from None
    if stack.upper is None:
        raise Failure(
            f"failed to open overlaybd image: read-only: {args.config}: has no writable upper", FAILED
        )
    data, index = stack.upper
    try:
        image = obdcore.Image(stack.lowers, stack.upper)
        before = image.size
        image.close()
    except OSError as error:
        raise Failure(f"failed to open overlaybd image: {describe(error)}", FAILED) from None
    if gib * GIB < before:
        raise Failure(
            f"resize failed: from {before} to {gib * GIB} bytes: that would cut the file system inside, "
            "and making it smaller first is not supported yet",
            FAILED,
        )
    try:
        obdcore.lsmt_resize(data, index, gib * GIB)
    except OSError as error:
        raise Failure(f"resize failed: {describe(error)}", FAILED) from None
    seconds = time.monotonic() - start
    tell(
        f"Success: virtual size set to {gib} GB ({seconds:.2f} seconds); "
        "the file system inside is as it was: grow it on the device, with resize2fs for ext4"
    )
    return 0


def size_gib(word: str) -> int:
    """The value of `--size`, GiB. Raises `Failure` with upstream's words for each way to get it wrong."""
    digits = word[1:] if word[:1] in ("+", "-") else word
    if not digits.isascii() or not digits.isdigit():
        reason = f"invalid size (expected integer in GB): {word}"
    elif word[0] == "-" and digits.strip("0"):
        reason = f"size must be positive: {word}"
    elif len(digits.lstrip("0")) > 20 or int(digits) >= 1 << 64:
        reason = f"size value out of range: {word}"
    elif int(digits) == 0:
        reason = "size must be greater than 0"
    elif int(digits) * GIB >= 1 << 63:
        reason = f"size overflow: {word} GB"
    else:
        return int(digits)
    raise Failure(f"{reason}\ninvalid size: {word}", FAILED)


COMMAND = Command(
    "overlaybd-resize",
    "Changes the virtual size of an image's writable layer, while no device uses it.",
    details="""
        Only the layer grows. The file system inside stays as it is: resizing it here is not supported yet, so
        grow it on the device afterwards (resize2fs for ext4). For the same reason a smaller size is refused.
    """,
    options=[
        option("--config", metavar="FILE", required=True, help="image configuration with an upper, JSON"),
        option("--size", metavar="GIB", required=True, help="new size in GiB, not below the present one"),
        service_config(),
        verbose(),
    ],
    run=resize,
)


def main() -> int:
    """Entry point of the program."""
    return run(COMMAND)
