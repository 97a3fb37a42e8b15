"""Commands that are stopped or run out of room half-way leave nothing behind."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.commands import BIN, names, ok, run

MIB = 1 << 20
TMPFS_BYTES = 2 * MIB


@pytest.fixture(scope="module")
def large_layer(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A sparse layer with enough data in it to be busy for a while."""
    directory = tmp_path_factory.mktemp("large")
    data, index = directory / "writable_data", directory / "writable_index"
    ok("overlaybd-create", data, index, "1", "-s")
    block = os.urandom(MIB // 2) + b"overlaybd" * (MIB // 18)
    with data.open("r+b") as file:
        file.seek(4096)
        for _ in range(192):
            file.write(block)
    return [data, index]


def started(directory: Path, words: list[str | Path]) -> subprocess.Popen[bytes]:
    """A command that has begun to write its output."""
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=directory)
    deadline = time.monotonic() + 30
    while not any(entry.stat().st_size for entry in directory.iterdir()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_commit_that_is_stopped(tmp_path: Path, large_layer: list[Path], number: signal.Signals) -> None:
    words: list[str | Path] = [
        BIN / "overlaybd-commit",
        *large_layer,
        tmp_path / "out",
        "-z",
        "--algorithm",
        "zstd",
    ]
    process = started(tmp_path, words)
    process.send_signal(number)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == -number
    assert out == b""
    assert names(tmp_path) == []


@pytest.mark.parametrize("command", ["commit", "convert"])
def test_an_image_that_is_stopped(tmp_path: Path, large_layer: list[Path], command: str) -> None:
    """Of an upper, and of a disk: neither what was made of it so far nor a part of an archive stays."""
    work, out = tmp_path / "work", tmp_path / "out"
    out.mkdir()
    source = tmp_path / "source"
    if command == "commit":
        data, index = map(str, large_layer)
        source.write_text(json.dumps({"lowers": [], "upper": {"data": data, "index": index}}))
    else:
        with source.open("wb") as disk, large_layer[0].open("rb") as layer:
            disk.truncate(1 << 30)
            subprocess.run(["mkfs.ext4", "-q", source], check=True)
            disk.seek(512 * MIB)
            shutil.copyfileobj(layer, disk)
    target = f"oci-archive:{out / 'image.tar'}:v1"
    words: list[str | Path] = [BIN / "obd", command, "--algorithm", "zstd", "--work", work, source, target]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while not any(path.stat().st_size for path in work.glob("runs/*/*.layer")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == -signal.SIGTERM
    assert names(out) == [] and names(work / "runs") == []


def test_a_compression_of_a_pipe_that_is_stopped(tmp_path: Path) -> None:
    words = [BIN / "overlaybd-zfile", tmp_path / "out"]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    try:
        process.stdin.write(os.urandom(MIB))
        while not any(entry.stat().st_size for entry in tmp_path.iterdir()):
            process.stdin.write(os.urandom(MIB))
        process.send_signal(signal.SIGINT)
        for _ in range(10000):
            process.stdin.write(bytes(MIB))
    except BrokenPipeError:
        pass
    try:
        process.communicate(timeout=30)
    except BrokenPipeError:
        process.wait(timeout=30)
    assert process.returncode == -signal.SIGINT
    assert names(tmp_path) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_BYTES}", "tmpfs", str(disk)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("options", [[], ["-z"], ["-zt"], ["-z", "--compress_threads", "4"]])
def test_a_commit_on_a_full_disk(small_disk: Path, large_layer: list[Path], options: list[str]) -> None:
    done = run("overlaybd-commit", *large_layer, small_disk / "out", *options)
    assert (done.status, done.out) == (255, "")
    assert done.lines[-1].startswith("failed to perform commit(), 28: no-space: ")
    assert names(small_disk) == []


def test_a_full_disk_at_the_very_end(small_disk: Path, tmp_path: Path) -> None:
    """The last writes are those that upstream forgets to look at."""
    source = tmp_path / "source"
    ok_at, full_at = 0, 3 * MIB
    while full_at - ok_at > 4096:
        size = (ok_at + full_at) // 2 // 4096 * 4096
        source.write_bytes(os.urandom(size))
        done = run("overlaybd-zfile", source, small_disk / "out")
        if done.status == 0:
            ok("overlaybd-zfile", "--verify", small_disk / "out")
            (small_disk / "out").unlink()
            ok_at = size
        else:
            assert (done.status, names(small_disk)) == (255, [])
            assert done.lines[-1].startswith("compress failed, errno:28")
            full_at = size
    assert ok_at > MIB


@pytest.mark.parametrize("options", [[], ["-s"]])
def test_a_layer_on_a_full_disk(small_disk: Path, options: list[str]) -> None:
    with (small_disk / "filler").open("wb") as filler:
        filler.write(bytes(TMPFS_BYTES))
    done = run("overlaybd-create", small_disk / "data", small_disk / "index", "1", *options)
    assert (done.status, done.out) == (255, "")
    assert names(small_disk) == ["filler"]


def test_a_file_system_that_is_read_only(small_disk: Path, large_layer: list[Path]) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    done = run("overlaybd-commit", *large_layer, small_disk / "out")
    assert (done.status, done.out) == (255, "")
    assert done.lines[-1] == f"failed to open file '{small_disk / 'out'}', 30: Read-only file system"


def test_a_directory_that_may_not_be_written(tmp_path: Path, large_layer: list[Path]) -> None:
    tmp_path.chmod(0o500)
    words: list[str | Path] = [BIN / "overlaybd-commit", *large_layer, tmp_path / "out"]
    if os.geteuid() == 0:
        # Root without the right to write everywhere.
        words = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *words]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (255, "")
    assert done.stderr.splitlines()[-1] == f"failed to open file '{tmp_path / 'out'}', 13: Permission denied"
