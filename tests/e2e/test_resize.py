"""overlaybd-resize: the writable layer and an ext4 in it change their size, and nothing else does."""

import json
import os
from pathlib import Path

import pytest

import obdcore
from tests.e2e.commands import golden, ok, place, run
from tests.e2e.trees import assert_clean

GIB = 1 << 30

needs_fuse = pytest.mark.skipif(not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="no /dev/fuse here")


def image(directory: Path, *, size_gib: int, sparse: bool = False, lower: str = "") -> Path:
    """An image configuration with a fresh writable layer, perhaps over a golden one."""
    data, index = directory / "writable_data", directory / "writable_index"
    ok("overlaybd-create", data, index, str(size_gib), *(["-s"] if sparse else []))
    lowers = [{"file": str(path)} for path in place(directory, lower)] if lower else []
    path = directory / "config.json"
    path.write_text(json.dumps({"lowers": lowers, "upper": {"data": str(data), "index": str(index)}}))
    return path


def open_image(directory: Path, lowers: list[str] | None = None) -> obdcore.Image:
    upper = (str(directory / "writable_data"), str(directory / "writable_index"))
    return obdcore.Image(list(lowers or []), upper)


@pytest.mark.parametrize("sparse", [False, True])
def test_grows_and_keeps_what_is_inside(tmp_path: Path, sparse: bool) -> None:
    config = image(tmp_path, size_gib=1, sparse=sparse)
    device = open_image(tmp_path)
    device.write_at(GIB - 4096, b"x" * 4096)
    device.close()
    done = ok("overlaybd-resize", "--config", config, "--size", "3")
    assert done.out.startswith("Success: virtual size set to 3 GB (")
    assert "the file system inside is as it was" in done.out
    device = open_image(tmp_path)
    assert device.size == 3 * GIB
    assert device.read_at(GIB - 4096, 8192) == b"x" * 4096 + bytes(4096)
    assert device.read_at(3 * GIB - 4096, 4096) == bytes(4096)
    device.close()
    if sparse:
        assert (tmp_path / "writable_data").stat().st_size == 3 * GIB + 4096


def test_a_size_taken_from_the_layer_below(tmp_path: Path) -> None:
    config = image(tmp_path, size_gib=0, lower="lsmt/a.commit")
    ok("overlaybd-resize", f"--config={config}", "--size=1")
    device = open_image(tmp_path, [str(tmp_path / "a.commit")])
    assert device.size == GIB
    flat = golden("lsmt/a.flat")
    assert device.read_at(0, len(flat)) == flat
    device.close()


def test_the_same_size_is_no_change(tmp_path: Path) -> None:
    config = image(tmp_path, size_gib=2)
    before = (tmp_path / "writable_data").read_bytes(), (tmp_path / "writable_index").read_bytes()
    ok("overlaybd-resize", "--config", config, "--size", "2")
    assert before == ((tmp_path / "writable_data").read_bytes(), (tmp_path / "writable_index").read_bytes())


def test_a_smaller_size_is_refused(tmp_path: Path) -> None:
    config = image(tmp_path, size_gib=2)
    before = (tmp_path / "writable_data").read_bytes()
    done = run("overlaybd-resize", "--config", config, "--size", "1")
    assert (done.status, done.out, len(done.lines)) == (1, "", 1)
    assert done.err.startswith(f"resize failed: from {2 * GIB} to {GIB} bytes: ")
    assert (tmp_path / "writable_data").read_bytes() == before


def test_a_layer_in_use_is_refused(tmp_path: Path) -> None:
    config = image(tmp_path, size_gib=1)
    device = open_image(tmp_path)
    done = run("overlaybd-resize", "--config", config, "--size", "2")
    assert (done.status, done.out) == (1, "")
    assert device.size == GIB
    device.close()


@needs_fuse
@pytest.mark.parametrize("sparse", [False, True])
def test_ext4_grows_and_shrinks_with_the_layer(tmp_path: Path, sparse: bool) -> None:
    data, index = tmp_path / "writable_data", tmp_path / "writable_index"
    ok("overlaybd-create", data, index, "1", "--mkfs", *(["-s"] if sparse else []))
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"lowers": [], "upper": {"data": str(data), "index": str(index)}}))
    layer = tmp_path / "layer.tar"
    layer.write_bytes(golden("apply/tars/basic.tar"))
    ok("overlaybd-apply", layer, config)
    for gib in (3, 2):
        done = ok("overlaybd-resize", "--config", config, "--size", str(gib))
        assert done.out.startswith(f"Success: filesystem resized to {gib} GB ("), done.out
        device = open_image(tmp_path)
        blocks = int.from_bytes(device.read_at(1024 + 4, 4), "little")
        assert (device.size, blocks * 4096) == (gib * GIB, gib * GIB)
        device.close()
    ok("overlaybd-apply", layer, config)
    ok("overlaybd-resize", "--config", config, "--size", "1")
    ok("obd", "export", config, tmp_path / "flat.img")
    assert_clean(tmp_path / "flat.img")


@needs_fuse
def test_what_resize2fs_refuses_is_told_and_changes_nothing(tmp_path: Path) -> None:
    data, index = tmp_path / "writable_data", tmp_path / "writable_index"
    ok("overlaybd-create", data, index, "2", "--mkfs")
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"lowers": [], "upper": {"data": str(data), "index": str(index)}}))
    program = tmp_path / "resize2fs"
    program.write_text(
        "#!/bin/sh\necho resize2fs 1.47.0 >&2\necho New size smaller than minimum >&2\nexit 1\n"
    )
    program.chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = run("overlaybd-resize", "--config", config, "--size", "1", env=path)
    assert (done.status, done.out) == (1, "")
    assert done.err == "resize failed: resize2fs, status 1: New size smaller than minimum\n"
    device = open_image(tmp_path)
    assert device.size == 2 * GIB
    device.close()


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("-5", "size must be positive: -5"),
        ("0", "size must be greater than 0"),
        ("x", "invalid size (expected integer in GB): x"),
        ("1.5", "invalid size (expected integer in GB): 1.5"),
        ("", "invalid size (expected integer in GB): "),
        ("64G", "invalid size (expected integer in GB): 64G"),
        ("9000000000", "size overflow: 9000000000 GB"),
        ("99999999999999999999999", "size value out of range: 99999999999999999999999"),
    ],
)
def test_sizes_that_are_wrong(size: str, message: str) -> None:
    done = run("overlaybd-resize", "--config", "/nowhere/c", f"--size={size}")
    assert (done.status, done.out, done.err) == (1, "", f"{message}\ninvalid size: {size}\n")


def test_no_configuration() -> None:
    done = run("overlaybd-resize", "--config", "/nowhere/c", "--size", "1")
    assert (done.status, done.out, len(done.lines)) == (1, "", 1)


def test_no_upper(tmp_path: Path) -> None:
    (lower,) = place(tmp_path, "lsmt/a.commit")
    (tmp_path / "config.json").write_text(json.dumps({"lowers": [{"file": str(lower)}], "upper": {}}))
    done = run("overlaybd-resize", "--config", tmp_path / "config.json", "--size", "1")
    assert done.status == 1
    assert done.err.startswith("failed to open overlaybd image: read-only: ")


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["--size", "1"], 106),
        (["--config", "x"], 106),
        (["--config", "x", "--size", "1", "y"], 109),
        (["--config", "x", "--size"], 114),
        (["--config", "x", "--size", "1", "--size", "1"], 114),
    ],
)
def test_wrong_command_lines(words: list[str], status: int) -> None:
    done = run("overlaybd-resize", *words)
    assert (done.status, done.out) == (status, "")
    assert done.lines[1:] == ["Run with --help for more information."]
