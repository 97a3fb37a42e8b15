"""Fuzz targets of documents: configuration, credentials, what images and registries say, our own records."""

from __future__ import annotations

import base64
import json
import os
import tempfile
from typing import Any, Final

from obd.config.image import parse_image
from obd.config.service import parse_service
from obd.config.strict_json import parse_object
from obd.convert.plan import chosen_entries, plan_image
from obd.convert.record import Made, Records
from obd.credentials import document, helper, kubelet
from obd.credentials.image_match import matches
from obd.credentials.kubelet_config import Provider, load_providers
from obd.credentials.server import auths_in
from obd.oci.descriptor import Descriptor
from obd.oci.layers import is_foreign, layer_kind
from obd.oci.manifest import Index, Manifest, parse_manifest
from obd.oci.platform import Platform
from obd.state import State, StateDirectory
from tests.fuzz.target import Target

DIGEST: Final = "sha256:" + "0123456789abcdef" * 4
BLOB_URL: Final = f"https://registry.example:5000/v2/team/app/blobs/{DIGEST}"


def _json(content: Any) -> bytes:
    return json.dumps(content).encode()


def _descriptor(kind: str, size: int = 100, **more: Any) -> dict[str, Any]:
    return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": DIGEST, "size": size, **more}


def image_config(data: bytes) -> None:
    parse_image(parse_object(data, "image"), "image")


def service_config(data: bytes) -> None:
    parse_service(parse_object(data, "service"), "service")


def manifest(data: bytes) -> None:
    """What is read is written in a form that reads the same; then a plan is made of it."""
    found = parse_manifest(data, where="somewhere")
    again = parse_manifest(found.encode())
    assert again == found and again.encode() == found.encode()
    entry = found.descriptor()
    if isinstance(found, Index):
        assert all(isinstance(each, Descriptor) for each in found.manifests)
        chosen_entries(found, (), every=True)
        found.choose(Platform("linux", "amd64"))
    else:
        assert isinstance(found, Manifest)
        assert all(layer_kind(layer) and is_foreign(layer) in (True, False) for layer in found.blobs)
        plan_image(entry, found, _json({"rootfs": {"type": "layers", "diff_ids": [DIGEST]}}))


def oci_config(data: bytes) -> None:
    layer = Descriptor("application/vnd.oci.image.layer.v1.tar+gzip", DIGEST, 100)
    config = Descriptor("application/vnd.oci.image.config.v1+json", DIGEST, 100)
    found = Manifest(config, (layer, layer))
    plan = plan_image(found.descriptor(), found, data)
    assert len(plan.steps) == 2 and isinstance(plan.platform, str)


def credential_document(data: bytes) -> None:
    root = parse_object(data, "credentials")
    auths = document.auths_of(root)
    document.match(auths, BLOB_URL)
    for line in document.unusable(auths):
        assert "secret" not in line
    helper.choose(root, BLOB_URL)
    helper.names_of(root)


def credential_answer(data: bytes) -> None:
    document.match(auths_in(200, data), BLOB_URL)


def provider_answer(data: bytes) -> None:
    provider = Provider("program", ("*.example",), 60.0, "credentialprovider.kubelet.k8s.io/v1")
    image = "registry.example:5000/team/app"
    found = kubelet._answer(provider, image, data)
    for pattern in found.value:
        matches(pattern, image)


class _Files:
    """A directory that lasts as long as the process."""

    def __init__(self) -> None:
        self._directory: Final = tempfile.TemporaryDirectory(prefix="overlaybd-fuzz-", dir=_memory())

    def path(self, name: str) -> str:
        return os.path.join(self._directory.name, name)

    def put(self, name: str, data: bytes) -> str:
        path = self.path(name)
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path))
            return self.put(name, data)
        os.write(file, data)
        os.close(file)
        return path


def _memory() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


files: Final = _Files()


def provider_config(data: bytes) -> None:
    for provider in load_providers(files.put("providers", data))[0]:
        for pattern in provider.patterns:
            matches(pattern, "registry.example:5000/team/app")
        assert all(isinstance(word, str) for word in provider.args)


def record(data: bytes) -> None:
    files.put("records/key.json", data)
    found = Records(files.path("records")).get("key")
    assert found is None or isinstance(found, Made)


def state(data: bytes) -> None:
    os.environ["OVERLAYBD_RUN_DIR"] = files.path("run")
    try:
        place = StateDirectory("attach", "/image/config.v1.json")
        files.put(f"run/attach/{place.digest}/state.json", data)
        found = place.read()
        assert found is None or isinstance(found, State)
        from obd.state import state_directories

        assert len(state_directories("attach")) <= 1
    finally:
        del os.environ["OVERLAYBD_RUN_DIR"]


_PLATFORM: Final = {"os": "linux", "architecture": "amd64", "variant": "v2", "os.version": "1"}
_MANIFEST: Final = {
    "schemaVersion": 2,
    "mediaType": "application/vnd.oci.image.manifest.v1+json",
    "artifactType": "application/example",
    "config": _descriptor("config.v1+json"),
    "layers": [_descriptor("layer.v1.tar+gzip", annotations={"a": "b"}, urls=["https://h/x"])],
    "subject": _descriptor("manifest.v1+json"),
    "annotations": {"org.opencontainers.image.created": "2024-01-01"},
}
_INDEX: Final = {
    "schemaVersion": 2,
    "mediaType": "application/vnd.oci.image.index.v1+json",
    "manifests": [
        _descriptor("manifest.v1+json", platform=_PLATFORM),
        _descriptor("manifest.v1+json", platform={"os": "unknown", "architecture": "unknown"}),
    ],
}
_IMAGE: Final = {
    "repoBlobUrl": "https://registry.example/v2/team/app/blobs",
    "lowers": [
        {"digest": DIGEST, "size": 4096, "dir": "/layers/1"},
        {"file": "/layers/2", "targetFile": "/target", "gzipIndex": "/index"},
    ],
    "upper": {"index": "/upper/index", "data": "/upper/data", "target": "/target", "gzipIndex": "/i"},
    "resultFile": "/result",
    "download": {
        "enable": True,
        "delay": 10,
        "delayExtra": 3,
        "maxMBps": 10,
        "tryCnt": 2,
        "blockSize": 65536,
    },
    "accelerationLayer": False,
    "recordTracePath": "/trace",
}
_SERVICE: Final = {
    "logConfig": {"logLevel": 1, "logPath": "/log", "logSizeMB": 10, "logRotateNum": 3},
    "cacheConfig": {"cacheType": "file", "cacheDir": "/cache", "cacheSizeGB": 4, "refillSize": 262144},
    "gzipCacheConfig": {"enable": True, "cacheDir": "/gzip", "cacheSizeGB": 4, "refillSize": 1048576},
    "credentialConfig": {"mode": "http", "path": "https://localhost:19876/auth", "timeout": 1},
    "registries": {"registry.example": {"mirrors": ["https://mirror.example"], "caFile": "/ca"}},
    "p2pConfig": {"enable": True, "address": "http://127.0.0.1:65001"},
    "exporterConfig": {"enable": True, "uriPrefix": "/metrics", "port": 9863, "updateInterval": 60},
    "download": {"enable": True},
    "prefetchConfig": {"concurrency": 16},
    "certConfig": {"certFile": "/cert", "keyFile": "/key"},
    "serviceConfig": {"enable": True, "address": "http://127.0.0.1:9862", "tokenFile": "/token"},
    "ioEngine": 1,
    "enableAudit": True,
    "auditPath": "/audit",
    "userAgent": "agent",
}
_AUTH: Final = base64.b64encode(b"user:secret").decode()
_CREDENTIALS: Final = {
    "auths": {
        "registry.example:5000": {"auth": _AUTH},
        "registry.example:5000/team": {"username": "user", "password": "secret"},
        "https://registry.example:5000/v1/": {"identitytoken": "secret"},
    },
    "credHelpers": {"registry.example:5000": "name"},
    "credsStore": "store",
}
_PROVIDERS: Final = {
    "kind": "CredentialProviderConfig",
    "apiVersion": "kubelet.config.k8s.io/v1",
    "providers": [
        {
            "name": "program",
            "matchImages": ["*.example:5000/team", "registry.[a-z]xample"],
            "defaultCacheDuration": "12h0m1.5s",
            "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
            "args": ["--get"],
            "env": [{"name": "A", "value": "B"}],
        },
    ],
}
_ANSWER: Final = {
    "kind": "CredentialProviderResponse",
    "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
    "cacheKeyType": "Image",
    "cacheDuration": "1m0s",
    "auth": {"*.example:5000": {"username": "user", "password": "secret"}},
}
_STATE: Final = {
    "key": "/image/config.v1.json",
    "config": "/image/config.v1.json",
    "via": "nbd",
    "read_only": True,
}
_RECORD: Final = {
    "digest": DIGEST,
    "size": 4096,
    "diff_id": DIGEST,
    "kind": "native",
    "places": ["https://r/v2/a"],
}
_YAML: Final = b"""kind: CredentialProviderConfig
apiVersion: kubelet.config.k8s.io/v1
providers:
- name: program
  matchImages: ["*.example"]
  defaultCacheDuration: 1h
  apiVersion: credentialprovider.kubelet.k8s.io/v1
  env: &a [{name: A, value: !!str 1}]
"""
_YAML_WORDS: Final = (
    b"!!int ''",
    b"!!timestamp x",
    b"!!bool z",
    b"!!float ''",
    b"*a",
    b"&a ",
    b"? ",
    b"<<: *a",
    b"- ",
)

TARGETS: Final = (
    Target("image_config", image_config, (_json(_IMAGE),)),
    Target("service_config", service_config, (_json(_SERVICE),)),
    Target("manifest", manifest, (_json(_MANIFEST), _json(_INDEX))),
    Target(
        "oci_config",
        oci_config,
        (_json({"os": "linux", "rootfs": {"type": "layers", "diff_ids": [DIGEST] * 2}}),),
    ),
    Target("credential_document", credential_document, (_json(_CREDENTIALS),)),
    Target(
        "credential_answer",
        credential_answer,
        (_json({"success": True, "traceId": "1", "data": _CREDENTIALS}),),
    ),
    Target("provider_config", provider_config, (_json(_PROVIDERS), _YAML), _YAML_WORDS),
    Target("provider_answer", provider_answer, (_json(_ANSWER),)),
    Target("record", record, (_json(_RECORD),)),
    Target("state", state, (_json(_STATE),)),
)
