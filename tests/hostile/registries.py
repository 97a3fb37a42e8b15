"""Registries that mean harm: bombs, endless and dripping answers, and ways to where nobody may be sent."""

import gzip
import json
import os
from collections.abc import Callable
from typing import Any

import zstandard

from tests.e2e.faults.server import Exchange
from tests.hostile.archives import ESCAPES
from tests.hostile.case import MIB, Case, Place, refused

Answer = Callable[[Place, Exchange], None]
# What takes minutes is tried by hand: HOSTILE_SLOW=1.
SLOW = bool(os.environ.get("HOSTILE_SLOW"))
USER, PASSWORD = "ann", "hidden-password"
# More than anyone's patience: the head of an answer has 30 s, and a request is tried a few times.
LONG_S = 170.0
SERVICES = (
    *("http://169.254.169.254/latest/meta-data", "http://2852039166/x", "http://0xa9.0xfe.0xa9.0xfe/x"),
    *("http://[::ffff:169.254.169.254]/x", "http://[fe80::1]/x", "http://[fd00:ec2::254]/x"),
    *("http://100.100.100.200/x", "http://224.0.0.1/x", "http://169.254.169.254./x"),
)
SCHEMES = (
    "file:///etc/passwd",
    "gopher://127.0.0.1:1/x",
    "ftp://127.0.0.1/x",
    "unix:///run/docker.sock",
    "//",
    "data:,x",
)


def credentials(place: Place) -> list[str]:
    """Options that name the credentials of all servers here."""
    return [
        "--credentials",
        place.json("cred.json", {"auths": {"127.0.0.1": {"username": USER, "password": PASSWORD}}}),
    ]


def asked_for_manifest(answer: Answer) -> Callable[[Place], list[str]]:
    """Has a registry asked for an image; every request gets this answer."""

    def command(place: Place) -> list[str]:
        server = place.server(lambda exchange: answer(place, exchange))
        return ["obd", "inspect", *credentials(place), f"http://127.0.0.1:{server.port}/a/b:c"]

    return command


def read_as_layer(answer: Answer) -> Callable[[Place], list[str]]:
    """Has a layer of a registry read; every request gets this answer."""

    def command(place: Place) -> list[str]:
        server = place.server(lambda exchange: answer(place, exchange))
        auth = place.json(
            "cred.json", {"auths": {f"127.0.0.1:{server.port}": {"username": USER, "password": PASSWORD}}}
        )
        service = {
            "credentialConfig": {"mode": "file", "path": auth},
            "cacheConfig": {"cacheType": "file", "cacheDir": f"{place.home}/cache", "cacheSizeGB": 1},
            "outageTimeout": 0,
        }
        image = {
            "repoBlobUrl": f"http://127.0.0.1:{server.port}/v2/a/b/blobs",
            "lowers": [{"digest": "sha256:" + "a" * 64, "size": 1 << 20}],
        }
        return [
            "obd",
            "verify",
            "--service",
            place.json("service.json", service),
            place.json("image.json", image),
        ]

    return command


def body(data: bytes, *headers: tuple[str, str], status: int = 200) -> Answer:
    """One answer for all."""
    return lambda place, exchange: exchange.answer(status, list(headers), data)


def leads(url: str, status: int = 307) -> Answer:
    """A redirect for all; `{canary}` is the server that nobody may ask."""

    def answer(place: Place, exchange: Exchange) -> None:
        exchange.answer(status, [("Location", url.replace("{canary}", place.canary))])

    return answer


def to_itself(place: Place, exchange: Exchange) -> None:
    """A redirect to somewhere new on itself, for ever."""
    exchange.answer(307, [("Location", f"/{len(place.seen)}")])


def realm(url: str) -> Answer:
    """A challenge for all."""

    def answer(place: Place, exchange: Exchange) -> None:
        exchange.answer(401, [("WWW-Authenticate", f'Bearer realm="{url}",service="{ESCAPES[:5]}"')], b"{}")

    return answer


def endless_body(place: Place, exchange: Exchange) -> None:
    """A body without end."""
    exchange.head(200, [("Transfer-Encoding", "chunked")])
    for _ in range(10_000):
        exchange.send(b"10000\r\n" + bytes(1 << 16) + b"\r\n")


def endless_head(place: Place, exchange: Exchange) -> None:
    """Headers without end."""
    exchange.send(b"HTTP/1.1 200 OK\r\n")
    for number in range(1_000_000):
        exchange.send(b"X-%d: x\r\n" % number * 1000)


def dripping_head(place: Place, exchange: Exchange) -> None:
    """A head that never gets done."""
    exchange.send(b"HTTP/1.1 200 OK\r\nX: ")
    exchange.trickle(b"x" * 10_000)


def dripping_body(place: Place, exchange: Exchange) -> None:
    """A body that never gets done."""
    exchange.head(200, [("Content-Length", "100000")])
    exchange.trickle(b" " * 10_000)


def in_words(place: Place, exchange: Exchange) -> None:
    """An error in words that do things to terminals and logs."""
    exchange.answer(418, body=json.dumps({"errors": [{"code": ESCAPES, "message": ESCAPES * 99}]}).encode())


def no_credential_has_left(place: Place) -> None:
    """Nobody but the registry itself has got the password, and no log has it."""
    for said in (".out", ".err"):
        assert PASSWORD not in (place.home / said).read_text()


ZEROS = zstandard.compress(bytes(256 * MIB))
BOMB = gzip.compress(bytes(256 * MIB), 9)

AT_MANIFEST: dict[str, tuple[Answer, str, dict[str, Any]]] = {
    "a gzip bomb": (body(BOMB, ("Content-Encoding", "gzip")), "limit", {}),
    "a zstd bomb": (body(ZEROS, ("Content-Encoding", "zstd")), "unsupported", {}),
    "codings upon codings": (body(BOMB, ("Content-Encoding", ", ".join(["gzip"] * 50))), "unsupported", {}),
    "no gzip": (body(b"x", ("Content-Encoding", "gzip")), "corrupt", {}),
    "a body without end": (endless_body, "limit", {}),
    "headers without end": (endless_head, "io", {}),
    **({"a head that drips": (dripping_head, "timed-out", {"seconds": LONG_S})} if SLOW else {}),
    "words with escapes": (in_words, "418", {}),
    "a redirect to another server": (leads("{canary}/x"), "307", {}),
    "a redirect to itself for ever": (to_itself, "307", {}),
    **{f"a realm of {url}": (realm(url), "", {}) for url in (*SERVICES, *SCHEMES)},
}
AT_BLOB: dict[str, tuple[Answer, str]] = {
    "a redirect to itself for ever": (to_itself, ""),
    "a gzip bomb": (body(BOMB[:100_000], ("Content-Encoding", "gzip"), status=206), ""),
    **{f"a redirect to {url}": (leads(url), "307") for url in (*SERVICES, *SCHEMES)},
    **{f"a realm of {url}": (realm(url), "") for url in SERVICES[:2]},
}


def asked_a_bounded_number_of_times(place: Place) -> None:
    """No loop."""
    no_credential_has_left(place)
    assert len(place.seen) <= 60


CASES: list[Case] = [
    *(
        refused(
            f"registry: manifest: {name}",
            words,
            asked_for_manifest(answer),
            also=asked_a_bounded_number_of_times,
            **more,
        )
        for name, (answer, words, more) in AT_MANIFEST.items()
    ),
    *(
        refused(f"registry: blob: {name}", words, read_as_layer(answer), also=asked_a_bounded_number_of_times)
        for name, (answer, words) in AT_BLOB.items()
    ),
]
