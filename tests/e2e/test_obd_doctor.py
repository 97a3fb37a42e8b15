"""`obd doctor`: what is broken is found, named with its cure, and told by the exit status."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from obd.attach.ways import way
from tests.e2e.commands import ok, run
from tests.e2e.disks import MIB, content, layer
from tests.e2e.servers import QuietHandler, Registry, free_port, serving
from tests.e2e.tls import Authority

Found = list[dict[str, str]]

pytestmark = [
    pytest.mark.usefixtures("run_directory"),
    pytest.mark.skipif(bool(missing := way("fuse").missing()), reason=f"no machine to find well: {missing}"),
]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with Registry(tmp_path_factory.mktemp("registry"), users={"ann": "secret"}) as running:
        yield running


@pytest.fixture(scope="module")
def credentials(tmp_path_factory: pytest.TempPathFactory, registry: Registry) -> Path:
    path = tmp_path_factory.mktemp("credentials") / "cred.json"
    path.write_text(json.dumps({"auths": {registry.host: {"username": "ann", "password": "secret"}}}))
    return path


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory, registry: Registry, credentials: Path) -> Path:
    """The configuration of an image whose layer is in the registry."""
    home = tmp_path_factory.mktemp("image")
    layer(home / "layer", content(MIB))
    to = f"{registry.host}/team/app:v1"
    ok("obd", "push", home / "layer", "--to", to, "--credentials", credentials, "--config", home / "i.json")
    return home / "i.json"


def service(directory: Path, **settings: Any) -> Path:
    """A service configuration that is right, but for `settings`."""
    (directory / "cache").mkdir()
    cache = {"cacheType": "file", "cacheDir": str(directory / "cache"), "cacheSizeGB": 1}
    path = directory / "overlaybd.json"
    path.write_text(json.dumps({"cacheConfig": cache, "enableAudit": False, "logPath": "", **settings}))
    return path


def doctor(*words: str | Path, broken: bool) -> Found:
    done = run("obd", "doctor", "--json", *words)
    assert (done.status, done.err) == (int(broken), "")
    found: Found = json.loads(done.out)
    return found


def the(found: Found, status: str, area: str, what: str) -> dict[str, str]:
    """The one finding that says `what`."""
    (one,) = [one for one in found if one["area"] == area and what in one["what"]]
    assert one["status"] == status, one
    assert one["fix"] or status == "ok", "a fault comes with its cure"
    return one


def test_a_machine_that_is_well(tmp_path: Path, image: Path, registry: Registry, credentials: Path) -> None:
    config = service(tmp_path, credentialFilePath=str(credentials))
    found = doctor("--service", config, image, broken=False)
    areas = {"kernel", "rights", "daemon", "configuration", "disk", "registry", "clock", "limits"}
    assert {one["area"] for one in found} == areas
    assert {one["status"] for one in found} <= {"ok", "warning"}
    the(found, "ok", "configuration", f"{config} is right")
    the(found, "ok", "disk", f"{tmp_path / 'cache'}: ")
    one = the(found, "ok", "registry", f"http://{registry.host}: gives 512 bytes of sha256:")
    assert 'user "ann"' in one["what"]
    assert "secret" not in json.dumps(found)
    # For people: a line for each.
    done = ok("obd", "doctor", "--service", config, image)
    assert len(done.out.splitlines()) == len(found)
    assert f"ok       configuration: {config} is right" in done.out
    assert os.listdir(tmp_path / "cache") == [], "it only looks"


def test_a_registry_that_refuses(tmp_path: Path, image: Path, registry: Registry) -> None:
    found = doctor("--service", service(tmp_path), image, broken=True)
    one = the(found, "problem", "registry", registry.host)
    assert "denied" in one["what"] and "credentials" in one["fix"]


def test_a_registry_that_is_not_there(tmp_path: Path) -> None:
    port = free_port()
    settings: dict[str, Any] = {f"127.0.0.1:{port}": {}, "no-such-registry.invalid": {}}
    found = doctor("--service", service(tmp_path, registries=settings), broken=True)
    assert "no connection to 127.0.0.1 port" in the(found, "problem", "registry", str(port))["what"]
    one = the(found, "problem", "registry", "no-such-registry.invalid")
    assert "is not known" in one["what"] and "/etc/resolv.conf" in one["fix"]


def test_a_layer_that_is_not_there(
    tmp_path: Path, image: Path, registry: Registry, credentials: Path
) -> None:
    other = tmp_path / "other.json"
    document = json.loads(image.read_text())
    document["lowers"][0]["digest"] = "sha256:" + "0" * 64
    other.write_text(json.dumps(document))
    config = service(tmp_path, credentialFilePath=str(credentials))
    one = the(doctor("--service", config, other, broken=True), "problem", "registry", registry.host)
    assert "not-found" in one["what"] and "digest" in one["fix"]


class Api(QuietHandler):
    """Answers as a registry does, whose clock is an hour off."""

    def do_GET(self) -> None:
        self.answer(401, headers={"Date": "Mon, 01 Jan 2024 00:00:00 GMT"})

    def date_time_string(self, timestamp: float | None = None) -> str:
        return "Mon, 01 Jan 2024 00:00:00 GMT"


def test_a_certificate_that_is_not_trusted_and_clocks_that_differ(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "tls")
    with serving(Api, authority.context()) as base:
        host = base.removeprefix("https://")
        found = doctor("--service", service(tmp_path, registries={host: {}}), broken=True)
        one = the(found, "problem", "registry", host)
        assert "certificate is not trusted" in one["what"] and "caFile" in one["fix"]
        trusting = tmp_path / "trusting"
        trusting.mkdir()
        settings = {host: {"caFile": str(authority.file)}}
        found = doctor("--service", service(trusting, registries=settings), broken=False)
        the(found, "ok", "registry", f"{base}: answers")
        the(found, "warning", "clock", f"ahead of that of {base}")


@pytest.mark.parametrize(
    ("directory", "what", "broken"),
    [("absent/cache", "yet: made when it is needed", False), ("file/cache", "is no directory", True)],
)
def test_a_cache_directory_that_is_missing(tmp_path: Path, directory: str, what: str, broken: bool) -> None:
    (tmp_path / "file").touch()
    cache = {"cacheType": "file", "cacheDir": str(tmp_path / directory), "cacheSizeGB": 1}
    found = doctor("--service", service(tmp_path, cacheConfig=cache), broken=broken)
    one = the(found, "problem" if broken else "warning", "disk", what)
    assert one["what"].startswith("cacheConfig.cacheDir: ")
    assert not (tmp_path / "absent").exists(), "it only looks"


def test_a_cache_that_cannot_grow(tmp_path: Path) -> None:
    cache = {"cacheType": "file", "cacheDir": str(tmp_path / "cache"), "cacheSizeGB": 1 << 20}
    found = doctor("--service", service(tmp_path, cacheConfig=cache), broken=False)
    assert "cacheConfig.cacheSizeGB" in the(found, "warning", "disk", "it cannot grow so far")["fix"]


def test_wrong_configurations(tmp_path: Path) -> None:
    image, wrong = tmp_path / "image.json", tmp_path / "wrong.json"
    lowers = [{"file": str(tmp_path / "absent")}]
    upper = {"data": str(tmp_path / "data"), "index": str(tmp_path / "index")}
    image.write_text(json.dumps({"lowers": lowers, "upper": upper, "lowres": []}))
    wrong.write_text('{"lowers": 1}')
    found = doctor("--service", service(tmp_path, credentialFilePath="/absent"), image, wrong, broken=True)
    the(found, "problem", "configuration", "credentialFilePath: cannot read /absent")
    the(found, "problem", "configuration", "layer 0 is in none of its places")
    assert the(found, "problem", "configuration", "no upper " + upper["data"])["fix"] == "overlaybd-create"
    the(found, "problem", "configuration", f"{wrong}")
    the(found, "warning", "configuration", "unknown key lowres")
    (tmp_path / "overlaybd.json").write_text('{"cacheConfig": {"cacheType": "none"}}')
    found = doctor("--service", tmp_path / "overlaybd.json", broken=True)
    the(found, "problem", "configuration", "overlaybd.json")
