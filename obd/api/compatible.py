"""The one route of upstream's management interface, `/snapshot`, to the byte."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from obd.errors import ObdError, line_of
from obd.http_server import Answer, Request

if TYPE_CHECKING:
    from obd.overview import Entry, Overview

_log: Final = logging.getLogger("overlaybd.api")

PREFIX: Final = "/snapshot"
MISSING: Final = "Missing dev_id or config in snapshot request"
UNKNOWN: Final = "Image file not found"
FAILED: Final = "Failed to create snapshot`"
DONE: Final = "Snapshot created successfully"


def message(status: int, text: str) -> Answer:
    """An answer as upstream words and indents it, with no type and no end of line."""
    flag = "true" if status == 200 else "false"
    body = f'{{\n        "success": {flag},\n        "message": "{text}"\n}}'
    return Answer(status, body.encode(), "")


class Compatible:
    """Answers `/snapshot?dev_id=…&config=…`, whatever the method; `snapshot` does it."""

    def __init__(self, overview: Overview, snapshot: Callable[[Entry, str], object]) -> None:
        self._overview: Final = overview
        self._snapshot: Final = snapshot

    def answer(self, request: Request) -> Answer:
        """Returns when the snapshot is complete. Why one failed is in the log: here is no room for it."""
        name, config = request.query.get("dev_id"), request.query.get("config")
        if not name or not config:
            return message(400, MISSING)
        entries = self._overview.entries()
        found = [one for one in entries if name == one.dev_id] or [one for one in entries if name == one.name]
        if not found:
            return message(404, UNKNOWN)
        try:
            if len(found) > 1:
                raise ObdError("invalid", f"{len(found)} devices have this dev_id")
            self._snapshot(found[0], config)
        except Exception as error:
            _log.error("snapshot of %s by %s: %s", name, config, line_of(error))
            return message(500, FAILED)
        return message(200, DONE)
