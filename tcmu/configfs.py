"""Backstores in configfs: made, removed, and told to wait while nobody serves them."""

import errno
import hashlib
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tcmu.lookup import open_cached, open_inside

TARGET = Path("/sys/kernel/config/target")

# The kernel cuts what is longer, without a word.
MAX_NAME_BYTES = 127
MAX_CONFIG_BYTES = 255

# A program that serves devices and is just being started asks for a moment (EAGAIN), or has died (EINTR).
# The kernel itself fails with EEXIST while another device is being removed: it gives out numbers too early.
ENABLE_AGAIN = (errno.EAGAIN, errno.EINTR, errno.EEXIST)
ENABLE_PATIENCE_S = 10.0
RETRY_S = 0.05

# Attempts to make a directory in one that others remove when it is empty.
_ATTEMPTS = 100

# What `wwn/vpd_unit_serial` says before the serial number.
SERIAL_PREFIX = "T10 VPD Unit Serial Number: "


@dataclass(frozen=True)
class Backstore:
    """A disk of the kernel's target that a program serves: `core/user_HBA/NAME` in configfs."""

    hba: int
    name: str

    def __str__(self) -> str:
        return f"user_{self.hba}/{self.name}"

    @property
    def directory(self) -> Path:
        """Its directory, whether it is there or not."""
        return TARGET / "core" / str(self)

    def create(
        self,
        config: str,
        *,
        block_bytes: int = 512,
        data_area_mib: int | None = None,
        ring_mib: int | None = None,
        attributes: Mapping[str, int] | None = None,
    ) -> None:
        """Makes and enables it: returns when it is served. `config` is subtype, slash, and what to serve.

        The kernel sets `ring_mib` aside at once, 8 if nothing is said; of `data_area_mib` what is in use.
        `attributes` are set before anything can use them: some, such as `cmd_time_out` (seconds, 0 for none),
        cannot be set once there is a LUN. Aborted commands are told of where the kernel can do that. Errors:
        `ValueError` for a name or configuration that the kernel would misunderstand; `OSError`, with the
        errno that the serving program gives: nothing is left then.
        """
        self._check(config)
        self._make()
        try:
            for key, value in (
                ("dev_config", config),
                ("hw_block_size", block_bytes),
                ("max_data_area_mb", data_area_mib),
                ("cmd_ring_size_mb", ring_mib),
            ):
                if value is not None:
                    write(self.directory / "control", f"{key}={value}")
            aborts = (self.directory / "attrib/tmr_notification").exists()  # since Linux 5.10
            for key, value in {**({"tmr_notification": 1} if aborts else {}), **(attributes or {})}.items():
                write(self.directory / "attrib" / key, str(value))
            patiently(lambda: write(self.directory / "enable", "1"))
        except BaseException:
            with suppress(OSError):
                self.remove()
            raise

    def _make(self) -> None:
        for attempt in range(1, _ATTEMPTS + 1):
            self.directory.parent.mkdir(exist_ok=True)
            try:
                self.directory.mkdir()
                return
            except FileNotFoundError:  # whoever removed the last one in there has removed that too
                if attempt == _ATTEMPTS:
                    raise

    def remove(self) -> None:
        """Removes it, if it is there. `OSError` with EBUSY while a LUN uses it.

        Waits, without a limit, until the program that serves it says yes.
        """
        rmdir(self.directory)
        with suppress(OSError):
            rmdir(self.directory.parent)  # unless it holds others

    def block(self) -> None:
        """Keeps commands from the ring from now on: the kernel lets initiators wait."""
        self._act("block_dev", 1)

    def unblock(self) -> None:
        """Lets commands through again."""
        self._act("block_dev", 0)

    def reset_ring(self) -> None:
        """Empties the ring; its commands go out again later. Only while blocked, and before it is opened."""
        self._act("reset_ring", 1)

    def enabled(self) -> bool:
        """Whether it can be used: nobody waits for its creation or removal just now. Does not wait itself."""
        with suppress(FileNotFoundError):
            directory = open_cached(TARGET / "core", str(self), os.O_PATH | os.O_DIRECTORY)
            try:
                if os.fstat(directory).st_nlink == 0:
                    return False  # it is gone but for the reply
            finally:
                os.close(directory)
            try:
                # Who creates it has the file open, and one that nobody has open is not at hand.
                enable = open_cached(TARGET / "core", f"{self}/enable", os.O_RDONLY)
            except FileNotFoundError:
                return True
            with open(enable, "rb") as file:
                return file.read().strip() == b"1"
        return False

    def block_bytes(self) -> int:
        """Bytes of a sector."""
        return int(self.read("attrib", "hw_block_size"))

    def read(self, directory: str, name: str) -> str:
        """What the file `name` in one of its directories says. For who serves it: waits for no removal."""
        descriptor = open_inside(TARGET / "core", f"{self}/{directory}", name, os.O_RDONLY)
        with open(descriptor, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()

    def _act(self, action: str, value: int) -> None:
        descriptor = open_inside(TARGET / "core", f"{self}/action", action, os.O_WRONLY)
        _write(descriptor, self.directory / "action" / action, str(value))

    def _check(self, config: str) -> None:
        if not 0 < len(os.fsencode(self.name)) <= MAX_NAME_BYTES or "/" in self.name:
            raise ValueError(f"{self.name!r} will not do as the name of a backstore")
        if len(os.fsencode(config)) > MAX_CONFIG_BYTES or set(config) & {",", "\n", "\0"}:
            what = f"at most {MAX_CONFIG_BYTES} bytes, no comma and no line break"
            raise ValueError(f"{config!r} cannot be the configuration of a backstore: {what}")


def serial(backstore: Backstore) -> str:
    """The serial number of a backstore: what configfs has been told, else one that no other backstore has."""
    told = ""
    with suppress(OSError):
        told = backstore.read("wwn", "vpd_unit_serial").strip()
    if number := told.removeprefix(SERIAL_PREFIX.strip()).strip():
        return number
    return hashlib.sha256(f"{backstore.hba}/{backstore.name}".encode(errors="surrogateescape")).hexdigest()[
        :32
    ]


def write(path: Path, value: str) -> None:
    """Writes a value by one system call; an error names the file and the value."""
    _write(os.open(path, os.O_WRONLY | os.O_CLOEXEC), path, value)


def _write(descriptor: int, path: Path, value: str) -> None:
    try:
        os.write(descriptor, os.fsencode(value))
    except OSError as e:
        raise OSError(e.errno, f"writing {value!r}: {e.strerror}", str(path)) from e
    finally:
        os.close(descriptor)


def rmdir(path: Path) -> None:
    """Removes a directory, if it is there."""
    with suppress(FileNotFoundError):
        path.rmdir()


def patiently(enable: Callable[[], None]) -> None:
    """Enables, again and again while it is said to be for the moment only that it cannot be done."""
    deadline = None
    while True:
        try:
            return enable()
        except OSError as e:
            # An attempt may have been waited for: time counts from the first refusal on.
            deadline = deadline or time.monotonic() + ENABLE_PATIENCE_S
            if e.errno not in ENABLE_AGAIN or time.monotonic() > deadline:
                raise
        time.sleep(RETRY_S)
