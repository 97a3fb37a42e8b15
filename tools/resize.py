"""overlaybd-resize: changes the size of an image's writable layer and of the ext4 in it."""

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
    data, index, *target = stack.upper
    if target:
        raise Failure(
            f"resize failed: unsupported: {args.config}: an upper of turboOCI keeps its size", FAILED
        )
    try:
        what = _resize(stack.lowers, (data, index), gib)
    except OSError as error:
        raise Failure(f"resize failed: {describe(error)}", FAILED) from None
    except Failure as failure:
        raise Failure(str(failure), FAILED) from None
    seconds = time.monotonic() - start
    tell(f"Success: {what.format(gib=gib, seconds=seconds)}")
    return 0


def _resize(
    lowers: list[str | tuple[str, obdcore.MerkleTree] | obdcore.RemoteBlob | obdcore.TurboLayer],
    upper: tuple[str, str],
    gib: int,
) -> str:
    """Changes the size of the layer and of an ext4 file system in it; what was done, for the last line."""
    from tools.resize_ext4 import has_ext4, resize_ext4, why_not

    try:
        image = obdcore.Image(lowers, upper)
    except OSError as error:
        raise Failure(f"failed to open overlaybd image: {describe(error)}") from None
    try:
        before, ext4 = image.size, has_ext4(image)
        lacking = why_not() if ext4 else "there is no ext4 in it"
        if gib * GIB < before:
            if lacking:
                raise Failure(
                    f"resize failed: from {before} to {gib * GIB} bytes: that would cut the file system "
                    f"inside, and making it smaller first is not possible: {lacking}"
                )
            resize_ext4(image, gib)
    finally:
        image.close()
    obdcore.lsmt_resize(*upper, gib * GIB)
    if lacking:
        return (
            "virtual size set to {gib} GB ({seconds:.2f} seconds); the file system inside is as it was "
            f"({lacking}): grow it on the device, with resize2fs for ext4"
        )
    if gib * GIB >= before:
        # Also at the same size: an earlier run may have come no further than the layer.
        image = obdcore.Image(lowers, upper)
        try:
            resize_ext4(image, None)
        finally:
            image.close()
    return "filesystem resized to {gib} GB ({seconds:.2f} seconds)"


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
    "Changes the size of an image's writable layer and of its file system, while no device uses it.",
    details="""
        An ext4 file system in it is made as large, by resize2fs (e2fsprogs) through FUSE; nothing is mounted.
        Of anything else only the layer grows, and a smaller size is refused.
    """,
    options=[
        option("--config", metavar="FILE", required=True, help="image configuration with an upper, JSON"),
        option("--size", metavar="GIB", required=True, help="new size in GiB"),
        service_config(),
        verbose(),
    ],
    run=resize,
)


def main() -> int:
    """Entry point of the program."""
    return run(COMMAND)
