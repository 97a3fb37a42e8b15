"""The harness for guests: what goes wrong in a guest stays there, is told, and leaves nothing behind."""

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.vm import kernels
from tests.vm.boot import PROJECT, Guest, Lost, check_jail

END_S = 120.0


@pytest.fixture(autouse=True)
def needed() -> None:
    try:
        check_jail()
        kernels.uml()
    except kernels.Unavailable as e:
        pytest.skip(str(e))


def living(word: str) -> list[str]:
    """The command lines of processes in which a word occurs."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has just ended
            continue
        if word in line:
            found.append(line)
    return found


def test_every_test_has_its_own_fate(tmp_path: Path) -> None:
    words = ["tests/vm/guest/misbehave.py", "-p", "no:cacheprovider", f"--junitxml={tmp_path}/report"]
    environment = {**os.environ, "OVERLAYBD_GUESTS": "uml", "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", *words]
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    cases = {
        (case.get("name") or "").removesuffix("[uml]"): {part.tag: "".join(part.itertext()) for part in case}
        for case in ElementTree.parse(tmp_path / "report").iter("testcase")
    }
    assert {name: set(parts) - {"system-out", "system-err"} for name, parts in cases.items()} == {
        "test_passes": set(),
        "test_writes": set(),
        "test_fails": {"failure"},
        "test_skips": {"skipped"},
        "test_panics": {"failure"},
        "test_hangs": {"failure"},
        "test_runs_after_all_that": set(),
    }
    assert "AssertionError: arithmetic" in cases["test_fails"]["failure"]
    assert "this went wrong" in done.stdout and "this is said in a guest" not in done.stdout
    assert "the guest died" in cases["test_panics"]["failure"]
    assert "Kernel panic" in done.stdout
    assert "pytest in the guest ended" in cases["test_hangs"]["failure"]
    assert "in test_hangs" in done.stdout, "where it hung"
    assert not list(Path(__file__).parent.glob("**/written-in-a-guest"))
    assert not living(str(tmp_path)) and not list(tmp_path.glob("guest-*"))


def test_a_silent_guest_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Guest("uml", "echo '{}' >/dev/ttyS1; sleep infinity") as guest:
        assert next(guest.messages(END_S)) == {}
        assert living(str(tmp_path))
        with pytest.raises(Lost, match="told nothing"):
            next(guest.messages(0.1))
    assert not living(str(tmp_path)) and not list(tmp_path.iterdir())


def test_a_guest_dies_with_the_run_that_started_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.vm.shell", "sh", "-c", "echo up; sleep infinity"]
    with subprocess.Popen(
        command,
        cwd=PROJECT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as shell:
        assert shell.stdout is not None
        assert any(line.strip() == b"up" for line in shell.stdout), (
            "until it runs, or to the end if it does not"
        )
        shell.kill()
        shell.stdout.read()  # ends when no process has the console open
    assert not living(str(tmp_path))


def test_a_kernel_that_cannot_be_had_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERLAYBD_VM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(kernels, "APT", (tmp_path / "no-apt-get",))
    monkeypatch.setattr(kernels, "_missing", {})
    for _ in range(2):
        with pytest.raises(kernels.Unavailable, match="no-apt-get"):
            kernels.uml()
    assert not list((tmp_path / "cache").iterdir())
