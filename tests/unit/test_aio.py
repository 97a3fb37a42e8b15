"""Linux AIO: what was asked for is written, each outcome is told once, and failures say what failed."""

import ctypes
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache import aio

Memory = ctypes.Array[ctypes.c_char]


@pytest.fixture
def queue() -> Iterator[aio.Queue]:
    found = aio.Queue(4)
    yield found
    found.close()


def outcomes(queue: aio.Queue) -> dict[int, int]:
    """All that is pending, waited for."""
    found: dict[int, int] = {}
    while queue.pending:
        told = queue.wait()
        assert told and not found.keys() & dict(told).keys(), "each outcome once"
        found |= dict(told)
    return found


def test_each_request_is_written_where_it_belongs(tmp_path: Path, queue: aio.Queue) -> None:
    memory = ctypes.create_string_buffer(b"0123456789abcdef", 16)
    address = ctypes.addressof(memory)
    with (tmp_path / "file").open("wb") as file:
        for token, (start, length, offset) in {7: (0, 4, 12), 0: (4, 8, 2), 1 << 40: (12, 4, 20)}.items():
            queue.write(file.fileno(), address + start, length, offset, token)
        assert queue.pending == 3
        assert outcomes(queue) == {7: 4, 0: 8, 1 << 40: 4}
    assert (tmp_path / "file").read_bytes() == b"\0\x00456789ab\0\x000123\0\0\0\0cdef"


def test_a_write_that_fails_is_told_by_its_errno(queue: aio.Queue) -> None:
    memory: Memory = ctypes.create_string_buffer(16)
    with open(os.memfd_create("sealed", os.MFD_ALLOW_SEALING), "wb") as sealed:
        fcntl.fcntl(sealed, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
        queue.write(sealed.fileno(), ctypes.addressof(memory), 16, 0, 3)
        assert outcomes(queue) == {3: -errno.EPERM}


def test_a_request_that_is_not_taken_is_not_pending(tmp_path: Path, queue: aio.Queue) -> None:
    (tmp_path / "file").touch()
    memory: Memory = ctypes.create_string_buffer(16)
    with (tmp_path / "file").open("rb") as readable, pytest.raises(OSError, match="io_submit: Bad") as caught:
        queue.write(readable.fileno(), ctypes.addressof(memory), 16, 0, 3)
    assert caught.value.errno == errno.EBADF and queue.pending == 0


def test_what_the_kernel_has_no_room_for() -> None:
    most = int(Path("/proc/sys/fs/aio-max-nr").read_text())
    with pytest.raises(OSError, match="io_setup: ") as caught:
        aio.Queue(most + 1)
    assert caught.value.errno in (errno.EINVAL, errno.EAGAIN, errno.ENOMEM)


def test_closing_waits_for_what_is_pending_and_gives_the_context_back(tmp_path: Path) -> None:
    def contexts() -> int:
        return Path("/proc/self/maps").read_text().count("/[aio]")

    before = contexts()
    queue = aio.Queue(2)
    assert contexts() == before + 1
    memory = ctypes.create_string_buffer(b"x" * 8, 8)
    with (tmp_path / "file").open("wb") as file:
        queue.write(file.fileno(), ctypes.addressof(memory), 8, 0, 1)
        queue.close()
    assert (tmp_path / "file").read_bytes() == b"x" * 8
    assert (queue.pending, contexts()) == (0, before)
    queue.close()


class Library:
    """A libaio whose calls give what a script says."""

    def __init__(self, script: list[int]) -> None:
        def scripted(*_: object) -> int:
            return script.pop(0)

        def fine(*_: object) -> int:
            return 0

        self.io_setup, self.io_destroy = fine, fine
        self.io_submit, self.io_getevents = scripted, scripted


def test_what_was_interrupted_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    script = [-errno.EINTR, -errno.EAGAIN, 1, -errno.EINTR, 0]
    monkeypatch.setattr(aio, "_load", lambda: Library(script))
    queue = aio.Queue(1)
    queue.write(0, 0, 0, 0, 1)
    assert queue.pending == 1 and len(script) == 2
    assert queue.wait() == [] and not script
    script.append(-errno.EFAULT)
    with pytest.raises(OSError, match="io_getevents: Bad address") as caught:
        queue.wait()
    assert caught.value.errno == errno.EFAULT


def test_the_library_has_one_of_two_names(monkeypatch: pytest.MonkeyPatch) -> None:
    real = ctypes.CDLL

    def only(there: str) -> None:
        def load(name: str) -> object:
            if name != there:
                raise OSError(f"{name}: no such file")
            return real(None)

        monkeypatch.setattr(ctypes, "CDLL", load)

    for name in ("libaio.so.1", "libaio.so.1t64"):
        only(name)
        # What is found is the program itself, which has none of the functions.
        with pytest.raises(OSError, match=r"cannot be used: .*undefined symbol: io_setup") as caught:
            aio.Queue(1)
        assert caught.value.errno == errno.ENOSYS
    only("")
    with pytest.raises(OSError, match=r"cannot be used: libaio\.so\.1: no such file"):
        aio.Queue(1)
