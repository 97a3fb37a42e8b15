"""Bearer tokens: asked for once however many readers wait, and replaced before they expire."""

import json
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final, NamedTuple
from urllib.parse import urlencode, urlsplit

import requests

from obd.credentials import Credential
from obd.errors import ObdError, line_of
from obd.secret import without_secrets
from obd.session import read_body, send

_log: Final = logging.getLogger("overlaybd.registry")

# Life of a token that does not say, by the token specification; and the longest that is believed.
DEFAULT_LIFE_S: Final = 60.0
LONGEST_LIFE_S: Final = 24 * 3600.0
# A token is not used any more this much before its end, or after nine tenths of a short life.
MARGIN_S: Final = 10.0
# After this share of its use it is replaced in the background: no reader has to wait for the next one.
REFRESH_AT: Final = 0.75
# Seconds between attempts at that.
RETRY_S: Final = 5.0
# What an OAuth 2 token server is told that we are.
CLIENT_ID: Final = "overlaybd"
# Tokens kept: repositories times identities of one host, with room to spare.
MAX_TOKENS: Final = 4096
# Seconds that a reader waits for a request another one has under way.
WAIT_S: Final = 45.0


class TokenKey(NamedTuple):
    """What a token is for. Two registries, or two users of one, never get each other's.

    `scope` may be several, with a blank between them.
    """

    realm: str
    service: str
    scope: str
    credential: Credential | None
    # Whether nobody but the registry has named the realm's host.
    abroad: bool = False


@dataclass(frozen=True)
class Token:
    """A bearer token; times are those of the cache's clock, in seconds."""

    value: str = field(repr=False)
    since: float
    until: float

    @property
    def refresh_at(self) -> float:
        """When to ask for the next one."""
        return self.since + (self.until - self.since) * REFRESH_AT

    def header(self) -> str:
        """The value of an `Authorization` header."""
        return f"Bearer {self.value}"


class TokenCache:
    """The tokens of a process. `abroad` is for realms that only a registry has named; by default as others.

    `clock` tells seconds and never goes back.
    """

    def __init__(
        self,
        session: requests.Session,
        clock: Callable[[], float] = time.monotonic,
        *,
        abroad: requests.Session | None = None,
    ) -> None:
        self._session = session
        self._abroad = abroad or session
        self._clock = clock
        self._lock = threading.Lock()
        self._tokens: dict[TokenKey, Token] = {}
        self._pending: dict[TokenKey, Future[Token]] = {}
        self._refreshed: dict[TokenKey, float] = {}

    def get(self, key: TokenKey, *, instead_of: Token | None = None) -> Token:
        """A valid token: a kept one (unless that is `instead_of`), or a new one by one request.

        Raises `ObdError`: "denied" if the token server refuses, "io" or "timed-out" if it fails, "invalid" if
        it answers nonsense. All who wait for the same request get the same error.
        """
        with self._lock:
            token = self._tokens.get(key)
            pending = self._pending.get(key)
            now = self._clock()
            if token is not None and token != instead_of and now < token.until:
                due = now >= max(token.refresh_at, self._refreshed.get(key, now))
                if pending is None and due:
                    self._refreshed[key] = now + RETRY_S
                    self._refresh(key)
                return token
            mine = pending is None
            if pending is None:
                pending = self._pending[key] = Future()
        if mine:
            return self._obtain(key, pending)
        try:
            return pending.result(WAIT_S)
        except TimeoutError:
            raise ObdError("timed-out", f"token of {without_secrets(key.realm)}: no answer in time") from None

    def _refresh(self, key: TokenKey) -> None:
        """Asks for a token in a thread, one for a key at most. The lock is held."""
        pending = self._pending[key] = Future()

        def work() -> None:
            try:
                self._obtain(key, pending)
            except OSError as error:
                _log.warning("the next %s; the present one is used to its end", line_of(error))

        try:
            threading.Thread(target=work, name="obd-token", daemon=True).start()
        except RuntimeError:  # no more threads: readers will wait for the next token
            del self._pending[key]

    def _obtain(self, key: TokenKey, pending: Future[Token]) -> Token:
        try:
            token = self._request(key)
        except BaseException as error:
            with self._lock:
                del self._pending[key]
            pending.set_exception(error)
            raise
        with self._lock:
            if len(self._tokens) >= MAX_TOKENS:
                self._tokens.clear()
                self._refreshed.clear()
            self._tokens[key] = token
            self._refreshed.pop(key, None)
            del self._pending[key]
        pending.set_result(token)
        return token

    def age_s(self, token: Token) -> float:
        """Seconds since `token` was asked for."""
        return self._clock() - token.since

    def _request(self, key: TokenKey) -> Token:
        where = f"token of {without_secrets(key.realm)}"
        query = [(name, value) for name, value in (("service", key.service), ("scope", key.scope)) if value]
        since = self._clock()
        session = self._abroad if key.abroad else self._session
        if key.credential and key.credential.identity_token:
            # The token comes in the body and goes in the body: no URL or log of a server holds it.
            form = [("grant_type", "refresh_token"), ("client_id", CLIENT_ID), *query]
            data = urlencode([*form, ("refresh_token", key.credential.identity_token)])
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            response = send(session, "POST", key.realm, headers=headers, data=data)
        else:
            # In a URL each scope is a parameter of its own.
            scopes = [("scope", scope) for scope in key.scope.split()]
            query = [pair for pair in query if pair[0] != "scope"] + scopes
            url = key.realm + (
                ("&" if urlsplit(key.realm).query else "?") + urlencode(query) if query else ""
            )
            headers = {"Authorization": key.credential.basic()} if key.credential else {}
            response = send(session, "GET", url, headers=headers)
        body = read_body(response)
        if response.status_code != 200:
            kind = "denied" if response.status_code in (400, 401, 403, 404) else "io"
            raise ObdError(kind, f"{where}: status {response.status_code}")
        try:
            answer = json.loads(body)
            value = answer.get("token") or answer["access_token"]
            life = answer.get("expires_in") or DEFAULT_LIFE_S
        except (ValueError, AttributeError, KeyError, RecursionError):
            raise ObdError("invalid", f"{where}: the answer holds no token") from None
        # A token goes into a header as it stands.
        if not (isinstance(value, str) and value.isascii() and value.isprintable() and " " not in value):
            raise ObdError("invalid", f"{where}: not a token")
        if isinstance(life, bool) or not isinstance(life, int | float) or not life > 0:
            life = DEFAULT_LIFE_S
        # An integer of JSON may be larger than any float.
        life = float(min(life, LONGEST_LIFE_S))
        return Token(value, since, since + max(life - MARGIN_S, life * 0.9 if life < 10 * MARGIN_S else 0.0))
