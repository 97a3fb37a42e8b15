"""Connections of Python's requests: a head that drips ends, and what turns out to be near is not asked."""

import gzip
from collections.abc import Iterator

import pytest

from obd.errors import ObdError
from obd.session import make_session, read_body, send
from tests.e2e.faults.server import Exchange, Server

DRIP = b"x" * 10_000
PATIENCE_S = 20.0


@pytest.fixture
def server() -> Iterator[Server]:
    def answer(exchange: Exchange) -> None:
        if exchange.path == "/drips":
            exchange.send(b"HTTP/1.1 200 OK\r\nX: ")
            exchange.trickle(DRIP)
        elif exchange.path == "/packed":
            exchange.answer(200, [("Content-Encoding", "gzip")], gzip.compress(b"content"))
        elif exchange.path == "/encoding":
            exchange.answer(200, body=exchange.headers["accept-encoding"].encode())
        else:
            exchange.answer(200, body=b"content")

    made = Server(answer)
    yield made
    made.stop()


def fetch(
    server: Server,
    path: str,
    *,
    host: str = "127.0.0.1",
    abroad: bool = False,
    silence_s: float = PATIENCE_S,
) -> bytes:
    url, timeouts_s = f"http://{host}:{server.port}{path}", (PATIENCE_S, silence_s)
    return read_body(send(make_session(abroad=abroad), "GET", url, headers={}, timeouts_s=timeouts_s))


def test_a_head_that_drips_is_given_up(server: Server) -> None:
    with pytest.raises(ObdError) as raised:
        fetch(server, "/drips", silence_s=0.5)
    assert raised.value.kind == "timed-out"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_what_only_a_server_names_may_not_be_near(server: Server, host: str) -> None:
    assert fetch(server, "/", host=host) == b"content"
    with pytest.raises(ObdError) as raised:
        fetch(server, "/", host=host, abroad=True)
    assert raised.value.kind == "denied" and "which only a configuration may name" in str(raised.value)


def test_nothing_is_asked_for_compressed_and_gzip_is_understood(server: Server) -> None:
    assert fetch(server, "/encoding") == b"identity"
    assert fetch(server, "/packed") == b"content"
