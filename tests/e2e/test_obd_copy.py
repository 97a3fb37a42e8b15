"""`obd copy` and `obd inspect` beside skopeo and umoci: all kinds of places, both ways."""

import json
import random
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from obd.oci import Descriptor, Index, Manifest, Platform, media, open_destination, parse_manifest
from obd.oci.layout import blob_name
from obd.oci.layout_destination import LayoutDestination
from obd.service import Service
from tests.e2e.commands import Done, names, ok, run
from tests.e2e.commands import place as place_golden
from tests.e2e.servers import Registry, TokenServer

NAME = "team/app:v1"


def program(*words: str | Path) -> str:
    """Runs another program that must succeed; its stdout."""
    done = subprocess.run([str(word) for word in words], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, f"{words}: {done.stderr.decode()}"
    return done.stdout.decode()


def skopeo(source: str, target: str, *more: str) -> None:
    program(
        "skopeo",
        "copy",
        "--quiet",
        "--src-tls-verify=false",
        "--dest-tls-verify=false",
        *more,
        source,
        target,
    )


@dataclass(frozen=True)
class Image:
    """An image of two layers that umoci made, in the layout `layout` under the tag v1."""

    layout: Path

    @property
    def place(self) -> str:
        return f"oci:{self.layout}:v1"

    @property
    def raw(self) -> bytes:
        index = json.loads((self.layout / "index.json").read_text())
        return (self.layout / blob_name(index["manifests"][0]["digest"])).read_bytes()

    @property
    def digest(self) -> str:
        return Descriptor.of(self.raw, media.OCI_MANIFEST).digest

    @property
    def config(self) -> dict[str, object]:
        found = json.loads((self.layout / blob_name(self.manifest.config.digest)).read_bytes())
        assert isinstance(found, dict)
        return found

    @property
    def manifest(self) -> Manifest:
        found = parse_manifest(self.raw)
        assert isinstance(found, Manifest)
        return found


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    home = tmp_path_factory.mktemp("image")
    name, bundle = f"{home / 'layout'}:v1", home / "bundle"
    program("umoci", "init", "--layout", home / "layout")
    program("umoci", "new", "--image", name)
    for number in range(2):
        shutil.rmtree(bundle, ignore_errors=True)
        program("umoci", "unpack", "--image", name, bundle)
        (bundle / "rootfs" / f"file{number}").write_bytes(random.Random(number).randbytes(2_000_000))
        program("umoci", "repack", "--image", name, bundle)
    program("umoci", "config", "--image", name, "--config.cmd", "/bin/app", "--config.label", "a=\x1b[2J")
    program("umoci", "gc", "--layout", home / "layout")
    return Image(home / "layout")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with Registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


def place(kind: str, directory: Path, registry: Registry) -> str:
    """A place of that kind, as our commands name it."""
    if kind == "docker":
        return f"docker://{registry.host}/{directory.name.lower()}/{NAME}"
    return f"{kind}:{directory / kind}:{'v1' if kind == 'oci' else NAME}"


KINDS = ["docker", "oci", "oci-archive", "docker-archive"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_we_write_others_read(tmp_path: Path, image: Image, registry: Registry, kind: str) -> None:
    there = place(kind, tmp_path, registry)
    done = ok("obd", "copy", image.place, there)
    assert done.out == f"{image.digest} {there}: 3 copied (3.8 MiB)\n" and done.err == ""
    skopeo(there, f"oci:{tmp_path / 'back'}:v1")
    back = Image(tmp_path / "back")
    if kind == "docker-archive":
        # Its format has no manifest, and skopeo writes the configuration anew: the layers are the same.
        assert back.config["rootfs"] == image.config["rootfs"]
    else:
        assert back.raw == image.raw
    # To us all of it is there.
    ok("obd", "copy", there, f"oci:{tmp_path / 'again'}:v1")
    assert Image(tmp_path / "again").raw == image.raw
    blobs = Path("blobs/sha256")
    assert names(tmp_path / "again" / blobs) == names(image.layout / blobs)
    for blob in (image.layout / blobs).iterdir():
        assert (tmp_path / "again" / blobs / blob.name).read_bytes() == blob.read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_what_others_write_we_read(tmp_path: Path, image: Image, registry: Registry, kind: str) -> None:
    there = place(kind, tmp_path, registry)
    skopeo(image.place, there)
    ok("obd", "copy", there, f"oci:{tmp_path / 'ours'}:v1")
    ours = Image(tmp_path / "ours")
    if kind != "docker-archive":
        assert ours.raw == image.raw
    assert ours.manifest.config.digest == image.manifest.config.digest
    program("umoci", "unpack", "--image", f"{ours.layout}:v1", tmp_path / "bundle")
    for number in range(2):
        file = tmp_path / "bundle" / "rootfs" / f"file{number}"
        assert file.read_bytes() == random.Random(number).randbytes(2_000_000)


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory, image: Image) -> tuple[str, Index]:
    """An index of images for two platforms, in an index, in a layout; and what it is."""
    path = tmp_path_factory.mktemp("several")
    one = image.manifest
    config = json.loads((image.layout / blob_name(one.config.digest)).read_bytes())
    with LayoutDestination(str(path), "all") as layout:
        entries = []
        for architecture in ("amd64", "s390x"):
            data = json.dumps({**config, "architecture": architecture}).encode()
            manifest = replace(one, config=Descriptor.of(data, media.OCI_CONFIG))
            layout.put_blob(manifest.config, data)
            layout.put_manifest(manifest.descriptor(), manifest.encode(), None)
            entries.append(replace(manifest.descriptor(), platform=Platform("linux", architecture)))
        for blob in one.layers:
            layout.put_blob(blob, str(image.layout / blob_name(blob.digest)))
        index = Index(tuple(entries), {"what": "several"})
        layout.put_manifest(index.descriptor(), index.encode(), "all")
    return f"oci:{path}:all", index


def test_all_platforms_or_one(tmp_path: Path, several: tuple[str, Index], registry: Registry) -> None:
    source, index = several
    there = f"{registry.host}/several/app:all"
    ok("obd", "copy", "--all", source, there)
    raw = program("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{there}")
    assert raw.encode() == index.encode()
    skopeo(f"docker://{there}", f"oci:{tmp_path / 'skopeo'}:all", "--all")
    ok("obd", "copy", "--all", f"oci:{tmp_path / 'skopeo'}:all", f"oci-archive:{tmp_path / 'a.tar'}:all")
    ok(
        "obd",
        "copy",
        "--platform",
        "linux/s390x",
        f"oci-archive:{tmp_path / 'a.tar'}",
        f"oci:{tmp_path / 'z'}:v1",
    )
    assert Image(tmp_path / "z").digest == index.manifests[1].digest
    done = run("obd", "copy", "--platform", "linux/riscv64", there, f"oci:{tmp_path / 'z'}:v1")
    assert done.status == 255
    assert done.lines[0].endswith("no image for linux/riscv64; there are: linux/amd64, linux/s390x")
    assert Image(tmp_path / "z").digest == index.manifests[1].digest


def test_manifests_of_docker_stay_what_they_are(tmp_path: Path, image: Image, registry: Registry) -> None:
    first, second = f"{registry.host}/docker/one:v1", f"{registry.host}/docker/two:v1"
    skopeo(image.place, f"docker://{first}", "--format=v2s2")
    archive = f"oci-archive:{tmp_path / 'a.tar'}:v1"
    ok("obd", "copy", first, archive)
    ok("obd", "copy", archive, second)
    raw = [
        program("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{name}")
        for name in (first, second)
    ]
    assert raw[0] == raw[1] == ok("obd", "inspect", "--raw", archive).out
    assert json.loads(raw[0])["mediaType"] == media.DOCKER_MANIFEST
    about = json.loads(ok("obd", "inspect", "--json", archive).out)
    assert [layer["kind"] for layer in about["image"]["layers"]] == ["gzip", "gzip"]
    assert about["image"]["config"]["Cmd"] == ["/bin/app"]


def test_nothing_is_sent_twice(image: Image, registry: Registry) -> None:
    first, second = f"{registry.host}/twice/app:v1", f"{registry.host}/twice/other:v1"
    ok("obd", "copy", image.place, first)
    assert ok("obd", "copy", image.place, first).out.endswith(": 0 copied (0 bytes), 3 there (3.8 MiB)\n")
    assert ok("obd", "copy", first, second).out.endswith(": 0 copied (0 bytes), 3 mounted (3.8 MiB)\n")
    log = registry.log.read_text()
    layer = image.manifest.layers[0].digest
    assert f'POST /v2/twice/other/blobs/uploads/?mount={layer}&from=twice/app HTTP/1.1" 201' in log
    assert "PATCH /v2/twice/other" not in log


def test_with_tokens_and_mounts(tmp_path: Path, image: Image) -> None:
    """Who may pull from one repository and push to another has blobs mounted by one token for both."""
    with TokenServer(tmp_path / "tokens", {"ann": "secret"}) as tokens:  # noqa: SIM117 - one needs the other
        with Registry(tmp_path / "registry", tokens=tokens) as registry:
            there = f"{registry.host}/one/app:v1"
            service = tmp_path / "service.json"
            service.write_text(json.dumps({"credentialConfig": {"mode": "file", "path": "/absent"}}))
            done = run("obd", "copy", image.place, there, "--service", service)
            assert done.status == 255 and len(done.lines) >= 1
            assert done.lines[-1].startswith("obd: denied: ")
            cred = tmp_path / "cred.json"
            cred.write_text(json.dumps({"auths": {registry.host: {"username": "ann", "password": "secret"}}}))
            ok("obd", "copy", image.place, there, "--credentials", cred)
            other = f"{registry.host}/two/app:v1"
            assert "3 mounted" in ok("obd", "copy", there, other, "--credentials", cred).out


def test_several_may_write_to_one_layout(tmp_path: Path, image: Image) -> None:
    outcomes: list[Done] = []

    def copy(tag: str) -> None:
        outcomes.append(run("obd", "copy", image.place, f"oci:{tmp_path / 'layout'}:{tag}"))

    tags = [f"v{number}" for number in range(4)]
    threads = [threading.Thread(target=copy, args=(tag,)) for tag in tags]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [done.status for done in outcomes] == [0] * 4, outcomes
    assert sorted(program("umoci", "list", "--layout", tmp_path / "layout").split()) == tags
    assert names(tmp_path / "layout") == ["blobs", "index.json", "oci-layout"]


@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive"])
def test_an_archive_is_whole_or_not_there(tmp_path: Path, image: Image, kind: str) -> None:
    path = tmp_path / "out" / "a.tar"
    path.parent.mkdir()
    broken = tmp_path / "broken"
    shutil.copytree(image.layout, broken)
    layer = broken / blob_name(image.manifest.layers[1].digest)
    layer.write_bytes(layer.read_bytes()[:-1])
    done = run("obd", "copy", f"oci:{broken}:v1", f"{kind}:{path}:v1")
    assert done.status == 255 and done.lines[0].startswith(f"obd: corrupt: {layer}: ends after ")
    assert names(path.parent) == []
    path.write_text("precious")
    done = run("obd", "copy", image.place, f"{kind}:{path}:v1")
    assert done.lines == [f"obd: exists: {path}: is there already and is not overwritten"]
    assert path.read_text() == "precious"


def test_what_is_damaged_gets_no_tag(tmp_path: Path, image: Image, registry: Registry) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(image.layout, broken)
    layer = broken / blob_name(image.manifest.layers[0].digest)
    data = bytearray(layer.read_bytes())
    data[1000] ^= 1
    layer.write_bytes(data)
    for target in (f"{registry.host}/damaged/app:v1", f"oci:{tmp_path / 'layout'}:v1"):
        done = run("obd", "copy", f"oci:{broken}:v1", target)
        assert done.status == 255 and done.lines[0].startswith(
            f"obd: corrupt: {layer}: the bytes are sha256:"
        )
        done = run("obd", "inspect", target)
        assert done.status == 255 and "not-found" in done.lines[0]


def test_an_image_for_people(image: Image) -> None:
    out = ok("obd", "inspect", image.place).out
    assert f"\ndigest:     {image.digest}\n" in out
    assert "\nruns on:    linux/amd64\n" in out and '\ncommand:    ["/bin/app"]\n' in out
    assert "\nlayers:     2, 3.8 MiB\n" in out
    for number, layer in enumerate(image.manifest.layers):
        assert f"    {number}  gzip           1.9 MiB  {layer.digest}\n" in out
    assert "\x1b" not in out, "an image does nothing to a terminal"


def test_an_index_for_people(several: tuple[str, Index]) -> None:
    source, index = several
    out = ok("obd", "inspect", source, "--platform", "linux/s390x").out
    assert "\nannotation: what=several\n" in out
    assert f"\nplatform:   linux/amd64      {index.manifests[0].digest}\n" in out
    assert f"\nfor linux/s390x:\ndigest:     {index.manifests[1].digest}\nruns on:    linux/s390x\n" in out
    assert ok("obd", "inspect", source, "--platform", "linux/arm").out.endswith("for linux/arm: no image\n")


def test_an_image_for_programs(image: Image, several: tuple[str, Index]) -> None:
    about = json.loads(ok("obd", "inspect", "--json", image.place).out)
    assert (about["digest"], about["image"]["digest"]) == (image.digest, image.digest)
    assert [layer["kind"] for layer in about["image"]["layers"]] == ["gzip", "gzip"]
    assert about["image"]["config"]["Cmd"] == ["/bin/app"]
    source, _ = several
    about = json.loads(ok("obd", "inspect", "--json", source).out)
    assert [entry["platform"] for entry in about["manifests"]] == ["linux/amd64", "linux/s390x"]


def test_an_image_of_ours_and_what_refers_to_it(tmp_path: Path, registry: Registry) -> None:
    (layer,) = place_golden(tmp_path, "lsmt/a.commit")
    name = f"{registry.host}/ours/app:v1"
    ok("obd", "push", layer, "--to", name)
    about = json.loads(ok("obd", "inspect", "--json", name).out)
    ((kind, version),) = [(layer["kind"], layer["version"]) for layer in about["image"]["layers"]]
    assert (kind, version) == ("overlaybd", "0.1.0")
    raw = ok("obd", "inspect", "--raw", name).out.encode()
    found = parse_manifest(raw)
    assert isinstance(found, Manifest)
    referrer = replace(found, subject=found.descriptor(), artifact_type="application/vnd.test")
    with open_destination(name, Service(None)) as there:
        there.put_manifest(referrer.descriptor(), referrer.encode(), None)
    out = ok("obd", "inspect", name).out
    assert f"\nreferrer:   {referrer.descriptor().digest} (application/vnd.test)\n" in out
    assert "\n    0  overlaybd " in out


def test_the_bytes_themselves(image: Image, several: tuple[str, Index]) -> None:
    assert ok("obd", "inspect", "--raw", image.place).out.encode() == image.raw
    source, index = several
    assert ok("obd", "inspect", "--raw", source).out.encode() == index.encode()
    chosen = ok("obd", "inspect", "--raw", source, "--platform", "linux/s390x").out.encode()
    assert Descriptor.of(chosen, "").digest == index.manifests[1].digest


def test_wrong_names(tmp_path: Path) -> None:
    for word in ("nowhere", "ftp://host/name", "oci:", "host/name:", "host/name@sha256:12", "host/a b"):
        done = run("obd", "inspect", word)
        assert done.status == 255 and done.lines[0].startswith("obd: invalid: "), done.err
    done = run("obd", "copy", f"oci:{tmp_path / 'a'}", f"oci:{tmp_path / 'b'}")
    assert done.status == 255 and done.lines[0].startswith(f"obd: not-found: {tmp_path / 'a'}: no OCI layout")
    done = run("obd", "copy", f"oci:{tmp_path}", f"oci:{tmp_path}", "--all", "--platform", "linux/arm")
    assert done.lines == ["obd: invalid: copy: --all or --platform, not both"]


def test_what_a_killed_one_left_goes_with_the_next(tmp_path: Path, image: Image) -> None:
    (tmp_path / ".obd-0011223344556677.tmp").write_bytes(b"half")
    ok("obd", "copy", image.place, f"oci-archive:{tmp_path / 'a.tar'}:v1")
    assert names(tmp_path) == ["a.tar"]
