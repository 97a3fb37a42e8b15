"""What is missing on this machine for images to be used, and how to mend it. Looks only; changes nothing."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

Status = Literal["ok", "warning", "problem"]

AREAS: Final = ("kernel", "rights", "daemon", "configuration", "disk", "registry", "clock", "limits")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of what was found: `area` is one of `AREAS`, `fix` what to do about it ("" if nothing).

    A problem keeps images, or what was asked about, from being used; a warning does not, or not yet.
    """

    status: Status
    area: str
    what: str
    fix: str = ""


def examine(
    images: Sequence[str | os.PathLike[str]] = (), service: str | os.PathLike[str] | None = None
) -> list[Finding]:
    """Looks at everything, and at the image configurations given with the registries that they name.

    `service` is the path of a service configuration, None that of the host. Takes half a minute at most.
    """
    from obd.doctor.examine import examine_all

    return examine_all([os.fspath(image) for image in images], os.fspath(service) if service else None)
