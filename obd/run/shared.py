"""The read-only device of an image, attached and mounted once for all containers that run of it."""

from __future__ import annotations

import hashlib
import json
import os
import time
from typing import Any, Final

from obd import attach as attachments
from obd.errors import ObdError, about
from obd.mount import filesystem
from obd.run.locks import open_lock, try_lock
from obd.run.rootfs import take_away
from obd.state import State, StateDirectory, state_directories

KIND: Final = "images"

# Others who attach or release the same image are waited for so long: a registry may be slow.
_PATIENCE_S: Final = 300.0
_LOOK_S: Final = 0.02


class SharedImage:
    """An image in use: who holds a descriptor of `users` has the device stay.

    Its state is in the run directory: configuration, mount point, and the file whose lock its users share.
    """

    def __init__(self, document: dict[str, Any]) -> None:
        self._text: Final = json.dumps(document, indent=2, sort_keys=True) + "\n"
        self._place: Final = _Place(hashlib.sha256(self._text.encode()).hexdigest())
        self.mount_point: Final = self._place.mount_point
        self.users = -1

    def provide(self, via: str, service: str | None) -> None:
        """Has it attached and mounted, and this process one of its users. Raises `OSError`."""
        place = self._place
        place.lock()
        try:
            self.users = open_lock(place.users)
            if not try_lock(self.users, place.users, shared=True):
                raise ObdError("busy", "being released", place.config)  # who does so holds the other lock
            if place.is_dead():
                place.abandon()
            if attachments.find(place.config) is None:
                with about(place.config), open(place.config, "w") as file:
                    file.write(self._text)
                attachments.attach(place.config, via=via, service=service)
            if not filesystem.is_mount_point(place.mount_point):
                place.mount()
        except BaseException:
            self._leave()
            place.release()
            raise
        finally:
            place.unlock()

    def leave(self) -> None:
        """Ends the use by this process; the last user has it taken away. Raises `OSError`."""
        self._leave()
        self._place.release_if_unused()

    def _leave(self) -> None:
        if self.users >= 0:
            os.close(self.users)
            self.users = -1


def clean_images() -> None:
    """Takes away the devices that nobody uses any more: of users who were killed. Raises `OSError`."""
    for state in state_directories(KIND):
        _Place(state.key).release_if_unused()


class _Place:
    """The directory of an image, by the digest of its configuration."""

    def __init__(self, key: str) -> None:
        self._state: Final = StateDirectory(KIND, key)
        self.config: Final = os.path.join(self._state.path, "config.json")
        self.mount_point: Final = os.path.join(os.path.realpath(self._state.path), "mount")
        self.users: Final = os.path.join(self._state.path, "users")

    def lock(self) -> None:
        """Takes the lock, and has the directory there with a mark of what it is."""
        deadline = time.monotonic() + _PATIENCE_S
        while not self._state.acquire():
            if time.monotonic() > deadline:
                raise ObdError("timed-out", "another process is still attaching this image", self.config)
            time.sleep(_LOOK_S)
        try:
            os.makedirs(self.mount_point, mode=0o700, exist_ok=True)
            self._state.write(State(self.config, "run", read_only=True, directory=self.mount_point))
        except BaseException:
            try:
                self.release()
            finally:
                self.unlock()  # or this process would wait for itself
            raise

    def unlock(self) -> None:
        """Gives the lock back; does nothing if it is gone with its directory."""
        self._state.release()

    def is_dead(self) -> bool:
        """Whether the server of the device has died; who uses it has errors."""
        known = attachments.find(self.config)
        return known is not None and known.dead

    def abandon(self) -> None:
        """Leaves a dead device to those who use it."""
        filesystem.unmount_lazily(self.mount_point)
        attachments.abandon(self.config)

    def mount(self) -> None:
        """Mounts the device."""
        known = attachments.find(self.config)
        if known is None:
            raise ObdError("io", "the device has gone again", self.config)
        with open(known.path, "rb") as file:
            head = file.read(filesystem.HEAD_BYTES)
        filesystem.mount(known.path, self.mount_point, head, read_only=True)

    def release_if_unused(self) -> None:
        """Takes device and directory away, unless they are used. Raises `OSError`."""
        if not os.path.exists(self._state.path):
            return
        deadline = time.monotonic() + _PATIENCE_S
        while (mine := self._state.acquire_existing()) is False:
            if time.monotonic() > deadline:
                return  # who attaches for so long takes care of it
            time.sleep(_LOOK_S)
        if mine:
            try:
                self.release()
            finally:
                self.unlock()

    def release(self) -> None:
        """As `release_if_unused`, with the lock held."""
        users = open_lock(self.users)
        try:
            if not try_lock(users, self.users):
                return
            take_away(self.mount_point, self.config)
        finally:
            os.close(users)
        self._state.remove()
