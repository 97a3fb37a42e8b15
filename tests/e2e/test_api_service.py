"""Where `serviceConfig` says: the unix socket, the loopback interface, and who is let in."""

import json
import os
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from obd.http_server import MAX_BODY_BYTES
from obd.sockets import processes
from tests.e2e.api_client import ApiClient
from tests.e2e.commands import START_S, run, serving
from tests.e2e.disks import layer
from tests.e2e.servers import free_port

pytestmark = pytest.mark.usefixtures("run_directory")

TOKEN = "0123456789abcdef0123"
NOBODY = 65534


class Host:
    """A machine with an image and a service configuration."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.token = directory / "token"
        self.token.write_text(TOKEN + "\n")
        self.token.chmod(0o600)
        image = layer(directory / "layer", bytes(1 << 20))
        (directory / "c.json").write_text(json.dumps({"lowers": [{"file": str(image)}]}))

    def write(self, **api: Any) -> Path:
        """The service configuration."""
        path = self.directory / "overlaybd.json"
        path.write_text(json.dumps({"enableAudit": False, "serviceConfig": {"enable": True, **api}}))
        return path

    @contextmanager
    def serving(self, name: str = "disk", **api: Any) -> "Iterator[subprocess.Popen[bytes]]":
        """A process that serves the image."""
        words = ("--nbd", f"unix:{self.directory / name}", "--name", name, "--service", self.write(**api))
        with serving(self.directory / "c.json", *words) as (process, _):
            yield process

    def by_tcp(self, token: str = "") -> ApiClient:
        return ApiClient(self.port, token=token)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def end(process: "subprocess.Popen[bytes]") -> str:
    """Ends a process in order; what it had to say."""
    process.send_signal(signal.SIGTERM)
    assert process.wait(START_S) == 0
    assert process.stderr is not None
    return process.stderr.read().decode()


def test_the_socket_of_the_host(host: Host, run_directory: Path) -> None:
    with host.serving(address=host.url) as process:
        path = run_directory / "api.sock"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        client = ApiClient(str(path))
        assert client.checked("GET", "/v1/health").status == 200
        assert client.checked("GET", "/v1/version").json["pid"] == process.pid
        # No token, and no right Host, is asked for here: the mode of the socket lets nobody else in.
        assert client.ask("GET", "/v1/devices", headers={"Host": "x"}).status == 200
        with host.serving("second", address=host.url) as other:
            assert "cannot listen at" in end(other)
        with host.serving("third", address="unix:") as other:
            assert "another process answers there" in end(other)
        assert client.checked("GET", "/v1/health/live").status == 200
        assert end(process) == ""
    assert not path.exists()


def test_another_socket_and_no_tcp(host: Host, tmp_path: Path, run_directory: Path) -> None:
    place = tmp_path / "my.sock"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(place))
    stale.close()  # what a killed process leaves
    with host.serving(address=f"unix:{place}") as process:
        assert ApiClient(str(place)).checked("GET", "/v1/devices").json["devices"][0]["name"] == "disk"
        assert not (run_directory / "api.sock").exists()
        assert (
            f"pid={process.pid},"
            not in subprocess.run(["ss", "-ltnp"], capture_output=True, text=True).stdout
        )


def test_what_is_in_the_way_of_the_socket_stays(host: Host, tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("precious")
    with host.serving(address=f"unix:{place}") as process:
        assert "cannot listen" in end(process)
    assert place.read_text() == "precious"


def test_the_configuration_of_the_host_is_the_daemons(host: Host, run_directory: Path) -> None:
    words = ("--nbd", f"unix:{host.directory / 'nbd'}")
    with serving(host.directory / "c.json", *words):
        (pid,) = processes()
        assert (
            ApiClient(str(run_directory / "processes" / f"{pid}.sock")).checked("GET", "/v1/health").status
            == 200
        )
        assert not (run_directory / "api.sock").exists()


def test_by_tcp_with_the_token_alone(host: Host) -> None:
    with host.serving(address=host.url, tokenFile=str(host.token)):
        assert host.by_tcp(TOKEN).checked("GET", "/v1/devices").status == 200
        for wrong in ("", TOKEN[:-1], TOKEN + "0", "\xff"):
            reply = host.by_tcp(wrong).checked("GET", "/v1/devices")
            assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer")
        basic = host.by_tcp().ask("GET", "/v1/devices", headers={"Authorization": f"Basic {TOKEN}"})
        assert basic.status == 401
        # Another token counts at once, and the old one no more.
        host.token.write_text("f" * 32)
        assert host.by_tcp(TOKEN).ask("GET", "/v1/devices").status == 401
        assert host.by_tcp("f" * 32).ask("GET", "/v1/devices").status == 200
        host.token.chmod(0o644)
        assert host.by_tcp("f" * 32).ask("GET", "/v1/devices").status == 401


def test_by_tcp_without_a_token_there_is_upstreams_route_alone(host: Host) -> None:
    with host.serving(address=host.url):
        for token in ("", TOKEN):
            assert host.by_tcp(token).ask("GET", "/v1/health").status == 403
        reply = host.by_tcp().ask("GET", "/snapshot?dev_id=x&config=/x")
        assert reply.status == 404 and reply.json["message"] == "Image file not found"
        reply = host.by_tcp().ask("GET", "/other")
        assert (reply.status, reply.body) == (404, b"")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_other_users_take_no_snapshots(host: Host) -> None:
    with host.serving(address=host.url, tokenFile=str(host.token)):
        command = [
            "curl",
            "-sS",
            "-w",
            " %{http_code}",
            f"{host.url}/snapshot?dev_id=x&config=/x",
        ]
        mine = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert mine.endswith(" 404")
        other = subprocess.run(
            command, capture_output=True, text=True, check=True, user=NOBODY, cwd="/"
        ).stdout
        assert other.endswith(" 403") and '"success": false' in other
        header = ["-H", f"Authorization: Bearer {TOKEN}"]
        trusted = subprocess.run(
            [*command, *header], capture_output=True, text=True, check=True, user=NOBODY, cwd="/"
        )
        assert trusted.stdout.endswith(" 404")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_client_that_is_gone_already_is_nobody(host: Host) -> None:
    """The kernel lists the connection that it leaves as root's."""
    with host.serving(address=host.url) as process:
        request = "GET /snapshot?dev_id=x&config=/x HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n"
        script = f'exec 3<>/dev/tcp/127.0.0.1/{host.port}; printf "{request}" >&3; exec 3>&-'
        subprocess.run(["bash", "-c", script], check=True, user=NOBODY, cwd="/")
        assert process.stderr is not None
        assert b"by another user: refused" in process.stderr.readline()


def test_pages_of_browsers_get_nothing(host: Host) -> None:
    with host.serving(address=host.url, tokenFile=str(host.token)):
        client = host.by_tcp(TOKEN)
        good = [f"127.0.0.1:{host.port}", f"localhost:{host.port}", f"[::1]:{host.port}", "LOCALHOST"]
        bad = [
            "evil.example",
            f"evil.example:{host.port}",
            "127.0.0.1.evil.example",
            "",
            "[",
            "localhost, evil",
        ]
        for name, status in [*((one, 200) for one in good), *((one, 403) for one in bad)]:
            assert client.ask("GET", "/v1/health", headers={"Host": name}).status == status, name
            snapshot = client.ask("GET", "/snapshot?dev_id=x&config=/x", headers={"Host": name})
            assert snapshot.status == (404 if status == 200 else 403), name
        for name, value in (("Origin", host.url), ("Origin", "null"), ("Sec-Fetch-Site", "cross-site")):
            reply = client.ask("POST", "/v1/reload", headers={name: value})
            assert reply.status == 403
            assert not any(header.startswith("access-control") for header in reply.headers)
        assert client.ask("OPTIONS", "/v1/health", headers={"Origin": "http://x"}).status == 403


def test_bounds_of_requests(host: Host) -> None:
    with host.serving(address=host.url, tokenFile=str(host.token)):
        client = host.by_tcp(TOKEN)
        assert client.ask("POST", "/v1/devices", bytes(MAX_BODY_BYTES + 1)).status == 413
        assert client.ask("GET", "/v1/health", headers={"X": "x" * 40_000}).status == 431
        curl = ["curl", "-sS", "-H", f"Authorization: Bearer {TOKEN}", "-w", "%{http_code}", "-o", os.devnull]
        curl += ["--data-binary", "@-", f"{host.url}/v1/devices"]
        done = subprocess.run(curl, input=bytes(5 << 20), capture_output=True, check=False)
        assert done.stdout == b"413", done.stderr


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [
        ("short", 0o600, "one word of 16"),
        (TOKEN, 0o640, "chmod 600"),
        (f"{TOKEN} {TOKEN}", 0o600, "one word"),
        (None, 0, "No such file"),
    ],
)
def test_a_token_that_is_none(host: Host, content: str | None, mode: int, message: str) -> None:
    if content is None:
        host.token.unlink()
    else:
        host.token.write_text(content)
        host.token.chmod(mode)
    with host.serving(address=host.url, tokenFile=str(host.token)) as process:
        said = end(process)
        assert "serviceConfig.tokenFile" in said and message in said and TOKEN not in said
        with pytest.raises(ConnectionRefusedError):
            host.by_tcp(TOKEN).ask("GET", "/v1/health")


@pytest.mark.parametrize(
    "address",
    ["http://0.0.0.0:9862", "http://10.0.0.1:80", "http://h.example:80", "https://127.0.0.1:1", "unix:x"],
)
def test_only_this_machine(host: Host, address: str) -> None:
    done = run(
        "obd",
        "serve",
        "--nbd",
        "unix:/x",
        "--service",
        host.write(address=address),
        host.directory / "c.json",
    )
    assert done.status == 255 and "serviceConfig.address" in done.err


def test_ipv6(host: Host) -> None:
    with host.serving(address=f"http://[::1]:{host.port}", tokenFile=str(host.token)):
        url = f"http://[::1]:{host.port}/snapshot?dev_id=x&config=/x"
        done = subprocess.run(["curl", "-sSg", url], capture_output=True, text=True, check=True)
        assert "Image file not found" in done.stdout
