"""`obd convert` again: what was done is not done twice, also after a kill, or on a base in common."""

import json
import random
import re
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from obd.oci import open_source
from obd.oci.layers import NATIVE_ARTIFACT
from obd.service import Service
from tests.e2e.commands import BIN, ok, run
from tests.e2e.oci_images import Layer, Layout
from tests.e2e.servers import QuietHandler, Registry, serve, stop

MIB = 1 << 20
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with Registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "source")


def layer(name: str, size: int = 5000, compression: str = "gzip") -> Layer:
    """A layer with one file of random bytes, the same for the same name."""
    return Layer(compression).add(name, data=random.Random(name).randbytes(size))


def pushed(layout: Layout, descriptor: dict[str, Any], target: str) -> str:
    """Puts an image of the layout into a registry, as it is; returns its name there."""
    ok("obd", "copy", "--all", layout.tag(descriptor, target.replace("/", "-").replace(":", "-")), target)
    return target


def convert(source: str, target: str, work: Path, *words: str) -> dict[str, Any]:
    """What the command says of its work, which must succeed."""
    found = json.loads(ok("obd", "convert", "--json", "--work", work, source, target, *words).out)
    assert not list(work.glob("runs/*")) and not list(work.glob("layers/*"))
    return dict(found)


class Log:
    """What a registry was asked for since this was made."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._begin = registry.log.stat().st_size

    def requests(self, pattern: str) -> list[str]:
        """Methods and paths that match."""
        text = self._registry.log.read_bytes()[self._begin :].decode()
        return re.findall(rf'"({pattern}) HTTP/', text)


def hows(result: dict[str, Any]) -> list[str]:
    """What became of each layer."""
    return [layer["how"] for layer in result["images"][0]["layers"]]


def test_unchanged_moves_no_bytes(tmp_path: Path, layout: Layout, registry: Registry) -> None:
    source = pushed(layout, layout.image([layer("a"), layer("b")]), f"{registry.host}/unchanged/in:v1")
    target = f"{registry.host}/unchanged/out:v1"
    first = convert(source, target, tmp_path / "work")
    log = Log(registry)
    again = convert(source, target, tmp_path / "other")
    assert again["unchanged"] and again["digest"] == first["digest"]
    assert log.requests("(?:POST|PUT|PATCH) .*") == log.requests("GET /v2/.*/blobs/.*") == []
    # Other parameters are another image.
    other = convert(source, target, tmp_path / "work", "--algorithm", "zstd")
    assert not other["unchanged"] and other["digest"] != first["digest"]


def test_layers_are_taken_from_a_neighbour(tmp_path: Path, layout: Layout, registry: Registry) -> None:
    source = pushed(layout, layout.image([layer("c"), layer("d")]), f"{registry.host}/mount/in:v1")
    first = convert(source, f"{registry.host}/mount/out:v1", tmp_path / "work")
    log = Log(registry)
    again = convert(source, f"{registry.host}/mount/elsewhere:v1", tmp_path / "work")
    assert hows(again) == ["reused", "reused"] and again["digest"] == first["digest"]
    assert len(log.requests(r"POST \S*mount=\S*")) == 2
    # The configuration alone was sent, and read.
    assert len(log.requests("PUT /v2/.*/blobs/.*")) == 1
    assert len(log.requests("GET /v2/mount/in/blobs/.*")) == 1


def test_a_base_that_was_converted_is_read_in_place(
    tmp_path: Path, layout: Layout, registry: Registry
) -> None:
    base = layer("base", 16 * MIB, "")
    base.raw()
    home = f"{registry.host}/base"
    first = pushed(layout, layout.image([base, layer("e")]), f"{home}/in:v1")
    convert(first, f"{home}/out:v1", tmp_path / "work")
    image = layout.image([base, layer("f"), layer("g")])
    second, bottom = pushed(layout, image, f"{home}/in:v2"), layout.read(image)["layers"][0]["digest"]
    log = Log(registry)
    found = convert(second, f"{home}/out:v2", tmp_path / "work")
    assert hows(found) == ["reused", "built", "built"]
    assert log.requests(f"GET /v2/base/in/blobs/{bottom}") == []
    # Of the base only what its file system says of itself.
    ranges = log.requests(f"GET /v2/base/out/blobs/{found['images'][0]['layers'][0]['digest']}")
    assert 0 < len(ranges) < 24
    fresh = convert(second, f"oci:{tmp_path}/fresh:v2", tmp_path / "fresh-work")
    assert fresh["digest"] == found["digest"]


def test_as_if_nothing_had_been_done(tmp_path: Path, layout: Layout, registry: Registry) -> None:
    source = layout.tag(layout.image([layer("h")]), "v1")
    target = f"oci:{tmp_path}/out:v1"
    first = convert(source, target, tmp_path / "work")
    again = convert(source, target, tmp_path / "work", "--no-reuse")
    assert hows(again) == ["built"] and again["digest"] == first["digest"]


class Held:
    """A registry as others see it, but for one blob, whose bytes do not come before `release`."""

    def __init__(self, registry: Registry, digest: str) -> None:
        outer = self
        self._release = threading.Event()
        self.asked = threading.Event()

        class Handler(QuietHandler):
            def do_GET(self) -> None:
                if digest in self.path:
                    outer.asked.set()
                    outer._release.wait()
                head = {name: value for name, value in self.headers.items() if name != "Host"}
                request = urllib.request.Request(registry.url + self.path, headers=head)
                with urllib.request.urlopen(request) as answer:
                    kept = ("Content-Type", "Content-Range", "Docker-Content-Digest")
                    shown = {name: answer.headers[name] for name in kept if answer.headers[name]}
                    self.answer(answer.status, answer.read(), shown)

        self._server = serve(Handler)
        self.host = f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._release.set()
        stop(self._server)


def stopped(source: str, target: str, work: Path, finished: int, number: int = signal.SIGKILL) -> int:
    """Begins a conversion and ends it by a signal when so many layers are finished; its status."""
    command: list[str | Path] = [BIN / "obd", "convert", "--work", work, source, target]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + PATIENCE_S
        while not list(work.glob("runs/*/*fetched")) or len(list(work.glob("records/*.json"))) < finished:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(number)
        process.wait(PATIENCE_S)
    assert len(list(work.glob("layers/*"))) == finished
    return int(process.returncode)


@pytest.mark.parametrize("finished", [0, 3])
def test_killed_and_begun_again(tmp_path: Path, layout: Layout, registry: Registry, finished: int) -> None:
    image = layout.image([layer(f"{n}", MIB, "") for n in range(5)])
    source = pushed(layout, image, f"{registry.host}/killed/in:v1")
    work, target = tmp_path / "work", f"{registry.host}/killed/out{finished}:v1"
    with Held(registry, layout.read(image)["layers"][finished]["digest"]) as held:
        stopped(source.replace(registry.host, held.host), target, work, finished)
    assert list(work.glob("runs/*"))
    assert run("obd", "inspect", target).status == 255
    found = convert(source, target, work)
    assert hows(found) == ["reused"] * finished + ["built"] * (5 - finished)
    fresh = convert(source, f"oci:{tmp_path}/fresh:v1", tmp_path / "fresh-work")
    assert fresh["digest"] == found["digest"]


def test_stopped(tmp_path: Path, layout: Layout, registry: Registry) -> None:
    image = layout.image([layer(f"{n}", MIB, "") for n in range(3)])
    source = pushed(layout, image, f"{registry.host}/stopped/in:v1")
    work, target = tmp_path / "work", f"oci:{tmp_path}/out:v1"
    with Held(registry, layout.read(image)["layers"][1]["digest"]) as held:
        status = stopped(source.replace(registry.host, held.host), target, work, 1, signal.SIGTERM)
    assert status == -signal.SIGTERM and not list(work.glob("runs/*"))
    assert hows(convert(source, target, work)) == ["reused", "built", "built"]


def test_a_copy_that_is_stopped_leaves_no_part_of_an_archive(
    tmp_path: Path, layout: Layout, registry: Registry
) -> None:
    image = layout.image([layer("0", MIB, "")])
    source = pushed(layout, image, f"{registry.host}/stopped/copy:v1")
    out = tmp_path / "out"
    out.mkdir()
    with Held(registry, layout.read(image)["layers"][0]["digest"]) as held:
        words = ["copy", source.replace(registry.host, held.host), f"oci-archive:{out}/a.tar"]
        with subprocess.Popen(
            [BIN / "obd", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert held.asked.wait(PATIENCE_S), process.communicate()
            assert list(out.iterdir()), "a part that is not whole"
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == -signal.SIGTERM, said
    assert not list(out.iterdir())


def test_a_damaged_layer_of_a_killed_run_is_made_anew(
    tmp_path: Path, layout: Layout, registry: Registry
) -> None:
    image = layout.image([layer(f"{n}", MIB, "") for n in range(3)])
    source = pushed(layout, image, f"{registry.host}/damaged/in:v1")
    work, target = tmp_path / "work", f"oci:{tmp_path}/out:v1"
    with Held(registry, layout.read(image)["layers"][2]["digest"]) as held:
        stopped(source.replace(registry.host, held.host), target, work, 2)
    for file in (work / "layers").iterdir():
        with file.open("r+b") as damaged:
            damaged.seek(MIB // 2)
            damaged.write(b"damaged")
    for blob in (tmp_path / "out/blobs/sha256").iterdir():
        blob.unlink()
    found = convert(source, target, work)
    assert hows(found) == ["built"] * 3
    for each in found["images"][0]["layers"]:
        ok("obd", "verify", tmp_path / "out/blobs" / each["digest"].replace(":", "/"))


def platforms(layout: Layout) -> dict[str, Any]:
    """An index of images for two platforms, the first with an attestation."""
    entries = []
    for name in ("amd64", "arm64"):
        image = layout.image([layer(f"{name}-1"), layer(f"{name}-2")], config={"architecture": name})
        entries.append({**image, "platform": {"os": "linux", "architecture": name}})
    statement = layout.blob(b"{}", "application/vnd.in-toto+json")
    config = layout.blob(b"{}\n", "application/vnd.oci.image.config.v1+json")
    document = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config,
        "layers": [statement],
    }
    attestation = layout.blob(json.dumps(document).encode(), str(document["mediaType"]))
    says = {"vnd.docker.reference.type": "attestation-manifest"}
    annotations = {**says, "vnd.docker.reference.digest": entries[0]["digest"]}
    unknown = {"os": "unknown", "architecture": "unknown"}
    entries.append({**attestation, "annotations": annotations, "platform": unknown})
    return layout.index(entries)


def test_all_platforms(tmp_path: Path, layout: Layout, registry: Registry) -> None:
    source = pushed(layout, platforms(layout), f"{registry.host}/platforms/in:v1")
    target = f"{registry.host}/platforms/out:v1"
    found = convert(source, target, tmp_path / "work", "--all", "--referrer")
    assert [image["platform"] for image in found["images"]] == ["linux/amd64", "linux/arm64"]
    again = convert(source, target, tmp_path / "work", "--all", "--referrer")
    assert again["unchanged"] and again["digest"] == found["digest"]
    ok("obd", "copy", "--all", target, f"oci:{tmp_path}/out:v1")
    out = Layout(tmp_path / "out")
    index = out.read(out.tagged("v1"))
    first, second, attestation = index["manifests"]
    assert [entry["platform"]["architecture"] for entry in (first, second)] == ["amd64", "arm64"]
    assert attestation["annotations"]["vnd.docker.reference.digest"] == first["digest"]
    assert index["artifactType"] == out.read(first)["artifactType"] == NATIVE_ARTIFACT
    originals = layout.read(layout.entries[-1])["manifests"]
    assert out.read(second)["subject"]["digest"] == originals[1]["digest"]
    with open_source(target, Service()) as place:
        root, _ = open_source(source, Service()).root()
        (referrer,) = place.referrers(root, NATIVE_ARTIFACT)
    assert referrer.digest == found["digest"]


def test_beside_the_original(tmp_path: Path, layout: Layout, registry: Registry) -> None:
    source = pushed(layout, platforms(layout), f"{registry.host}/beside/in:v1")
    originals = layout.read(layout.entries[-1])["manifests"]
    target, work = f"{registry.host}/beside/out:v1", tmp_path / "work"
    convert(source, target, work, "--index", "--platform", "linux/arm64")
    found = convert(source, target, work, "--index", "--platform", "linux/amd64")
    assert convert(source, target, work, "--index", "--all")["unchanged"]
    again = convert(source, target, work, "--index", "--platform", "linux/amd64")
    assert again["unchanged"] and again["digest"] == found["digest"]
    ok("obd", "copy", "--all", target, f"oci:{tmp_path}/out:v1")
    out = Layout(tmp_path / "out")
    entries = out.read(out.tagged("v1"))["manifests"]
    assert [entry["digest"] for entry in entries[:2]] == [originals[1]["digest"], originals[0]["digest"]]
    shown = [(entry["platform"]["architecture"], entry.get("artifactType")) for entry in entries]
    kind = NATIVE_ARTIFACT
    assert shown == [("arm64", None), ("amd64", None), ("arm64", kind), ("amd64", kind)]
    # Each reader takes what it understands.
    ok("obd", "pull", "--full", target, "--platform", "linux/arm64", "--service", service(tmp_path))
    zstd = convert(source, target, work, "--index", "--platform", "linux/amd64", "--algorithm", "zstd")
    ok("obd", "copy", "--all", target, f"oci:{tmp_path}/out:v2")
    entries = out.read(out.tagged("v2"))["manifests"]
    assert len(entries) == 4 and zstd["images"][0]["digest"] == entries[3]["digest"]


def service(home: Path) -> Path:
    """A service configuration with a cache of its own."""
    path = home / "overlaybd.json"
    cache = {"cacheType": "file", "cacheDir": str(home / "cache"), "cacheSizeGB": 1}
    path.write_text(json.dumps({"cacheConfig": cache}))
    return path


def test_one_of_several_platforms(tmp_path: Path, layout: Layout) -> None:
    source = layout.tag(platforms(layout), "v1")
    found = convert(source, f"oci:{tmp_path}/out:v1", tmp_path / "work", "--platform", "linux/arm64")
    assert [image["platform"] for image in found["images"]] == ["linux/arm64"]
    out = Layout(tmp_path / "out")
    assert out.read(out.read(out.tagged("v1"))["config"])["architecture"] == "arm64"
    done = run("obd", "convert", source, f"oci:{tmp_path}/out:v2", "--platform", "linux/s390x")
    assert done.status == 255 and "no image for linux/s390x; there are: linux/amd64, linux/arm64" in done.err


def test_a_bad_layer_leaves_no_tag(tmp_path: Path, layout: Layout, registry: Registry) -> None:
    bad = Layer("")
    bad.raw = lambda: b"x" * 5000  # type: ignore[method-assign]
    source = pushed(layout, layout.image([layer("i"), bad]), f"{registry.host}/bad/in:v1")
    work = tmp_path / "work"
    done = run("obd", "convert", "--work", work, source, f"{registry.host}/bad/out:v1")
    assert (done.status, len(done.lines)) == (255, 1)
    assert Log(registry).requests("PUT /v2/bad/out/manifests/.*") == []
    done = run("obd", "inspect", f"{registry.host}/bad/out:v1")
    assert done.status == 255 and "not-found" in done.err


def test_from_and_to_archives(tmp_path: Path, layout: Layout) -> None:
    source = layout.tag(layout.image([layer("j"), layer("k", 300_000)]), "v1")
    wanted = convert(source, f"oci:{tmp_path}/out:v1", tmp_path / "work")
    ok("obd", "copy", source, f"docker-archive:{tmp_path}/in.tar:app:v1")
    ok("obd", "copy", source, f"oci-archive:{tmp_path}/oci.tar:v1")
    made = convert(
        f"oci-archive:{tmp_path}/oci.tar:v1", f"oci-archive:{tmp_path}/a.tar:v1", tmp_path / "work"
    )
    assert made["digest"] == wanted["digest"]
    made = convert(f"docker-archive:{tmp_path}/in.tar", f"oci-archive:{tmp_path}/b.tar:v1", tmp_path / "work")
    layers = [each["digest"] for each in made["images"][0]["layers"]]
    assert layers == [each["digest"] for each in wanted["images"][0]["layers"]]
    ok("obd", "copy", f"oci-archive:{tmp_path}/a.tar:v1", f"oci:{tmp_path}/back:v1")
    bad = Layer("")
    bad.raw = lambda: b"x" * 5000  # type: ignore[method-assign]
    broken = layout.tag(layout.image([layer("j"), bad]), "v2")
    target = f"oci-archive:{tmp_path}/c.tar:v1"
    assert run("obd", "convert", "--work", tmp_path / "work", broken, target).status == 255
    assert not list(tmp_path.glob("*c.tar*"))


def test_with_credentials(tmp_path: Path, layout: Layout) -> None:
    with Registry(tmp_path / "guarded", users={"ann": "secret"}) as guarded:
        given = {"auths": {guarded.host: {"username": "ann", "password": "secret"}}}
        (tmp_path / "cred.json").write_text(json.dumps(given))
        words = ["--credentials", str(tmp_path / "cred.json")]
        source = layout.tag(layout.image([layer("l"), layer("m")]), "v1")
        ok("obd", "copy", *words, source, f"{guarded.host}/in:v1")
        work = tmp_path / "work"
        convert(f"{guarded.host}/in:v1", f"{guarded.host}/out:v1", work, *words)
        done = run("obd", "convert", "--work", work, f"{guarded.host}/in:v1", f"{guarded.host}/out:v2")
        assert done.status == 255 and "denied" in done.err and len(done.lines) == 1
