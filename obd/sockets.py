"""Where processes have their control sockets, and how to ask at one. Light: commands start with it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import stat
from typing import Any, Final

from obd.errors import ERRNO, ObdError, kind_of
from obd.state import run_directory

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


def listen_at(path: str) -> socket.socket:
    """A bound unix socket of mode 0600; one that is there already is replaced. Raises `ObdError`."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.lstat(path).st_mode):
                os.unlink(path)
        # Before there is a name: nobody else can come by in between.
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(path)
        os.chmod(path, 0o600)
    except OSError as error:
        listener.close()
        raise ObdError(kind_of(error), f"cannot listen: {error.strerror or error}", path) from error
    return listener


def _connect(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(TIMEOUT_S)
    try:
        connection.connect(path)
    except BaseException:
        connection.close()
        raise
    return connection


def ask(pid: int, method: str, target: str, content: object = None, *, timeout_s: float = TIMEOUT_S) -> bytes:
    """The body of the answer of process `pid`; `content` is sent as JSON. Raises `OSError`.

    Of a request that did not succeed that is an `ObdError` with the kind and the message of the answer.
    """
    path = os.path.join(control_directory(), f"{pid}.sock")
    sent = b"" if content is None else json.dumps(content).encode()
    head = f"{method} {target} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {len(sent)}\r\n\r\n"
    # HTTP/1.0: the answer ends with the connection. Python's own client takes longer to import than to use.
    with _connect(path) as connection:
        connection.settimeout(timeout_s)
        connection.sendall(head.encode() + sent)
        data = bytearray()
        while piece := connection.recv(1 << 16):
            data += piece
            if len(data) > MAX_ANSWER_BYTES:
                raise ObdError("limit", f"process {pid} answers more than {MAX_ANSWER_BYTES} bytes", path)
    lines, mark, body = bytes(data).partition(b"\r\n\r\n")
    status = _STATUS.match(lines)
    if not mark or status is None:
        raise ObdError("io", f"process {pid} gave no answer", path)
    if not status[1].startswith(b"2"):
        raise _failure(pid, status[1].decode(), body)
    return body


def _failure(pid: int, status: str, body: bytes) -> ObdError:
    try:
        told = json.loads(body)
        kind, message = told["error"], told["message"]
    except (ValueError, KeyError, TypeError):
        kind, message = "io", f"status {status}"
    if kind not in ERRNO:
        kind = "io"
    return ObdError(kind, f"process {pid}: {message.removeprefix(f'{kind}: ')}")


def device_path(name: str) -> str:
    """The path of a device in the API of its process. A device without a name is the only one there."""
    from urllib.parse import quote

    return f"/v1/devices/{quote(name, safe='') or '-'}"


def statistics(pid: int) -> dict[str, Any]:
    """What `GET /v1/stat` of a process says. Raises `OSError`."""
    try:
        found: dict[str, Any] = json.loads(ask(pid, "GET", "/v1/stat"))
    except ValueError as error:
        raise ObdError("io", f"process {pid} answered no JSON: {error}") from error
    return found
