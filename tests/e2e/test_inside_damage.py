"""Damaged images: whatever their bytes say, a look at their files ends, with what is there or an error."""

import os
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

import obdcore
from obd.errors import ObdError
from obd.files import Files
from obd.files.diff import Comparison
from tests.e2e.inside import grow, look, mkfs_erofs, mkfs_ext4

ROUNDS = 15
CHANGES = 60
# Files of a damaged image that are looked at, and bytes of each: sizes are as wrong as all else.
FILES = 400
PIECES = 3


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree of all kinds of files, but of few of each."""
    path = tmp_path_factory.mktemp("tree") / "top"
    grow(path)
    for file in sorted((path / "many").iterdir())[20:]:
        file.unlink()
    return path


def layer_of(raw: Path, image: bytes) -> Path:
    """A layer of these bytes."""
    raw.write_bytes(image)
    layer = raw.with_suffix(".layer")
    with raw.open("rb") as source, layer.open("wb") as target:
        obdcore.lsmt_import(source.fileno(), len(image), target.fileno())
    return layer


def look_at_all(files: Files) -> None:
    """All that can be asked of a file, of files by way of directories."""
    with suppress(ObdError):
        for number, (path, info) in enumerate(files.walk(b"/", files.stat(b"/").ino)):
            if number == FILES:
                break
            for ask in (files.readlink, files.xattrs):
                with suppress(ObdError):
                    ask(path, info.ino)
            with suppress(ObdError):
                for piece, _ in zip(files.data(path, info.ino, info.size), range(PIECES), strict=False):
                    assert 0 <= piece[0] <= piece[0] + len(piece[1]) <= info.size
            with suppress(ObdError):
                assert files.stat(path).ino == info.ino


MAKERS: dict[str, Callable[[Path, Path], Path]] = {
    "extents": lambda image, top: mkfs_ext4(image, top, "-t ext4 -b 1024 -O ^metadata_csum", "16M"),
    "pointers": lambda image, top: mkfs_ext4(image, top, "-t ext3 -b 1024", "16M"),
    "erofs": lambda image, top: mkfs_erofs(image, top, "-x1"),
    "chunks": lambda image, top: mkfs_erofs(image, top, "--chunksize=4096"),
}


@pytest.mark.parametrize("how", MAKERS)
def test_damage_is_an_error_or_harmless(tmp_path: Path, top: Path, how: str) -> None:
    good = MAKERS[how](tmp_path / "good", top).read_bytes()
    whole = look(layer_of(tmp_path / "whole", good))
    numbers = random.Random(int(os.environ.get("PROPTEST_RNG_SEED", "1")))
    # Where there is something: that is metadata for the most part, near the beginning.
    filled = [at for at in range(0, len(good), 64) if any(good[at : at + 64])][:20_000]
    for _ in range(ROUNDS):
        bad = bytearray(good)
        for _ in range(CHANGES):
            bad[numbers.choice(filled) + numbers.randrange(64)] = numbers.randrange(256)
        with suppress(OSError), look(layer_of(tmp_path / "bad", bytes(bad))) as files:
            look_at_all(files)
            with suppress(ObdError):
                for _, _ in zip(Comparison(whole, files).changes(), range(FILES), strict=False):
                    pass
    whole.close()
