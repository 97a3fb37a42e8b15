"""How Python talks to registries and token servers: a `requests` session with the system's certificates."""

import logging
import ssl
import threading
import time
import warnings
import zlib
from collections.abc import Mapping
from typing import Any, Final

import requests
import requests.adapters
import urllib3

import obdcore
from obd.connections import Near, pools
from obd.credentials.watched import stamp
from obd.errors import ObdError, line_of
from obd.secret import without_secrets
from obd.tls import USUAL, Tls

_log: Final = logging.getLogger("overlaybd.registry")

# Seconds to connect, and of silence before a request is given up.
TIMEOUTS_S: Final = (5.0, 10.0)
# Kept for each host.
_CONNECTIONS: Final = 16
# Answers that are read whole (tokens, manifests, errors) are never longer.
MAX_BODY_BYTES: Final = 4 << 20
MAX_BODY_S: Final = 30.0


class _WithoutSecrets(logging.Filter):
    """Takes queries out of the lines that urllib3 logs of each request at its level DEBUG."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Lets every line through."""
        if isinstance(record.args, tuple):
            record.args = tuple(without_secrets(a) if isinstance(a, str) else a for a in record.args)
        return True


logging.getLogger("urllib3.connectionpool").addFilter(_WithoutSecrets())


class _OwnTrust(requests.adapters.HTTPAdapter):
    """Trusts what its context trusts, where requests would bring a list of its own.

    `abroad`: for URLs that only servers have named, which may not be near (see `obd.abroad`).
    """

    def __init__(self, context: ssl.SSLContext, *, abroad: bool = False) -> None:
        self._context = context
        self.abroad = abroad
        super().__init__(pool_maxsize=_CONNECTIONS)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._context, **kwargs)
        self.poolmanager.pool_classes_by_scheme = pools(abroad=self.abroad)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        # For the host behind the proxy, and for a proxy that is itself behind TLS.
        kwargs["ssl_context"] = kwargs["proxy_ssl_context"] = self._context
        manager = super().proxy_manager_for(*args, **kwargs)
        # Where it leads is the proxy's own affair.
        manager.pool_classes_by_scheme = pools()
        return manager

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        conn.cert_reqs = "CERT_REQUIRED" if self._context.check_hostname else "CERT_NONE"
        conn.ca_certs = conn.ca_cert_dir = None

    # requests 2.32 and later ask here instead.
    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:
        host, _ = super().build_connection_pool_key_attributes(request, verify, cert)
        return host, {"cert_reqs": "CERT_REQUIRED" if self._context.check_hostname else "CERT_NONE"}


class _Watched(_OwnTrust):
    """Trusts and shows what the files of `tls` say, as they are when a request is made."""

    def __init__(self, tls: Tls, *, abroad: bool = False) -> None:
        self._tls = tls
        self._lock = threading.Lock()
        # Before the files are read: a change meanwhile is noticed the next time.
        self._seen = _stamps(tls)
        super().__init__(_context(tls), abroad=abroad)

    def send(self, *args: Any, **kwargs: Any) -> requests.Response:
        self._renew()
        return super().send(*args, **kwargs)

    def _renew(self) -> None:
        seen = _stamps(self._tls)
        with self._lock:
            if seen == self._seen:
                return
            self._seen = seen
            try:
                self._context = _context(self._tls)
            except OSError as error:
                _log.warning("%s: what was good last counts", line_of(error))
                return
            # Connections in use end by themselves, idle ones with the managers.
            self.proxy_manager.clear()
            self.init_poolmanager(requests.adapters.DEFAULT_POOLSIZE, _CONNECTIONS)


def _stamps(tls: Tls) -> list[object]:
    return [stamp(file) for file in (tls.ca_file, tls.cert_file, tls.key_file) if file]


def _as_given(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Authentication by the headers given alone: requests would take users out of `~/.netrc`."""
    return request


def make_session(
    *,
    user_agent: str = "",
    tls: Tls = USUAL,
    hosts: Mapping[str, Tls] | None = None,
    abroad: bool = False,
) -> requests.Session:
    """A session for any number of threads; proxies are those of the environment.

    The parameters are those of `obdcore.HttpClient`. Files of certificates that change count from the next
    request on. `abroad`: for URLs that only servers have named. Raises `OSError` for
    certificates that cannot be used.
    """
    session = _session(_Watched(tls, abroad=abroad), user_agent)
    for host, settings in (hosts or {}).items():
        # The slash ends the host: a longer name, or another port, is another host.
        adapter = _Watched(settings, abroad=abroad)
        session.mount(f"https://{host}/", adapter)
        if host.endswith(":443"):
            session.mount(f"https://{host.removesuffix(':443')}/", adapter)
        elif ":" not in host.rpartition("]")[2]:
            session.mount(f"https://{host}:443/", adapter)
    return session


def session_over(context: ssl.SSLContext) -> requests.Session:
    """A session that trusts and shows what `context` does; proxies are those of the environment."""
    return _session(_OwnTrust(context), "")


def _session(adapter: _OwnTrust, user_agent: str) -> requests.Session:
    session = requests.Session()
    session.auth = _as_given
    # What is small on its way may be larger than memory. Those who compress all the same: see `read_body`.
    session.headers["Accept-Encoding"] = "identity"
    session.headers["User-Agent"] = user_agent or f"overlaybd/{obdcore.__version__}"
    for scheme in ("https://", "http://"):
        session.mount(scheme, adapter)
    return session


def _context(tls: Tls) -> ssl.SSLContext:
    context = ssl.create_default_context()
    try:
        if tls.cert_file and tls.key_file:
            # A key with a passphrase must fail here: nobody is there to be asked for it.
            context.load_cert_chain(tls.cert_file, tls.key_file, password="")
        if tls.ca_file:
            context.load_verify_locations(cafile=tls.ca_file)
    except OSError as error:
        files = ", ".join(file for file in (tls.cert_file, tls.key_file, tls.ca_file) if file)
        raise ObdError("invalid", f"unusable certificates: {error}", files) from None
    if tls.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        warnings.simplefilter("ignore", urllib3.exceptions.InsecureRequestWarning)
    return context


def send(
    session: requests.Session,
    method: str,
    url: str,
    *,
    headers: dict[str, str],
    data: Any = None,
    timeouts_s: tuple[float, float] | None = None,
) -> requests.Response:
    """One request; redirects are answers. The body is not read yet: use `read_body`, or close.

    `timeouts_s`: to connect, and of silence (default `TIMEOUTS_S`). Raises `ObdError`: "timed-out" and "io"
    for what may pass, "denied" for a certificate that is not trusted, "invalid" for a URL that is none.
    Messages hold no query and no header.
    """
    doing = f"{method} {without_secrets(url)}"
    try:
        return session.request(
            method,
            url,
            headers=headers,
            data=data,
            timeout=timeouts_s or TIMEOUTS_S,
            allow_redirects=False,
            stream=True,
        )
    except requests.exceptions.Timeout:
        raise ObdError("timed-out", f"{doing}: no answer in time") from None
    except (ValueError, urllib3.exceptions.LocationParseError):  # what requests raises for bad URLs
        raise ObdError("invalid", f"{doing}: not a usable URL") from None
    except Near as error:
        what = f"{doing}: a server sends us to {error}, which only a configuration may name"
        raise ObdError("denied", what) from None
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError) as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise ObdError("denied", f"{doing}: the certificate is not trusted") from None
        # Not the text: it may quote the whole URL.
        raise ObdError("io", f"{doing}: {type(error).__name__}") from None


def read_body(response: requests.Response, *, limit: int = MAX_BODY_BYTES) -> bytes:
    """The whole body, at most `limit` bytes, within `MAX_BODY_S`; closes the response.

    What is compressed by gzip, unasked, is unpacked up to `limit`. Raises `ObdError`: "limit", "timed-out",
    "io", "corrupt" for what is no gzip, "unsupported" for other codings.
    """
    where = without_secrets(response.url)
    deadline = time.monotonic() + MAX_BODY_S
    body = bytearray()
    coding = response.headers.get("Content-Encoding", "").strip().lower()
    with response:
        try:
            # Whatever has come, however little: a read that waits for more could be kept waiting for ever.
            while part := response.raw.read1(64 << 10, decode_content=False):
                body += part
                if len(body) > limit:
                    raise ObdError("limit", f"{where}: answer longer than {limit} bytes")
                if time.monotonic() > deadline:
                    raise ObdError("timed-out", f"{where}: answer too slow")
        except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError) as error:
            raise ObdError("io", f"{where}: {type(error).__name__}") from None
    return _unpacked(bytes(body), coding, limit, where) if coding not in ("", "identity") else bytes(body)


def _unpacked(body: bytes, coding: str, limit: int, where: str) -> bytes:
    if coding not in ("gzip", "x-gzip"):
        raise ObdError(
            "unsupported", f"{where}: an answer in the coding {coding[:20]!r}, which nobody asked for"
        )
    try:
        unpacked = zlib.decompressobj(wbits=31).decompress(body, limit + 1)
    except zlib.error:
        raise ObdError("corrupt", f"{where}: an answer that is no gzip") from None
    if len(unpacked) > limit:
        raise ObdError("limit", f"{where}: answer longer than {limit} bytes")
    return unpacked
