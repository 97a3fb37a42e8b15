"""What `make install` puts on a host, and what `make uninstall` leaves there."""

import filecmp
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.style.tree import ROOT

HOME = Path("opt/overlaybd")
CONFIGURATION = Path("etc/overlaybd/overlaybd.json")


def install(root: Path, *options: str) -> str:
    """Runs the program behind the targets; what it says."""
    command = [sys.executable, str(ROOT / "scripts/install.py"), "--root", str(root), *options]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def files(root: Path) -> set[Path]:
    """All files below a directory."""
    return {path.relative_to(root) for path in root.rglob("*") if not path.is_dir()}


def test_the_same_tree_installs_the_same_files(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    install(one)
    install(other)
    same = sorted(map(str, files(one)))
    assert filecmp.cmpfiles(one, other, same, shallow=False) == (same, [], [])
    assert files(one) == files(other)


def test_it_has_what_clients_look_for_and_no_trace_of_the_build(tmp_path: Path) -> None:
    install(tmp_path)
    commands = {path.name for path in (tmp_path / HOME / "bin").iterdir()}
    assert {"obd", "overlaybd-tcmu", "overlaybd-create", "overlaybd-commit"} <= commands
    assert (tmp_path / HOME / "baselayers/ext4_64").stat().st_size < 1 << 20
    assert (tmp_path / HOME / "cred.json").stat().st_mode & 0o777 == 0o600
    assert not list(tmp_path.rglob("pytest*")) and not list(tmp_path.rglob("maturin*"))
    built = os.fsencode(sys.prefix)
    named = [path for path in files(tmp_path) if built in (tmp_path / path).read_bytes()]
    assert not named


def test_an_upgrade_keeps_configuration_and_drops_old_commands(tmp_path: Path) -> None:
    install(tmp_path)
    kept = {CONFIGURATION: "{}", HOME / "cred.json": '{"auths": {"r": {}}}', HOME / "snapshotter/x": "theirs"}
    for path, text in kept.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    gone = [HOME / "bin/overlaybd-old", HOME / "venv/old"]
    for path in gone:
        (tmp_path / path).write_text("#!/opt/overlaybd/venv/bin/python3 -I\n")
    assert str(CONFIGURATION) in install(tmp_path)
    assert all((tmp_path / path).read_text() == text for path, text in kept.items())
    assert not any((tmp_path / path).exists() for path in gone)
    install(tmp_path, "--remove")
    assert files(tmp_path) == set(kept)


def test_configuration_that_is_elsewhere_for_now_stays(tmp_path: Path) -> None:
    kept = [CONFIGURATION, HOME / "cred.json"]
    for path in kept:
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).symlink_to("/not/mounted")
    install(tmp_path)
    install(tmp_path, "--remove")
    assert all(os.readlink(tmp_path / path) == "/not/mounted" for path in kept)


def test_uninstalling_leaves_nothing_of_its_own(tmp_path: Path) -> None:
    install(tmp_path)
    install(tmp_path, "--remove")
    assert not files(tmp_path) and not (tmp_path / HOME).exists()


@pytest.mark.parametrize(
    "file", ["etc/overlaybd/overlaybd.json", "lib/systemd/system/overlaybd-tcmu.service"]
)
def test_another_prefix_is_the_one_that_is_named(tmp_path: Path, file: str) -> None:
    install(tmp_path, "--prefix", "/usr/local/overlaybd")
    text = (tmp_path / file).read_text()
    assert "/usr/local/overlaybd/" in text and "/opt/" not in text
    assert not (tmp_path / "opt").exists()
