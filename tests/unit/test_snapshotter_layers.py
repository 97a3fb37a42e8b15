"""Layers that are pulled: which stay in their registry, and under what name."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from obd.oci.digest import chain_ids
from obd.snapshotter import labels as L
from obd.snapshotter.config import SnapshotterConfig
from obd.snapshotter.errors import ALREADY_EXISTS, SnapshotError
from obd.snapshotter.snapshots import Caller, Snapshots
from obd.snapshotter.wire import COMMITTED

A, B, C = (f"sha256:{letter * 64}" for letter in "abc")


@pytest.fixture
def snapshots(tmp_path: Path) -> Iterator[Snapshots]:
    made = Snapshots(SnapshotterConfig(root=str(tmp_path / "root"), address="", containerd=""))
    yield made
    made.close()


def stays_remote(snapshots: Snapshots, digest: str, target: str, parent: str = "", **others: str) -> bool:
    """Whether a layer that is pulled as `target` need not be fetched."""
    labels = {
        L.TARGET: target,
        L.BLOB_DIGEST: digest,
        L.BLOB_SIZE: "4096",
        L.IMAGE_REFERENCE: "registry.example/app:x",
        **others,
    }
    try:
        snapshots.prepare(f"extract-{os.urandom(4).hex()} {target}", parent, labels, Caller())
    except SnapshotError as error:
        assert error.code == ALREADY_EXISTS
        return True
    return False


def test_layers_stay_remote_under_the_names_that_follow_from_them(snapshots: Snapshots) -> None:
    first, second, third = chain_ids([A, B, C])
    assert stays_remote(snapshots, A, first)
    assert stays_remote(snapshots, B, second, first)
    # Containerd puts its own words before the name of what it committed itself.
    fetched = {L.TARGET: third, L.BLOB_DIGEST: C, L.DOWNLOAD: "download"}
    snapshots.prepare("extract", second, fetched, Caller())
    snapshots.images.write(snapshots.stat("extract").id, None)
    snapshots.commit("extract", f"default/7/{third}", {}, Caller())
    assert stays_remote(snapshots, B, chain_ids([third, B])[-1], f"default/7/{third}")


def test_a_layer_is_not_taken_for_another(snapshots: Snapshots) -> None:
    assert not stays_remote(snapshots, A, B)
    assert stays_remote(snapshots, A, A)
    assert not stays_remote(snapshots, B, B, A), "without its parent"
    assert not stays_remote(snapshots, B, chain_ids([A, C])[-1], A)
    assert {each.name for each in snapshots.select([]) if each.kind == COMMITTED} == {A}


def test_who_pulls_says_where_a_layer_is_read_from_and_not_the_image(snapshots: Snapshots) -> None:
    kubernetes = {"containerd.io/snapshot/cri.image-ref": "registry.example/app:x"}
    assert stays_remote(snapshots, A, A, **kubernetes), "both say the same"
    kubernetes = {"containerd.io/snapshot/cri.image-ref": "elsewhere.example/app:x"}
    assert not stays_remote(snapshots, B, B, **kubernetes)


def test_names_of_upstreams_convertor_are_no_chain_ids(snapshots: Snapshots) -> None:
    assert stays_remote(snapshots, A, f"overlaybd-conv-{B}")
