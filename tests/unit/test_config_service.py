"""The service configuration: defaults, legacy names and their precedence, what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from obd.config import ConfigError, RegistryConfig, ServiceConfig, load_service, parse_service


def test_defaults_are_upstreams() -> None:
    config = ServiceConfig()
    assert (config.log.level, config.log.path) == (1, "/var/log/overlaybd.log")
    assert (config.log.size_mib, config.log.files) == (10, 3)
    assert (config.cache.type, config.cache.dir) == ("file", "/opt/overlaybd/registry_cache")
    assert (config.cache.size_bytes, config.cache.refill_size_bytes) == (4 << 30, 262144)
    assert (config.credentials.mode, config.credentials.path) == ("file", "/opt/overlaybd/cred.json")
    assert config.gzip_cache.refill_size_bytes == 1 << 20
    assert (config.exporter.port, config.api.address) == (9863, "http://127.0.0.1:9862")
    assert (config.prefetch.concurrency, config.io_engine, config.download.enable) == (16, None, False)
    assert config.enable_audit and config.audit_path == "/var/log/overlaybd-audit.log"
    assert parse_service({}) == config


def test_cache_config_needs_a_type_to_count_but_its_refill_size_always_does() -> None:
    legacy = {"cacheType": "download", "registryCacheDir": "/legacy", "registryCacheSizeGB": 9}
    config = parse_service({**legacy, "cacheConfig": {"cacheDir": "/new", "refillSize": 65536}})
    assert (config.cache.type, config.cache.dir, config.cache.size_gib) == ("download", "/legacy", 9)
    assert config.cache.refill_size_bytes == 65536
    config = parse_service({**legacy, "cacheConfig": {"cacheType": "file", "cacheDir": "/new"}})
    assert (config.cache.type, config.cache.dir, config.cache.size_gib) == ("file", "/new", 4)


def test_log_config_falls_back_member_by_member() -> None:
    config = parse_service({"logLevel": 3, "logPath": "/legacy", "logConfig": {"logSizeMB": 5}})
    assert (config.log.level, config.log.path, config.log.size_mib) == (3, "/legacy", 5)
    config = parse_service({"logLevel": 3, "logConfig": {"logPath": "/new", "logLevel": 0}})
    assert (config.log.level, config.log.path) == (0, "/new")


def test_credential_mode_decides() -> None:
    config = parse_service({"credentialFilePath": "/legacy", "credentialConfig": {"path": "/new"}})
    assert (config.credentials.mode, config.credentials.path) == ("file", "/legacy")
    config = parse_service({"credentialConfig": {"mode": "https", "path": "https://h/", "timeout": 3}})
    assert (config.credentials.mode, config.credentials.path) == ("https", "https://h/")
    assert config.credentials.timeout_s == 3


def test_registries_are_objects_under_names_of_the_users_choice() -> None:
    registry = {"mirrors": ["https://m:5000/a", "http://n"], "caFile": "/ca", "insecure": True, "cafile": 1}
    config = parse_service({"registries": {"r.example:5000": registry, "other": {}}})
    assert config.registries["r.example:5000"].mirrors == ("https://m:5000/a", "http://n")
    assert config.registries["r.example:5000"].ca_file == "/ca"
    assert config.registries["other"] == RegistryConfig()
    assert config.unknown_keys == ('registries["r.example:5000"].cafile (did you mean caFile?)',)
    for root, message in (
        ({"registries": []}, "registries: an array is not allowed: must be an object of objects"),
        ({"registries": {"h": 1}}, 'registries["h"]: 1 is not allowed: must be an object'),
        ({"registries": {"h": {"mirrors": "x"}}}, "must be an array of strings"),
        (
            {"registries": {"h": {"mirrors": ["http://u:hunter2@m", 1]}}},
            'registries["h"].mirrors[1]: (hidden)',
        ),
    ):
        with pytest.raises(ConfigError) as caught:
            parse_service(root)
        assert message in str(caught.value)


def test_repr_hides_what_may_be_secret() -> None:
    config = parse_service(
        {
            "credentialConfig": {"mode": "http", "path": "http://u:hunter2@h/x?token=hunter2"},
            "p2pConfig": {"address": "http://u:hunter2@h"},
        }
    )
    assert "hunter2" not in repr(config)
    assert "hunter2" not in repr(RegistryConfig(mirrors=("http://u:hunter2@h",)))


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("engine", {"ioEngine": 4}, "ioEngine: 4 is not allowed: must be an integer from 0 to 3"),
    (
        "cache type",
        {"cacheConfig": {"cacheType": "disk"}},
        'cacheConfig.cacheType: "disk" is not allowed: must be one of "", "file", "download", "ocf"',
    ),
    ("legacy cache type", {"cacheType": ""}, 'cacheType: "" is not allowed: must be one of "file"'),
    ("refill", {"cacheConfig": {"refillSize": 5000}}, "cacheConfig.refillSize: 5000 is not allowed"),
    ("refill small", {"gzipCacheConfig": {"refillSize": 2048}}, "gzipCacheConfig.refillSize: 2048 is not"),
    ("refill zero", {"cacheConfig": {"refillSize": 0}}, "must be a power of two from 4096 on"),
    ("mode", {"credentialConfig": {"mode": "ftp"}}, 'credentialConfig.mode: "ftp" is not allowed'),
    ("port", {"exporterConfig": {"port": 70000}}, "exporterConfig.port: 70000 is not allowed"),
    ("thread", {"enableThread": "no"}, 'enableThread: "no" is not allowed: must be true or false'),
    ("size", {"registryCacheSizeGB": 2**32}, "registryCacheSizeGB: 4294967296 is not allowed"),
    ("secret", {"credentialConfig": {"path": 7}}, "credentialConfig.path: (hidden) is not allowed"),
]


@pytest.mark.parametrize(("root", "message"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_what_is_refused_is_named(tmp_path: Path, root: dict[str, Any], message: str) -> None:
    path = tmp_path / "overlaybd.json"
    path.write_text(json.dumps(root))
    with pytest.raises(ConfigError) as caught:
        load_service(path)
    assert str(caught.value).startswith(f"invalid: {path}: ")
    assert message in str(caught.value)


def test_a_file_that_is_named_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^not-found: .*absent\.json: cannot open"):
        load_service(tmp_path / "absent.json")


def test_the_hosts_file_is_optional(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "overlaybd.json"
    monkeypatch.setattr("obd.config.service.DEFAULT_SERVICE_FILE", str(path))
    assert load_service() == ServiceConfig()
    path.write_text('{"userAgent": "mine", "usrAgent": 1, "logConfig": {"level": 1}}')
    config = load_service()
    assert (config.user_agent, config.file) == ("mine", str(path))
    assert sorted(config.unknown_keys) == [
        "logConfig.level (did you mean logLevel?)",
        "usrAgent (did you mean userAgent?)",
    ]


def test_upstreams_shipped_file_is_accepted() -> None:
    config = parse_service(
        {
            "logConfig": {"logLevel": 1, "logPath": "/var/log/overlaybd.log"},
            "cacheConfig": {
                "cacheType": "file",
                "cacheDir": "/opt/overlaybd/registry_cache",
                "cacheSizeGB": 4,
            },
            "gzipCacheConfig": {"enable": True, "cacheDir": "/opt/overlaybd/gzip_cache", "cacheSizeGB": 4},
            "credentialConfig": {"mode": "file", "path": "/opt/overlaybd/cred.json"},
            "ioEngine": 0,
            "download": {"enable": True, "delay": 600, "delayExtra": 30, "maxMBps": 100},
            "p2pConfig": {"enable": False, "address": "localhost:19145/dadip2p"},
            "exporterConfig": {
                "enable": False,
                "uriPrefix": "/metrics",
                "port": 9863,
                "updateInterval": 60000000,
            },
            "enableAudit": True,
            "auditPath": "/var/log/overlaybd-audit.log",
            "registryFsVersion": "v2",
            "serviceConfig": {"enable": False, "address": "http://127.0.0.1:9862"},
        }
    )
    assert config.download.enable and config.download.delay_s == 600
    assert config.unknown_keys == ()
