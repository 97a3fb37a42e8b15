"""Snapshotter, containerd and servers of devices killed at random moments: nothing is lost or left behind.

`make rough` has ROUGH_ROUNDS rounds of a minute; `make test` has a short one.
"""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.containerd import CONTAINERS, build, node_of
from tests.e2e.rough import APP, Story
from tests.e2e.servers import Registry
from tests.rigs.attached import lack_of_guards

ROUNDS = int(os.environ.get("ROUGH_ROUNDS", "0"))
FIRST = int(os.environ.get("ROUGH_SEED", "1"))
LENGTH_S = float(os.environ.get("ROUGH_LENGTH_S", "60" if ROUNDS else "8"))

pytestmark = [
    CONTAINERS,
    pytest.mark.skipif(bool(lack := lack_of_guards()), reason=f"no such node: {lack}"),
    pytest.mark.timeout(400),
]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    directory = tmp_path_factory.mktemp("registry")
    with Registry(directory) as registry:
        build(directory, registry)
        yield registry


@pytest.mark.parametrize("seed", range(FIRST, FIRST + (ROUNDS or 1)))
def test_a_rough_time(registry: Registry, tmp_path: Path, seed: int) -> None:
    began = time.monotonic()
    with node_of(registry, tmp_path) as node:
        node.pull(APP)
        node.run(APP, "first", "/bin/true")
        (point,) = node.mounts()
        story = Story(node, seed, Path(point, "big").read_bytes())
        story.tell(LENGTH_S)
    words = [
        f"{what} {dict(sorted(count.items()))}"
        for what, count in (("killed", story.kills), ("done", story.done), ("failed", story.failed))
    ]
    print(f"seed {seed}: {time.monotonic() - began:.0f} s; {'; '.join(words)}", file=sys.stderr)
