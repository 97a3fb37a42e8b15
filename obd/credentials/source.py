"""What sources share: a failure becomes anonymous access, one line in the log, and words in `describe`."""

import logging
import threading
from typing import Final

from obd.credentials.credential import Credential, CredentialSource
from obd.credentials.document import place_of

log: Final = logging.getLogger("overlaybd.credentials")

# Failures that are kept to tell old from new: hosts times what can be wrong with them.
MAX_FAILURES: Final = 64


class LookupFailed(Exception):
    """A source could not say; `str()` is why, in one line that holds no secret."""


class Source(CredentialSource):
    """Base of the sources that ask something else. They answer in `ask`, and may fail there.

    `name` says in messages which source this is.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._lock: Final = threading.Lock()
        self._failures: dict[str, str] = {}
        self._remarks: set[str] = set()

    def ask(self, blob_url: str) -> Credential | None:
        """The credential for a blob, None for anonymous access. Raises `LookupFailed`."""
        raise NotImplementedError

    def lookup(self, blob_url: str) -> Credential | None:
        """As `CredentialSource.lookup`."""
        place = place_of(blob_url)
        try:
            credential = self.ask(blob_url)
        except LookupFailed as failure:
            self.complain(place, str(failure))
        except Exception as error:  # nothing that a source meets may end a read
            # Not the text: it may quote what the source said.
            self.complain(place, f"internal error: {type(error).__name__}")
        else:
            with self._lock:
                self._failures.pop(place, None)
            return credential
        return None

    def describe(self) -> str:
        """As `CredentialSource.describe`."""
        with self._lock:
            failure = next(reversed(self._failures.values()), "")
        return f"{self.name} (failed: {failure})" if failure else self.name

    def remark(self, what: str) -> None:
        """Logs, once, a failure that was got round."""
        with self._lock:
            known = what in self._remarks
            if len(self._remarks) >= MAX_FAILURES:
                self._remarks.clear()
            self._remarks.add(what)
        if not known:
            log.warning("credentials: %s: %s", self.name, what)

    def complain(self, place: str, what: str) -> None:
        """Logs that looking up for `place` failed, unless the same is known already."""
        with self._lock:
            known = what in self._failures.values()
            self._failures.pop(place, None)
            if len(self._failures) >= MAX_FAILURES:
                self._failures.clear()
            self._failures[place] = what
        if not known:
            log.warning("credentials: %s: %s; access is anonymous", self.name, what)
