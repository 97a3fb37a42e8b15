"""What a scenario is: a registry that does one thing wrong, and what comes of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.e2e.faults.site import Action, Site

# The open device is read here: far from the parts of the layer that opening it has fetched already.
FAR = 2_300_000


@dataclass(frozen=True)
class Right:
    """The right bytes. `note`: what else there is to say about it."""

    note: str = ""


@dataclass(frozen=True)
class Fails:
    """One error of that kind, whose line names the blob and holds all of `says`. `{url}` is its URL."""

    kind: str
    says: tuple[str, ...]
    note: str = ""


Outcome = Right | Fails
RIGHT = Right()


def fails(kind: str, *says: str, note: str = "") -> Fails:
    """As `Fails`."""
    return Fails(kind, says, note)


@dataclass(frozen=True)
class Scenario:
    """One row of the table.

    `fault` is what `part` of the site does: `times` times and then no more (with the outcome `once`,
    None: not tried), and without end (`lasting`). In place of it, for what is no answer to a request,
    `breaks` breaks the site for a while or (true) for good. `site` are options of `Site`; `prepare`
    changes it before the image is opened and returns what the service configuration says besides. `when`:
    "open" has the fault from the start, "read" once the image is open; then `offset` is read.
    """

    name: str
    fault: Action | None = None
    once: Outcome | None = RIGHT
    lasting: Outcome | None = None
    part: str = "blob"
    times: int = 2
    site: Mapping[str, Any] = field(default_factory=dict)
    prepare: Callable[[Site], Mapping[str, Any] | None] | None = None
    breaks: Callable[[Site, bool], None] | None = None
    offset: int = FAR
    when: tuple[str, ...] = ("open", "read")
    # What a line of the log holds too, as `Site.shown` spells it.
    logs: str = ""
    # How many requests the failing read of an open image costs (0: any number).
    requests: int = 0
    # Whether no attempt counts as failed.
    free: bool = False
    # Whether all is right as soon as the site is.
    heals: bool = True

    def start(self, site: Site, lasting: bool) -> None:
        """From now on things go wrong."""
        if self.breaks:
            self.breaks(site, lasting)
        if self.fault:
            script = site.scripts[self.part]
            script.seen = 0
            if lasting:
                script.lasting = self.fault
            else:
                script.faults = [self.fault] * self.times


@dataclass(frozen=True)
class Section:
    """Scenarios of one kind, under one heading of the document."""

    title: str
    about: str
    scenarios: tuple[Scenario, ...]
