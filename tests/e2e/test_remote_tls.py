"""Registries behind TLS: certificates are checked, by the core and by the dialogue alike."""

import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import obdcore
from obd.errors import ObdError
from obd.registry import PULL, Registry
from obd.tls import Tls
from tests.e2e import servers

DATA = bytes(range(256)) * 100
PATH = "/v2/team/app/blobs/sha256:" + "0" * 64


class Handler(servers.QuietHandler):
    """Serves DATA by ranges."""

    def do_GET(self) -> None:
        first, last = (int(part) for part in self.headers["Range"].removeprefix("bytes=").split("-"))
        self.answer(206, DATA[first : last + 1], {"Content-Range": f"bytes {first}-{last}/{len(DATA)}"})


def openssl(cert: Path, *options: str) -> None:
    """Makes a certificate, its key beside it."""
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-out", str(cert)]
    subprocess.run([*command, "-keyout", f"{cert}.key", *options], check=True, capture_output=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The certificate of an authority that nobody knows."""
    cert = tmp_path_factory.mktemp("tls") / "ca.pem"
    openssl(cert, "-subj", "/CN=authority")
    return cert


@pytest.fixture(scope="module")
def url(authority: Path) -> Iterator[str]:
    cert = authority.with_name("server.pem")
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=CA:FALSE"]
    openssl(cert, "-subj", "/CN=server", *names, "-CA", str(authority), "-CAkey", f"{authority}.key")
    server = servers.serve(Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, f"{cert}.key")
    # The handshake is left to the thread of the connection: one that fails must not end the server.
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    try:
        yield f"https://127.0.0.1:{server.server_port}{PATH}"
    finally:
        servers.stop(server)


def test_a_certificate_of_an_unknown_authority_is_refused(url: str) -> None:
    registry = Registry()
    with pytest.raises(obdcore.Error, match="certificate") as caught:
        registry.open_blob(url)
    assert caught.value.kind == "denied"
    with pytest.raises(ObdError, match="not trusted") as refused:
        registry.request("GET", url, action=PULL, headers={"Range": "bytes=0-9"})
    assert refused.value.kind == "denied"


@pytest.mark.parametrize("how", ["ca_file", "insecure"])
def test_unless_told_to_trust_it(url: str, authority: Path, how: str) -> None:
    registry = Registry(tls=Tls(ca_file=str(authority)) if how == "ca_file" else Tls(insecure=True))
    assert registry.open_blob(url).read_at(100, 1000) == DATA[100:1100]
    with registry.request("GET", url, action=PULL, headers={"Range": "bytes=0-9"}) as answer:
        assert answer.content == DATA[:10]


def test_a_name_that_is_not_the_certificates_is_refused(url: str, authority: Path) -> None:
    other = url.replace("127.0.0.1", "localhost")
    with pytest.raises(obdcore.Error, match="certificate"):
        Registry(tls=Tls(ca_file=str(authority))).open_blob(other)


@pytest.mark.parametrize("content", ["", "no certificate\n", None])
def test_a_file_of_authorities_that_is_none(url: str, tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    client = obdcore.HttpClient(tls=Tls(ca_file=str(path)))
    with pytest.raises(obdcore.Error, match=r"ca\.pem"):
        obdcore.RemoteBlob("blob", "sha256:00", Fixed(url), client=client)


class Fixed:
    """A locator that always says the same."""

    def __init__(self, url: str) -> None:
        self.url = url

    def locate(self) -> obdcore.Target:
        return obdcore.Target(self.url, [])

    def refused(self, status: int, headers: list[tuple[str, str]], target: obdcore.Target) -> bool:
        return False

    def failed(self, status: int | None, why: str, target: obdcore.Target) -> bool:
        return False

    def distrusted(self, target: obdcore.Target) -> None:
        pass

    def mismatched(self, target: obdcore.Target, offset: int, length: int) -> None:
        pass

    def describe(self) -> str:
        return "anonymous"


def test_a_self_signed_certificate_that_is_an_authoritys(tmp_path: Path) -> None:
    """What `openssl req -x509` makes by default, and many registries have: fine if it is the caFile."""
    names = ["-addext", "subjectAltName=IP:127.0.0.1"]
    certs = []
    for name in ("own", "other"):
        certs.append(tmp_path / f"{name}.pem")
        openssl(certs[-1], "-subj", "/CN=same", *names)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certs[0], f"{certs[0]}.key")
    with servers.serving(Handler, context) as base:
        registry = Registry(tls=Tls(ca_file=str(certs[0])))
        assert registry.open_blob(base + PATH).read_at(100, 1000) == DATA[100:1100]
        with registry.request("GET", base + PATH, action=PULL, headers={"Range": "bytes=0-9"}) as answer:
            assert answer.content == DATA[:10]
        for tls in (Tls(), Tls(ca_file=str(certs[1]))):
            with pytest.raises(obdcore.Error, match=r"CA:TRUE.*caFile"):
                Registry(tls=tls).open_blob(base + PATH)
        # Its name counts all the same.
        with pytest.raises(obdcore.Error, match="certificate is not trusted"):
            registry.open_blob(base.replace("127.0.0.1", "localhost") + PATH)


def test_client_certificates_and_settings_by_host(authority: Path, tmp_path: Path) -> None:
    """The server wants a certificate of an authority two steps away: the whole chain has to be sent."""
    middle, leaf, chain = (tmp_path / f"{name}.pem" for name in ("middle", "leaf", "chain"))
    openssl(middle, "-subj", "/CN=middle", "-CA", str(authority), "-CAkey", f"{authority}.key")
    plain = ["-addext", "basicConstraints=CA:FALSE", "-CA", str(middle), "-CAkey", f"{middle}.key"]
    openssl(leaf, "-subj", "/CN=node", *plain)
    chain.write_text(leaf.read_text() + middle.read_text())
    server = authority.with_name("server.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server, f"{server}.key")
    context.load_verify_locations(cafile=str(authority))
    context.verify_mode = ssl.CERT_REQUIRED
    ours = Tls(str(authority), str(chain), f"{leaf}.key")
    with servers.serving(Handler, context) as base:
        host = base.removeprefix("https://")
        for registry in (Registry(tls=ours), Registry(hosts={host: ours})):
            assert registry.open_blob(base + PATH).read_at(100, 1000) == DATA[100:1100]
            with registry.request("GET", base + PATH, action=PULL, headers={"Range": "bytes=0-9"}) as answer:
                assert answer.content == DATA[:10]
        for tls in (Tls(str(authority)), Tls(str(authority), str(leaf), f"{leaf}.key")):
            with pytest.raises(obdcore.Error, match="GET https"):
                Registry(tls=tls).open_blob(base + PATH)
        with pytest.raises(obdcore.Error, match="not trusted"):
            Registry(hosts={"other.example": ours}).open_blob(base + PATH)
        with pytest.raises(obdcore.Error, match="do not go together"):
            Registry(tls=Tls(str(authority), str(leaf), f"{middle}.key")).open_blob(base + PATH)


def test_certificates_that_are_renewed_on_disk_count_at_once(
    authority: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One process and one `Registry`: what it trusts, and then what it shows, is replaced."""
    own, other = tmp_path / "own.pem", tmp_path / "other.pem"
    for cert in (own, other):
        leaf = ["-addext", "basicConstraints=CA:FALSE", "-CA", str(authority), "-CAkey", f"{authority}.key"]
        openssl(cert, "-subj", "/CN=node", *leaf)
    stranger = tmp_path / "stranger.pem"
    openssl(stranger, "-subj", "/CN=stranger")
    server = authority.with_name("server.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server, f"{server}.key")
    context.load_verify_locations(cafile=str(authority))
    context.verify_mode = ssl.CERT_REQUIRED
    ca, cert, key = (tmp_path / name for name in ("used-ca.pem", "used.pem", "used.key"))

    def use(source: Path, target: Path) -> None:
        fresh = tmp_path / "fresh"
        fresh.write_bytes(source.read_bytes())
        fresh.rename(target)

    def both_work(registry: Registry, url: str) -> bool:
        """Whether the core and the dialogue are let in; they have to agree."""
        worked = []
        for attempt in (
            lambda: registry.open_blob(url).read_at(100, 1000),
            lambda: registry.request("GET", url, action=PULL, headers={"Range": "bytes=0-9"}).close(),
        ):
            try:
                attempt()
                worked.append(True)
            except OSError:
                worked.append(False)
        assert worked[0] == worked[1]
        return worked[0]

    use(stranger, ca)
    use(stranger, cert)
    use(Path(f"{stranger}.key"), key)
    with servers.serving(Handler, context) as base:
        registry = Registry(tls=Tls(str(ca), str(cert), str(key)))
        assert not both_work(registry, base + PATH), "neither is the server trusted nor are we"
        use(authority, ca)
        assert not both_work(registry, base + PATH), "we are not"
        use(own, cert)
        assert not both_work(registry, base + PATH), "the key is not that of the certificate yet"
        use(Path(f"{own}.key"), key)
        assert both_work(registry, base + PATH)
        # Half of a renewal: what was good last serves until the other half is there.
        caplog.clear()
        use(other, cert)
        key.unlink()
        assert both_work(registry, base + PATH)
        assert "what was good last counts" in caplog.text
        use(Path(f"{other}.key"), key)
        assert both_work(registry, base + PATH)
        # And what is taken back does count, though nothing else changed.
        use(stranger, ca)
        assert not both_work(Registry(tls=Tls(str(ca), str(cert), str(key))), base + PATH)
