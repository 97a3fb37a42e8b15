"""What a layer stores: the same bytes however it comes, and nothing that is gone again."""

import gzip
import hashlib
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

import obdcore
from tests.e2e.commands import ok
from tests.e2e.layers.archive import Member, pack
from tests.e2e.layers.test_random import Layers
from tests.e2e.layers.torture import TORTURE, d, f

MIB = 1 << 20
# Applies what comes at stdin, in another process.
APPLY = """
import sys, obdcore
image = obdcore.Image([], (sys.argv[1], sys.argv[2]))
obdcore.ext4_apply(image, 0, mkfs=True)
image.close()
"""


def committed(home: Path, feed: Callable[[int], None]) -> Path:
    """The layer of what `feed` writes into a pipe, applied to a new file system by a new process."""
    home.mkdir()
    pair = [str(home / "data"), str(home / "index")]
    ok("overlaybd-create", *pair, "1")
    # Another hash seed, so that nothing depends on the order of a set.
    environment = {**os.environ, "PYTHONHASHSEED": str(len(home.name))}
    with subprocess.Popen(
        [sys.executable, "-c", APPLY, *pair], stdin=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdin is not None
        feed(process.stdin.fileno())
        process.stdin.close()
        assert process.wait(60) == 0
    ok("overlaybd-commit", *pair, str(home / "layer"), "-z")
    return home / "layer"


def in_pieces(data: bytes, rng: random.Random) -> Callable[[int], None]:
    """Writes data in pieces of any size."""

    def feed(fd: int) -> None:
        at = 0
        while at < len(data):
            at += os.write(fd, data[at : at + rng.choice([1, 511, 512, 4096, 65_536, MIB])])

    return feed


def test_the_same_bytes_each_time(tmp_path: Path) -> None:
    rng = random.Random(3)
    members = [*Layers(rng).next(), *TORTURE["sizes"][0], *TORTURE["wide"][0], *TORTURE["attributes"][0]]
    layer = pack(members)
    forms = {
        "plain": layer,
        "gzip": gzip.compress(layer, 1),
        "members": gzip.compress(layer[:70_000], 9) + gzip.compress(layer[70_000:]),
        "zstd": zstandard.ZstdCompressor(3).compress(layer),
        "frames": zstandard.compress(layer[:9]) + zstandard.compress(layer[9:]),
    }
    sums = set()
    for name, form in forms.items():
        result = committed(tmp_path / name, in_pieces(form, rng))
        sums.add(hashlib.sha256(result.read_bytes()).hexdigest())
    assert len(sums) == 1


@pytest.mark.parametrize(
    "members",
    [
        [f("big", random.Random(1).randbytes(6 * MIB)), f("big", b"small")],
        [
            d("d"),
            *(f(f"d/{n}", random.Random(n).randbytes(99_000)) for n in range(60)),
            f("d", b"no directory"),
        ],
        [*(f(f"d/{n:0>200}", b"x") for n in range(1500)), Member("d", "6")],
    ],
)
def test_what_is_gone_again_is_not_stored(tmp_path: Path, members: list[Member]) -> None:
    layer = pack(members)
    result = committed(tmp_path / "layer", in_pieces(layer, random.Random(2)))
    image = obdcore.Image([str(result)])
    stored = sum(length for length, kind in image.extents(0, image.size) if kind == "data")
    assert stored < MIB // 4
