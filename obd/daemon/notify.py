"""Telling the service manager how things are: systemd's notification protocol."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import Final


class Notifier:
    """Sends to the socket that `NOTIFY_SOCKET` in the environment names; without one, nothing.

    Nobody need listen: what cannot be sent at once is not sent.
    """

    def __init__(self) -> None:
        name = os.environ.get("NOTIFY_SOCKET", "")
        self._address: Final = "\0" + name[1:] if name.startswith("@") else name
        self._socket: Final = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        self._period_s: Final = _watchdog_s() / 2
        self._next = 0.0
        self._status = ""

    def send(self, *lines: str) -> None:
        """Sends assignments, such as `READY=1`."""
        if self._address:
            with contextlib.suppress(OSError):
                self._socket.sendto("\n".join(lines).encode(), self._address)

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()

    def status(self, text: str) -> None:
        """Tells people how things are, if that has changed."""
        if text != self._status:
            self._status = text
            self.send(f"STATUS={text}")

    def reloading(self) -> None:
        """The configuration is being read again; `READY=1` has to follow."""
        self.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def alive(self) -> None:
        """Keeps the watchdog from ending the process, if there is one. To be called often."""
        if self._period_s and time.monotonic() >= self._next:
            self._next = time.monotonic() + self._period_s
            self.send("WATCHDOG=1")


def _watchdog_s() -> float:
    """After how long a silence the service manager ends this process; 0: it does not."""
    with contextlib.suppress(ValueError):
        if int(os.environ.get("WATCHDOG_PID", os.getpid())) == os.getpid():
            return int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6
    return 0.0
