"""The routes of the process as a whole: health, version, statistics, metrics, log level, reload."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

import obdcore
from obd.api.routes import Call, Routes
from obd.config.schema import Table, choice
from obd.errors import line_of
from obd.http_server import JSON, Answer, as_json
from obd.logs import LEVELS
from obd.metrics import CONTENT_TYPE, Metrics

if TYPE_CHECKING:
    from obd.overview import Overview

_log: Final = logging.getLogger("overlaybd.api")

VERSION: Final = "v1"
# In the order of the configuration's numbers.
LEVEL_NAMES: Final = ("debug", "info", "warning", "error", "fatal")


@dataclass(frozen=True, slots=True, kw_only=True)
class Level(Table):
    """A log level."""

    level: str = choice("level", "", LEVEL_NAMES)


class Process:
    """Answers for the process. `causes` tells why it is not ready, `reload` reads the configuration anew."""

    def __init__(self, overview: Overview, metrics: Metrics, reload: Callable[[], dict[str, Any]]) -> None:
        self._overview: Final = overview
        self._metrics: Final = metrics
        self.causes: Callable[[], list[str]] = list
        self.reload = reload

    def add_to(self, routes: Routes) -> None:
        """Adds the routes."""
        routes.add("GET", "/v1/health", self._health)
        routes.add("GET", "/v1/health/live", lambda call: {"live": True})
        routes.add("GET", "/v1/version", self._version)
        routes.add("GET", "/v1/stat", lambda call: self._overview.stat())
        routes.add("GET", "/v1/metrics", lambda call: Answer(200, self._metrics.text(), CONTENT_TYPE))
        routes.add("GET", "/v1/log-level", lambda call: {"level": log_level()})
        routes.add("PUT", "/v1/log-level", self._set_level)
        routes.add("POST", "/v1/reload", lambda call: self.reload())
        routes.add("GET", "/v1/openapi.json", lambda call: Answer(200, description(), JSON))

    def _health(self, call: Call) -> Answer:
        try:
            causes = self.causes()
        except Exception as error:
            causes = [f"health cannot be told: {line_of(error)}"]
        return as_json({"live": True, "ready": not causes, "causes": causes}, 503 if causes else 200)

    def _version(self, call: Call) -> dict[str, Any]:
        return {
            "version": obdcore.__version__,
            "api": VERSION,
            "command": self._overview.command,
            "pid": os.getpid(),
        }

    def _set_level(self, call: Call) -> dict[str, str]:
        level = call.body(Level).level
        before = log_level()
        set_log_level(level)
        _log.warning("log level: %s, it was %s", level, before)
        return {"level": level, "before": before}


def log_level() -> str:
    """Name of the least severe level that gets into the log of this process."""
    now = logging.getLogger().getEffectiveLevel()
    return next(
        (name for name, level in zip(LEVEL_NAMES, LEVELS, strict=True) if now <= level), LEVEL_NAMES[-1]
    )


def set_log_level(name: str) -> None:
    """`name` is one of `LEVEL_NAMES`."""
    logging.getLogger().setLevel(LEVELS[LEVEL_NAMES.index(name)])


def description() -> bytes:
    """The description of all routes by OpenAPI 3.1."""
    return files("obd.api").joinpath("openapi.json").read_bytes()
