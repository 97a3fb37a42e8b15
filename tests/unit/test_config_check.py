"""What a service configuration asks for together, which kind a file is, and what it comes to."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from obd.config import (
    ConfigError,
    ServiceConfig,
    effective_settings,
    is_service,
    load_any,
    named_files,
    parse_service,
    service_warnings,
)
from obd.service import Service

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"cacheConfig": {"cacheType": "file", "cacheSizeGB": 0}}, "cacheConfig.cacheSizeGB: 0 is not allowed"),
    ({"registryCacheSizeGB": 0}, "registryCacheSizeGB: 0 is not allowed: must be at least 1"),
    ({"registryCacheDir": " "}, 'registryCacheDir: " " is not allowed'),
    (
        {"cacheConfig": {"cacheType": "ocf", "blockSize": 131072}},
        "cacheConfig.blockSize: 131072 is not allowed: must be one of 4096, 8192, 16384, 32768, 65536",
    ),
    ({"gzipCacheConfig": {"enable": True, "cacheSizeGB": 0}}, "gzipCacheConfig.cacheSizeGB: 0 is not"),
    ({"certConfig": {"certFile": "/c"}}, 'certConfig.certFile: "/c" needs certConfig.keyFile'),
    (
        {"registries": {"h": {"keyFile": "/k"}}},
        'registries["h"].keyFile: "/k" needs registries["h"].certFile',
    ),
    ({"registries": {"https://h": {}}}, 'registries["https://h"]: the name is not allowed: must be HOST or'),
    ({"registries": {"h:0": {}}}, "must be HOST or HOST:PORT"),
    ({"registries": {"h:port": {}}}, "must be HOST or HOST:PORT"),
    ({"registries": {"h/a": {}}}, "must be HOST or HOST:PORT"),
    ({"registries": {"h": {"mirrors": ["m:5000"]}}}, 'mirrors[0]: "m:5000" is not allowed: must look like'),
    ({"registries": {"h": {"mirrors": ["http://m?x=1"]}}}, "without query or fragment"),
    ({"registries": {"h": {"mirrors": ["http://m:99999"]}}}, "must look like https://HOST"),
    ({"p2pConfig": {"enable": True, "address": "ftp://h"}}, 'p2pConfig.address: "ftp://h" is not allowed'),
    ({"p2pConfig": {"enable": True, "address": ""}}, "p2pConfig.address: "),
    ({"p2pConfig": {"enable": True, "mode": "proxy"}}, "the address of a proxy has no path"),
    ({"exporterConfig": {"enable": True, "uriPrefix": "metrics"}}, "exporterConfig.uriPrefix: "),
    ({"serviceConfig": {"enable": True, "address": "127.0.0.1"}}, "serviceConfig.address: "),
    ({"credentialConfig": {"mode": "kubelet", "path": "/p"}}, "credentialConfig.bin_dir: "),
    ({"credentialConfig": {"mode": "http", "path": "ftp://h/auth"}}, "credentialConfig.path: "),
    ({"credentialConfig": {"mode": "https", "path": "http://h/auth"}}, "must begin with https://"),
    ({"credentialConfig": {"client_key_path": "/k"}}, "needs credentialConfig.client_cert_path"),
    ({"credentialConfig": {"timeout": 0}}, "credentialConfig.timeout: 0 is not allowed: must be an integer"),
]


@pytest.mark.parametrize(("root", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_cannot_be_together_is_refused(root: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_service(root, "/etc/x.json")
    assert str(caught.value).startswith("invalid: /etc/x.json: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "root",
    [
        {"credentialConfig": {"mode": "http", "path": "ftp://u:hunter2@h/?token=hunter2"}},
        {"registries": {"h": {"mirrors": ["https://u:hunter2@m"]}}},
        {"registries": {"h": {"mirrors": ["u:hunter2@m"]}}},
        {"p2pConfig": {"enable": True, "address": "http://u:hunter2@h:0"}},
    ],
)
def test_a_refusal_shows_no_secret(root: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_service(root)
    assert "hunter2" not in str(caught.value)


def test_what_is_switched_off_is_not_looked_at() -> None:
    parse_service(
        {
            "p2pConfig": {"address": "localhost:19145/dadip2p"},
            "exporterConfig": {"uriPrefix": ""},
            "serviceConfig": {"address": ""},
            "gzipCacheConfig": {"cacheSizeGB": 0},
            "cacheConfig": {"cacheSizeGB": 0, "blockSize": 7},
        }
    )
    p2p = parse_service({"p2pConfig": {"enable": True, "address": "localhost:19145/dadip2p"}}).p2p
    assert p2p.url == "http://localhost:19145/dadip2p"
    parse_service({"credentialConfig": {"mode": "http", "path": "127.0.0.1:80/auth?who=me"}})


def test_warnings_tell_what_has_no_effect() -> None:
    config = parse_service(
        {
            "cacheConfig": {"cacheDir": "/c"},
            "credentialConfig": {"path": "/p"},
            "logConfig": {"logRotateNum": 99},
            "certConfig": {"insecure": True},
            "registries": {"h:1": {"insecure": True, "ca_file": ""}},
        }
    )
    said = "\n".join(service_warnings(config))
    for words in (
        'unknown key registries["h:1"].ca_file (did you mean caFile?) is ignored',
        "cacheConfig.cacheDir has no effect without cacheConfig.cacheType: registryCacheDir counts",
        "credentialConfig.path has no effect",
        "logConfig.logRotateNum: 99 acts as 30",
        "certConfig.insecure: certificates of registries are NOT verified",
        'registries["h:1"].insecure',
    ):
        assert words in said
    assert len(said.split("\n")) == 6
    assert list(service_warnings(ServiceConfig())) == []
    assert "asked anonymously" in next(service_warnings(parse_service({"credentialConfig": {"mode": "uds"}})))


def test_numbers_of_the_log_mean_something() -> None:
    log = parse_service({"logConfig": {"logLevel": 9, "logSizeMB": 0, "logRotateNum": -1}}).log
    assert (log.level, log.size_mib, log.files) == (4, 1, 1)


def test_files_that_are_named() -> None:
    root = {
        "registries": {"h": {"caFile": "/ca"}},
        "credentialConfig": {"mode": "uds", "path": "/run/s"},
        "certConfig": {"certFile": "/c", "keyFile": "/k"},
    }
    assert list(named_files(parse_service(root))) == [
        ("certConfig.certFile", "/c"),
        ("certConfig.keyFile", "/k"),
        ('registries["h"].caFile', "/ca"),
        ("credentialConfig.path", "/run/s"),
    ]
    assert list(named_files(ServiceConfig())) == []
    assert list(named_files(parse_service({"credentialFilePath": "/p"}))) == [("credentialFilePath", "/p")]


@pytest.mark.parametrize(
    ("root", "service"),
    [
        ({}, True),
        ({"download": {}}, True),
        ({"ioEngine": 9}, True),
        ({"lowers": []}, False),
        ({"lowers": [], "download": {}, "typo": 1}, False),
        ({"lowerz": []}, False),
        ({"logLevel": 1, "typo": 1}, True),
    ],
)
def test_the_kind_of_a_file_is_told_by_its_keys(root: dict[str, Any], service: bool) -> None:
    assert is_service(root) is service


def test_a_file_that_is_neither_is_said_to_be(tmp_path: Path) -> None:
    path = tmp_path / "cred.json"
    path.write_text('{"auths": {}}')
    with pytest.raises(ConfigError, match="none of its keys is one of an image's or a service's"):
        load_any(path)


def test_effective_settings_say_where_they_are_from() -> None:
    root = {
        "logPath": "/legacy.log",
        "logConfig": {"logSizeMB": 5, "logPath": ""},
        "cacheConfig": {"cacheDir": "/no-effect", "refillSize": 65536},
        "registryCacheDir": "/legacy",
        "p2pConfig": {"address": "http://u:hunter2@h/x?hunter2"},
        "registries": {"h": {"mirrors": ["https://m"]}},
        "ioEngine": 2,
    }
    settings = effective_settings(parse_service(root), root)
    found = {one.key: (one.value, one.origin) for one in settings}
    assert len(found) == len(settings)
    assert found["logConfig.logPath"] == ("/legacy.log", "legacy key logPath")
    assert found["logConfig.logSizeMB"] == (5, "file")
    assert found["logConfig.logLevel"] == (1, "default")
    assert found["cacheConfig.cacheDir"] == ("/legacy", "legacy key registryCacheDir")
    assert found["cacheConfig.refillSize"] == (65536, "file")
    assert found["cacheConfig.cacheType"] == ("file", "default")
    assert found["credentialConfig.path"] == ("/opt/overlaybd/cred.json", "default")
    assert found["p2pConfig.address"] == ("http://…@h/x?…", "file")
    assert found['registries["h"].mirrors'] == (["https://m"], "file")
    assert found["ioEngine"] == (2, "file")
    assert "hunter2" not in json.dumps(settings)


def test_download_defaults_follow_the_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "overlaybd.json"
    path.write_text('{"download": {"enable": true, "delay": 1}}')
    service = Service(path)
    assert service.download_defaults().delay_s == 1
    path.write_text('{"download": {"enable": true, "delay": 2}}')
    assert service.download_defaults().delay_s == 2
    assert service.config.download.delay_s == 1
    path.write_text("{")
    with caplog.at_level(logging.WARNING):
        assert [service.download_defaults().delay_s for _ in range(3)] == [2, 2, 2]
    assert len(caplog.records) == 1 and "stay as they were" in caplog.text
    path.write_text("{}")
    assert service.download_defaults().delay_s == 300
    assert Service(ServiceConfig()).download_defaults() == ServiceConfig().download
