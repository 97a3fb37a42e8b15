"""The daemon `overlaybd-tcmu`: whether it runs and answers, what waits for it, who gets in its way."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import obdcore
import tcmu
from obd.attach.users import processes
from obd.attach.ways import way
from obd.daemon.lock import running
from obd.doctor import Finding
from obd.errors import line_of
from obd.sockets import statistics
from obd.state import state_directories

START = "systemctl start overlaybd-tcmu"


def check_daemon() -> Iterator[Finding]:
    """Its state, that of the devices of `obd attach`, and other programs that serve TCMU devices."""
    waiting = len(tcmu.devices("overlaybd"))
    if pid := running():
        yield from _alive(pid)
    elif waiting:
        what = f"overlaybd-tcmu does not run, and {waiting} devices wait for it"
        yield Finding("problem", "daemon", what, START)
    else:
        yield Finding("ok", "daemon", f"overlaybd-tcmu does not run; for disks by TCMU: {START}")
    yield from _others(pid)
    for kind, cure in (("attach", "obd attach"), ("mounts", "obd umount")):
        try:
            found = [(place, place.read()) for place in state_directories(kind)]
        except OSError as error:
            yield Finding("problem", "daemon", f"what is attached cannot be seen: {line_of(error)}")
            continue
        for place, known in found:
            if known is not None and known.pid and not os.path.exists(f"/proc/{known.pid}"):
                what = f"{known.path or place.key}: the process that served {known.config} has died"
                argument = known.config if kind == "attach" else known.directory
                left = way(known.via).find(place)
                yield Finding("problem" if left else "warning", "daemon", what, f"{cure} {argument}")


def _alive(pid: int) -> Iterator[Finding]:
    try:
        said = statistics(pid)
    except OSError as error:
        what = f"overlaybd-tcmu runs as process {pid}, but does not answer: {line_of(error)}"
        yield Finding("warning", "daemon", what, "look at its log")
        return
    if said["version"] != obdcore.__version__:
        what = f"overlaybd-tcmu is version {said['version']}, this is {obdcore.__version__}"
        yield Finding("warning", "daemon", what, "systemctl restart overlaybd-tcmu")
    what = f"overlaybd-tcmu {said['version']} serves {len(said['devices'])} devices (process {pid})"
    yield Finding("ok", "daemon", what)


def _others(own: int) -> Iterator[Finding]:
    for process in processes():
        with suppress(OSError):
            name = (process / "comm").read_text().strip()
            # Each hears of all devices and says no to those that it does not know.
            if name == "tcmu-runner" or (name == "overlaybd-tcmu" and int(process.name) != own):
                what = f"another daemon for TCMU runs: {name}, process {process.name}"
                unit = Path(name).name
                yield Finding("problem", "daemon", what, f"systemctl disable --now {unit}, or kill it")
