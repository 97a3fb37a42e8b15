"""Containers of Debian's containerd from a registry 10 ms away: ours against overlayfs with a full pull."""

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

from bench.slow_proxy import Proxy, slow
from obd.snapshotter import labels as L
from tests.e2e.commands import ok
from tests.e2e.containerd import PROGRAMS, Node, missing
from tests.e2e.oci_images import Layer, Layout
from tests.e2e.servers import Registry
from tests.e2e.snapshotter import Client

DELAY_S = 0.010
LAYERS = 3
LAYER_BYTES = 110 << 20
FILES = 220
ROUNDS = 3
SNAPSHOTS = 200
TOGETHER = 50
# What a program does that reads the beginnings of many files before it says anything.
READS = "head -c 16384 /data*/*[05] > /dev/null; echo hello"


def build(home: Path, registry: Registry) -> None:
    """Pushes `app:v1` of more than 300 MB, and what we make of it as `app:v1-obd`."""
    base = (
        Layer()
        .add("bin", kind=b"5")
        .add("bin/busybox", mode=0o755, data=Path(shutil.which("busybox") or "").read_bytes())
    )
    for name in PROGRAMS:
        base.add(f"bin/{name}", kind=b"2", linkname="busybox")
    for name in ("etc", "proc", "sys", "dev", "tmp"):
        base.add(name, kind=b"5")
    layers = [base]
    for number in range(LAYERS):
        layer = Layer("").add(f"data{number}", kind=b"5")
        for file in range(FILES):
            layer.add(f"data{number}/{file}", data=os.urandom(LAYER_BYTES // FILES))
        layers.append(layer)
    layout = Layout(home / "layout")
    layout.tag(layout.image(layers), "v1")
    target = f"http://{registry.host}/app:v1"
    ok("obd", "copy", f"oci:{home}/layout:v1", target)
    subprocess.run(
        [Path(sys.executable).parent / "obd", "convert", target, f"{target}-obd"], check=True, timeout=600
    )


class Bench:
    """A node whose registry is behind a proxy."""

    def __init__(self, home: Path, registry: Registry, proxy: Proxy) -> None:
        self.home = home
        self.host = f"127.0.0.1:{proxy.port}"
        self.proxy = proxy
        self.registry = registry
        self.numbers = itertools.count()  # of nodes and containers; threads share it

    def node(self) -> Node:
        """A new node, on which nothing has been pulled."""
        directory = self.home / f"n{next(self.numbers)}"
        directory.mkdir()
        return Node(directory, self.registry)

    def run(
        self, node: Node, snapshotter: str, image: str, *command: str, options: tuple[str, ...] = ()
    ) -> float:
        """Seconds until a container has printed what it was told to, and is gone."""
        name = f"{self.host}/{image}"
        words = ["run", "--rm", "--snapshotter", snapshotter, *options, name]
        words += [f"c{next(self.numbers)}", *command]
        begin = time.perf_counter()
        said = node.ok(*words)
        took = time.perf_counter() - begin
        assert said == "hello\n", said
        return took

    def ours(self, node: Node) -> float:
        """Seconds from nothing to the first line."""
        name = f"{self.host}/app:v1-obd"
        begin = time.perf_counter()
        ok("obd", "rpull", "--address", str(node.socket), "--http", name)
        return time.perf_counter() - begin + self.run(node, "overlaybd", "app:v1-obd", "/bin/echo", "hello")

    def peer(self, node: Node) -> float:
        """The same by containerd alone."""
        begin = time.perf_counter()
        node.ok("images", "pull", "--plain-http", "--snapshotter", "overlayfs", f"{self.host}/app:v1")
        return time.perf_counter() - begin + self.run(node, "overlayfs", "app:v1", "/bin/echo", "hello")


def row(name: str, value: float, unit: str, peer: str | None = None, ratio: float | None = None) -> None:
    """Prints a measurement."""
    print(json.dumps({"name": name, "value": value, "unit": unit, "peer": peer, "ratio": ratio}))


def cold(bench: Bench) -> None:
    """From nothing to the first line, and what was fetched for it."""
    rounds, fetched = [], []
    for _ in range(ROUNDS):
        with bench.node() as node:
            before = bench.proxy.sent
            took = bench.ours(node)
            own = bench.proxy.sent - before
        with bench.node() as node:
            before = bench.proxy.sent
            peer = bench.peer(node)
            fetched.append((own / (bench.proxy.sent - before), own))
        print(f"cold: ours {took:.2f} s, overlayfs {peer:.2f} s", file=sys.stderr)
        rounds.append((took / peer, took))
    ratio, took = sorted(rounds)[ROUNDS // 2]
    row("containerd.cold_start", took, "s", "overlayfs with a full pull", ratio)
    ratio, own = sorted(fetched)[ROUNDS // 2]
    row("containerd.cold_bytes", own / 1e6, "MB", "overlayfs with a full pull", ratio)


def traced(bench: Bench) -> None:
    """From nothing to the first line of a program that reads much first, with a trace of that and without."""
    name = f"{bench.host}/app:v1-obd"
    trace = bench.home / "trace"
    trace.touch()
    labels = (
        "--snapshotter-label",
        f"{L.RECORD_TRACE}=yes",
        "--snapshotter-label",
        f"{L.TRACE_PATH}={trace}",
    )

    def start(node: Node, *options: str) -> float:
        begin = time.perf_counter()
        ok("obd", "rpull", "--address", str(node.socket), "--http", name)
        return (
            time.perf_counter()
            - begin
            + bench.run(node, "overlaybd", "app:v1-obd", "/bin/sh", "-c", READS, options=options)
        )

    with bench.node() as node:
        start(node, *labels)
        node.ok("images", "rm", "--sync", name)  # the recording ends with its device
    rounds = []
    for _ in range(ROUNDS):
        with bench.node() as node:
            without = start(node)
        with bench.node() as node:
            took = start(node, *labels)
        print(f"trace: with {took:.2f} s, without {without:.2f} s", file=sys.stderr)
        rounds.append((took / without, took))
    ratio, took = sorted(rounds)[ROUNDS // 2]
    row("containerd.traced_start", took, "s", "without a trace", ratio)


def warm(bench: Bench, node: Node) -> None:
    """Containers of images that have run before."""
    bench.ours(node)
    bench.peer(node)
    rounds = []
    for _ in range(7 * ROUNDS):
        peer = bench.run(node, "overlayfs", "app:v1", "/bin/echo", "hello")
        took = bench.run(node, "overlaybd", "app:v1-obd", "/bin/echo", "hello")
        rounds.append((took / peer, took))
    ratio, took = sorted(rounds)[len(rounds) // 2]
    row("containerd.warm_start", took, "s", "overlayfs", ratio)


def calls(node: Node) -> None:
    """Preparing and mounting snapshots of a device that is there, beside many others."""
    client = Client(str(node.directory / "snapshotter.sock"))
    top = client.names("kind==committed")[-1]
    times = []
    for number in range(SNAPSHOTS):
        begin = time.perf_counter()
        client.prepare(f"key {number}", top)
        middle = time.perf_counter()
        client.mounts(f"key {number}")
        times += [middle - begin, time.perf_counter() - middle]
    for number in range(SNAPSHOTS):
        client.remove(f"key {number}")
    client.close()
    row("containerd.call_p99_ms", 1000 * sorted(times)[int(0.99 * len(times))], "ms")


def together(bench: Bench, node: Node) -> None:
    """Many containers at once: none fails, and none waits much longer than the others."""
    with ThreadPoolExecutor(TOGETHER) as pool:
        begin = time.perf_counter()

        def one(_: int) -> float:
            bench.run(node, "overlaybd", "app:v1-obd", "/bin/echo", "hello")
            return time.perf_counter() - begin

        times = list(pool.map(one, range(TOGETHER)))
    row("containerd.together_slowest", max(times), "s", "the median of them", max(times) / median(times))


def main() -> None:
    """Measures all, on nodes of its own."""
    if why := missing():
        sys.exit(why)
    with tempfile.TemporaryDirectory(prefix="obd-", dir="/tmp") as name:
        home = Path(name)
        os.environ["OVERLAYBD_RUN_DIR"] = str(home / "run")
        with Registry(home / "registry") as registry, slow(registry.port, DELAY_S) as proxy:
            build(home, registry)
            bench = Bench(home, registry, proxy)
            cold(bench)
            traced(bench)
            with bench.node() as node:
                warm(bench, node)
                calls(node)
                together(bench, node)


if __name__ == "__main__":
    main()
