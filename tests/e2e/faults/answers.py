"""Scenarios of single answers: statuses, ranges, bodies."""

import gzip
from email.utils import formatdate
from time import time

from tests.e2e.faults.scenario import RIGHT, Right, Scenario, Section, fails
from tests.e2e.faults.site import Action, Call

GAVE_UP = "given up after 5 attempts"


def status(code: int, **headers: str) -> Action:
    """An answer without bytes of the blob."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda call: call.status(code, named, b'{"errors": []}')


def gone(code: int, kind: str, *says: str, **headers: str) -> Scenario:
    """A status that is believed at once."""
    failure = fails(kind, f"GET {{url}}: {code}", *says)
    return Scenario(f"status {code}", status(code, **headers), once=failure, lasting=failure, requests=1)


def passing(code: int) -> Scenario:
    """A status after which it is tried again."""
    return Scenario(f"status {code}", status(code), lasting=fails("io", GAVE_UP, f"GET {{url}}: {code}"))


def in_a_while(call: Call) -> None:
    """Retry-After as a date, a second from now."""
    call.status(503, {"Retry-After": formatdate(time() + 1, usegmt=True)})


def hinted(call: Call) -> None:
    """A hint that an answer will come, and then it comes."""
    call.x.head(100)
    call.part()


def linked(code: int) -> Action:
    """A link to the object store."""
    return lambda call: call.redirect(call.site.link(), code)


STATUSES = Section(
    "Statuses",
    "In place of the bytes.",
    (
        *(passing(code) for code in (408, 425, 500, 501, 502, 503, 504, 507)),
        Scenario(
            "status 429 with `Retry-After: 1`",
            status(429, Retry_After="1"),
            Right("after that second"),
            fails("busy", GAVE_UP, "GET {url}: 429"),
            times=1,
        ),
        Scenario(
            "status 503 with a date as `Retry-After`",
            in_a_while,
            lasting=fails("io", "GET {url}: 503"),
            times=1,
        ),
        Scenario(
            "status 429 with `Retry-After: 3600`",
            status(429, Retry_After="3600"),
            once=fails("busy", "GET {url}: 429", "asked to come back in 3600 s"),
            lasting=fails("busy", "GET {url}: 429", "asked to come back in 3600 s"),
        ),
        Scenario("status 429 without more", status(429), lasting=fails("busy", GAVE_UP, "GET {url}: 429")),
        gone(400, "io"),
        gone(402, "io"),
        gone(403, "denied"),
        gone(404, "not-found"),
        gone(405, "io"),
        gone(410, "io"),
        gone(418, "io"),
        gone(451, "io"),
        gone(304, "io"),
        Scenario(
            "status 416",
            status(416, Content_Range="bytes */7"),
            once=fails("out-of-bounds", "GET {url}: 416", "the blob has only 7 bytes"),
            lasting=fails("out-of-bounds", "GET {url}: 416", "the blob has only 7 bytes"),
        ),
        *(
            Scenario(
                f"status {code}",
                status(code),
                lasting=fails("corrupt", f"GET {{url}}: {code}", "not an answer to a range"),
            )
            for code in (201, 204, 207)
        ),
        Scenario(
            "status 100 before the right answer",
            hinted,
            lasting=RIGHT,
        ),
        Scenario(
            "a status that is no number",
            lambda call: call.x.send(b"HTTP/1.1 2x6 Fine\r\nContent-Length: 0\r\n\r\n"),
            lasting=fails("io", "GET {url}"),
        ),
    ),
)


def whole(call: Call) -> None:
    """The whole blob, whatever was asked for."""
    call.x.answer(200, body=call.site.data)


def elsewhere(call: Call) -> None:
    """Other bytes than those asked for, honestly said."""
    step = -1 if call.first else 1
    first, last = call.first + step, call.last + step
    call.part(call.site.data[first : last + 1], call.range(first, last))


def multipart(call: Call) -> None:
    """The range as a message of several parts."""
    _, value = call.range()
    body = b"--x\r\nContent-Range: %s\r\n\r\n%s\r\n--x--\r\n" % (value.encode(), call.body)
    call.x.answer(206, [("Content-Type", "multipart/byteranges; boundary=x")], body)


def wrong(what: str, fault: Action, *says: str) -> Scenario:
    """A 206 that contradicts the request."""
    return Scenario(what, fault, lasting=fails("corrupt", GAVE_UP, "GET {url}: 206", *says))


RANGES = Section(
    "Ranges",
    "A range of the blob was asked for, and this is what came.",
    (
        Scenario(
            "200 with the whole blob", whole, lasting=fails("corrupt", "GET {url}: 200", "ignores ranges")
        ),
        Scenario(
            "200 with the whole blob, wanted from near its start",
            whole,
            lasting=Right("what comes before is thrown away"),
            offset=300_000,
            when=("read",),
        ),
        Scenario(
            "200 with nothing but the range",
            lambda call: call.x.answer(200, body=call.body),
            lasting=fails("corrupt", "GET {url}: 200", "bytes for a blob of"),
        ),
        wrong(
            "206 without Content-Range",
            lambda call: call.x.answer(206, body=call.body),
            "206 without Content-Range",
        ),
        wrong("206 with other bytes, and it says so", elsewhere, "starts elsewhere"),
        wrong("206 that starts elsewhere", lambda call: call.part(range_=call.range(first=5)), "elsewhere"),
        wrong(
            "206 that ends later",
            lambda call: call.part(range_=call.range(last=call.last + 1)),
            "ends elsewhere",
        ),
        wrong(
            "206 that ends earlier",
            lambda call: call.part(call.body[:-1], call.range(last=call.last - 1)),
            "ends elsewhere",
        ),
        wrong(
            "206 of a longer blob",
            lambda call: call.part(range_=call.range(total=len(call.site.data) + 1)),
            "blob of another length",
        ),
        wrong(
            "206 of a blob that ends with the range",
            lambda call: call.part(range_=call.range(total=call.last + 2)),
            "blob of another length",
        ),
        wrong("206 of unknown length", lambda call: call.part(range_=call.range(total="*"))),
        wrong(
            "206 of a blob of 2⁶⁴ bytes",
            lambda call: call.part(range_=call.range(total=(1 << 64) - 1)),
            "length",
        ),
        wrong("206 with nonsense", lambda call: call.part(range_=("Content-Range", "bytes=1;2"))),
        wrong("206 in another unit", lambda call: call.part(range_=("Content-Range", "lines 1-2/3"))),
        wrong("206 of several parts", multipart, "206 without Content-Range"),
    ),
)


def cut(length: int | None) -> Action:
    """The right head and only so many bytes of body (None: half), then the end of the connection."""

    def fault(call: Call) -> None:
        call.promise()
        call.x.send(call.body[: len(call.body) // 2 if length is None else length])
        call.x.close()

    return fault


def chunked(body: bytes) -> bytes:
    """A body in two chunks."""
    half = len(body) // 2
    parts = [b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:half], body[half:]) if part]
    return b"".join(parts) + b"0\r\n\r\n"


def in_chunks(change: str, *headers: tuple[str, str]) -> Action:
    """A chunked answer: "right", "short", "long", "bad" (no number where a length should be), "huge"."""

    def fault(call: Call) -> None:
        body = {"short": call.body[:-1], "long": call.body + b"x"}.get(change, call.body)
        sent = {"bad": b"zz\r\n" + body, "huge": b"f" * 40 + b"\r\n" + body}.get(change, chunked(body))
        call.x.head(206, [call.range(), ("Transfer-Encoding", "chunked"), *headers])
        call.x.send(sent)
        if change in ("bad", "huge"):
            call.x.close()

    return fault


def until_closed(call: Call) -> None:
    """An answer without length, as HTTP/1.0 had it."""
    name, value = call.range()
    call.x.send(f"HTTP/1.0 206 OK\r\n{name}: {value}\r\n\r\n".encode() + call.body)
    call.x.close()


def packed(call: Call) -> None:
    """The range, compressed without having been asked."""
    call.x.answer(206, [call.range(), ("Content-Encoding", "gzip")], gzip.compress(call.body))


def two_lengths(call: Call) -> None:
    """Two lengths that contradict each other."""
    lengths = [("Content-Length", str(len(call.body) + extra)) for extra in (0, 1)]
    call.x.head(206, [call.range(), *lengths])
    call.x.send(call.body)
    call.x.close()


BROKE = fails("io", GAVE_UP, "GET {url}: 206: body broke off")
ON = Right("goes on where it broke off")

BODIES = Section(
    "Bodies",
    "The head of the answer is right.",
    (
        Scenario("the body ends at once", cut(0), lasting=BROKE),
        Scenario("the body ends in the middle", cut(None), ON, BROKE),
        Scenario("the body ends before its last byte", cut(-1), ON, BROKE),
        Scenario(
            "a byte less than announced",
            lambda call: call.part(call.body[:-1]),
            lasting=fails("corrupt", "bytes of body for a range of"),
        ),
        Scenario(
            "a byte more than announced",
            lambda call: call.part(call.body + b"x"),
            lasting=fails("corrupt", "bytes of body for a range of"),
        ),
        Scenario("in chunks", in_chunks("right"), lasting=RIGHT),
        Scenario(
            "in chunks, a byte less", in_chunks("short"), ON, fails("io", "GET {url}: 206: body broke off")
        ),
        Scenario(
            "in chunks, a byte more", in_chunks("long"), lasting=fails("corrupt", "longer than announced")
        ),
        Scenario("in chunks, of which one has no length", in_chunks("bad"), lasting=fails("io", "GET {url}")),
        Scenario("in chunks, of which one is endless", in_chunks("huge"), lasting=fails("io", "GET {url}")),
        Scenario("up to the end of the connection", until_closed, lasting=RIGHT),
        Scenario("two lengths", two_lengths, lasting=fails("io", "GET {url}")),
        Scenario("compressed", packed, lasting=fails("corrupt", "body is encoded as", "gzip")),
    ),
)


def to(where: str, code: int = 302) -> Action:
    """A redirect to one place, whatever was asked for."""
    return lambda call: call.redirect(where, code)


def moved(call: Call) -> None:
    """To another path of the same server, which has the bytes."""
    if call.x.path == "/moved":
        call.part()
    else:
        call.redirect("/moved?x=1")


def further(call: Call) -> None:
    """Always one more step."""
    call.redirect(f"{call.x.path}/x")


def nowhere(name: str, fault: Action) -> Scenario:
    """A redirect that is followed by nobody."""
    failure = fails("io", "GET {url}: 302")
    return Scenario(name, fault, once=failure, lasting=failure)


REDIRECTS = Section(
    "Redirects",
    "The registry sends the reader elsewhere, as it does when blobs are in an object store.",
    (
        *(
            Scenario(
                f"status {code} to an object store",
                linked(code),
                lasting=Right("the link is used until it expires"),
            )
            for code in (301, 302, 303, 307, 308)
        ),
        Scenario("to another path", moved, lasting=RIGHT),
        Scenario(
            "to itself", to(""), lasting=fails("io", "GET {url}: 302"), once=fails("io", "GET {url}: 302")
        ),
        Scenario("in a circle", lambda call: call.redirect(call.x.path), lasting=fails("io", "circles")),
        Scenario("to one place after the other", further, lasting=fails("io", "circles")),
        nowhere("without Location", status(302)),
        nowhere("to a file", to("file:///etc/passwd")),
        nowhere("to another protocol", to("ftp://127.0.0.1/x")),
        nowhere("to nonsense", to("http://[::1/x")),
        nowhere("to a port that is none", to("http://127.0.0.1:99999/x")),
        Scenario(
            "to a host that is not there",
            to("http://127.0.0.1:1/x?signature=hidden"),
            once=RIGHT,
            lasting=fails("io", "GET http://127.0.0.1:1/x"),
        ),
    ),
)
