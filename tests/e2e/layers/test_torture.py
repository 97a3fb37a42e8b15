"""Layers of everything odd, applied: the tree that they mean, a clean file system, and what umoci makes."""

import time
from pathlib import Path

import pytest

from tests.e2e.layers.archive import Member, pack
from tests.e2e.layers.model import Model
from tests.e2e.layers.peers import needs_umoci, umoci
from tests.e2e.layers.torture import TORTURE
from tests.e2e.layers.unpacking import applied
from tests.e2e.trees import Tree, assert_clean, assert_same, mounted, needs_loop, tree


def meant(layers: list[list[Member]]) -> Tree:
    """The tree that layers mean."""
    model = Model()
    for layer in layers:
        model.apply(layer)
    return model.tree()


@needs_loop
@pytest.mark.parametrize("name", TORTURE)
def test_trees_are_what_the_layers_mean(tmp_path: Path, name: str) -> None:
    image = tmp_path / "raw.img"
    for number, layer in enumerate(TORTURE[name], 1):
        applied(image, pack(layer), tmp_path)
        assert_clean(image)
        with mounted(image) as root:
            assert_same(tree(root), meant(TORTURE[name][:number]))


# What umoci cannot unpack, and what it makes wrong, each with the reason.
UMOCI_REFUSES = {
    "itself": "removes the file before it links to it",
    "sparse-gnu": "does not know such members",
}
UMOCI_WRONG = {
    "whiteouts-over-own-links": ["other/b", "other/h"],  # hides what the layer's own link leads to
    "attributes": ["odd"],  # an empty attribute is lost
    "times": ["neg--1099511627776", "gnu-15032385536", "pax-1099511627776", "pax-15032385535"],  # wrap around
}


@needs_umoci
@pytest.mark.parametrize("name", sorted(TORTURE.keys() - UMOCI_REFUSES))
def test_umoci_unpacks_the_same(tmp_path: Path, name: str) -> None:
    now = time.time_ns()
    found = tree(umoci(tmp_path, [pack(layer) for layer in TORTURE[name]]))
    wanted = meant(TORTURE[name])
    for path, row in found.items():
        # Whatever is not said, umoci asks the clock for.
        if path in wanted and row["type"] == "dir" and row["mtime"] >= now - 10**9:
            wanted[path]["mtime"] = row["mtime"]
    for path in UMOCI_WRONG.get(name, []):
        assert found.pop(path, None) != wanted.pop(path), "right by now"
    assert_same(found, wanted)
