"""overlaybd-merge: a stack becomes one layer that reads the same."""

import json
from pathlib import Path

import pytest

import obdcore
from tests.e2e.commands import golden, names, place, run, sha256


def config(directory: Path, lowers: list[dict[str, str]], upper: dict[str, str] | None = None) -> Path:
    """An image configuration in `directory`."""
    path = directory / "config.json"
    path.write_text(json.dumps({"repoBlobUrl": "", "lowers": lowers, "upper": upper or {}, "resultFile": ""}))
    return path


def stack(directory: Path, *layers: str) -> list[dict[str, str]]:
    """Lowers that are copies of golden commits."""
    return [{"file": str(path)} for path in place(directory, *(f"lsmt/{name}.commit" for name in layers))]


def digest(path: Path) -> str:
    """SHA-256 of the device that a single layer shows."""
    image = obdcore.Image([str(path)])
    try:
        return sha256(image.read_at(0, image.size))
    finally:
        image.close()


def test_uncompressed_has_upstreams_bytes(tmp_path: Path) -> None:
    path = config(tmp_path, stack(tmp_path, "a", "b", "c"))
    done = run("overlaybd-merge", path, tmp_path / "out", "--compress=false")
    assert (done.status, done.out, done.err) == (0, "", "\n")
    assert (tmp_path / "out").read_bytes() == golden("lsmt/abc.merged.raw")


@pytest.mark.parametrize("option", [[], ["-t"], ["--compress"]])
def test_compressed(tmp_path: Path, option: list[str]) -> None:
    path = config(tmp_path, stack(tmp_path, "a", "b", "c"))
    done = run("overlaybd-merge", path, tmp_path / "out", *option)
    assert (done.status, done.err) == (0, "\n")
    assert digest(tmp_path / "out") == golden("lsmt/abc.flat.sha256").decode().strip()
    obdcore.ZFileReader(str(tmp_path / "out")).verify()
    assert "tar" not in obdcore.layer_info(str(tmp_path / "out"))


def test_compressed_lowers_found_by_their_directories(tmp_path: Path) -> None:
    for name, file, source in (("0", "overlaybd.commit", "b.lz4.tar"), ("1", "overlaybd.sealed", "g.sealed")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_bytes(golden(f"lsmt/{source}"))
    path = config(tmp_path, [{"dir": str(tmp_path / "0")}, {"dir": str(tmp_path / "1")}])
    assert run("overlaybd-merge", path, tmp_path / "out").status == 0
    assert digest(tmp_path / "out") == golden("lsmt/b.flat.sha256").decode().strip()


def test_writable_layer_on_top(tmp_path: Path) -> None:
    data, index = place(tmp_path, "lsmt/d.data", "lsmt/d.index")
    path = config(tmp_path, stack(tmp_path, "a", "b"), {"data": str(data), "index": str(index)})
    assert run("overlaybd-merge", path, tmp_path / "out").status == 0
    assert digest(tmp_path / "out") == golden("lsmt/abd.flat.sha256").decode().strip()
    assert (data.read_bytes(), index.read_bytes()) == (golden("lsmt/d.data"), golden("lsmt/d.index"))


def test_existing_output_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"old")
    path = config(tmp_path, stack(tmp_path, "a"))
    assert run("overlaybd-merge", path, tmp_path / "out", "--compress=false").status == 0
    assert digest(tmp_path / "out") == golden("lsmt/a.flat.sha256").decode().strip()


def test_a_lower_is_never_the_output(tmp_path: Path) -> None:
    lowers = stack(tmp_path, "a", "b")
    done = run("overlaybd-merge", config(tmp_path, lowers), lowers[0]["file"])
    assert done.status == 255
    assert Path(lowers[0]["file"]).read_bytes() == golden("lsmt/a.commit")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "failed to create image file: invalid: "),
        ("{}", "failed to create image file: invalid: "),
        ('{"lowers":[{"file":"/nowhere/x"}]}', "failed to create image file: "),
        ('{"lowers":[{"file":"/nowhere/x","targetFile":"/x"}]}', "failed to create image file: "),
    ],
)
def test_wrong_configurations(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.json").write_text(text)
    done = run("overlaybd-merge", tmp_path / "config.json", tmp_path / "out")
    assert (done.status, done.out, len(done.lines)) == (255, "", 1)
    assert done.err.startswith(message)
    assert names(tmp_path) == ["config.json"]


def test_a_damaged_lower(tmp_path: Path) -> None:
    lowers = stack(tmp_path, "a", "b")
    Path(lowers[1]["file"]).write_bytes(b"garbage" * 1000)
    done = run("overlaybd-merge", config(tmp_path, lowers), tmp_path / "out")
    assert (done.status, len(done.lines)) == (255, 1)
    assert done.err.startswith("failed to compact: ")
    assert lowers[1]["file"] in done.err
    assert names(tmp_path) == ["a.commit", "b.commit", "config.json"]


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["/nowhere/c", "out"], 105),
        ([], 106),
        (["--service_config_path", "/nowhere/c", "x", "y"], 105),
        (["-q", "/dev/null"], 109),
        (["--upload"], 114),
    ],
)
def test_wrong_command_lines(words: list[str], status: int) -> None:
    done = run("overlaybd-merge", *words)
    assert (done.status, done.out) == (status, "")
    assert done.lines[1:] == ["Run with --help for more information."]


def test_output_is_needed(tmp_path: Path) -> None:
    done = run("overlaybd-merge", config(tmp_path, stack(tmp_path, "a")))
    assert (done.status, done.err) == (255, "failed to create output file, 22: output must be given\n")
