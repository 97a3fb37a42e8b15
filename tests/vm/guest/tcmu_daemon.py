"""A small daemon that serves images on TCMU devices: what the rooms below need beside them to be of use.

Run as a module it prints `ready`, then a line for each device that it begins or ceases to serve or refuses,
and each error. A device's configuration is `overlaybd/FILE`: JSON with `lowers` (paths), `upper` (paths of
data and index), `block` (a file for which opening waits until it is there) and `errno` (refuse with it).
"""

import errno
import json
import signal
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from select import poll

import tcmu
from obdcore import Error, Image, TcmuDevice

SUBTYPE = "overlaybd"
OPENERS = 32
DRAIN_S = 10.0


class Daemon:
    """Serves all devices of the subtype."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(OPENERS)
        self._served: dict[int, Future[TcmuDevice]] = {}  # by minor number
        self._devices: dict[int, tcmu.Device] = {}
        with tcmu.quiet():
            self._link = tcmu.Link()
            found = tcmu.devices(SUBTYPE)
        for device in found:
            self._serve(device, self._pool.submit(tcmu.take_over, device, serve))
        for device in found:
            try:
                self._served[device.minor].result()
                say("took over", device.backstore.name)
            except OSError as e:  # also one whose creation `quiet` has just ended: its creator tries again
                del self._served[device.minor], self._devices[device.minor]
                say("cannot take over", device.backstore.name, e)

    def run(self, stop: threading.Event) -> None:
        """Deals with events until told to stop."""
        events = poll()
        events.register(self._link, 1)
        while not stop.is_set():
            events.poll(100)
            for event in self._link.receive():
                if event.device.subtype == SUBTYPE:
                    self._deal_with(event)

    def stop(self) -> None:
        """Leaves the devices for the next daemon, with nothing under way."""
        for minor, served in self._served.items():
            self._devices[minor].backstore.block()
            say("left", self._devices[minor].backstore.name, served.result().stop(DRAIN_S))

    def _serve(self, device: tcmu.Device, served: Future[TcmuDevice]) -> None:
        self._served[device.minor] = served
        self._devices[device.minor] = device

    def _deal_with(self, event: tcmu.Event) -> None:
        device = event.device
        if event.change is tcmu.Change.ADDED:
            self._serve(device, self._pool.submit(self._add, event))
        elif event.change is tcmu.Change.REMOVED:
            served = self._served.pop(device.minor, None)
            del self._devices[device.minor]
            self._pool.submit(self._remove, event, served)
        else:
            self._link.reply(event, errno.EOPNOTSUPP)

    def _add(self, event: tcmu.Event) -> TcmuDevice:
        say("opening", event.device.backstore.name)
        try:
            served = serve(event.device)
        except OSError as e:
            say("refused", event.device.backstore.name)
            self._link.reply(event, e.errno or errno.EIO)
            raise
        self._link.reply(event)
        say("serves", event.device.backstore.name)
        return served

    def _remove(self, event: tcmu.Event, served: Future[TcmuDevice] | None) -> None:
        try:
            if served:
                served.result().stop()
        finally:
            self._link.reply(event)
            say("removed", event.device.backstore.name)


def serve(device: tcmu.Device) -> TcmuDevice:
    """Opens the image of a device, and begins to serve it."""
    wanted = json.loads(Path(device.argument).read_bytes())
    while "block" in wanted and not Path(wanted["block"]).exists():
        time.sleep(0.01)
    if "errno" in wanted:
        raise OSError(wanted["errno"], "as configured")
    image = Image(wanted["lowers"], wanted.get("upper") and tuple(wanted["upper"]))
    return TcmuDevice(
        image,
        device.path,
        serial=tcmu.serial(device.backstore),
        name=device.config,
        block_bytes=device.backstore.block_bytes(),
        on_error=report,
    )


def report(name: str, error: Error) -> None:
    """Says what failed."""
    say("error", name, error)


def say(*words: object) -> None:
    """A line for the test."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Serves until SIGTERM."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    daemon = Daemon()
    say("ready")
    daemon.run(stop)
    daemon.stop()


if __name__ == "__main__":
    main()
