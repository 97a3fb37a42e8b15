"""The small HTTP server: bounds hold, and one client does not stop it."""

import socket
from collections.abc import Iterator

import pytest

from obd.http_server import MAX_BODY_BYTES, MAX_THREADS, Answer, HttpServer, Request

PATIENCE_S = 20.0


def handle(request: Request) -> Answer:
    if request.path == "/fail":
        raise ValueError("secret detail")
    return Answer(
        200, f"{request.method} {request.path} {sorted(request.query.items())} {len(request.body)}".encode()
    )


@pytest.fixture
def address() -> Iterator[tuple[str, int]]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = HttpServer(listener, handle, "test")
    where = listener.getsockname()
    yield where
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(where)


def exchange(address: tuple[str, int], data: bytes) -> bytes:
    """All that the server answers to `data` until it closes the connection."""
    with socket.create_connection(address, timeout=PATIENCE_S) as client:
        client.sendall(data)
        answer = bytearray()
        while piece := client.recv(65536):
            answer += piece
    return bytes(answer)


@pytest.mark.parametrize(
    ("request_", "status", "body"),
    [
        (b"GET /a?x=1&y=%20 HTTP/1.0\r\n\r\n", b"200", b"GET /a [('x', '1'), ('y', ' ')] 0"),
        (b"POST /a HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc", b"200", b"POST /a [] 3"),
        (b"HEAD /a HTTP/1.0\r\n\r\n", b"200", b""),
        (b"GET /fail HTTP/1.0\r\n\r\n", b"500", None),
        (
            b"POST /a HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1),
            b"413",
            None,
        ),
        (b"POST /a HTTP/1.1\r\nContent-Length: x\r\n\r\n", b"400", None),
        (b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"413", None),
        (b"GET /a?" + b"x&" * 100 + b" HTTP/1.1\r\n\r\n", b"400", None),
        (b"GET /" + b"x" * 70000 + b" HTTP/1.1\r\n\r\n", b"414", None),
    ],
)
def test_answers(address: tuple[str, int], request_: bytes, status: bytes, body: bytes | None) -> None:
    answer = exchange(address, request_)
    head, _, rest = answer.partition(b"\r\n\r\n")
    assert head.split()[1] == status, answer
    assert body is None or rest == body
    assert b"secret" not in answer


def test_silent_clients_take_no_more_than_their_places(address: tuple[str, int]) -> None:
    silent = [socket.create_connection(address) for _ in range(MAX_THREADS + 2)]
    for client in silent:
        client.close()
    assert exchange(address, b"GET /b HTTP/1.0\r\n\r\n").endswith(b"GET /b [] 0")


def test_it_ends_while_all_places_are_taken() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    server = HttpServer(listener, handle, "test")
    silent = [socket.create_connection(listener.getsockname()) for _ in range(MAX_THREADS + 2)]
    server.stop()
    for client in silent:
        client.close()
