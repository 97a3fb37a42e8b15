"""A registry's dialogue: which credentials go with a request, to which of its endpoints."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import obdcore
from obd.abroad import is_abroad, may_lead
from obd.blob_locator import BlobLocator
from obd.challenge import Challenge, choose, parse
from obd.credentials import Credential, CredentialSource, repository
from obd.endpoints import Endpoint, Mirror, P2p
from obd.errors import ObdError, kind_of
from obd.redirect import Redirect, follow, origin
from obd.secret import without_secrets
from obd.tls import USUAL, Tls

if TYPE_CHECKING:
    import requests

    from obd.token import TokenCache, TokenKey

# A token refused this soon after it was asked for is not too old: it does not allow what is asked. Not more,
# since clocks that do not agree may leave little of a token's life.
FRESH_S: Final = 1.0
PULL: Final = "pull"
PUSH: Final = "pull,push"


class Registry:
    """All registries as this process sees them: credentials, tokens, connections. Safe for any thread.

    `credentials` None: anonymous. `user_agent` as for `obdcore.HttpClient`. `tls` counts for all hosts but
    those in `hosts`. `mirrors` are base URLs by the host of the registry (with its port, as in URLs);
    `p2p` is asked before them.
    """

    def __init__(
        self,
        credentials: CredentialSource | None = None,
        *,
        user_agent: str = "",
        tls: Tls = USUAL,
        hosts: Mapping[str, Tls] | None = None,
        mirrors: Mapping[str, Sequence[str]] | None = None,
        p2p: P2p | None = None,
    ) -> None:
        self._credentials = credentials
        self._settings: dict[str, Any] = {"user_agent": user_agent, "tls": tls, "hosts": dict(hosts or {})}
        self._speech: tuple[requests.Session, TokenCache] | None = None
        # For what only a registry has named.
        self._abroad: requests.Session | None = None
        self._client = obdcore.HttpClient(**self._settings)
        self._lock = threading.Lock()
        # The last challenge of each origin: lets the first request for the next blob carry a token.
        self._challenges: dict[str, Challenge] = {}
        self._mirrors = {
            host.lower(): [Mirror(base) for base in bases] for host, bases in (mirrors or {}).items()
        }
        self._p2p = p2p

    @property
    def session(self) -> requests.Session:
        """Connections of Python's own requests."""
        return self._speak()[0]

    @property
    def _tokens(self) -> TokenCache:
        return self._speak()[1]

    def _speak(self) -> tuple[requests.Session, TokenCache]:
        """What a dialogue needs, made when there is one: reads of a public image are spared its import."""
        with self._lock:
            if self._speech is None:
                from obd.session import make_session
                from obd.token import TokenCache

                session = make_session(**self._settings)
                self._abroad = make_session(**self._settings, abroad=True)
                self._speech = session, TokenCache(session, abroad=self._abroad)
            return self._speech

    def use(self, credentials: CredentialSource | None) -> None:
        """Asks these for credentials from now on, for blobs too that are open already."""
        self._credentials = credentials

    def open_blob(
        self,
        url: str,
        *,
        size: int = 0,
        cache: obdcore.ChunkCache | None = None,
        media: str | None = None,
        tree: obdcore.MerkleTree | None = None,
    ) -> obdcore.RemoteBlob:
        """The blob at `url` (`<scheme>://<host>/v2/<repository>/blobs/<digest>`) for reading by ranges.

        `size` 0: asked for now, unless the cache knows it; else nothing is sent before the first read.
        `media` is a file in a layer directory to keep it in; its bytes are held against `tree`.
        Raises `obdcore.Error`.
        """
        digest = urlsplit(url).path.rpartition("/")[2]
        locator = BlobLocator(self, url, self.endpoints(url))
        return obdcore.RemoteBlob(
            without_secrets(url),
            digest,
            locator,
            size=size,
            cache=cache,
            client=self._client,
            media=media,
            tree=tree,
        )

    def endpoints(self, url: str) -> list[Endpoint]:
        """Where the blob at `url` may be had besides the registry itself, best first."""
        host = urlsplit(url).netloc.rpartition("@")[2].lower()
        before: list[Endpoint] = [self._p2p] if self._p2p else []
        return before + list(self._mirrors.get(host, ()))

    def authorization(self, url: str, action: str = PULL) -> str | None:
        """The `Authorization` value for a request, as far as past challenges of the host tell; None for none.

        Asks the token server only if a token was needed before and none is valid. Raises `ObdError` as
        `TokenCache.get`.
        """
        with self._lock:
            challenge = self._challenges.get(origin(url))
        if challenge is None:
            return None
        credential = self._credential(url)
        if challenge.scheme == "basic":
            return credential.basic() if credential and credential.username else None
        try:
            return self._tokens.get(self._key(url, action, challenge, credential)).header()
        except OSError:
            self._unlearn(url, challenge)
            raise

    def _unlearn(self, url: str, challenge: Challenge) -> None:
        """Forgets a challenge that cannot be met: the registry may say something better the next time."""
        with self._lock:
            if self._challenges.get(origin(url)) is challenge:
                del self._challenges[origin(url)]

    def refused(self, url: str, www_authenticate: list[str], sent: str | None, action: str = PULL) -> bool:
        """Whether to repeat a request for `url` that got 401 or 403 with the `Authorization` value `sent`.

        Learns the challenge, gets a token if the refused one was old, and has the source of credentials look
        again if it was not. Raises `ObdError` as `TokenCache.get`.
        """
        challenge = choose(parse(www_authenticate))
        if challenge is None:
            return False
        with self._lock:
            self._challenges[origin(url)] = challenge
        credential = self._credential(url)
        try:
            if self._has_better(url, action, challenge, credential, sent):
                return True
        except OSError as error:
            if kind_of(error) != "denied" or not self._changed(url, credential):
                self._unlearn(url, challenge)
                raise
        else:
            if not self._changed(url, credential):
                return False
        return self._has_better(url, action, challenge, self._credential(url), sent)

    def _has_better(
        self, url: str, action: str, challenge: Challenge, credential: Credential | None, sent: str | None
    ) -> bool:
        """Whether `credential` gives another `Authorization` value than the one that was refused."""
        if challenge.scheme == "basic":
            return credential is not None and bool(credential.username) and credential.basic() != sent
        key = self._key(url, action, challenge, credential)
        token = self._tokens.get(key)
        if token.header() != sent:
            return True
        if self._tokens.age_s(token) < FRESH_S:
            return False
        self._tokens.get(key, instead_of=token)
        return True

    def _changed(self, url: str, credential: Credential | None) -> bool:
        """Whether the source has another credential than this one, which was refused."""
        if (credentials := self._credentials) is None:
            return False
        credentials.forget(url)
        return self._credential(url) != credential

    def describe_credentials(self, url: str) -> str:
        """Which credentials go with a request for `url`, for messages: the source and the user, no secret."""
        if (credentials := self._credentials) is None:
            return "anonymous: no credentials are configured"
        source = credentials.describe()
        credential = self._credential(url)
        if credential is None:
            return f"anonymous: no credentials for this registry in {source}"
        who = f'user "{credential.username}"' if credential.username else "identity token"
        return f"credentials: {source}, {who}"

    def resolve(self, url: str) -> Redirect | None:
        """Where the registry sends readers of the blob at `url`; None if it gives the bytes itself.

        Raises `ObdError` as `request`, or if it does neither.
        """
        with self.request("GET", url, action=PULL, headers={"Range": "bytes=0-0"}) as response:
            status, location = response.status_code, response.headers.get("Location", "")
        if status in (200, 206, 416):
            return None
        redirect = follow(url, location, url) if 300 <= status < 400 else None
        if redirect is None:
            kind = "denied" if status in (401, 403) else "not-found" if status == 404 else "io"
            raise ObdError(kind, f"GET {without_secrets(url)}: status {status}")
        return redirect

    def request(
        self,
        method: str,
        url: str,
        *,
        action: str,
        headers: dict[str, str] | None = None,
        data: Any = None,
        mount_from: str = "",
        timeouts_s: tuple[float, float] | None = None,
        anonymous: bool = False,
        abroad: bool = False,
    ) -> requests.Response:
        """One request of a tool (push, manifests) with credentials, repeated once after a challenge.

        `data` is bytes, or what has a length and can be iterated repeatedly. `mount_from` is another
        repository of the registry, which is read too. `timeouts_s` as for `send`. `anonymous`: without
        credentials, whatever the answer. `abroad`: only the registry has named the URL. The body of the
        answer is not read yet. Raises `ObdError` as `send`;
        answers of any status are returned.
        """
        if mount_from:
            action = f"{action} repository:{mount_from}:{PULL}"
        for last in (False, True):
            sent = None if anonymous else self.authorization(url, action)
            head = dict(headers or {}, **({"Authorization": sent} if sent else {}))
            from obd.session import send

            session = self.session
            if abroad and self._abroad:
                session = self._abroad
            response = send(session, method, url, headers=head, data=data, timeouts_s=timeouts_s)
            if last or anonymous or response.status_code not in (401, 403):
                break
            challenge = response.headers.get("WWW-Authenticate")
            if not challenge or not self.refused(url, [challenge], sent, action):
                break
            response.close()
        return response

    def _credential(self, url: str) -> Credential | None:
        return credentials.lookup(url) if (credentials := self._credentials) else None

    def _key(self, url: str, action: str, challenge: Challenge, credential: Credential | None) -> TokenKey:
        realm = challenge.get("realm")
        try:
            usable = urlsplit(realm).scheme in ("http", "https")
        except ValueError:  # an address in brackets that is none
            usable = False
        if not usable:
            raise ObdError("invalid", f"{without_secrets(url)}: asks for a token of no usable realm")
        if not may_lead(url, realm):
            what = f"wants a token of {urlsplit(realm).hostname}, which only a configuration may name"
            raise ObdError("denied", f"{without_secrets(url)}: {what}")
        if credential and url.startswith("https:") and not realm.startswith("https:"):
            raise ObdError("denied", f"{without_secrets(url)}: wants the password sent in the clear, refused")
        # Not the scope of the challenge: that one may be of another repository of the host.
        from obd.token import TokenKey

        scope = f"repository:{repository(url)}:{action}"
        return TokenKey(realm, challenge.get("service"), scope, credential, is_abroad(url, realm))
