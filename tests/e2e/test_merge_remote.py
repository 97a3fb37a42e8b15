"""overlaybd-merge of layers that are only in a registry."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from obd.oci import Descriptor
from obd.push import Repository
from obd.registry import Registry as Client
from tests.e2e.commands import golden, place, run
from tests.e2e.servers import Registry


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with Registry(tmp_path_factory.mktemp("registry")) as server:
        yield server


def image(directory: Path, registry: Registry, layers: list[Descriptor | Path]) -> Path:
    """An image configuration, and a service configuration whose cache is in `directory`."""
    lowers = [
        {"file": str(layer)}
        if isinstance(layer, Path)
        else {"digest": layer.digest, "size": layer.size, "dir": str(directory / layer.digest)}
        for layer in layers
    ]
    config = directory / "config.json"
    config.write_text(json.dumps({"repoBlobUrl": registry.repository("app") + "/blobs", "lowers": lowers}))
    service = {"cacheConfig": {"cacheType": "file", "cacheDir": str(directory / "cache"), "cacheSizeGB": 1}}
    (directory / "service.json").write_text(json.dumps(service))
    return config


def test_merges_what_is_here_and_what_is_there(tmp_path: Path, registry: Registry) -> None:
    a, b, c = place(tmp_path, "lsmt/a.commit", "lsmt/b.commit", "lsmt/c.commit")
    repository = Repository(Client(), registry.repository("app"))
    layers: list[Descriptor | Path] = [repository.push_file(str(a)), b, repository.push_file(str(c))]
    a.unlink()
    c.unlink()
    config = image(tmp_path, registry, layers)
    service = ["--service_config_path", str(tmp_path / "service.json")]
    done = run("overlaybd-merge", config, tmp_path / "out", "--compress=false", *service)
    assert (done.status, done.err) == (0, "\n")
    assert (tmp_path / "out").read_bytes() == golden("lsmt/abc.merged.raw")


def test_a_blob_that_is_not_there(tmp_path: Path, registry: Registry) -> None:
    config = image(tmp_path, registry, [Descriptor("", f"sha256:{'0' * 64}", 8192)])
    service = ["--service_config_path", str(tmp_path / "service.json")]
    done = run("overlaybd-merge", config, tmp_path / "out", *service)
    assert (done.status, done.out, len(done.lines)) == (255, "", 1)
    assert done.err.startswith("failed to compact: not-found: ")
    assert not (tmp_path / "out").exists()
