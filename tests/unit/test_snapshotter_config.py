"""The snapshotter's configuration: upstream's file is taken, what is wrong or means nothing is named."""

import json
from pathlib import Path
from typing import Any

import pytest

from obd.config.errors import ConfigError
from obd.snapshotter.config import SnapshotterConfig, load, parse
from obd.snapshotter.quota import size_bytes

UPSTREAM = {
    "root": "/var/lib/containerd/io.containerd.snapshotter.v1.overlaybd",
    "address": "/run/overlaybd-snapshotter/overlaybd.sock",
    "verbose": "info",
    "rwMode": "overlayfs",
    "logReportCaller": False,
    "autoRemoveDev": False,
    "exporterConfig": {"enable": True, "uriPrefix": "/metrics", "port": 9864},
    "mirrorRegistry": [{"host": "localhost:5000", "insecure": True}],
    "rootfsQuota": "",
    "tenant": -1,
    "turboFsType": ["erofs"],
}


def test_a_file_of_upstream() -> None:
    config = parse(dict(UPSTREAM))
    assert (config.rw_mode, config.exporter.port, config.mirrors[0].insecure) == ("overlayfs", 9864, True)
    assert config.turbo_fs_types == ("erofs", "ext4")
    assert config.ignored == ()


def test_the_file_that_is_installed_says_the_defaults() -> None:
    root = Path(__file__).resolve().parents[2]
    assert load(str(root / "etc/overlaybd-snapshotter/config.json")) == SnapshotterConfig()


def test_what_is_not_acted_on_is_named() -> None:
    config = parse({**UPSTREAM, "rootfsQuota": "20g", "tenant": 3, "runtimeType": "docker"})
    assert config.ignored == ("tenant",)
    assert (config.rootfs_quota, config.runtime_type) == ("20g", "docker")


@pytest.mark.parametrize(
    ("text", "size"),
    [("", 0), ("20g", 20 << 30), ("512MiB", 512 << 20), ("1kb", 1024), ("4096", 4096), ("1024B", 1024)],
)
def test_sizes_of_quotas(text: str, size: int) -> None:
    assert size_bytes(text, "x") == size


@pytest.mark.parametrize("text", ["20", "-1g", "1.5g", "g", "20 g", "20x", "9999999999p", "٣g", "1k\n"])
def test_what_is_no_size_of_a_quota(text: str) -> None:
    with pytest.raises(ConfigError, match=r"rootfsQuota: .* must be a size"):
        parse({**UPSTREAM, "rootfsQuota": text})


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"rwmode": "dir"}, "rwmode: no such key"),
        ({"rwMode": "both"}, "must be one of overlayfs, dir, dev"),
        ({"root": "relative"}, "absolute path"),
        ({"address": ""}, "absolute path"),
        ({"asyncRemove": 1}, "asyncRemove"),
        ({"deviceTimeout": 0}, "1 to 3600"),
        ({"mirrorRegistry": [{"insecure": True}]}, "mirrorRegistry.host"),
        ({"exporterConfig": {"enable": True, "port": "80"}}, "exporterConfig.port"),
        ({"turboFsType": ["zfs"]}, "turboFsType"),
    ],
)
def test_what_is_wrong_is_named_with_its_file(tmp_path: Path, change: dict[str, Any], word: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**UPSTREAM, **change}))
    with pytest.raises(ConfigError) as caught:
        load(str(file))
    assert word in str(caught.value)
    assert str(file) in str(caught.value)
