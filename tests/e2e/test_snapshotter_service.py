"""What containerd relies on of any snapshotter, by the service itself: snapshots without devices."""

import os
import socket
import sqlite3
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from obd.snapshotter.config import SnapshotterConfig
from obd.snapshotter.process import Running
from obd.snapshotter.snapshots import Snapshots
from obd.snapshotter.wire import ACTIVE, COMMITTED, VIEW
from tests.e2e.snapshotter import Client, Refused, mounted, tree

TARGET = "containerd.io/snapshot.ref"


@pytest.fixture
def config(tmp_path: Path) -> SnapshotterConfig:
    return SnapshotterConfig(root=str(tmp_path / "root"), address=str(tmp_path / "socket"), containerd="")


@pytest.fixture
def client(config: SnapshotterConfig) -> Iterator[Client]:
    with serving(config) as found:
        yield found


class serving:
    """A snapshotter of this process, and a client of it."""

    def __init__(self, config: SnapshotterConfig) -> None:
        self.running = Running(config)
        self.client = Client(config.address)

    def __enter__(self) -> Client:
        self.running.__enter__()
        return self.client

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.running.__exit__()


def layer(client: Client, directory: Path, name: str, parent: str, act: Callable[[Path], Any]) -> str:
    """A committed snapshot of what `act` did to its parent; its name."""
    with mounted(client.prepare(f"{name}-active", parent), directory) as shown:
        act(shown)
    client.commit(name, f"{name}-active")
    return name


def touch(file: str, root: Path) -> None:
    (root / file).touch()


def refused(code: str, act: Callable[..., Any], *words: Any, **more: Any) -> str:
    """Holds a call to its failure; what was said of it."""
    with pytest.raises(Refused) as caught:
        act(*words, **more)
    assert caught.value.code == code, caught.value
    return caught.value.what


def test_a_layer_upon_a_layer(client: Client, tmp_path: Path) -> None:
    def first(root: Path) -> None:
        (root / "a").write_text("1")
        (root / "d").mkdir()
        (root / "d" / "b").write_text("2")

    def second(root: Path) -> None:
        (root / "a").write_text("one")
        (root / "d" / "c").write_text("3")

    at = tmp_path / "at"
    layer(client, at, "first", "", first)
    layer(client, at, "second", "first", second)
    with mounted(client.view("look", "second"), at) as root:
        assert tree(root) == {"a": "one", "d/": "", "d/b": "2", "d/c": "3"}
    with mounted(client.view("look again", "first"), at) as root:
        assert tree(root) == {"a": "1", "d/": "", "d/b": "2"}


def test_what_is_deleted_is_gone_above_only(client: Client, tmp_path: Path) -> None:
    at = tmp_path / "at"
    layer(client, at, "first", "", lambda root: [(root / name).write_text(name) for name in "abc"])
    layer(client, at, "second", "first", lambda root: (root / "b").unlink())
    layer(client, at, "third", "second", lambda root: (root / "b").write_text("again"))
    for name, wanted in (("first", "b"), ("second", None), ("third", "again")):
        with mounted(client.view(f"look {name}", name), at) as root:
            assert tree(root).get("b") == wanted


def test_what_is_moved_is_where_it_was_moved_to(client: Client, tmp_path: Path) -> None:
    at = tmp_path / "at"
    layer(client, at, "first", "", lambda root: (root / "a").write_text("1"))
    layer(client, at, "second", "first", lambda root: (root / "a").rename(root / "b"))
    with mounted(client.view("look", "second"), at) as root:
        assert tree(root) == {"b": "1"}


def test_owner_and_mode_of_the_root_are_inherited(client: Client, tmp_path: Path) -> None:
    at = tmp_path / "at"

    def change(root: Path) -> None:
        os.chown(root, 4, 5)

    layer(client, at, "first", "", change)
    with mounted(client.prepare("second", "first"), at) as root:
        found = root.stat()
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (4, 5, 0o755)


def test_a_change_of_owner_of_a_file_below_is_kept(client: Client, tmp_path: Path) -> None:
    at = tmp_path / "at"
    layer(client, at, "first", "", lambda root: (root / "a").write_text("1"))
    layer(client, at, "second", "first", lambda root: os.chown(root / "a", 7, 8))
    with mounted(client.view("look", "second"), at) as root:
        assert ((root / "a").stat().st_uid, (root / "a").read_text()) == (7, "1")


def test_a_view_cannot_be_written_to(client: Client, tmp_path: Path) -> None:
    at = tmp_path / "at"
    layer(client, at, "first", "", lambda root: (root / "a").write_text("1"))
    layer(client, at, "second", "first", lambda root: (root / "b").write_text("2"))
    for name in ("first", "second"):
        mounts = client.view(f"look {name}", name)
        with mounted(mounts, at) as root, pytest.raises(OSError, match="Read-only"):
            (root / "c").write_text("3")


def test_a_view_of_nothing_is_empty(client: Client, tmp_path: Path) -> None:
    with mounted(client.view("look"), tmp_path / "at") as root:
        assert tree(root) == {}


def test_many_layers(client: Client, tmp_path: Path) -> None:
    at, parent = tmp_path / "at", ""
    for number in range(20):
        file = str(number)
        parent = layer(client, at, f"layer {file}", parent, partial(touch, file))
    with mounted(client.view("look", parent), at) as root:
        assert len(tree(root)) == 20


def test_an_active_snapshot_is_told_of(client: Client) -> None:
    client.prepare("key", **{"containerd.io/a": "b"})
    found = client.stat("key")
    assert (found.name, found.parent, found.kind) == ("key", "", ACTIVE)
    assert dict(found.labels) == {"containerd.io/a": "b"}
    assert found.created_at.ToNanoseconds() == found.updated_at.ToNanoseconds() > 0


def test_a_committed_snapshot_has_the_labels_of_its_commit(client: Client) -> None:
    client.prepare("key", **{"before": "1"})
    client.commit("name", "key", {"after": "2"})
    found = client.stat("name")
    assert (found.name, found.kind, dict(found.labels)) == ("name", COMMITTED, {"after": "2"})
    refused("NOT_FOUND", client.stat, "key")


def test_a_view_is_told_of(client: Client) -> None:
    client.prepare("key")
    client.commit("name", "key")
    client.view("look", "name")
    assert (client.stat("look").kind, client.stat("look").parent) == (VIEW, "name")


@pytest.mark.parametrize("name", ["prepare", "view"])
def test_a_parent_must_be_there_and_committed(client: Client, name: str) -> None:
    act = getattr(client, name)
    assert "nothing" in refused("NOT_FOUND", act, "key", "nothing")
    client.prepare("active")
    refused("INVALID_ARGUMENT", act, "key", "active")
    client.prepare("key for the parent")
    client.commit("parent", "key for the parent")
    client.view("look", "parent")
    refused("INVALID_ARGUMENT", act, "key", "look")
    refused("NOT_FOUND", client.stat, "key")


@pytest.mark.parametrize("name", ["prepare", "view"])
def test_a_key_is_used_once(client: Client, name: str) -> None:
    getattr(client, name)("key")
    refused("ALREADY_EXISTS", getattr(client, name), "key")
    client.prepare("other")
    client.commit("committed", "other")
    refused("ALREADY_EXISTS", getattr(client, name), "committed")
    assert client.mounts("key")


def test_a_key_can_be_used_again_after_its_removal(client: Client, tmp_path: Path) -> None:
    with mounted(client.prepare("key"), tmp_path / "at") as root:
        (root / "a").write_text("1")
    client.remove("key")
    with mounted(client.prepare("key"), tmp_path / "at") as root:
        assert tree(root) == {}


@pytest.mark.parametrize("name", ["prepare", "view"])
def test_a_snapshot_has_a_key(client: Client, name: str) -> None:
    refused("INVALID_ARGUMENT", getattr(client, name), "")


def test_a_commit_is_of_what_is_active(client: Client) -> None:
    refused("NOT_FOUND", client.commit, "name", "nothing")
    client.prepare("key")
    client.commit("name", "key")
    refused("FAILED_PRECONDITION", client.commit, "other", "name")
    client.view("look", "name")
    refused("FAILED_PRECONDITION", client.commit, "other", "look")


def test_a_commit_has_a_name_that_is_new(client: Client) -> None:
    client.prepare("first")
    client.commit("name", "first")
    client.prepare("second")
    refused("ALREADY_EXISTS", client.commit, "name", "second")
    refused("INVALID_ARGUMENT", client.commit, "", "second")
    assert client.stat("second").kind == ACTIVE


def test_mounts_stay_the_same(client: Client) -> None:
    client.prepare("key for the parent")
    client.commit("parent", "key for the parent")
    assert client.prepare("key", "parent") == client.mounts("key")
    assert client.view("look", "parent") == client.mounts("look")


def test_only_what_is_active_has_mounts(client: Client) -> None:
    refused("NOT_FOUND", client.mounts, "nothing")
    client.prepare("key")
    client.commit("name", "key")
    refused("FAILED_PRECONDITION", client.mounts, "name")


def test_a_parent_is_not_removed(client: Client) -> None:
    client.prepare("key")
    client.commit("name", "key")
    client.prepare("child", "name")
    assert "child" in refused("FAILED_PRECONDITION", client.remove, "name")
    client.remove("child")
    client.remove("name")
    refused("NOT_FOUND", client.remove, "name")


def test_what_is_between_two_is_not_removed(client: Client) -> None:
    parent = ""
    for name in ("bottom", "middle", "top"):
        client.prepare("key", parent)
        client.commit(name, "key")
        parent = name
    refused("FAILED_PRECONDITION", client.remove, "middle")
    refused("FAILED_PRECONDITION", client.remove, "bottom")
    for name in ("top", "middle", "bottom"):
        client.remove(name)
    assert client.names() == []


def test_labels_are_replaced_or_changed_one_by_one(client: Client) -> None:
    client.prepare("key", **{"a": "1", "b": "2", "with.dots/x": "3"})
    assert dict(client.update("key", {"a": "one"}, "labels.a").labels) == {
        "a": "one",
        "b": "2",
        "with.dots/x": "3",
    }
    assert dict(client.update("key", {}, "labels.with.dots/x").labels) == {"a": "one", "b": "2"}
    assert dict(client.update("key", {"c": "3"}, "labels").labels) == {"c": "3"}
    assert dict(client.update("key", {"d": "4"}).labels) == {"d": "4"}
    found = client.stat("key")
    assert dict(found.labels) == {"d": "4"}
    assert found.updated_at.ToNanoseconds() > found.created_at.ToNanoseconds()


@pytest.mark.parametrize("field", ["name", "parent", "kind", "created_at", "labels.", "nonsense"])
def test_nothing_but_labels_is_changed(client: Client, field: str) -> None:
    client.prepare("key", **{"a": "1"})
    refused("INVALID_ARGUMENT", client.update, "key", {"a": "2"}, "labels.a", field)
    assert dict(client.stat("key").labels) == {"a": "1"}
    refused("NOT_FOUND", client.update, "nothing", {}, "labels")


def test_filters_select(client: Client) -> None:
    client.prepare("base key")
    client.commit("base", "base key", {"os": "linux", "containerd.io/gc.root": "yes"})
    client.prepare("run", "base", **{"os": "plan9"})
    client.view("look", "base")
    cases = {
        (): ["base", "run", "look"],
        ("kind==active",): ["run"],
        ("kind==committed",): ["base"],
        ("kind==view",): ["look"],
        ("name==base",): ["base"],
        ("parent==base",): ["run", "look"],
        ("parent==base,kind==view",): ["look"],
        ("name==base", "kind==view"): ["base", "look"],
        ("labels.os",): ["base", "run"],
        ("labels.os!=linux",): ["run", "look"],
        ("labels.os~=^l",): ["base"],
        ('labels."containerd.io/gc.root"==yes',): ["base"],
        ('name~="^(run|look)$"',): ["run", "look"],
        ("nonsense==1",): [],
    }
    assert {filters: client.names(*filters) for filters in cases} == cases


@pytest.mark.parametrize("wrong", ["==", "name=", "name==a,", 'name=="a', "name~=(", "labels.", "a b"])
def test_a_wrong_filter_is_refused(client: Client, wrong: str) -> None:
    refused("INVALID_ARGUMENT", client.names, wrong)


def test_a_long_list_comes_whole(client: Client) -> None:
    for number in range(230):
        client.prepare(f"key {number}")
    assert client.names() == [f"key {number}" for number in range(230)]


def test_usage_counts_what_is_own(client: Client, tmp_path: Path) -> None:
    at = tmp_path / "at"
    empty, _ = client.usage(client.stat(_prepared(client, "empty")).name)
    layer(client, at, "first", "", lambda root: (root / "a").write_bytes(os.urandom(1 << 20)))
    size, inodes = client.usage("first")
    assert 1 << 20 <= size - empty <= (1 << 20) + 65536
    assert inodes == 2
    client.prepare("second", "first")
    assert client.usage("second") == (empty, 1)
    refused("NOT_FOUND", client.usage, "nothing")


def _prepared(client: Client, key: str) -> str:
    client.prepare(key)
    return key


def test_a_hard_link_is_counted_once(client: Client, tmp_path: Path) -> None:
    with mounted(client.prepare("key"), tmp_path / "at") as root:
        (root / "a").write_bytes(bytes(100000))
        before = client.usage("key")
        os.link(root / "a", root / "b")
        assert client.usage("key") == before


def test_all_survives_the_process(config: SnapshotterConfig, tmp_path: Path) -> None:
    with serving(config) as client:
        layer(client, tmp_path / "at", "base", "", lambda root: (root / "a").write_text("1"))
        client.prepare("run", "base", **{"a": "b"})
        before = [client.stat(name) for name in client.names()]
    with serving(config) as client:
        assert [client.stat(name) for name in client.names()] == before
        with mounted(client.mounts("run"), tmp_path / "at") as root:
            assert tree(root) == {"a": "1"}


def test_ids_are_not_used_again(config: SnapshotterConfig) -> None:
    with serving(config) as client:
        client.prepare("key")
        client.remove("key")
    with serving(config) as client:
        (mount,) = client.prepare("key")
    assert mount.source.endswith("/2/fs")


def test_one_process_serves_a_root(config: SnapshotterConfig, client: Client) -> None:
    with pytest.raises(OSError, match="another overlaybd-snapshotter"):
        Running(config)


@pytest.mark.parametrize("heard", [True, False], ids=["that is served", "that nobody serves"])
def test_a_root_of_upstreams_is_left_alone(config: SnapshotterConfig, tmp_path: Path, heard: bool) -> None:
    kept = tmp_path / "root" / "snapshots" / "12" / "fs" / "x"
    kept.parent.mkdir(parents=True)
    kept.touch()
    (tmp_path / "root" / "metadata.db").touch()
    with socket.socket(socket.AF_UNIX) as upstream:
        if heard:
            upstream.bind(config.address)
            upstream.listen()
        with pytest.raises(OSError, match="upstream's snapshotter"), serving(config):
            pass
    assert kept.exists()


@pytest.mark.parametrize("left", ["nothing", "an empty file", "what was not yet in its log"])
def test_snapshots_are_left_alone_when_their_records_are_lost(
    config: SnapshotterConfig, tmp_path: Path, left: str
) -> None:
    root = tmp_path / "root"
    with serving(config) as client:
        client.prepare("key")
    for file in root.glob("snapshots.db*"):
        file.unlink()
    if left == "an empty file":
        (root / "snapshots.db").touch()
    elif left != "nothing":
        with closing(sqlite3.connect(root / "snapshots.db")) as database:
            database.execute("PRAGMA journal_mode = WAL")
    for _ in range(2):
        with pytest.raises(OSError, match="put it back"):
            Snapshots(config)
    assert (root / "snapshots" / "1" / "fs").exists()


def test_nothing_is_cleaned_up_where_somebody_else_listens(config: SnapshotterConfig, tmp_path: Path) -> None:
    with serving(config):
        pass
    nobodys = tmp_path / "root" / "snapshots" / "77"
    nobodys.mkdir()
    Path(config.address).unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(config.address)
        other.listen()
        with pytest.raises(OSError, match="somebody listens there"), serving(config):
            pass
    assert nobodys.exists()


def test_what_is_nobodys_is_cleaned_up(config: SnapshotterConfig, tmp_path: Path) -> None:
    with serving(config) as client:
        client.prepare("key")
    snapshots = tmp_path / "root" / "snapshots"
    for name in ("77", "new-78", "old-79-aa"):
        (snapshots / name / "fs").mkdir(parents=True)
    with serving(config) as client:
        assert sorted(path.name for path in snapshots.iterdir()) == ["1"]
        assert client.names() == ["key"]


def test_directories_go_at_cleanup_if_wanted(tmp_path: Path) -> None:
    config = SnapshotterConfig(
        root=str(tmp_path / "root"), address=str(tmp_path / "socket"), containerd="", async_remove=True
    )
    with serving(config) as client:
        client.prepare("key")
        client.remove("key")
        snapshots = tmp_path / "root" / "snapshots"
        assert len(list(snapshots.iterdir())) == 1
        client.call("Cleanup")
        assert not list(snapshots.iterdir())


def test_of_many_at_once_one_is_first(client: Client) -> None:
    def attempt(number: int) -> str:
        try:
            client.prepare("key")
            return "made"
        except Refused as error:
            return error.code

    with ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(attempt, range(16)))
    assert sorted(set(outcomes)) == ["ALREADY_EXISTS", "made"]
    assert outcomes.count("made") == 1


def test_many_at_once_are_all_made(client: Client) -> None:
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: client.prepare(f"key {number}"), range(100)))
        assert len(client.names()) == 100
        list(pool.map(lambda number: client.remove(f"key {number}"), range(100)))
    assert client.names() == []


def test_a_layer_without_devices_is_pulled_as_usual(client: Client) -> None:
    (mount,) = client.prepare("extract", **{TARGET: "sha256:abc"})
    assert (mount.type, list(mount.options)) == ("bind", ["rw", "rbind"])
    client.commit("sha256:abc", "extract", {TARGET: "sha256:abc"})
    refused("ALREADY_EXISTS", client.commit, "sha256:abc", _prepared(client, "extract again"))
