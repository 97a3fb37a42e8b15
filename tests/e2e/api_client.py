"""A client of the management API that holds every answer against the description."""

import http.client
import json
import socket
from dataclasses import dataclass
from typing import Any

from obd.api.process import description
from tests.ref.openapi import Description

PATIENCE_S = 30.0


@dataclass(frozen=True)
class Reply:
    """An answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class UnixConnection(http.client.HTTPConnection):
    """HTTP by the unix socket at `path`."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=PATIENCE_S)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE_S)
        self.sock.connect(self.path)


class ApiClient:
    """Asks at a unix socket, or at a port of this machine; `described` has seen all of its answers."""

    def __init__(self, where: str | int, described: Description | None = None, token: str = "") -> None:
        self.where = where
        self.token = token
        self.described = described or Description(description())

    def ask(
        self, method: str, path: str, content: object = None, headers: dict[str, str] | None = None
    ) -> Reply:
        """One request on a connection of its own; `content` goes as JSON, bytes as they are."""
        connection = (
            UnixConnection(self.where)
            if isinstance(self.where, str)
            else http.client.HTTPConnection("127.0.0.1", self.where, timeout=PATIENCE_S)
        )
        sent = content if isinstance(content, bytes | None) else json.dumps(content).encode()
        head = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        try:
            connection.request(method, path, sent, {**head, **(headers or {})})
            answer = connection.getresponse()
            reply = Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()
        return reply

    def checked(self, method: str, path: str, content: object = None) -> Reply:
        """As `ask`, of a path that is described: the answer must be too."""
        reply = self.ask(method, path, content)
        self.described.check(method, path, reply.status, reply.headers.get("content-type"), reply.body)
        return reply
