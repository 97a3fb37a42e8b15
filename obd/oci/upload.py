"""A blob into a repository: at once if it is small, else in parts, each of which may be sent again."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Final

from obd.abroad import is_abroad
from obd.errors import ObdError
from obd.oci.body import Body, Part
from obd.oci.patience import ATTEMPTS, Answer, ask, number, passes, pause_s, refusal
from obd.redirect import follow, origin
from obd.registry import PUSH
from obd.secret import without_secrets

if TYPE_CHECKING:
    from obd.oci.descriptor import Descriptor
    from obd.oci.protocols import Progress
    from obd.oci.repository import Repository

# Bytes of one PATCH; each begins with a token that is still good, whatever the length of the blob.
PART_BYTES: Final = 64 << 20
# The same of a stream, whose part is kept in memory until the registry has it.
STREAM_PART_BYTES: Final = 16 << 20
# Seconds to connect, and of silence: a registry may look at all of a large blob before it answers.
_TIMEOUTS_S: Final = (5.0, 120.0)
# What an upload is answered that is not there, or not as far as was thought.
_LOST: Final = (404, 416)


class Upload:
    """One blob on its way. `location` is where an upload has begun already.

    Raises `ObdError`: "denied", "io", "timed-out", "invalid" for answers that make no sense, and what the
    body raises; "io" and "timed-out" after some attempts.
    """

    def __init__(
        self,
        repository: Repository,
        blob: Descriptor,
        body: Body,
        *,
        part_bytes: int = PART_BYTES,
        progress: Progress | None = None,
        location: str = "",
    ) -> None:
        self._repository = repository
        self._blob = blob
        self._body = body
        self._part_bytes = part_bytes
        self._progress = progress
        self._location = location
        self._at = 0
        # What the content raised, which no other attempt mends.
        self._failure: OSError | None = None

    def run(self) -> None:
        """Sends it."""
        attempt, reached = 0, 0
        while True:
            try:
                return self._send_all()
            except OSError as error:
                attempt = 1 if self._at > reached else attempt + 1
                reached = max(reached, self._at)
                if error is self._failure or not passes(error) or attempt == ATTEMPTS:
                    self._give_up()
                    raise
                time.sleep(pause_s(attempt))
                # Maybe all had arrived, and only the answer had not.
                if self._is_there():
                    return None
                if not self._find_place():
                    self._give_up()
                    raise

    def _send_all(self) -> None:
        size = self._blob.size
        if not self._location:
            self._at = 0
            self._location = begin(self._repository)
        if size <= self._part_bytes and not self._at:
            return self._finish(size)
        while self._at < size:
            end = min(self._at + self._part_bytes, size)
            span = f"{self._at}-{end - 1}"
            answer = self._ask("PATCH", self._location, end, {"Content-Range": span})
            self._location, self._at = _next(answer), end
        return self._finish(size)

    def _finish(self, end: int) -> None:
        joint = "&" if "?" in self._location else "?"
        self._ask("PUT", f"{self._location}{joint}digest={self._blob.digest}", end, {})

    def _ask(self, method: str, url: str, end: int, headers: dict[str, str]) -> Answer:
        """Sends the bytes from where the upload is to `end`."""
        part = Part(self._body, self._at, end, self._blob.size, self._progress)
        try:
            answer = ask(
                self._repository.registry,
                method,
                url,
                action=PUSH,
                headers={"Content-Type": "application/octet-stream", **headers},
                data=part if len(part) else b"",
                attempts=1,
                timeouts_s=_TIMEOUTS_S,
                anonymous=self._elsewhere(url),
                abroad=is_abroad(self._repository.url, url),
            )
        except ObdError:
            if part.failure:
                self._failure = part.failure
                raise part.failure from None
            raise
        if answer.status in _LOST:
            # The registry has another part of it, or none any more.
            raise ObdError("io", refusal(method, answer).what)
        if not 200 <= answer.status < 300:
            raise refusal(method, answer)
        return answer

    def _is_there(self) -> bool:
        try:
            return self._repository.blob_size(self._blob.digest) is not None
        except ObdError:
            return False

    def _find_place(self) -> bool:
        """Whether the upload can go on after a failure: from where it is, or from the beginning."""
        location, self._location = self._location, ""
        if not self._at:
            # Nothing is lost by a new upload, whose state nobody can doubt.
            return True
        if location:
            with contextlib.suppress(ObdError):
                answer = self._ask_once("GET", location)
                if _received(answer) == self._at:
                    self._location = _next(answer) if answer.header("Location") else location
                    return True
        return self._body.again

    def _give_up(self) -> None:
        if self._location:
            with contextlib.suppress(ObdError):
                self._ask_once("DELETE", self._location)

    def _ask_once(self, method: str, url: str) -> Answer:
        registry, anonymous = self._repository.registry, self._elsewhere(url)
        abroad = is_abroad(self._repository.url, url)
        return ask(registry, method, url, action=PUSH, attempts=1, anonymous=anonymous, abroad=abroad)

    def _elsewhere(self, url: str) -> bool:
        """Whether the registry has sent us to another one: it must not lend itself our rights there."""
        return origin(url) != origin(self._repository.url)


def begin(repository: Repository) -> str:
    """Where a new upload goes."""
    answer = ask(repository.registry, "POST", f"{repository.url}/blobs/uploads/", action=PUSH, data=b"")
    if not 200 <= answer.status < 300:
        raise refusal("POST", answer)
    return _next(answer)


def mount(repository: Repository, blob: Descriptor, other: str) -> str | None:
    """Has the registry take a blob from the repository `other`; None if it did, else where to upload it.

    Raises `ObdError` as `begin`.
    """
    url = f"{repository.url}/blobs/uploads/?mount={blob.digest}&from={other}"
    answer = ask(repository.registry, "POST", url, action=PUSH, data=b"", mount_from=other)
    if answer.status == 201:
        return None
    if not 200 <= answer.status < 300:
        raise refusal("POST", answer)
    return _next(answer)


def _next(answer: Answer) -> str:
    """Where an upload goes on."""
    found = follow(answer.url, answer.header("Location"), answer.url)
    if found is None:
        raise ObdError("invalid", f"{without_secrets(answer.url)}: upload without Location")
    return found.url


def _received(answer: Answer) -> int | None:
    """The bytes that a registry says it has of an upload."""
    first, _, last = answer.header("Range").removeprefix("bytes=").partition("-")
    end = number(last)
    if answer.status != 204 or first != "0" or end is None:
        return None
    # What has nothing says 0-0.
    return end + 1 if end else 0
