"""overlaybd-commit: what it writes is what upstream writes, and a failure leaves nothing."""

import os
from pathlib import Path

import pytest

import obdcore
from tests.e2e.commands import Done, golden, names, ok, place, run, sha256

COMMITTED = "overlaybd-commit has committed files SUCCESSFULLY\n"
IGNORED = "WARNING option '--bs' and '--algorithm' will be ignored without '-z'\n"
UUID_A = "00000001-1111-4222-8333-000000000001"


def commit(directory: Path, name: str, *options: str) -> Done:
    """Commits the golden layer `name` to `out` in `directory`, as callers do."""
    data, index = place(directory, f"lsmt/{name}.data", f"lsmt/{name}.index")
    return run("overlaybd-commit", data, index, directory / "out", *options)


def device(*layers: Path) -> bytes:
    """The device that a stack of layers shows."""
    image = obdcore.Image([str(layer) for layer in layers])
    try:
        return image.read_at(0, image.size)
    finally:
        image.close()


@pytest.mark.parametrize("name", ["a", "b", "c", "d", "i", "m"])
def test_same_bytes_as_upstream(tmp_path: Path, name: str) -> None:
    done = commit(tmp_path, name)
    assert (done.status, done.out, done.err) == (0, COMMITTED, IGNORED + "\n")
    assert (tmp_path / "out").read_bytes() == golden(f"lsmt/{name}.commit")
    assert names(tmp_path) == sorted([f"{name}.data", f"{name}.index", "out"])


def test_source_is_not_changed(tmp_path: Path) -> None:
    assert commit(tmp_path, "a", "-z").status == 0
    assert (tmp_path / "a.data").read_bytes() == golden("lsmt/a.data")
    assert (tmp_path / "a.index").read_bytes() == golden("lsmt/a.index")


def test_uuid_parent_and_message(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.write_bytes(golden("lsmt/a.uuid.commit"))
    wanted = obdcore.layer_info(str(theirs))["lsmt"]["trailer"]
    options = ["--uuid", wanted["uuid"], "-p", wanted["parent_uuid"], "-m", wanted["tag"]]
    assert commit(tmp_path, "a", *options).status == 0
    assert (tmp_path / "out").read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize("word", ["nonsense", "", "0000000g-1111-4222-8333-000000000001"])
def test_what_is_not_a_uuid_is_ignored(tmp_path: Path, word: str) -> None:
    done = commit(tmp_path, "a", "--uuid", word, "--parent-uuid", word)
    assert done.status == 0
    assert ("--parent-uuid is not a UUID and is ignored" in done.err) == bool(word)
    assert (tmp_path / "out").read_bytes() == golden("lsmt/a.commit")


@pytest.mark.parametrize("option", ["--uuid", "-p", "--parent-uuid"])
def test_too_long_a_uuid_is_refused(tmp_path: Path, option: str) -> None:
    done = commit(tmp_path, "a", option, UUID_A + "0")
    assert (done.status, done.out) == (255, "")
    assert "longer than 36 characters" in done.err
    assert not (tmp_path / "out").exists()


def test_message_of_256_bytes_but_no_more(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.write_bytes(golden("lsmt/a.tag256.commit"))
    message = obdcore.layer_info(str(theirs))["lsmt"]["trailer"]["tag"]
    assert len(message) == 256
    assert commit(tmp_path, "a", "-m", message).status == 0
    assert (tmp_path / "out").read_bytes() == theirs.read_bytes()
    (tmp_path / "out").unlink()
    done = commit(tmp_path, "a", "-m", message + "x")
    assert (done.status, done.out) == (255, "")
    assert done.err.startswith("failed to perform commit(), 105: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "kib", "tar"),
    [
        (["-z"], 4, False),
        (["-z", "-t"], 4, True),
        (["-zt", "--algorithm", "zstd", "--bs=16"], 16, True),
        (["-z", "--compress_threads", "4", "--algorithm=zstd", "--bs", "64"], 64, False),
    ],
)
def test_compressed(tmp_path: Path, options: list[str], kib: int, tar: bool) -> None:
    done = commit(tmp_path, "b", *options)
    assert (done.status, done.out, done.err) == (0, COMMITTED, "\n")
    out = tmp_path / "out"
    flat = golden("lsmt/b.flat")
    assert device(out) == flat
    assert sha256(flat) == golden("lsmt/b.flat.sha256").decode().strip()
    info = obdcore.layer_info(str(out))
    assert ("tar" in info) == tar
    assert info["zfile"]["block_size"] == kib * 1024
    assert info["zfile"]["checksum"]


def test_threads_make_no_difference(tmp_path: Path) -> None:
    results = set()
    for threads in ("1", "2", "8"):
        assert commit(tmp_path, "a", "-z", "-f", "--compress_threads", threads).status == 0
        results.add((tmp_path / "out").read_bytes())
    assert len(results) == 1


def test_tar_only_with_z(tmp_path: Path) -> None:
    done = commit(tmp_path, "a", "-t", "--bs", "5", "--algorithm", "x")
    assert (done.status, done.lines[0] + "\n") == (0, IGNORED)
    assert (tmp_path / "out").read_bytes() == golden("lsmt/a.commit")


def test_convertors_command_line(tmp_path: Path) -> None:
    """Options as the convertor gives them, with the uuid chain of two layers."""
    for name, uuids in (
        ("a", ["--uuid", UUID_A]),
        ("b", ["--uuid", UUID_A[:-1] + "2", "--parent-uuid", UUID_A]),
    ):
        data, index = place(tmp_path, f"lsmt/{name}.data", f"lsmt/{name}.index")
        out = tmp_path / f"{name}.overlaybd.commit"
        ok("overlaybd-commit", data, index, out, "-z", "-t", *uuids)
    trailer = obdcore.layer_info(str(tmp_path / "b.overlaybd.commit"))["lsmt"]["trailer"]
    assert (trailer["uuid"], trailer["parent_uuid"]) == (UUID_A[:-1] + "2", UUID_A)


class TestSeal:
    def test_seal_then_commit_sealed(self, tmp_path: Path) -> None:
        """The snapshotter's sequence."""
        data, index = place(tmp_path, "lsmt/b.data", "lsmt/b.index")
        done = run("overlaybd-commit", "--seal", data, index)
        assert (done.status, done.out, done.err) == (0, "", "")
        sealed = tmp_path / "overlaybd.sealed"
        data.rename(sealed)
        index.unlink()
        assert device(sealed) == golden("lsmt/b.flat")
        temp = tmp_path / "overlaybd.commit.temp"
        uuids = ["--uuid", "00000007-1111-4222-8333-000000000007", "-p", UUID_A]
        done = run("overlaybd-commit", "--commit_sealed", sealed, temp, *uuids)
        assert (done.status, done.out, done.err) == (0, COMMITTED, IGNORED + "\n")
        assert temp.read_bytes() == golden("lsmt/g.commit")
        assert names(tmp_path) == ["overlaybd.commit.temp", "overlaybd.sealed"]

    def test_upstreams_sealed_layer_with_options_behind(self, tmp_path: Path) -> None:
        (sealed,) = place(tmp_path, "lsmt/g.sealed")
        out = tmp_path / "out"
        done = run("overlaybd-commit", "--commit_sealed", sealed, out, "-z", "-t")
        assert (done.status, done.out, done.err) == (0, COMMITTED, "\n")
        assert device(out) == golden("lsmt/b.flat")

    def test_failure(self, tmp_path: Path) -> None:
        data, index = place(tmp_path, "lsmt/b.data", "lsmt/b.index")
        index.unlink()
        done = run("overlaybd-commit", "--seal", data, index)
        assert (done.status, done.out) == (255, "")
        assert done.err.startswith("failed to perform seal, 2: not-found: ")
        assert len(done.lines) == 1
        assert data.read_bytes() == golden("lsmt/b.data")

    def test_index_file_is_needed(self, tmp_path: Path) -> None:
        (data,) = place(tmp_path, "lsmt/b.data")
        done = run("overlaybd-commit", "--seal", data)
        assert done.status == 255
        assert "index_file is required" in done.err


@pytest.mark.parametrize("name", ["h"])
def test_sparse_layer(tmp_path: Path, name: str) -> None:
    """Upstream's sparse layer, its holes made anew."""
    data = tmp_path / "writable_data"
    content = golden(f"lsmt/{name}.data")
    with data.open("wb") as file:
        file.truncate(len(content))
        for line in golden(f"lsmt/{name}.data.extents").decode().splitlines()[1:]:
            offset, length = map(int, line.split())
            os.pwrite(file.fileno(), content[offset : offset + length], offset)
    index = tmp_path / "writable_index"
    index.touch()
    ok("overlaybd-commit", data, index, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == golden(f"lsmt/{name}.commit")


def test_a_committed_layer_can_be_compressed_later(tmp_path: Path) -> None:
    (source,) = place(tmp_path, "lsmt/b.lz4.tar")
    ok("overlaybd-commit", "--commit_sealed", source, tmp_path / "out", "-z", "--algorithm", "zstd")
    assert device(tmp_path / "out") == golden("lsmt/b.flat")


def test_a_torn_end_is_left_out_and_told(tmp_path: Path) -> None:
    """As after a crash that took the end of the data file."""
    data, index = place(tmp_path, "lsmt/a.data", "lsmt/a.index")
    os.truncate(data, data.stat().st_size - 512)
    done = run("overlaybd-commit", data, index, tmp_path / "out")
    assert done.status == 0
    assert f"WARNING {index}: the last 1 records are torn and left out, as after a crash" in done.lines
    done = run("overlaybd-commit", "--seal", data, index)
    assert done.status == 0
    assert done.err == f"WARNING {index}: the last 1 records are torn and left out, as after a crash\n"


class TestFailures:
    def test_existing_output_is_kept_without_f(self, tmp_path: Path) -> None:
        (tmp_path / "out").write_bytes(b"precious")
        done = commit(tmp_path, "a")
        assert (done.status, done.out) == (255, "")
        assert done.lines[-1] == (
            f"failed to open file '{tmp_path / 'out'}', 17: exists and is not overwritten"
        )
        assert (tmp_path / "out").read_bytes() == b"precious"

    def test_f_replaces(self, tmp_path: Path) -> None:
        (tmp_path / "out").write_bytes(b"old")
        assert commit(tmp_path, "a", "-f").status == 0
        assert (tmp_path / "out").read_bytes() == golden("lsmt/a.commit")
        assert names(tmp_path) == ["a.data", "a.index", "out"]

    def test_f_keeps_the_old_output_when_the_commit_fails(self, tmp_path: Path) -> None:
        (tmp_path / "out").write_bytes(b"old")
        data, index = place(tmp_path, "lsmt/a.data", "lsmt/a.index")
        index.write_bytes(b"\0" * 5000)
        assert run("overlaybd-commit", data, index, tmp_path / "out", "-f").status == 255
        assert (tmp_path / "out").read_bytes() == b"old"

    def test_source_is_never_the_output(self, tmp_path: Path) -> None:
        data, index = place(tmp_path, "lsmt/a.data", "lsmt/a.index")
        done = run("overlaybd-commit", data, index, data, "-f")
        assert done.status == 255
        assert data.read_bytes() == golden("lsmt/a.data")

    @pytest.mark.parametrize("options", [[], ["-z"]])
    @pytest.mark.parametrize("damage", ["garbage index", "swapped", "sealed cut", "writable as sealed"])
    def test_a_layer_that_cannot_be_opened(self, tmp_path: Path, damage: str, options: list[str]) -> None:
        data, index = place(tmp_path, "lsmt/a.data", "lsmt/a.index")
        out = tmp_path / "out"
        words: list[str | Path] = [data, index, out]
        if damage == "garbage index":
            index.write_bytes(b"garbage" * 1000)
        elif damage == "swapped":
            words = [index, data, out]
        elif damage == "sealed cut":
            words = ["--commit_sealed", *place(tmp_path, "lsmt/g.sealed"), out]
            os.truncate(tmp_path / "g.sealed", 8192)
        else:
            words = ["--commit_sealed", data, out]
        done = run("overlaybd-commit", *words, *options)
        assert (done.status, done.out) == (255, "")
        assert done.lines[-1].startswith("failed to perform commit(), ")
        assert not out.exists()
        assert not [name for name in names(tmp_path) if name.endswith(".tmp")]

    def test_no_such_directory(self, tmp_path: Path) -> None:
        data, index = place(tmp_path, "lsmt/a.data", "lsmt/a.index")
        out = tmp_path / "nowhere" / "out"
        done = run("overlaybd-commit", data, index, out)
        assert done.status == 255
        assert done.lines[-1] == f"failed to open file '{out}', 2: No such file or directory"

    @pytest.mark.parametrize("words", [["data"], ["data", "index"], ["--commit_sealed", "data"]])
    def test_names_that_are_missing(self, tmp_path: Path, words: list[str]) -> None:
        place(tmp_path, "lsmt/a.data", "lsmt/a.index")
        paths = [str(tmp_path / f"a.{word}") if word[0] != "-" else word for word in words]
        done = run("overlaybd-commit", *paths)
        assert (done.status, done.out) == (255, "")
        assert names(tmp_path) == ["a.data", "a.index"]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["-z", "--bs", "5"], "invalid '--bs' parameters."),
            (["-z", "--bs", "128"], "invalid '--bs' parameters."),
            (["-z", "--bs", "-4"], "invalid '--bs' parameters."),
            (["-z", "--algorithm", "gzip"], "invalid '--algorithm' parameters."),
            (["-z", "--compress_threads", "0"], "invalid '--compress_threads' parameters: 1 to 256"),
            (
                ["-zt", "--upload", "http://x"],
                "unsupport option with '-t' and '--upload' at the same time.",
            ),
        ],
    )
    def test_values_refused(self, tmp_path: Path, options: list[str], message: str) -> None:
        done = commit(tmp_path, "a", *options)
        assert (done.status, done.out, done.err) == (255, "", message + "\n")
        assert names(tmp_path) == ["a.data", "a.index"]

    @pytest.mark.parametrize(
        ("words", "status"),
        [(["--bs", "x"], 104), (["/nowhere/data"], 105), (["-z"], 106), (["--what"], 106), (["-m"], 114)],
    )
    def test_wrong_command_lines(self, words: list[str], status: int) -> None:
        done = run("overlaybd-commit", *words)
        assert (done.status, done.out) == (status, "")
        assert done.lines[1:] == ["Run with --help for more information."]
