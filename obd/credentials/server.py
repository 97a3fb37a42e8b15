"""What the modes `http`, `https` and `uds` have in common: the question, the answer, the time it takes."""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, Final
from urllib.parse import quote

from obd.config.errors import ConfigError
from obd.config.strict_json import parse_object
from obd.credentials.credential import Credential
from obd.credentials.document import match, place_of, unusable
from obd.credentials.memory import Answer, Memory
from obd.credentials.source import LookupFailed, Source, log

# An answer may be the credentials of a whole site; more is no answer.
MAX_BODY_BYTES: Final = 1 << 20
# Requests under way at a time, those included that are given up and yet hang.
MAX_REQUESTS: Final = 8


class ServerCredentials(Source):
    """Base of the sources that are asked over HTTP. `raw_url`: the blob's URL is sent as it stands."""

    def __init__(self, name: str, *, timeout_s: float, raw_url: bool) -> None:
        super().__init__(name)
        self._timeout_s = timeout_s
        self._raw_url = raw_url
        self._slots = threading.BoundedSemaphore(MAX_REQUESTS)
        # By registry and repository: a server that is asked once for each layer of an image learns no more.
        self._memory: Memory[Credential | None] = Memory()

    def fetch(self, query: str) -> tuple[int, bytes]:
        """Status and body, of at most `MAX_BODY_BYTES` + 1, of a GET with `query` (`remote_url=…`).

        Raises `OSError`, or `LookupFailed` with the cause.
        """
        raise NotImplementedError

    def ask(self, blob_url: str) -> Credential | None:
        """As `Source.ask`."""
        return self._memory.get([place_of(blob_url)], lambda: Answer(self._ask(blob_url)))

    def forget(self, blob_url: str) -> None:
        """As `CredentialSource.forget`."""
        self._memory.forget([place_of(blob_url)])

    def _ask(self, blob_url: str) -> Credential | None:
        blob_url = blob_url.lstrip("/")
        query = "remote_url=" + (blob_url if self._raw_url else quote(blob_url, safe=""))
        auths = auths_in(*self._in_time(lambda: self.fetch(query)))
        for line in unusable(auths):
            self.remark(line)
        return match(auths, blob_url)

    def _in_time(self, fetch: Callable[[], tuple[int, bytes]]) -> tuple[int, bytes]:
        """What `fetch` returns, if it does in time.

        It runs in a thread of its own: neither a name server nor a body that trickles heeds a time limit.
        """
        if not self._slots.acquire(timeout=self._timeout_s):
            raise LookupFailed("too many requests without an answer")
        result: Future[tuple[int, bytes]] = Future()

        def work() -> None:
            try:
                result.set_result(fetch())
            except BaseException as error:  # it is raised where the answer is waited for
                result.set_exception(error)
            finally:
                self._slots.release()

        threading.Thread(target=work, name="credentials", daemon=True).start()
        try:
            return result.result(self._timeout_s)
        except TimeoutError:
            raise LookupFailed(f"no answer within {self._timeout_s:g} s") from None
        except OSError as error:
            raise LookupFailed(error.strerror or type(error).__name__) from None


def auths_in(status: int, body: bytes) -> Mapping[str, Any]:
    """The entries in the answer of a credential server. Raises `LookupFailed`."""
    if status != 200:
        raise LookupFailed(f"answered with status {status}")
    if len(body) > MAX_BODY_BYTES:
        raise LookupFailed(f"answered with more than {MAX_BODY_BYTES} bytes")
    try:
        answer = parse_object(body, "")
    except ConfigError as error:
        raise LookupFailed(f"its answer is of no use: {error.what}") from None
    log.debug("credentials: traceId %.100r", answer.get("traceId"))
    if answer.get("success") is not True:
        raise LookupFailed("its answer does not say success")
    data = answer.get("data")
    auths = data.get("auths") if isinstance(data, dict) else None
    if not isinstance(auths, dict):
        raise LookupFailed("its answer has no object data.auths")
    return auths
