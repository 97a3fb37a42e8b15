"""The odd layers and the random ones again, applied to EROFS, which also has times that ext4 cannot say."""

import os
import random
from pathlib import Path

import pytest

import obdcore
from tests.e2e.layers.archive import pack
from tests.e2e.layers.test_random import CASES, SEED, Layers
from tests.e2e.layers.test_torture import meant
from tests.e2e.layers.torture import TORTURE
from tests.e2e.layers.unpacking import SIZE
from tests.e2e.trees import assert_clean, assert_same, mounted, needs_erofs, needs_loop, tree

pytestmark = [needs_loop, needs_erofs]


@pytest.fixture(autouse=True)
def all_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """EROFS has 64 bits for a second."""
    monkeypatch.setattr("tests.e2e.layers.model.FIRST", -(1 << 63))
    monkeypatch.setattr("tests.e2e.layers.model.LAST", (1 << 63) - 1)


def applied(image: Path, layer: bytes) -> None:
    """Applies a layer to a raw image, which must be in order then."""
    archive = image.with_suffix(".tar")
    archive.write_bytes(layer)
    if not image.exists():
        with image.open("xb") as file:
            file.truncate(SIZE)
    source = os.open(archive, os.O_RDONLY)
    try:
        obdcore.erofs_apply(str(image), source)
    finally:
        os.close(source)
    assert_clean(image, "erofs")


@pytest.mark.parametrize("name", TORTURE)
def test_trees_are_what_the_layers_mean(tmp_path: Path, name: str) -> None:
    image = tmp_path / "raw.img"
    for number, layer in enumerate(TORTURE[name], 1):
        applied(image, pack(layer))
        with mounted(image, "erofs") as root:
            assert_same(tree(root), meant(TORTURE[name][:number]))


@pytest.mark.timeout(60 + 10 * CASES)
def test_random_layers(tmp_path: Path) -> None:
    for case in range(CASES):
        image = tmp_path / f"{case}.img"
        rng = random.Random(SEED * 2_000_000 + case)
        makes = Layers(rng)
        for _ in range(rng.randint(2, 4)):
            applied(image, pack(makes.next()))
        with mounted(image, "erofs") as root:
            assert_same(tree(root), makes.model.tree())
        image.unlink()
