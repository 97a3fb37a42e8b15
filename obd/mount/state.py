"""What is known about a mount while it lasts: a directory, locked by the process that keeps the mount."""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from typing import Final

from obd.errors import ObdError

# Attempts to lock a directory that others are removing at the same time.
_ATTEMPTS: Final = 100


@dataclass(frozen=True, slots=True)
class MountState:
    """The facts that unmounting needs. `error` is set if the end of the mount lost data."""

    directory: str
    config: str
    pid: int
    loop: str
    error: str = ""


class StateDirectory:
    """The directory of one mount point: FUSE directory, log and `state.json`.

    Whoever holds the lock owns it; the keeper of a mount holds it for as long as it lives.
    """

    def __init__(self, mount_point: str) -> None:
        digest = hashlib.sha256(os.fsencode(mount_point)).hexdigest()[:16]
        self.path: Final = os.path.join(run_directory(), "mounts", digest)
        self.fuse: Final = os.path.join(self.path, "fuse")
        self.log: Final = os.path.join(self.path, "log")
        self._lock = -1

    def acquire(self) -> bool:
        """Creates the directory if need be and takes the lock. False if another process holds it."""
        for _ in range(_ATTEMPTS):
            os.makedirs(self.fuse, mode=0o700, exist_ok=True)
            try:
                fd = os.open(os.path.join(self.path, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except FileNotFoundError:
                continue  # removed by its last owner in between
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                return False
            if self._is_current(fd):
                self._lock = fd
                return True
            os.close(fd)
        raise ObdError("busy", "the state directory comes and goes", self.path)

    def _is_current(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), os.stat(os.path.join(self.path, "lock")))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Gives up this process's handle of the lock; a forked keeper holds on to its own."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def write(self, state: MountState) -> None:
        """Records the facts."""
        temporary = os.path.join(self.path, "state.json.new")
        with open(temporary, "w") as file:
            json.dump(asdict(state), file)
        os.replace(temporary, os.path.join(self.path, "state.json"))

    def read(self) -> MountState | None:
        """The facts, None if there are none (yet, or any more)."""
        with (
            contextlib.suppress(OSError, ValueError, TypeError),
            open(os.path.join(self.path, "state.json")) as file,
        ):
            return MountState(**json.load(file))
        return None

    def remove(self) -> None:
        """Removes the directory; the lock must be held and nothing be mounted in it."""
        # Fails if something is still mounted there, rather than delete what is in it.
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(self.fuse)
        shutil.rmtree(self.path)


def run_directory() -> str:
    """Where short-lived state goes: /run/overlaybd for root, the user's runtime directory for others."""
    if os.geteuid() == 0:
        return "/run/overlaybd"
    return os.path.join(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}", "overlaybd")
