"""Ranges in order: how large steps are, how many reads are under way, and what ends with an exception."""

import random
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import pytest

from cache.pipe import MAX_STEP_BYTES, MIN_STEP_BYTES, Steps, in_order

DATA = random.Random(2).randbytes(100_001)
KIB = 1 << 10


@pytest.mark.parametrize(
    ("first", "rate", "sizes"),
    [
        # What a quick line makes of it, step by step.
        (256 * KIB, 0, [256, 512, 1024, 2048, 4096, 4096]),
        (0, 0, [64, 128, 256, 512, 1024, 2048]),
        (65 * KIB - 1, 0, [68, 136, 272, 544, 1088, 2176]),
        (1 << 40, 0, [4096, 4096]),
        (256 * KIB, 2 << 20, [256, 512, 512]),
        (256 * KIB, 1, [64, 64]),
        (256 * KIB, 1 << 40, [256, 512]),
        (256 * KIB, -1, [256, 512, 1024]),
    ],
)
def test_steps_grow_up_to_a_quarter_of_a_second_of_the_rate(
    first: int, rate: float, sizes: list[int]
) -> None:
    steps, seen = Steps(first, rate), []
    for _ in sizes:
        seen.append(steps.bytes // KIB)
        steps.took(steps.bytes, 0.2)
    assert seen == sizes
    assert (MIN_STEP_BYTES, MAX_STEP_BYTES) == (64 * KIB, 4096 * KIB)


def test_steps_shrink_to_the_first_again() -> None:
    steps, seen = Steps(68 * KIB), []
    for _ in range(3):
        steps.took(steps.bytes, 0.0)
    for _ in range(5):
        seen.append(steps.bytes // KIB)
        steps.took(steps.bytes, 3)
    assert seen == [544, 272, 136, 68, 68]


def test_only_a_whole_step_that_was_quick_or_slow_says_anything() -> None:
    steps = Steps(256 * KIB)
    for count, seconds in [(256 * KIB - 1, 0.0), (256 * KIB, 0.3), (256 * KIB, 1.9)]:
        steps.took(count, seconds)
        assert steps.bytes == 256 * KIB
    steps.took(256 * KIB + 1, 0.0)
    assert steps.bytes == 512 * KIB


class Room:
    """A piece of memory."""

    def __init__(self, size: int = 1000) -> None:
        self.view = memoryview(bytearray(size))


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as found:
        yield found


@pytest.mark.parametrize("depth", [1, 3, 200])
@pytest.mark.parametrize("start", [0, 1, 99_001, 100_001])
def test_each_byte_comes_once_and_in_order(pool: ThreadPoolExecutor, start: int, depth: int) -> None:
    under_way, most, lock = 0, 0, threading.Lock()

    def read(buffer: memoryview, offset: int) -> int:
        buffer[:] = DATA[offset : offset + len(buffer)]
        return len(buffer)

    def take() -> Room:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        return Room()

    at = start
    for piece, count, offset in in_order(pool, read, start, len(DATA), take, depth):
        assert offset == at and piece.view[:count] == DATA[offset : offset + count]
        at += count
        under_way -= 1
    assert at == len(DATA)
    assert most == min(depth, -(-(len(DATA) - start) // 1000))


@pytest.mark.parametrize("fails", [True, False])
def test_whoever_ends_early_waits_for_reads_under_way(fails: bool) -> None:
    """Nobody uses their memory before."""
    begun, go_on, done = threading.Semaphore(0), threading.Event(), list[int]()

    def read(buffer: memoryview, offset: int) -> int:
        if offset == 0:
            return 0
        begun.release()
        go_on.wait(60)
        done.append(offset)
        if fails:
            raise OSError("no")
        return len(buffer)

    with ThreadPoolExecutor(2) as two:
        steps = in_order(two, read, 0, len(DATA), Room, 4)
        assert next(steps)[2] == 0
        begun.acquire()
        begun.acquire()
        at_end = list[set[int]]()

        def end() -> None:
            if fails:
                with pytest.raises(OSError, match="no"):
                    next(steps)
            else:
                cast(Generator[object, None, None], steps).close()
            at_end.append(set(done))

        ender = threading.Thread(target=end)
        ender.start()
        go_on.set()
        ender.join()
    assert at_end[0] >= {1000, 2000} and at_end[0] == set(done)
