"""What the guests are for: kernels with the modules that a device needs."""

import subprocess
from pathlib import Path

import pytest

CONFIGFS = Path("/sys/kernel/config")


def modprobe(*modules: str) -> None:
    subprocess.run(["modprobe", "--all", *modules], check=True, capture_output=True, text=True)


def test_modules_of_block_devices_load() -> None:
    modprobe("nbd", "target_core_user", "tcm_loop")
    assert Path("/dev/nbd0").is_block_device()
    loaded = {line.split()[0] for line in Path("/proc/modules").read_text().splitlines()}
    assert {"nbd", "target_core_user", "tcm_loop"} <= loaded


def test_targets_are_made_in_configfs() -> None:
    modprobe("configfs", "target_core_user")
    if not CONFIGFS.is_mount():
        subprocess.run(["mount", "-t", "configfs", "configfs", CONFIGFS], check=True)
    backstore = CONFIGFS / "target/core/user_1/disk"
    backstore.mkdir(parents=True)
    assert (backstore / "control").exists() and (backstore / "enable").read_text().strip() == "0"
    backstore.rmdir()
    backstore.parent.rmdir()


@pytest.mark.guest("qemu")
def test_ublk_loads() -> None:
    modprobe("ublk_drv")
    assert Path("/dev/ublk-control").exists()
