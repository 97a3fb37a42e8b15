"""Zfiles: the package reads what upstream made, and an independent reader reads what it makes."""

from __future__ import annotations

import errno
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

import obdcore
import zfile
from tests.ref import zfile_ref as ref

GOLDEN = Path(__file__).parents[1] / "golden" / "zfile"
VERDICTS = [line.split(": ", 1) for line in (GOLDEN / "results.txt").read_text().splitlines()]
# `badalgo` is a file that upstream's tool made of an unknown name: the same as lz4, and not kept.
NAMES = [name for name, *_ in VERDICTS if name.endswith(".zfile") and "badalgo" not in name]
ALGORITHMS = {"lz4": ref.LZ4, "zstd": ref.ZSTD}


def plain_of(name: str) -> bytes:
    """The input that a golden file was made of."""
    stem = GOLDEN / f"{name.split('.')[0]}.in"
    if stem.exists():
        return stem.read_bytes()
    packed = stem.with_suffix(".in.zst").read_bytes()
    return zstandard.ZstdDecompressor().decompressobj().decompress(packed)


@pytest.fixture
def keep(tmp_path: Path) -> Callable[[bytes], Path]:
    """Writes bytes to a file; returns its path."""

    def put(data: bytes) -> Path:
        path = tmp_path / "file.zfile"
        path.write_bytes(data)
        return path

    return put


def mixed(size: int, seed: int = 1) -> bytes:
    """Runs of noise, zeros and words."""
    noise = random.Random(seed)
    out = bytearray()
    while len(out) < size:
        length = noise.randrange(1, 9000)
        out += noise.choice([noise.randbytes(length), bytes(length), b"some words " * (length // 11)])
    return bytes(out[:size])


# ---- what upstream made


@pytest.mark.parametrize("name", NAMES)
def test_upstream_files_read_as_their_input(name: str) -> None:
    plain = plain_of(name)
    with zfile.open(GOLDEN / name) as file:
        assert file.read() == plain
        spots = random.Random(name)
        for _ in range(20):
            start, length = spots.randrange(len(plain) + 2), spots.randrange(9000)
            file.seek(start)
            assert file.read(length) == plain[start : start + length]
    assert zfile.is_zfile(GOLDEN / name)
    assert zfile.decompress((GOLDEN / name).read_bytes()) == plain


@pytest.mark.parametrize("name", NAMES)
def test_upstream_files_describe_themselves(name: str) -> None:
    told = json.loads((GOLDEN / f"{name}.json").read_text())["zfile"]
    info = zfile.info(GOLDEN / name)
    trailer = told["trailer"]
    assert info["algorithm"] == {1: "lz4", 2: "zstd"}[trailer["algo"]]
    assert info["checksum"] == bool(trailer["verify"])
    for key, field in [
        ("block_size", "block_size"),
        ("blocks", "index_size"),
        ("original_size", "original_file_size"),
        ("index_offset", "index_offset"),
    ]:
        assert info[key] == trailer[field], key
    assert info["header_flags"] == told["header"]["flags"]
    assert info["header_overwritten"] == (".ow." in name)


@pytest.mark.parametrize(("name", "verdict"), [row for row in VERDICTS if row[0] in NAMES])
def test_verification_agrees_with_upstream(name: str, verdict: str) -> None:
    if "verify-refused" in verdict:
        with pytest.raises(zfile.Error, match="cannot be verified") as caught:
            zfile.verify(GOLDEN / name)
        assert caught.value.kind == "unsupported"
    else:
        # What upstream fails on, incompressible blocks of 64 KiB, is whole all the same.
        assert "verify-ok" in verdict or name.startswith("rand.")
        zfile.verify(GOLDEN / name)


@pytest.mark.parametrize("name", [name for name in NAMES if ".tar." not in name and "rand" not in name])
def test_reference_agrees_with_upstream(name: str) -> None:
    # The reference is held to the same facts, so that it can judge the core.
    data = (GOLDEN / name).read_bytes()
    assert ref.read(data) == plain_of(name)


# ---- what we make


@pytest.mark.parametrize("algorithm", ["lz4", "zstd"])
@pytest.mark.parametrize("block_size", [1024, 4096, 16384, 32768])
@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 300_000])
def test_reference_reads_what_we_write(algorithm: str, block_size: int, size: int) -> None:
    plain = mixed(size)
    data = zfile.compress(plain, algorithm=algorithm, block_size=block_size)
    assert ref.read(data) == plain
    assert ref.header(data[:512]).algo == ALGORITHMS[algorithm]
    assert (
        ref.read(zfile.compress(plain, algorithm=algorithm, block_size=block_size, checksum=False)) == plain
    )


@pytest.mark.parametrize("algo", [ref.LZ4, ref.ZSTD])
@pytest.mark.parametrize("block_size", [512, 4096, 65536])
@pytest.mark.parametrize("overwrite", [False, True])
def test_we_read_what_reference_writes(algo: int, block_size: int, overwrite: bool) -> None:
    plain = mixed(200_000)
    for verify in (True, False):
        data = ref.write(plain, algo=algo, block_size=block_size, verify=verify, overwrite=overwrite)
        assert zfile.decompress(data) == plain


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("tar", [False, True])
def test_files_and_tars(tmp_path: Path, overwrite: bool, tar: bool) -> None:
    plain = mixed(1_500_000)
    source, packed, back = tmp_path / "source", tmp_path / "packed", tmp_path / "back"
    source.write_bytes(plain)
    results = []
    for threads in (0, 1, 3):
        packed.unlink(missing_ok=True)
        done = zfile.compress_file(source, packed, overwrite_header=overwrite, tar=tar, threads=threads)
        results.append(packed.read_bytes())
    assert results[0] == results[1] == results[2]
    layer = ref.untar(results[0]) if tar else results[0]
    assert ref.read(layer) == plain
    assert (ref.header(layer[:512]).flags == ref.FINAL) == overwrite
    assert done == {"original_size": len(plain), "stored_size": len(layer), "blocks": -(-len(plain) // 4096)}
    assert zfile.decompress_file(packed, back) == len(plain)
    assert back.read_bytes() == plain


def test_what_is_not_said_is_as_documented(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(mixed(100_000))
    before = os.umask(0o022)
    try:
        zfile.compress_file(tmp_path / "source", tmp_path / "packed")
    finally:
        os.umask(before)
    assert (tmp_path / "packed").stat().st_mode & 0o777 == 0o644, "others may read it"
    (tmp_path / "memory").write_bytes(zfile.compress(mixed(100_000)))
    for name in ("packed", "memory"):
        info = zfile.info(tmp_path / name)
        assert (info["algorithm"], info["block_size"], info["checksum"]) == ("lz4", 4096, True)
        assert not info["header_overwritten"]


def test_what_is_asked_for_is_what_is_made(tmp_path: Path) -> None:
    plain = mixed(100_000)
    (tmp_path / "source").write_bytes(plain)
    made = tmp_path / "made"
    zfile.compress_file(tmp_path / "source", made, algorithm="zstd", block_size=16384, checksum=False)
    (tmp_path / "memory").write_bytes(
        zfile.compress(plain, algorithm="zstd", block_size=16384, checksum=False)
    )
    assert (tmp_path / "memory").read_bytes() == made.read_bytes()
    info = zfile.info(made)
    assert (info["algorithm"], info["block_size"], info["checksum"]) == ("zstd", 16384, False)
    with zfile.open(made, buffering=5000) as file:
        assert file.peek() == plain[:5000], "so much is read ahead"


def test_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    plain = mixed(400_000)
    read, write = os.pipe()

    def feed() -> None:
        with open(write, "wb") as pipe:
            for at in range(0, len(plain), 7001):
                pipe.write(plain[at : at + 7001])
                pipe.flush()

    feeder = threading.Thread(target=feed)
    feeder.start()
    done = zfile.compress_file(read, tmp_path / "out")
    feeder.join()
    os.close(read)
    assert done["original_size"] == len(plain)
    assert ref.read((tmp_path / "out").read_bytes()) == plain


def test_incompressible_blocks_of_64_kib_are_refused(tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(random.Random(3).randbytes(1 << 17))
    for algorithm in ("lz4", "zstd"):
        with pytest.raises(zfile.Error, match="blocks of 32 KiB or less") as caught:
            zfile.compress_file(tmp_path / "noise", tmp_path / "out", algorithm=algorithm, block_size=65536)
        assert caught.value.kind == "limit"
        assert not (tmp_path / "out").exists()


def test_bad_arguments(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x")
    for kind, options in [("invalid", {"algorithm": "gzip"}), ("invalid", {"block_size": 5000})]:
        with pytest.raises(zfile.Error) as caught:
            zfile.compress_file(source, tmp_path / "out", **options)  # type: ignore[arg-type]
        assert caught.value.kind == kind
    with pytest.raises(FileExistsError):
        zfile.compress_file(source, source)
    with pytest.raises(FileNotFoundError):
        zfile.compress_file(tmp_path / "none", tmp_path / "out")
    for descriptor in (-1, 1 << 30):
        with pytest.raises(zfile.Error, match="Bad file descriptor"):
            obdcore.zfile_compress(descriptor, 1)
    assert os.listdir(tmp_path) == ["source"]


# ---- bad input

GOOD = ref.write(mixed(20_000), algo=ref.LZ4, block_size=4096)


def changed(at: int, new: bytes) -> bytes:
    """GOOD with other bytes at a place, from the end if negative."""
    at %= len(GOOD)
    return GOOD[:at] + new + GOOD[at + len(new) :]


BAD = {
    "nothing": (b"", "corrupt", "not a zfile"),
    "text": (b"what is this " * 100, "corrupt", "not a zfile"),
    "cut header": (GOOD[:300], "corrupt", "cut off within its header"),
    "cut blocks": (GOOD[:5000], "corrupt", "no trailer"),
    "cut trailer": (GOOD[:-1], "corrupt", "no trailer"),
    "bytes after": (GOOD + b"x", "corrupt", "no trailer"),
    "header magic": (changed(3, b"X"), "corrupt", "not a zfile"),
    "header body": (changed(100, b"X"), "corrupt", "wrong digest"),
    "block": (changed(600, b"\xff\xff"), "corrupt", "block 0: checksum"),
    "table": (changed(-520, b"\xff"), "corrupt", "jump table"),
    "trailer flags": (changed(-480, b"\x00"), "corrupt", "flags"),
    "algorithm": (changed(-512 + 76, b"\x07"), "unsupported", "algorithm 7"),
    "block size": (changed(-512 + 72, b"\x01"), "unsupported", "block size 4097"),
    "size": (changed(-512 + 56, b"\x00\x00\x00\x01"), "corrupt", "need"),
}


@pytest.mark.parametrize(("data", "kind", "words"), BAD.values(), ids=BAD)
def test_bad_input_is_an_error_that_says_where(
    data: bytes, kind: str, words: str, keep: Callable[[bytes], Path]
) -> None:
    path = keep(data)
    with pytest.raises(zfile.Error, match=re.escape(words)) as caught:
        zfile.open(path).read()
    assert isinstance(caught.value, OSError)
    assert (caught.value.kind, caught.value.file) == (kind, str(path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(zfile.Error):
        zfile.decompress(data)
    target = path.with_suffix(".out")
    with pytest.raises(zfile.Error):
        zfile.decompress_file(path, target)
    assert not target.exists()


def test_what_is_a_zfile(keep: Callable[[bytes], Path]) -> None:
    assert not zfile.is_zfile(keep(b""))
    assert not zfile.is_zfile(keep(bytes(4096)))
    assert zfile.is_zfile(keep(GOOD))
    with pytest.raises(zfile.Error, match="digest"):
        zfile.is_zfile(keep(changed(100, b"X")))
    with pytest.raises(zfile.Error) as caught:
        zfile.is_zfile("/nonexistent")
    assert (caught.value.kind, caught.value.errno) == ("not-found", errno.ENOENT)


# ---- the file object


def test_behaves_as_a_binary_file(keep: Callable[[bytes], Path]) -> None:
    plain = mixed(100_000)
    path = keep(zfile.compress(plain))
    with zfile.open(path) as ours:
        theirs = io.BufferedReader(io.BytesIO(plain))
        assert ours.readable() and ours.seekable() and not ours.writable()
        moves = random.Random(5)
        for _ in range(300):
            match moves.randrange(5):
                case 0:
                    step = moves.randrange(-5000, 5000)
                    if theirs.tell() + step >= 0:
                        assert ours.seek(step, os.SEEK_CUR) == theirs.seek(step, os.SEEK_CUR)
                case 1:
                    step = moves.randrange(-100_000, 10)
                    assert ours.seek(step, os.SEEK_END) == theirs.seek(step, os.SEEK_END)
                case 2:
                    a, b = bytearray(3000), bytearray(3000)
                    assert ours.readinto(a) == theirs.readinto(b) and a == b
                case 3:
                    assert ours.readline() == theirs.readline()
                case _:
                    length = moves.randrange(20_000)
                    assert ours.read(length) == theirs.read(length)
            assert ours.tell() == theirs.tell()
        ours.seek(0)
        assert ours.read() == plain
        with pytest.raises(io.UnsupportedOperation):
            ours.write(b"x")
    with pytest.raises(ValueError, match="closed"):
        ours.read()


def test_raw_file(keep: Callable[[bytes], Path]) -> None:
    raw = zfile.ZFile(keep(GOOD))
    assert (raw.size, raw.seek(10), raw.tell()) == (20_000, 10, 10)
    assert len(raw.readall()) == 19_990
    assert raw.readall() == b"" and raw.readinto(bytearray(5)) == 0
    assert raw.seek(1 << 62) == 1 << 62 and raw.read(5) == b""
    for offset, whence in [(-1, os.SEEK_SET), (0, 9)]:
        with pytest.raises(ValueError):
            raw.seek(offset, whence)
    with pytest.raises((BufferError, TypeError)):
        raw.readinto(b"read-only")
    raw.close()
    raw.close()
    for method in (raw.tell, raw.readable, raw.readall):
        with pytest.raises(ValueError, match="closed"):
            method()


def test_threads_share_a_reader(keep: Callable[[bytes], Path]) -> None:
    plain = mixed(500_000)
    reader = obdcore.ZFileReader(str(keep(zfile.compress(plain, algorithm="zstd", block_size=8192))))
    wrong: list[int] = []

    def read(seed: int) -> None:
        spots = random.Random(seed)
        for _ in range(200):
            start, length = spots.randrange(len(plain)), spots.randrange(30_000)
            if reader.read_at(start, length) != plain[start : start + length]:
                wrong.append(start)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# ---- progress and signals


def test_progress_reaches_the_end_and_can_end_the_work(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(5_000_000))
    calls: list[tuple[int, int]] = []
    zfile.compress_file(source, tmp_path / "a", progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (5_000_000, 5_000_000) and len(calls) >= 2
    assert calls == sorted(calls)
    calls.clear()
    zfile.verify(tmp_path / "a", lambda done, total: calls.append((done, total)))
    assert calls[-1] == (5_000_000, 5_000_000)

    def refuse(done: int, total: int) -> None:
        raise LookupError(f"{done} of {total}")

    for work in (
        lambda: zfile.compress_file(source, tmp_path / "b", progress=refuse),
        lambda: zfile.decompress_file(tmp_path / "a", tmp_path / "b", progress=refuse),
        lambda: zfile.verify(tmp_path / "a", refuse),
    ):
        with pytest.raises(LookupError, match="of 5000000"):
            work()
        assert not (tmp_path / "b").exists()


def test_ctrl_c_ends_waiting_for_a_pipe(tmp_path: Path) -> None:
    program = (
        "import sys, zfile\n"
        "try:\n"
        "    zfile.compress_file(0, sys.argv[1], progress=lambda *_: print('waiting', flush=True))\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "out")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "waiting\n"  # the handler is there, and the pipe has nothing to say
        child.send_signal(signal.SIGINT)
        assert child.stdout.read().endswith("interrupted\n")
    assert child.returncode == 0
    assert not (tmp_path / "out").exists()


def test_needs_nothing_but_the_core() -> None:
    program = "import sys, zfile; print(*{'obd', 'tools', 'requests', 'typing'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
