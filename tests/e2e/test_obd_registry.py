"""`obd push` and images that are in a real registry: what is fetched, what is kept, what a failure says."""

import hashlib
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

import obd
from obd.reasons import OpenError
from obd.service import Service
from tests.e2e.commands import ok, run
from tests.e2e.servers import Registry

DISK_BYTES = 24 << 20


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with Registry(tmp_path_factory.mktemp("registry"), users={"ann": "secret"}) as running:
        yield running


@pytest.fixture(scope="module")
def credentials(tmp_path_factory: pytest.TempPathFactory, registry: Registry) -> Path:
    path = tmp_path_factory.mktemp("credentials") / "cred.json"
    path.write_text(json.dumps({"auths": {registry.host: {"username": "ann", "password": "secret"}}}))
    return path


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("raw") / "disk.raw"
    path.write_bytes(random.Random(3).randbytes(DISK_BYTES))
    return path


@pytest.fixture(scope="module")
def image(
    tmp_path_factory: pytest.TempPathFactory, registry: Registry, credentials: Path, raw: Path
) -> tuple[Path, Path]:
    """A pushed layer and the configuration that `obd push` wrote for it."""
    home = tmp_path_factory.mktemp("image")
    ok("obd", "import", "-z", "-t", raw, home / "layer")
    done = ok(
        "obd", "push", home / "layer", "--to", f"{registry.host}/team/app:v1", "--credentials", credentials,
        "--config", home / "config.v1.json",
    )  # fmt: skip
    digest = "sha256:" + hashlib.sha256((home / "layer").read_bytes()).hexdigest()
    assert done.out.splitlines()[0] == f"{digest} {(home / 'layer').stat().st_size} {home / 'layer'}"
    return home / "layer", home / "config.v1.json"


def service(directory: Path, credentials: Path | None) -> Path:
    path = directory / "overlaybd.json"
    cache = {"cacheType": "file", "cacheDir": str(directory / "cache"), "cacheSizeGB": 1}
    document = {
        "cacheConfig": cache,
        "credentialConfig": {"mode": "file", "path": str(credentials or "/absent")},
    }
    path.write_text(json.dumps(document))
    return path


def with_result(config: Path, directory: Path, **more: object) -> Path:
    path = directory / "config.v1.json"
    path.write_text(
        json.dumps({**json.loads(config.read_text()), "resultFile": str(directory / "result"), **more})
    )
    return path


def test_only_what_is_read_is_fetched(
    tmp_path: Path, image: tuple[Path, Path], credentials: Path, raw: Path
) -> None:
    layer, config = image
    with obd.open(with_result(config, tmp_path), service(tmp_path, credentials)) as device:
        assert (tmp_path / "result").read_text() == "success"
        with raw.open("rb") as file:
            file.seek(5 << 20)
            assert device.read(5 << 20, 4096) == file.read(4096)
        fetched = device.statistics()["layers"][0]
        cached = sum(
            entry.stat().st_blocks * 512 for entry in (tmp_path / "cache").rglob("*") if entry.is_file()
        )
        assert 0 < cached < layer.stat().st_size / 4, fetched
        assert device.read(0, DISK_BYTES) == raw.read_bytes()


def test_the_whole_image_by_commands(
    tmp_path: Path, image: tuple[Path, Path], credentials: Path, raw: Path
) -> None:
    _, config = image
    settings = service(tmp_path, credentials)
    ok("obd", "export", "--service", settings, config, tmp_path / "back.raw")
    assert (tmp_path / "back.raw").read_bytes() == raw.read_bytes()
    assert ok("obd", "verify", "--service", settings, config).out.endswith(f"{config}: ok\n")


def test_a_corrupt_local_copy_is_got_round_and_the_log_says_so(
    tmp_path: Path, image: tuple[Path, Path], credentials: Path, raw: Path, caplog: pytest.LogCaptureFixture
) -> None:
    layer, config = image
    whole = layer.read_bytes()
    (tmp_path / "overlaybd.commit").write_bytes(whole[: len(whole) // 2])
    document = json.loads(config.read_text())
    lowers = [{**document["lowers"][0], "dir": str(tmp_path)}]
    with obd.open(with_result(config, tmp_path, lowers=lowers), service(tmp_path, credentials)) as device:
        assert device.read(0, DISK_BYTES) == raw.read_bytes()
        assert device.sources[0].path == ""
    assert (tmp_path / "result").read_text() == "success"
    assert "reading layer 0 from the registry instead" in caplog.text
    assert str(tmp_path / "overlaybd.commit") in caplog.text


def test_the_first_failure_is_the_one_reported(
    tmp_path: Path, image: tuple[Path, Path], credentials: Path
) -> None:
    _, config = image
    (tmp_path / "overlaybd.commit").write_bytes(b"broken" * 1000)
    lowers = [{"dir": str(tmp_path), "digest": "sha256:" + "0" * 64}]
    with pytest.raises(OpenError):
        obd.open(with_result(config, tmp_path, lowers=lowers), service(tmp_path, credentials))
    said = (tmp_path / "result").read_text()
    assert said.startswith("failed:failed to create overlaybd device: ")
    assert "; then: failed to open remote file " in said
    assert "No such file or directory" in said


def test_no_credentials_says_so_and_keeps_them_secret(tmp_path: Path, image: tuple[Path, Path]) -> None:
    _, config = image
    path = with_result(config, tmp_path)
    with pytest.raises(OpenError) as caught:
        obd.open(path, service(tmp_path, None))
    assert caught.value.kind == "denied"
    said = (tmp_path / "result").read_text()
    assert said.startswith("failed:failed to open remote file as tar file /http://127.0.0.1:")
    assert ": Authentication failed" in said
    wrong = tmp_path / "wrong.json"
    host = json.loads(config.read_text())["repoBlobUrl"].split("/")[2]
    wrong.write_text(json.dumps({"auths": {host: {"username": "ann", "password": "hunter2"}}}))
    with pytest.raises(OpenError):
        obd.open(path, service(tmp_path, wrong))
    said = (tmp_path / "result").read_text()
    assert "Authentication failed" in said and "hunter2" not in said


def test_a_registry_that_is_not_there(tmp_path: Path) -> None:
    document = {
        "repoBlobUrl": "http://127.0.0.1:1/v2/a/blobs",
        "lowers": [{"digest": "sha256:" + "1" * 64, "size": 4096}],
        "resultFile": str(tmp_path / "result"),
    }
    (tmp_path / "c.json").write_text(json.dumps(document))
    with pytest.raises(OpenError):
        obd.open(tmp_path / "c.json", service(tmp_path, None))
    said = (tmp_path / "result").read_text()
    assert "failed to open remote file" in said and "Connection failed" in said


def test_images_of_one_process_share_a_cache(
    tmp_path: Path, image: tuple[Path, Path], credentials: Path
) -> None:
    _, config = image
    first, second = Service(service(tmp_path, credentials)), Service(service(tmp_path, credentials))
    assert first.cache() is second.cache()
    with obd.open(config, first) as one, obd.open(config, second) as two:
        assert one.read(0, 1 << 20) == two.read(0, 1 << 20)


def test_push_is_told_what_is_wrong(tmp_path: Path, image: tuple[Path, Path], registry: Registry) -> None:
    layer, _ = image
    empty = service(tmp_path, None)
    done = run("obd", "push", layer, "--to", f"{registry.host}/team/new", "--service", empty)
    assert done.status == 255 and "denied" in done.err, done.err
    done = run("obd", "push", layer, "--to", "127.0.0.1:1/team/new", "--service", empty)
    assert done.status == 255 and len(done.lines) == 1, done.err
    for target in ("nowhere", "host/", "ftp://host/name", "host/name/"):
        done = run("obd", "push", layer, "--to", target)
        assert done.err == f"obd: invalid: --to {target}: must be REGISTRY/REPOSITORY[:TAG]\n"


def test_a_pushed_tag_is_an_overlaybd_image(
    tmp_path: Path, image: tuple[Path, Path], registry: Registry, credentials: Path
) -> None:
    import requests

    layer, _ = image
    kind = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
    url = f"{registry.repository('team/app')}/manifests/v1"
    manifest = requests.get(url, auth=("ann", "secret"), headers=kind, timeout=10).json()
    (descriptor,) = manifest["layers"]
    prefix = "containerd.io/snapshot/overlaybd/"
    assert descriptor["annotations"] == {
        f"{prefix}version": "0.1.0",
        f"{prefix}blob-digest": descriptor["digest"],
        f"{prefix}blob-size": str(os.stat(layer).st_size),
    }
    again = ok("obd", "push", layer, "--to", f"http://{registry.host}/team/app", "--credentials", credentials)
    assert len(again.out.splitlines()) == 1, "without a tag there is no manifest"
