"""A registry that is away while an image is pulled, started, read and changed under containerd."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

import obd.attach
from obd.sockets import processes, statistics
from tests.e2e.commands import run
from tests.e2e.containerd import CONTAINERS, Node, build, node_of
from tests.e2e.servers import Registry
from tests.rigs.attached import until

pytestmark = CONTAINERS

APP = "app:v1-obd"
SUM = ("/bin/sh", "-c", 'exec /bin/md5sum "$0" 2>&1')


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    directory = tmp_path_factory.mktemp("registry")
    with Registry(directory) as registry:
        build(directory, registry, plain=False)
        yield registry


@contextmanager
def away(registry: Registry) -> Iterator[None]:
    registry.kill()
    try:
        yield
    finally:
        registry.start()


@contextmanager
def container(registry: Registry, home: Path, outage_s: int) -> Iterator[Node]:
    """A node with a container `long`, of which little has been read; afterwards nothing is left."""
    with node_of(registry, home, service={"outageTimeout": outage_s}) as node:
        node.pull(APP)
        node.run(APP, "long", "/bin/sleep", "1000", options=("--detach",))
        try:
            # The programs themselves shall not have to be read any more.
            node.exec("long", "first", *SUM, "/etc/name")
            yield node
        finally:
            node.ctr("task", "kill", "--signal", "KILL", "long")
            node.ok("task", "delete", "--force", "long")
            node.ok("container", "delete", "long")
        node.ok("images", "rm", "--sync", node.image(APP))
        node.until_nothing_is_left()


def failures() -> int:
    """Requests of the only device that have failed."""
    (known,) = obd.attach.attachments()
    until(lambda: known.pid in processes(), "no control socket")
    (device,) = statistics(known.pid)["devices"]
    return sum(layer.get("failures", 0) for layer in device["layers"])


def test_what_runs_waits_for_a_registry_that_is_away(registry: Registry, tmp_path: Path) -> None:
    with container(registry, tmp_path, 300) as node:
        node.run(APP, "other", "/bin/cat", "/etc/name")
        with ThreadPoolExecutor(1) as pool, away(registry):
            reader = pool.submit(node.exec, "long", "reader", *SUM, "/big")
            until(failures, "nothing is asked of the registry")
            assert not reader.done()
            # Who needs nothing of it goes on meanwhile.
            assert node.run(APP, "other", "/bin/cat", "/etc/name") == "two\n"
        assert reader.result() == node.exec("long", "again", *SUM, "/big")


def test_what_runs_gets_an_error_in_the_end_and_reads_again_later(registry: Registry, tmp_path: Path) -> None:
    with container(registry, tmp_path, 1) as node:
        with away(registry):
            assert "Input/output error" in node.exec("long", "reader", *SUM, "/big", status=1)
            (log,) = (tmp_path / "run/attach").glob("*/log")
            assert "refused" in log.read_text().lower()
            # Committing needs none of it; what is pulled does, and says so.
            pulled = run("obd", "rpull", "--address", str(node.socket), "--http", node.image("app:other"))
            assert pulled.status
            assert registry.host in pulled.err
        assert node.exec("long", "again", *SUM, "/big").split()[1] == "/big"
