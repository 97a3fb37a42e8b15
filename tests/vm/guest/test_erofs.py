"""EROFS that we make of layers: a real kernel shows the tree that they mean, file by file."""

import subprocess
from pathlib import Path

import pytest

from tests.e2e.test_apply import meant
from tests.e2e.test_erofs import layered
from tests.e2e.trees import assert_same, mounted, tree


@pytest.mark.parametrize("names", [["lower", "upper", "upper2"], ["xattr", "many", "basic"]])
def test_three_layers_are_one_tree(tmp_path: Path, names: list[str]) -> None:
    subprocess.run(["modprobe", "-a", "loop", "erofs"], check=True)
    image = layered(tmp_path, names)
    wanted = meant("upper2")
    if names[0] != "lower":
        wanted = {path: row for name in names for path, row in meant(name).items()}
    with mounted(image, "erofs") as root:
        assert_same(tree(root), wanted)
