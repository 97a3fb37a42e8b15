"""Images as disks of the kernel's ublk driver: added, listed, served again after a crash, removed.

A disk is an attachment (`obd.attach`) by the way "ublk": a background process serves it, which may die and be
replaced under the users of the disk.
"""

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Disk:
    """A ublk device of this machine.

    `state`: "live"; "dead" if its server died, and users wait for `recover`; "stopped" if there is no disk,
    not yet or not any more. `config` is "" for one that is not ours. `pid` is its server's, 0 without one.
    """

    number: int
    path: str
    state: str
    config: str
    read_only: bool
    size_bytes: int
    queues: int
    depth: int
    pid: int


def add(
    config: str | os.PathLike[str],
    *,
    number: int | None = None,
    service: str | os.PathLike[str] | None = None,
    read_only: bool | None = None,
    queues: int = 0,
    depth: int = 0,
) -> str:
    """Makes a disk of the image that the configuration file `config` describes; its path, `/dev/ublkbN`.

    `number` is N, None any that is free. It is writable if the image has an upper, unless `read_only`.
    `service` is the path of a service configuration, None that of the host. `queues` are hardware queues (0:
    as many as processors, up to four), `depth` the requests of each (0: 128). If the process that served
    the same image has died, its disk is served again.

    Raises `obd.errors.ObdError`: "exists" if the image is attached already, "unsupported" without the driver,
    and what opening the image raises. Then nothing is left behind.
    """
    from obd.ublk.control import add_disk

    where = os.fspath(service) if service is not None else None
    settings = {"number": -1 if number is None else number, "queues": queues, "depth": depth}
    return add_disk(os.fspath(config), where, read_only, settings)


def remove(number: int, *, force: bool = False) -> None:
    """Takes a disk away; returns when all that was written to it is durable.

    Raises `obd.errors.ObdError`: "busy", and who uses it, if it is in use, unless with `force`: then its
    users get errors; "not-found" if there is none; "denied" if another living program serves it; "io" if the
    last writes may be lost.
    """
    from obd.ublk.control import remove_disk

    remove_disk(number, force)


def recover(number: int) -> str:
    """Serves a disk again whose server has died, as it was; what was under way is carried out. Its path.

    Raises `obd.errors.ObdError`: "busy" if it is served, "not-found" if there is no such disk of ours, and
    what opening the image raises; then users go on waiting.
    """
    from obd.ublk.control import recover_disk

    return recover_disk(number)


def devices() -> list[Disk]:
    """All ublk devices of this machine, in the order of their numbers. None without the driver."""
    from obd.ublk.control import list_disks

    return list_disks()
