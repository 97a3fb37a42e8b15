"""What the kernel needs before devices can be served: a module, and configfs in its place."""

from __future__ import annotations

import logging
import subprocess
from pathlib import Path
from typing import Final

from obd.errors import ObdError

_log: Final = logging.getLogger("overlaybd.tcmu")

_MODULE: Final = "target_core_user"
_LOADED: Final = Path("/sys/module") / _MODULE
_CONFIGFS: Final = Path("/sys/kernel/config")
_TARGET: Final = _CONFIGFS / "target"
_TIMEOUT_S: Final = 30


def prepare() -> None:
    """Loads the module and mounts configfs, where that has not been done. `ObdError` says what to do."""
    if not _LOADED.exists() and (failure := _run("modprobe", _MODULE)) and not _LOADED.exists():
        what = f"the kernel module {_MODULE} is not there ({failure}): install or build it, then modprobe it"
        raise ObdError("unsupported", what)
    if not _TARGET.exists() and not _mounted():
        _log.info("mounting configfs")
        failure = _run("mount", "-t", "configfs", "configfs", str(_CONFIGFS))
        if failure:
            what = f"configfs is not mounted ({failure}): mount -t configfs configfs {_CONFIGFS}"
            raise ObdError("unsupported", what)
    if not _TARGET.exists():
        raise ObdError(
            "unsupported", "the kernel's SCSI target is not there: modprobe target_core_mod", str(_TARGET)
        )


def _mounted() -> bool:
    try:
        return any(line.split()[1:3] == [str(_CONFIGFS), "configfs"] for line in open("/proc/mounts"))
    except OSError:
        return False


def _run(*command: str) -> str:
    """Runs a program; "" if it succeeded, else why not."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"cannot run {command[0]}: {error}"
    said = " ".join(done.stderr.decode(errors="replace").split())
    return "" if done.returncode == 0 else said or f"{command[0]} ended with status {done.returncode}"
