"""A running process seen from outside: `obd stat`, the control socket, the exporter."""

import http.client
import json
import os
import random
import signal
import socket
import stat
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

import obdcore
from obd.sockets import ask, control_directory, processes, statistics
from tests.e2e.commands import BIN, START_S, ok, run, serving
from tests.e2e.servers import free_port
from tools.obd.stat import HEAD

pytestmark = pytest.mark.usefixtures("run_directory")

SIZE = 4 << 20


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of a read-only image of random bytes."""
    home = tmp_path_factory.mktemp("image")
    (home / "raw").write_bytes(random.Random(5).randbytes(SIZE))
    ok("obd", "import", "-z", home / "raw", home / "layer")
    (home / "c.json").write_text(json.dumps({"lowers": [{"file": str(home / "layer")}]}))
    return home / "c.json"


def service(directory: Path, **content: Any) -> Path:
    path = directory / "overlaybd.json"
    path.write_text(json.dumps({"enableAudit": False, **content}))
    return path


@pytest.fixture
def served(tmp_path: Path, image: Path) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    words = ("--nbd", f"unix:{tmp_path / 'sock'}", "--name", "disk", "--service", service(tmp_path))
    with serving(image, *words) as (process, uri):
        yield process, uri


def read_all(uri: str) -> None:
    command = ["qemu-io", "-r", "-f", "raw", "-c", f"read 0 {SIZE}", uri]
    subprocess.run(command, check=True, capture_output=True)


def test_a_table_for_people(image: Path, served: tuple["subprocess.Popen[bytes]", str]) -> None:
    process, uri = served
    read_all(uri)
    head, row = ok("obd", "stat").out.splitlines()
    assert head.split() == list(HEAD)
    cells = dict(zip(head.split(), row.replace(" MiB", "MiB").replace(" bytes", "").split(), strict=True))
    assert cells["PID"] == str(process.pid) and cells["DEVICE"] == "disk" and cells["IMAGE"] == str(image)
    assert int(cells["READS"]) > 0 and cells["READ"] == "4.0MiB" and cells["LOCAL"] == "1/1"
    for which in (str(process.pid), "disk", str(image), uri):
        lines = ok("obd", "stat", which).out.splitlines()
        assert lines[0].startswith(f"obd serve, process {process.pid}, {obdcore.__version__}, up ")
        assert any(line.split()[:2] == ["0", "local"] for line in lines)
        assert {line.split()[0] for line in lines if line} >= {"hit", "network", "decode", "queue"}
    missing = run("obd", "stat", "no-such")
    assert (missing.status, missing.err) == (255, "obd: not-found: no process or device no-such\n")


def test_json_for_programs(image: Path, served: tuple["subprocess.Popen[bytes]", str]) -> None:
    process, uri = served
    read_all(uri)
    (facts,) = json.loads(ok("obd", "stat", "--json").out)
    assert facts["pid"] == process.pid and facts["uptime_s"] >= 0 and facts["caches"] == []
    (device,) = facts["devices"]
    assert (device["name"], device["address"], device["image"]) == ("disk", uri, str(image))
    assert (device["size"], device["read_bytes"], device["errors"]) == (SIZE, SIZE, 0)
    (layer,) = device["layers"]
    assert (layer["position"], layer["state"], layer["source"]) == (0, "local", str(image.parent / "layer"))
    assert 0 < device["latency"]["hit"]["count"] <= device["reads"]
    assert device["latency"]["decode"]["total_s"] > 0 and device["latency"]["network"]["count"] == 0


def test_watching_goes_on_until_a_signal(served: tuple["subprocess.Popen[bytes]", str]) -> None:
    command = [str(BIN / "obd"), "stat", "--watch", "--interval", "1", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as watching:
        assert watching.stdout is not None
        rounds = [json.loads(watching.stdout.readline()) for _ in range(2)]
        watching.send_signal(signal.SIGINT)
        assert watching.wait(START_S) == -signal.SIGINT
    assert rounds[0][0]["uptime_s"] < rounds[1][0]["uptime_s"]


def test_the_socket_is_the_users_alone_and_goes_with_the_process(
    served: tuple["subprocess.Popen[bytes]", str],
) -> None:
    process, _ = served
    directory = Path(control_directory())
    path = directory / f"{process.pid}.sock"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    process.send_signal(signal.SIGTERM)
    assert process.wait(START_S) == 0
    assert process.stderr is not None and process.stderr.read() == b""
    assert not path.exists()
    assert ok("obd", "stat").out == "no devices\n"


def test_what_a_killed_process_left_is_removed(served: tuple["subprocess.Popen[bytes]", str]) -> None:
    process, _ = served
    path = Path(control_directory()) / f"{process.pid}.sock"
    assert processes() == [process.pid]
    process.kill()
    process.wait()
    assert path.exists() and processes() == [] and not path.exists()


def test_a_directory_of_others_is_not_trusted(run_directory: Path) -> None:
    (run_directory / "processes").mkdir(parents=True)
    (run_directory / "processes").chmod(0o755)
    with pytest.raises(OSError, match="mode 0700"):
        processes()


class UnixConnection(http.client.HTTPConnection):
    """HTTP to the control socket of a process."""

    def __init__(self, pid: int) -> None:
        super().__init__("localhost", timeout=START_S)
        self.path = os.path.join(control_directory(), f"{pid}.sock")

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


def test_routes_and_methods(served: tuple["subprocess.Popen[bytes]", str]) -> None:
    process, _ = served
    connection = UnixConnection(process.pid)
    wanted = [
        ("GET", "/v1/stat", 200),
        ("GET", "/v1/metrics", 200),
        ("GET", "/nothing", 404),
        ("GET", "/v1/devices/disk/trace/start", 405),
        ("POST", "/v1/stat", 405),
        ("POST", "/v1/devices/other/trace/start", 404),
        ("POST", "/v1/devices/disk/trace/stop", 400),
    ]
    for method, target, status in wanted:  # all on one connection
        connection.request(method, target)
        answer = connection.getresponse()
        body = answer.read()
        assert answer.status == status, (method, target, body)
        if status != 200:
            assert set(json.loads(body)) == {"error", "message"}
    connection.request("POST", "/v1/devices/-/trace/start", headers={"Content-Length": str(1 << 30)})
    assert connection.getresponse().status == 413


def test_a_trace_is_recorded_on_request(served: tuple["subprocess.Popen[bytes]", str]) -> None:
    process, uri = served
    assert json.loads(ask(process.pid, "POST", "/v1/devices/-/trace/start")) == {"recording": True}
    assert statistics(process.pid)["devices"][0]["recording"] is True
    with pytest.raises(OSError, match="busy"):
        ask(process.pid, "POST", "/v1/devices/disk/trace/start")
    read_all(uri)
    trace = ask(process.pid, "POST", "/v1/devices/disk/trace/stop")
    assert sum(length for _, _, length in obdcore.trace_parse(trace)) > SIZE // 2
    assert statistics(process.pid)["devices"][0]["recording"] is False


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_prometheus_scrapes_the_configured_address(tmp_path: Path, image: Path, address: str) -> None:
    exporter = {"enable": True, "address": address, "port": free_port(), "uriPrefix": "/m"}
    base = f"http://{'[::1]' if address == '::1' else address}:{exporter['port']}"
    words = ("--nbd", f"unix:{tmp_path / 'sock'}", "--service", service(tmp_path, exporterConfig=exporter))
    with serving(image, *words) as (process, uri):
        read_all(uri)
        with urllib.request.urlopen(f"{base}/metrics?x=1") as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            found = {family.name: family for family in text_string_to_metric_families(answer.read().decode())}
        (read,) = (s for s in found["overlaybd_read_bytes"].samples if s.name.endswith("_total"))
        assert (read.value, read.labels) == (SIZE, {"device": "", "image": str(image)})
        assert "OverlayBD_Read_Throughtput" in found
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{base}/other")
        # A second process has to do without: the device counts more than its metrics.
        again = ("--nbd", f"unix:{tmp_path / 'sock2'}", "--service", tmp_path / "overlaybd.json")
        with serving(image, *again) as (other, _):
            other.send_signal(signal.SIGTERM)
            assert other.wait(START_S) == 0
            assert other.stderr is not None
            (line,) = other.stderr.read().decode().splitlines()
            assert "cannot listen at" in line and "Address already in use" in line
        process.send_signal(signal.SIGTERM)
        assert process.wait(START_S) == 0
