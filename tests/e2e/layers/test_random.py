"""Random layers on top of one another, compared with a plain model and the kernel's overlayfs.

Every run of `make test` tries the same cases; `LAYER_CASES=1000 LAYER_SEED=2` tries more, and others.
"""

import gzip
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from tests.e2e.layers import archive
from tests.e2e.layers.archive import DIR, FIFO, FILE, LINK, NS, SYMLINK, Member, pack
from tests.e2e.layers.model import Model, Refused, clean
from tests.e2e.layers.peers import Overlay
from tests.e2e.layers.unpacking import applied
from tests.e2e.trees import Tree, assert_clean, assert_same, mounted, needs_loop, tree

CASES = int(os.environ.get("LAYER_CASES", "8"))
SEED = int(os.environ.get("LAYER_SEED", "1"))
NAMES = ["a", "b", "c" * 120]
PACKINGS: list[Callable[[bytes], bytes]] = [bytes, gzip.compress, zstandard.ZstdCompressor(1).compress]
ATTRIBUTES = ["user.a", "user.b", "trusted.c"]


class Layers:
    """Makes layers that make sense on top of one another."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.model = Model()

    def path(self) -> str:
        return "/".join(self.rng.choices(NAMES, k=self.rng.randint(1, 3)))

    def next(self) -> list[Member]:
        """One more layer, without what cannot be, and with directories before what is in them."""
        layer: list[Member] = []
        before = self.model
        for _ in range(self.rng.randint(1, 25)):
            member = self.member()
            for wanted in [*self.parents(member, layer), member]:
                trial = Model.after(before, [*layer, wanted])
                if trial is None:
                    break
                layer.append(wanted)
                self.model = trial
        return layer

    def parents(self, member: Member, layer: list[Member]) -> list[Member]:
        """Entries for the directories that a member is in, as all that make layers write them."""
        parts = member.name.split(b"/")[:-1]
        paths = [b"/".join(parts[: n + 1]) for n in range(len(parts))]
        known = {other.name for other in layer if other.kind == DIR}
        return [self.describe(path, DIR) for path in paths if path not in known]

    def describe(self, path: str | bytes, kind: str, **more: object) -> Member:
        rng = self.rng
        names = rng.sample(ATTRIBUTES, rng.choice([0, 0, 0, 1, 2])) if kind in (FILE, DIR) else []
        return Member(
            path,
            kind,
            mode=rng.randrange(0o10000),
            uid=rng.choice([0, 1000, 70000, 3 << 30]),
            gid=rng.choice([0, 65536]),
            mtime=rng.randrange(-(2**31) * NS, 2**33 * NS),
            xattrs={name: rng.randbytes(rng.choice([0, 7, 300])) for name in names},
            **more,  # type: ignore[arg-type]
        )

    def member(self) -> Member:
        rng, path = self.rng, self.path()
        above = path.rpartition("/")[0]
        match rng.choices("fdslphow", weights=[6, 3, 1, 1, 1, 4, 1, 4])[0]:
            case "f":
                length = rng.choice([0, 1, 3000, 4096, 70_000, 1_200_000])
                return self.describe(path, FILE, content=rng.randbytes(length))
            case "d":
                return self.describe(path, DIR)
            # A name that is never a parent: overlayfs and layers differ in what a link on the way means.
            case "s":
                return self.describe(path + "-s", SYMLINK, target="x" * rng.choice([1, 59, 60, 200]))
            case "l":
                return self.describe(path, archive.CHAR, device=(rng.randrange(4096), rng.randrange(1 << 20)))
            case "p":
                return self.describe(path, FIFO)
            case "o":
                return Member(f"{above}/.wh..wh..opq" if above else ".wh..wh..opq")
            case "w":
                name = path.rpartition("/")[2]
                return Member(f"{above}/.wh.{name}" if above else f".wh.{name}")
        # A link says of the file what the file says of itself, as all that make layers have it.
        target = self.path()
        node = self.model.find(target.encode())
        if node is None or node.is_dir:
            return self.describe(path, FILE)
        row = node.row
        xattrs = {name: value.encode("latin1") for name, value in row["xattrs"].items()}
        of = {"mode": int(row["mode"], 8), "uid": row["uid"], "gid": row["gid"], "mtime": row["mtime"]}
        return Member(path, LINK, target=target, xattrs=xattrs, **of)


def for_kernel(tree: Tree) -> Tree:
    """Without what overlayfs does not keep: links between layers, times of directories that changed."""
    found = {
        path: {k: v for k, v in row.items() if k not in ("nlink", "same as")} for path, row in tree.items()
    }
    for row in found.values():
        if row["type"] == "dir":
            del row["mtime"]
    return found


def in_any_order(layers: list[list[Member]], wanted: Tree) -> bool:
    """Whether layers mean the same if their whiteouts come first, as they must for overlayfs."""
    model = Model()
    try:
        for layer in layers:
            hidden = [member for member in layer if clean(member.name)[-1].startswith(b".wh.")]
            model.apply([*hidden, *(member for member in layer if member not in hidden)])
    except Refused:
        return False
    return for_kernel(model.tree()) == for_kernel(wanted)


@needs_loop
@pytest.mark.timeout(60 + 10 * CASES)
def test_random_layers(tmp_path: Path) -> None:
    seen_by_kernel = 0
    for case in range(CASES):
        home = tmp_path / str(case)
        home.mkdir()
        rng = random.Random(SEED * 1_000_000 + case)
        makes, layers, image = Layers(rng), [], home / "raw.img"
        for _ in range(rng.randint(2, 4)):
            layers.append(makes.next())
            applied(image, rng.choice(PACKINGS)(pack(layers[-1])), home)
            assert_clean(image)
        wanted = makes.model.tree()
        with mounted(image) as root:
            assert_same(tree(root), wanted)
        if in_any_order(layers, wanted):
            seen_by_kernel += 1
            overlay = Overlay(home / "overlay")
            for layer in layers:
                overlay.apply(layer)
            with overlay.view() as root:
                assert_same(for_kernel(tree(root)), for_kernel(wanted))
        image.unlink()
    assert seen_by_kernel >= CASES // 3
    print(f"{CASES} cases, {seen_by_kernel} of them by overlayfs too")
