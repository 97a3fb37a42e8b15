"""What a case is: something hostile that a command is given, what comes of it, and what it may take."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.faults.server import Exchange, Server

# Peak memory of a command, interpreter and libraries (some 60 MiB) included.
RSS_MIB = 160
SECONDS = 60.0
MIB = 1 << 20


class Place:
    """Where a case is: `home`, outside of which nothing may be opened, and the servers it may ask.

    `decoy` is a file, and `canary` the URL of a server, that hostile content names and nobody else.
    """

    def __init__(self, home: Path, decoy: Path, canary: str, end: ExitStack) -> None:
        self.home, self.decoy, self.canary = home, decoy, canary
        self._end = end
        self.ports: set[int] = set()
        self.seen: list[tuple[str, str]] = []

    def file(self, name: str, content: bytes) -> str:
        """A file of the case; its path."""
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return str(path)

    def json(self, name: str, content: object) -> str:
        """The same of a document."""
        return self.file(name, json.dumps(content).encode())

    def server(self, handle: Callable[[Exchange], None], *, named: bool = True) -> Server:
        """A server until the case is over. `named`: the configuration names it, so it may be asked.

        What it is sent is noted in `seen`: target and `Authorization`.
        """

        def noted(exchange: Exchange) -> None:
            self.seen.append((exchange.target, exchange.headers.get("authorization", "")))
            handle(exchange)

        server = Server(noted)
        self._end.callback(server.stop)
        if named:
            self.ports.add(server.port)
        return server


@dataclass(frozen=True)
class Refused:
    """The command fails with one line that has these words."""

    words: str


@dataclass(frozen=True)
class Harmless:
    """The command succeeds; `check` looks at what it left and at what it said."""

    check: Callable[[Place, str], None] = lambda place, out: None


@dataclass(frozen=True)
class Case:
    """`make` writes the hostile thing and returns the command line.

    `also` is asked of a case that is over, whatever came of it.
    """

    name: str
    make: Callable[[Place], list[str]]
    outcome: Refused | Harmless
    rss_mib: int = RSS_MIB
    seconds: float = SECONDS
    also: Callable[[Place], None] = lambda place: None
    reads: tuple[str, ...] = field(default=())


def refused(name: str, words: str, make: Callable[[Place], list[str]], **more: object) -> Case:
    """A case that fails."""
    return Case(name, make, Refused(words), **more)  # type: ignore[arg-type]


def harmless(name: str, make: Callable[[Place], list[str]], **more: object) -> Case:
    """A case that succeeds."""
    check = more.pop("check", None)
    return Case(name, make, Harmless(check) if check else Harmless(), **more)  # type: ignore[arg-type]
