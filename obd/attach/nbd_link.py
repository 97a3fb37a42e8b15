"""The kernel's NBD client, told by generic netlink what to do with a connection to a server.

Other than by `nbd-client`, a device can be given a new connection in the place of a dead one, under its
users.
"""

import errno
import os
import socket
import struct
from pathlib import Path
from typing import Final

from obd.errors import ObdError
from tcmu.genetlink import Asker, attribute, attributes, number

# <linux/nbd-netlink.h>
_CONNECT: Final = 1
_DISCONNECT: Final = 2
_RECONFIGURE: Final = 3
_VERSION: Final = 1
_INDEX: Final = 1
_SIZE: Final = 2
_BLOCK_SIZE: Final = 3
_TIMEOUT: Final = 4
_SERVER_FLAGS: Final = 5
_SOCKETS: Final = 7
_DEAD_TIMEOUT: Final = 8
_BACKEND: Final = 10
_ITEM: Final = 1
_DESCRIPTOR: Final = 1
_NESTED: Final = 0x8000

# The protocol: the greeting, the option that ends it, its replies, and the flag of a read-only export.
_GREETING: Final = b"NBDMAGICIHAVEOPT"
_FIXED_NEWSTYLE_NO_ZEROES: Final = 3
_OPTION: Final = struct.Struct(">8sII")
_REPLY: Final = struct.Struct(">QIII")
_GO: Final = 7
_ACK: Final = 1
_INFO: Final = 3
_INFO_EXPORT: Final = b"\0\0"
_EXPORT: Final = struct.Struct(">QH")
READ_ONLY: Final = 2

# Replies to the option are of a few bytes, and few.
_MAX_REPLY_BYTES: Final = 1 << 16
_MAX_REPLIES: Final = 64
_ANSWER_TIMEOUT_S: Final = 30.0

# Smaller sectors than those of the formats do not exist, and larger ones some file systems cannot use.
SECTOR_BYTES: Final = 512


class NbdLink:
    """Connects NBD devices of the kernel. Errors: `OSError`; `FileNotFoundError` without the module."""

    def __init__(self) -> None:
        self._asker = Asker()
        try:
            self._family, _ = self._asker.family("nbd")
        except BaseException:
            self._asker.close()
            raise

    def connect(self, path: str, backend: str, *, read_only: bool, patience_s: int) -> str:
        """A new device on the default export of the server at the unix socket `path`; the device's path.

        `backend` names it: `backend_of` tells it, and only who knows it can reconnect. If the server goes,
        requests wait `patience_s` seconds for another before they fail. Others wait without limit for their
        answers: those of a slow server must not fail. That is also why there is one connection only:
        with several, the kernel takes a request that it waits long for as the sign of a dead one.
        """
        connection, size, flags = greet(path)
        with connection:
            settings = {
                _SIZE: size,
                _BLOCK_SIZE: SECTOR_BYTES,
                _TIMEOUT: 0,
                _DEAD_TIMEOUT: patience_s,
                _SERVER_FLAGS: flags | (READ_ONLY if read_only else 0),
            }
            words = [attribute(name, struct.pack("=Q", value)) for name, value in settings.items()]
            answer = self._asker.ask(
                self._family, _CONNECT, _VERSION, *words, _named(backend), _sockets(connection)
            )
        return f"/dev/nbd{number(attributes(answer), _INDEX)}"

    def reconnect(self, device: str, path: str, backend: str) -> None:
        """Gives a device whose server is gone a connection to the one at the unix socket `path`."""
        connection, _, _ = greet(path)
        with connection:
            self._asker.ask(
                self._family, _RECONFIGURE, _VERSION, _index(device), _named(backend), _sockets(connection)
            )

    def resize(self, device: str, backend: str, size_bytes: int) -> None:
        """Tells the kernel that a device has another size."""
        size = attribute(_SIZE, struct.pack("=Q", size_bytes))
        self._asker.ask(self._family, _RECONFIGURE, _VERSION, _index(device), _named(backend), size)

    def disconnect(self, device: str) -> None:
        """Takes a device from its server, whoever uses it."""
        self._asker.ask(self._family, _DISCONNECT, _VERSION, _index(device))

    def close(self) -> None:
        """Ends the talk with the kernel; devices stay."""
        self._asker.close()

    def __enter__(self) -> "NbdLink":
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()


def backend_of(device: str) -> str:
    """What a device was connected as, "" if it is not by name. Raises `OSError` if it cannot look."""
    try:
        return (Path("/sys/block", os.path.basename(device)) / "backend").read_text().removesuffix("\n")
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            raise
        return ""


def greet(path: str) -> tuple[socket.socket, int, int]:
    """A connection to the default export at a unix socket, ready for requests; its size and flags."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        connection.settimeout(_ANSWER_TIMEOUT_S)
        connection.connect(path)
        size, flags = _ask_for_export(connection, path)
        connection.settimeout(None)
        return connection, size, flags
    except BaseException:
        connection.close()
        raise


def _ask_for_export(connection: socket.socket, path: str) -> tuple[int, int]:
    greeting = _receive(connection, len(_GREETING) + 2, path)
    if not greeting.startswith(_GREETING):
        raise ObdError("io", "no NBD server", path)
    wish = struct.pack(">IH", 0, 0)  # the default export, and nothing special
    connection.sendall(struct.pack(">I", _FIXED_NEWSTYLE_NO_ZEROES))
    connection.sendall(_OPTION.pack(b"IHAVEOPT", _GO, len(wish)) + wish)
    export: tuple[int, int] | None = None
    for _ in range(_MAX_REPLIES):
        _, _, kind, length = _REPLY.unpack(_receive(connection, _REPLY.size, path))
        if length > _MAX_REPLY_BYTES:
            break
        data = _receive(connection, length, path)
        if kind == _ACK and export is not None:
            return export
        if kind != _INFO:
            break
        if data[:2] == _INFO_EXPORT and len(data) == 2 + _EXPORT.size:
            export = _EXPORT.unpack(data[2:])
    raise ObdError("io", "the NBD server has no default export", path)


def _receive(connection: socket.socket, length: int, path: str) -> bytes:
    data = b""
    while len(data) < length:
        piece = connection.recv(length - len(data))
        if not piece:
            raise ObdError("io", "the NBD server hangs up", path)
        data += piece
    return data


def _index(device: str) -> bytes:
    return attribute(_INDEX, struct.pack("=I", int(device.removeprefix("/dev/nbd"))))


def _named(backend: str) -> bytes:
    return attribute(_BACKEND, os.fsencode(backend) + b"\0")


def _sockets(connection: socket.socket) -> bytes:
    """The attribute for the sockets of a device: one."""
    descriptor = attribute(_DESCRIPTOR, struct.pack("=I", connection.fileno()))
    return attribute(_SOCKETS | _NESTED, attribute(_ITEM | _NESTED, descriptor))
