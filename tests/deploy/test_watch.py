"""The pod that labels its node: what it tells the cluster, probes and Prometheus, and when."""

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from obd.exporter import listen
from obd.http_server import Answer, HttpServer
from obd.snapshotter.metrics import CONTENT_TYPE, Calls
from tests.deploy.programs import program

watch = program("watch")


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    """Serves; gives the port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Cluster:
    """The API of a cluster: remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, dict[str, Any]]] = []
        self.status = 200

    def handler(cluster) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def do_PATCH(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.headers["Content-Type"] == "application/merge-patch+json"
                if cluster.status == 200:
                    cluster.told.append((self.path, self.headers["Authorization"], json.loads(body)))
                self.send_response(cluster.status)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler

    def labels(self) -> list[str]:
        """The labels that were set, in order."""
        return [body["metadata"]["labels"]["overlaybd.io/ready"] for _, _, body in self.told]


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def api(cluster: Cluster, tmp_path: Path) -> Iterator[Any]:
    (tmp_path / "token").write_text("first\n")
    with serving(cluster.handler()) as port:
        yield watch.Api(f"http://127.0.0.1:{port}", "node-1", tmp_path)


@contextmanager
def snapshotter() -> Iterator[int]:
    """What the snapshotter's metrics are served by; gives the port."""
    calls = Calls()
    listener = listen("127.0.0.1", 0)
    port: int = listener.getsockname()[1]
    server = HttpServer(listener, lambda _: Answer(200, calls.text(), CONTENT_TYPE), "exporter")
    try:
        yield port
    finally:
        server.stop()


def get(port: int, path: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_label_follows_the_service(cluster: Cluster, api: Any, tmp_path: Path) -> None:
    with snapshotter() as port:
        seen = watch.Watch({"snapshotter": port}, api)
        seen.turn()
        seen.turn()
        assert cluster.labels() == ["true"]
    (tmp_path / "token").write_text("second\n")
    seen.turn()
    seen.turn()
    assert cluster.labels() == ["true"], "a restart is no reason to send pods elsewhere"
    seen.turn()
    assert cluster.labels() == ["true", "false"]
    assert [path for path, _, _ in cluster.told] == ["/api/v1/nodes/node-1"] * 2
    assert [token for _, token, _ in cluster.told] == ["Bearer first", "Bearer second"]


def test_node_where_nothing_answers_is_not_ready_from_the_start(
    cluster: Cluster, api: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with snapshotter() as port, snapshotter() as closed:
        pass
    seen = watch.Watch({"snapshotter": port, "devices": closed}, api)
    seen.turn()
    assert (cluster.labels(), seen.ready, seen.alive) == (["false"], False, True)
    assert f"snapshotter does not answer at 127.0.0.1:{port}: " in capsys.readouterr().err
    seen.turn()
    assert capsys.readouterr().err == "", "nothing new is not told again"


def test_all_services_have_to_answer(cluster: Cluster, api: Any) -> None:
    with snapshotter() as closed:
        pass
    with snapshotter() as port:
        watch.Watch({"snapshotter": port, "devices": closed}, api).turn()
    assert cluster.labels() == ["false"]


def test_cluster_that_does_not_listen_is_told_again(
    cluster: Cluster, api: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with snapshotter() as port:
        seen = watch.Watch({"snapshotter": port}, api)
        cluster.status = 403
        seen.turn()
        assert "overlaybd.io/ready=true" in capsys.readouterr().err
        cluster.status = 200
        seen.turn()
    assert cluster.labels() == ["true"]


def test_label_that_somebody_took_away_comes_back(
    cluster: Cluster, api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "AGAIN_S", 0.0)
    with snapshotter() as port:
        seen = watch.Watch({"snapshotter": port}, api)
        seen.turn()
        seen.turn()
    assert cluster.labels() == ["true", "true"]


def test_probes_and_metrics(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with snapshotter() as port:
        seen = watch.Watch({"snapshotter": port}, api)
        with serving(watch.handler(seen)) as own:
            assert get(own, "/healthz")[0] == 200
            assert get(own, "/readyz")[0] == 503
            seen.turn()
            assert get(own, "/readyz")[0] == 200
            status, text = get(own, "/metrics/snapshotter")
            assert status == 200
            assert b"is_alive 1.0" in text
            for path in ("/metrics/devices", "/metrics", "/", "/metrics/../metrics/snapshotter"):
                assert get(own, path)[0] == 404
            monkeypatch.setattr(watch, "STUCK_S", 0.0)
            assert get(own, "/healthz")[0] == 503
            monkeypatch.undo()
    with serving(watch.handler(seen)) as own:
        assert get(own, "/metrics/snapshotter")[0] == 502


def test_endless_metrics_are_given_up(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "MAX_BYTES", 16)
    with snapshotter() as port, pytest.raises(OSError, match="more than 16 bytes"):
        watch.fetch(port)
