"""obd ls, cat, cp and diff: of images of all names, with a registry, as people and programs use them."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import servers
from tests.e2e.commands import BIN, ok, run, sha256
from tests.e2e.inside import MIB, build_layers, tar
from tests.e2e.trees import assert_same, tree
from tests.rigs.attached import until

BIG = os.urandom(24 * MIB)
NUMBERS = "".join(f"{number}\n" for number in range(100_000)).encode()
FIRST: dict[str, bytes | str | None] = {
    "etc": None,
    "etc/conf": b"old\n",
    "etc/gone": b"gone\n",
    "etc/link": "conf",
    "lib": None,
    "lib/big": BIG,
    "lib/numbers": NUMBERS,
    "new\nline \x1b[31m": b"odd",
}
SECOND: dict[str, bytes | str | None] = {
    "etc/conf": b"new\n",
    "etc/.wh.gone": b"",
    "etc/link": "../lib/numbers",
    "etc/more": b"more",
}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Registry]:
    with servers.Registry(tmp_path_factory.mktemp("registry")) as server:
        yield server


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two layers of one image."""
    return build_layers(tmp_path_factory.mktemp("layers"), tar(FIRST), tar(SECOND))


@pytest.fixture(scope="module")
def image(registry: servers.Registry, layers: list[Path]) -> str:
    """The image in a registry."""
    ok("obd", "push", *layers, "--to", f"{registry.host}/team/app:v1")
    return f"{registry.host}/team/app:v1"


@pytest.fixture
def config(tmp_path: Path, layers: list[Path]) -> Path:
    """The image as a configuration of local layers."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"lowers": [{"file": str(layer)} for layer in layers]}))
    return path


@pytest.fixture
def service(tmp_path: Path) -> Path:
    """A service configuration with a cache that is empty."""
    path = tmp_path / "overlaybd.json"
    cache = {"cacheType": "file", "cacheDir": str(tmp_path / "cache"), "cacheSizeGB": 1}
    path.write_text(json.dumps({"cacheConfig": cache}))
    return path


def fetched(registry: servers.Registry, start: int) -> int:
    """Bytes of blobs that a registry has sent since its log had `start` bytes."""
    lines = registry.log.read_bytes()[start:].decode().splitlines()
    words = [line.split('"')[2].split() for line in lines if "/blobs/sha256:" in line and '"GET ' in line]
    return sum(int(count) for _, count in words)


def test_a_small_file_of_a_remote_image_is_fetched_alone(
    registry: servers.Registry, image: str, layers: list[Path], service: Path
) -> None:
    start = registry.log.stat().st_size
    assert ok("obd", "cat", f"{image}:/etc/conf", "--service", service).out == "new\n"
    assert 0 < fetched(registry, start) <= 2 * MIB
    start = registry.log.stat().st_size
    ok("obd", "pull", "--full", image, "--service", service)
    # A line of the log comes after the answer that it tells of.
    size = sum(layer.stat().st_size for layer in layers)
    until(lambda: fetched(registry, start) >= size, "not all of it is fetched")
    start = registry.log.stat().st_size
    assert ok("obd", "cat", f"docker://{image}:/etc/conf", "--service", service).out == "new\n"
    assert fetched(registry, start) == 0, "it was in the cache"


def test_images_are_found_by_all_their_names(
    tmp_path: Path, config: Path, layers: list[Path], image: str
) -> None:
    layout = tmp_path / "layout"
    ok("obd", "copy", image, f"oci:{layout}:v1")
    for word in (config, f"http://{image}", f"oci:{layout}:v1", f"oci:{layout}"):
        assert ok("obd", "cat", f"{word}:/etc/link").out.encode() == NUMBERS
    assert ok("obd", "cat", f"{layers[0]}:/etc/conf").out == "old\n"
    assert ok("obd", "cat", f"{config}:/etc/conf", "--layers", "1").out == "old\n"
    done = run("obd", "cat", "nowhere:/etc")
    assert (done.status, done.out) == (255, "")
    assert "neither a file nor an image configuration" in done.err
    done = run("obd", "cat", f"{config}:/etc/link/x")
    assert done.lines == [f"obd: not-found: {config}:/etc/link/x: no such file in the image"]
    done = run("obd", "cat", f"{config}:/etc")
    assert done.lines == [f"obd: invalid: {config}:/etc: is a directory"]


def test_what_ls_shows_people_and_programs(config: Path) -> None:
    assert ok("obd", "ls", config).out.splitlines() == ["etc", "lib", "lost+found", "new\\x0aline \\x1b[31m"]
    assert ok("obd", "ls", "-0", config).out.split("\0")[3] == "new\nline \x1b[31m"
    long = ok("obd", "ls", "-l", f"{config}:/etc").out.splitlines()
    assert long[0] == "-rw-r--r--   1     0     0          4 2023-11-14 22:13:20 conf"
    assert long[1].endswith(" link -> ../lib/numbers")
    below = ok("obd", "ls", "-R", f"{config}:/").out.splitlines()
    assert below[:4] == ["/etc", "/etc/conf", "/etc/link", "/etc/more"]
    assert ok("obd", "ls", "-d", f"{config}:/etc").out == "/etc\n"
    rows = {row["path"]: row for row in json.loads(ok("obd", "ls", "--json", "-R", config).out)}
    assert rows["/lib/big"] == {
        "path": "/lib/big",
        "type": "file",
        "mode": "0644",
        "uid": 0,
        "gid": 0,
        "size": len(BIG),
        "mtime_ns": 1_700_000_000 * 10**9,
        "nlink": 1,
        "ino": rows["/lib/big"]["ino"],
    }
    assert rows["/etc/link"]["target"] == "../lib/numbers"


def test_output_that_nobody_reads_on_is_an_error_in_one_line(config: Path) -> None:
    command: list[str | Path] = [BIN / "obd", "cat", f"{config}:/lib/big"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b"obd: io: standard output was closed\n"
        assert process.wait() == 255


def test_files_are_copied_out(tmp_path: Path, config: Path) -> None:
    target = tmp_path / "out"
    ok("obd", "cp", f"{config}:/etc/link", target)
    assert target.read_bytes() == NUMBERS
    done = run("obd", "cp", f"{config}:/etc/conf", target)
    assert done.status == 255 and "exists: " in done.err
    assert target.read_bytes() == NUMBERS
    ok("obd", "cp", "-f", f"{config}:/etc/conf", target)
    assert target.read_bytes() == b"new\n"
    done = run("obd", "cp", f"{config}:/etc", tmp_path / "etc")
    assert done.lines == [f"obd: invalid: {config}:/etc: is a directory: give -r"]
    (tmp_path / "into").mkdir()
    ok("obd", "cp", "-r", f"{config}:/etc", tmp_path / "into")
    assert os.readlink(tmp_path / "into/etc/link") == "../lib/numbers"
    assert sorted(os.listdir(tmp_path / "into/etc")) == ["conf", "link", "more"]


def test_diff_of_two_states_of_an_image(config: Path, layers: list[Path]) -> None:
    wanted = [
        "~ /etc (times)",
        "~ /etc/conf (content)",
        "- /etc/gone",
        "~ /etc/link (target)",
        "+ /etc/more",
    ]
    told = ok("obd", "diff", config).out.splitlines()
    assert [line for line in told if line != "~ /etc (times)"] == [wanted[1], *wanted[2:]]
    assert ok("obd", "diff", layers[0], config).out.splitlines() == told
    assert ok("obd", "diff", config, config).out == ""
    assert ok("obd", "diff", "-0", "--ignore-times", config).out.split("\0")[1] == "-/etc/gone"
    rows = json.loads(ok("obd", "diff", "--json", "--ignore-times", config).out)
    assert [(row["path"], row["change"], row.get("differs")) for row in rows] == [
        ("/etc/conf", "changed", ["content"]),
        ("/etc/gone", "removed", None),
        ("/etc/link", "changed", ["target"]),
        ("/etc/more", "added", None),
    ]
    assert rows[2]["before"]["target"] == "conf"
    assert "after" not in rows[1] and rows[3]["after"]["size"] == 4
    done = run("obd", "diff", layers[0])
    assert done.status == 255 and "has one layer" in done.err


def test_what_two_images_share_is_not_read(registry: servers.Registry, image: str, service: Path) -> None:
    start = registry.log.stat().st_size
    out = ok("obd", "diff", "--ignore-times", image, "--service", service).out
    assert len(out.splitlines()) == 4
    assert fetched(registry, start) < 6 * MIB, "the large file was read"


def test_the_same_files_in_other_places_do_not_differ(tmp_path: Path, layers: list[Path]) -> None:
    again = build_layers(tmp_path, tar(FIRST | {"aaa": os.urandom(MIB)}))
    assert ok("obd", "diff", "--ignore-times", layers[0], again[0]).out == "+ /aaa\n"
    changed = bytearray(BIG)
    changed[20 * MIB] ^= 1
    (tmp_path / "changed").mkdir()
    other = build_layers(tmp_path / "changed", tar(FIRST | {"lib/big": bytes(changed)}))
    assert ok("obd", "diff", layers[0], other[0]).out == "~ /lib/big (content)\n"


def test_copies_are_what_a_mount_would_show(tmp_path: Path, config: Path) -> None:
    ok("obd", "cp", "-r", f"{config}:/", tmp_path / "copy")
    found = tree(tmp_path / "copy")
    assert found["lib/big"]["sha256"] == sha256(BIG)
    assert found["etc/conf"]["mtime"] == 1_700_000_000 * 10**9
    ok("obd", "cp", "-r", f"{config}:/lib", tmp_path / "lib")
    assert_same(tree(tmp_path / "lib"), tree(tmp_path / "copy/lib"))
