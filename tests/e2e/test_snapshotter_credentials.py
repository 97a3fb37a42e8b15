"""A registry that wants a password, under containerd: every way by which a node's devices come to have it."""

import contextlib
import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import givers
from tests.e2e.commands import run
from tests.e2e.containerd import CONTAINERS, Node, build, node_of
from tests.e2e.servers import Registry
from tests.e2e.snapshotter import Client, Refused

pytestmark = CONTAINERS

APP = "app:v1-obd"
PASSWORD = "hunter2hunter2"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """The same data as of a registry that anybody could push to."""
    directory = tmp_path_factory.mktemp("registry")
    with Registry(directory) as registry:
        build(directory, registry)
    with Registry(directory, users={"ann": PASSWORD}) as registry:
        yield registry


class Ways:
    """Makes each way's files below `home`; the object `credentialConfig` for it."""

    def __init__(self, home: Path, host: str) -> None:
        self.home, self.host = home, host

    def file(self, password: str = PASSWORD) -> dict[str, Any]:
        return {"mode": "file", "path": self._write("cred.json", password)}

    def docker(self, password: str = PASSWORD) -> dict[str, Any]:
        return {"mode": "docker", "path": self._write("config.json", password)}

    def _write(self, name: str, password: str) -> str:
        path = self.home / name
        path.write_text(json.dumps({"auths": {self.host: {"username": "ann", "password": password}}}))
        return str(path)

    def containerd(self, password: str = PASSWORD) -> dict[str, Any]:
        path = self.home / "config.toml"
        plugin = f'[plugins."io.containerd.grpc.v1.cri".registry.configs."{self.host}".auth]'
        path.write_text(f'version = 2\n{plugin}\nusername = "ann"\npassword = "{password}"\n')
        return {"mode": "containerd", "path": str(path)}

    def kubelet(self, password: str = PASSWORD) -> dict[str, Any]:
        node = givers.Node(self.home)
        node.add("cloud", [self.host], {self.host: {"username": "ann", "password": password}})
        return dict(node.settings())

    def node(self, password: str = PASSWORD) -> dict[str, Any]:
        return {**self.kubelet(password), "mode": "node"}


def test_devices_have_what_the_node_has(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _node(registry, tmp_path, monkeypatch, {}) as node:
        refused = run(
            "obd", "rpull", "--address", str(node.socket), "--http", *_service(node), node.image(APP)
        )
        assert "denied" in refused.err
        service = node.directory / "service.json"
        before = json.loads(service.read_text())
        for name in ("docker", "containerd", "node"):  # the last by the kubelet's providers
            home = tmp_path / name
            home.mkdir()
            settings = getattr(Ways(home, registry.host), name)()
            service.write_text(json.dumps({**before, "credentialConfig": settings}))
            shutil.rmtree(node.directory / "cache", ignore_errors=True)
            assert _pull(node) == {"lazy": 2, "fetched": 0, "present": 0}, name
            assert node.run(APP, name, "/bin/cat", "/etc/name") == "two\n"
            _look_for_secrets(node, tmp_path)
            node.ok("images", "rm", "--sync", node.image(APP))


def test_a_password_that_is_given_is_the_devices_too(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "kept.json"
    kept.write_text(json.dumps({"auths": {registry.host: {"username": "eve", "password": "x"}}, "more": 1}))
    kept.chmod(0o644)
    with _node(registry, tmp_path, monkeypatch, {"mode": "file", "path": str(kept)}) as node:
        words = ["--address", str(node.socket), "--http", "-u", "ann", *_service(node), node.image(APP)]
        refused = run("obd", "rpull", *words, stdin=b"wrong\n")
        assert refused.status
        assert "denied" in refused.err
        assert "the password that was given for ann" in refused.err
        before = kept.read_bytes()
        done = run("obd", "rpull", *words, stdin=PASSWORD.encode() + b"\n")
        assert done.status == 0, done.err
        assert before != kept.read_bytes()
        assert node.run(APP, "first", "/bin/cat", "/etc/name") == "two\n"
        _look_for_secrets(node, tmp_path)
    entries = json.loads(kept.read_text())
    assert list(entries["auths"]) == [f"{registry.host}/app", registry.host]
    assert entries["more"] == 1
    assert kept.stat().st_mode & 0o777 == 0o600


def test_a_wrong_password_is_told_of(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ways = Ways(tmp_path, registry.host)
    with _node(registry, tmp_path, monkeypatch, ways.file()) as node:
        _pull(node)
        ways.file("notthisonenotthis")
        with contextlib.closing(Client(str(node.directory / "snapshotter.sock"))) as client:
            top = client.names("kind==committed")[-1]
            with pytest.raises(Refused) as caught:
                client.prepare("key", top)
            assert "no device: denied: " in caught.value.what
            assert f"file {tmp_path}/cred.json" in caught.value.what
            assert "notthisone" not in caught.value.what
            with pytest.raises(Refused, match="does not exist"):
                client.stat("key")
            ways.file()
            client.prepare("key", top)
        _look_for_secrets(node, tmp_path)


@contextlib.contextmanager
def _node(
    registry: Registry, home: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> Iterator[Node]:
    # What the user of this machine has must not help.
    monkeypatch.setenv("DOCKER_CONFIG", str(home / "nothing"))
    exporter = {"enable": True, "port": 0}
    with node_of(registry, home, service={"credentialConfig": settings}, exporterConfig=exporter) as node:
        yield node


def _service(node: Node) -> tuple[str, str]:
    return "--service", str(node.directory / "service.json")


def _pull(node: Node) -> dict[str, int]:
    return node.pull(APP, *_service(node))


# Bytes of a file that is a device.
MANY = 1 << 20


def _look_for_secrets(node: Node, home: Path) -> None:
    """Fails if a password is where many can read it: logs, rows, arguments of programs, labels, reports."""
    database = sqlite3.connect(node.root / "snapshots.db")
    with contextlib.closing(database):
        said = "\n".join(database.iterdump())
    said += (
        node.log.read_text()
        + node.ok("images", "ls")
        + node.ok("snapshots", "--snapshotter", "overlaybd", "ls")
    )
    for top, ends in ((home / "run", ("",)), (node.root, (".json", ".log"))):
        for directory, _, names in os.walk(top):
            for path in (Path(directory, name) for name in names if name.endswith(ends)):
                with contextlib.suppress(OSError):  # what is removed goes while we look
                    if path.is_file() and not path.is_symlink() and path.stat().st_size < MANY:
                        said += path.read_text("utf-8", "replace")
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            said += path.read_bytes().decode("utf-8", "replace")
    assert PASSWORD not in said
    assert "notthisone" not in said
