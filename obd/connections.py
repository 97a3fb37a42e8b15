"""Connections of Python's own requests: none waits for a head that drips, or leads where none may send us."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any, Final

import urllib3

from obd.abroad import kind_of_address

# The head of an answer may take so many times what silence may: each of its bytes ends a silence.
HEAD_FACTOR: Final = 3.0
_USUAL_S: Final = 10.0


class Near(urllib3.exceptions.HTTPError):
    """A server has sent us to an address that only a configuration may name; the text is that address."""


class _Patient(urllib3.connection.HTTPConnection):
    """A connection on which the head of an answer has its time."""

    def getresponse(self) -> Any:
        """As `http.client` has it. Raises `TimeoutError`."""
        late = threading.Event()
        connected = self.sock

        def cut() -> None:
            late.set()
            with contextlib.suppress(OSError, AttributeError):
                connected.shutdown(socket.SHUT_RDWR)

        silence_s = self.timeout if isinstance(self.timeout, int | float) else _USUAL_S
        clock = threading.Timer(HEAD_FACTOR * silence_s, cut)
        clock.daemon = True
        clock.start()
        try:
            answer = super().getresponse()
        except Exception:
            if not late.is_set():
                raise
        else:
            if not late.is_set():
                return answer
            answer.close()
        finally:
            clock.cancel()
        # A head that was cut off may look like a whole one.
        raise TimeoutError("the head of the answer takes too long")


class _PatientTls(_Patient, urllib3.connection.HTTPSConnection):
    pass


def _far(connected: socket.socket) -> socket.socket:
    address = str(connected.getpeername()[0])
    if kind_of_address(address):
        connected.close()
        raise Near(address)
    return connected


class _Far(_Patient):
    """A connection to a host that only a server has named."""

    def _new_conn(self) -> socket.socket:
        return _far(super()._new_conn())


class _FarTls(_PatientTls):
    def _new_conn(self) -> socket.socket:
        return _far(super()._new_conn())


class _Pool(urllib3.connectionpool.HTTPConnectionPool):
    ConnectionCls = _Patient


class _TlsPool(urllib3.connectionpool.HTTPSConnectionPool):
    ConnectionCls = _PatientTls


class _FarPool(urllib3.connectionpool.HTTPConnectionPool):
    ConnectionCls = _Far


class _FarTlsPool(urllib3.connectionpool.HTTPSConnectionPool):
    ConnectionCls = _FarTls


def pools(*, abroad: bool = False) -> dict[str, type[urllib3.connectionpool.HTTPConnectionPool]]:
    """What a `urllib3.PoolManager` makes pools of. `abroad`: for hosts that only servers have named."""
    return {"http": _FarPool, "https": _FarTlsPool} if abroad else {"http": _Pool, "https": _TlsPool}
