"""The snapshotter under Debian's containerd and runc: pulled lazily, run, written to, killed, removed."""

import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import obd.attach
from obd.containerd.client import Containerd
from obd.errors import ObdError
from obd.oci.digest import chain_ids
from obd.snapshotter import labels as L
from tests.e2e.commands import end, kill_with_guard, run
from tests.e2e.containerd import CONTAINERS, Node, build, node_of
from tests.e2e.servers import Registry
from tests.e2e.snapshotter import Client, Refused, mounted, tree
from tests.rigs.attached import lack_of_guards

pytestmark = CONTAINERS

APP = "app:v1-obd"
PLAIN = "app:v1"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    directory = tmp_path_factory.mktemp("registry")
    with Registry(directory) as registry:
        build(directory, registry)
        yield registry


@pytest.fixture
def node(registry: Registry, tmp_path: Path) -> Iterator[Node]:
    with node_of(registry, tmp_path) as node:
        yield node


@pytest.fixture
def client(node: Node) -> Iterator[Client]:
    client = Client(str(node.directory / "snapshotter.sock"))
    yield client
    client.close()


def top(client: Client) -> str:
    """The topmost layer that was pulled."""
    (base,) = client.names("kind==committed,parent==")
    found = [name for name in client.names("kind==committed") if name != base]
    return found[-1] if found else base


def test_a_container_starts_without_its_layers(node: Node) -> None:
    assert node.pull(APP) == {"lazy": 2, "fetched": 0, "present": 0}
    assert node.run(APP, "first", "/bin/cat", "/etc/name", "/etc/more") == "two\nmore\n"
    assert 0 < in_cache(node) < 8 << 20, "the image has more than 16 MiB"
    listed = node.ok("content", "ls", "-q").split()
    assert len(listed) == 2, "manifest and configuration"
    assert node.pull(APP) == {"lazy": 0, "fetched": 0, "present": 2}


def test_containers_share_a_device_and_nothing_else(node: Node) -> None:
    node.pull(APP)
    keep = ("--detach",)
    for name in ("one", "two"):
        node.run(APP, name, "/bin/sh", "-c", f"echo {name} > /etc/name; sleep 1000", options=keep)
    assert len(node.attached()) == 1
    for name in ("one", "two"):
        said = ""
        while said != f"{name}\n":
            said = node.exec(name, "look", "/bin/cat", "/etc/name")
    for name in ("one", "two"):
        node.ok("task", "kill", "--signal", "KILL", name)
        node.ok("task", "delete", "--force", name)
        node.ok("container", "delete", name)
    assert node.run(APP, "three", "/bin/cat", "/etc/name") == "two\n"


def test_ordinary_images_run_beside_others(node: Node) -> None:
    node.pull(APP)
    node.ok("images", "pull", "--plain-http", "--snapshotter", "overlaybd", node.image(PLAIN))
    assert node.run(PLAIN, "plain", "/bin/cat", "/etc/name") == "two\n"
    assert node.run(APP, "lazy", "/bin/cat", "/etc/name") == "two\n"
    words = ["--address", str(node.socket), "--http", "--namespace", "other", node.image(PLAIN)]
    assert "2 were fetched" in run("obd", "rpull", *words).out


def test_nothing_is_left_of_what_is_removed(node: Node) -> None:
    node.pull(APP)
    node.run(APP, "first", "/bin/true")
    assert node.attached()
    assert node.mounts()
    node.ok("images", "rm", "--sync", node.image(APP))
    node.until_nothing_is_left()


def test_layers_in_use_are_not_removed(node: Node, client: Client) -> None:
    node.pull(APP)
    name = top(client)
    with mounted(client.view("look", name), node.directory / "at") as root:
        with pytest.raises(Refused, match="parent of look"):
            client.remove(name)
        with pytest.raises(Refused, match=r"in use|busy") as caught:
            node_devices_release(client, "look", name)
        assert caught.value.code == "FAILED_PRECONDITION"
        assert (root / "etc/name").read_text() == "two\n"


def node_devices_release(client: Client, view: str, name: str) -> None:
    client.remove(view)  # the record goes; what is mounted stays
    client.remove(name)


def test_what_runs_survives_all_who_serve_it(node: Node) -> None:
    node.pull(APP)
    wanted = node.run(APP, "first", "/bin/md5sum", "/big")
    node.run(APP, "long", "/bin/sleep", "1000", options=("--detach",))
    node.end("snapshotter", signal.SIGKILL)
    assert node.exec("long", "a", "/bin/md5sum", "/big") == wanted
    node.start("snapshotter")
    assert len(node.attached()) == 1
    node.end("containerd", signal.SIGKILL)
    node.start("containerd")
    assert node.exec("long", "b", "/bin/md5sum", "/big") == wanted
    assert node.run(APP, "second", "/bin/cat", "/etc/name") == "two\n"
    if not lack_of_guards():
        (known,) = obd.attach.attachments()
        end(known.pid, signal.SIGKILL)
        subprocess.run(["blockdev", "--flushbufs", known.path], check=True)
        assert node.exec("long", "c", "/bin/md5sum", "/big") == wanted
    node.ok("task", "kill", "--signal", "KILL", "long")
    node.ok("task", "delete", "--force", "long")
    node.ok("container", "delete", "long")


def test_a_device_whose_server_died_is_replaced(node: Node, client: Client) -> None:
    node.pull(APP)
    look = node.directory / "at"
    with mounted(client.view("look", top(client)), look) as root:
        before = (root / "big").stat().st_size
        (known,) = obd.attach.attachments()
        kill_with_guard(known.pid)
        # Nobody asks for it. Who used it gets errors, never other bytes; who comes is served.
        while not (now := obd.attach.attachments()) or now[0].dead or now[0].pid == known.pid:
            time.sleep(0.2)  # who looks holds a lock for the moment
        with pytest.raises(OSError, match="Input/output"):
            (root / "big").read_bytes()
        assert node.run(APP, "c", "/bin/cat", "/etc/more") == "more\n"
    with mounted(client.mounts("look"), look) as root:
        assert (root / "big").stat().st_size == before == len((root / "big").read_bytes())
    assert len(node.attached()) == len(node.mounts()) == 1


def test_a_registry_that_is_away_is_told_of(node: Node, registry: Registry) -> None:
    node.pull(APP)
    registry.kill()
    try:
        done = node.ctr("run", "--rm", "--snapshotter", "overlaybd", node.image(APP), "c", "/bin/true")
        assert done.returncode
        assert "no device" in done.stderr
        assert "refused" in done.stderr.lower()
        assert run("obd", "rpull", "--address", str(node.socket), "--http", node.image("app:v2")).status
    finally:
        registry.start()
    assert node.run(APP, "d", "/bin/cat", "/etc/name") == "two\n"


def test_a_hundred_rounds_leave_nothing_behind(node: Node, client: Client) -> None:
    node.pull(APP)
    name = top(client)
    found = set()
    for number in range(100):
        client.prepare(f"key {number}", name)
        client.remove(f"key {number}")
        devices = tuple(each.path for each in obd.attach.attachments())
        found.add((*client.names(), *node.mounts(), *devices, len(os.listdir(node.root / "snapshots"))))
    assert len(found) == 1, found
    assert len(devices) == 1


def test_many_at_once_get_one_device(node: Node, client: Client) -> None:
    node.pull(APP)
    name = top(client)
    with ThreadPoolExecutor(32) as pool:
        mounts = list(pool.map(lambda number: client.prepare(f"key {number}", name), range(32)))
    assert len(node.attached()) == len(node.mounts()) == 1
    assert len({mount.options[-1] for (mount,) in mounts}) == 1


def test_a_device_of_ones_own_is_written_to_and_committed(node: Node, client: Client) -> None:
    node.pull(APP)
    at = node.directory / "at"
    with mounted(client.prepare("key", top(client), **{L.WRITABLE: "dir"}), at) as root:
        (root / "etc/name").write_text("three\n")
        (root / "new").write_text("new\n")
        with pytest.raises(Refused) as caught:
            client.commit("name", "key")
        assert caught.value.code == "FAILED_PRECONDITION", "it is in use"
    client.commit("name", "key")
    assert client.stat("name").labels[L.COMMIT_PATH].endswith("/fs/overlaybd.sealed")
    assert L.WRITABLE not in client.stat("name").labels
    with mounted(client.view("look", "name"), at) as root:
        assert (root / "etc/name").read_text() == "three\n"
        assert (root / "new").read_text() == "new\n"
        assert (root / "etc/more").read_text() == "more\n"
        assert hashlib.md5((root / "big").read_bytes()).hexdigest() in node.run(
            APP, "c", "/bin/md5sum", "/big"
        )


def test_set_user_id_programs_and_devices_count_in_a_root_file_system(node: Node, client: Client) -> None:
    node.pull(APP)
    name = top(client)
    for mounts in (client.prepare("key", name, **{L.WRITABLE: "dir"}), client.view("look", name)):
        with mounted(mounts, node.directory / "at") as root:
            assert not os.statvfs(root).f_flag & (os.ST_NOSUID | os.ST_NODEV)


def test_a_device_from_nothing(node: Node, client: Client) -> None:
    at = node.directory / "at"
    with mounted(client.prepare("key", **{L.WRITABLE: "dir", L.SIZE_GIB: "1"}), at) as root:
        assert [path.name for path in root.iterdir()] == ["lost+found"]
        (root / "a").write_text("1")
    client.commit("base", "key")
    with mounted(client.prepare("next", "base", **{L.WRITABLE: "dir"}), at) as root:
        assert (root / "a").read_text() == "1"
        (root / "a").write_text("2")
    (device,) = client.prepare("raw", "base", **{L.WRITABLE: "dev"})
    assert (device.type, list(device.options)) == ("ext4", ["rw", "discard"])
    with mounted([device], at) as root:
        assert (root / "a").read_text() == "1"
    with pytest.raises(Refused) as caught:
        client.commit("base", "next")
    assert caught.value.code == "ALREADY_EXISTS", "and it can be written to still"
    with mounted(client.mounts("next"), at) as root:
        assert (root / "a").read_text() == "2"
        (root / "a").write_text("3")


def test_layers_upon_a_device_are_ordinary_ones(node: Node, client: Client) -> None:
    node.pull(APP)
    at = node.directory / "at"
    with mounted(client.prepare("key", top(client)), at) as root:
        (root / "etc/name").write_text("three\n")
        (root / "etc/more").unlink()
    client.commit("name", "key")
    with mounted(client.prepare("again", "name"), at) as root:
        assert tree(root / "etc") == {"name": "three\n"}
    with mounted(client.view("look", "name"), at) as root:
        assert tree(root / "etc") == {"name": "three\n"}


def test_accesses_are_recorded_by_label_and_fetched_in_advance(
    node: Node, client: Client, tmp_path: Path
) -> None:
    node.pull(APP)
    trace = node.directory / "trace"
    trace.touch()
    labels = {L.RECORD_TRACE: "yes", L.TRACE_PATH: str(trace)}
    with mounted(client.prepare("key", top(client), **labels), node.directory / "at") as root:
        assert len((root / "big").read_bytes()) == 16 << 20
    client.remove("key")
    assert trace.stat().st_size > 0
    for file in node.directory.glob("cache/**/*"):
        if file.is_file():
            file.unlink()
    client.prepare("again", top(client), **labels)
    deadline = time.monotonic() + 60
    while "bytes fetched" not in (log := said_by_keepers(tmp_path / "run")):
        assert time.monotonic() < deadline, log
        time.sleep(0.05)
    # What has been fetched is written a little later.
    while in_cache(node) < 16 << 20:
        assert time.monotonic() < deadline, f"nobody has read any of it: {in_cache(node)} bytes, {log}"
        time.sleep(0.05)


def in_cache(node: Node) -> int:
    """The bytes that the cache takes on the disk."""
    return sum(512 * file.stat().st_blocks for file in node.directory.glob("cache/**/*") if file.is_file())


def said_by_keepers(directory: Path) -> str:
    """The logs of the processes that serve devices."""
    logs = directory.glob("attach/*/log")
    return "".join(file.read_text() for file in logs)


def test_containerd_is_asked_where_a_layer_comes_from(node: Node, client: Client) -> None:
    node.pull(APP)
    with Containerd(str(node.socket), "default") as containerd:
        base = client.names("kind==committed,parent==")[0]
        blob = {name: client.stat(base).labels[name] for name in (L.BLOB_DIGEST, L.BLOB_SIZE)}
        again = {**blob, L.TARGET: chain_ids([base, blob[L.BLOB_DIGEST]])[-1]}
        with pytest.raises(ObdError, match="already exists"):
            containerd.snapshots("Prepare", "overlaybd", key="extract", parent=base, labels=again)
        unknown = {**blob, L.BLOB_DIGEST: "sha256:" + "1" * 64, L.TARGET: "sha256:" + "1" * 64}
        made = containerd.snapshots("Prepare", "overlaybd", key="another", labels=unknown)
    assert [mount.type for mount in made.mounts] == ["bind"]


def test_blobs_are_fetched_if_that_is_wanted(node: Node) -> None:
    assert node.pull(APP, "--download-blobs") == {"lazy": 0, "fetched": 2, "present": 0}
    node.registry.kill()
    try:
        assert node.run(APP, "c", "/bin/cat", "/etc/name") == "two\n"
    finally:
        node.registry.start()
