"""Puts the program onto the node that this pod is on: package, configuration, services, containerd.

Each step looks first and does nothing where nothing is to be done, so the pod may come and go. What serves
devices is started by the node's systemd, outside the pod: it goes on whatever becomes of the pod.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "overlaybd-python"
BIN = "/opt/overlaybd/bin"
DEVICES = "overlaybd-tcmu"
SNAPSHOTTER = "overlaybd-snapshotter"
# Where files go from the pod to the node; the same path on both.
STAGE = Path("/var/lib/overlaybd-node")
# Where the chart's ConfigMap is in the pod, and where its files belong on the node.
CONFIG = Path("/config")
FILES = {
    "overlaybd.json": "/etc/overlaybd/overlaybd.json",
    "snapshotter.json": "/etc/overlaybd-snapshotter/config.json",
}
# What dpkg writes when it has installed the package.
INSTALLED = f"/var/lib/dpkg/info/{PACKAGE}.list"
# Starting the services may wait for a slow registry, installing for other packages.
TIMEOUT_S = 600
_ENVIRONMENT = (
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "DEBIAN_FRONTEND=noninteractive",
)

Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]


class StepError(Exception):
    """A command on the node failed; the message says which and how."""


def on_node(argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Runs a command in the namespaces of the node's first process. That needs `hostPID`, and privileges."""
    enter = ("nsenter", "--target=1", "--mount", "--uts", "--ipc", "--net", "--pid", "--")
    command = [*enter, "env", "--ignore-environment", *_ENVIRONMENT, *argv]
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )


@dataclass(frozen=True)
class Wanted:
    """What is to be on the node."""

    package: Path
    """NAME_VERSION_ARCHITECTURE.deb"""
    tcmu: bool
    """Whether devices are served by the kernel's TCMU."""
    containerd_unit: str
    containerd_config: str
    runtime: str
    """Name of the runtime that the RuntimeClass names."""
    every_pod: bool
    """Whether pods without that class use the snapshotter too."""
    restart_containerd: bool


def install(wanted: Wanted, run: Run, *, stage: Path = STAGE, config: Path = CONFIG) -> None:
    """Does what is to be done. Raises `StepError`; what was done until then is found done the next time."""

    def must(*argv: str) -> str:
        done = run(argv)
        if done.returncode:
            why = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
            raise StepError(f"{' '.join(argv)}: status {done.returncode}: {why}")
        return done.stdout.strip()

    def maybe(*argv: str) -> str:
        done = run(argv)
        return "" if done.returncode else done.stdout.strip()

    version = wanted.package.name.split("_")[1]
    found = maybe("dpkg-query", "--show", "--showformat=${db:Status-Status} ${Version}", PACKAGE)
    if found != f"installed {version}":
        tell(f"package: {found or 'none'} -> {version}")
        shutil.copyfile(wanted.package, stage / wanted.package.name)
        # A pod may have been killed while it did this.
        must("dpkg", "--configure", "--pending")
        must(
            *("apt-get", "install", "--yes", "--no-install-recommends", "--allow-downgrades"),
            *("--option", "DPkg::Lock::Timeout=120", "--option", "Dpkg::Options::=--force-confold"),
            str(stage / wanted.package.name),
        )
    for name, place in FILES.items():
        text = (config / name).read_text()
        if maybe("cat", place) == text.strip():
            continue
        tell(f"configuration: {place}")
        (stage / name).write_text(text)
        if name == "overlaybd.json":
            must(f"{BIN}/obd", "config", "check", str(stage / name))
        must("install", "-D", "--mode=0644", str(stage / name), place)

    units = [DEVICES, SNAPSHOTTER] if wanted.tcmu else [SNAPSHOTTER]
    must("systemctl", "enable", *units)
    must("systemctl", "start", *units)

    def is_older(unit: str, *files: str) -> bool:
        """Whether a unit was started before one of the files was changed, or in that second."""
        written = max(int(line) for line in must("stat", "--format=%Y", *files).split())
        shown = must(
            "systemctl", "show", "--property=ActiveEnterTimestamp", "--value", "--timestamp=unix", unit
        )
        return int(shown.removeprefix("@") or 0) <= written

    if is_older(SNAPSHOTTER, *FILES.values(), INSTALLED):
        # Whoever serves devices reads it anew; what cannot change while it runs counts after its next start.
        maybe(f"{BIN}/obd", "reload")
        must("systemctl", "restart", SNAPSHOTTER)

    every = ["--cri"] if wanted.every_pod else []
    must(
        f"{BIN}/{SNAPSHOTTER}",
        "configure-containerd",
        *every,
        "--runtime",
        wanted.runtime,
        wanted.containerd_config,
    )
    unit = wanted.containerd_unit
    if not is_older(unit, wanted.containerd_config):
        return
    if not wanted.restart_containerd:
        raise StepError(
            f"{unit} runs since before {wanted.containerd_config} was changed: restart it on this node, "
            "or set containerd.restart"
        )
    tell(f"restarting {unit}: its configuration is newer")
    must("systemctl", "restart", unit)


def tell(line: str) -> None:
    """One line of the pod's log."""
    sys.stderr.write(f"{line}\n")


def parser() -> argparse.ArgumentParser:
    """What the chart may ask for."""
    made = argparse.ArgumentParser(description="Puts the program onto this node.")
    made.add_argument("--runtime", required=True, metavar="NAME")
    made.add_argument("--every-pod", action="store_true")
    made.add_argument("--tcmu", action="store_true")
    made.add_argument("--containerd-unit", default="containerd", metavar="UNIT")
    made.add_argument("--containerd-config", default="/etc/containerd/config.toml", metavar="FILE")
    made.add_argument("--restart-containerd", action="store_true")
    return made


def main() -> int:
    """Entry point; returns the exit status."""
    args = parser().parse_args()
    packages = sorted(Path("/package").glob(f"{PACKAGE}_*.deb"))
    if len(packages) != 1:
        tell(f"/package has {len(packages)} packages, not one: the image is broken")
        return 1
    wanted = Wanted(
        packages[0],
        args.tcmu,
        args.containerd_unit,
        args.containerd_config,
        args.runtime,
        args.every_pod,
        args.restart_containerd,
    )
    try:
        install(wanted, on_node)
    except (StepError, OSError, ValueError, subprocess.TimeoutExpired) as error:
        tell(f"not installed: {error}")
        return 1
    tell("installed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
