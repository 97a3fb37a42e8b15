"""Who runs the process of a container: names as its own /etc/passwd and /etc/group have them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from obd.errors import ObdError
from obd.run.inside import read_inside

MAX_ID: Final = 2**32 - 2
# The kernel takes no more groups.
MAX_GROUPS: Final = 65536


@dataclass(frozen=True, slots=True)
class User:
    """Numbers, as the runtime wants them. `groups` has `gid` among them: else a process could shed it."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = (0,)


def resolve_user(root: str, word: str) -> User:
    """The user `USER[:GROUP]`, names or numbers, of the tree at `root`; "" is root.

    Raises `ObdError` "not-found" for a name that is not there.
    """
    name, _, group = word.partition(":")
    passwd, groups = read_inside(root, "/etc/passwd"), read_inside(root, "/etc/group")
    user, uid, gid = _user(passwd, name or "0")
    if group:
        gid = _group(groups, group)
        return User(uid, gid, (gid,))
    more = {number for _, number, members in _groups(groups) if user in members} if user else set()
    return User(uid, gid, (gid, *sorted(more - {gid}))[:MAX_GROUPS])


def _user(passwd: str, name: str) -> tuple[str, int, int]:
    """Name, "" if it has none, number and group of a user."""
    number = _number(name)
    # A name of digits goes before the number.
    for exact in (True, False):
        for line in _lines(passwd, 4):
            uid, gid = _number(line[2]), _number(line[3])
            if uid is not None and gid is not None and (line[0] == name if exact else uid == number):
                return line[0], uid, gid
    if number is None:
        raise ObdError("not-found", f"no user {name!r} in /etc/passwd of the image")
    return "", number, 0


def _group(groups: str, name: str) -> int:
    for found, gid, _ in _groups(groups):
        if found == name:
            return gid
    number = _number(name)
    if number is None:
        raise ObdError("not-found", f"no group {name!r} in /etc/group of the image")
    return number


def _groups(groups: str) -> Iterator[tuple[str, int, list[str]]]:
    for line in _lines(groups, 3):
        number = _number(line[2])
        if number is not None:
            yield line[0], number, line[3].split(",") if len(line) > 3 else []


def _lines(text: str, least: int) -> Iterator[list[str]]:
    for line in text.split("\n"):
        fields = line.strip().split(":")
        if len(fields) >= least and fields[0] and not line.startswith("#"):
            yield fields


def _number(word: str) -> int | None:
    if not (word.isascii() and word.isdecimal()) or len(word) > len(str(MAX_ID)):
        return None
    return int(word) if int(word) <= MAX_ID else None
