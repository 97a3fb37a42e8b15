"""What sources remember: for how long, failures too, and one question for many who ask."""

import logging
import threading

import pytest

from obd.credentials import Credential
from obd.credentials.memory import ANSWER_S, FAILURE_S, FRESH_S, MAX_ANSWERS, Answer, Memory
from obd.credentials.server import MAX_REQUESTS, ServerCredentials
from obd.credentials.source import LookupFailed, Source


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Asked:
    """Answers with the number of times that it was asked, or fails."""

    def __init__(self, *, life_s: float = ANSWER_S, key: object = None) -> None:
        self.count = 0
        self.fail = False
        self.answer = {"life_s": life_s, "key": key}

    def __call__(self) -> Answer[int]:
        self.count += 1
        if self.fail:
            raise LookupFailed(f"failure {self.count}")
        return Answer(self.count, **self.answer)  # type: ignore[arg-type]


def test_answers_and_failures_are_kept_for_seconds() -> None:
    clock, ask = Clock(), Asked()
    memory: Memory[int] = Memory(clock)
    assert [memory.get(["a"], ask), memory.get(["a"], ask), memory.get(["b"], ask)] == [1, 1, 2]
    clock.now += ANSWER_S
    assert memory.get(["a"], ask) == 3
    ask.fail = True
    for _ in range(2):
        with pytest.raises(LookupFailed, match="failure 4"):
            memory.get(["c"], ask)
    ask.fail = False
    clock.now += FAILURE_S
    assert memory.get(["c"], ask) == 5


def test_what_is_forgotten_is_asked_again_unless_it_is_fresh() -> None:
    clock, ask = Clock(), Asked()
    memory: Memory[int] = Memory(clock)
    assert memory.get(["a"], ask) == 1
    memory.forget(["a"])
    assert memory.get(["a"], ask) == 1
    clock.now += FRESH_S
    memory.forget(["a"])
    assert memory.get(["a"], ask) == 2
    memory.clear()
    assert memory.get(["a"], ask) == 3


def test_no_more_is_kept_than_there_is_use_for() -> None:
    clock, ask = Clock(), Asked()
    memory: Memory[int] = Memory(clock)
    for number in range(2 * MAX_ANSWERS):
        memory.get([number], ask)
        assert len(memory._kept) <= MAX_ANSWERS
    clock.now += ANSWER_S
    memory.get(["a"], ask)
    assert len(memory._kept) == 1, "what has expired is gone"


def test_an_answer_may_be_for_a_wider_key() -> None:
    clock = Clock()
    memory: Memory[int] = Memory(clock)
    ask = Asked(key="host", life_s=60)
    assert [memory.get([image, "host"], ask) for image in ("a", "b", "c")] == [1, 1, 1]
    clock.now += 59
    assert memory.get(["d", "host"], ask) == 1
    clock.now += 1
    assert memory.get(["d", "host"], ask) == 2


def test_many_who_ask_the_same_ask_once() -> None:
    memory: Memory[int] = Memory()
    started, go = threading.Event(), threading.Event()
    asked = Asked()

    def slow() -> Answer[int]:
        started.set()
        assert go.wait(10)
        return asked()

    got: list[int] = []
    threads = [threading.Thread(target=lambda: got.append(memory.get(["a"], slow))) for _ in range(20)]
    for thread in threads:
        thread.start()
    assert started.wait(10)
    go.set()
    for thread in threads:
        thread.join(10)
    assert got == [1] * 20 and asked.count == 1


class Flaky(Source):
    """Fails with what it is told, or answers."""

    def __init__(self) -> None:
        super().__init__("the source")
        self.error: Exception | None = None

    def ask(self, blob_url: str) -> Credential | None:
        if self.error:
            raise self.error
        return Credential("u", "p")


def test_a_failure_is_anonymous_access_and_one_line(caplog: pytest.LogCaptureFixture) -> None:
    source = Flaky()
    first, second = (f"https://h/v2/{name}/blobs/sha256:00" for name in ("a", "b"))
    with caplog.at_level(logging.WARNING):
        source.error = LookupFailed("out of order")
        assert [source.lookup(url) for url in (first, first, second, second)] == [None] * 4
        assert [r.getMessage() for r in caplog.records] == [
            "credentials: the source: out of order; access is anonymous"
        ]
        assert source.describe() == "the source (failed: out of order)"
        source.error = None
        assert source.lookup(first) == source.lookup(second) == Credential("u", "p")
        assert source.describe() == "the source"
        # What nobody thought of does not end a read either, and its text is not trusted.
        source.error = RuntimeError("hunter2")
        assert source.lookup(first) is None
    assert "RuntimeError" in caplog.text
    assert "hunter2" not in caplog.text + source.describe()


class Hanging(ServerCredentials):
    """Answers nobody before `go`."""

    def __init__(self) -> None:
        super().__init__("the server", timeout_s=0.1, raw_url=False)
        self.go = threading.Event()
        self.asked = threading.Semaphore(0)

    def fetch(self, query: str) -> tuple[int, bytes]:
        self.asked.release()
        self.go.wait(30)
        return 500, b""


def test_requests_that_hang_are_few() -> None:
    """A name server that is gone may hold a request for minutes: no time limit of a socket ends that."""
    source = Hanging()
    for number in range(MAX_REQUESTS + 3):
        assert source.lookup(f"https://h/v2/{number}/blobs/sha256:00") is None
    for _ in range(MAX_REQUESTS):
        assert source.asked.acquire(timeout=20)
    assert not source.asked.acquire(blocking=False)
    assert "too many requests without an answer" in source.describe()
    source.go.set()
