"""Credentials in containerd's own configuration: what is understood, and whom it is for."""

import base64
import logging
import random
from pathlib import Path

import pytest

from obd.credentials import Credential, FileCredentials
from obd.credentials.chain import ChainCredentials
from obd.credentials.containerd import ContainerdCredentials
from obd.credentials.keep import keep

URL = "https://h:5000/v2/team/app/blobs/sha256:00"
AUTH = base64.b64encode(b"ann:secret word").decode()


def user(path: Path, url: str = URL) -> str | None:
    found = ContainerdCredentials(str(path)).lookup(url)
    return found.username if found else None


@pytest.mark.parametrize(
    "plugin", ["cri", '"io.containerd.grpc.v1.cri"', '"io.containerd.cri.v1.images"'], ids=("1", "2", "3")
)
def test_settings_of_cri(tmp_path: Path, plugin: str) -> None:
    file = tmp_path / "config.toml"
    auth = f'[plugins.{plugin}.registry.configs."h:5000".auth]'
    for line in ('username = "ann"\npassword = "x"', f'auth = "{AUTH}"'):
        file.write_text(f"{auth}\n{line}\n")
        assert user(file) == "ann"
        assert user(file, URL.replace("5000", "5001")) is None
    file.write_text(f'{auth}\nidentitytoken = "t"\n')
    found = ContainerdCredentials(str(file)).lookup(URL)
    assert found is not None
    assert found.identity_token == "t"


@pytest.mark.parametrize(
    ("place", "text", "wanted"),
    [
        ("h_5000_", '[host."https://h:5000".header]\nAuthorization = "Basic {}"', "ann"),
        ("h:5000", '[host."http://h:5000".header]\nauthorization = ["Basic {}"]', "ann"),
        ("h_5000_", 'server = "https://h:5000"\n[header]\nauthorization = "basic {}"', "ann"),
        ("h_5000_", '[header]\nauthorization = "Basic {}"', "ann"),
        ("_default", '[host."https://h:5000".header]\nAuthorization = "Basic {}"', "ann"),
        # What is for a mirror is for nobody else.
        ("h_5000_", '[host."https://mirror".header]\nauthorization = "Basic {}"', None),
        ("h_5000_", 'server = "https://mirror"\n[header]\nauthorization = "Basic {}"', None),
        ("_default", '[header]\nauthorization = "Basic {}"', None),
        ("h", '[header]\nauthorization = "Basic {}"', None),
        ("h_5000_", '[header]\nauthorization = "Bearer {}"', None),
        ("h_5000_", "[header]\nauthorization = 5", None),
        ("h_5000_", "[host]\nx = 1", None),
    ],
)
def test_headers_of_hosts(tmp_path: Path, place: str, text: str, wanted: str | None) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f'[plugins."io.containerd.grpc.v1.cri".registry]\nconfig_path = "/no:{tmp_path}"\n')
    (tmp_path / place).mkdir()
    (tmp_path / place / "hosts.toml").write_text(text.format(AUTH))
    assert user(file) == wanted


@pytest.mark.parametrize("text", ["secret word = [", "[plugins]\ncri = 5", "plugins = 'x'", "#" * (2 << 20)])
def test_files_that_are_of_no_use(tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text)
    with caplog.at_level(logging.DEBUG):
        assert user(file) is None
    assert "secret word" not in caplog.text
    assert ContainerdCredentials(str(tmp_path / "none"), optional=True).lookup(URL) is None


def test_the_first_source_that_has_one_counts(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    keep(str(one), "other:1/x", Credential("eve", "x"))
    keep(str(two), "h:5000", Credential("bob", "x"))
    chain = ChainCredentials([FileCredentials(str(one)), FileCredentials(str(two))])
    found = chain.lookup(URL)
    assert found is not None
    assert found.username == "bob"
    keep(str(one), "h:5000/team/app", Credential("ann", "x"))
    chain.forget(URL)
    assert chain.lookup(URL) == Credential("ann", "x")
    assert chain.describe() == f"file {one}, file {two}"


def test_whatever_the_files_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Tables of the right names with anything in them: a credential or none, never a failure of ours."""
    order = random.Random(7)
    names = ["plugins", "cri", "registry", "configs", "h:5000", "auth", "config_path", "server", "host"]
    names += [
        "https://h:5000",
        "http://[",
        "header",
        "authorization",
        "Authorization",
        "username",
        "password",
    ]
    leaves = [
        1,
        True,
        1.5,
        "",
        "x",
        f"Basic {AUTH}",
        "Basic %",
        [],
        ["x"],
        [1],
        [{}],
        "https://h:5000",
        "a:b",
    ]

    def table(depth: int) -> dict[str, object]:
        chosen = order.sample(names, order.randrange(1, 6))
        return {
            name: table(depth - 1) if depth and order.random() < 0.7 else order.choice(leaves)
            for name in chosen
        }

    def wrapped(*path: str) -> dict[str, object]:
        found = table(3)
        for name in reversed(path):
            found = {**table(1), name: found}
        return found

    (tmp_path / "h:5000").mkdir()
    (tmp_path / "h:5000" / "hosts.toml").touch()
    (tmp_path / "config.toml").touch()
    shapes = [
        (),
        ("plugins", "cri", "registry"),
        ("plugins", "cri", "registry", "configs", "h:5000"),
        ("host",),
    ]
    monkeypatch.setattr("obd.credentials.containerd._DIRECTORIES", str(tmp_path))
    monkeypatch.setattr("obd.credentials.containerd._read", lambda _: wrapped(*order.choice(shapes)))
    found = 0
    for _ in range(3000):
        found += ContainerdCredentials(str(tmp_path / "config.toml")).lookup(URL) is not None
    assert found
    assert "internal error" not in caplog.text
