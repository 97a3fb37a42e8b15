"""overlaybd-zfile: compresses, extracts and checks as upstream does, and reports what is wrong."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.e2e.commands import BIN, golden, names, ok, place, run

SAMPLES = ["empty", "b1", "b100", "b4096", "b4097", "mix", "text", "rand", "zero"]


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize(("algorithm", "kib"), [("lz4", 4), ("zstd", 32)])
def test_there_and_back(tmp_path: Path, name: str, algorithm: str, kib: int) -> None:
    (source,) = place(tmp_path, f"zfile/{name}.in")
    packed, out = tmp_path / "packed", tmp_path / "out"
    done = ok("overlaybd-zfile", source, packed, "--algorithm", algorithm, "--bs", str(kib))
    assert done.out == f"compress file {source} as {packed}\ncompress file done.\n"
    assert done.err == ""
    done = ok("overlaybd-zfile", "--verify", packed)
    assert done.out == f"{packed} is a valid zfile blob.\n"
    done = ok("overlaybd-zfile", "-x", packed, out)
    assert done.out == f"decompress file {packed} as {out}\ndecompress file done.\n"
    assert out.read_bytes() == source.read_bytes()
    assert out.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "name",
    [
        "mix.lz4.4",
        "mix.zstd.64.tar",
        "mix.lz4.4.tar",
        "empty.lz4.4.tar",
        "rand.lz4.64",
        "mix.lz4.4.nocrc",
        "mix.lz4.1",
    ],
)
def test_upstreams_files_are_extracted(tmp_path: Path, name: str) -> None:
    (source,) = place(tmp_path, f"zfile/{name}.zfile")
    ok("overlaybd-zfile", "-x", source, tmp_path / "out", *(["-t"] if "tar" in name else []))
    assert (tmp_path / "out").read_bytes() == golden(f"zfile/{name.split('.')[0]}.in")


def test_tar(tmp_path: Path) -> None:
    (source,) = place(tmp_path, "zfile/mix.in")
    packed = tmp_path / "packed"
    ok("overlaybd-zfile", "-t", source, packed)
    assert packed.read_bytes()[257:262] == b"ustar"
    assert packed.stat().st_size % 512 == 0
    ok("overlaybd-zfile", "--verify", packed)
    ok("overlaybd-zfile", packed, tmp_path / "out", "-x", "-t")
    assert (tmp_path / "out").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("options", [[], ["-t"], ["--algorithm=zstd"]])
def test_stdin(tmp_path: Path, options: list[str]) -> None:
    content = golden("zfile/mix.in") * 20
    (tmp_path / "source").write_bytes(content)
    ok("overlaybd-zfile", tmp_path / "source", tmp_path / "from_file", *options)
    done = ok("overlaybd-zfile", tmp_path / "from_pipe", *options, stdin=content)
    assert done.out == f"compress file stdin as {tmp_path / 'from_pipe'}\ncompress file done.\n"
    assert (tmp_path / "from_pipe").read_bytes() == (tmp_path / "from_file").read_bytes()


def test_an_unknown_algorithm_is_lz4(tmp_path: Path) -> None:
    (source,) = place(tmp_path, "zfile/b100.in")
    for name in ("lz4", "badalgo"):
        ok("overlaybd-zfile", source, tmp_path / name, "--algorithm", name)
    assert (tmp_path / "badalgo").read_bytes() == (tmp_path / "lz4").read_bytes()


@pytest.mark.parametrize("kib", [0, 1, 2, 3, 5, 12, 128])
def test_block_sizes_refused(tmp_path: Path, kib: int) -> None:
    (source,) = place(tmp_path, "zfile/b100.in")
    done = run("overlaybd-zfile", source, tmp_path / "out", "--bs", str(kib))
    assert (done.status, done.err) == (255, "invalid '--bs' parameters.\n")
    assert names(tmp_path) == ["b100.in"]


def test_blocks_that_upstream_could_not_read_are_not_written(tmp_path: Path) -> None:
    (source,) = place(tmp_path, "zfile/rand.in")
    done = run("overlaybd-zfile", source, tmp_path / "out", "--bs", "64")
    assert (done.status, len(done.lines)) == (255, 1)
    assert "use blocks of 32 KiB or less" in done.err
    assert names(tmp_path) == ["rand.in"]


class TestVerify:
    @pytest.mark.parametrize("name", ["mix.zstd.4", "mix.lz4.4.ow", "empty.lz4.4.tar", "rand.zstd.64"])
    def test_valid(self, tmp_path: Path, name: str) -> None:
        (source,) = place(tmp_path, f"zfile/{name}.zfile")
        assert run("overlaybd-zfile", "--verify", source).status == 0

    @pytest.mark.parametrize("name", ["mix.lz4.4.nocrc", "mix.lz4.8.nocrc.ow"])
    def test_no_checksums(self, tmp_path: Path, name: str) -> None:
        (source,) = place(tmp_path, f"zfile/{name}.zfile")
        done = run("overlaybd-zfile", source, "--verify")
        assert done.status == 255
        assert done.out == f"{source} is not a valid zfile blob or checksum can't be found.\n"

    @pytest.mark.parametrize("at", [100, 600, -520, -480])
    def test_a_flipped_bit(self, tmp_path: Path, at: int) -> None:
        """In the header, a block, the jump table and the trailer's flags."""
        (source,) = place(tmp_path, "zfile/mix.lz4.4.zfile")
        damaged = bytearray(source.read_bytes())
        damaged[at] ^= 1
        source.write_bytes(damaged)
        done = run("overlaybd-zfile", "--verify", source)
        assert done.status == 255
        assert done.lines[0].startswith(f"corrupt: {source}: ")

    def test_not_a_zfile(self, tmp_path: Path) -> None:
        (source,) = place(tmp_path, "zfile/mix.in")
        assert run("overlaybd-zfile", "--verify", source).status == 255


class TestFailures:
    def test_extracting_what_is_no_zfile(self, tmp_path: Path) -> None:
        (source,) = place(tmp_path, "zfile/mix.in")
        done = run("overlaybd-zfile", "-x", source, tmp_path / "out")
        assert (done.status, done.err) == (255, f"format error! {source} should be a zfile.\n")
        assert names(tmp_path) == ["mix.in"]

    def test_extracting_damaged_blocks_leaves_nothing(self, tmp_path: Path) -> None:
        (source,) = place(tmp_path, "zfile/mix.lz4.4.zfile")
        damaged = bytearray(source.read_bytes())
        damaged[20000] ^= 1
        source.write_bytes(damaged)
        done = run("overlaybd-zfile", "-x", source, tmp_path / "out")
        assert done.status == 255
        assert done.lines[-1].startswith(f"decompress failed, errno:117: corrupt: {source}: at ")
        assert names(tmp_path) == [source.name]

    @pytest.mark.parametrize("options", [[], ["-x"], ["--verify"]])
    def test_no_such_source(self, tmp_path: Path, options: list[str]) -> None:
        done = run("overlaybd-zfile", tmp_path / "nope", tmp_path / "out", *options)
        assert done.status == 255
        assert done.err == f"failed to open file {tmp_path / 'nope'}, 2: No such file or directory\n"
        assert names(tmp_path) == []

    @pytest.mark.parametrize("option", ["", "-x"])
    def test_existing_target(self, tmp_path: Path, option: str) -> None:
        (source,) = place(tmp_path, "zfile/mix.lz4.4.zfile")
        out = tmp_path / "out"
        out.write_bytes(b"precious")
        words = [word for word in (option, str(source), str(out)) if word]
        done = run("overlaybd-zfile", *words)
        assert (done.status, out.read_bytes()) == (255, b"precious")
        assert done.lines[-1] == f"failed to open file '{out}', 17: exists and is not overwritten"
        ok("overlaybd-zfile", "-f", *words)
        assert out.read_bytes() != b"precious"

    def test_a_device_is_never_replaced(self) -> None:
        done = run("overlaybd-zfile", "-f", "/dev/null", stdin=b"x")
        assert done.status == 255
        assert not os.path.isfile("/dev/null")

    def test_x_from_stdin_is_refused(self, tmp_path: Path) -> None:
        done = run("overlaybd-zfile", "-x", tmp_path / "out", stdin=b"x")
        assert done.status == 255
        assert names(tmp_path) == []

    @pytest.mark.parametrize(
        ("words", "status"),
        [(["--bs", "x", "a"], 104), ([], 106), (["a", "b", "c"], 109), (["a", "--bs"], 114)],
    )
    def test_wrong_command_lines(self, words: list[str], status: int) -> None:
        done = run("overlaybd-zfile", *words)
        assert (done.status, done.out) == (status, "")
        assert done.lines[1:] == ["Run with --help for more information."]


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    source = os.path.join(os.fsencode(tmp_path), b"caf\xe9")
    with open(source, "wb") as file:
        file.write(b"x" * 10000)
    done = subprocess.run(
        [BIN / "overlaybd-zfile", source, source + b".zfile"], capture_output=True, timeout=60, check=True
    )
    assert done.stdout.startswith(b"compress file " + source + b" as ")
    assert names(tmp_path) == [os.fsdecode(b"caf\xe9"), os.fsdecode(b"caf\xe9.zfile")]
