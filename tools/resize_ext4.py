"""ext4 inside an image made larger or smaller: resize2fs works on the device as a FUSE file."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile

import obdcore
from tools.errors import Failure, describe

# Where e2fsprogs is when PATH has no system directories.
SYSTEM_PATH = "/usr/sbin:/sbin"
MAGIC_OFFSET, MAGIC = 1024 + 0x38, b"\x53\xef"


def has_ext4(image: obdcore.Image) -> bool:
    """Whether the device begins with an ext2, ext3 or ext4 file system."""
    end = MAGIC_OFFSET + len(MAGIC)
    return image.size >= end and image.read_at(MAGIC_OFFSET, len(MAGIC)) == MAGIC


def why_not() -> str | None:
    """What this machine lacks to do it; None if it can."""
    if _program() is None:
        return "resize2fs is not there: install e2fsprogs"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse cannot be used"
    return None


def resize_ext4(image: obdcore.Image, gib: int | None) -> None:
    """Makes the file system on a writable image `gib` GiB large, or as large as the device.

    Raises `Failure` with what resize2fs said. The same image gives the same result: no clock gets into it.
    """
    program = _program() or "resize2fs"
    with tempfile.TemporaryDirectory(prefix="overlaybd-resize-") as directory:
        try:
            mount = obdcore.FuseMount({"disk": image}, directory)
        except OSError as error:
            raise Failure(f"resize failed: {describe(error)}") from None
        try:
            size = [f"{gib}G"] if gib is not None else []
            done = subprocess.run(
                [program, "-f", os.path.join(directory, "disk"), *size],
                capture_output=True,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "E2FSPROGS_FAKE_TIME": "1", "LC_ALL": "C"},
                check=False,
            )
        finally:
            mount.stop(force=True)
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").split("\n")
        said = " ".join(
            line.strip() for line in lines if line.strip() and not line.startswith("resize2fs 1.")
        )
        raise Failure(f"resize failed: resize2fs, status {done.returncode}: {said}")


def _program() -> str | None:
    return shutil.which("resize2fs", path=f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}")
