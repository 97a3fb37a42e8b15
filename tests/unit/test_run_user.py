"""Users of images: found in the image's own lists, whatever these hold and wherever their links lead."""

import os
import random
from pathlib import Path

import pytest

from obd.errors import ObdError
from obd.run.inside import MAX_BYTES, read_inside
from obd.run.user import User, resolve_user

PASSWD = "root:x:0:0::/:/bin/sh\n# no:x:1:1\nbroken\nworker:x:1000:1001::/:\n7:x:70:71::/:\nbad:x:-1:5::/:\n"
GROUP = "root:x:0:\nworkers:x:1001:\nothers:x:1002:root,worker\nmore:x:1003:worker\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root/etc").mkdir(parents=True)
    (tmp_path / "root/etc/passwd").write_text(PASSWD)
    (tmp_path / "root/etc/group").write_text(GROUP)
    return tmp_path / "root"


@pytest.mark.parametrize(
    ("word", "user"),
    [
        ("", User(0, 0, (0, 1002))),
        ("worker", User(1000, 1001, (1001, 1002, 1003))),
        ("1000", User(1000, 1001, (1001, 1002, 1003))),
        ("worker:others", User(1000, 1002, (1002,))),
        ("5:6", User(5, 6, (6,))),
        ("5", User(5, 0, (0,))),
        ("7", User(70, 71, (71,))),
    ],
)
def test_names_and_numbers(root: Path, word: str, user: User) -> None:
    assert resolve_user(str(root), word) == user


@pytest.mark.parametrize("word", ["nobody", "worker:nobodies", "-1", "4294967295", "bad", "broken", "\u0665"])
def test_who_is_not_there(root: Path, word: str) -> None:
    with pytest.raises(ObdError, match=r"not-found: no (user|group)"):
        resolve_user(str(root), word)


@pytest.mark.parametrize("target", ["{outside}", "../../../../../../..{outside}"])
def test_links_do_not_lead_outside(root: Path, tmp_path: Path, target: str) -> None:
    outside = tmp_path / "outside"
    outside.write_text("evil:x:0:0::/:\n")
    (root / "etc/passwd").unlink()
    (root / "etc/passwd").symlink_to(target.format(outside=outside))
    assert read_inside(str(root), "/etc/passwd") == ""
    (root / "etc/passwd").unlink()
    (root / "etc/passwd").symlink_to("../../../etc/users")
    (root / "etc/users").write_text(PASSWD)
    assert read_inside(str(root), "/etc/passwd") == PASSWD


def test_what_is_no_file_of_text(root: Path) -> None:
    assert read_inside(str(root), "/etc") == ""
    os.mkfifo(root / "etc/fifo")
    assert read_inside(str(root), "/etc/fifo") == ""
    os.truncate(root / "etc/passwd", MAX_BYTES + 1)
    with pytest.raises(ObdError, match="limit"):
        read_inside(str(root), "/etc/passwd")


def test_any_bytes_are_a_list(root: Path) -> None:
    chance = random.Random(1)
    for _ in range(300):
        for name in ("passwd", "group"):
            words = chance.choices([b":", b"\n", b"1", b"worker", b"0", b",", b"\xff", b"\0", b"-"], k=60)
            (root / "etc" / name).write_bytes(b"".join(words))
        found = resolve_user(str(root), "1000:1")
        assert (found.uid >= 0, found.gid >= 0) == (True, True)
