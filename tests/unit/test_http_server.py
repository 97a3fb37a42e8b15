"""The small HTTP server: bounds hold, and one client does not stop it."""

import contextlib
import os
import random
import re
import select
import socket
import threading
from collections.abc import Iterator

import pytest

from obd.http_server import (
    MAX_BODY_BYTES,
    MAX_HEAD_BYTES,
    MAX_PARAMETERS,
    MAX_THREADS,
    Answer,
    Handler,
    HttpServer,
    Request,
    _Exchange,
    _Server,
)

PATIENCE_S = 20.0
# Of a request for /wait: it is being answered; it may be.
WAITING, GO = threading.Event(), threading.Event()


def handle(request: Request) -> Answer:
    if request.path == "/wait":
        WAITING.set()
        GO.wait(PATIENCE_S)
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
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 40000 + b"\r\n\r\n", b"431", None),
        (b"GET / HTTP/1.1\r\n" + b"X: x\r\n" * 200 + b"\r\n", b"431", None),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", b"400", None),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"400", None),
        (b"POST /a HTTP/1.0\r\nContent-Length: " + b"0" * 20 + b"3\r\n\r\nabc", b"200", b"POST /a [] 3"),
        (b"POST / HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", b"413", None),
        (b"BREW /pot HTTP/1.0\r\n\r\n", b"200", b"BREW /pot [] 0"),
        (b"GET http://[ HTTP/1.0\r\n\r\n", b"400", None),
        (b"nonsense\r\n\r\n", b"400", None),
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


def test_a_refused_client_reads_the_answer_however_much_it_sends(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("obd.http_server.DRAIN_S", PATIENCE_S)
    head = b"POST /a HTTP/1.1\r\nContent-Length: 30000000\r\n\r\n"
    assert exchange(address, head + bytes(30_000_000)).split()[1] == b"413"


def ask(client: socket.socket, path: str) -> bytes:
    """An answer by a connection that stays."""
    client.sendall(f"GET {path} HTTP/1.1\r\n\r\n".encode())
    answer = bytearray()
    while not answer.endswith(b"] 0"):
        piece = client.recv(65536)
        if not piece:
            break
        answer += piece
    return bytes(answer)


def test_idle_clients_make_room_and_busy_ones_do_not(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("obd.http_server.IDLE_S", 10 * PATIENCE_S)
    # For the connection that has to go: if it takes longer, another one has to go, too.
    monkeypatch.setattr("obd.http_server.POLL_S", PATIENCE_S)
    clients = [socket.create_connection(address, timeout=PATIENCE_S) for _ in range(MAX_THREADS)]
    for client in clients:
        assert b" 200 " in ask(client, "/a")
    clients[0].sendall(b"GET /wait HTTP/1.1\r\n\r\n")
    assert WAITING.wait(PATIENCE_S)
    with socket.create_connection(address, timeout=PATIENCE_S) as another:
        assert b" 200 " in ask(another, "/b")
    # The one that had been idle longest: which that is the server's threads may see in another order.
    (gone,), _, _ = select.select(clients[1:], [], [], PATIENCE_S)
    assert gone.recv(1) == b""
    GO.set()
    assert b" 200 " in clients[0].recv(65536)
    for client in clients:
        client.close()


def test_a_slow_client_is_given_up_and_delays_nobody(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("obd.http_server.TIMEOUT_S", 0.5)
    with socket.create_connection(address, timeout=PATIENCE_S) as slow:
        ended, answer = threading.Event(), bytearray()

        def trickle() -> None:
            with contextlib.suppress(OSError):
                for byte in b"GET /a HTTP/1.1\r\nX: " + b"x" * 10_000:
                    slow.send(bytes([byte]))
                    if ended.wait(0.05):
                        break

        thread = threading.Thread(target=trickle)
        thread.start()
        assert exchange(address, b"GET /b HTTP/1.0\r\n\r\n").endswith(b"GET /b [] 0")
        with contextlib.suppress(OSError):
            while piece := slow.recv(65536):
                answer += piece
        ended.set()
        thread.join()
    assert b" 408 " in answer


class Once(_Server):
    """A server without a listener, for one connection at a time in this thread."""

    def __init__(self, handle: Handler) -> None:
        a, self.other = socket.socketpair()
        super().__init__(a, handle)

    def feed(self, data: bytes) -> bytes:
        """What a client gets that sends `data` and no more."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            sender = threading.Thread(target=self._send, args=(theirs, data))
            sender.start()
            _Exchange(ours, ("local", 0), self)
            ours.shutdown(socket.SHUT_RDWR)
            sender.join()
            answer = bytearray()
            with contextlib.suppress(ConnectionResetError):
                while piece := theirs.recv(65536):
                    answer += piece
            return bytes(answer)

    @staticmethod
    def _send(theirs: socket.socket, data: bytes) -> None:
        with contextlib.suppress(OSError):
            theirs.sendall(data)
            theirs.shutdown(socket.SHUT_WR)


SEEDS = (
    b"GET /v1/stat?a=b&c=%20 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer abc\r\n\r\n",
    b"POST /v1/x HTTP/1.1\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nhelloGET / HTTP/1.0\r\n\r\n",
    b"PUT /%2F%00/[ HTTP/1.1\r\nHost: [::1]:80\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n1",
    b"HEAD // HTTP/1.0\r\nX: a\r\n b\r\n\r\n",
)
PIECES: tuple[bytes, ...] = (
    b"\r\n",
    b"\n",
    b"\0",
    b"\xff\xfe",
    b" ",
    b":",
    b"%",
    b"HTTP/9.9",
    b"HTTP/1.1",
    b"Content-Length: 7\r\n",
)
PIECES += (
    b"Content-Length: 99999999999999999999\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"x" * 9000,
    b"[",
    b"//",
)
# What the server answers at all: nothing that a client sends is an error of the server.
STATUSES = {100, 200, 400, 408, 413, 414, 431, 505}


def mutated(chance: random.Random) -> bytes:
    """Requests with pieces taken out, put in and exchanged."""
    data = bytearray(b"".join(chance.choices(SEEDS, k=chance.randint(1, 3))))
    for _ in range(chance.randint(0, 6)):
        at = chance.randrange(len(data) + 1)
        to = min(len(data), at + chance.choice((0, 0, 1, 2, 10, 60)))
        data[at:to] = chance.choice((chance.choice(PIECES), chance.randbytes(chance.randint(0, 4)), b""))
    return bytes(data)


def test_whatever_is_sent_is_answered_within_bounds() -> None:
    chance = random.Random(int(os.environ.get("PROPTEST_RNG_SEED", "1")))
    requests: list[Request] = []

    def note(request: Request) -> Answer:
        requests.append(request)
        return Answer(200, b"ok")

    server = Once(note)
    for _ in range(3000):
        data = mutated(chance)
        for head in re.findall(rb"^HTTP/1\.1 (\d{3}) ", server.feed(data), re.MULTILINE):
            assert int(head) in STATUSES, data
    assert len(requests) > 1000
    for request in requests:
        assert len(request.body) <= MAX_BODY_BYTES and len(request.query) <= MAX_PARAMETERS
        assert len(request.path) + sum(map(len, request.headers.values())) <= MAX_HEAD_BYTES
        assert request.method and not any(c.isspace() for c in request.method + request.path)
    server.other.close()
    server.server_close()


def test_it_ends_while_all_places_are_taken() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    server = HttpServer(listener, handle, "test")
    silent = [socket.create_connection(listener.getsockname()) for _ in range(MAX_THREADS + 2)]
    server.stop()
    for client in silent:
        client.close()
