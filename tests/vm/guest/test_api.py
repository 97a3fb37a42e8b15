"""The management API of the daemon: disks of the kernel that are changed while they are in use."""

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import obd
from obd.state import run_directory
from obdcore import lsmt_create
from tests.e2e.api_client import ApiClient
from tests.e2e.disks import MIB, tool
from tests.vm.guest.tcmu_disk import Daemon, attach, attached, of_zeros, running
from tests.vm.guest.test_tcmu import fio, stored

SIZE = 16 * MIB
PORT = 9862
END_S = 120.0


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon that answers as overlaybd's does by default."""
    with running(tmp_path) as daemon:
        daemon.end(signal.SIGTERM)
        service = {"enable": True, "address": f"http://127.0.0.1:{PORT}"}
        daemon.configure(logPath="", enableAudit=False, serviceConfig=service)
        daemon.start()
        yield daemon


@pytest.fixture
def client(daemon: Daemon) -> ApiClient:
    return ApiClient(f"{run_directory()}/api.sock")


def next_config(directory: Path, number: int) -> Path:
    """The configuration after a snapshot: one layer more, and a new upper."""
    root = json.loads((directory / "config.json").read_text())
    root["lowers"].append({"file": root["upper"]["data"]})
    root["upper"] = {key: str(directory / f"{number}.{key}") for key in ("data", "index")}
    lsmt_create(*root["upper"].values(), size=0)
    path = directory / f"{number}.json"
    path.write_text(json.dumps(root))
    return path


def test_upstreams_clients_take_snapshots_of_a_disk_under_load(tmp_path: Path, client: ApiClient) -> None:
    disk = attach("vol", f"{of_zeros(tmp_path, SIZE)};disk-1")
    (device,) = client.checked("GET", "/v1/devices").json["devices"]
    assert (device["name"], device["dev_id"], device["address"]) == ("user_1/vol", "disk-1", str(disk.node))
    upstream = ApiClient(PORT)
    load = subprocess.Popen([*fio(disk), "--iodepth=8", "--loops=2"], stdout=subprocess.PIPE)
    taken = 0
    while load.poll() is None and taken < 10:
        config = next_config(tmp_path, taken)
        reply = upstream.ask("GET", f"/snapshot?dev_id=disk-1&config={config}")
        assert reply.json == {"success": True, "message": "Snapshot created successfully"}
        taken += 1
    said, _ = load.communicate(timeout=END_S)
    assert load.returncode == 0, said.decode()
    assert taken > 1, "the load is too small for this test"
    assert upstream.ask("GET", "/v1/devices").status == 403
    last = stored(disk)
    disk.remove()
    with obd.open(tmp_path / "config.json") as image:
        assert len(image.sources) == taken
        assert image.read(0, SIZE) == last


def test_a_disk_grows_in_use(tmp_path: Path, client: ApiClient) -> None:
    with attached("vol", of_zeros(tmp_path, SIZE)) as disk:
        tool("mkfs.ext4", "-q", disk.node)
        (point := tmp_path / "mnt").mkdir()
        tool("mount", disk.node, point)
        grown = client.checked("POST", "/v1/devices/user_1%2Fvol/resize", {"size_bytes": 4 * SIZE})
        assert grown.json["before_bytes"] == SIZE
        Path("/sys/block", disk.name, "device/rescan").write_text("1")
        assert int(disk.setting("size")) == 4 * SIZE // 512
        tool("resize2fs", disk.node)
        (point / "file").write_bytes(bytes(2 * SIZE))
        tool("umount", point)
        tool("e2fsck", "-fn", disk.node)


def test_the_daemon_tells_of_itself_and_reads_its_configuration_anew(
    daemon: Daemon, client: ApiClient
) -> None:
    assert client.checked("GET", "/v1/health").json == {"live": True, "ready": True, "causes": []}
    assert client.checked("GET", "/v1/version").json["command"] == "overlaybd-tcmu"
    settings = json.loads(daemon.config.read_text())
    daemon.configure(**settings, logLevel=0)
    daemon.process.send_signal(signal.SIGHUP)
    daemon.hear("read anew: applied: logConfig.logLevel")
    assert client.checked("GET", "/v1/log-level").json == {"level": "debug"}
    daemon.configure(**settings, logLevel="x")
    daemon.process.send_signal(signal.SIGHUP)
    daemon.hear('logLevel: "x" is not allowed')
    assert client.checked("GET", "/v1/log-level").json == {"level": "debug"}


def test_the_daemon_that_takes_its_place_answers_in_its_place(daemon: Daemon, client: ApiClient) -> None:
    assert client.checked("GET", "/v1/version").json["pid"] == daemon.process.pid
    for _ in range(3):
        daemon.succeed()
        assert client.checked("GET", "/v1/version").json["pid"] == daemon.process.pid
        assert ApiClient(PORT).ask("GET", "/snapshot").status == 400
        assert not daemon.heard("does not answer there")


@pytest.mark.parametrize("via", ["auto", "nbd"])
def test_the_daemon_attaches_images_for_others(tmp_path: Path, client: ApiClient, via: str) -> None:
    (room := tmp_path / "other").mkdir()
    config = of_zeros(room, SIZE).removeprefix("overlaybd/")
    made = client.checked("POST", "/v1/attachments", {"config": config, "via": via, "rw": True})
    assert made.status == 201, made.body
    assert made.json["via"] == {"auto": "tcmu"}.get(via, via)
    node = Path(made.json["path"])
    tool("mkfs.ext4", "-q", node)
    (listed,) = client.checked("GET", "/v1/attachments").json["attachments"]
    assert listed["config"] == config
    with node.open("rb"):
        assert client.checked("DELETE", f"/v1/attachments/{made.json['name']}").status == 409
    assert client.checked("DELETE", f"/v1/attachments/{made.json['name']}").status == 204
    assert client.checked("GET", "/v1/attachments").json == {"attachments": []}
