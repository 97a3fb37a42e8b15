"""Letting nothing be under way any more on devices in use: the kernel keeps new requests back."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from functools import partial
from typing import Final

from obd.daemon.served import Served
from obd.daemon.work import Pool
from obd.errors import line_of

_log: Final = logging.getLogger("overlaybd.tcmu")


class Standstill:
    """Begins at once, and lasts until `end`, or for ever: then the next daemon ends it."""

    def __init__(self, devices: Iterable[Served], pool: Pool) -> None:
        """In threads of `pool`, since configfs makes wait whoever looks at a device that is being removed."""
        self._devices: Final = [served for served in devices if served.ring is not None]
        self._pool: Final = pool
        self._lock: Final = threading.Lock()
        self._ended = False
        self._to_block = len(self._devices)
        for served in self._devices:
            pool.submit(partial(self._block, served))

    def _block(self, served: Served) -> None:
        try:
            served.device.backstore.block()
            if self._ended:  # meanwhile, and perhaps let through before it was blocked
                served.device.backstore.unblock()
        except OSError as error:
            _log.warning("%s cannot be blocked: %s", served.name, line_of(error))
        finally:
            with self._lock:
                self._to_block -= 1

    @property
    def reached(self) -> bool:
        """Whether nothing is under way."""
        return self._to_block == 0 and not any(served.active for served in self._devices)

    def what_moves(self) -> str:
        """What is still under way."""
        moving = [f"{served.name}: {served.waits_for()}" for served in self._devices if served.active]
        return "; ".join(moving) or f"{self._to_block} devices cannot be blocked"

    def end(self) -> None:
        """Lets requests through again."""
        self._ended = True
        for served in self._devices:
            self._pool.submit(partial(self._unblock, served))

    def _unblock(self, served: Served) -> None:
        if served.ring is None:
            return  # removed meanwhile
        try:
            served.device.backstore.unblock()
        except OSError as error:
            _log.warning("%s stays blocked: %s", served.name, line_of(error))
