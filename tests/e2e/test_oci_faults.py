"""Images on their way through networks that break, and what refers to an image where no registry lists it."""

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import requests

from obd.oci import Descriptor, Manifest, media, open_destination, open_source
from obd.oci.layout import blob_name
from obd.oci.layout_destination import LayoutDestination
from obd.service import Service
from tests.e2e.commands import ok, run, sha256
from tests.e2e.cutting import Cutting
from tests.e2e.servers import Registry

LAYER = random.Random(7).randbytes(6 << 20)
CONFIG = json.dumps({"os": "linux", "rootfs": {"diff_ids": [f"sha256:{sha256(LAYER)}"]}}).encode()
IMAGE = Manifest(Descriptor.of(CONFIG, media.OCI_CONFIG), (Descriptor.of(LAYER, media.OCI_LAYER),))
DIGEST = IMAGE.descriptor().digest


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with Registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def proxy(registry: Registry) -> Iterator[Cutting]:
    with Cutting(registry.port) as running:
        yield running


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("layout")
    with LayoutDestination(str(path), "v1") as layout:
        layout.put_blob(IMAGE.layers[0], LAYER)
        layout.put_blob(IMAGE.config, CONFIG)
        layout.put_manifest(IMAGE.descriptor(), IMAGE.encode(), "v1")
    return f"oci:{path}:v1"


def check(registry: Registry, repository: str) -> None:
    """The image is in the registry, all of it."""
    url = registry.repository(repository)
    assert requests.get(f"{url}/blobs/{IMAGE.layers[0].digest}", timeout=10).content == LAYER
    kind = {"Accept": media.OCI_MANIFEST}
    assert requests.get(f"{url}/manifests/v1", headers=kind, timeout=10).content == IMAGE.encode()


def test_a_broken_download_goes_on(tmp_path: Path, registry: Registry, proxy: Cutting, layout: str) -> None:
    ok("obd", "copy", layout, f"{registry.host}/download/app:v1")
    proxy.cuts, proxy.after_received = 3, 1 << 20
    ok("obd", "copy", f"{proxy.host}/download/app:v1", f"oci:{tmp_path / 'out'}:v1")
    assert proxy.cuts <= 0, "all that was to break did"
    assert (tmp_path / "out" / blob_name(IMAGE.layers[0].digest)).read_bytes() == LAYER


@pytest.mark.parametrize("kind", ["stream", "file"])
def test_a_broken_upload_is_made_good(registry: Registry, proxy: Cutting, layout: str, kind: str) -> None:
    name = f"{proxy.host}/upload/{kind}:v1"
    proxy.cuts, proxy.after_sent = 2, 1 << 20
    if kind == "stream":
        ok("obd", "copy", layout, name)
    else:
        path = layout.split(":")[1]
        with open_destination(name, Service(None)) as there:
            there.put_blob(IMAGE.layers[0], f"{path}/{blob_name(IMAGE.layers[0].digest)}")
            there.put_blob(IMAGE.config, CONFIG)
            there.put_manifest(IMAGE.descriptor(), IMAGE.encode(), "v1")
    assert proxy.cuts <= 0, "all that was to break did"
    check(registry, f"upload/{kind}")


@pytest.mark.parametrize("method", [b"HEAD ", b"POST ", b"PUT "])
def test_an_answer_that_is_lost(registry: Registry, proxy: Cutting, layout: str, method: bytes) -> None:
    repository = f"lost/{method.decode().strip().lower()}"
    proxy.cuts, proxy.unanswered = 1, method
    ok("obd", "copy", layout, f"{proxy.host}/{repository}:v1", "--jobs", "1")
    assert proxy.cuts <= 0, "all that was to break did"
    check(registry, repository)


def test_a_network_that_does_nothing_but_break_ends_it(
    tmp_path: Path, registry: Registry, proxy: Cutting, layout: str
) -> None:
    ok("obd", "copy", layout, f"{registry.host}/never/app:v1")
    proxy.cuts, proxy.after_sent = 1_000_000, 1
    done = run("obd", "copy", layout, f"{proxy.host}/never/other:v1")
    assert done.status == 255 and done.lines[-1].startswith(
        f"obd: io: HEAD http://{proxy.host}/v2/never/other/"
    )
    done = run("obd", "copy", f"{proxy.host}/never/app:v1", f"oci:{tmp_path / 'out'}:v1")
    assert done.status == 255 and done.lines[-1].startswith("obd: io: GET ")


def test_what_a_registry_has_damaged_is_not_taken(tmp_path: Path, registry: Registry, layout: str) -> None:
    ok("obd", "copy", layout, f"{registry.host}/damaged/app:v1")
    digits = IMAGE.layers[0].digest.partition(":")[2]
    file = registry.blobs / digits[:2] / digits / "data"
    try:
        file.write_bytes(LAYER[:-1] + bytes([LAYER[-1] ^ 1]))
        done = run("obd", "copy", f"{registry.host}/damaged/app:v1", f"oci:{tmp_path / 'out'}:v1")
        assert done.status == 255 and done.lines[-1].startswith(
            f"obd: corrupt: {registry.url}/v2/damaged/app/"
        )
        assert f"not {IMAGE.layers[0].digest}" in done.lines[-1]
        file.write_bytes(LAYER[:-1])
        done = run("obd", "copy", f"{registry.host}/damaged/app:v1", f"oci:{tmp_path / 'out'}:v1")
        assert done.status == 255
    finally:
        file.write_bytes(LAYER)
    assert run("obd", "inspect", f"oci:{tmp_path / 'out'}:v1").status == 255, "it has no tag"


def test_what_refers_to_an_image_is_listed_where_the_registry_does_not(
    registry: Registry, layout: str
) -> None:
    """docker-registry 2.8 knows nothing of referrers: clients keep the list under a tag."""
    name = f"{registry.host}/referrers/app:v1"
    ok("obd", "copy", layout, name)
    subject = IMAGE.descriptor()
    with open_destination(name, Service(None)) as there, open_source(name, Service(None)) as source:
        assert source.referrers(subject) == ()
        made = []
        for number, kind in enumerate(("application/vnd.a", "application/vnd.b")):
            one = replace(IMAGE, subject=subject, artifact_type=kind, annotations={"number": str(number)})
            for _ in range(2):
                there.put_manifest(one.descriptor(), one.encode(), None)
            made.append(one.descriptor().digest)
        found = source.referrers(subject)
        assert [(entry.digest, entry.artifact_type) for entry in found] == list(
            zip(made, ("application/vnd.a", "application/vnd.b"), strict=True)
        )
        assert found[1].annotations == {"number": "1"}
        assert [entry.digest for entry in source.referrers(subject, "application/vnd.b")] == made[1:]
    tag = f"{registry.repository('referrers/app')}/manifests/sha256-{DIGEST[7:]}"
    answer = requests.get(tag, headers={"Accept": media.OCI_INDEX}, timeout=10)
    assert [entry["digest"] for entry in answer.json()["manifests"]] == made


def test_what_refers_to_an_image_in_a_layout(tmp_path: Path) -> None:
    one = replace(IMAGE, subject=IMAGE.descriptor(), artifact_type="application/vnd.a")
    with LayoutDestination(str(tmp_path), "v1") as layout:
        layout.put_manifest(IMAGE.descriptor(), IMAGE.encode(), "v1")
        layout.put_manifest(one.descriptor(), one.encode(), "")
    with open_source(f"oci:{tmp_path}:v1", Service(None)) as source:
        (found,) = source.referrers(source.root()[0])
        assert (found.digest, found.artifact_type) == (one.descriptor().digest, "application/vnd.a")
        assert source.referrers(one.descriptor()) == ()
