"""Where processes have their control sockets, and how to ask at one. Light: commands start with it."""

from __future__ import annotations

import json
import os
import re
import socket
import stat
from typing import Any, Final

from obd.errors import ObdError
from obd.mount.state import run_directory

# How long a process may take to answer.
TIMEOUT_S: Final = 5.0
MAX_ANSWER_BYTES: Final = 64 << 20
_NAME: Final = re.compile(r"(\d{1,10})\.sock")
_STATUS: Final = re.compile(rb"HTTP/1\.[01] (\d{3}) ")


def control_directory(*, create: bool = False) -> str:
    """The directory of the sockets: this user's, closed to all others. Raises `ObdError` if it is not so."""
    path = os.path.join(run_directory(), "processes")
    if create:
        os.makedirs(path, mode=0o700, exist_ok=True)
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return path
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise ObdError("denied", "must be a directory of this user's alone (mode 0700)", path)
    return path


def processes() -> list[int]:
    """Numbers of the processes that can be asked, in order. Sockets that nobody listens at are removed."""
    directory = control_directory()
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    found = []
    for name in names:
        if match := _NAME.fullmatch(name):
            path = os.path.join(directory, name)
            try:
                _connect(path).close()
                found.append(int(match[1]))
            except (ConnectionRefusedError, FileNotFoundError):
                _remove_stale(path, int(match[1]))
            except OSError:
                continue
    return sorted(found)


def _remove_stale(path: str, pid: int) -> None:
    # A process that is just starting has bound its socket and does not listen yet.
    if not os.path.exists(f"/proc/{pid}"):
        try:
            os.unlink(path)
        except FileNotFoundError:
            return


def _connect(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(TIMEOUT_S)
    try:
        connection.connect(path)
    except BaseException:
        connection.close()
        raise
    return connection


def ask(pid: int, method: str, target: str) -> bytes:
    """The body of the answer of process `pid`. Raises `OSError`, also if that is no success."""
    path = os.path.join(control_directory(), f"{pid}.sock")
    # HTTP/1.0: the answer ends with the connection. Python's own client takes longer to import than to use.
    with _connect(path) as connection:
        connection.sendall(f"{method} {target} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        data = bytearray()
        while piece := connection.recv(1 << 16):
            data += piece
            if len(data) > MAX_ANSWER_BYTES:
                raise ObdError("limit", f"process {pid} answers more than {MAX_ANSWER_BYTES} bytes", path)
    head, mark, body = bytes(data).partition(b"\r\n\r\n")
    status = _STATUS.match(head)
    if not mark or status is None:
        raise ObdError("io", f"process {pid} gave no answer", path)
    if status[1] != b"200":
        try:
            message = json.loads(body)["message"]
        except (ValueError, KeyError, TypeError):
            message = f"status {status[1].decode()}"
        raise ObdError("io", f"process {pid}: {message}")
    return body


def statistics(pid: int) -> dict[str, Any]:
    """What `GET /stat` of a process says. Raises `OSError`."""
    try:
        found: dict[str, Any] = json.loads(ask(pid, "GET", "/stat"))
    except ValueError as error:
        raise ObdError("io", f"process {pid} answered no JSON: {error}") from error
    return found
