"""Runs commands, each in a forked child with its limits, and says what each took.

Standard input has one JSON object a line; standard output gets one for each that is over.
"""

import importlib
import json
import os
import resource
import select
import signal
import sys
import time
from typing import Any

# What a child could have at most, so that a bomb that goes off hurts nobody; what it may have is measured.
AS_BYTES = 4 << 30
SIDE_BY_SIDE = 2
PROGRAMS = {
    "obd": "tools.obd",
    "overlaybd-apply": "tools.apply",
    "overlaybd-zfile": "tools.zfile",
    "overlaybd-merge": "tools.merge",
    "overlaybd-commit": "tools.commit",
    "turboOCI-apply": "tools.turbo_apply",
}
# What is imported late, so that it is not measured again and again.
WARM = ("obdcore", "requests", "obd.token", "obd.session", "obd.image", "obd.service", "obd.oci.copy", "yaml")


def child(task: dict[str, Any]) -> int:
    """Runs the command here; its exit status."""
    os.setsid()
    os.chdir(task["home"])
    for number, name in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        del os.environ[name]
    os.environ |= {
        "HOME": task["home"],
        "TMPDIR": task["home"],
        "OVERLAYBD_RUN_DIR": task["home"] + "/run",
        "PYTHONFAULTHANDLER": "1",
    }
    resource.setrlimit(resource.RLIMIT_AS, (AS_BYTES, AS_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    sys.argv = task["argv"]
    module = importlib.import_module(PROGRAMS[sys.argv[0]])
    try:
        return int(module.main() or 0)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1


def start(task: dict[str, Any]) -> int:
    """Starts a child; its number."""
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        status = child(task)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(status & 0xFF)


def tell(task: dict[str, Any], pid: int, began: float, status: int, used: resource.struct_rusage) -> None:
    """Says what a child took."""
    took = {"name": task["name"], "pid": pid, "seconds": time.monotonic() - began, "rss_kib": used.ru_maxrss}
    print(json.dumps({**took, "status": os.waitstatus_to_exitcode(status)}), flush=True)


def main() -> None:
    """Runs all that is asked for."""
    for name in (*WARM, *PROGRAMS.values()):
        importlib.import_module(name)
    for name in importlib.import_module("tools.obd").SUBCOMMANDS.values():
        importlib.import_module(name)
    print(json.dumps({"worker": os.getpid()}), flush=True)
    tasks = [json.loads(line) for line in sys.stdin]
    running: dict[int, tuple[dict[str, Any], float, int]] = {}
    while tasks or running:
        while tasks and len(running) < SIDE_BY_SIDE:
            task = tasks.pop(0)
            pid = start(task)
            running[pid] = (task, time.monotonic(), os.pidfd_open(pid))
        now = time.monotonic()
        left = min(began + task["seconds"] - now for task, began, _ in running.values())
        select.select([fd for _, _, fd in running.values()], [], [], max(left, 0))
        for pid, (task, began, fd) in list(running.items()):
            if time.monotonic() - began >= task["seconds"]:
                os.kill(pid, signal.SIGKILL)
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            done, status, used = os.wait4(pid, os.WNOHANG)
            if done:
                os.close(fd)
                del running[pid]
                tell(task, pid, began, status, used)


if __name__ == "__main__":
    main()
