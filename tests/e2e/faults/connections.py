"""Scenarios of connections: refused, closed, reset, silent, slow or endless, at every phase of a request."""

import socket
import threading
from collections.abc import Callable

from tests.e2e.faults.answers import GAVE_UP, ON
from tests.e2e.faults.scenario import RIGHT, Right, Scenario, Section, fails
from tests.e2e.faults.server import reset
from tests.e2e.faults.site import Call, Greeting, Site

# Long enough that the first attempts meet nobody, short enough that a later one does.
AWAY_S = 0.25


def refuse(site: Site, lasting: bool) -> None:
    """The server goes away, for a moment or for good."""
    site.registry.refuse()
    if not lasting:
        threading.Timer(AWAY_S, site.registry.listen).start()


def restart(site: Site, lasting: bool) -> None:
    """All connections are dropped, but new ones are welcome."""
    site.registry.drop_connections()


def greet(greeting: Greeting, times: int = 2) -> Callable[[Site, bool], None]:
    """Connections are dealt with before anything is read from them."""

    def breaks(site: Site, lasting: bool) -> None:
        site.greetings[:] = [] if lasting else [greeting] * times
        site.greeting = greeting if lasting else None
        # What is open already would not be greeted any more.
        site.registry.drop_connections()

    return breaks


def reset_at_once(connection: socket.socket) -> bool:
    """A reset in place of the first byte."""
    reset(connection)
    return False


def close_at_once(connection: socket.socket) -> bool:
    """The end in place of the first byte."""
    connection.close()
    return False


def half_a_head(call: Call) -> None:
    """The head, up to the middle."""
    call.x.send(b"HTTP/1.1 206 OK\r\nContent-Ra")


def half_a_body(call: Call) -> None:
    """The head and half the body."""
    call.promise()
    call.x.send(call.body[: len(call.body) // 2])


def then(first: Callable[[Call], None], end: str) -> Callable[[Call], None]:
    """Something, and then the connection ends: "close", "reset" or "hold"."""

    def fault(call: Call) -> None:
        first(call)
        getattr(call.x, end)()

    return fault


def answer_and_close(call: Call) -> None:
    """The right answer, and then the connection is closed without a word about it."""
    call.part()
    call.x.close()


def answer_and_reset(call: Call) -> None:
    """The right answer; the connection is reset once the client has taken it."""
    call.part()
    # The next request, or nothing for a while: by then the client has read the answer.
    call.x.wait_for_more()
    call.x.reset()


def nothing(call: Call) -> None:
    """Not a byte."""


def garbage(call: Call) -> None:
    """Bytes that are no HTTP."""
    call.x.send(b"\x00\xff\x16\x03\x01 garbage\r\n\r\n")
    call.x.close()


def drip_head(call: Call) -> None:
    """A head that never gets done."""
    call.x.send(b"HTTP/1.1 206 OK\r\nX: ")
    call.x.trickle(b"x" * 10_000)


def drip_body(call: Call) -> None:
    """The right head, then a byte now and then."""
    call.promise()
    call.x.trickle(call.body)


def endless_header(call: Call) -> None:
    """A header without end."""
    call.x.send(b"HTTP/1.1 206 OK\r\nX: ")
    for _ in range(64):
        call.x.send(b"x" * (1 << 20))


def endless_headers(call: Call) -> None:
    """Headers without end."""
    call.x.send(b"HTTP/1.1 206 OK\r\n")
    for _ in range(64):
        call.x.send(b"X-Filler: 0123456789abcdef\r\n" * 40_000)


def many_headers(call: Call) -> None:
    """A head of five thousand headers."""
    call.x.answer(206, [call.range(), *((f"X-{number}", "x") for number in range(5000))], call.body)


def endless_hints(call: Call) -> None:
    """Never more than that an answer will come."""
    for _ in range(1_000_000):
        call.x.send(b"HTTP/1.1 100 Continue\r\n\r\n")


SLOW = fails("timed-out", "GET {url}")
ENDLESS = fails("limit", "GET {url}", "the head of the answer is too long")
HINTS = fails("limit", "GET {url}", "answers of status 1xx only")
GONE = fails("io", GAVE_UP, "GET {url}")

CONNECTIONS = Section(
    "Connections",
    "Refused, closed, reset, silent or slow, at every phase.",
    (
        Scenario("refused", breaks=refuse, once=RIGHT, lasting=fails("io", GAVE_UP, "GET {url}")),
        Scenario("reset when accepted", breaks=greet(reset_at_once), lasting=GONE),
        Scenario("closed when accepted", breaks=greet(close_at_once), lasting=GONE),
        Scenario(
            "closed between two requests", breaks=restart, once=Right("at no cost"), when=("read",), free=True
        ),
        Scenario("closed in place of an answer", then(nothing, "close"), lasting=GONE),
        Scenario("reset in place of an answer", then(nothing, "reset"), lasting=GONE),
        Scenario("closed in the head", then(half_a_head, "close"), lasting=GONE),
        Scenario("reset in the head", then(half_a_head, "reset"), lasting=GONE),
        Scenario("reset in the body", then(half_a_body, "reset"), RIGHT, None),
        Scenario("closed after each answer", answer_and_close, lasting=Right("at no cost"), free=True),
        Scenario("reset after each answer", answer_and_reset, lasting=Right("at no cost"), free=True),
        Scenario("garbage in place of an answer", garbage, lasting=GONE),
        Scenario(
            "silence in place of an answer",
            then(nothing, "hold"),
            Right("after the time limit"),
            SLOW,
            times=1,
        ),
        Scenario(
            "silence in the head", then(half_a_head, "hold"), Right("after the time limit"), SLOW, times=1
        ),
        Scenario("silence in the body", then(half_a_body, "hold"), ON, None, times=1),
        Scenario("a head that drips", drip_head, None, SLOW),
        Scenario("a body that drips", drip_body, None, SLOW),
        Scenario("a header without end", endless_header, None, ENDLESS),
        Scenario(
            "headers without end", endless_headers, lasting=fails("io", GAVE_UP, "GET {url}", "not HTTP")
        ),
        Scenario(
            "five thousand headers", many_headers, lasting=fails("io", GAVE_UP, "GET {url}", "not HTTP")
        ),
        Scenario("`100 Continue` without end", endless_hints, None, HINTS),
    ),
)
