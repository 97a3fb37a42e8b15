"""What is known about a device while it lasts: a directory, locked by the process that keeps the device."""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from typing import Any, Final

from obd.errors import ObdError, about

# Attempts to lock a directory that others are removing at the same time.
_ATTEMPTS: Final = 100
# What says that there are no facts, or none of ours.
_NONE: Final = (
    *(FileNotFoundError, NotADirectoryError),
    *(ValueError, KeyError, TypeError, RecursionError),
)


@dataclass(frozen=True, slots=True)
class State:
    """The facts that taking a device away needs. `path` is "" until there is a device.

    `directory` is the mount point of what is mounted by `obd mount`, else "". `pid` is the process that keeps
    the device, 0 if it needs none. `error` is set if the end of the device lost data. `service` is the
    service configuration by which it was opened, "" for that of the host.
    """

    config: str
    via: str
    read_only: bool
    path: str = ""
    pid: int = 0
    directory: str = ""
    why: str = ""
    error: str = ""
    service: str = ""


class StateDirectory:
    """The directory of one device: log, `state.json`, and what the way it is served by keeps there.

    `kind` is "mounts" or "attach", `key` the mount point or the image configuration. Whoever holds the lock
    owns it; the keeper of a device holds it for as long as it lives.
    """

    def __init__(self, kind: str, key: str) -> None:
        self.digest: Final = hashlib.sha256(os.fsencode(key)).hexdigest()[:16]
        self.kind: Final = kind
        self.key: Final = key
        self.path: Final = os.path.join(run_directory(), kind, self.digest)
        self.log: Final = os.path.join(self.path, "log")
        self.lock = -1

    def acquire(self) -> bool:
        """Creates the directory if need be and takes the lock. False if another process holds it."""
        for _ in range(_ATTEMPTS):
            with contextlib.suppress(FileNotFoundError):  # removed by its last owner in between
                os.makedirs(self.path, mode=0o700, exist_ok=True)
                try:
                    return self._lock_file(os.O_CREAT)
                except OSError:
                    with contextlib.suppress(OSError):  # there is more in it
                        os.rmdir(self.path)
                    raise
        raise ObdError("busy", "the state directory comes and goes", self.path)

    def acquire_existing(self) -> bool | None:
        """Takes the lock. False if another process holds it, None if the directory is gone.

        As `acquire` it raises `OSError` if neither can be seen.
        """
        try:
            return self._lock_file(0)
        except FileNotFoundError:
            return None

    def _lock_file(self, flags: int) -> bool:
        name = os.path.join(self.path, "lock")
        fd = os.open(name, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
        try:
            with about(name):
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
        self.lock = fd
        return True

    def release(self) -> None:
        """Gives up this process's handle of the lock; a keeper holds on to its own."""
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1

    def write(self, state: State) -> None:
        """Records the facts."""
        temporary = os.path.join(self.path, "state.json.new")
        with about(temporary), open(temporary, "w") as file:
            json.dump({**asdict(state), "key": self.key}, file)
        os.replace(temporary, os.path.join(self.path, "state.json"))

    def read(self) -> State | None:
        """The facts, None if there are none (yet, or any more).

        Raises `OSError` if that cannot be seen: a device may be there.
        """
        with contextlib.suppress(*_NONE):
            return State(**{key: value for key, value in _facts(self.path).items() if key != "key"})
        return None

    def remove(self) -> None:
        """Removes the directory; the lock must be held and nothing be mounted in it."""
        # Fails if something is still mounted there, rather than delete what is in it.
        for entry in list(os.scandir(self.path)):
            if entry.is_dir(follow_symlinks=False):
                os.rmdir(entry.path)
        # What a removal leaves that failed or was killed goes with the next one of the same device.
        parent = os.path.dirname(self.path)
        for name in os.listdir(parent):
            if name.startswith(f"{self.digest}.") and name.endswith(".gone"):
                _remove_tree(os.path.join(parent, name))
        # Under another name first: nobody may find half of it, or put something new into it.
        gone = f"{self.path}.{os.getpid()}.gone"
        os.rename(self.path, gone)
        _remove_tree(gone)


def state_directories(kind: str) -> list[StateDirectory]:
    """Those of a kind that have facts in them, in the order of their keys. Raises `OSError`."""
    parent = os.path.join(run_directory(), kind)
    found = []
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(parent):
            with contextlib.suppress(*_NONE):
                place = StateDirectory(kind, _facts(os.path.join(parent, name))["key"])
                if place.digest == name:
                    found.append(place)
    return sorted(found, key=lambda place: place.key)


def _remove_tree(path: str) -> None:
    # Of two who remove it at the same time the one stops at what the other has removed, who goes on.
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)


def _facts(directory: str) -> dict[str, Any]:
    path = os.path.join(directory, "state.json")
    with about(path), open(path) as file:
        facts = json.load(file)
    if not isinstance(facts, dict):
        raise ValueError("not the facts of a device")
    return facts


def run_directory() -> str:
    """Where short-lived state goes: /run/overlaybd for root, the user's runtime directory for others.

    `OVERLAYBD_RUN_DIR` in the environment names another place.
    """
    if place := os.environ.get("OVERLAYBD_RUN_DIR"):
        return place
    if os.geteuid() == 0:
        return "/run/overlaybd"
    return os.path.join(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}", "overlaybd")
