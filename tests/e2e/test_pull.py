"""`obd pull --full` of configurations and of images in a real registry: what lies where, how it fails."""

import hashlib
import json
import random
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import obd
from cache.partial import Partial
from obd.oci.media import OCI_MANIFEST
from obd.push import Repository
from obd.registry import PUSH
from obd.registry import Registry as Dialogue
from tests.e2e import servers
from tests.e2e.commands import BIN, START_S, Done, names, ok, run

DISK_BYTES = 20 << 20


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Registry]:
    with servers.Registry(tmp_path_factory.mktemp("registry")) as server:
        yield server


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory, registry: servers.Registry) -> list[Path]:
    """Two layers that make an image, pushed as `team/app:v1`."""
    home = tmp_path_factory.mktemp("layers")
    paths = []
    for seed in (1, 2):
        (home / "raw").write_bytes(random.Random(seed).randbytes(DISK_BYTES))
        ok("obd", "import", "-t", home / "raw", home / f"layer{seed}")
        paths.append(home / f"layer{seed}")
    ok("obd", "push", *paths, "--to", f"{registry.host}/team/app:v1", "--config", home / "config.json")
    return paths


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Host:
    """A machine of its own: service configuration and cache."""

    def __init__(self, home: Path, **cache: Any) -> None:
        self.home, self.cache = home, home / "cache"
        self.service = home / "overlaybd.json"
        settings = {"cacheType": "file", "cacheDir": str(self.cache), "cacheSizeGB": 1, **cache}
        self.service.write_text(json.dumps({"cacheConfig": settings}))

    def pull(self, what: str | Path, *options: str) -> Done:
        return run("obd", "pull", "--full", what, "--service", self.service, *options)

    def config(self, registry: servers.Registry, layers: list[Path], *dirs: Path | None) -> Path:
        lowers = []
        for layer, directory in zip(layers, dirs, strict=True):
            data = layer.read_bytes()
            lower: dict[str, Any] = {"digest": digest_of(data), "size": len(data)}
            if directory is not None:
                directory.mkdir(exist_ok=True)
                lower["dir"] = str(directory)
            lowers.append(lower)
        path = self.home / "config.v1.json"
        path.write_text(json.dumps({"repoBlobUrl": f"{registry.url}/v2/team/app/blobs", "lowers": lowers}))
        return path

    def check(self, config: Path, requests: int = 0) -> None:
        """The image is right, and needs no registry."""
        with obd.open(config, str(self.service)) as device:
            assert device.read(0, DISK_BYTES) == random.Random(2).randbytes(DISK_BYTES)
            assert sum(blob.stats()["requests"] for blob in device.blobs.values()) == requests


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_configuration_with_and_without_directories(
    host: Host, registry: servers.Registry, layers: list[Path]
) -> None:
    config = host.config(registry, layers, host.home / "a", None)
    done = host.pull(config)
    assert (done.status, done.err) == (0, "")
    assert len(done.out.splitlines()) == 2 and "20.0 MiB in the cache" in done.out
    assert names(host.home / "a") == ["overlaybd.commit"]
    assert (host.home / "a" / "overlaybd.commit").read_bytes() == layers[0].read_bytes()
    assert (host.cache / digest_of(layers[1].read_bytes())).read_bytes() == layers[1].read_bytes()
    host.check(config)
    again = host.pull(config, "--json", "--jobs", "1")
    first, second = json.loads(again.out)["layers"]
    assert (again.status, first["state"], second["state"]) == (0, "local", "done")


@pytest.mark.parametrize("form", ["tag", "digest", "index"])
def test_an_image(host: Host, registry: servers.Registry, layers: list[Path], form: str) -> None:
    name = f"{registry.host}/team/app"
    dialogue, url = Dialogue(), registry.repository("team/app")
    manifest = dialogue.request("GET", f"{url}/manifests/v1", action=PUSH, headers={"Accept": OCI_MANIFEST})
    entry = {"mediaType": OCI_MANIFEST, "digest": digest_of(manifest.content), "size": len(manifest.content)}
    if form == "index":
        index_type = "application/vnd.oci.image.index.v1+json"
        entries = [
            {**entry, "digest": digest_of(b""), "platform": {"os": "linux", "architecture": "s390x"}},
            {**entry, "platform": {"os": "linux", "architecture": "arm64", "variant": "v8"}},
        ]
        # A registry wants to have what an index names.
        entries = entries[1:]
        index = json.dumps({"schemaVersion": 2, "mediaType": index_type, "manifests": entries}).encode()
        put = dialogue.request(
            "PUT", f"{url}/manifests/all", action=PUSH, headers={"Content-Type": index_type}, data=index
        )
        assert put.status_code == 201
        refused = host.pull(f"{name}:all", "--platform", "linux/riscv64")
        assert refused.status == 255 and refused.lines == [
            f"obd: not-found: {url}: no image for linux/riscv64; there are: linux/arm64/v8"
        ]
    word = {"tag": f"{name}:v1", "digest": f"{name}@{entry['digest']}", "index": f"{name}:all"}[form]
    done = host.pull(word, "--platform", "linux/arm64")
    assert (done.status, done.err) == (0, "")
    for layer in layers:
        data = layer.read_bytes()
        assert (host.cache / digest_of(data)).read_bytes() == data
    host.check(host.config(registry, layers, None, None))


def test_failures_are_one_line_each(host: Host, registry: servers.Registry, layers: list[Path]) -> None:
    assert host.pull(f"{registry.host}/team/app:nope").lines == [
        f"obd: not-found: GET {registry.url}/v2/team/app/manifests/nope: status 404: "
        "MANIFEST_UNKNOWN: manifest unknown"
    ]
    assert host.pull("nothing").lines[0].startswith("obd: invalid: nothing: neither a file nor ")
    assert run("obd", "pull", f"{registry.host}/team/app:v1").status == 255
    config = host.config(registry, layers, host.home / "a", None)
    document = json.loads(config.read_text())
    document["lowers"][1]["digest"] = digest_of(b"something else")
    config.write_text(json.dumps(document))
    done = host.pull(config, "--json")
    assert done.status == 255 and len(done.lines) == 1
    assert done.lines[0].startswith("obd: layer 1: not-found: ") and "404" in done.lines[0]
    first, second = json.loads(done.out)["layers"]
    assert (first["state"], second["state"]) == ("done", "failed")


def test_plain_layers_are_refused(host: Host, registry: servers.Registry) -> None:
    url = registry.repository("team/plain")
    repository = Repository(Dialogue(), url)
    blob = repository.push_bytes(b"tar")
    layer = {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": blob.digest, "size": blob.size}
    config = {
        "mediaType": "application/vnd.oci.image.config.v1+json",
        "digest": blob.digest,
        "size": blob.size,
    }
    manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [layer]}
    put = Dialogue().request(
        "PUT",
        f"{url}/manifests/v1",
        action=PUSH,
        headers={"Content-Type": OCI_MANIFEST},
        data=json.dumps(manifest).encode(),
    )
    assert put.status_code == 201
    done = host.pull(f"{registry.host}/team/plain:v1")
    assert done.lines == [f"obd: unsupported: {url}: no layer of the image is an overlaybd layer"]


class Wrong(servers.QuietHandler):
    """A registry of one blob that is not what its digest says; counts the bytes that it served."""

    data = bytes(range(256)) * 40_000
    served = 0

    def do_GET(self) -> None:
        first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last), len(self.data) - 1)
        type(self).served += end + 1 - start
        span = f"bytes {start}-{end}/{len(self.data)}"
        self.answer(206, self.data[start : end + 1], {"Content-Range": span})


class Silent(servers.QuietHandler):
    """A registry that begins to answer and then says nothing more."""

    asked = threading.Event()
    end = threading.Event()

    def do_GET(self) -> None:
        first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{64 << 20}")
        self.send_header("Content-Length", str(int(last) + 1 - int(first)))
        self.end_headers()
        self.asked.set()
        self.end.wait()


@pytest.mark.parametrize("place", ["directory", "cache"])
def test_a_signal_ends_it_whatever_the_registry_does(host: Host, place: str) -> None:
    with servers.serving(Silent) as url:
        lower: dict[str, Any] = {"digest": digest_of(b"other"), "size": 64 << 20}
        if place == "directory":
            lower["dir"] = str(host.home)
        config = host.home / "config.json"
        config.write_text(json.dumps({"repoBlobUrl": f"{url}/v2/a/blobs", "lowers": [lower]}))
        Silent.asked.clear()
        Silent.end.clear()
        command = [str(BIN / "obd"), "pull", "--full", str(config), "--service", str(host.service)]
        with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
            assert Silent.asked.wait(START_S)
            process.send_signal(signal.SIGTERM)
            # Below the half minute after which the registry is given up.
            assert process.wait(25) == -signal.SIGTERM
        Silent.end.set()


@pytest.mark.parametrize("place", ["directory", "cache"])
def test_a_wrong_digest(host: Host, place: str) -> None:
    with servers.serving(Wrong) as url:
        directory = host.home / "a"
        directory.mkdir()
        lower: dict[str, Any] = {"digest": digest_of(b"other"), "size": len(Wrong.data)}
        if place == "directory":
            lower["dir"] = str(directory)
        config = host.home / "config.json"
        config.write_text(json.dumps({"repoBlobUrl": f"{url}/v2/a/blobs", "lowers": [lower]}))
        Wrong.served = 0
        done = host.pull(config)
    assert done.status == 255 and len(done.lines) == 1
    assert f"the registry's bytes are {digest_of(Wrong.data)}, not {digest_of(b'other')}" in done.lines[0]
    assert names(directory) == [] and Wrong.served >= 2 * len(Wrong.data)


def test_into_the_file_that_reads_fill(
    tmp_path: Path, registry: servers.Registry, layers: list[Path]
) -> None:
    host = Host(tmp_path, cacheType="download")
    config = host.config(registry, layers, tmp_path / "a", None)
    done = host.pull(config)
    assert done.status == 255 and len(done.lines) == 1 and "unsupported" in done.lines[0]
    assert names(tmp_path / "a") == ["overlaybd.commit"]
    assert (tmp_path / "a" / "overlaybd.commit").read_bytes() == layers[0].read_bytes()


def test_beside_another_that_downloads_it(host: Host, registry: servers.Registry, layers: list[Path]) -> None:
    config = host.config(registry, layers[:1], host.home / "a")
    partial = Partial.lock(str(host.home / "a"))
    assert partial is not None
    outcome: list[Done] = []
    thread = threading.Thread(target=lambda: outcome.append(host.pull(config)))
    thread.start()
    data = layers[0].read_bytes()
    partial.prepare(digest_of(data), len(data))
    Path(partial.path).write_bytes(data)
    assert thread.is_alive()
    partial.finish()
    partial.release()
    thread.join()
    assert outcome[0].status == 0
    assert (host.home / "a" / "overlaybd.commit").read_bytes() == data
