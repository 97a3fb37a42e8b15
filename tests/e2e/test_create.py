"""overlaybd-create: the files it makes, its words and its exit statuses."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.e2e.commands import BIN, Done, names, place, run

CREATED = "overlaybd-create has created files SUCCESSFULLY\n"
GIB = 1 << 30


def create(directory: Path, *options: str) -> Done:
    """Runs the command as callers do: the two files first, options behind and between."""
    return run("overlaybd-create", directory / "writable_data", directory / "writable_index", *options)


def header(path: Path) -> dict[str, object]:
    """The fields of an LSMT header, by the format's offsets."""
    raw = path.read_bytes()[:4096]
    return {
        "flags": int.from_bytes(raw[28:32], "little"),
        "virtual_size": int.from_bytes(raw[48:56], "little"),
        "uuid": raw[56:92].decode(),
        "parent_uuid": raw[93:129].decode(),
    }


def test_append_only_layer(tmp_path: Path) -> None:
    done = create(tmp_path, "64")
    assert (done.status, done.out, done.err) == (0, CREATED, "")
    assert names(tmp_path) == ["writable_data", "writable_index"]
    data, index = tmp_path / "writable_data", tmp_path / "writable_index"
    assert (data.stat().st_size, index.stat().st_size) == (4096, 4096)
    assert data.stat().st_mode & 0o777 == 0o644 & ~_umask()
    assert header(data)["virtual_size"] == header(index)["virtual_size"] == 64 * GIB
    assert header(data)["uuid"] != "00000000-0000-0000-0000-000000000000"
    assert header(data)["parent_uuid"] == "00000000-0000-0000-0000-000000000000"


def test_like_upstream_made_it(tmp_path: Path) -> None:
    """Same bytes as upstream's but for the random uuid."""
    golden_data, golden_index = place(tmp_path, "lsmt/q.data", "lsmt/q.index")
    parent = header(golden_data)["parent_uuid"]
    assert isinstance(parent, str)
    assert create(tmp_path, "1", "-u", parent).status == 0
    for ours, theirs in (("writable_data", golden_data), ("writable_index", golden_index)):
        raw, expected = bytearray((tmp_path / ours).read_bytes()), bytearray(theirs.read_bytes())
        raw[56:92] = expected[56:92] = b"-" * 36
        assert raw == expected


@pytest.mark.parametrize("options", [["-s", "64"], ["64", "-s"]])
def test_sparse_layer(tmp_path: Path, options: list[str]) -> None:
    assert create(tmp_path, *options).status == 0
    data = tmp_path / "writable_data"
    assert data.stat().st_size == 4096 + 64 * GIB
    assert data.stat().st_blocks * 512 < 1 << 20
    assert (tmp_path / "writable_index").stat().st_size == 0


def test_size_zero_takes_that_of_the_layers_below(tmp_path: Path) -> None:
    assert create(tmp_path, "0", "-s").status == 0
    assert header(tmp_path / "writable_data")["virtual_size"] == 0
    assert (tmp_path / "writable_data").stat().st_size == 4096


def test_raw(tmp_path: Path) -> None:
    done = create(tmp_path, "2", "--raw", "--turboOCI")
    assert (done.status, done.out) == (0, CREATED)
    assert (tmp_path / "writable_data").stat().st_size == 2 * GIB
    assert (tmp_path / "writable_data").stat().st_blocks == 0
    assert (tmp_path / "writable_index").stat().st_size == 0


def test_what_is_not_a_uuid_is_ignored_but_told(tmp_path: Path) -> None:
    done = create(tmp_path, "1", "-u", "nonsense")
    assert (done.status, done.err) == (0, "WARNING -u is not a UUID and is ignored: nonsense\n")
    assert header(tmp_path / "writable_data")["parent_uuid"] == "00000000-0000-0000-0000-000000000000"


def test_parent_uuid_may_be_lower_case(tmp_path: Path) -> None:
    assert create(tmp_path, "1", "-u", "0123abcd-0000-4000-8000-00000000cafe").status == 0
    parent = header(tmp_path / "writable_data")["parent_uuid"]
    assert parent == "0123ABCD-0000-4000-8000-00000000CAFE"


@pytest.mark.parametrize("kind", [[], ["-s"], ["--raw"]])
@pytest.mark.parametrize("existing", ["writable_data", "writable_index"])
def test_existing_files_are_kept_and_nothing_is_added(tmp_path: Path, kind: list[str], existing: str) -> None:
    (tmp_path / existing).write_bytes(b"precious")
    done = create(tmp_path, "1", *kind)
    assert (done.status, done.out) == (255, "")
    assert done.err == f"failed to open file '{tmp_path / existing}', 17: File exists\n"
    assert names(tmp_path) == [existing]
    assert (tmp_path / existing).read_bytes() == b"precious"


@pytest.mark.parametrize("kind", [[], ["--raw"]])
def test_no_such_directory(tmp_path: Path, kind: list[str]) -> None:
    done = create(tmp_path / "nowhere", "1", *kind)
    assert done.status == 255
    path = tmp_path / "nowhere" / "writable_data"
    assert done.err == f"failed to open file '{path}', 2: No such file or directory\n"


@pytest.mark.parametrize("kind", [[], ["-s"], ["--raw"]])
def test_too_large_leaves_nothing(tmp_path: Path, kind: list[str]) -> None:
    done = create(tmp_path, "9000000000", *kind)
    assert (done.status, done.out) == (255, "")
    assert len(done.lines) == 1
    assert names(tmp_path) == []


@pytest.mark.parametrize("where", [">/dev/full 2>&1", ">&- 2>&-"])
def test_done_is_done_even_if_nobody_can_be_told(tmp_path: Path, where: str) -> None:
    script = f'"$0" data index 1 -u nonsense {where}'
    done = subprocess.run(["sh", "-c", script, BIN / "overlaybd-create"], cwd=tmp_path, check=False)
    assert done.returncode == 0
    assert names(tmp_path) == ["data", "index"]


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["a", "b", "1.5"], 104),
        (["a", "b", "-1"], 105),
        (["a", "b"], 106),
        ([], 106),
        (["a", "b", "1", "c"], 109),
        (["a", "b", "1", "--nope"], 109),
        (["a", "b", "1", "-u"], 114),
        (["a", "b", "1", "-u", "x", "-u", "y"], 114),
    ],
)
def test_wrong_command_lines(tmp_path: Path, words: list[str], status: int) -> None:
    done = run("overlaybd-create", *words)
    assert (done.status, done.out) == (status, "")
    assert len(done.lines) == 2
    assert done.lines[1] == "Run with --help for more information."


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
