"""Who may ask over TCP: programs of this machine alone, and with the token, or only what upstream offers."""

from __future__ import annotations

import hmac
import logging
import os
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from obd.api.compatible import PREFIX, message
from obd.credentials.watched import stamp
from obd.errors import ObdError
from obd.http_server import Answer, Connection, Request, failure

_log: Final = logging.getLogger("overlaybd.api")

HOSTS: Final = ("127.0.0.1", "localhost", "::1")
SILENCE_S: Final = 60.0
MIN_TOKEN_BYTES: Final = 16
MAX_TOKEN_BYTES: Final = 4096
# A connection that its client has closed already is in other states, and may be listed as root's.
_ESTABLISHED: Final = "01"
# Columns of /proc/net/tcp.
_LOCAL, _REMOTE, _STATE, _UID = 1, 2, 3, 7


class Guard:
    """Stands before `answer` for whoever comes by TCP."""

    def __init__(self, answer: Callable[[Request], Answer], token: Token | None, host: str) -> None:
        """`host` is where it listens: what clients may call it, besides the usual names."""
        self._answer: Final = answer
        self._token: Final = token
        self._hosts: Final = {host, *HOSTS}
        self._silent_until = 0.0

    def __call__(self, request: Request) -> Answer:
        """Refuses, or passes on."""
        if problem := self._browser(request):
            return failure("denied", problem, 403)
        if request.path.startswith(PREFIX):
            # Clients of upstream know of no token: the kernel says who they are.
            if self._bears_token(request) or _same_user(request.connection):
                return self._answer(request)
            self._complain()
            return message(403, "Only processes of the same user, or with the token")
        if not request.path.startswith("/v1/"):
            return Answer(404, b"", "")
        if self._token is None:
            return failure("denied", "over TCP only with a token: set serviceConfig.tokenFile", 403)
        if not self._bears_token(request):
            return failure("denied", "a right token is missing", 401, ("WWW-Authenticate", "Bearer"))
        return self._answer(request)

    def _complain(self) -> None:
        # Anybody here can have this said: not too often, then.
        now = time.monotonic()
        if now >= self._silent_until:
            self._silent_until = now + SILENCE_S
            _log.warning("a snapshot was asked for over TCP by another user: refused")

    def _browser(self, request: Request) -> str:
        """What is wrong with a request that a page in somebody's browser may have made; "" if nothing is."""
        try:
            host = urlsplit(f"//{request.headers.get('host', '')}").hostname
        except ValueError:
            host = None
        if host not in self._hosts:
            return f"the Host must be one of {', '.join(sorted(self._hosts))}"
        if "origin" in request.headers or any(name.startswith("sec-fetch-") for name in request.headers):
            return "not for pages of browsers"
        return ""

    def _bears_token(self, request: Request) -> bool:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        return self._token is not None and scheme.lower() == "bearer" and self._token.equals(given.strip())


class Token:
    """The secret in the file `path`, read anew when that changes."""

    def __init__(self, path: str) -> None:
        """Raises `ObdError` if the file has no token, or can be read by others."""
        self._path: Final = path
        self._lock: Final = threading.Lock()
        self._seen: object = stamp(path)
        self._value = _read_token(path)

    def equals(self, given: str) -> bool:
        """Whether `given` is it; takes the same time wherever they differ."""
        with self._lock:
            if (seen := stamp(self._path)) != self._seen:
                self._seen = seen
                try:
                    self._value = _read_token(self._path)
                except OSError as error:
                    # Not what was good last: somebody may just have taken that token back.
                    _log.warning("%s: no token is right until it is", error)
                    self._value = b""
            value = self._value
        return bool(value) and hmac.compare_digest(value, given.encode())


def _read_token(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ObdError("not-found", f"serviceConfig.tokenFile: {error.strerror}", path) from None
    with open(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise ObdError("invalid", "serviceConfig.tokenFile: no regular file", path)
        if found.st_uid not in (0, os.geteuid()) or stat.S_IMODE(found.st_mode) & 0o077:
            raise ObdError("denied", "serviceConfig.tokenFile: must be this user's alone (chmod 600)", path)
        value = file.read(MAX_TOKEN_BYTES + 1).strip()
    if not MIN_TOKEN_BYTES <= len(value) <= MAX_TOKEN_BYTES or not value.isascii() or b" " in value:
        bounds = f"{MIN_TOKEN_BYTES} to {MAX_TOKEN_BYTES}"
        raise ObdError("invalid", f"serviceConfig.tokenFile: must hold one word of {bounds} characters", path)
    return value


def _same_user(connection: Connection | None) -> bool:
    """Whether the other end belongs to a process of root or of the user of this one."""
    if connection is None:
        return False
    table = "/proc/net/tcp6" if connection.family == socket.AF_INET6 else "/proc/net/tcp"
    theirs, ours = (_hex(connection.family, *end[:2]) for end in (connection.peer, connection.local))
    try:
        with open(table) as lines:
            for line in lines:
                cells = line.split()
                if cells[_LOCAL] == theirs and cells[_REMOTE] == ours and cells[_STATE] == _ESTABLISHED:
                    return int(cells[_UID]) in (0, os.geteuid())
    except (OSError, ValueError, IndexError):
        pass
    return False


def _hex(family: int, address: str, port: int) -> str:
    """An end of a connection as the kernel's table has it: words of the machine's own byte order."""
    words = struct.unpack(
        f"={'I' * (4 if family == socket.AF_INET6 else 1)}", socket.inet_pton(family, address)
    )
    return "".join(f"{word:08X}" for word in words) + f":{port:04X}"
