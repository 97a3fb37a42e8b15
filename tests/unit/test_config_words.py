"""Refusals and warnings of configurations word by word, with the key that somebody has to look for."""

from typing import Any

import pytest

from obd.config import (
    ConfigError,
    effective_settings,
    named_files,
    parse_image,
    parse_service,
    service_warnings,
)
from obd.config.errors import shown

DIGEST = "sha256:" + "5" * 64
URL = "https://h/v2/r/blobs"
BAD_DIGEST = "is not allowed: must be sha256:<64 hex digits>"
BOTH = "both must be given (the same file may hold both)"
LOOKS = "must look like https://HOST[:PORT][/PATH]"

DEFAULTS: dict[str, object] = {
    "logConfig.logLevel": 1,
    "logConfig.logPath": "/var/log/overlaybd.log",
    "logConfig.logSizeMB": 10,
    "logConfig.logRotateNum": 3,
    "enableAudit": True,
    "auditPath": "/var/log/overlaybd-audit.log",
    "cacheConfig.cacheType": "file",
    "cacheConfig.cacheDir": "/opt/overlaybd/registry_cache",
    "cacheConfig.cacheSizeGB": 4,
    "cacheConfig.refillSize": 262144,
    "cacheConfig.blockSize": 65536,
    "gzipCacheConfig.enable": False,
    "gzipCacheConfig.cacheDir": "/opt/overlaybd/gzip_cache",
    "gzipCacheConfig.cacheSizeGB": 4,
    "gzipCacheConfig.refillSize": 1048576,
    "credentialConfig.mode": "file",
    "credentialConfig.path": "/opt/overlaybd/cred.json",
    "credentialConfig.timeout": 1,
    "credentialConfig.client_cert_path": "",
    "credentialConfig.client_key_path": "",
    "credentialConfig.server_ca_path": "",
    "credentialConfig.bin_dir": "",
    "credentialConfig.rawUrl": False,
    "ioEngine": None,
    "download.enable": False,
    "download.delay": 300,
    "download.delayExtra": 30,
    "download.maxMBps": 100,
    "download.tryCnt": 5,
    "download.blockSize": 262144,
    "p2pConfig.enable": False,
    "p2pConfig.address": "http://localhost:9731/accelerator",
    "p2pConfig.mode": "prefix",
    "exporterConfig.enable": False,
    "exporterConfig.address": "0.0.0.0",
    "exporterConfig.uriPrefix": "/metrics",
    "exporterConfig.port": 9863,
    "exporterConfig.updateInterval": 60000000,
    "exporterConfig.legacyNames": True,
    "serviceConfig.enable": False,
    "serviceConfig.address": "http://127.0.0.1:9862",
    "serviceConfig.tokenFile": "",
    "prefetchConfig.concurrency": 16,
    "certConfig.certFile": "",
    "certConfig.keyFile": "",
    "certConfig.caFile": "",
    "certConfig.insecure": False,
    "registries": {},
    "outageTimeout": 60,
    "verifyChunks": "off",
    "enableThread": False,
    "registryFsVersion": "v2",
    "userAgent": "",
}

SERVICE: list[tuple[dict[str, Any], str]] = [
    (
        {"cacheConfig": {"refillSize": 4095}},
        "cacheConfig.refillSize: 4095 is not allowed: must be a power of two from 4096 on",
    ),
    (
        {"gzipCacheConfig": {"refillSize": 12288}},
        "gzipCacheConfig.refillSize: 12288 is not allowed: must be a power of two from 4096 on",
    ),
    (
        {"cacheConfig": {"cacheType": "file", "cacheSizeGB": 0}},
        "cacheConfig.cacheSizeGB: 0 is not allowed: must be at least 1",
    ),
    ({"registryCacheSizeGB": 0}, "registryCacheSizeGB: 0 is not allowed: must be at least 1"),
    (
        {"cacheConfig": {"cacheType": "file", "cacheDir": ""}},
        'cacheConfig.cacheDir: "" is not allowed: must not be empty',
    ),
    ({"registryCacheDir": ""}, 'registryCacheDir: "" is not allowed: must not be empty'),
    (
        {"gzipCacheConfig": {"enable": True, "cacheSizeGB": 0}},
        "gzipCacheConfig.cacheSizeGB: 0 is not allowed: must be at least 1",
    ),
    (
        {"gzipCacheConfig": {"enable": True, "cacheDir": ""}},
        'gzipCacheConfig.cacheDir: "" is not allowed: must not be empty',
    ),
    (
        {"exporterConfig": {"enable": True, "address": ""}},
        'exporterConfig.address: "" is not allowed: must not be empty',
    ),
    (
        {"exporterConfig": {"enable": True, "uriPrefix": "m"}},
        'exporterConfig.uriPrefix: "m" is not allowed: must begin with /',
    ),
    ({"p2pConfig": {"enable": True, "address": "h:0"}}, f'p2pConfig.address: "h:0" is not allowed: {LOOKS}'),
    (
        {"p2pConfig": {"enable": True, "address": "h/a b"}},
        f'p2pConfig.address: "h/a b" is not allowed: {LOOKS}',
    ),
    (
        {"p2pConfig": {"enable": True, "address": "h", "mode": "proxy2"}},
        'p2pConfig.mode: "proxy2" is not allowed: must be one of "prefix", "proxy"',
    ),
    (
        {"p2pConfig": {"enable": True, "address": "h/a", "mode": "proxy"}},
        'p2pConfig.address: "h/a" is not allowed: the address of a proxy has no path',
    ),
    (
        {"serviceConfig": {"enable": True, "address": "unix:a"}},
        'serviceConfig.address: "unix:a" is not allowed: the path must begin with /',
    ),
    (
        {"serviceConfig": {"enable": True, "address": "https://127.0.0.1"}},
        'serviceConfig.address: "https://127.0.0.1" is not allowed: must look like '
        "http://HOST[:PORT][/PATH], or unix:PATH",
    ),
    *[
        (
            {"serviceConfig": {"enable": True, "address": address}},
            f'serviceConfig.address: "{address}" is not allowed: only on the loopback interface '
            "(127.0.0.1, [::1]), or unix:PATH",
        )
        for address in ("http://10.0.0.1:1", "http://example.org")
    ],
    (
        {"certConfig": {"keyFile": "/k"}},
        'certConfig.keyFile: "/k" needs certConfig.certFile: ' + BOTH,
    ),
    (
        {"registries": {"h": {"certFile": "/c"}}},
        'registries["h"].certFile: "/c" needs registries["h"].keyFile: ' + BOTH,
    ),
    (
        {"registries": {"h": {"mirrors": ["http://m", "http://u@m"]}}},
        'registries["h"].mirrors[1]: "http://…@m" is not allowed: must hold no user: '
        "credentials come from credentialConfig",
    ),
    ({"registries": {"u@h": {}}}, 'registries["u@h"]: the name is not allowed: must be HOST or HOST:PORT'),
    (
        {"credentialConfig": {"mode": "https", "path": "http://h/a"}},
        'credentialConfig.path: "http://h/a" is not allowed: must begin with https:// for the mode https',
    ),
    (
        {"credentialConfig": {"mode": "http", "path": "h:0"}},
        f'credentialConfig.path: "h:0" is not allowed: {LOOKS}',
    ),
    (
        {"credentialConfig": {"client_key_path": "/k"}},
        'credentialConfig.client_key_path: "/k" needs credentialConfig.client_cert_path',
    ),
    (
        {"credentialConfig": {"mode": "kubelet", "bin_dir": "/b"}},
        'credentialConfig.path: "" is not allowed: providers of the kubelet need it',
    ),
    (
        {"credentialConfig": {"mode": "node", "path": "/p"}},
        'credentialConfig.bin_dir: "" is not allowed: providers of the kubelet need it',
    ),
    (
        {"credentialConfig": {"mode": "node", "bin_dir": "/b"}},
        'credentialConfig.path: "" is not allowed: providers of the kubelet need it',
    ),
    ({"registries": {"h": 5}}, 'registries["h"]: 5 is not allowed: must be an object'),
    ({"registries": []}, "registries: an array is not allowed: must be an object of objects"),
    (
        {"registries": {"h": {"mirrors": "m"}}},
        'registries["h"].mirrors: (hidden) is not allowed: must be an array of strings',
    ),
    (
        {"logConfig": {"logPath": "/a\n"}},
        "logConfig.logPath: character U+000A is not allowed in a path or URL",
    ),
]

IMAGE: list[tuple[dict[str, Any], str]] = [
    ({}, "no layers: lowers is empty, and upper does not name both index and data"),
    (
        {"lowers": [{"file": "/a"}], "accelerationLayer": True, "recordTracePath": "/t"},
        "accelerationLayer and recordTracePath: only one of the two can be used",
    ),
    ({"lowers": [{"file": "/a"}] * 256}, "lowers: 256 layers, at most 255 can be stacked"),
    (
        {"lowers": [{"file": "/a"}], "repoBlobUrl": "https:///v2"},
        "repoBlobUrl: must look like https://HOST[:PORT]/v2/REPOSITORY/blobs",
    ),
    ({"lowers": [{"file": "/a", "digest": "x"}]}, f'lowers[0].digest: "x" {BAD_DIGEST}'),
    ({"lowers": [{"file": "/a", "targetDigest": "x"}]}, f'lowers[0].targetDigest: "x" {BAD_DIGEST}'),
    (
        {"lowers": [{"file": "/a", "gzipIndex": "/g"}]},
        'lowers[0].gzipIndex: "/g" needs targetFile or targetDigest',
    ),
    ({"lowers": [{"file": "/a"}, {}]}, "lowers[1]: none of file, dir and digest says where the layer is"),
    (
        {"lowers": [{"digest": DIGEST}]},
        "empty repoBlobUrl: lowers[0] has neither file nor dir, so it must be remote",
    ),
    (
        {"lowers": [{"file": "/a", "targetDigest": DIGEST}]},
        "empty repoBlobUrl: lowers[0].targetDigest is remote",
    ),
    (
        {"upper": {"index": "/a/i", "data": "/a/../a/i"}},
        'upper: index and data are the same file "/a/../a/i"',
    ),
    ({"upper": {"index": "/i", "data": "/d", "gzipIndex": "/g"}}, 'upper.gzipIndex: "/g" needs upper.target'),
    ({"lowers": [{"file": "/a", "merkle": {"file": "/l"}}]}, f'lowers[0].merkle.root: "" {BAD_DIGEST}'),
    (
        {"lowers": [{"file": "/a", "merkle": {"root": DIGEST, "leaves": "x"}}]},
        f'lowers[0].merkle.leaves: "x" {BAD_DIGEST}',
    ),
    (
        {"lowers": [{"file": "/a", "merkle": {"root": DIGEST}}]},
        "lowers[0].merkle: neither leaves nor file says where the leaves are",
    ),
    (
        {"lowers": [{"file": "/a", "merkle": {"root": DIGEST, "leaves": DIGEST}}]},
        "lowers[0].merkle.size: the leaves of a registry have a size",
    ),
    ({"lowers": {}}, "lowers: an object is not allowed: must be an array of objects"),
    ({"lowers": [[]]}, "lowers[0]: an array is not allowed: must be an object"),
    ({"upper": None}, "upper: null is not allowed: must be an object"),
]


@pytest.mark.parametrize(("root", "what"), SERVICE, ids=[what for _, what in SERVICE])
def test_a_service_that_cannot_work(root: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_service(root, "file.json")
    assert (caught.value.what, caught.value.file, caught.value.kind) == (what, "file.json", "invalid")


@pytest.mark.parametrize(("root", "what"), IMAGE, ids=[what for _, what in IMAGE])
def test_an_image_that_cannot_be_a_device(root: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_image({"resultFile": "/r", **root}, "file.json")
    assert (caught.value.what, caught.value.file, caught.value.kind) == (what, "file.json", "invalid")
    assert caught.value.result_file == "/r"


@pytest.mark.parametrize(
    "root",
    [
        {"p2pConfig": {"enable": True, "address": "h/", "mode": "proxy"}},
        {"serviceConfig": {"enable": True, "address": "unix:"}},
        *[
            {"serviceConfig": {"enable": True, "address": f"http://{host}:1"}}
            for host in ("localhost", "127.9.9.9", "[::1]")
        ],
        {"serviceConfig": {"enable": True, "address": "unix:/run/s"}},
        {"credentialConfig": {"mode": "http", "path": "http://h/a?b"}},
        {"credentialConfig": {"mode": "node"}},
        {"credentialConfig": {"client_key_path": "/k", "client_cert_path": "/c"}},
        {"registries": {"h:5000": {"certFile": "/c", "keyFile": "/k", "mirrors": ["https://m:1/a"]}}},
        {"cacheConfig": {"cacheType": "ocf", "blockSize": 4096, "refillSize": 4096}},
    ],
)
def test_a_service_that_can_work(root: dict[str, Any]) -> None:
    assert list(service_warnings(parse_service(root))) == []


def test_an_image_that_can_be_a_device() -> None:
    tree = {"root": DIGEST, "leaves": DIGEST, "size": 56, "file": "/l"}
    lower = {"digest": DIGEST, "targetDigest": DIGEST, "gzipIndex": "/g", "size": 5, "merkle": tree}
    config = parse_image(
        {"repoBlobUrl": f"{URL}/", "lowers": [lower], "upper": {"index": "/i", "data": "/d"}}
    )
    found = config.lowers[0].merkle
    assert found is not None and config.writable and config.lowers[0].has_target
    assert (found.root, found.leaves, found.size_bytes, found.file) == (DIGEST, DIGEST, 56, "/l")
    assert config.blob_url("d") == f"{URL}/d"
    assert (
        parse_image({"lowers": [{"file": "/a", "merkle": {"root": DIGEST, "file": "/l"}}]}).lowers[0].merkle
    )
    assert parse_image({"lowers": [{"dir": "/a", "targetFile": "/t", "gzipIndex": "/g"}]}).blob_url("d") == ""


@pytest.mark.parametrize(
    ("root", "lines"),
    [
        (
            {"cacheConfig": {"cacheSizeGB": 9}},
            [
                "cacheConfig.cacheSizeGB has no effect without cacheConfig.cacheType: "
                "registryCacheSizeGB counts"
            ],
        ),
        (
            {"cacheConfig": {"cacheDir": "/c"}},
            ["cacheConfig.cacheDir has no effect without cacheConfig.cacheType: registryCacheDir counts"],
        ),
        ({"cacheConfig": {"cacheType": "file", "cacheSizeGB": 9}}, []),
        *[
            (
                {"credentialConfig": {"mode": mode}},
                [f"credentialConfig.mode {mode} without path: registries are asked anonymously"],
            )
            for mode in ("file", "http", "https", "uds")
        ],
        ({"credentialConfig": {"mode": "docker"}}, []),
        (
            {"credentialConfig": {"path": "/p"}},
            ["credentialConfig.path has no effect without credentialConfig.mode: credentialFilePath counts"],
        ),
        ({"logConfig": {"logRotateNum": 0}}, ["logConfig.logRotateNum: 0 acts as 1"]),
        ({"logConfig": {"logRotateNum": 31}}, ["logConfig.logRotateNum: 31 acts as 30"]),
        ({"logConfig": {"logRotateNum": 1}}, []),
        ({"logConfig": {"logRotateNum": 30}}, []),
        (
            {"x": 1, "logConfig": {"logpath": ""}},
            ["unknown key logConfig.logpath (did you mean logPath?) is ignored", "unknown key x is ignored"],
        ),
        (
            {"registries": {"h": {"insecure": True}}},
            ['registries["h"].insecure: its certificate is NOT verified'],
        ),
    ],
)
def test_what_has_no_effect_is_told(root: dict[str, Any], lines: list[str]) -> None:
    assert sorted(service_warnings(parse_service(root))) == sorted(lines)


def test_every_file_that_has_to_be_there_is_named() -> None:
    root = {
        "certConfig": {"caFile": "/1", "certFile": "/2", "keyFile": "/3"},
        "registries": {"h": {"caFile": "/4", "certFile": "/5", "keyFile": "/6"}},
        "credentialConfig": {
            "mode": "http",
            "path": "h",
            "client_cert_path": "/7",
            "client_key_path": "/8",
            "server_ca_path": "/9",
        },
        "serviceConfig": {"enable": True, "tokenFile": "/10"},
    }
    keys = ["certConfig.caFile", "certConfig.certFile", "certConfig.keyFile"]
    keys += ['registries["h"].caFile', 'registries["h"].certFile', 'registries["h"].keyFile']
    keys += [f"credentialConfig.{key}" for key in ("client_cert_path", "client_key_path", "server_ca_path")]
    keys.append("serviceConfig.tokenFile")
    assert list(named_files(parse_service(root))) == [(key, f"/{at}") for at, key in enumerate(keys, 1)]
    off = {"serviceConfig": {"tokenFile": "/t"}, "credentialConfig": {"mode": "https", "path": "h"}}
    assert list(named_files(parse_service(off))) == []


def test_every_setting_has_the_default_that_is_documented() -> None:
    """docs/configuration.md says the same; other programs write these keys."""
    settings = effective_settings(parse_service({}), {})
    assert {one.origin for one in settings} == {"default"}
    assert {one.key: one.value for one in settings} == DEFAULTS


@pytest.mark.parametrize(
    ("legacy", "key", "value"),
    [
        ("logLevel", "logConfig.logLevel", 2),
        ("logPath", "logConfig.logPath", "/l"),
        ("cacheType", "cacheConfig.cacheType", "ocf"),
        ("registryCacheDir", "cacheConfig.cacheDir", "/c"),
        ("registryCacheSizeGB", "cacheConfig.cacheSizeGB", 9),
        ("credentialFilePath", "credentialConfig.path", "/p"),
    ],
)
def test_a_legacy_key_shows_under_the_new_one(legacy: str, key: str, value: object) -> None:
    root = {legacy: value}
    found = {one.key: (one.value, one.origin) for one in effective_settings(parse_service(root), root)}
    assert found[key] == (value, f"legacy key {legacy}") and legacy not in found


def test_a_value_is_shown_as_in_the_file_and_not_for_long() -> None:
    values: list[object] = [None, True, False, {}, [], 5, 1.5]
    assert list(map(shown, values)) == ["null", "true", "false", "an object", "an array", "5", "1.5"]
    assert (
        shown("é\n") == '"é\\n"'
        and shown("x" * 60) == f'"{"x" * 60}"'
        and shown("x" * 61) == f'"{"x" * 59}…"'
    )
