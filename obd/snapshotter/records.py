"""What is known of each snapshot, in one SQLite database: a call's changes are there as a whole or not."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Final

from obd.errors import ObdError
from obd.snapshotter.errors import (
    ALREADY_EXISTS,
    FAILED_PRECONDITION,
    INVALID_ARGUMENT,
    NOT_FOUND,
    SnapshotError,
)
from obd.snapshotter.wire import ACTIVE, COMMITTED, VIEW

KIND_NAMES: Final = {VIEW: "view", ACTIVE: "active", COMMITTED: "committed"}

# What another process, `sqlite3` of an administrator say, may make a call wait.
BUSY_TIMEOUT_S: Final = 10.0
VERSION: Final = 1
# A chain is as long as an image has layers; overlayfs has a bound of its own, which is lower.
MAX_CHAIN: Final = 500

# Ids are never used again: their directories, mounts and devices might still be there.
_SCHEMA: Final = """
CREATE TABLE snapshots (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    parent INTEGER REFERENCES snapshots (id),
    kind INTEGER NOT NULL,
    created_ns INTEGER NOT NULL,
    updated_ns INTEGER NOT NULL,
    labels TEXT NOT NULL,
    size_bytes INTEGER NOT NULL DEFAULT 0,
    inodes INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX parents ON snapshots (parent);
"""
_SELECT: Final = """
SELECT s.id, s.name, coalesce(p.name, ''), s.kind, s.created_ns, s.updated_ns, s.labels,
    s.size_bytes, s.inodes
FROM snapshots s LEFT JOIN snapshots p ON p.id = s.parent
"""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a snapshot takes on the disk."""

    size_bytes: int = 0
    inodes: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A record. `id` names its directory; `name` is containerd's key, or what it was committed as."""

    id: int
    name: str
    parent: str
    kind: int
    created_ns: int
    updated_ns: int
    labels: Mapping[str, str] = field(default_factory=dict)
    usage: Usage = Usage()

    def lookup(self, path: tuple[str, ...]) -> str | None:
        """The value of a field for a filter."""
        match path:
            case ("name",):
                return self.name
            case ("parent",):
                return self.parent
            case ("kind",):
                return KIND_NAMES[self.kind]
            case ("labels", *rest):
                return self.labels.get(".".join(rest))
        return None


class Records:
    """The database at `path`, created if there is none. Safe for use by several threads.

    `known`: whether there are snapshots already; then a database that was never written to is refused with
    `ObdError`, since what has no record is removed as nobody's.

    Raises `sqlite3.Error` for a disk that fails, and `SnapshotError` for what cannot be so.
    """

    def __init__(self, path: str, *, known: bool = False) -> None:
        self._lock: Final = threading.RLock()
        self._db: Final = sqlite3.connect(
            path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        self._db.execute("PRAGMA journal_mode = WAL")
        # What containerd has been told survives a loss of power, as it does with its own database.
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("PRAGMA foreign_keys = ON")
        with self.transaction():
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version == 0 and known:
                what = "the records are lost, the snapshots are not: put it back, or move the root away"
                raise ObdError("not-found", what, path)
            if version == 0:
                for statement in _SCHEMA.split(";"):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {VERSION}")
            elif version != VERSION:
                what = f"{path} is of version {version}, this program knows {VERSION}: use the newer program"
                raise SnapshotError(FAILED_PRECONDITION, what)

    def close(self) -> None:
        """Closes the database."""
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is changed within is kept together, or none of it if an exception leaves."""
        with self._lock:
            if self._db.in_transaction:
                yield
                return
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.OperationalError):  # a disk that is full may have ended it already
                    self._db.execute("ROLLBACK")
                raise

    def get(self, name: str) -> Snapshot:
        """The snapshot of a name. Raises `SnapshotError` NOT_FOUND."""
        found = next(self._select("WHERE s.name = ?", name), None)
        if found is None:
            raise SnapshotError(NOT_FOUND, f"snapshot {name} does not exist")
        return found

    def all(self) -> list[Snapshot]:
        """Every snapshot, oldest first."""
        return list(self._select("ORDER BY s.id"))

    def has(self, number: int) -> bool:
        """Whether there is a snapshot of that id."""
        return next(self._select("WHERE s.id = ?", number), None) is not None

    def newest(self) -> int:
        """The highest id that a snapshot has had."""
        with self._lock:
            (found,) = self._db.execute("SELECT coalesce(max(seq), 0) FROM sqlite_sequence").fetchone()
        return int(found)

    def chain(self, name: str) -> list[Snapshot]:
        """A snapshot's ancestors, its parent first."""
        found: list[Snapshot] = []
        with self._lock:
            while parent := (found[-1] if found else self.get(name)).parent:
                found.append(self.get(parent))
                if len(found) > MAX_CHAIN:
                    raise SnapshotError(
                        FAILED_PRECONDITION, f"snapshot {name} has more than {MAX_CHAIN} parents"
                    )
        return found

    def children(self, name: str) -> list[Snapshot]:
        """The snapshots whose parent it is."""
        return list(self._select("WHERE p.name = ?", name))

    def _select(self, condition: str, *values: object) -> Iterator[Snapshot]:
        with self._lock:
            rows = self._db.execute(_SELECT + condition, values).fetchall()
        for number, name, parent, kind, created, updated, labels, size, inodes in rows:
            yield Snapshot(
                number, name, parent, kind, created, updated, json.loads(labels), Usage(size, inodes)
            )

    def create(self, kind: int, name: str, parent: str, labels: Mapping[str, str]) -> Snapshot:
        """A new active snapshot or view. Raises `SnapshotError` as containerd's own snapshotters do."""
        if not name:
            raise SnapshotError(INVALID_ARGUMENT, "a snapshot needs a key")
        now = time.time_ns()
        with self.transaction():
            above = self._committed(parent) if parent else None
            self.must_be_new(name)
            self._db.execute(
                "INSERT INTO snapshots (name, parent, kind, created_ns, updated_ns, labels)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (name, above.id if above else None, kind, now, now, json.dumps(dict(labels))),
            )
            return self.get(name)

    def _committed(self, name: str) -> Snapshot:
        try:
            parent = self.get(name)
        except SnapshotError as error:
            raise SnapshotError(NOT_FOUND, f"parent {error}") from None
        if parent.kind != COMMITTED:
            raise SnapshotError(INVALID_ARGUMENT, f"parent {name} is not a committed snapshot")
        return parent

    def must_be_new(self, name: str) -> None:
        """Raises `SnapshotError` ALREADY_EXISTS if there is a snapshot of that name."""
        if next(self._select("WHERE s.name = ?", name), None) is not None:
            raise SnapshotError(ALREADY_EXISTS, f"snapshot {name} exists already")

    def commit(self, key: str, name: str, labels: Mapping[str, str], usage: Usage) -> Snapshot:
        """Makes the active snapshot `key` the committed `name`, with `labels` in place of those it had."""
        if not name:
            raise SnapshotError(INVALID_ARGUMENT, "a snapshot cannot be committed without a name")
        now = time.time_ns()
        with self.transaction():
            found = self.get(key)
            if found.kind != ACTIVE:
                raise SnapshotError(FAILED_PRECONDITION, f"snapshot {key} is not active")
            self.must_be_new(name)
            self._db.execute(
                "UPDATE snapshots SET name = ?, kind = ?, created_ns = ?, updated_ns = ?, labels = ?,"
                " size_bytes = ?, inodes = ? WHERE id = ?",
                (
                    name,
                    COMMITTED,
                    now,
                    now,
                    json.dumps(dict(labels)),
                    usage.size_bytes,
                    usage.inodes,
                    found.id,
                ),
            )
            return self.get(name)

    def label(self, name: str, labels: Mapping[str, str]) -> Snapshot:
        """Gives a snapshot `labels` in place of those it has."""
        with self.transaction():
            found = self.get(name)
            now = time.time_ns()
            self._db.execute(
                "UPDATE snapshots SET labels = ?, updated_ns = ? WHERE id = ?",
                (json.dumps(dict(labels)), now, found.id),
            )
            return replace(found, labels=dict(labels), updated_ns=now)

    def remove(self, name: str) -> Snapshot:
        """Forgets a snapshot that is nobody's parent; what it was."""
        with self.transaction():
            found = self.get(name)
            if children := self.children(name):
                what = f"snapshot {name} is the parent of {children[0].name}"
                raise SnapshotError(FAILED_PRECONDITION, what)
            self._db.execute("DELETE FROM snapshots WHERE id = ?", (found.id,))
            return found
