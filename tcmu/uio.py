"""The UIO devices of TCMU backstores: which there are, and of what."""

from dataclasses import dataclass
from pathlib import Path

from tcmu.configfs import Backstore

CLASS = Path("/sys/class/uio")
PREFIX = "tcm-user"


@dataclass(frozen=True)
class Device:
    """The ring of a backstore: `/dev/uioMINOR`. `config` is its `dev_config`: subtype, slash, rest."""

    minor: int
    backstore: Backstore
    config: str

    @classmethod
    def parse(cls, minor: int, name: str) -> "Device":
        """The device of this name, `tcm-user/HBA/BACKSTORE/CONFIG`. `ValueError` for another kind of name."""
        prefix, hba, backstore, *config = name.split("/", 3)
        if prefix != PREFIX or not hba.isascii() or not hba.isdigit() or not backstore or not config:
            raise ValueError(f"{name!r} is no name of a TCMU device")
        return cls(minor, Backstore(int(hba), backstore), config[0])

    @property
    def path(self) -> str:
        """The device node."""
        return f"/dev/uio{self.minor}"

    @property
    def subtype(self) -> str:
        """Who serves it. The kernel does not care; programs that serve devices tell their own by it."""
        return self.config.partition("/")[0]

    @property
    def argument(self) -> str:
        """What is to be served: all behind the subtype and its slash."""
        return self.config.partition("/")[2]


def devices(subtype: str) -> list[Device]:
    """The devices of a subtype that exist, by number."""
    found = []
    for entry in CLASS.glob("uio*"):
        try:
            device = Device.parse(int(entry.name.removeprefix("uio")), _name(entry))
        except (ValueError, OSError):
            continue  # another driver's, or removed this moment
        if device.subtype == subtype:
            found.append(device)
    return sorted(found, key=lambda device: device.minor)


def _name(entry: Path) -> str:
    """What the kernel calls a UIO device."""
    return (entry / "name").read_bytes().decode(errors="surrogateescape").removesuffix("\n")
