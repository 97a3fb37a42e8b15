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
            with contextlib.suppress(FileNotFoundError):  # removed by its last owner in between
                os.makedirs(self.fuse, mode=0o700, exist_ok=True)
                return self._lock_file(os.O_CREAT)
        raise ObdError("busy", "the state directory comes and goes", self.path)

    def acquire_existing(self) -> bool | None:
        """Takes the lock. False if another process holds it, None if the directory is gone."""
        try:
            return self._lock_file(0)
        except FileNotFoundError:
            return None

    def _lock_file(self, flags: int) -> bool:
        name = os.path.join(self.path, "lock")
        fd = os.open(name, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A lock on a file that has been removed meanwhile is worth nothing.
            if not os.path.samestat(os.fstat(fd), os.stat(name)):
                raise FileNotFoundError(name)
        except BlockingIOError:
            os.close(fd)
            return False
        except BaseException:
            os.close(fd)
            raise
        self._lock = fd
        return True

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
        # Under another name first: nobody may find half of it, or put something new into it.
        gone = f"{self.path}.{os.getpid()}.gone"
        os.rename(self.path, gone)
        shutil.rmtree(gone)


def run_directory() -> str:
    """Where short-lived state goes: /run/overlaybd for root, the user's runtime directory for others.

    `OVERLAYBD_RUN_DIR` in the environment names another place.
    """
    if place := os.environ.get("OVERLAYBD_RUN_DIR"):
        return place
    if os.geteuid() == 0:
        return "/run/overlaybd"
    return os.path.join(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}", "overlaybd")
