"""Lists of paths: files of a real ext4 and of a real EROFS are in the cache before anybody reads them."""

import random
import subprocess
from pathlib import Path

import pytest

import obd
from tests.e2e.servers import Registry
from tests.e2e.test_trace import WAIT_S, config, push, replayed, service

MIB = 1 << 20
FILES = {
    "usr/bin/app": 700_000,
    "usr/lib/libstdc++.so.6.0.30": 300_000,
    "usr/lib/deep/er/plugin one.so": 5000,
    "usr/lib/deep/two.so": 150_000,
    "opt/data": 2 * MIB,
    "etc/config@1": 3000,
    "srv/never": 3 * MIB,
}
LIST = b"""# what the app needs\r
/usr/bin/app\r
usr/lib/libstdc++.so.6

/usr/lib/deep/
  opt/d[a-b]ta
/etc/*@?
/absent/file
/usr/lib
/usr/circle
"""
MKFS = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-d"],
    "erofs": ["mkfs.erofs", "--quiet", "-T0"],
}


@pytest.mark.parametrize("kind", MKFS)
def test_the_files_of_a_list_are_fetched_in_advance(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    top, raw = tmp_path / "top", tmp_path / "raw"
    contents = {name: random.Random(name).randbytes(size) for name, size in FILES.items()}
    for name, content in contents.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(content)
    (top / "usr/lib/libstdc++.so.6").symlink_to("libstdc++.so.6.0.30")
    (top / "usr/circle").symlink_to("/usr/circle")
    if kind == "ext4":
        raw.touch()
        subprocess.run([*MKFS[kind], top, raw, "16M"], check=True)
    else:
        subprocess.run([*MKFS[kind], raw, top], check=True)
        raw.write_bytes(raw.read_bytes().ljust(-(-raw.stat().st_size // 4096) * 4096, b"\0"))
    listed = tmp_path / "list"
    listed.write_bytes(LIST)
    with Registry(tmp_path / "registry") as registry:
        image = config(tmp_path, push(registry, raw, tmp_path), recordTracePath=str(listed))
        with obd.open(image, service(tmp_path)) as device:
            stats = replayed(device)
            registry.stop()
            whole = raw.read_bytes()
            for name, content in contents.items():
                # The last block may lie elsewhere, or be shared.
                content = content[:-4096] or content[:2048]
                at = whole.index(content)
                if name != "srv/never":
                    assert device.read(at, len(content)) == content, name
            fetched = device.statistics()["layers"][0]["fetched_bytes"]
            assert fetched < sum(FILES.values()) - 2 * MIB, "what is not listed is not fetched"
    assert device.prefetch is not None and device.prefetch.wait(WAIT_S)
    notes = stats["notes"]
    assert isinstance(notes, list) and len(notes) == stats["skipped"] == 3
    assert [note.split(": ")[:2] for note in notes] == [
        ["line 8", "/absent/file"],
        ["line 9", "/usr/lib"],
        ["line 10", "/usr/circle"],
    ]
    assert "no such file in the image" in notes[0] and "with a slash at the end" in notes[1]
    assert "lead in circles" in notes[2]
    assert f"{listed}: line 8: /absent/file: no such file in the image" in caplog.text


def test_an_image_without_a_known_file_system_works_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    raw = tmp_path / "raw"
    raw.write_bytes(random.Random(2).randbytes(MIB))
    (tmp_path / "list").write_bytes(b"/usr/bin/app\n")
    with Registry(tmp_path / "registry") as registry:
        image = config(tmp_path, push(registry, raw, tmp_path), recordTracePath=str(tmp_path / "list"))
        with obd.open(image, service(tmp_path)) as device:
            stats = replayed(device)
            assert (stats["fetched_bytes"], stats["skipped"]) == (0, 1)
            assert device.read(0, MIB) == raw.read_bytes()
    assert "neither ext4 nor EROFS" in caplog.text
