"""overlaybd-apply: the trees that layers mean, clean file systems, the same bytes, words and statuses."""

import gzip
import json
import os
import signal
import subprocess
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest

import obdcore
from tests.e2e.commands import BIN, golden, names, ok, run, sha256
from tests.e2e.trees import Tree, assert_clean, assert_same, listing, mounted, needs_loop, tree

MIB = 1 << 20
SIZE = 64 * MIB
S = 10**9

# Where upstream's trees are not what the tars mean: path -> what differs; None for what is not there.
MEANT: dict[str, dict[str, dict[str, Any] | None]] = {
    "basic": {
        "bin/dotted": {"target": "a/./b/../c/"},
        "bin/norm": {"target": "./../etc//one"},
        "etc/future": {"mtime": 4294967295 * S},
        "etc/y2262": {"mtime": 9223372036 * S},
    },
    "gnu-base256": {
        "b/mtime": {"mtime": 15032385535 * S},  # the last second that ext4 knows
        "b/neg": {"mtime": -S},
        "b/uid": {"uid": 3000000, "gid": 4000000},
    },
    "pax": {
        "p": {"mtime": S},
        "p/atime": {"mtime": S},
        "p/comment": {"mtime": S},
        "p/frac": {"mtime": 1600000000123456789},
        "p/name-from-pax": {"mtime": S},
        "p/neg": {"mtime": -5500000000},
        "p/uid": {"uid": 3000000, "gid": 4000000, "mtime": S},
    },
    "root": {".": {"mode": "0700", "mtime": 1700000000 * S}},
    "sparse-pax10": {
        "sp/GNUSparseFile.0": None,
        "sp/GNUSparseFile.0/f": None,
        "sp/f": {
            "type": "file",
            "mode": "0644",
            "uid": 0,
            "gid": 0,
            "mtime": 1700000000 * S,
            "size": 70000,
            "sha256": "9140a253ef2f52fbf41b19dec829d97a5411bf85681c9fc3a1353f22f09003d6",
            "nlink": 1,
            "same as": "sp/f",
            "xattrs": {},
        },
    },
    "xattr": {"x/acl": {"xattrs": {"user.x": "ignored"}}},
}
BELOW = {"upper": ["lower"], "upper2": ["lower", "upper"]}
LISTED = [
    *("basic", "empty", "gnu-base256", "lower", "many", "names-gnu", "names-pax", "names-ustar"),
    *("noeof", "paths", "pax", "root", "sparse-pax10", "xattr", "zero", "upper", "upper2"),
]


def raw(path: Path, size: int = SIZE) -> Path:
    """An empty raw image."""
    with path.open("xb") as file:
        file.truncate(size)
    return path


def archive(directory: Path, name: str) -> Path:
    """The tar of a golden vector, still compressed."""
    path = directory / f"{name}.tar.zst"
    path.write_bytes((Path(__file__).parents[1] / "golden/apply/tars" / path.name).read_bytes())
    return path


def meant(name: str) -> Tree:
    """The tree that a golden vector means."""
    found = listing(golden(f"apply/{name}.listing.jsonl").decode())
    for path, changes in MEANT.get(name, {}).items():
        if changes is None:
            del found[path]
        else:
            found[path] = found.get(path, {}) | changes
    return found


@needs_loop
@pytest.mark.parametrize("name", LISTED)
def test_trees_are_what_the_tars_mean(tmp_path: Path, name: str) -> None:
    image = raw(tmp_path / "raw.img")
    first = True
    for layer in [*BELOW.get(name, []), name]:
        words = ["--mkfs"] if first else []
        ok("overlaybd-apply", "--raw", *words, archive(tmp_path, layer), image)
        assert_clean(image)
        first = False
    with mounted(image) as root:
        assert_same(tree(root), meant(name))


@pytest.mark.parametrize("name", [*LISTED, "hldir"])
def test_upstreams_layers_open_and_read_as_they_must(name: str, tmp_path: Path) -> None:
    layers: list[str | obdcore.RemoteBlob] = []
    for layer in [*BELOW.get(name, []), name]:
        path = tmp_path / f"{layer}.layer"
        path.write_bytes(golden(f"apply/{layer}.layer"))
        layers.append(str(path))
    image = obdcore.Image(layers)
    assert sha256(image.read_at(0, image.size)) == golden(f"apply/{name}.flat.sha256").decode().split()[0]


@needs_loop
@pytest.mark.parametrize("name", ["symlinkdir", "symlinkrel"])
def test_links_on_the_way_are_followed_inside_the_root(tmp_path: Path, name: str) -> None:
    image = raw(tmp_path / "raw.img")
    ok("overlaybd-apply", "--raw", "--mkfs", archive(tmp_path, name), image)
    with mounted(image) as root:
        assert sorted(tree(root)) == [".", "etc", "etc/in-link", "sl"]


@needs_loop
@pytest.mark.parametrize("flags", [0, 2])
def test_names_are_found_however_the_file_system_hashes_them(tmp_path: Path, flags: int) -> None:
    image, layer = raw(tmp_path / "raw.img"), tmp_path / "layer.tar"
    ok("overlaybd-apply", "--raw", "--mkfs", archive(tmp_path, "empty"), image)
    # Nothing said, and characters without sign.
    subprocess.run(["debugfs", "-w", "-R", f"set_super_value flags {flags}", image], check=True)
    names = [f"d/{number:05}-é" for number in range(2000)]
    with tarfile.open(layer, "w") as tar:
        for name in names:
            tar.addfile(tarfile.TarInfo(name))
    ok("overlaybd-apply", "--raw", layer, image)
    assert_clean(image)
    with mounted(image) as root:
        assert not [name for name in names if not (root / name).exists()]


@needs_loop
def test_old_sparse_files(tmp_path: Path) -> None:
    image = raw(tmp_path / "raw.img")
    ok("overlaybd-apply", "--raw", "--mkfs", archive(tmp_path, "sparse-oldgnu"), image)
    with mounted(image) as root:
        assert tree(root)["sp/old"]["sha256"] == meant("sparse-pax10")["sp/f"]["sha256"]
        assert (root / "sp/old").stat().st_blocks * 512 < 70000


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("badsum", "a tar header whose checksum is wrong"),
        ("garbage", "a tar header whose checksum is wrong"),
        ("truncated", "at 512: trunc: the archive ends 3000 bytes early"),
        ("fileasdir", "at 1024: f/x: f: no directory, but something is to be below it"),
        ("hlmissing", "at 1024: h: a hard link leads to: nosuch: not there"),
        ("hldir", "at 512: h: a hard link leads to d, which is a directory"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, name: str, words: str) -> None:
    image = raw(tmp_path / "raw.img")
    done = run("overlaybd-apply", "--raw", "--mkfs", archive(tmp_path, name), image)
    assert (done.status, done.out, len(done.lines)) == (255, "", 1)
    assert done.err.startswith("failed to extract: ")
    assert words in done.err
    assert_clean(image)


def layered(directory: Path, *options: str) -> tuple[Path, dict[str, str]]:
    """A writable layer of 1 GiB with a file system, and its configuration."""
    pair = {"data": str(directory / "data"), "index": str(directory / "index")}
    ok("overlaybd-create", pair["data"], pair["index"], "1", "--mkfs", *options)
    config = directory / "config.v1.json"
    config.write_text(json.dumps({"lowers": [], "upper": pair}))
    return config, pair


@pytest.mark.parametrize("options", [[], ["-s"]])
def test_into_a_layer_and_the_same_bytes_each_time(tmp_path: Path, options: list[str]) -> None:
    sums = []
    for home in (tmp_path / "a", tmp_path / "b"):
        home.mkdir()
        config, pair = layered(home, *options)
        done = ok("overlaybd-apply", archive(home, "basic"), config)
        assert (done.out, done.err) == ("overlaybd-apply done\n", "\n")
        ok("overlaybd-commit", pair["data"], pair["index"], home / "layer", "-z", "-t")
        # Only what says something is stored: of a device of 1 GiB.
        assert (home / "layer").stat().st_size < MIB // 4
        sums.append(sha256((home / "layer").read_bytes()))
        lower = {"lowers": [{"file": str(home / "layer")}], "upper": {}}
        (home / "merged.json").write_text(json.dumps(lower))
    assert sums[0] == sums[1]


@needs_loop
def test_onto_a_layer_below(tmp_path: Path) -> None:
    config, pair = layered(tmp_path)
    ok("overlaybd-apply", archive(tmp_path, "lower"), config)
    ok("overlaybd-commit", pair["data"], pair["index"], tmp_path / "layer", "-z")
    upper = {"data": str(tmp_path / "data2"), "index": str(tmp_path / "index2")}
    ok("overlaybd-create", upper["data"], upper["index"], "0")
    config.write_text(json.dumps({"lowers": [{"file": str(tmp_path / "layer")}], "upper": upper}))
    ok("overlaybd-apply", archive(tmp_path, "upper"), config)
    # The content of what did not change is not in it.
    assert os.stat(upper["data"]).st_size < 200_000
    ok("obd", "export", config, tmp_path / "flat.img")
    assert_clean(tmp_path / "flat.img")
    with mounted(tmp_path / "flat.img") as root:
        assert_same(tree(root), meant("upper"))


@needs_loop
def test_onto_a_layer_that_upstream_made(tmp_path: Path) -> None:
    (tmp_path / "layer").write_bytes(golden("apply/lower.layer"))
    upper = {"data": str(tmp_path / "data"), "index": str(tmp_path / "index")}
    ok("overlaybd-create", upper["data"], upper["index"], "0")
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"lowers": [{"file": str(tmp_path / "layer")}], "upper": upper}))
    ok("overlaybd-apply", archive(tmp_path, "upper"), config)
    ok("obd", "export", config, tmp_path / "flat.img")
    with mounted(tmp_path / "flat.img") as root:
        assert_same(tree(root), meant("upper"))
    # Of what is wrong with upstream's, only the index of lost+found is left.
    done = subprocess.run(
        ["e2fsck", "-fn", tmp_path / "flat.img"], capture_output=True, text=True, check=False
    )
    assert [line for line in done.stdout.splitlines() if line.endswith("? no")] == [
        "Invalid HTREE directory inode 11 (/lost+found).  Clear HTree index? no"
    ]
    assert "count wrong" not in done.stdout


@needs_loop
def test_real_files_with_everything_that_tar_keeps(tmp_path: Path) -> None:
    """Python's own library and some odd files, in both dialects, against what tar itself unpacks."""
    source = tmp_path / "source"
    subprocess.run(["cp", "-a", os.path.dirname(json.__file__), source], check=True)
    with (source / "sparse").open("wb") as file:
        file.truncate(40 * MIB)
        file.seek(17 * MIB + 77)
        file.write(b"island" * 5000)
    os.link(source / "decoder.py", source / "again.py")
    (source / ("n" * 200)).mkdir()
    os.chown(source / "encoder.py", 3_000_000_000, 70_000)
    os.utime(source / "scanner.py", ns=(1, 1234567890_987654321))
    capability = "0100000200040000000000000000000000000000"
    os.setxattr(source / "tool.py", "security.capability", bytes.fromhex(capability))
    entries = (
        "01000600ffffffff",
        "0200040031d40000",  # of a user whom nobody knows by name
        "04000400ffffffff",
        "10000600ffffffff",
        "20000400ffffffff",
    )
    acl = bytes.fromhex("02000000" + "".join(entries))
    os.setxattr(source / "tool.py", "system.posix_acl_access", acl)
    for number in range(900):
        (source / f"{number:0>100}").symlink_to("x" * (number + 1))
    for name, dialect, attributes in (
        ("gnu", "gnu", []),
        ("pax", "pax", ["--xattrs", "--xattrs-include=*"]),
        ("lists", "pax", ["--acls", "--numeric-owner"]),
    ):
        packed = tmp_path / f"{name}.tar"
        pack = ["--sparse", f"--format={dialect}", *attributes, "-C", str(source), "-cf", str(packed), "."]
        subprocess.run(["tar", *pack], check=True)
        image, unpacked = raw(tmp_path / f"{name}.img", 128 * MIB), tmp_path / name
        ok("overlaybd-apply", "--raw", "--mkfs", packed, image)
        assert_clean(image)
        unpacked.mkdir()
        unpack = [*attributes, "--numeric-owner", "-C", str(unpacked), "-xpf", str(packed)]
        subprocess.run(["tar", *unpack], check=True)
        with mounted(image) as root:
            assert_same(tree(root), tree(unpacked))
            assert (root / "sparse").stat().st_blocks * 512 < MIB


@pytest.mark.parametrize("packing", ["plain", "gzip", "zstd"])
def test_checksum_is_of_the_uncompressed_layer(tmp_path: Path, packing: str) -> None:
    plain = golden("apply/tars/basic.tar")
    half = len(plain) // 2
    members = gzip.compress(plain[:half]) + gzip.compress(plain[half:])
    stored = {"plain": plain, "gzip": members, "zstd": archive(tmp_path, "basic").read_bytes()}[packing]
    (tmp_path / "layer.tar").write_bytes(stored)
    image = raw(tmp_path / "raw.img")
    right = f"sha256:{sha256(plain)}"
    done = ok("overlaybd-apply", "--raw", "--mkfs", tmp_path / "layer.tar", image, "--checksum", right)
    assert (done.out, done.err) == ("overlaybd-apply done\n", right + "\n")
    wrong = ["--checksum", "sha256:0000"]
    done = run("overlaybd-apply", "--raw", "--mkfs", tmp_path / "layer.tar", image, *wrong)
    assert (done.status, done.err) == (255, f"sha256 checksum mismatch, expect: sha256:0000, got: {right}\n")
    # Nothing of it is there.
    assert_clean(image)


def test_from_a_fifo(tmp_path: Path) -> None:
    fifo, image = tmp_path / "fifo", raw(tmp_path / "raw.img")
    os.mkfifo(fifo)
    writer = threading.Thread(target=lambda: fifo.write_bytes(golden("apply/tars/basic.tar")))
    writer.start()
    ok("overlaybd-apply", "--raw", "--mkfs", fifo, image)
    writer.join()
    assert_clean(image)


def test_what_is_no_target_is_told(tmp_path: Path) -> None:
    layer = archive(tmp_path, "basic")
    done = run("overlaybd-apply", "--raw", layer, raw(tmp_path / "raw.img"))
    assert (done.status, done.out) == (255, "")
    assert done.err.endswith("unsupported: there is no ext4 file system on it: make one first\n")
    config = tmp_path / "config.json"
    lower = tmp_path / "lower.layer"
    lower.write_bytes(golden("apply/lower.layer"))
    config.write_text(json.dumps({"lowers": [{"file": str(lower)}]}))
    done = run("overlaybd-apply", layer, config)
    assert done.status == 255
    assert done.err == f"failed to create image file: read-only: {config}: has no writable upper\n"
    done = run("overlaybd-apply", "--raw", "--mkfs", layer, raw(tmp_path / "small.img", 4096))
    assert done.err == "mkfs failed, 22: invalid: a device of 4096 bytes is too small for ext4\n"


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["nowhere", "config.json"], 105),
        (["layer"], 106),
        ([], 106),
        (["layer", "layer", "more"], 109),
        (["layer", "layer", "--checksum"], 114),
        (["layer", "layer", "--from_qcow2"], 255),
        (["layer", "layer", "--gz_index_path", "x"], 255),
        (["layer", "layer", "--checksum", "md5:0"], 255),
    ],
)
def test_statuses(tmp_path: Path, words: list[str], status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "layer").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    done = run("overlaybd-apply", *words)
    assert (done.status, done.out) == (status, "")
    assert names(tmp_path) == ["layer"]


@pytest.mark.parametrize("kind", [[], ["-s"], ["--raw"]])
def test_create_with_a_file_system(tmp_path: Path, kind: list[str]) -> None:
    pair = tmp_path / "data", tmp_path / "index"
    ok("overlaybd-create", *pair, "1", "--mkfs", *kind)
    if kind == ["--raw"]:
        assert_clean(pair[0])
        return
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"lowers": [], "upper": {"data": str(pair[0]), "index": str(pair[1])}}))
    ok("obd", "export", config, tmp_path / "flat.img")
    assert_clean(tmp_path / "flat.img")


def test_create_with_a_file_system_needs_a_size(tmp_path: Path) -> None:
    done = run("overlaybd-create", tmp_path / "data", tmp_path / "index", "0", "--mkfs")
    assert (done.status, done.out, names(tmp_path)) == (255, "", [])
    assert done.err.startswith("mkfs failed, 22: ")


def test_without_the_library_the_error_says_what_to_install(tmp_path: Path) -> None:
    """A directory where the loader looks first has a file of its name that is none."""
    (tmp_path / "libext2fs.so.2").write_bytes(b"no library")
    environment = {"LD_LIBRARY_PATH": str(tmp_path)}
    image = raw(tmp_path / "raw.img")
    done = run("overlaybd-apply", "--raw", "--mkfs", archive(tmp_path, "basic"), image, env=environment)
    assert done.status == 255
    assert done.err.startswith("mkfs failed, 95: unsupported: ext4 is written by libext2fs.so.2")
    assert "install libext2fs2" in done.err


def test_a_signal_ends_the_wait_for_a_pipe(tmp_path: Path) -> None:
    fifo, image = tmp_path / "fifo", raw(tmp_path / "raw.img")
    os.mkfifo(fifo)
    command = [str(BIN / "overlaybd-apply"), "--raw", "--mkfs", str(fifo), str(image)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process, fifo.open("wb") as writer:
        writer.write(golden("apply/tars/basic.tar")[:5000])
        writer.flush()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == -signal.SIGTERM
