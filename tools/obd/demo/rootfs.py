"""A Debian root file system for the demo: from packages, or without a mirror from this machine's files."""

from __future__ import annotations

import contextlib
import os
import shutil
import urllib.error
import urllib.request

from tools.obd.demo.workshop import Workshop

DEFAULT_MIRROR = "http://deb.debian.org/debian"

# A mirror that does not answer within this time is not used.
MIRROR_TIMEOUT_S = 10.0

# What of this machine stands in for packages: enough for a shell, Python and dpkg.
HOST_PARTS = (
    "usr/bin",
    "usr/sbin",
    "usr/lib64",
    "usr/lib/{triplet}",
    "usr/lib/dpkg",
    "usr/lib/python3",
    "usr/lib/{python}",
    "usr/share/dpkg",
    "usr/share/perl5",
    "etc/alternatives",
    "etc/ld.so.conf.d",
)
# Larger files of a grown machine (compilers, browsers) are left out.
HOST_FILE_LIMIT_BYTES = 24 << 20


def build(workshop: Workshop, directory: str, mirror: str, *, from_host: bool) -> str:
    """Fills `directory` with a root file system that has Python and dpkg. Returns what it was made of."""
    suite = _suite()
    if not from_host and _reachable(f"{mirror}/dists/{suite}/Release"):
        workshop.run(
            "mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", "--include=python3",
            suite, directory, mirror,
        )  # fmt: skip
        return f"Debian {suite} (minbase and python3)"
    workshop.say("  no mirror is used: this machine's own /usr stands in for packages")
    _copy_host(directory)
    return "Files of this machine"


def _suite() -> str:
    import platform

    with contextlib.suppress(OSError):
        release = platform.freedesktop_os_release()
        if release.get("ID") == "debian" and release.get("VERSION_CODENAME"):
            return release["VERSION_CODENAME"]
    return "bookworm"


def _reachable(url: str) -> bool:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=MIRROR_TIMEOUT_S):
            return True
    except (OSError, urllib.error.URLError, ValueError):
        return False


def _copy_host(root: str) -> None:
    triplet = next(
        (name for name in os.listdir("/usr/lib") if name.endswith("-linux-gnu")), "x86_64-linux-gnu"
    )
    python = os.path.basename(os.path.realpath("/usr/bin/python3"))
    for name in ("bin", "sbin", "lib", "lib64"):
        os.symlink(f"usr/{name}", os.path.join(root, name))
    for name in (
        "usr/lib",
        "etc",
        "tmp",
        "proc",
        "sys",
        "dev",
        "root",
        "var/lib/dpkg/info",
        "var/lib/dpkg/updates",
    ):
        os.makedirs(os.path.join(root, name), exist_ok=True)
    os.chmod(os.path.join(root, "tmp"), 0o1777)
    for part in HOST_PARTS:
        name = part.format(triplet=triplet, python=python)
        if os.path.isdir(f"/{name}"):
            shutil.copytree(
                f"/{name}",
                os.path.join(root, name),
                symlinks=True,
                ignore=_too_large,
                copy_function=_copy,
                ignore_dangling_symlinks=True,
                dirs_exist_ok=True,
            )
    for name in ("etc/passwd", "etc/group", "etc/ld.so.conf", "etc/debian_version"):
        with contextlib.suppress(OSError):
            shutil.copy(f"/{name}", os.path.join(root, name))
    for name in ("status", "available"):
        with open(os.path.join(root, "var/lib/dpkg", name), "w"):
            pass


def _copy(source: str, target: str) -> None:
    # What cannot be read or vanishes meanwhile is not needed.
    with contextlib.suppress(OSError):
        shutil.copy2(source, target, follow_symlinks=False)


def _too_large(directory: str, names: list[str]) -> list[str]:
    left_out = []
    for name in names:
        with contextlib.suppress(OSError):
            status = os.lstat(os.path.join(directory, name))
            if status.st_size > HOST_FILE_LIMIT_BYTES or name == "__pycache__":
                left_out.append(name)
    return left_out
