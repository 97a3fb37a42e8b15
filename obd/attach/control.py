"""Attaching, detaching and listing, from any process."""

import os
import signal
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from obd.attach import WAYS, Attachment
from obd.attach.choose import choose
from obd.attach.names import name_of
from obd.attach.process import Request, start, until_ended
from obd.attach.users import PATIENCE_S, claim, users_of
from obd.attach.ways import way
from obd.errors import ObdError
from obd.state import State, StateDirectory, state_directories

KIND: Final = "attach"

# How long detaching waits for the keeper to flush and end. A disk that needs longer is not one to write to.
FLUSH_TIMEOUT_S: Final = 600.0
# Who looks at a device that nobody keeps is done within so long.
LOOKED_AT_S: Final = 2.0
# A keeper that was asked to end lets go of the device within so long, or not at all.
LET_GO_S: Final = 2.0


def attach_image(
    config: str, via: str, rw: bool, service: str | None, settings: dict[str, int] | None = None
) -> Attachment:
    """See `obd.attach.attach`. `settings` are those of the way `via`."""
    if via not in ("auto", *WAYS):
        raise ObdError("invalid", f"via must be one of auto, {', '.join(WAYS)}, not {via!r}")
    if not os.path.isfile(config):
        raise ObdError("not-found", "no such image configuration", config)
    place = StateDirectory(KIND, os.path.realpath(config))
    if not _acquire(place):
        known = place.read()
        where = f" as {known.path}" if known and known.path else ", or is just being so"
        raise ObdError("exists", f"attached already{where} (obd detach takes it away)", config)
    try:
        return _attach(place, via, rw, service, settings or {})
    finally:
        with suppress(OSError):
            if place.lock >= 0 and place.read() is None:
                place.remove()  # nothing has come of it
        place.release()


def _acquire(place: StateDirectory) -> bool:
    """Takes the lock, if need be from somebody who has it to look at what a dead keeper left."""
    deadline = time.monotonic() + LOOKED_AT_S
    while not place.acquire():
        known = place.read()
        if known is None or _lives(known.pid) or time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def _lives(pid: int) -> bool:
    """Whether the process of that number has not ended; true of 0, which says that there is none yet."""
    if not pid:
        return True
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _attach(
    place: StateDirectory, via: str, rw: bool, service: str | None, settings: dict[str, int]
) -> Attachment:
    """Attaches with the lock held."""
    known = place.read()
    if known is not None and not way(known.via).kept and (path := way(known.via).find(place)):
        raise ObdError("exists", f"attached already as {path} (obd detach takes it away)", place.key)
    again = known is not None and _again(place, known, via, rw)
    if known is not None and again:
        chosen, why = known.via, known.why
    else:
        if known is not None:
            _clean_up(place, known)
            if not place.acquire():
                raise ObdError("busy", "is being attached by another process", place.key)
        chosen, why = choose(via, service)
        place.write(State(place.key, chosen, not rw, why=why))  # a crash from here on is cleaned up after
    request = Request(
        KIND,
        place.key,
        place.key,
        service and os.path.abspath(service),
        chosen,
        not rw,
        why=why,
        again=again,
        settings=settings,
    )
    if not way(chosen).kept:
        return _by_another(place, State(place.key, chosen, not rw, why=why))
    report = start(request, place)
    return Attachment(name_of(place), report["path"], chosen, place.key, not rw, why, report["pid"])


def _by_another(place: StateDirectory, wanted: State) -> Attachment:
    """Attaches by a way whose devices others serve."""
    try:
        known = replace(wanted, path=way(wanted.via).attach(place, read_only=wanted.read_only))
        place.write(known)
    except BaseException:
        with suppress(OSError):
            _clean_up(place, wanted)
        raise
    return _attachment(place, known)


def _attachment(place: StateDirectory, known: State) -> Attachment:
    return Attachment(
        name_of(place), known.path, known.via, known.config, known.read_only, known.why, known.pid
    )


def _again(place: StateDirectory, known: State, via: str, rw: bool) -> bool:
    """True if the device of a keeper that died is there and can be served again as it is now wanted."""
    found = way(known.via)
    wanted = via in ("auto", known.via) and known.read_only is not rw
    return wanted and found.can_be_served_again(known) and bool(found.find(place))


def detach_image(name: str) -> bool:
    """See `obd.attach.detach`."""
    place = _named(name)
    if place is None:
        if _is_device(name):
            raise ObdError("denied", "not a device that obd has attached (see obd list)", name)
        return False
    with until_ended(place):
        if not _end(place):
            return True  # the keeper has done it all
    try:
        known = place.read()
        if known is None:
            return False
        _clean_up(place, known)
    finally:
        place.release()
    if known.error:
        raise ObdError("io", f"the last writes may be lost: {known.error}", known.config)
    return True


def _is_device(name: str) -> bool:
    try:
        return stat.S_ISBLK(os.stat(name).st_mode)
    except OSError:
        return False


def _named(name: str) -> StateDirectory | None:
    real = os.path.realpath(name)
    for place in state_directories(KIND):
        if name == name_of(place) or real == place.key:
            return place
        known = place.read()
        # A device may be somebody else's by now.
        if known is not None and real == known.path and way(known.via).is_ours(place, real):
            return place
    return None


def _end(place: StateDirectory) -> bool:
    """Has the keeper end, if there is one, and takes the lock. False if the state is gone by then."""
    asked_at = float("-inf")
    deadline = time.monotonic() + FLUSH_TIMEOUT_S
    pause_s = 0.002
    while True:
        acquired = place.acquire_existing()
        if acquired is not False:
            return acquired is True
        known = place.read()
        if known is not None and known.path and known.pid:
            # It goes on if somebody has come to use the device meanwhile; asking again tells who.
            if time.monotonic() > asked_at + LET_GO_S and way(known.via).is_ours(place, known.path):
                with suppress(FileNotFoundError):  # taken away this moment
                    _look_for_users(known, asked=asked_at > 0)
                _ask_to_end(place, known.pid)
                asked_at = time.monotonic()
        elif known is not None and way(known.via).kept:
            raise ObdError("busy", "just being attached by another process", place.key)
        if time.monotonic() > deadline:
            raise ObdError(
                "timed-out", f"not flushed after {FLUSH_TIMEOUT_S:g} s; see {place.log}", place.key
            )
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 0.1)


def _look_for_users(known: State, *, asked: bool) -> None:
    """Raises `ObdError` of kind "busy" if a device is in use. A keeper that was `asked` may have it still."""
    try:
        os.close(claim(known.path, besides=known.pid))
    except ObdError:
        # The keeper has it for itself while it writes back what is in memory, which may take long.
        if not asked or any(users_of(known.path, besides=known.pid)):
            raise


def _ask_to_end(place: StateDirectory, pid: int) -> None:
    """Sends SIGTERM to the keeper, and to no other process that got its number meanwhile."""
    with suppress(ProcessLookupError):
        fd = os.pidfd_open(pid)
        try:
            if _has_lock(place, pid):
                signal.pidfd_send_signal(fd, signal.SIGTERM)
        finally:
            os.close(fd)


def _has_lock(place: StateDirectory, pid: int) -> bool:
    """Whether it is that process who holds the lock, and not one who looks at what another left."""
    name = os.path.join(place.path, "lock")
    try:
        for link in Path("/proc", str(pid), "fd").iterdir():
            with suppress(OSError):  # other files are not looked at: that may hang (a dead file server)
                if os.readlink(link).endswith("/lock") and os.path.samestat(os.stat(link), os.stat(name)):
                    return True
    except FileNotFoundError:
        pass  # it has just ended
    except PermissionError:  # root without CAP_SYS_PTRACE: then whoever it is
        held = place.acquire_existing() is False
        place.release()
        return held
    return False


def list_attachments() -> list[Attachment]:
    """See `obd.attach.attachments`."""
    return list(_listed())


def find_attachment(config: str) -> Attachment | None:
    """See `obd.attach.find`."""
    return _look(StateDirectory(KIND, os.path.realpath(config)))


def abandon_attachment(config: str) -> None:
    """See `obd.attach.abandon`."""
    place = StateDirectory(KIND, os.path.realpath(config))
    if place.read() is None or not _acquire(place):
        return
    try:
        known = place.read()
        if known is not None and known.via == "fuse" and known.path:
            from obd.attach import loop

            descriptor = os.open(known.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                loop.detach(descriptor)  # now, or with its last user
            finally:
                os.close(descriptor)
            way(known.via).clear(place)
            place.remove()
    finally:
        place.release()


def _listed() -> Iterator[Attachment]:
    for place in state_directories(KIND):
        if (found := _look(place)) is not None:
            yield found


def _look(place: StateDirectory) -> Attachment | None:
    known = place.read()
    if known is None:
        return None
    found: Attachment | None = _attachment(place, known)
    deadline = time.monotonic() + LOOKED_AT_S
    while (acquired := place.acquire_existing()) is False and not _lives(known.pid):
        if time.monotonic() > deadline:
            break
        time.sleep(0.005)  # somebody else looks
    if acquired:
        try:
            found = _unkept(place, known)
        finally:
            place.release()
    return found if found is not None and found.path else None


def _unkept(place: StateDirectory, known: State) -> Attachment | None:
    """The attachment, if it is there although no process keeps it; else what is left of it is removed."""
    by = way(known.via)
    path = by.find(place)
    if path and not by.kept:
        return replace(_attachment(place, known), path=path, dead=not by.is_served())
    if path and by.outlives:
        return replace(_attachment(place, known), dead=True)
    try:
        _clean_up(place, known, patience_s=0)
        return None
    except OSError:
        return replace(_attachment(place, known), path=path, dead=True)


def _clean_up(place: StateDirectory, known: State, *, patience_s: float = PATIENCE_S) -> None:
    """Removes what a keeper left that did not end in order. The lock must be held; it is released.

    Raises `ObdError` if the device is in use; then it stays.
    """
    left = way(known.via)
    if path := left.find(place):
        left.take_away(place, path, patience_s=patience_s)
    left.clear(place)
    place.remove()
    place.release()
