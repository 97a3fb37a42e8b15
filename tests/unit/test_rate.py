"""The limit on bytes per second, by a clock that only moves when somebody waits."""

import random

from cache.rate import BURST_S, Rate


class Time:
    def __init__(self) -> None:
        self.now = 100.0

    def wait(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


def test_the_average_is_kept_whatever_the_pieces() -> None:
    time, order, sent = Time(), random.Random(4), 0
    rate = Rate(1000, time.wait, lambda: time.now)
    for _ in range(500):
        count = order.randrange(1, 5000)
        rate.spend(count)
        sent += count
    assert sent / 1000 - BURST_S <= time.now - 100 <= sent / 1000


def test_a_pause_does_not_pay_for_a_flood() -> None:
    time = Time()
    rate = Rate(1000, time.wait, lambda: time.now)
    rate.spend(10)
    time.now += 3600
    before = time.now
    rate.spend(10_000)
    assert time.now - before >= 10 - BURST_S


def test_no_limit() -> None:
    time = Time()
    for limit in (0, -1):
        Rate(limit, time.wait, lambda: time.now).spend(1 << 40)
    assert time.now == 100
