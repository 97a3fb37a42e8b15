"""The audit log: a line for every access to a registry, every slow one to a local file, every eviction."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any, Final

import obdcore
from obd.errors import line_of
from obd.logs import LogFile, Stamp

if TYPE_CHECKING:
    from collections.abc import Iterable

    from obd.config import ServiceConfig

_log: Final = logging.getLogger("overlaybd.audit")

# Upstream's fixed sizes.
MAX_BYTES: Final = 10 << 20
FILES: Final = 3
# How often the core's events are taken.
INTERVAL_S: Final = 0.1

_lost = 0


def dropped() -> int:
    """Events of this process that did not get into the log, because there were too many or it failed."""
    return _lost


def start_audit(config: ServiceConfig) -> Audit | None:
    """Begins the log if the configuration asks for it. One that cannot be opened is a warning."""
    if not config.enable_audit or not config.audit_path:
        return None
    try:
        return Audit(config.audit_path)
    except OSError as error:
        _log.warning("auditPath %s: no audit log is written: %s", config.audit_path, error.strerror or error)
        return None


class Audit:
    """Writes what the core records, from a thread of its own. There should be one in a process."""

    def __init__(self, path: str) -> None:
        """Begins. Raises `OSError` if the file cannot be opened."""
        self._file: Final = LogFile(path, MAX_BYTES, FILES)
        self._stamp: Final = Stamp()
        self._failed = False
        self._end: Final = threading.Event()
        self._thread: Final = threading.Thread(target=self._run, name="audit", daemon=True)
        obdcore.audit_start()
        self._thread.start()

    def reopen(self) -> None:
        """Goes on in the file that now has the name: for SIGHUP."""
        self._file.reopen()

    def stop(self) -> None:
        """Ends the log with what has happened so far."""
        if not self._end.is_set():
            obdcore.audit_stop()
            self._end.set()
            self._thread.join()
            self._file.close()

    def _run(self) -> None:
        while not self._end.wait(INTERVAL_S):
            self._drain()
        self._drain()

    def _drain(self) -> None:
        global _lost
        events, lost = obdcore.audit_take()
        if lost:
            _lost += lost
            _log.warning("audit log: %d events came too fast and are not in it", lost)
        if not events:
            return
        try:
            self._file.write("".join(lines(events, self._stamp)))
            self._failed = False
        except OSError as error:
            _lost += len(events)
            if not self._failed:
                _log.warning("audit log %s: %s", self._file.path, line_of(error))
            self._failed = True


def lines(events: Iterable[tuple[float, int, str, dict[str, Any]]], stamp: Stamp) -> Iterable[str]:
    """Events as lines of the log."""
    for at, thread, name, members in events:
        shown = "".join(f"[{key}={_value(key, value)}]" for key, value in members.items())
        yield f"{stamp(at, 'AUDIT', thread)}{name}{shown}\n"


def _value(key: str, value: object) -> str:
    text = str(value)
    if key == "pathname" and "://" in text:
        text = "/" + text.split("?", 1)[0].split("#", 1)[0]
    return text.replace("\n", "\\n")
