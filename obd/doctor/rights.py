"""What this process may do: user, capabilities, nodes in /dev, configfs."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from obd.doctor import Finding
from obd.doctor.kernel import module_state

# linux/capability.h
_CAPABILITIES: Final = {"CAP_SYS_ADMIN": 21, "CAP_NET_ADMIN": 12}
# Node and the module behind it.
_NODES: Final = {
    "/dev/fuse": "fuse",
    "/dev/loop-control": "loop",
    "/dev/nbd0": "nbd",
    "/dev/ublk-control": "ublk_drv",
}
_CONFIGFS: Final = Path("/sys/kernel/config")


def check_rights() -> Iterator[Finding]:
    """User and capabilities, nodes, configfs."""
    if os.geteuid() != 0:
        yield Finding("problem", "rights", "not root: no devices, no mounts", "run it as root")
    held = int(re.findall(r"^CapEff:\s*(\w+)", Path("/proc/self/status").read_text(), re.MULTILINE)[0], 16)
    lacking = [name for name, bit in _CAPABILITIES.items() if not held >> bit & 1]
    if os.geteuid() == 0 and lacking:
        fix = "give them to the container (--cap-add, or --privileged)"
        yield Finding("problem", "rights", f"root without {', '.join(lacking)}", fix)
    elif os.geteuid() == 0:
        yield Finding("ok", "rights", "root, with the capabilities for devices and mounts")
    for node, module in _NODES.items():
        if module_state(module) not in ("loaded", "built in"):
            continue
        if not os.path.exists(node):
            fix = f"modprobe {module}, or give the node to the container (--device {node})"
            yield Finding("warning", "rights", f"the kernel has {module}, but there is no {node}", fix)
        elif not os.access(node, os.R_OK | os.W_OK):
            yield Finding("warning", "rights", f"{node} cannot be opened", "run it as root")
        else:
            yield Finding("ok", "rights", node)
    if module_state("target_core_user"):
        if (_CONFIGFS / "target").is_dir():
            yield Finding("ok", "rights", f"{_CONFIGFS}/target")
        else:
            fix = f"modprobe target_core_user; mount -t configfs configfs {_CONFIGFS}"
            yield Finding("warning", "rights", f"no {_CONFIGFS}/target, so no disks by TCMU yet", fix)
