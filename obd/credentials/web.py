"""The credential modes `http` and `https`: a server that is asked over the network."""

import ssl
from typing import Final
from urllib.parse import unquote, urlsplit, urlunsplit

from obd.credentials.server import MAX_BODY_BYTES, ServerCredentials
from obd.credentials.source import LookupFailed
from obd.secret import without_secrets


class WebCredentials(ServerCredentials):
    """The server at `url`, which may hold a user, a password and a query of its own.

    `ca_file`: the only authorities trusted, "" for the system's. `cert_file`, `key_file`: what is shown to
    the server; the key may be in the same file. All three are read for each request. Proxies are those of
    the environment; redirects are not followed.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 1,
        raw_url: bool = False,
        ca_file: str = "",
        cert_file: str = "",
        key_file: str = "",
    ) -> None:
        super().__init__(without_secrets(url), timeout_s=timeout_s, raw_url=raw_url)
        parts = urlsplit(url)
        user, at, host = parts.netloc.rpartition("@")
        name, _, password = user.partition(":")
        self._auth: Final = (unquote(name), unquote(password)) if at else None
        self._url: Final = urlunsplit(parts._replace(netloc=host, fragment=""))
        self._ca_file, self._cert_file, self._key_file = ca_file, cert_file, key_file

    def fetch(self, query: str) -> tuple[int, bytes]:
        """As `ServerCredentials.fetch`."""
        import requests
        import requests.auth
        import urllib3

        from obd.session import session_over

        session = session_over(self._trust())
        if self._auth:
            session.auth = requests.auth.HTTPBasicAuth(*self._auth)
        url = f"{self._url}{'&' if urlsplit(self._url).query else '?'}{query}"
        try:
            with (
                session,
                session.get(url, timeout=self._timeout_s, allow_redirects=False, stream=True) as response,
            ):
                body = response.raw.read(MAX_BODY_BYTES + 1, decode_content=False)
                return response.status_code, body
        except (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError):
            raise TimeoutError from None
        except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
            # Not the text: it may quote the whole URL.
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise LookupFailed("its certificate is not trusted") from None
            raise LookupFailed(f"cannot be reached: {type(error).__name__}") from None

    def _trust(self) -> ssl.SSLContext:
        if not self._url.startswith("https:"):
            return ssl.create_default_context()
        file = self._ca_file
        try:
            context = ssl.create_default_context(cafile=file or None)
            if self._cert_file:
                file = self._cert_file
                # A key with a passphrase must fail here: nobody is there to be asked for it.
                context.load_cert_chain(file, self._key_file or None, password="")
        except OSError as error:
            raise LookupFailed(f"{file}: unusable certificate or key: {error.strerror or error}") from None
        return context
