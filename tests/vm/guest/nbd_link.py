"""A client of the kernel's NBD device that can put a new connection in the place of a dead one.

`nbd-client` cannot: it uses generic netlink too, but does not ask for the patience that this needs. Sent are
the messages of <linux/nbd-netlink.h> for a socket on which the protocol's greeting is done.
"""

import os
import socket
import struct
from pathlib import Path
from types import TracebackType

# <linux/netlink.h>, <linux/genetlink.h>
NETLINK_GENERIC = 16
REQUEST, ACKNOWLEDGE, ERROR, NESTED = 1, 4, 2, 0x8000
CONTROL, GET_FAMILY = 0x10, 3
FAMILY_ID, FAMILY_NAME = 1, 2

# <linux/nbd-netlink.h>
CONNECT, DISCONNECT, RECONFIGURE = 1, 2, 3
INDEX, SIZE, BLOCK_SIZE, TIMEOUT, SERVER_FLAGS, SOCKETS, DEAD_TIMEOUT = 1, 2, 3, 4, 5, 7, 8
ITEM, DESCRIPTOR = 1, 1

# The NBD protocol: the option that ends the greeting, and its replies.
FIXED_NEWSTYLE_NO_ZEROES = 3
GO, REPLY_ACK, REPLY_INFO, INFO_EXPORT = 7, 1, 3, b"\0\0"

# A request without an answer is sent again after the first, and fails if no connection came in the second.
RESEND_S, PATIENCE_S = 1, 30


class Attached:
    """`/dev/nbdINDEX` on the default export of a server, which may go and come back."""

    def __init__(self, index: int, path: Path) -> None:
        self._index = _attribute(INDEX, struct.pack("=I", index))
        self._link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC)
        answer = self._ask(CONTROL, GET_FAMILY, _attribute(FAMILY_NAME, b"nbd\0"))
        (self._family,) = struct.unpack("=H", _attributes(answer)[FAMILY_ID])
        connection, size, flags = _greet(path)
        with connection:
            settings = {
                SIZE: size,
                BLOCK_SIZE: 512,
                TIMEOUT: RESEND_S,
                DEAD_TIMEOUT: PATIENCE_S,
                SERVER_FLAGS: flags,
            }
            words = [_attribute(name, struct.pack("=Q", value)) for name, value in settings.items()]
            self._ask(self._family, CONNECT, self._index, *words, _sockets(connection))

    def again(self, path: Path) -> None:
        """Gives the device a new connection."""
        connection, _, _ = _greet(path)
        with connection:
            self._ask(self._family, RECONFIGURE, self._index, _sockets(connection))

    def __enter__(self) -> "Attached":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, t: TracebackType | None
    ) -> None:
        self._ask(self._family, DISCONNECT, self._index)
        self._link.close()

    def _ask(self, family: int, command: int, *attributes: bytes) -> bytes:
        """Sends a command; the attributes of the answer. An error is an `OSError`."""
        body = struct.pack("=BBxx", command, 1) + b"".join(attributes)
        self._link.send(struct.pack("=IHHII", 16 + len(body), family, REQUEST | ACKNOWLEDGE, 0, 0) + body)
        answer = b""
        while True:
            data = self._link.recv(1 << 16)
            (kind,) = struct.unpack_from("=H", data, 4)
            if kind != ERROR:
                answer = data[20:]
                continue
            (error,) = struct.unpack_from("=i", data, 16)
            if error:
                raise OSError(-error, os.strerror(-error), f"nbd command {command}")
            return answer


def _attribute(name: int, value: bytes, nested: int = 0) -> bytes:
    """An attribute of a netlink message, padded."""
    return struct.pack("=HH", 4 + len(value), name | nested) + value + bytes(-len(value) % 4)


def _attributes(data: bytes) -> dict[int, bytes]:
    """The attributes of a message."""
    found = {}
    while len(data) >= 4:
        length, name = struct.unpack_from("=HH", data)
        found[name] = data[4:length]
        data = data[max(4, length + -length % 4) :]
    return found


def _sockets(connection: socket.socket) -> bytes:
    """The attribute for the sockets of a device: one."""
    descriptor = _attribute(DESCRIPTOR, struct.pack("=I", connection.fileno()))
    return _attribute(SOCKETS, _attribute(ITEM, descriptor, NESTED), NESTED)


def _greet(path: Path) -> tuple[socket.socket, int, int]:
    """A connection to the default export, ready for requests; the export's size and flags."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(path))
    with connection.makefile("rb") as said:
        assert said.read(18)[:16] == b"NBDMAGICIHAVEOPT"
        option = struct.pack(">8sII", b"IHAVEOPT", GO, 6) + bytes(6)  # no name, no wishes
        connection.sendall(struct.pack(">I", FIXED_NEWSTYLE_NO_ZEROES) + option)
        size = flags = 0
        while True:
            _, _, kind, length = struct.unpack(">QIII", said.read(20))
            data = said.read(length)
            if kind == REPLY_ACK:
                return connection, size, flags
            assert kind == REPLY_INFO, hex(kind)
            if data[:2] == INFO_EXPORT:
                size, flags = struct.unpack(">QH", data[2:])
