"""Reading the service configuration anew in a process that goes on, and telling what came of each change."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from obd.config.check_service import named_files, service_warnings
from obd.config.effective import changed_keys
from obd.errors import line_of
from obd.logs import LEVELS, LineHandler

if TYPE_CHECKING:
    from obd.config import ServiceConfig
    from obd.observer import Observer
    from obd.service import Service

_log: Final = logging.getLogger("overlaybd.api")

NOW: Final = "applied"
OPENED: Final = "new_devices"
RESTART: Final = "restart"
NEVER: Final = "no_effect"

# When what is new counts, by the longest key that begins another.
_WHEN: Final = {
    "logConfig": NOW,
    "enableAudit": NOW,
    "auditPath": NOW,
    "credentialConfig": NOW,
    "exporterConfig": NOW,
    "exporterConfig.legacyNames": RESTART,
    "exporterConfig.updateInterval": NEVER,
    "download": OPENED,
    "prefetchConfig": OPENED,
    "p2pConfig": OPENED,
    "registries": OPENED,
    "certConfig": OPENED,
    "userAgent": OPENED,
    "outageTimeout": OPENED,
    "verifyChunks": OPENED,
    "ioEngine": OPENED,
    "cacheConfig": RESTART,
    "gzipCacheConfig": RESTART,
    "serviceConfig": RESTART,
    "enableThread": NEVER,
    "registryFsVersion": NEVER,
}

_lock: Final = threading.Lock()


def reload(observer: Observer, service: Service) -> dict[str, Any]:
    """Reads the configuration of `service` anew and lets it count as far as it can without a restart.

    The answer, fit for JSON: `file`; lists of the keys whose values changed, `applied` if they count now,
    `new_devices` if for devices that are opened from now on, `restart` if only then, `no_effect` if never;
    `warnings`, what was to be said. What a restart is needed for stays as it was, and is told each time.

    Raises `ConfigError`, or another `OSError`, if the configuration cannot be used: then nothing changes.
    """
    with _lock:
        old = service.config
        new = service.read()
        found: dict[str, list[str]] = {NOW: [], OPENED: [], RESTART: [], NEVER: []}
        for key in changed_keys(old, new):
            found[when(key)].append(key)
        service.adopt(new)
        sections = {key.partition(".")[0] for key in found[NOW]}
        warnings = [*service_warnings(new), *_missing(new), *_apply(observer, service.config, sections)]
    for line in warnings:
        _log.warning("%s: %s", new.file or "service configuration", line)
    told = "; ".join(f"{key}: {', '.join(keys)}" for key, keys in found.items() if keys)
    _log.info("%s: read anew: %s", new.file or "service configuration", told or "nothing has changed")
    return {"file": new.file, **found, "warnings": warnings}


def when(key: str) -> str:
    """When another value of a setting counts."""
    return _WHEN[max((name for name in _WHEN if _begins(key, name)), key=len)]


def _begins(key: str, name: str) -> bool:
    return key == name or key.startswith((f"{name}.", f"{name}["))


def _missing(config: ServiceConfig) -> Iterator[str]:
    for key, path in named_files(config):
        try:
            os.stat(path)
        except OSError as error:
            yield f"{key}: {path} cannot be read: {error.strerror}"


def _apply(observer: Observer, config: ServiceConfig, sections: set[str]) -> list[str]:
    """Lets other values count in what is there already. Returns what could not be done."""
    failures = []
    if "logConfig" in sections:
        root = logging.getLogger()
        root.setLevel(LEVELS[config.log.level or 0])
        try:
            # Only the daemon writes a log file.
            for handler in root.handlers:
                if isinstance(handler, LineHandler):
                    handler.move(config.log)
        except OSError as error:
            failures.append(f"logConfig: the log stays where it was: {line_of(error)}")
    if sections & {"enableAudit", "auditPath"} and not observer.begin_audit() and config.enable_audit:
        failures.append(f"auditPath {config.audit_path}: no audit log is written")
    if "exporterConfig" in sections and (problem := observer.begin_export()):
        failures.append(problem)
    return failures
