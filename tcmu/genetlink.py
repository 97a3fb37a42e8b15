"""Generic netlink: messages, attributes, and asking the kernel for something."""

import os
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress

# <linux/netlink.h>, <linux/genetlink.h>
GENERIC = 16
REQUEST, ACKNOWLEDGE = 1, 4
ERROR = 2
CONTROL, GET_FAMILY = 0x10, 3
FAMILY_ID, FAMILY_NAME, MULTICAST_GROUPS = 1, 2, 7
GROUP_NAME, GROUP_ID = 1, 2
TYPE_MASK = 0x3FFF

HEADER = struct.Struct("=IHHII")
COMMAND = struct.Struct("=BBxx")
ATTRIBUTE = struct.Struct("=HH")

# The kernel's answers to what is asked here fit a page.
MAX_ANSWER_BYTES = 1 << 16
ANSWER_TIMEOUT_S = 10.0


class Asker:
    """Asks the kernel, one thing at a time; may be used by any thread.

    Errors: `OSError` with the kernel's errno; `TimeoutError` when it does not answer.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sequence = 0
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, GENERIC)
        self._socket.settimeout(ANSWER_TIMEOUT_S)

    def family(self, name: str) -> tuple[int, dict[str, int]]:
        """The number of a family, and those of its groups by name. `FileNotFoundError` if there is none."""
        question = attribute(FAMILY_NAME, name.encode() + b"\0")
        answer = self.ask(CONTROL, GET_FAMILY, 2, question)
        found = attributes(answer)
        groups = {}
        for group in attributes(found.get(MULTICAST_GROUPS, b"")).values():
            one = attributes(group)
            groups[text(one.get(GROUP_NAME, b""))] = number(one, GROUP_ID)
        return number(found, FAMILY_ID), groups

    def ask(self, family: int, command: int, version: int, *attributes: bytes) -> bytes:
        """Sends a command; the attributes of the answer, if it is more than a yes."""
        with self._lock:
            self._sequence = self._sequence + 1 & 0xFFFFFFFF
            body = COMMAND.pack(command, version) + b"".join(attributes)
            head = HEADER.pack(HEADER.size + len(body), family, REQUEST | ACKNOWLEDGE, self._sequence, 0)
            self._socket.send(head + body)
            answer = b""
            while True:
                for kind, sequence, data in messages(self._socket.recv(MAX_ANSWER_BYTES)):
                    if sequence != self._sequence:
                        continue  # the late answer to a question that was given up
                    if kind != ERROR:
                        answer = data[COMMAND.size :]
                        continue
                    (error,) = struct.unpack_from("=i", data)
                    if error:
                        raise OSError(-error, os.strerror(-error))
                    return answer

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()


def messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Kind, sequence number and body of the messages in what was received; a broken one ends it."""
    while len(data) >= HEADER.size:
        length, kind, _, sequence, _ = HEADER.unpack_from(data)
        if not HEADER.size <= length <= len(data):
            return
        yield kind, sequence, data[HEADER.size : length]
        data = data[length + -length % 4 :]


def attribute(kind: int, value: bytes) -> bytes:
    """An attribute of a message, padded."""
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes in a message or in another attribute; a broken one ends them."""
    found = {}
    while len(data) >= ATTRIBUTE.size:
        length, kind = ATTRIBUTE.unpack_from(data)
        if not ATTRIBUTE.size <= length <= len(data):
            break
        found[kind & TYPE_MASK] = data[ATTRIBUTE.size : length]
        data = data[length + -length % 4 :]
    return found


def number(found: Mapping[int, bytes], kind: int) -> int:
    """The unsigned number that an attribute holds, of whatever length. `ValueError` without it."""
    with suppress(KeyError):
        return int.from_bytes(found[kind], "little")
    raise ValueError(f"netlink message without attribute {kind}")


def text(value: bytes) -> str:
    """The string in an attribute."""
    return value.partition(b"\0")[0].decode(errors="surrogateescape")
