"""Runs cases under strace: what came of each, what it took, and each file and address that it touched."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.hostile.case import Case, Place

PROJECT = Path(__file__).resolve().parents[2]
OPENS = ("open", "openat", "openat2", "creat")
# Calls that change something at a path.
CHANGES = (
    "mkdir",
    "mknod",
    "rename",
    "unlink",
    "rmdir",
    "link",
    "symlink",
    "chmod",
    "chown",
    "truncate",
    "setxattr",
)
CHANGED = re.compile(rf"(?:l?{'|l?'.join(CHANGES)}|fchmod|fchown|utimens)(?:at)?2?")
CALLS = "/^(open|openat|openat2|creat|connect|execve|execveat|fork|vfork|clone|clone3)$"
LINE = re.compile(r"(\w+)\((.*)\) += (-?\d+|\?)(?:<(.*)>)?(?: .*)?")
CHILD = ("clone", "clone3", "fork", "vfork")
# The number of no process.
STRAY = -1
TEXT = re.compile(r'(?:(?:AT_FDCWD|\d+)<([^>]*)>, )?"((?:[^"\\]|\\.)*)"')
# What belongs to the machine and the program, for reading: code, certificates, names, the time.
SYSTEM = tuple(
    os.path.realpath(path) + "/"
    for path in (
        "/usr",
        "/lib",
        "/lib64",
        "/etc/ssl",
        "/proc/self",
        "/sys",
        sys.prefix,
        sys.base_prefix,
        PROJECT,
    )
)
FILES = re.compile(
    r"/etc/(?:ld\.so\.\w+|localtime|resolv\.conf|nsswitch\.conf|hosts|host\.conf|gai\.conf|services|timezone"
    r"|overlaybd/overlaybd\.json)|/dev/(?:null|urandom|zero)|/proc/\d+/.*|/proc/\w+(?:/.*)?"
)


@dataclass
class Seen:
    """What one case did. `touched` are the calls that nothing in the configuration explains."""

    status: int
    rss_kib: int
    seconds: float
    out: str
    err: str
    touched: list[str] = field(default_factory=list)


def watch(cases: Sequence[tuple[Case, Place]], work: Path) -> dict[str, Seen]:
    """Runs all of them; by name."""
    tasks, places = [], {}
    for case, place in cases:
        argv = case.make(place)
        places[case.name] = (case, place)
        tasks.append({"name": case.name, "home": str(place.home), "argv": argv, "seconds": case.seconds})
    trace = work / "trace"
    changed = f"/^(l|f)?({'|'.join(CHANGES)})(at)?2?$"
    command = ["strace", "-ff", "-y", "-qq", "--seccomp-bpf", "-s", "4096", "-e", "signal=none"]
    command += [
        "-e",
        f"trace={CALLS},{changed}",
        "-o",
        str(trace),
        sys.executable,
        "-m",
        "tests.hostile.worker",
    ]
    done = subprocess.run(
        command,
        input="".join(json.dumps(task) + "\n" for task in tasks),
        capture_output=True,
        text=True,
        cwd=PROJECT,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Seen] = {}
    first, *rest = done.stdout.splitlines()
    calls = _calls(trace, json.loads(first)["worker"])
    strays = [call for call in calls[STRAY] if not any(_explained(call, *each) for each in cases)]
    assert strays == []
    for line in rest:
        told = json.loads(line)
        case, place = places[told["name"]]
        out, err = (
            (place.home / name).read_bytes().decode(errors="surrogateescape") for name in (".out", ".err")
        )
        seen = found[case.name] = Seen(told["status"], told["rss_kib"], told["seconds"], out, err)
        seen.touched = [call for call in calls[told["pid"]] if not _explained(call, case, place)]
    return found


def _calls(trace: Path, worker: int) -> dict[int, list[str]]:
    """The calls of each process that the worker has made, its threads' and children's with them.

    Those of `STRAY` are of threads whose start was not seen, since their process ended in it.
    """
    lines = {
        int(file.suffix[1:]): file.read_text(errors="replace").splitlines()
        for file in trace.parent.glob("trace.*")
    }
    parent = {}
    for number, text in lines.items():
        for line in text:
            if (match := LINE.fullmatch(line)) and match[1] in CHILD and match[3].isdigit():
                parent[int(match[3])] = number
    found: defaultdict[int, list[str]] = defaultdict(list)
    for number, text in lines.items():
        own = number
        while own not in (worker, STRAY) and parent.get(own, STRAY) != worker:
            own = parent.get(own, STRAY)
        if own != worker:
            found[own] += text
    return found


def _explained(call: str, case: Case, place: Place) -> bool:
    match = LINE.fullmatch(call)
    if match is None:  # the end of the process, in the middle of a call
        return True
    name, words, result, path = match.groups()
    if name in CHILD or (not result.isdigit() and name != "connect"):
        return True
    if name == "connect":
        return _explained_address(words, place)
    if name in OPENS:
        assert path is not None, call
        reading = "O_WRONLY" not in words and "O_RDWR" not in words and "O_CREAT" not in words
        return _ours(path, place) or path == "/dev/null" or (reading and _of_system(path, case))
    return all(_ours(each, place) for each in _paths(words))


def _paths(words: str) -> Iterator[str]:
    for directory, name in TEXT.findall(words):
        yield os.path.normpath(os.path.join(directory, name))


def _ours(path: str, place: Place) -> bool:
    return (
        path == str(place.home)
        or path.startswith(f"{place.home}/")
        or path.startswith(f"{place.home} (deleted)")
    )


def _of_system(path: str, case: Case) -> bool:
    return (
        path.startswith(SYSTEM) or bool(FILES.fullmatch(path)) or f"{path}/" in SYSTEM or path in case.reads
    )


def _explained_address(words: str, place: Place) -> bool:
    if "AF_INET" not in words:
        # Sockets of this machine: for names of hosts, and for the log.
        return "AF_UNIX" not in words or "nscd" in words
    port = re.search(r"sin6?_port=htons\((\d+)\)", words)
    local = '"127.0.0.1"' in words or '"::1"' in words
    return port is not None and local and int(port[1]) in (0, *place.ports)
