"""The routes of attachments: images as block devices of this machine, whichever process serves them."""

from __future__ import annotations

import logging
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import obd.attach
from obd.api.routes import Call, Created, Routes
from obd.config.errors import shown
from obd.config.schema import Table, flag, text
from obd.errors import ObdError
from obd.http_server import Answer

if TYPE_CHECKING:
    from obd.api.work import Works
    from obd.service import Service

_log: Final = logging.getLogger("overlaybd.api")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attach(Table):
    """What is to be attached: the path of an image configuration, how, and whether to write."""

    config: str = text("config")
    via: str = text("via", "auto")
    rw: bool = flag("rw", False)


def _lasting(via: str) -> str:
    """The way to attach by, which must outlast this process. Raises `ObdError` for one that does not.

    systemd ends all processes of a service with it: those too that would keep a device. What the daemon
    serves itself waits for the next daemon.
    """
    if os.environ.get("SYSTEMD_EXEC_PID") != str(os.getpid()) or via == "tcmu":
        return via
    if via == "auto":
        return "tcmu"
    what = (
        f"via {via}: the process that keeps the device would end with this service: use tcmu, or obd attach"
    )
    raise ObdError("unsupported", what)


class Attachments:
    """Answers for the attachments of this machine; new ones get the configuration of `service`."""

    def __init__(self, service: Service, works: Works) -> None:
        self._service: Final = service
        self._works: Final = works

    def add_to(self, routes: Routes) -> None:
        """Adds the routes."""
        routes.add("GET", "/v1/attachments", self._list)
        routes.add("POST", "/v1/attachments", self._attach)
        routes.add("DELETE", "/v1/attachments/{attachment}", self._detach)

    def _list(self, call: Call) -> dict[str, Any]:
        found = self._works.do(obd.attach.attachments)
        return {"attachments": [asdict(one) for one in found]}

    def _attach(self, call: Call) -> Created:
        wanted = call.body(Attach)
        if not wanted.config.startswith("/"):
            what = f"body: config: {shown(wanted.config)} must be a path that begins with /"
            raise ObdError("invalid", what)

        via = _lasting(wanted.via)

        def attach() -> obd.attach.Attachment:
            service = self._service.config.file or None
            return obd.attach.attach(wanted.config, via=via, rw=wanted.rw, service=service)

        made = self._works.do(attach)
        _log.info("%s: attached as %s by %s", made.config, made.path, made.via)
        return Created(asdict(made))

    def _detach(self, call: Call) -> Answer:
        name = call.values["attachment"]
        if not self._works.do(lambda: obd.attach.detach(name)):
            raise ObdError("not-found", f"no attachment {shown(name)}")
        _log.info("%s: detached", name)
        return Answer(204, b"", "")
