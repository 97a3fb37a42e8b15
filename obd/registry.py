"""A registry's dialogue: which credentials go with a request, and where a blob's bytes really are."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import obdcore
from obd.challenge import Challenge, choose, parse
from obd.credentials import Credential, CredentialSource, repository
from obd.errors import ObdError
from obd.redirect import Redirect, follow, origin
from obd.secret import without_secrets

if TYPE_CHECKING:
    import requests

    from obd.token import TokenCache, TokenKey

# A token refused this soon after it was made is not too old: it does not allow what is asked.
FRESH_S: Final = 5.0
PULL: Final = "pull"
PUSH: Final = "pull,push"

Headers = list[tuple[str, str]]


class Registry:
    """All registries as this process sees them: credentials, tokens, connections. Safe for any thread.

    `credentials` None: anonymous. `user_agent`, `ca_file`, `insecure` as for `obdcore.HttpClient`;
    `client_cert` as for `make_session`: Python's own requests show it.
    """

    def __init__(
        self,
        credentials: CredentialSource | None = None,
        *,
        user_agent: str = "",
        ca_file: str | None = None,
        insecure: bool = False,
        client_cert: tuple[str, str | None] | None = None,
    ) -> None:
        self._credentials = credentials
        self._settings: dict[str, Any] = {
            "user_agent": user_agent,
            "ca_file": ca_file,
            "insecure": insecure,
            "client_cert": client_cert,
        }
        self._speech: tuple[requests.Session, TokenCache] | None = None
        self._client = obdcore.HttpClient(user_agent=user_agent, ca_file=ca_file, insecure=insecure)
        self._lock = threading.Lock()
        # The last challenge of each origin: lets the first request for the next blob carry a token.
        self._challenges: dict[str, Challenge] = {}

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
                self._speech = session, TokenCache(session)
            return self._speech

    def open_blob(
        self,
        url: str,
        *,
        size: int = 0,
        cache: obdcore.ChunkCache | None = None,
        media: str | None = None,
    ) -> obdcore.RemoteBlob:
        """The blob at `url` (`<scheme>://<host>/v2/<repository>/blobs/<digest>`) for reading by ranges.

        `size` 0: asked for now, unless the cache knows it; else nothing is sent before the first read.
        `media` is a file in a layer directory to keep it in. Raises `obdcore.Error`.
        """
        digest = urlsplit(url).path.rpartition("/")[2]
        return obdcore.RemoteBlob(
            without_secrets(url),
            digest,
            BlobLocator(self, url),
            size=size,
            cache=cache,
            client=self._client,
            media=media,
        )

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
            return credential.basic() if credential else None
        return self._tokens.get(self._key(url, action, challenge, credential)).header()

    def refused(self, url: str, www_authenticate: list[str], sent: str | None, action: str = PULL) -> bool:
        """Whether to repeat a request for `url` that got 401 or 403 with the `Authorization` value `sent`.

        Learns the challenge, and gets a token if the refused one was old. Raises `ObdError` as
        `TokenCache.get`.
        """
        challenge = choose(parse(www_authenticate))
        if challenge is None:
            return False
        with self._lock:
            self._challenges[origin(url)] = challenge
        credential = self._credential(url)
        if challenge.scheme == "basic":
            return credential is not None and credential.basic() != sent
        key = self._key(url, action, challenge, credential)
        token = self._tokens.get(key)
        if token.header() != sent:
            return True
        if self._tokens.age_s(token) < FRESH_S:
            return False
        self._tokens.get(key, instead_of=token)
        return True

    def request(
        self, method: str, url: str, *, action: str, headers: dict[str, str] | None = None, data: Any = None
    ) -> requests.Response:
        """One request of a tool (push, manifests) with credentials, repeated once after a challenge.

        `data` is bytes, or what has a length and can be iterated repeatedly. The body of the answer is not
        read yet. Raises `ObdError` as `send`; answers of any status are returned.
        """
        for last in (False, True):
            sent = self.authorization(url, action)
            head = dict(headers or {}, **({"Authorization": sent} if sent else {}))
            from obd.session import send

            response = send(self.session, method, url, headers=head, data=data)
            if last or response.status_code not in (401, 403):
                break
            challenge = response.headers.get("WWW-Authenticate")
            if not challenge or not self.refused(url, [challenge], sent, action):
                break
            response.close()
        return response

    def _credential(self, url: str) -> Credential | None:
        return self._credentials.lookup(url) if self._credentials else None

    def _key(self, url: str, action: str, challenge: Challenge, credential: Credential | None) -> TokenKey:
        realm = challenge.get("realm")
        if urlsplit(realm).scheme not in ("http", "https"):
            raise ObdError("invalid", f"{without_secrets(url)}: asks for a token of no usable realm")
        if credential and url.startswith("https:") and not realm.startswith("https:"):
            raise ObdError("denied", f"{without_secrets(url)}: wants the password sent in the clear, refused")
        # Not the scope of the challenge: that one may be of another repository of the host.
        from obd.token import TokenKey

        return TokenKey(realm, challenge.get("service"), f"repository:{repository(url)}:{action}", credential)


class BlobLocator:
    """Policy of one blob for the core (`obdcore.Locator`): the registry at first, then where it sends us."""

    def __init__(self, registry: Registry, url: str) -> None:
        self._registry = registry
        self._url = url
        self._redirect: Redirect | None = None

    def locate(self) -> tuple[str, Headers]:
        """URL and headers for the next GET."""
        redirect = self._redirect
        if redirect is not None and not redirect.expired():
            # A signed URL is its own credential, and another host has no business with ours.
            return redirect.url, self._headers() if redirect.same_origin else []
        return self._url, self._headers()

    def refused(self, status: int, headers: Headers, url: str, sent: Headers) -> bool:
        """Takes note of an answer that brought no bytes; whether `locate` has something new."""
        if 300 <= status < 400:
            location = next((value for name, value in headers if name.lower() == "location"), "")
            self._redirect = follow(url, location, self._url)
            return self._redirect is not None
        if url != self._url:
            # The link has expired or gone bad: back to the registry for another one.
            redirect = self._redirect
            if redirect is not None and redirect.url == url:
                self._redirect = None
            return True
        if status not in (401, 403):
            return False
        asked = [value for name, value in headers if name.lower() == "www-authenticate"]
        used = next((value for name, value in sent if name == "Authorization"), None)
        return self._registry.refused(url, asked, used)

    def _headers(self) -> Headers:
        value = self._registry.authorization(self._url)
        return [("Authorization", value)] if value else []
