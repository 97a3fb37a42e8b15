"""Every way to credentials, from the service configuration to bytes of a registry that wants tokens."""

import contextlib
import json
import logging
import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import obd
from obd.credentials import FileCredentials
from obd.errors import ObdError
from obd.push import Repository
from obd.registry import Registry
from tests.e2e import servers
from tests.e2e.commands import BIN, ok
from tests.e2e.givers import Giver, Node, answer, at_socket, certificates, helper, mutual_tls

PASSWORD = "hunter2"
IDENTITY = "an-identity-token"
DATA = random.Random(5).randbytes(1 << 20)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Registry]:
    home = tmp_path_factory.mktemp("registry")
    with (
        servers.TokenServer(home / "tokens", {"ann": PASSWORD}) as tokens,
        servers.Registry(home / "registry", tokens=tokens) as registry,
    ):
        tokens.identity_tokens.add(IDENTITY)
        yield registry


@pytest.fixture(scope="module")
def layer(server: servers.Registry, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of a pushed layer that holds `DATA`."""
    home = tmp_path_factory.mktemp("layer")
    (home / "raw").write_bytes(DATA)
    ok("obd", "import", home / "raw", home / "layer")
    auths = {"auths": {server.host: {"username": "ann", "password": PASSWORD}}}
    (home / "cred.json").write_text(json.dumps(auths))
    registry = Registry(FileCredentials(str(home / "cred.json")))
    return Repository(registry, server.repository("team/app")).push_file(str(home / "layer")).digest


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("tls")
    certificates(home)
    return home


class Host:
    """A host on which credentials are to be had in every way; each makes the object that asks for one."""

    def __init__(self, home: Path, registry: str, tls: Path, stack: contextlib.ExitStack) -> None:
        self.home, self.registry, self.tls, self.stack = home, registry, tls, stack
        self.giver = Giver()
        self.giver.body = json.dumps(answer(registry)).encode()
        self.entry = {"username": "ann", "password": PASSWORD}

    def document(self, **content: object) -> str:
        path = self.home / "cred.json"
        path.write_text(json.dumps(content))
        return str(path)

    def file(self) -> dict[str, object]:
        path = self.document(auths={f"{self.registry}/team": self.entry})
        return {"credentialConfig": {"mode": "file", "path": path}}

    def legacy(self) -> dict[str, object]:
        return {"credentialFilePath": self.document(auths={self.registry: self.entry})}

    def http(self) -> dict[str, object]:
        url = self.stack.enter_context(servers.serving(self.giver.handler()))
        return {"credentialConfig": {"mode": "http", "path": f"{url}/auth?key={PASSWORD}", "timeout": 5}}

    def https(self) -> dict[str, object]:
        url = self.stack.enter_context(mutual_tls(self.giver, self.tls))
        settings = {"mode": "https", "path": url, "timeout": 5, "server_ca_path": str(self.tls / "ca.pem")}
        return {"credentialConfig": {**settings, "client_cert_path": str(self.tls / "both.pem")}}

    def uds(self) -> dict[str, object]:
        self.stack.enter_context(at_socket(self.giver, self.home / "s"))
        return {"credentialConfig": {"mode": "uds", "path": str(self.home / "s"), "timeout": 5}}

    def docker(self) -> dict[str, object]:
        path = self.document(
            auths={"https://index.docker.io/v1/": {}, f"http://{self.registry}/": self.entry}
        )
        return {"credentialConfig": {"mode": "docker", "path": path}}

    def docker_helper(self) -> dict[str, object]:
        helper(self.home, "store", "ann", PASSWORD)
        path = self.document(credHelpers={self.registry: "store"})
        return {"credentialConfig": {"mode": "docker", "path": path}}

    def identity_token(self) -> dict[str, object]:
        helper(self.home, "store", "<token>", IDENTITY)
        return {"credentialConfig": {"mode": "docker", "path": self.document(credsStore="store")}}

    def kubelet(self) -> dict[str, object]:
        node = Node(self.home)
        node.add("provider", ["127.0.0.*:" + self.registry.partition(":")[2]], {self.registry: self.entry})
        return {"credentialConfig": node.settings()}


WAYS: list[Callable[[Host], dict[str, object]]] = [
    Host.file,
    Host.legacy,
    Host.http,
    Host.https,
    Host.uds,
    Host.docker,
    Host.docker_helper,
    Host.identity_token,
    Host.kubelet,
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_device_is_read_with_credentials(
    way: Callable[[Host], dict[str, object]],
    server: servers.Registry,
    layer: str,
    tls: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    image = tmp_path / "config.json"
    lower = {"digest": layer, "dir": str(tmp_path / "none")}
    image.write_text(json.dumps({"repoBlobUrl": f"{server.repository('team/app')}/blobs", "lowers": [lower]}))
    service = tmp_path / "overlaybd.json"
    cache = {"cacheType": "file", "cacheDir": str(tmp_path / "cache")}
    with contextlib.ExitStack() as stack, caplog.at_level(logging.DEBUG):
        settings = way(Host(tmp_path, server.host, tls, stack))
        service.write_text(json.dumps({"cacheConfig": cache, **settings}))
        with obd.open(image, service) as device:
            assert device.read(0, len(DATA)) == DATA
            assert PASSWORD not in repr(device)
    assert PASSWORD not in caplog.text and IDENTITY not in caplog.text


def test_a_source_that_fails_is_named_in_the_result(
    server: servers.Registry, layer: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not as an access that nobody allowed, but with what went wrong before."""
    image, service, result = (tmp_path / name for name in ("config.json", "overlaybd.json", "result"))
    lower = {"digest": layer, "dir": str(tmp_path / "none")}
    base = {"repoBlobUrl": f"{server.repository('team/app')}/blobs", "resultFile": str(result)}
    image.write_text(json.dumps({**base, "lowers": [lower]}))
    settings = {"mode": "uds", "path": str(tmp_path / "absent.sock")}
    cache = {"cacheType": "file", "cacheDir": str(tmp_path / "cache")}
    service.write_text(json.dumps({"cacheConfig": cache, "credentialConfig": settings}))
    with pytest.raises(ObdError, match="Authentication failed"):
        obd.open(image, service)
    said = result.read_text()
    assert f"unix socket {tmp_path}/absent.sock (failed: No such file or directory)" in said
    warned = [line for line in caplog.messages if line.startswith("credentials: ")]
    assert len(warned) == 1 and "absent.sock" in warned[0]


def test_a_process_that_holds_secrets_leaves_no_core_dump() -> None:
    code = """
import ctypes, os, sys
from obd.credentials import no_core_dumps
no_core_dumps()
print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
"""
    for value, dumpable in (("", "0"), ("1", "1")):
        env = {**os.environ, "OBD_ALLOW_CORE_DUMPS": value}
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == dumpable


def test_a_server_that_crashes_leaves_none_either(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(DATA)
    ok("obd", "import", tmp_path / "raw", tmp_path / "layer")
    (tmp_path / "image.json").write_text(json.dumps({"lowers": [{"file": str(tmp_path / "layer")}]}))
    # As much as may be dumped on this machine.
    most = resource.getrlimit(resource.RLIMIT_CORE)[1]
    command = [f"{BIN}/obd", "serve", "--nbd", f"unix:{tmp_path}/s", f"{tmp_path}/image.json"]
    with subprocess.Popen(
        ["prlimit", f"--core={'unlimited' if most == resource.RLIM_INFINITY else most}", *command],
        stdout=subprocess.PIPE,
        cwd=tmp_path,
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline().startswith(b"ready")
        server.send_signal(signal.SIGABRT)
        _, status = os.waitpid(server.pid, 0)
        server.returncode = os.waitstatus_to_exitcode(status)
    assert os.WTERMSIG(status) == signal.SIGABRT
    assert not os.WCOREDUMP(status)
