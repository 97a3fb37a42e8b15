"""The kernel: its version, and which of the modules it has that make devices and file systems."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from obd.doctor import Finding

# Where unprivileged mounts of FUSE, `statx` and what else is taken for granted are there.
OLDEST: Final = (5, 4)

# The ways to a device, best first: modules that each needs, and what is lost without.
_WAYS: Final = (
    ("ublk", ("ublk_drv",), "Linux 6.5 or newer with CONFIG_BLK_DEV_UBLK"),
    (
        "tcmu",
        ("target_core_user", "tcm_loop", "sd_mod"),
        "a kernel with CONFIG_TCM_USER2 and CONFIG_LOOPBACK_TARGET",
    ),
    ("nbd", ("nbd",), "a kernel with CONFIG_BLK_DEV_NBD"),
    ("fuse", ("fuse", "loop"), "a kernel with CONFIG_FUSE_FS and CONFIG_BLK_DEV_LOOP"),
)
_FILE_SYSTEMS: Final = {
    "overlay": "containers",
    "ext4": "images with ext4",
    "erofs": "images with EROFS",
    "xfs": "images with XFS",
}


def check_kernel() -> Iterator[Finding]:
    """Version, ways to a device, file systems."""
    release = os.uname().release
    version = tuple(map(int, re.findall(r"\d+", release)[:2]))
    if version < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        yield Finding(
            "problem", "kernel", f"Linux {release} is older than {oldest}", "install a newer kernel"
        )
    else:
        yield Finding("ok", "kernel", f"Linux {release}")
    possible = []
    for name, modules, wanted in _WAYS:
        states = {module: module_state(module) for module in modules}
        lacking = [module for module, state in states.items() if not state]
        if lacking:
            what = f"no devices by {name}: no module {', '.join(lacking)}"
            yield Finding("warning", "kernel", what, f"boot {wanted}, or install the kernel's extra modules")
        else:
            possible.append(name)
            yield Finding(
                "ok",
                "kernel",
                f"{name}: {', '.join(f'{module} {state}' for module, state in states.items())}",
            )
    if not possible:
        fix = "load one of the modules above; `obd serve` gives images to NBD clients without any"
        yield Finding("problem", "kernel", "no way at all to a block device", fix)
    for name, use in _FILE_SYSTEMS.items():
        if state := module_state(name):
            yield Finding("ok", "kernel", f"{name}: {state}")
        else:
            yield Finding("warning", "kernel", f"no file system {name}, for {use}", f"modprobe {name}")


def module_state(name: str) -> str:
    """How the kernel has a module: "loaded", "built in" or "can be loaded"; "" if it has not."""
    if Path("/sys/module", name, "refcnt").exists():
        return "loaded"
    if Path("/sys/module", name).exists() or _registered(name):
        return "built in"
    directory = Path("/lib/modules", os.uname().release)
    pattern = re.compile(rf"/{name.replace('_', '[-_]')}\.ko", re.MULTILINE)
    for file, state in (("modules.builtin", "built in"), ("modules.dep", "can be loaded")):
        try:
            if pattern.search((directory / file).read_text()):
                return state
        except OSError:
            continue
    return ""


def _registered(name: str) -> bool:
    """True if the kernel lists what a module brings, which may be built in and without a trace elsewhere."""
    nodes = {"fuse": "/dev/fuse", "loop": "/dev/loop-control", "sd_mod": "/sys/bus/scsi/drivers/sd"}
    if name in nodes:
        return os.path.exists(nodes[name])
    return any(line.split()[-1] == name for line in Path("/proc/filesystems").read_text().splitlines())
