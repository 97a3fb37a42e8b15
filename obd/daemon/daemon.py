"""The daemon's loop: hears what the kernel announces, answers it, and looks after the rest now and then."""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from select import POLLIN, poll
from typing import TYPE_CHECKING, Final

import tcmu
from obd.daemon import limits
from obd.daemon.answer import Answer, Owed
from obd.daemon.handover import Doorbell, has_gone, refuse
from obd.daemon.notify import Notifier
from obd.daemon.reconcile import Reconciler
from obd.daemon.roster import Roster
from obd.daemon.served import Served
from obd.daemon.watch import Watch
from obd.observer import Observer

if TYPE_CHECKING:
    from obd.service import Service

_log: Final = logging.getLogger("overlaybd.tcmu")


class Daemon:
    """Serves all TCMU devices of a subtype. One process of a host may have one: `InstanceLock` sees to it."""

    def __init__(
        self, service: Service, *, subtype: str = "overlaybd", command: str = "overlaybd-tcmu"
    ) -> None:
        self.observer: Final = Observer(service, command)
        self.subtype: Final = subtype
        self.notifier: Final = Notifier()
        self.roster: Final = Roster(service, self.observer.overview)
        self._owed: Final = Owed()
        self._watch: Final = Watch()
        self._reconciler: Final = Reconciler(subtype, self.roster)
        self._events: Final = poll()
        self._wake: Final = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._calls: Final[list[Callable[[], None]]] = []
        self._stopping = False
        self._successor: socket.socket | None = None
        self._next_tick = self._next_look = 0.0

    def stop(self) -> None:
        """Ends `run` soon; for signal handlers and for other threads."""
        self.call(self._stop)

    def _stop(self) -> None:
        self.notifier.send("STOPPING=1")
        self._stopping = True

    def causes(self) -> list[str]:
        """Why not all is as it should be: a line for each device whose users wait for it."""
        return [f"{served.name}: {why}" for served in self.roster.all() if (why := served.failure)]

    @property
    def hangs(self) -> bool:
        """Whether something is still under way in threads that cannot be waited for."""
        return self.roster.busy

    def call(self, act: Callable[[], None]) -> None:
        """Has the loop do something; for signal handlers and for other threads."""
        self._calls.append(act)
        with suppress(BlockingIOError):
            os.write(self._wake[1], b"\0")

    def open(self) -> None:
        """Begins to hear the kernel, and to take over what there is. `run` has to follow soon.

        Raises `OSError` if the kernel, or the next daemon, cannot be heard.
        """
        self._doorbell = Doorbell()
        with tcmu.quiet():
            self._link = tcmu.Link()
            found = tcmu.devices(self.subtype)
        for source in (self._link, self._doorbell, self._wake[0]):
            self._events.register(source, POLLIN)
        for device in found:
            self.roster.take_over(device)

    def run(self) -> None:
        """Serves until `stop`; then leaves the devices so that the next daemon can take them over.

        Raises `OSError` if the kernel cannot be heard any more.
        """
        with self._link:
            self._until(lambda: self._stopping or self.roster.idle, limits.READY_S)
            self.notifier.send("READY=1")
            _log.info("ready; %d devices", len(self.roster.all()))
            while not self._stopping:
                self._until(lambda: self._stopping or self._successor is not None)
                self._stopping |= self._gives_place()
            self._leave()
        self._doorbell.close()
        self.notifier.close()
        _log.info("ended")

    def _gives_place(self) -> bool:
        """Whether the next daemon may take the place of this one, if there is one that asks for it."""
        if self._successor is None:
            return False
        _log.info("another daemon asks for the place of this one")
        still, why = self.roster.stand_still(), ""
        if not self._until(lambda: still.reached, limits.HANDOVER_S):
            why = still.what_moves()
        elif has_gone(self._successor):
            why = "it has gone"
        if why:
            still.end()
            tcmu.unhold()  # it may have been killed before it could
            _log.warning("no other daemon takes the place of this one: %s", why)
            refuse(self._successor, why)
            self._successor = None
        return not why

    def _leave(self) -> None:
        self._stopping = True
        still = self.roster.stand_still()
        if not self._until(lambda: still.reached, limits.DRAIN_S):
            _log.warning("left to be done by the next daemon: %s", still.what_moves())
        self.roster.leave()
        if not self._until(lambda: self.roster.idle, limits.CLOSE_LIMIT_S):
            _log.error("some devices could not be closed in %g s", limits.CLOSE_LIMIT_S)
        # Late, since creators try again for some seconds only: they are to meet the next daemon. Others are
        # not left waiting for it: there may be none.
        unread = [Answer(self._link, event, 0) for event in self._link.leave() if self._concerns(event)]
        for answer in self._owed.waiting() + unread:
            answer.give(0 if answer.event.change is tcmu.Change.REMOVED else errno.EAGAIN)

    def _until(self, done: Callable[[], bool], limit_s: float = float("inf")) -> bool:
        """Runs the loop until something is so; False if it is not in time."""
        end = time.monotonic() + limit_s
        pause_s = limits.TICK_S if limit_s == float("inf") else 0.01
        while not done():
            if time.monotonic() > end:
                return False
            self._events.poll(1000 * pause_s)
            with suppress(BlockingIOError):
                os.read(self._wake[0], 4096)
            while self._calls:
                guarded(self._calls.pop(0))
            if asker := self._doorbell.answer():
                if self._successor is None:
                    self._successor = asker
                else:
                    refuse(asker, "it is asked by another one already")
            for event in self._link.receive():
                if self._concerns(event):
                    self._deal_with(event)
            if time.monotonic() >= self._next_tick:
                self._next_tick = time.monotonic() + limits.TICK_S
                guarded(self._tick)
        return True

    def _tick(self) -> None:
        self._owed.check()
        self.roster.retry()
        devices = self.roster.all()
        slow = self._watch.look(devices)
        if time.monotonic() >= self._next_look and not self._stopping:
            self._next_look = time.monotonic() + limits.RECONCILE_S
            self._reconciler.look({answer.event.device.minor for answer in self._owed.waiting()})
        serving = sum(served.ring is not None for served in devices)
        self.notifier.status(
            f"{serving} devices"
            + (f", {len(devices) - serving} being opened" if serving < len(devices) else "")
            + (f", {slow} with slow requests" if slow else "")
        )
        self.notifier.alive()

    def _concerns(self, event: tcmu.Event) -> bool:
        return event.device.subtype == self.subtype

    def _deal_with(self, event: tcmu.Event) -> None:
        """Takes care that an event is answered."""
        answer = Answer(self._link, event, self._limit_s(event))
        try:
            match event.change:
                case tcmu.Change.ADDED if self._stopping:
                    answer.give(errno.EAGAIN)
                case tcmu.Change.ADDED:
                    served = self.roster.add(event.device, answer)
                    self._owed.add(answer, partial(self._open_is_overdue, served))
                case tcmu.Change.REMOVED:
                    self._owed.add(answer, self._close_is_overdue)
                    self.roster.remove(event.device, answer)
                case tcmu.Change.RECONFIGURED if event.size_bytes is not None:
                    self._owed.add(answer, lambda answer: answer.give(errno.ETIMEDOUT))
                    self.roster.resize(event.device, event.size_bytes, answer)
                case _:
                    answer.give(errno.EOPNOTSUPP)
        except Exception:
            _log.exception("%s: cannot deal with its announcement", event.device.backstore)
            answer.give(errno.EIO)

    def _limit_s(self, event: tcmu.Event) -> float:
        """How long the kernel may wait for the answer."""
        match event.change:
            case tcmu.Change.ADDED:
                return limits.OPEN_LIMIT_S
            case tcmu.Change.REMOVED:
                is_open = self.roster.is_open(event.device.minor)
                return limits.REMOVE_LIMIT_S if is_open else limits.REMOVE_UNOPENED_S
            case tcmu.Change.RECONFIGURED:
                return limits.RECONFIGURE_LIMIT_S

    def _open_is_overdue(self, served: Served, answer: Answer) -> None:
        self.roster.give_up(served, f"timed-out: not open after {limits.OPEN_LIMIT_S:g} s")
        answer.give(errno.ETIMEDOUT)

    def _close_is_overdue(self, answer: Answer) -> None:
        device = answer.event.device
        _log.error("%s: removed, and not closed yet", device.backstore)
        self.roster.set_free(device.minor)
        answer.give()


def guarded(act: Callable[[], object]) -> None:
    """Does something whose failure must not end the daemon."""
    try:
        act()
    except Exception:
        _log.exception("the daemon goes on after a failure")
