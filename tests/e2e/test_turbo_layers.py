"""Layers of turboOCI: what the tools make, what devices read of them, from files and from a registry."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import obd
import obdcore
from obd.errors import ObdError
from obd.manifest import image_config
from obd.oci import own_platform
from obd.reasons import OpenError
from obd.reference import parse_reference
from obd.service import Service
from tests.e2e.commands import GOLDEN, golden, names, ok, run
from tests.e2e.servers import Registry
from tests.e2e.turbo import DEVICE_BYTES, META, MIB, TARGET_AT, TARGET_BYTES, Turbo, push

TURBO = GOLDEN / "turbo"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with Registry(tmp_path_factory.mktemp("registry"), users={"ann": "secret"}) as running:
        yield running


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Turbo:
    return Turbo(tmp_path_factory.mktemp("layer") / "gzip")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Turbo:
    return Turbo(tmp_path_factory.mktemp("layer") / "plain", seed=2, gzip=False)


@pytest.fixture
def host(tmp_path: Path, registry: Registry) -> Callable[..., Path]:
    """Writes the service configuration of a machine of its own."""

    def write(**more: Any) -> Path:
        credentials, path = tmp_path / "cred.json", tmp_path / "overlaybd.json"
        credentials.write_text(
            json.dumps({"auths": {registry.host: {"username": "ann", "password": "secret"}}})
        )
        settings = {
            "cacheConfig": {"cacheType": "file", "cacheDir": str(tmp_path / "cache"), "cacheSizeGB": 1},
            "credentialConfig": {"mode": "file", "path": str(credentials)},
        }
        path.write_text(json.dumps({**settings, **more}))
        return path

    return write


@pytest.fixture(scope="module")
def published(
    registry: Registry, layer: Turbo, plain: Turbo, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """The reference of an image of both layers."""
    credentials = tmp_path_factory.mktemp("cred") / "cred.json"
    credentials.write_text(json.dumps({"auths": {registry.host: {"username": "ann", "password": "secret"}}}))
    settings = credentials.with_name("overlaybd.json")
    settings.write_text(json.dumps({"credentialConfig": {"mode": "file", "path": str(credentials)}}))
    archives = [layer.archive(), plain.archive()]
    blobs = [*archives, layer.target.read_bytes(), plain.target.read_bytes()]
    layers = [each.descriptor(archive) for each, archive in zip((layer, plain), archives, strict=True)]
    push(Service(settings).registry(), registry.repository("team/turbo"), "v1", layers, blobs)
    return f"{registry.host}/team/turbo:v1"


def config(path: Path, *lowers: dict[str, Any], **more: Any) -> Path:
    path.write_text(json.dumps({"lowers": lowers, **more}))
    return path


def expected(layer: Turbo, offset: int, length: int) -> bytes:
    return layer.content[offset - TARGET_AT :][:length]


@pytest.mark.parametrize("flat", ["upper.ext4", "egz.erofs"])
def test_golden_layers_read_as_upstream_reads_them(tmp_path: Path, flat: str) -> None:
    def turbo(name: str, target: str) -> obdcore.TurboLayer:
        index = str(TURBO / f"{name.partition('.')[0]}.gzip.meta")
        return obdcore.TurboLayer(str(TURBO / f"{name}.fs.meta"), target, index if "gz" in target else None)

    tar = tmp_path / "lower.tar"
    tar.write_bytes(golden("apply/tars/lower.tar"))
    if flat == "upper.ext4":
        lowers = [turbo("lower.ext4", str(tar)), turbo(flat, str(TURBO / "upper.tar.gz"))]
    else:
        lowers = [turbo(flat, str(TURBO / "turbo.tar.gz"))]
    image, digest = obdcore.Image(lowers), hashlib.sha256()
    for at in range(0, image.size, 4 * MIB):
        digest.update(image.read_at(at, 4 * MIB))
    assert digest.hexdigest() == (TURBO / f"{flat}.flat.sha256").read_text().split()[0]


@pytest.mark.parametrize("name", ["plain.ext4", "upper.ext4", "egz.erofs"])
def test_what_upstream_committed_is_committed_to_the_same_file(tmp_path: Path, name: str) -> None:
    source = TURBO / f"{name}.fs.meta"
    ok("overlaybd-commit", "--commit_sealed", "-z", "--turboOCI", source, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == source.read_bytes()
    ok("obd", "verify", source)
    (found,) = json.loads(ok("obd", "info", "--json", source).out)
    assert found["lsmt"]["kind"] == "committed turboOCI"
    assert found["lsmt"]["index"]["remote_bytes"] > 0
    done = run("overlaybd-commit", "--commit_sealed", source, tmp_path / "plain")
    assert done.status == 255 and "without its target" in done.lines[-1]
    assert names(tmp_path) == ["again"]


@pytest.mark.parametrize("words", [["--turboOCI"], ["-s", "--fastoci"]])
def test_a_file_system_in_a_new_layer(tmp_path: Path, words: list[str]) -> None:
    data, index, meta = (str(tmp_path / name) for name in ("data", "index", "meta"))
    ok("overlaybd-create", *words, "--mkfs", data, index, "1")
    assert os.stat(data).st_size == DEVICE_BYTES and os.stat(data).st_blocks * 512 < 4 * MIB
    with open(data, "rb") as file:
        assert os.pread(file.fileno(), 2, 1024 + 56) == b"\x53\xef", "in its own place, without a header"
    ok("overlaybd-commit", "-z", "--turboOCI", "-m", "by hand", data, index, meta)
    assert json.loads(ok("obd", "info", "--json", meta).out)[0]["lsmt"]["trailer"]["tag"] == "by hand"
    # Nothing is mapped to a target, so that any will do; and the same file system comes without one.
    image = obdcore.Image([obdcore.TurboLayer(meta, os.devnull)])
    plain_data, plain_index = str(tmp_path / "plain.data"), str(tmp_path / "plain.index")
    ok("overlaybd-create", "--mkfs", plain_data, plain_index, "1")
    other = obdcore.Image([], (plain_data, plain_index))
    assert image.read_at(0, 4 * MIB) == other.read_at(0, 4 * MIB)


def test_an_upper_of_turbo_oci_in_a_configuration(tmp_path: Path, plain: Turbo) -> None:
    data, index = str(tmp_path / "data"), str(tmp_path / "index")
    ok("overlaybd-create", "--turboOCI", data, index, "0")
    lower = plain.lower(targetFile=str(plain.target))
    upper = {"data": data, "index": index, "target": str(plain.target)}
    path = config(tmp_path / "config.v1.json", lower, upper=upper)
    with obd.open(path) as device:
        assert device.size == DEVICE_BYTES and not device.read_only
        device.native.map_remote(0, 4096, MIB)
        device.write(TARGET_AT, b"new" * 171)
        device.discard(TARGET_AT + 8192, 4096)
        device.flush()
        with pytest.raises(OSError, match="cannot be sealed"):
            device.snapshot(str(tmp_path / "d2"), str(tmp_path / "i2"))
    with obd.open(path) as device:
        assert device.read(0, 4096) == plain.content[MIB:][:4096]
        assert device.read(TARGET_AT, 1024) == (b"new" * 171 + plain.content[513:])[:1024]
        assert device.read(TARGET_AT + 8192, 4096) == bytes(4096)
        assert device.read(TARGET_AT + 4096, 4096) == plain.content[4096:8192]
    assert run("overlaybd-resize", "--size", "2", "--config", path).status == 1
    # Flattened it needs no target any more.
    ok("overlaybd-merge", path, tmp_path / "flat")
    flat = obdcore.Image([str(tmp_path / "flat")])
    assert flat.read_at(0, 4096) == plain.content[MIB:][:4096]
    assert flat.read_at(TARGET_AT + MIB, MIB) == plain.content[MIB:][:MIB]
    assert ok("obd", "verify", path).out.count(": ok\n") == 4


def test_a_target_that_does_not_fit_is_an_error_that_names_it(
    tmp_path: Path, layer: Turbo, plain: Turbo
) -> None:
    short = tmp_path / "short.tar"
    short.write_bytes(plain.content[:-512])
    for lower, words in (
        (plain.lower(targetFile=str(short)), ("short.tar", "beyond the target's end")),
        (plain.lower(targetFile=str(layer.target)), ("compressed with gzip",)),
        (plain.lower(targetFile="/nowhere.tar"), ("target of layer 0", "/nowhere.tar")),
        (layer.lower(targetFile=str(plain.target)), ("index of a file of",)),
        (plain.lower(), ("without its target",)),
    ):
        with pytest.raises(OSError) as caught:
            obd.open(config(tmp_path / "config.v1.json", lower))
        assert all(word in str(caught.value) for word in words), caught.value


def test_content_comes_from_the_registry_when_it_is_read(
    tmp_path: Path, host: Callable[..., Path], registry: Registry, published: str, layer: Turbo, plain: Turbo
) -> None:
    url = f"{registry.repository('team/turbo')}/blobs"
    for number, each in enumerate((layer, plain)):
        lower = each.lower(targetDigest=each.digest)
        path = config(tmp_path / f"{number}.json", lower, repoBlobUrl=url)
        with obd.open(path, host()) as device:
            mount = tmp_path / f"mount{number}"
            mount.mkdir()
            fuse = obdcore.FuseMount({"disk": device.native}, str(mount))
            try:
                with open(mount / "disk", "rb", buffering=0) as file:
                    assert os.pread(file.fileno(), len(META), 0) == META
                    at = TARGET_AT + 7 * MIB + 1234
                    assert os.pread(file.fileno(), 100_000, at) == expected(each, at, 100_000)
            finally:
                fuse.stop(force=True)
            stats = device.statistics()["layers"][0]
            assert "fetched_bytes" not in stats and stats["source"] == str(each.meta)
            assert stats["target"]["source"] == f"{url}/{each.digest}"
            # A point of a gzip index each MiB; the kernel reads ahead, and so does the cache.
            assert 0 < stats["target"]["fetched_bytes"] < TARGET_BYTES // 2
        with obd.open(path, host()) as device:
            before = device.targets[0].stats()["requests"]
            assert device.read(TARGET_AT + 7 * MIB, 65536) == expected(each, TARGET_AT + 7 * MIB, 65536)
            assert device.targets[0].stats()["requests"] == before, "it is in the cache"


def test_a_trace_has_the_reads_of_the_target_too(
    tmp_path: Path, host: Callable[..., Path], registry: Registry, published: str, layer: Turbo
) -> None:
    lower = layer.lower(targetDigest=layer.digest)
    url = f"{registry.repository('team/turbo')}/blobs"
    path = config(tmp_path / "config.v1.json", lower, repoBlobUrl=url)
    at = TARGET_AT + 5 * MIB
    with obd.open(path, host()) as device:
        device.native.start_recording()
        assert device.read(at, 65536) == expected(layer, at, 65536)
        trace = device.native.stop_recording()
    plain = obdcore.layer_info(str(layer.meta))["zfile"]["original_size"]
    where = -(-plain // 512) * 512 + 5 * MIB
    assert (0, where, 65536) in obdcore.trace_parse(trace)
    other = {"cacheType": "file", "cacheDir": str(tmp_path / "other"), "cacheSizeGB": 1}
    with obd.open(path, host(cacheConfig=other)) as device:
        prefetch = obdcore.Prefetch(device.native, trace)
        assert prefetch.wait(30) and prefetch.stats()["failed"] == 0
        requests = device.targets[0].stats()["requests"]
        assert requests > 0
        assert device.read(at, 65536) == expected(layer, at, 65536)
        assert device.targets[0].stats()["requests"] == requests, "it was fetched before"


def test_a_wrong_file_gives_way_to_the_registry(
    tmp_path: Path, host: Callable[..., Path], registry: Registry, published: str, plain: Turbo
) -> None:
    short = tmp_path / "short.tar"
    short.write_bytes(plain.content[: TARGET_BYTES // 2])
    lower = plain.lower(targetFile=str(short), targetDigest=plain.digest)
    path = config(tmp_path / "c.json", lower, repoBlobUrl=f"{registry.repository('team/turbo')}/blobs")
    with obd.open(path, host()) as device:
        assert device.read(TARGET_AT + 11 * MIB, MIB) == plain.content[11 * MIB :]
    with pytest.raises(OpenError, match="Authentication failed"):
        obd.open(path, Service(_without_credentials(tmp_path)))


def _without_credentials(tmp_path: Path) -> Path:
    path = tmp_path / "anonymous.json"
    cache = {"cacheType": "file", "cacheDir": str(tmp_path / "other"), "cacheSizeGB": 1}
    path.write_text(json.dumps({"cacheConfig": cache}))
    return path


def test_targets_are_brought_here_whole(
    tmp_path: Path, host: Callable[..., Path], registry: Registry, published: str, layer: Turbo
) -> None:
    url = f"{registry.repository('team/turbo')}/blobs"
    home = tmp_path / "layer"
    home.mkdir()
    lower = layer.lower(targetDigest=layer.digest, dir=str(home))
    path = config(tmp_path / "config.v1.json", lower, repoBlobUrl=url)
    service = host(download={"enable": True, "delay": 0, "delayExtra": 1})
    with obd.open(path, service) as device:
        assert device.downloads is not None
        device.downloads.join()
        target = home / "target" / "overlaybd.commit"
        assert target.read_bytes() == layer.target.read_bytes()
        assert device.targets[0].local == str(target)
        assert device.statistics()["layers"][0]["target"]["download"]["state"] == "done"
        assert device.read(TARGET_AT, MIB) == layer.content[:MIB]
    with obd.open(path, service) as device:
        assert device.is_local and device.read(TARGET_AT, MIB) == layer.content[:MIB]
    shown = json.loads(ok("obd", "config", "show", "--json", path).out)
    assert shown["layers"][0]["target"]["from"] == str(target)
    assert ok("obd", "verify", "--service", service, path).out.count(": ok\n") == 3
    target.unlink()
    ok("obd", "pull", "--full", path, "--service", service)
    assert target.read_bytes() == layer.target.read_bytes()
    target.write_bytes(target.read_bytes()[:-1] + b"x")
    done = run("obd", "verify", "--service", service, path)
    assert done.status != 0 and "digest" in done.err


def test_an_image_of_a_registry_is_opened_by_what_pull_writes(
    tmp_path: Path, host: Callable[..., Path], published: str, layer: Turbo, plain: Turbo
) -> None:
    service, path, metas = host(), tmp_path / "image.json", tmp_path / "metas"
    words = ("pull", published, "--config", path, "--dir", metas, "--service", service)
    ok("obd", *words)
    lowers = json.loads(path.read_text())["lowers"]
    assert [Path(each["file"]).name for each in lowers] == ["ext4.fs.meta"] * 2
    assert ["gzipIndex" in each for each in lowers] == [True, False]
    with obd.open(path, service) as device:
        # The upper layer has the same places.
        assert device.read(TARGET_AT + MIB, MIB) == plain.content[MIB : 2 * MIB]
    assert run("obd", *words).status != 0, "the configuration is there"
    ok("obd", *words, "--force", "--full")
    config(path, lowers[0], repoBlobUrl=json.loads(path.read_text())["repoBlobUrl"])
    with obd.open(path, service) as device:
        assert device.read(TARGET_AT + MIB, MIB) == layer.content[MIB : 2 * MIB]
        assert device.targets[0].stats()["requests"] == 0, "it was pulled into the cache"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda layer: layer.archive("gzip.meta"), "no gzip.meta in it"),
        (lambda layer: layer.archive("ext4.fs.meta"), "no metadata of"),
        (lambda layer: layer.archive()[:-200], "not an archive of metadata"),
        (lambda layer: b"no archive" * 100, "not an archive of metadata"),
        (lambda layer: layer.archive(**{f"file{n}": b"" for n in range(20)}), "too much"),
    ],
)
def test_metadata_that_is_not_what_it_must_be_leaves_nothing(
    tmp_path: Path,
    host: Callable[..., Path],
    registry: Registry,
    layer: Turbo,
    make: Callable[[Turbo], bytes],
    words: str,
) -> None:
    dialogue, archive = Service(host()).registry(), make(layer)
    push(dialogue, registry.repository("team/bad"), "v1", [layer.descriptor(archive)], [archive])
    image, metas = parse_reference(f"{registry.host}/team/bad:v1"), tmp_path / "metas"
    assert image is not None
    with pytest.raises(ObdError) as caught:
        image_config(dialogue, image, own_platform(), str(metas))
    assert words in caught.value.line and "\n" not in caught.value.line
    assert not metas.exists() or not [name for name in names(metas) if name.endswith(".tmp")]


def test_members_with_paths_go_nowhere_else(
    tmp_path: Path, host: Callable[..., Path], registry: Registry, layer: Turbo
) -> None:
    archive = layer.archive(**{"../../escaped": b"x", "/etc/passwd.d/x": b"y", "sub/gzip.meta": b"z"})
    service = host()
    push(
        Service(service).registry(),
        registry.repository("team/paths"),
        "v1",
        [layer.descriptor(archive)],
        [archive, layer.target.read_bytes()],
    )
    out, metas = tmp_path / "image.json", tmp_path / "deep" / "metas"
    image = f"{registry.host}/team/paths:v1"
    ok("obd", "pull", image, "--config", out, "--dir", metas, "--service", service)
    (home,) = metas.iterdir()
    assert names(home) == [".turbo.ociv1", "ext4.fs.meta", "gzip.meta"]
    assert not (tmp_path / "deep" / "escaped").exists() and not (tmp_path / "escaped").exists()
    with obd.open(out, service) as device:
        assert device.read(TARGET_AT, 4096) == layer.content[:4096]
