"""The `config.json` of a bundle: how an OCI runtime is to start the process of a container."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Final

from obd.errors import ObdError
from obd.run.user import User

# As containerd's default: what a process of user 0 may do besides, in a container.
CAPABILITIES: Final = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)
MASKED: Final = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
READ_ONLY: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Of this machine, for containers that share its network.
_NETWORK_FILES: Final = ("/etc/resolv.conf", "/etc/hosts")
_OPEN_FILES: Final = 1024


@dataclass(frozen=True, slots=True)
class Volume:
    """A file or directory of this machine that is seen in the container."""

    source: str
    target: str
    read_only: bool


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user says of the process; what is None is as the image has it. `env`: `NAME=VALUE`.

    `read_only`: the root file system. `terminal`: it has one.
    """

    command: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    workdir: str | None = None
    user: str | None = None
    entrypoint: tuple[str, ...] | None = None
    volumes: tuple[Volume, ...] = ()
    hostname: str = ""
    net: str = "host"
    read_only: bool = False
    terminal: bool = False


def words(settings: dict[str, Any], wishes: Wishes) -> list[str]:
    """The program and its arguments. Raises `ObdError` if there is none."""
    entrypoint = _texts(settings, "Entrypoint") if wishes.entrypoint is None else list(wishes.entrypoint)
    # Arguments of the image are for its own entry point.
    usual = _texts(settings, "Cmd") if wishes.entrypoint is None else []
    found = [*entrypoint, *(wishes.command or usual)]
    if not found:
        raise ObdError("invalid", "no command: the image has none, so give one after --")
    return found


def environment(settings: dict[str, Any], wishes: Wishes, hostname: str) -> list[str]:
    """The variables of the process: those given before those of the image."""
    found = {"PATH": PATH, "HOSTNAME": hostname}
    if wishes.terminal:
        found["TERM"] = os.environ.get("TERM") or "xterm"
    for each in (*_texts(settings, "Env"), *wishes.env):
        name, _, value = each.partition("=")
        found[name] = value
    return [f"{name}={value}" for name, value in found.items()]


def user_of(settings: dict[str, Any], wishes: Wishes) -> str:
    """Who runs it, by name."""
    return _text(settings, "User") if wishes.user is None else wishes.user


def document(
    settings: dict[str, Any],
    wishes: Wishes,
    *,
    rootfs: str,
    user: User,
    name: str,
    annotations: dict[str, str],
) -> dict[str, Any]:
    """The whole document for the root file system `rootfs`. Raises `ObdError` for wishes that cannot be."""
    workdir = (_text(settings, "WorkingDir") if wishes.workdir is None else wishes.workdir) or "/"
    if not workdir.startswith("/"):
        raise ObdError("invalid", f"the working directory {workdir!r} does not begin with /")
    hostname = wishes.hostname or name
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": wishes.terminal,
            "user": {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.groups)},
            "args": words(settings, wishes),
            "env": environment(settings, wishes, hostname),
            "cwd": workdir,
            "capabilities": {key: list(CAPABILITIES) for key in ("bounding", "effective", "permitted")},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": _OPEN_FILES, "soft": _OPEN_FILES}],
            "noNewPrivileges": True,
        },
        "root": {"path": rootfs, "readonly": wishes.read_only},
        "hostname": hostname,
        "mounts": [*_SYSTEM_MOUNTS, *_network_mounts(wishes), *map(_bind, wishes.volumes)],
        "annotations": annotations,
        "linux": {
            "cgroupsPath": f"/overlaybd/{name}",
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": kind} for kind in _namespaces(wishes)],
            "maskedPaths": list(MASKED),
            "readonlyPaths": list(READ_ONLY),
        },
    }


def _mount(target: str, kind: str, source: str, options: str) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": source, "options": options.split(",")}


_SYSTEM_MOUNTS: Final = (
    _mount("/proc", "proc", "proc", "nosuid,noexec,nodev"),
    _mount("/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
    _mount("/dev/pts", "devpts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
    _mount("/dev/shm", "tmpfs", "shm", "nosuid,noexec,nodev,mode=1777,size=65536k"),
    _mount("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
    _mount("/sys", "sysfs", "sysfs", "nosuid,noexec,nodev,ro"),
    _mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid,noexec,nodev,relatime,ro"),
)


def _namespaces(wishes: Wishes) -> list[str]:
    more = ["cgroup"] if os.path.exists("/sys/fs/cgroup/cgroup.controllers") else []
    return ["pid", "ipc", "uts", "mount", *more, *(["network"] if wishes.net == "none" else [])]


def _network_mounts(wishes: Wishes) -> list[dict[str, Any]]:
    taken = {volume.target for volume in wishes.volumes}
    files = _NETWORK_FILES if wishes.net == "host" else ()
    return [_bind(Volume(each, each, True)) for each in files if os.path.exists(each) and each not in taken]


def _bind(volume: Volume) -> dict[str, Any]:
    options = f"rbind,rprivate,{'ro' if volume.read_only else 'rw'}"
    return _mount(volume.target, "bind", os.path.realpath(volume.source), options)


def _texts(settings: dict[str, Any], key: str) -> list[str]:
    found = settings.get(key)
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise ObdError("corrupt", f"{key} of the image's configuration is no list of texts")
    return found


def _text(settings: dict[str, Any], key: str) -> str:
    found = settings.get(key)
    if found is not None and not isinstance(found, str):
        raise ObdError("corrupt", f"{key} of the image's configuration is no text")
    return found or ""
