"""File systems that we make: a real kernel lets them grow while they are mounted."""

import os
import subprocess
from pathlib import Path

import obdcore

GIB = 1 << 30


def test_one_grows_while_it_is_mounted(tmp_path: Path) -> None:
    image, point = tmp_path / "image", tmp_path / "mount"
    point.mkdir()
    with image.open("xb") as file:
        file.truncate(GIB)
    obdcore.ext4_create(str(image))
    subprocess.run(["modprobe", "loop"], check=True)
    found = subprocess.run(["losetup", "-f", "--show", image], capture_output=True, text=True, check=True)
    device = found.stdout.strip()
    try:
        subprocess.run(["mount", device, point], check=True)
        try:
            for gib in (2, 30):
                os.truncate(image, gib * GIB)
                subprocess.run(["losetup", "-c", device], check=True)
                subprocess.run(["resize2fs", device], check=True)
                (point / f"{gib}").write_bytes(os.urandom(1 << 20))
                state = os.statvfs(point)
                assert state.f_blocks * state.f_frsize > gib * GIB * 0.97
        finally:
            subprocess.run(["umount", point], check=True)
    finally:
        subprocess.run(["losetup", "-d", device], check=True)
    done = subprocess.run(["e2fsck", "-fn", image], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
