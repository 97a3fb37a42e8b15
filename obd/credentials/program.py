"""Programs that give out credentials: run without a shell, in a small environment, and not for long."""

import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Final

from obd.credentials.source import LookupFailed

# Seconds for all that a program does. Cloud providers' ask a server over the network, and some twice.
LIMIT_S: Final = 20.0
# A credential with the longest token there is takes some ten KiB.
MAX_OUTPUT_BYTES: Final = 1 << 20
# Programs at a time; a burst of images must not become a burst of processes.
MAX_PROGRAMS: Final = 4

# What a program is given of our environment: the user, the user's session, proxies, and the cloud it is in.
_PASSED: Final = {
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR", "DOCKER_CONFIG", "GNUPGHOME"),
    *("XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "DBUS_SESSION_BUS_ADDRESS"),
    *("PASSWORD_STORE_DIR", "SSL_CERT_FILE", "SSL_CERT_DIR"),
}
_PASSED_PREFIXES: Final = ("AWS_", "AZURE_", "GOOGLE_", "CLOUDSDK_", "GCE_", "IDENTITY_", "MSI_")
_PASSED_SUFFIX: Final = "_proxy"
DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_slots: Final = threading.BoundedSemaphore(MAX_PROGRAMS)


def environment() -> dict[str, str]:
    """The environment for a program: what it needs of ours."""
    passed = {
        name: value
        for name, value in os.environ.items()
        if name in _PASSED or name.startswith(_PASSED_PREFIXES) or name.lower().endswith(_PASSED_SUFFIX)
    }
    return {"PATH": DEFAULT_PATH, "HOME": os.path.expanduser("~"), **passed}


def run(
    command: Sequence[str], data: bytes, env: Mapping[str, str], *, limit_s: float = LIMIT_S
) -> tuple[int, bytes]:
    """Exit status and output of `command`, which gets `data` on its stdin; its stderr is thrown away.

    A program that takes longer than `limit_s` seconds or writes more than `MAX_OUTPUT_BYTES` is killed, with
    all that it has started. Raises `LookupFailed`, which says nothing of what the program wrote.
    """
    deadline = time.monotonic() + limit_s
    if not _slots.acquire(timeout=limit_s):
        raise LookupFailed("too many programs that do not end")
    try:
        return _run(command, data, env, deadline, limit_s)
    finally:
        _slots.release()


def _run(
    command: Sequence[str], data: bytes, env: Mapping[str, str], deadline: float, limit_s: float
) -> tuple[int, bytes]:
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=env,
            cwd="/",
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "its arguments hold a zero byte"
        raise LookupFailed(f"cannot be started: {reason}") from None
    with process:
        try:
            return _converse(process, data, deadline)
        except BaseException as error:
            # All that it has started, too. It is not waited for yet, so the number is still its own.
            os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, TimeoutError):
                raise LookupFailed(f"did not end within {limit_s:g} s") from None
            raise


def _converse(process: "subprocess.Popen[bytes]", data: bytes, deadline: float) -> tuple[int, bytes]:
    """Writes `data` and reads until the program ends. Raises `TimeoutError` and `LookupFailed`."""
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin.fileno(), process.stdout.fileno()
    for pipe in (stdin, stdout):
        os.set_blocking(pipe, False)
    output = bytearray()
    ended = os.pidfd_open(process.pid)
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(ended, selectors.EVENT_READ)
            selector.register(stdin, selectors.EVENT_WRITE)
            selector.register(stdout, selectors.EVENT_READ)
            ready: set[int] = set()
            while ended not in ready:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise TimeoutError
                ready = {key.fd for key, _ in selector.select(left_s)}
                if stdin in ready and not (data := _write(stdin, data)):
                    selector.unregister(stdin)
                    process.stdin.close()
                if stdout in ready and _read(stdout, output):
                    selector.unregister(stdout)
        # What is in the pipe; a child of its own that holds the other end is not waited for.
        _read(stdout, output)
    finally:
        os.close(ended)
    return process.wait(), bytes(output)


def _write(pipe: int, data: bytes) -> bytes:
    """Writes what fits and returns the rest; a program that does not read has read all."""
    try:
        return data[os.write(pipe, data) :]
    except BrokenPipeError:
        return b""


def _read(pipe: int, output: bytearray) -> bool:
    """Reads all there is; whether that was the end."""
    while True:
        try:
            part = os.read(pipe, 64 << 10)
        except BlockingIOError:
            return False
        if not part:
            return True
        output += part
        if len(output) > MAX_OUTPUT_BYTES:
            raise LookupFailed(f"wrote more than {MAX_OUTPUT_BYTES} bytes")
