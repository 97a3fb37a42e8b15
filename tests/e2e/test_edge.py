"""Images from a real registry behind a real edge: TLS, tokens, an object store, limits."""

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import obd
from obd.errors import ObdError
from tests.e2e import layered, servers
from tests.e2e.commands import START_S, ok, run, serving, sha256
from tests.e2e.disks import MIB, fails, tool
from tests.e2e.nginx import Edge, Store
from tests.e2e.tls import Authority

USERS = {"ann": "hidden-password"}
REPOSITORY = "team/app"


class Site:
    """A registry with a four-layer image, and edges before it as tests want them."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.image = layered.build(home / "image")
        self.authority = Authority(home / "tls")
        self.main = Edge(home / "edge", self.authority)
        self.tokens = servers.TokenServer(home / "tokens", USERS, realm=f"{self.main.url}/token")
        self.registry = servers.Registry(home / "registry", tokens=self.tokens)
        self.main.start(self.registry, self.tokens)
        self.config = home / "config.v1.json"
        ok(
            "obd", "push", *self.image.layers, "--to", f"{self.main.url}/{REPOSITORY}:v1",
            "--config", self.config, "--ca", self.authority.file,
            "--credentials", self.credentials(self.main),
        )  # fmt: skip

    def credentials(self, edge: Edge, host: str = "localhost") -> Path:
        """A credential file for one edge."""
        path = self.home / f"cred-{edge.port}.json"
        user, password = next(iter(USERS.items()))
        path.write_text(
            json.dumps({"auths": {f"{host}:{edge.port}": {"username": user, "password": password}}})
        )
        return path

    def files(
        self,
        directory: Path,
        edge: Edge,
        host: str = "localhost",
        refill: int = 1 << 18,
        trust: bool = True,
        **of_registry: Any,
    ) -> tuple[Path, Path]:
        """The configurations of image and service for reading through an edge."""
        name = f"{host}:{edge.port}"
        cache = {
            "cacheType": "file",
            "cacheDir": str(directory / "cache"),
            "cacheSizeGB": 1,
            "refillSize": refill,
        }
        settings = {
            "cacheConfig": cache,
            "credentialConfig": {"mode": "file", "path": str(self.credentials(edge, host))},
            # Not of the registry alone: token server and object store are hosts of their own.
            "certConfig": {"caFile": str(self.authority.file) if trust else ""},
            "registries": {name: of_registry},
            "outageTimeout": 1,
        }
        service = directory / "overlaybd.json"
        service.write_text(json.dumps(settings))
        document = json.loads(self.config.read_text())
        document["repoBlobUrl"] = f"https://{name}/v2/{REPOSITORY}/blobs"
        document["resultFile"] = str(directory / "result")
        config = directory / "config.v1.json"
        config.write_text(json.dumps(document))
        return config, service

    def stop(self) -> None:
        self.main.stop()
        self.registry.stop()
        self.tokens.stop()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("site"))
    yield site
    site.stop()


@pytest.fixture
def edge(site: Site, tmp_path: Path) -> Iterator[Callable[..., Edge]]:
    """Makes a further edge before the same registry."""
    made: list[Edge] = []

    def make(**options: Any) -> Edge:
        made.append(Edge(tmp_path / f"edge{len(made)}", site.authority, **options))
        made[-1].start(site.registry, site.tokens)
        return made[-1]

    yield make
    for one in made:
        one.stop()


@pytest.mark.parametrize("kind", ["direct", "redirects"])
def test_served_cold_warm_and_after_a_restart(
    site: Site, tmp_path: Path, edge: Callable[..., Edge], kind: str
) -> None:
    """The registry closes connections after a few requests, as all do sooner or later."""
    store = Store() if kind == "redirects" else None
    through = edge(store=store, requests_per_connection=7)
    config, service = site.files(tmp_path, through)
    tokens = len(site.tokens.seen)
    words = (config, "--service", service, "--nbd", f"unix:{tmp_path / 'sock'}")
    with serving(*words) as (process, uri):
        tool("qemu-img", "convert", "-f", "raw", "-O", "raw", uri, tmp_path / "cold.raw")
        tool("cmp", tmp_path / "cold.raw", site.image.disk)
        cold = through.requests()
        tool("nbdcopy", uri, tmp_path / "warm.raw")
        tool("cmp", tmp_path / "warm.raw", site.image.disk)
        assert through.requests() == cold, "a warm cache asks for nothing"
        process.send_signal(signal.SIGTERM)
        assert process.wait(START_S) == 0
        assert process.stderr is not None and process.stderr.read() == b""
    with serving(*words) as (_, uri):
        tool("qemu-img", "compare", uri, site.image.disk)
    assert through.requests() == cold, "nor does a restarted program"
    asked = [line for line in cold if "/blobs/" in line]
    if store:
        assert store.links == len(site.image.layers), "one link for each layer"
        assert sorted({line.split()[2] for line in asked}) == ["307", "401"]
    else:
        assert sorted({line.split()[2] for line in asked}) == ["206", "401"]
    assert len(site.tokens.seen) - tokens == 1, "one token for all layers"


@pytest.mark.parametrize("kind", ["direct", "redirects", "limited"])
def test_an_image_is_copied_through_an_edge(
    site: Site, tmp_path: Path, edge: Callable[..., Edge], kind: str
) -> None:
    """Its blobs come from where the links lead, by a token, and not faster than is allowed."""
    store = Store() if kind == "redirects" else None
    through = edge(store=store, requests_per_connection=7, rate=5 if kind == "limited" else 0)
    done = ok(
        "obd", "copy", f"{through.url}/{REPOSITORY}:v1", f"oci:{tmp_path / 'layout'}:v1",
        "--ca", site.authority.file, "--credentials", site.credentials(through),
    )  # fmt: skip
    assert done.err == ""
    for layer in site.image.layers:
        data = layer.read_bytes()
        assert (tmp_path / "layout/blobs/sha256" / sha256(data)).read_bytes() == data
    if store:
        assert store.links == len(site.image.layers) + 1, "one link for each layer, and for the configuration"


@pytest.mark.skipif(
    os.geteuid() != 0 or not os.path.exists("/dev/fuse") or not os.path.exists("/dev/loop-control"),
    reason="mounting needs root, /dev/fuse and /dev/loop-control",
)
@pytest.mark.usefixtures("run_directory")
def test_mounted(site: Site, tmp_path: Path, edge: Callable[..., Edge]) -> None:
    config, service = site.files(tmp_path, edge(store=Store()))
    point = tmp_path / "mnt"
    point.mkdir()
    for _ in ("cold", "restarted"):
        ok("obd", "mount", "--service", service, config, point)
        try:
            found = {entry.name: entry.read_bytes() for entry in point.iterdir() if entry.is_file()}
        finally:
            ok("obd", "umount", point)
        assert found == site.image.files
    ok("obd", "export", "--service", service, config, tmp_path / "back.raw")
    tool("e2fsck", "-fn", tmp_path / "back.raw")


@pytest.mark.parametrize("tell", [True, False], ids=["announced", "unannounced"])
def test_tokens_and_links_that_expire_while_reading(
    site: Site, tmp_path: Path, edge: Callable[..., Edge], tell: bool
) -> None:
    """Announced: each is renewed before its end. Unannounced: a refusal comes first, and the read goes on."""
    site.tokens.life_s, site.tokens.signed_life_s = (1, 300) if tell else (300, 2 - servers.LEEWAY_S)
    store = Store(life_s=6 if tell else 1, tell=tell)
    through = edge(store=store)
    config, service = site.files(tmp_path, through, refill=16 << 10)
    asked = len(site.tokens.seen)
    disk = site.image.disk.read_bytes()
    places = list(range(0, len(disk), 16 << 10))
    random.Random(5).shuffle(places)
    try:
        with obd.open(config, service) as device:
            # A place at a time, as slowly as it takes for all of it to be renewed.
            while len(site.tokens.seen) < asked + 3 or store.links < 2 * len(site.image.layers):
                at = places.pop()
                assert device.read(at, 4096) == disk[at : at + 4096]
                time.sleep(0.01)
            assert device.read(0, len(disk)) == disk
    finally:
        site.tokens.life_s = site.tokens.signed_life_s = 300
    refused = [line for line in through.requests() if line.split()[2] in ("401", "403", "410")]
    assert (len(refused) > len(site.image.layers)) is not tell, refused


def test_a_registry_that_limits_the_rate(site: Site, tmp_path: Path, edge: Callable[..., Edge]) -> None:
    through = edge(rate=6)
    config, service = site.files(tmp_path, through)
    ok("obd", "export", "--service", service, config, tmp_path / "back.raw")
    tool("cmp", tmp_path / "back.raw", site.image.disk)
    assert any(line.endswith(" 429") for line in through.requests())


def test_ipv6(site: Site, tmp_path: Path) -> None:
    config, service = site.files(tmp_path, site.main, host="[::1]")
    with obd.open(config, service) as device:
        assert device.read(0, MIB) == site.image.disk.read_bytes()[:MIB]


def test_a_registry_that_wants_a_client_certificate(
    site: Site, tmp_path: Path, edge: Callable[..., Edge]
) -> None:
    through = edge(client_certificates=True)
    config, service = site.files(tmp_path, through)
    with pytest.raises(ObdError) as caught:
        obd.open(config, service)
    assert "400" in str(caught.value)
    cert, key = site.authority.sign("client")
    config, service = site.files(tmp_path, through, certFile=str(cert), keyFile=str(key))
    ok("obd", "export", "--service", service, config, tmp_path / "back.raw")
    tool("cmp", tmp_path / "back.raw", site.image.disk)


def test_an_authority_that_is_not_known(site: Site, tmp_path: Path) -> None:
    config, service = site.files(tmp_path, site.main, trust=False)
    done = run("obd", "serve", config, "--service", service, "--nbd", f"unix:{tmp_path / 'sock'}")
    assert done.status == 255 and len(done.lines) == 1, done
    assert done.err.startswith("obd: denied: ") and "certificate" in done.err, done.err
    assert "denied" in (tmp_path / "result").read_text()


def test_a_registry_that_goes_away_and_comes_back(
    site: Site, tmp_path: Path, edge: Callable[..., Edge]
) -> None:
    """I/O errors that a client sees as such and a line in the log that says why; then all is as before."""
    through = edge()
    config, service = site.files(tmp_path, through)
    with serving(config, "--service", service, "--nbd", f"unix:{tmp_path / 'sock'}") as (process, uri):
        through.stop()
        fails("qemu-img", "convert", "-f", "raw", "-O", "raw", uri, tmp_path / "out.raw")
        through.start(site.registry, site.tokens)
        tool("qemu-img", "compare", uri, site.image.disk)
        process.send_signal(signal.SIGTERM)
        assert process.wait(START_S) == 0
        assert process.stderr is not None
        said = process.stderr.read().decode()
    lines = said.splitlines()
    assert 1 <= len(lines) <= 20, said
    for line in lines:
        assert line.startswith(
            f"obd: {config}: io: https://localhost:{through.port}/v2/{REPOSITORY}/blobs/"
        ), line
        assert "device offset" in line and "hidden" not in line, line
