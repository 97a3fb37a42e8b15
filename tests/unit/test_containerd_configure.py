"""Adding the snapshotter to containerd's configuration: every version of it, and nothing else changes."""

import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from obd.containerd.configure import Wanted, configure, configured
from obd.errors import ObdError
from tools.snapshotter import main

WANTED = Wanted("/run/overlaybd-snapshotter/overlaybd.sock", "/var/lib/overlaybd")
DEBIAN = """\
version = 2

[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    # where Debian has them
    [plugins."io.containerd.grpc.v1.cri".cni]
      bin_dir = "/usr/lib/cni"
      conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.internal.v1.opt"]
    path = "/var/lib/containerd/opt"
"""
PROXY = {"type": "snapshot", "address": WANTED.address}


def test_what_was_there_stays(tmp_path: Path) -> None:
    after, changes = configured(DEBIAN, WANTED)
    assert tomllib.loads(after) == {**tomllib.loads(DEBIAN), "proxy_plugins": {"overlaybd": PROXY}}
    assert after.startswith(DEBIAN)
    assert changes == [
        'proxy_plugins.overlaybd.type = "snapshot"',
        f'proxy_plugins.overlaybd.address = "{WANTED.address}"',
    ]
    assert configured(after, WANTED) == (after, [])


@pytest.mark.parametrize(
    ("version", "images", "runtimes"),
    [
        (1, "plugins.cri.containerd", "plugins.cri.containerd"),
        (
            2,
            'plugins."io.containerd.grpc.v1.cri".containerd',
            'plugins."io.containerd.grpc.v1.cri".containerd',
        ),
        (3, 'plugins."io.containerd.cri.v1.images"', 'plugins."io.containerd.cri.v1.runtime".containerd'),
    ],
)
def test_cri_of_every_version(version: int, images: str, runtimes: str) -> None:
    wanted = Wanted(WANTED.address, WANTED.root, cri=True, runtime="lazy")
    after, _ = configured(f"version = {version}\n", wanted)
    expected = f"""
        [{images}]
        snapshotter = "overlaybd"
        disable_snapshot_annotations = false
        [{runtimes}.runtimes.lazy]
        runtime_type = "io.containerd.runc.v2"
        snapshotter = "overlaybd"
    """
    assert (
        tomllib.loads(after)["plugins"].items()
        >= {
            name: table
            for name, table in tomllib.loads(expected)["plugins"].items()
            if name != "io.containerd.transfer.v1.local"
        }.items()
    )
    assert configured(after, wanted) == (after, [])


def test_the_transfer_service_of_version_3_is_told() -> None:
    after, _ = configured("version = 3\n", WANTED)
    found = tomllib.loads(after)
    exports = {"root": WANTED.root, "enable_remote_snapshot_annotations": "true"}
    assert found["proxy_plugins"]["overlaybd"] == {**PROXY, "exports": exports}
    entry = {"platform": "linux/amd64", "snapshotter": "overlaybd"}
    assert found["plugins"]["io.containerd.transfer.v1.local"]["unpack_config"] == [entry]
    assert configured(after, WANTED)[1] == []


def test_a_file_is_made_if_there_is_none(tmp_path: Path) -> None:
    file = tmp_path / "containerd" / "config.toml"
    changes, copy = configure(str(file), WANTED)
    assert tomllib.loads(file.read_text()) == {"version": 2, "proxy_plugins": {"overlaybd": PROXY}}
    assert (len(changes), copy) == (2, "")


def test_a_file_may_be_named_without_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.toml").write_text(DEBIAN)
    _, copy = configure("config.toml", WANTED)
    assert tomllib.loads(Path("config.toml").read_text())["proxy_plugins"] == {"overlaybd": PROXY}
    assert Path(copy).read_text() == DEBIAN


def test_a_copy_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(DEBIAN)
    file.chmod(0o640)
    _, copy = configure(str(file), WANTED)
    assert Path(copy).read_text() == DEBIAN
    assert file.stat().st_mode & 0o777 == 0o640
    assert configure(str(file), WANTED) == ([], "")
    assert sorted(tmp_path.iterdir()) == sorted([file, Path(copy)])


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("version = ", "invalid"),
        ("version = 4\n", "unsupported"),
        ("version = 2\nproxy_plugins = 3\n", "invalid"),
        ("version = 2\n[proxy_plugins]\noverlaybd = [1]\n", "invalid"),
        ('version = 3\n[plugins."io.containerd.transfer.v1.local"]\nunpack_config = 1\n', "invalid"),
        ("a = " + "[" * 5000, "invalid"),
    ],
)
def test_what_cannot_be_changed_stays(tmp_path: Path, text: str, kind: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text)
    with pytest.raises(ObdError) as caught:
        configure(str(file), WANTED)
    assert caught.value.kind == kind
    assert (file.read_text(), list(tmp_path.iterdir())) == (text, [file])


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, own = tmp_path / "config.toml", tmp_path / "own.json"
    file.write_text(DEBIAN)
    own.write_text(json.dumps({"address": "/run/other.sock"}))
    words = ["overlaybd-snapshotter", "configure-containerd", "--snapshotter-config", str(own), str(file)]

    def told(*more: str) -> str:
        monkeypatch.setattr(sys, "argv", [*words, *more])
        assert main() == 0
        return capsys.readouterr().out

    assert told("--dry-run").endswith("nothing was changed\n")
    assert file.read_text() == DEBIAN
    said = told()
    assert 'proxy_plugins.overlaybd.address = "/run/other.sock"' in said
    assert "systemctl restart containerd" in said
    assert "says all of it already" in told()


@pytest.mark.skipif(not shutil.which("containerd"), reason="containerd is not installed")
def test_containerd_itself_understands_it(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(DEBIAN)
    configure(str(file), Wanted(WANTED.address, WANTED.root, cri=True, runtime="lazy"))
    words = ["containerd", "--config", str(file), "config", "dump"]
    found = tomllib.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    assert found["proxy_plugins"]["overlaybd"].items() >= PROXY.items()
    cri = found["plugins"]["io.containerd.grpc.v1.cri"]["containerd"]
    assert cri["snapshotter"] == "overlaybd"
    assert cri["runtimes"]["lazy"]["runtime_type"] == "io.containerd.runc.v2"
