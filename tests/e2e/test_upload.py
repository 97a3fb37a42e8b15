"""`--upload`: the result also goes to a real registry, and nothing is left when it cannot."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.commands import Done, names, place, run, sha256
from tests.e2e.servers import Registry

USER, PASSWORD = "team", "secret-word"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with Registry(tmp_path_factory.mktemp("registry"), users={USER: PASSWORD}) as server:
        yield server


def credentials(directory: Path, registry: Registry, password: str = PASSWORD) -> Path:
    path = directory / "cred.json"
    path.write_text(json.dumps({"auths": {registry.host: {"username": USER, "password": password}}}))
    return path


def uploads(registry: Registry) -> str:
    return registry.repository("team/app") + "/blobs/uploads/"


def blob(registry: Registry, digest: str) -> bytes:
    """What the registry has."""
    manager = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    manager.add_password(None, registry.url, USER, PASSWORD)
    opener = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(manager))
    with opener.open(f"{registry.repository('team/app')}/blobs/{digest}", timeout=60) as response:
        content: bytes = response.read()
    return content


def commit(directory: Path, *options: str | Path) -> Done:
    data, index = place(directory, "lsmt/b.data", "lsmt/b.index")
    return run("overlaybd-commit", data, index, directory / "out", "-z", *options)


@pytest.mark.parametrize("chunk", ["262144", "1"])
def test_commit(tmp_path: Path, registry: Registry, chunk: str) -> None:
    cred = credentials(tmp_path, registry)
    done = commit(tmp_path, "--upload", uploads(registry), "--cred_file_path", cred, "--upload_bs", chunk)
    assert done.status == 0
    content = (tmp_path / "out").read_bytes()
    assert done.err == f"sha256:{sha256(content)}\n"
    assert blob(registry, done.err.strip()) == content


def test_merge(tmp_path: Path, registry: Registry) -> None:
    lowers = [{"file": str(path)} for path in place(tmp_path, "lsmt/a.commit", "lsmt/b.commit")]
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"lowers": lowers}))
    options = ["--upload", uploads(registry), "--cred_file_path", str(credentials(tmp_path, registry))]
    done = run("overlaybd-merge", config, tmp_path / "out", *options)
    assert done.status == 0
    assert blob(registry, done.err.strip()) == (tmp_path / "out").read_bytes()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("password", "failed to commit or upload: denied: "),
        ("anonymous", "failed to commit or upload: denied: "),
        ("nobody there", "failed to commit or upload: io: "),
        ("url", "failed to commit or upload: not like https://HOST/v2/REPOSITORY/blobs/uploads/: "),
        ("cred file", "failed to read upload cred file: "),
        ("certificate", "failed to commit or upload: "),
        ("key alone", "failed to commit or upload: --tls_key_path needs --tls_cert_path"),
    ],
)
def test_failures_leave_nothing(tmp_path: Path, registry: Registry, wrong: str, message: str) -> None:
    cred = credentials(tmp_path, registry, "bad" if wrong == "password" else PASSWORD)
    url = uploads(registry)
    options: list[str | Path] = ["--cred_file_path", cred]
    if wrong == "anonymous":
        options = []
    elif wrong == "nobody there":
        url = "http://127.0.0.1:1/v2/team/app/blobs/uploads/"
    elif wrong == "url":
        url = registry.url
    elif wrong == "cred file":
        cred.write_text("[]")
    elif wrong == "certificate":
        options += ["--tls_cert_path", cred]
    elif wrong == "key alone":
        options += ["--tls_key_path", cred]
    before = {"b.data", "b.index", "cred.json"}
    done = commit(tmp_path, "--upload", url, *options)
    assert (done.status, done.out, len(done.lines)) == (255, "", 1)
    assert done.err.startswith(message)
    assert PASSWORD not in done.err
    assert set(names(tmp_path)) == before


def test_ignored_without_z(tmp_path: Path) -> None:
    data, index = place(tmp_path, "lsmt/b.data", "lsmt/b.index")
    done = run("overlaybd-commit", data, index, tmp_path / "out", "--upload", "http://127.0.0.1:1/x")
    assert done.status == 0
    assert "WARNING option '--upload' will be ignored without '-z'" in done.lines
