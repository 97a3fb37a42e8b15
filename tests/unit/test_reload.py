"""Another configuration in a running process: what counts at once, what later, and what not at all."""

import dataclasses
import json
import logging
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from obd.api.reload import reload, when
from obd.config import ConfigError, ServiceConfig
from obd.logs import start_log
from obd.observer import Observer
from obd.service import Service
from tests.e2e.servers import free_port

REGISTRY = "https://r.example/v2/a/blobs/sha256:00"


class Host:
    """A file of configuration, and a process that was started with it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.file = directory / "overlaybd.json"
        self.write()
        self.service = Service(self.file)
        self.observer = Observer(self.service, "test")

    def write(self, **content: Any) -> None:
        self.file.write_text(json.dumps({"enableAudit": False, **content}))

    def reload(self, **content: Any) -> dict[str, Any]:
        """What came of another content."""
        self.write(**content)
        return reload(self.observer, self.service)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    level, handlers = logging.getLogger().level, list(logging.getLogger().handlers)
    one = Host(tmp_path)
    yield one
    one.observer.stop()
    logging.getLogger().setLevel(level)
    logging.getLogger().handlers[:] = handlers


def credentials(host: Host, user: str) -> str:
    path = host.directory / f"{user}.json"
    path.write_text(json.dumps({"auths": {"r.example": {"username": user, "password": "p"}}}))
    return str(path)


def test_nothing_new(host: Host) -> None:
    told = host.reload()
    assert told == {
        "file": str(host.file),
        "applied": [],
        "new_devices": [],
        "restart": [],
        "no_effect": [],
        "warnings": [],
    }


def test_credentials_count_at_once_for_what_is_open_too(host: Host) -> None:
    first = host.service.registry()
    told = host.reload(credentialConfig={"mode": "file", "path": credentials(host, "ann")})
    assert told["applied"] == ["credentialConfig.path"]  # the default mode is the same
    assert host.service.registry() is not first
    for registry in (first, host.service.registry()):
        assert 'user "ann"' in registry.describe_credentials(REGISTRY)
    host.reload(credentialConfig={"mode": "file", "path": credentials(host, "bob")})
    assert 'user "bob"' in first.describe_credentials(REGISTRY)


def test_endpoints_are_for_devices_that_are_opened_later(host: Host) -> None:
    first = host.service.registry()
    told = host.reload(
        registries={"r.example": {"mirrors": ["https://m.example"]}},
        p2pConfig={"enable": True, "address": "http://p.example"},
        download={"enable": True},
        prefetchConfig={"concurrency": 3},
        ioEngine=0,
    )
    assert {key.partition("[")[0].partition(".")[0] for key in told["new_devices"]} == {
        "registries",
        "p2pConfig",
        "download",
        "prefetchConfig",
        "ioEngine",
    }
    assert 'registries["r.example"].mirrors' in told["new_devices"]
    assert len(first.endpoints(REGISTRY)) == 0
    assert len(host.service.registry().endpoints(REGISTRY)) == 2
    assert host.service.config.prefetch.concurrency == 3
    assert host.service.config.io_engine == 0
    assert host.service.download_defaults().enable
    assert 'registries["r.example"].mirrors' in host.reload()["new_devices"]  # gone again


def test_what_needs_a_restart_stays_and_is_told_each_time(host: Host) -> None:
    before = host.service.config
    wanted = {
        "cacheConfig": {"cacheType": "ocf", "cacheDir": "/x", "cacheSizeGB": 9, "refillSize": 4096},
        "gzipCacheConfig": {"enable": True},
        "serviceConfig": {"enable": True, "address": "unix:/x"},
        "exporterConfig": {"legacyNames": False},
        "enableThread": True,
    }
    for _ in range(2):
        told = host.reload(**wanted)
        assert set(told["restart"]) == {
            *(f"cacheConfig.{key}" for key in wanted["cacheConfig"]),  # type: ignore[attr-defined]
            "gzipCacheConfig.enable",
            "serviceConfig.enable",
            "serviceConfig.address",
            "exporterConfig.legacyNames",
        }
        now = host.service.config
        assert (now.cache, now.gzip_cache, now.api) == (before.cache, before.gzip_cache, before.api)
        assert now.exporter.legacy_names


def test_the_log_moves_and_nothing_is_lost(host: Host, tmp_path: Path) -> None:
    host.write(logConfig={"logPath": str(tmp_path / "old.log")})
    host.service.adopt(host.service.read())
    handler = start_log(host.service.config.log)
    log = logging.getLogger("test")
    log.info("one")
    told = host.reload(logConfig={"logPath": str(tmp_path / "new.log"), "logLevel": 0})
    assert set(told["applied"]) == {"logConfig.logPath", "logConfig.logLevel"}
    log.debug("two")
    assert "test:one" not in (tmp_path / "new.log").read_text()
    assert "|one" in (tmp_path / "old.log").read_text().replace(":one", "|one")
    assert ":two" in (tmp_path / "new.log").read_text()
    told = host.reload(logConfig={"logPath": str(tmp_path / "no" / "such.log"), "logLevel": 0})
    assert "stays where it was" in told["warnings"][-1]
    log.warning("three")
    assert ":three" in (tmp_path / "new.log").read_text()
    handler.close()


def test_the_audit_log_begins_moves_and_ends(host: Host, tmp_path: Path) -> None:
    assert not host.observer.begin_audit()
    assert host.reload(enableAudit=True, auditPath=str(tmp_path / "a"))["applied"] == [
        "enableAudit",
        "auditPath",
    ]
    assert (tmp_path / "a").exists()
    host.reload(enableAudit=True, auditPath=str(tmp_path / "b"))
    assert (tmp_path / "b").exists()
    assert (
        "no audit log" in host.reload(enableAudit=True, auditPath=str(tmp_path / "no" / "b"))["warnings"][-1]
    )
    host.reload()
    assert host.observer.audit is None


def test_the_exporter_begins_moves_and_ends(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERLAYBD_RUN_DIR", str(host.directory / "run"))
    host.observer.listen()

    def scraped(port: int, path: str) -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}") as answer:
                return int(answer.status)
        except urllib.error.URLError:
            return 0

    one, other = free_port(), free_port()
    export = {"enable": True, "address": "127.0.0.1", "port": one}
    assert not host.reload(exporterConfig=export)["warnings"]
    assert scraped(one, "/metrics") == 200
    host.reload(exporterConfig={**export, "port": other, "uriPrefix": "/m"})
    assert (scraped(one, "/metrics"), scraped(other, "/m"), scraped(other, "/x")) == (0, 200, 0)
    with socket.create_server(("127.0.0.1", one)):
        (warning,) = host.reload(exporterConfig=export)["warnings"]
        assert "no metrics are exported" in warning
    host.reload()
    assert (host.observer.exporter, scraped(one, "/metrics")) == (None, 0)


def test_a_wrong_file_changes_nothing(host: Host) -> None:
    before = host.service.config
    with pytest.raises(ConfigError, match="ioEngine"):
        host.reload(ioEngine=99)
    host.file.unlink()
    with pytest.raises(ConfigError, match="cannot open"):
        reload(host.observer, host.service)
    assert host.service.config is before


def test_a_file_that_is_named_and_missing_is_told(host: Host) -> None:
    assert host.reload(certConfig={"caFile": "/no/such"})["warnings"] == [
        "certConfig.caFile: /no/such cannot be read: No such file or directory"
    ]


def test_it_is_known_of_each_key_when_it_counts() -> None:
    for field in dataclasses.fields(ServiceConfig):
        key = field.metadata.get("key")
        if key and not key.startswith(("log", "cacheType", "registryCache", "credentialFile")):
            assert when(f"{key}.x")
