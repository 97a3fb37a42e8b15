"""The management API: every route and answer is as it is described, and every description has a route."""

import contextlib
import dataclasses
import json
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import obd
import obd.attach
import obdcore
from obd.api import start_api
from obd.api.attachments import Attach
from obd.api.devices import Resize, Snapshot
from obd.api.guard import Guard
from obd.api.process import Level, description
from obd.api.routes import STATUS
from obd.api.work import MAX_WORKS, Works
from obd.config.schema import Table, build
from obd.errors import ERRNO, ObdError
from obd.http_server import MAX_THREADS, Request
from obd.image import Device
from obd.observer import Observer
from obd.service import Service
from tests.e2e.api_client import ApiClient
from tests.ref.openapi import Description

SIZE = 8 << 20
NAME = "user_1/disk 1"
PATH = "/v1/devices/user_1%2Fdisk%201"


class Running:
    """A process with one writable device, and a client of it."""

    def __init__(self, directory: Path, observer: Observer, device: Device, described: Description) -> None:
        assert observer.control is not None
        self.directory = directory
        self.observer = observer
        self.device = device
        self.client = ApiClient(observer.control.path, described)

    def next_config(self, name: str = "new") -> Path:
        """A configuration of the device's layers, its upper as one more, and a new upper."""
        root = json.loads(Path(self.device.config.file).read_text())
        root.setdefault("lowers", []).append({"file": root["upper"]["data"]})
        root["upper"] = self.new_upper(name)
        path = self.directory / f"{name}.json"
        path.write_text(json.dumps(root))
        return path

    def new_upper(self, name: str) -> dict[str, str]:
        """An upper that `name` tells from others."""
        upper = {key: str(self.directory / f"{name}.{key}") for key in ("data", "index")}
        obdcore.lsmt_create(upper["data"], upper["index"], size=SIZE)
        return upper


@pytest.fixture(scope="module")
def described() -> Iterator[Description]:
    """The description; when all is done each answer in it must have been met."""
    one = Description(description())
    yield one
    unseen = one.answers() - one.seen
    if len({template for _, template, _ in one.seen}) == len(one.root["paths"]):  # all tests were run
        assert not unseen, f"described, but never given: {sorted(unseen)}"


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, described: Description) -> Iterator[Running]:
    monkeypatch.setenv("OVERLAYBD_RUN_DIR", str(tmp_path / "run"))
    (tmp_path / "overlaybd.json").write_text('{"enableAudit": false}')
    upper = {key: str(tmp_path / f"upper.{key}") for key in ("data", "index")}
    obdcore.lsmt_create(upper["data"], upper["index"], size=SIZE)
    (tmp_path / "c.json").write_text(json.dumps({"lowers": [], "upper": upper}))
    service = Service(tmp_path / "overlaybd.json")
    level = logging.getLogger().level
    with Observer(service, "test") as observer, obd.open(tmp_path / "c.json", service) as device:
        observer.overview.add(NAME, device, "/dev/test", "id-1")
        observer.listen()
        start_api(observer, service)
        yield Running(tmp_path, observer, device, described)
    logging.getLogger().setLevel(level)


def test_each_route_is_described_and_each_description_has_a_route(api: Running) -> None:
    assert api.observer.api is not None
    described = {(method, path) for method, path, _ in api.client.described.operations()}
    assert described == {*api.observer.api.routes.listed(), ("GET", "/snapshot")}


def test_the_description_is_whole(api: Running) -> None:
    reply = api.client.checked("GET", "/v1/openapi.json")
    root = reply.json
    assert root["openapi"] == "3.1.0"
    operations = [operation for _, _, operation in api.client.described.operations()]
    assert len({one["operationId"] for one in operations}) == len(operations)
    text = reply.body.decode()
    for kind, things in root["components"].items():
        for name in things:
            used = f"#/components/{kind}/{name}" in text or kind == "securitySchemes"
            assert used, f"{name} is not used"
    assert set(root["components"]["schemas"]["Error"]["properties"]["error"]["enum"]) == set(ERRNO)
    assert set(STATUS) <= set(ERRNO)


@pytest.mark.parametrize(
    ("name", "table"), [("Attach", Attach), ("Snapshot", Snapshot), ("Resize", Resize), ("LogLevel", Level)]
)
def test_bodies_have_the_members_that_are_described(
    described: Description, name: str, table: type[Table]
) -> None:
    schema = described.root["components"]["schemas"][name]
    values = {"string": "x", "boolean": True, "integer": 512}
    members = {
        key: one["enum"][0] if "enum" in one else values[one["type"]]
        for key, one in schema["properties"].items()
    }
    assert described.fits(members, name) == ""
    found, unknown = build(table, members)
    assert unknown == []
    fields = dataclasses.fields(found)  # type: ignore[arg-type]
    again = {field.metadata["key"]: getattr(found, field.name) for field in fields}
    assert again == members


def test_the_process(api: Running) -> None:
    ask = api.client.checked
    assert ask("GET", "/v1/health").json == {"live": True, "ready": True, "causes": []}
    assert ask("GET", "/v1/health/live").status == 200
    assert ask("GET", "/v1/version").json["version"] == obdcore.__version__
    assert ask("GET", "/v1/stat").json["devices"][0]["name"] == NAME
    assert b"overlaybd_devices 1" in ask("GET", "/v1/metrics").body
    logging.getLogger().setLevel(logging.INFO)
    assert ask("GET", "/v1/log-level").json == {"level": "info"}
    assert ask("PUT", "/v1/log-level", {"level": "error"}).json == {"level": "error", "before": "info"}
    assert logging.getLogger().level == logging.ERROR
    assert ask("PUT", "/v1/log-level", {"level": "loud"}).status == 400
    assert logging.getLogger().level == logging.ERROR
    (api.directory / "overlaybd.json").write_text('{"enableAudit": false, "logLevel": 0}')
    assert ask("POST", "/v1/reload").json["applied"] == ["logConfig.logLevel"]
    assert ask("GET", "/v1/log-level").json == {"level": "debug"}
    (api.directory / "overlaybd.json").write_text('{"logLevel": "x"}')
    refused = ask("POST", "/v1/reload")
    assert refused.status == 400 and "logLevel" in refused.json["message"]


def test_why_a_process_is_not_ready(api: Running) -> None:
    start_api(api.observer, api.observer.overview.service, causes=lambda: ["the kernel is not heard"])
    reply = api.client.checked("GET", "/v1/health")
    assert (reply.status, reply.json["ready"]) == (503, False)
    assert reply.json["causes"] == ["the kernel is not heard"]
    assert api.client.checked("GET", "/v1/health/live").status == 200

    def fail() -> list[str]:
        raise OSError("no idea")

    start_api(api.observer, api.observer.overview.service, causes=fail)
    assert "no idea" in api.client.checked("GET", "/v1/health").json["causes"][0]


def test_devices_are_listed_and_told_of(api: Running) -> None:
    (device,) = api.client.checked("GET", "/v1/devices").json["devices"]
    assert (device["name"], device["dev_id"], device["size"]) == (NAME, "id-1", SIZE)
    for path in (PATH, "/v1/devices/-"):
        assert api.client.checked("GET", path).json["address"] == "/dev/test"
    assert api.client.checked("GET", "/v1/devices/other").status == 404
    api.observer.overview.remove(NAME)
    assert api.client.checked("GET", "/v1/devices/-").status == 404
    assert api.client.checked("GET", "/v1/devices").json == {"devices": []}


def test_attachments_come_and_go(api: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = api.client.checked
    one = obd.attach.Attachment("a b", "/dev/nbd0", "nbd", "/c.json", False, "the best there is", 12)
    calls: list[tuple[Any, ...]] = []

    def attach(config: str, *, via: str, rw: bool, service: str | None) -> obd.attach.Attachment:
        if config != one.config:
            raise ObdError(
                {"/gone": "not-found", "/in": "exists", "/no": "unsupported"}[config], "no", config
            )
        calls.append((via, rw, service))
        return one

    def detach(name: str) -> bool:
        if name == "used":
            raise ObdError("busy", "in use: mounted at /mnt")
        calls.append((name,))
        return name == one.name

    monkeypatch.setattr(obd.attach, "attach", attach)
    monkeypatch.setattr(obd.attach, "detach", detach)
    monkeypatch.setattr(obd.attach, "attachments", lambda: [one])
    assert ask("GET", "/v1/attachments").json == {"attachments": [dataclasses.asdict(one)]}
    made = ask("POST", "/v1/attachments", {"config": "/c.json", "via": "nbd", "rw": True})
    assert (made.status, made.json["path"]) == (201, "/dev/nbd0")
    gone = ask("DELETE", "/v1/attachments/a%20b")
    assert (gone.status, gone.body) == (204, b"")
    assert calls == [("nbd", True, str(api.directory / "overlaybd.json")), ("a b",)]
    # systemd would end what keeps a device with the service that started it.
    monkeypatch.setenv("SYSTEMD_EXEC_PID", str(os.getpid()))
    assert ask("POST", "/v1/attachments", {"config": "/c.json", "via": "nbd"}).status == 501
    calls.clear()
    assert ask("POST", "/v1/attachments", {"config": "/c.json"}).status == 201
    assert calls == [("tcmu", False, str(api.directory / "overlaybd.json"))]
    for config, status in (("/gone", 404), ("/in", 409), ("/no", 501)):
        assert ask("POST", "/v1/attachments", {"config": config}).status == status
    assert ask("DELETE", "/v1/attachments/other").status == 404
    assert ask("DELETE", "/v1/attachments/used").status == 409
    wrongs: list[Any] = [
        {},
        {"config": "c.json"},
        {"config": 1},
        {"config": "/c", "extra": 1},
        [],
        b"{",
        b"\xff",
    ]
    for wrong in wrongs:
        assert ask("POST", "/v1/attachments", wrong).status == 400, wrong


def test_a_trace(api: Running) -> None:
    ask = api.client.checked
    assert ask("POST", f"{PATH}/trace/stop").status == 400
    assert ask("POST", f"{PATH}/trace/start").json == {"recording": True}
    assert ask("POST", f"{PATH}/trace/start").status == 409
    assert obdcore.trace_parse(ask("GET", f"{PATH}/trace").body) == []
    assert obdcore.trace_parse(ask("POST", f"{PATH}/trace/stop").body) == []
    for method, rest in (("GET", ""), ("POST", "/start"), ("POST", "/stop")):
        assert ask(method, f"/v1/devices/other/trace{rest}").status == 404


def test_a_device_grows(api: Running) -> None:
    ask = api.client.checked
    grown = ask("POST", f"{PATH}/resize", {"size_bytes": 2 * SIZE})
    assert grown.json == {"device": NAME, "size_bytes": 2 * SIZE, "before_bytes": SIZE}
    assert api.device.size == 2 * SIZE
    for wrong in ({"size_bytes": SIZE}, {"size_bytes": 2 * SIZE + 1}, {}, {"size_bytes": -512}):
        assert ask("POST", f"{PATH}/resize", wrong).status == 400, wrong
    assert ask("POST", "/v1/devices/other/resize", {"size_bytes": SIZE}).status == 404


def test_snapshots(api: Running) -> None:
    ask = api.client.checked
    api.device.write(0, b"1" * 4096)
    first = ask("POST", f"{PATH}/snapshot", {"config": str(api.next_config())}).json
    assert first["sealed"] == str(api.directory / "upper.data") and 0 <= first["pause_s"] < 20
    api.device.write(4096, b"2" * 4096)
    files = {key: str(api.directory / f"third.{key}") for key in ("data", "index")}
    second = ask("POST", f"{PATH}/snapshot", {**files, "sparse": True}).json
    assert second["sealed"] == str(api.directory / "new.data")
    assert api.device.read(0, 8192) == b"1" * 4096 + b"2" * 4096
    root = json.loads((api.directory / "c.json").read_text())
    assert [lower["file"] for lower in root["lowers"]] == [first["sealed"], second["sealed"]]
    assert root["upper"] == files
    for wrong in (
        {},
        {"config": "x.json"},
        {"data": "/x"},
        {**files, "config": "/x"},
        {"config": "/x", "sparse": True},
    ):
        assert ask("POST", f"{PATH}/snapshot", wrong).status == 400, wrong
    assert ask("POST", f"{PATH}/snapshot", files).status == 400  # the present upper
    assert ask("POST", "/v1/devices/other/snapshot", files).status == 404


def test_read_only_devices_stay_as_they_are(api: Running, tmp_path: Path) -> None:
    config = api.next_config()
    root = json.loads(config.read_text())
    obdcore.lsmt_seal(str(tmp_path / "new.data"), str(tmp_path / "new.index"))
    (tmp_path / "ro.json").write_text(json.dumps({"lowers": [{"file": root["upper"]["data"]}]}))
    with obd.open(tmp_path / "ro.json", api.observer.overview.service) as device:
        api.observer.overview.add("ro", device, "")
        for what, content in (("snapshot", root["upper"]), ("resize", {"size_bytes": 2 * SIZE})):
            assert api.client.checked("POST", f"/v1/devices/ro/{what}", content).status == 409
        api.observer.overview.remove("ro")


def test_works_wait_for_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    works, thing = Works(), Thing()
    go, begun = threading.Event(), threading.Event()

    def work() -> str:
        begun.set()
        go.wait(20)
        return "done"

    results: list[str] = []
    thread = threading.Thread(target=lambda: results.append(works.do(work, thing)))
    thread.start()
    begun.wait(20)
    monkeypatch.setattr("obd.api.work.BUSY_S", 0.01)
    with pytest.raises(ObdError, match="another change"):
        works.do(work, thing)
    assert works.do(lambda: "of another thing", Thing()) == "of another thing"
    go.set()
    thread.join()
    assert results == ["done"]
    go.clear()
    monkeypatch.setattr("obd.api.work.LIMIT_S", 0.01)
    for _ in range(MAX_WORKS):
        with pytest.raises(ObdError, match="it goes on"):
            works.do(work)
    with pytest.raises(ObdError, match=f"{MAX_WORKS} changes"):
        works.do(work)
    assert MAX_WORKS < MAX_THREADS
    go.set()
    monkeypatch.setattr("obd.api.work.LIMIT_S", 20)
    with pytest.raises(ZeroDivisionError):
        while True:
            with contextlib.suppress(ObdError):
                works.do(lambda: 1 // 0)


class Thing:
    """What works are done of."""


COMPATIBLE = '{{\n        "success": {},\n        "message": "{}"\n}}'


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_what_upstream_answers_to_the_byte(api: Running, method: str) -> None:
    client = api.client
    good = api.next_config(method)
    wanted = [
        ("/snapshot", 400, "false", "Missing dev_id or config in snapshot request"),
        ("/snapshot?dev_id=id-1", 400, "false", "Missing dev_id or config in snapshot request"),
        ("/snapshot?dev_id=&config=/x", 400, "false", "Missing dev_id or config in snapshot request"),
        ("/snapshot?dev_id=other&config=/x", 404, "false", "Image file not found"),
        ("/snapshot?dev_id=id-1&config=/no/such", 500, "false", "Failed to create snapshot`"),
        (f"/snapshotx?config={good}&dev_id=id%2D1", 200, "true", "Snapshot created successfully"),
    ]
    for target, status, success, message in wanted:
        reply = client.ask(method, target)
        assert (reply.status, reply.body.decode()) == (status, COMPATIBLE.format(success, message)), target
        assert "content-type" not in reply.headers
        assert reply.headers["content-length"] == str(len(reply.body))
        assert reply.headers.get("connection") is None
        if method == "GET":
            client.described.check(method, "/snapshot", status, None, reply.body)
    assert api.device.config.upper.data == str(api.directory / f"{method}.data")


def test_an_id_of_two_devices_is_of_neither(api: Running) -> None:
    api.observer.overview.add("twin", api.device, "", "id-1")
    reply = api.client.ask("GET", f"/snapshot?dev_id=id-1&config={api.next_config()}")
    assert reply.status == 500 and api.device.config.upper.data.endswith("/upper.data")


def test_who_cannot_be_told_takes_no_snapshot_by_tcp(api: Running) -> None:
    assert api.observer.api is not None
    guard = Guard(api.observer.api.routes.answer, None, "127.0.0.1")
    query = {"dev_id": "id-1", "config": str(api.next_config())}
    answer = guard(Request("GET", "/snapshot", query, headers={"host": "localhost"}))
    api.client.described.check("GET", "/snapshot", answer.status, None, answer.body)
    assert answer.status == 403 and api.device.config.upper.data.endswith("/upper.data")


def test_what_is_not_there(api: Running) -> None:
    for method, path, status in (
        ("GET", "/", 404),
        ("GET", "/v1", 404),
        ("GET", "/v1/devices/a/b/c", 404),
        ("POST", "/v1/stat", 405),
        ("BREW", "/v1/stat", 405),
    ):
        reply = api.client.ask(method, path)
        assert reply.status == status and set(reply.json) == {"error", "message"}
    assert api.client.ask("POST", "/v1/devices/x/trace").headers["allow"] == "GET"
    assert api.client.ask("HEAD", "/v1/stat").body == b""
