"""Programs that give out credentials: Docker's helpers and the kubelet's providers, as real scripts."""

import json
import logging
import os
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from obd.config import parse_service
from obd.credentials import Credential, CredentialSource, FileCredentials, program, source_of
from obd.credentials.image_match import image_of, matches
from obd.credentials.kubelet import KubeletCredentials
from obd.credentials.kubelet_config import seconds
from obd.credentials.memory import ANSWER_S, Memory
from obd.credentials.source import LookupFailed
from tests.e2e.givers import Node, helper, script
from tests.rigs.attached import until

BLOB = "https://reg.example:5000/v2/team/app/blobs/sha256:" + "0" * 64
HUB = "https://registry-1.docker.io/v2/library/busybox/blobs/sha256:" + "0" * 64


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that comes first on the PATH."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    return directory


@pytest.fixture(autouse=True)
def nothing_is_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("obd.credentials.memory.FRESH_S", 0.0)


def docker(path: Path, **content: object) -> CredentialSource:
    """The mode `docker` with this configuration."""
    path.write_text(json.dumps(content))
    found = source_of(parse_service({"credentialConfig": {"mode": "docker", "path": str(path)}}).credentials)
    assert found is not None
    return found


def test_the_store_is_asked_for_the_host(tmp_path: Path, programs: Path) -> None:
    asked = helper(programs, "store", "ann")
    source = docker(tmp_path / "config.json", credsStore="store", auths={"reg.example:5000": {}})
    assert [source.lookup(BLOB) for _ in range(3)] == [Credential("ann", "hunter2")] * 3
    assert source.lookup(HUB) == Credential("ann", "hunter2")
    assert asked.read_text().splitlines() == ["get reg.example:5000", "get https://index.docker.io/v1/"]
    source.forget(BLOB)
    assert source.lookup(BLOB)
    assert len(asked.read_text().splitlines()) == 3
    assert source.describe() == f"file {tmp_path}/config.json with docker-credential-store"


def test_a_helper_of_a_host_counts_before_the_store_and_before_the_file(
    tmp_path: Path, programs: Path
) -> None:
    store, own = helper(programs, "store", "store"), helper(programs, "own", "own")
    auths = {"reg.example:5000/team": {"username": "file", "password": "p"}}
    content = {"credsStore": "store", "credHelpers": {"https://reg.example:5000/": "own"}, "auths": auths}
    found = docker(tmp_path / "config.json", **content).lookup(BLOB)
    assert found is not None and found.username == "own"
    assert store.read_text() == "" and own.read_text() == "get https://reg.example:5000/\n"
    # A credential file of overlaybd keeps overlaybd's order.
    found = FileCredentials(str(tmp_path / "config.json")).lookup(BLOB)
    assert found is not None and found.username == "file"
    other = FileCredentials(str(tmp_path / "config.json")).lookup(BLOB.replace("team", "other"))
    assert other is not None and other.username == "own"


def test_a_helper_that_has_nothing_leaves_it_to_the_file(
    tmp_path: Path, programs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    script(programs / "docker-credential-none", "echo credentials not found in native keychain; exit 1")
    auths = {
        "reg.example:5000": {"username": "host", "password": "p"},
        "https://reg.example:5000/team": {"username": "team", "password": "p"},
    }
    source = docker(tmp_path / "config.json", credsStore="none", auths=auths)
    assert source.lookup(BLOB) == Credential("team", "p"), "the longest"
    assert source.lookup(HUB) is None
    assert not caplog.records


def test_a_helper_that_fails_is_got_round_but_not_passed_over_in_silence(
    tmp_path: Path, programs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    script(programs / "docker-credential-bad", "exit 1")
    auths = {"reg.example:5000": {"username": "file", "password": "p"}}
    source = docker(tmp_path / "config.json", credsStore="bad", auths=auths)
    assert [source.lookup(BLOB) for _ in range(3)] == [Credential("file", "p")] * 3
    assert len(caplog.records) == 1
    assert "docker-credential-bad: failed with status 1; the entry of the file is used" in caplog.text


def test_an_identity_token_of_a_helper(tmp_path: Path, programs: Path) -> None:
    helper(programs, "acr", "<token>", "refresh")
    source = docker(tmp_path / "config.json", credHelpers={"reg.example:5000": "acr"})
    assert source.lookup(BLOB) == Credential("", "", "refresh")


BROKEN = [
    ("fails", "echo hunter2; echo hunter2 >&2; exit 3", "failed with status 3"),
    ("killed", "kill -9 $$", "failed with status -9"),
    ("nonsense", "echo hunter2", "its answer is not JSON with Username and Secret"),
    ("wrong types", 'echo \'{"Username": "u", "Secret": ["hunter2"]}\'', "its answer is not JSON with"),
    ("array", "echo '[]'", "its answer is not JSON with"),
    ("endless", "exec yes hunter2", "wrote more than 1048576 bytes"),
    ("hangs", "sleep 60 & sleep 60", "did not end within 0.5 s"),
]


@pytest.mark.parametrize(("text", "said"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN])
def test_helpers_that_are_broken(
    tmp_path: Path,
    programs: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    said: str,
) -> None:
    monkeypatch.setattr(program.run, "__kwdefaults__", {"limit_s": 0.5 if "within 0.5 s" in said else 60})
    script(programs / "docker-credential-bad", text)
    source = docker(tmp_path / "config.json", credsStore="bad")
    with caplog.at_level(logging.DEBUG):
        assert [source.lookup(BLOB) for _ in range(3)] == [None, None, None]
    assert len(caplog.records) == 1
    assert f"docker-credential-bad: {said}" in caplog.text
    assert f"docker-credential-bad: {said}" in source.describe()
    assert "hunter2" not in caplog.text + source.describe() + repr(source)


@pytest.mark.parametrize("name", ["../evil", "a/b", "", ".hidden", "a b", "x;touch y", "-x"])
def test_names_that_are_no_helpers(tmp_path: Path, programs: Path, name: str) -> None:
    script(tmp_path / "evil", f"touch {tmp_path}/ran")
    source = docker(tmp_path / "config.json", credsStore=name)
    assert source.lookup(BLOB) is None
    assert ("the name of a helper" in source.describe()) == bool(name)
    assert not (tmp_path / "ran").exists()


def test_a_helper_that_is_not_installed(tmp_path: Path, programs: Path) -> None:
    source = docker(tmp_path / "config.json", credsStore="absent")
    assert source.lookup(BLOB) is None
    assert "docker-credential-absent: not found on the PATH" in source.describe()


def test_what_a_program_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "mine")
    monkeypatch.setenv("SECRET_OF_OURS", "hunter2")
    monkeypatch.setenv("https_proxy", "http://proxy")
    shows = script(tmp_path / "shows", 'env; pwd; cat; echo "$@"; ls /proc/self/fd | wc -w')
    status, output = program.run([str(shows), "one two"], b"question", program.environment())
    said = output.decode()
    assert status == 0
    for words in ("AWS_PROFILE=mine", "https_proxy=http://proxy", "HOME=", "questionone two\n"):
        assert words in said
    assert "SECRET_OF_OURS" not in said
    assert said.split()[-1] == "4", "stdin, stdout, stderr and the directory that ls reads"


def test_all_that_a_program_has_started_ends_with_it(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    hangs = script(tmp_path / "hangs", f"sleep 60 & echo $! > {pids}; echo $$ >> {pids}; sleep 60")
    with pytest.raises(LookupFailed, match="did not end within 3 s"):
        program.run([str(hangs)], b"", program.environment(), limit_s=3)
    for pid in pids.read_text().split():
        until(partial(is_dead, pid), "it lives on")


def is_dead(pid: str) -> bool:
    """Whether a process is gone, or waits only for the one that adopts it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_program_that_leaves_a_child_behind_is_not_waited_for(tmp_path: Path) -> None:
    leaves = script(tmp_path / "leaves", f"sleep 60 & echo $! > {tmp_path}/pid; echo done")
    assert program.run([str(leaves)], b"x" * 200_000, program.environment()) == (0, b"done\n")
    os.kill(int((tmp_path / "pid").read_text()), 9)


def kubelet(node: Node) -> CredentialSource:
    """The mode `kubelet` on this node."""
    found = source_of(parse_service({"credentialConfig": node.settings()}).credentials)
    assert found is not None
    return found


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


ANN = {"username": "ann", "password": "hunter2"}


def test_the_dialogue_with_a_provider(node: Node) -> None:
    node.add("ecr", ["*.example:5000"], {"*.example:5000": ANN})
    source = kubelet(node)
    assert source.lookup(BLOB) == Credential("ann", "hunter2")
    command, request = node.asked("ecr")
    assert command == "get -v eu"
    assert json.loads(request) == {
        "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
        "kind": "CredentialProviderRequest",
        "image": "reg.example:5000/team/app",
    }
    assert source.lookup("https://elsewhere/v2/a/blobs/sha256:00") is None
    assert source.lookup(BLOB.replace("team", "other")) is not None
    assert len(node.asked("ecr")) == 2, "an answer for a registry is for all its images"
    source.forget(BLOB)
    assert source.lookup(BLOB) is not None
    assert len(node.asked("ecr")) == 4
    assert source.describe() == f"kubelet credential providers of {node.file} (ecr)"


def test_yaml(node: Node) -> None:
    node.add("ecr", ["reg.example:5000"], {"reg.example:5000": ANN})
    node.file.write_text(
        """
# as kubelets have it
apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
  - name: ecr
    matchImages: ["reg.example:5000"]
    defaultCacheDuration: "12h"
    apiVersion: credentialprovider.kubelet.k8s.io/v1
"""
    )
    assert kubelet(node).lookup(BLOB) == Credential("ann", "hunter2")


@pytest.mark.parametrize(
    ("kind", "runs"), [("Image", [1, 2, 3]), ("Registry", [1, 1, 2]), ("Global", [1, 1, 1])]
)
def test_how_far_an_answer_reaches(node: Node, kind: str, runs: list[int]) -> None:
    node.add(
        "p", ["*.example:5000", "reg.other"], {"*.example:5000": ANN, "reg.other": ANN}, cacheKeyType=kind
    )
    source = kubelet(node)
    counts = []
    for url in (BLOB, BLOB.replace("team", "other"), "https://reg.other/v2/a/blobs/sha256:00"):
        assert source.lookup(url) is not None
        assert source.lookup(url) is not None
        counts.append(len(node.asked("p")) // 2)
    assert counts == runs


@pytest.mark.parametrize(
    ("given", "life_s"), [({}, 3600), ({"cacheDuration": "30s"}, 30), ({"cacheDuration": "0s"}, ANSWER_S)]
)
def test_how_long_an_answer_is_kept(node: Node, given: dict[str, object], life_s: float) -> None:
    clock = [0.0]
    node.add("p", ["reg.example:5000"], {"reg.example:5000": ANN}, **given)
    source = KubeletCredentials(str(node.file), str(node.bin))
    source._memory = Memory(lambda: clock[0])
    for clock[0], runs in ((0.0, 1), (life_s - 1, 1), (life_s, 2)):
        assert source.lookup(BLOB) is not None
        assert len(node.asked("p")) == 2 * runs


def test_several_providers(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    node.add("broken", ["*.example:5000"], {}, cacheKeyType="Pod")
    node.add("empty", ["reg.example:5000/team"], None)
    node.add(
        "second",
        ["reg.*:5000"],
        {"reg.example:5000": {**ANN, "username": "host"}, "reg.example:5000/te": ANN},
    )
    node.add("last", ["reg.example:5000"], {"reg.example:5000": {**ANN, "username": "never"}})
    source = kubelet(node)
    assert source.lookup(BLOB) == Credential("ann", "hunter2"), "of its entries the most special"
    assert node.asked("broken") and node.asked("empty") and not node.asked("last")
    assert source.lookup(BLOB) is not None
    assert [record.getMessage().partition("; ")[2] for record in caplog.records] == [
        "second gives what is used"
    ]
    assert source.lookup("https://a.example:5000/v2/x/blobs/sha256:00") is None
    assert "broken: cacheKeyType of its answer must be one of Image, Registry, Global" in source.describe()


def test_a_changed_configuration_counts(node: Node) -> None:
    node.add("one", ["reg.example:5000"], {"reg.example:5000": {**ANN, "username": "one"}})
    source = kubelet(node)
    assert source.lookup(BLOB) == Credential("one", "hunter2")
    node.entries.clear()
    node.add("two", ["reg.example:5000"], {"reg.example:5000": {**ANN, "username": "two"}})
    assert source.lookup(BLOB) == Credential("two", "hunter2")
    node.file.unlink()
    assert source.lookup(BLOB) is None
    assert "cannot open: No such file" in source.describe()


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("name", {"name": "../x"}, "providers[0].name: must be the name of a program"),
    ("no images", {"matchImages": []}, "providers[0].matchImages: must not be empty"),
    ("images", {"matchImages": "x"}, "providers[0].matchImages: must be a list of strings"),
    ("version", {"apiVersion": "v1"}, "providers[0].apiVersion: must be one of"),
    ("duration", {"defaultCacheDuration": 12}, "providers[0].defaultCacheDuration: must be a duration"),
    ("env", {"env": [{"name": "A=B", "value": "hunter2"}]}, "providers[0].env: must be a list of objects"),
    ("args", {"args": [1]}, "providers[0].args: must be a list of strings"),
]


@pytest.mark.parametrize(("change", "said"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_a_wrong_configuration_is_named(node: Node, change: dict[str, Any], said: str) -> None:
    node.add("p", ["reg.example:5000"], {})
    node.entries[0].update(change)
    node.write()
    source = kubelet(node)
    assert source.lookup(BLOB) is None
    assert said in source.describe()
    assert "hunter2" not in source.describe()


def test_yaml_that_is_none_is_not_quoted(node: Node) -> None:
    node.file.write_text("kind: x\nenv: [hunter2\n")
    source = kubelet(node)
    assert source.lookup(BLOB) is None
    assert "not YAML: line" in source.describe() and "hunter2" not in source.describe()


def test_a_provider_for_service_account_tokens_is_passed_over(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    node.add("pods", ["reg.example:5000"], {})
    node.entries[0]["tokenAttributes"] = {"requireServiceAccount": True}
    node.add("p", ["reg.example:5000"], {"reg.example:5000": ANN})
    source = kubelet(node)
    assert [source.lookup(BLOB) for _ in range(2)] == [Credential("ann", "hunter2")] * 2
    assert not node.asked("pods")
    assert len(caplog.records) == 1 and "providers[0] is passed over" in caplog.text


@pytest.mark.parametrize(
    "response",
    [
        {"cacheDuration": "soon"},
        {"kind": "Other"},
        {"apiVersion": "credentialprovider.kubelet.k8s.io/v2"},
        {"auth": ["hunter2"]},
        {"auth": {"reg.example:5000": {"username": "ann", "password": ["hunter2"]}}},
    ],
)
def test_answers_that_are_none(
    node: Node, caplog: pytest.LogCaptureFixture, response: dict[str, object]
) -> None:
    auth = response.pop("auth", {"reg.example:5000": ANN})
    node.add("p", ["reg.example:5000"], auth, **response)
    source = kubelet(node)
    assert [source.lookup(BLOB) for _ in range(3)] == [None, None, None]
    assert len(node.asked("p")) == 2, "a failure is remembered for a moment"
    assert len(caplog.records) == 1 and "credentials: kubelet" in caplog.text and " p: " in caplog.text
    assert "hunter2" not in caplog.text + source.describe()


def test_many_readers_run_one_program(node: Node) -> None:
    node.add("p", ["reg.example:5000"], {"reg.example:5000": ANN}, cacheDuration="0s")
    source = kubelet(node)
    found: list[Credential | None] = []
    threads = [threading.Thread(target=lambda: found.append(source.lookup(BLOB))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == [Credential("ann", "hunter2")] * 20
    assert len(node.asked("p")) == 2


@pytest.mark.parametrize(
    ("pattern", "image", "fits"),
    [
        ("reg.io", "reg.io/a", True),
        ("*.io", "reg.io/a", True),
        ("*.io", "my.reg.io/a", False),
        ("*.*.io", "my.reg.io/a", True),
        ("app*.k8s.io", "apple.k8s.io/a", True),
        ("k8s.*", "k8s.gcr/a", True),
        ("reg.io:8080", "reg.io:8080/a", True),
        ("reg.io", "reg.io:8080/a", False),
        ("reg.io:8080", "reg.io/a", False),
        ("reg.io/team", "reg.io/team/app", True),
        ("reg.io/team", "reg.io/other", False),
        ("reg.io/*", "reg.io/a", False),
        ("https://reg.io/v1/", "reg.io/a", True),
        ("REG.io/", "reg.io/a", True),
        ("", "reg.io/a", False),
    ],
)
def test_patterns_of_images(pattern: str, image: str, fits: bool) -> None:
    assert matches(pattern, image) is fits


def test_docker_hub_is_called_by_its_name() -> None:
    assert image_of(HUB) == "docker.io/library/busybox"


@pytest.mark.parametrize(
    ("text", "value"),
    [("12h0m0s", 43200.0), ("1.5m", 90.0), ("300ms", 0.3), ("0s", 0.0), ("0", 0.0), ("9999999h", 604800.0)]
    + [(bad, None) for bad in ("", "5", "h", "-5s", "5 s", 5, None, "5s5", "1d")],
)
def test_durations(text: object, value: float | None) -> None:
    assert seconds(text) == pytest.approx(value) if value is not None else seconds(text) is None
