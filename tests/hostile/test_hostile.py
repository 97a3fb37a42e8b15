"""Each hostile thing is refused in words, or harmless: within its memory and time, touching nothing else."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from obd.errors import ERRNO
from tests.e2e.faults.server import Exchange, Server
from tests.hostile import archives, disks, documents, indexes, layers, registries, zfiles
from tests.hostile.case import MIB, Case, Harmless, Place
from tests.hostile.watch import Seen, watch

CASES: list[Case] = [
    *(*zfiles.CASES, *layers.CASES, *archives.CASES, *documents.CASES, *registries.CASES),
    *(*disks.CASES, *indexes.CASES),
]
# The first test has all cases run.
pytestmark = pytest.mark.timeout(600)

MOST_LINES = 4
KIND = re.compile(rf"\b({'|'.join(ERRNO)}): ")
SECRET = "what nobody may read"


class Hostile:
    """All chosen cases, run; and whether the canary was asked."""

    def __init__(self, seen: dict[str, Seen], places: dict[str, Place], asked: list[str]) -> None:
        self.seen, self.places, self.asked = seen, places, asked


@pytest.fixture(scope="module")
def hostile(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hostile]:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed: nobody could say what was opened")
    chosen = [item.callspec.params.get("case") for item in request.session.items if hasattr(item, "callspec")]
    cases = [case for case in chosen if isinstance(case, Case)]
    work = tmp_path_factory.mktemp("hostile")
    decoy = work / "secret"
    decoy.write_text(SECRET)
    asked: list[str] = []

    def answer(exchange: Exchange) -> None:
        asked.append(exchange.target)
        exchange.answer(200, body=SECRET.encode())

    with ExitStack() as end:
        canary = Server(answer)
        end.callback(canary.stop)
        places = {}
        for number, case in enumerate(cases):
            (home := work / str(number)).mkdir()
            places[case.name] = Place(home, decoy, canary.url, end)
        seen = watch([(case, places[case.name]) for case in cases], work)
        yield Hostile(seen, places, asked)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_hostile(case: Case, hostile: Hostile) -> None:
    seen, place = hostile.seen[case.name], hostile.places[case.name]
    assert seen.status >= 0, f"killed by signal {-seen.status} after {seen.seconds:.1f} s: {seen.err}"
    assert "Traceback" not in seen.err and "panicked" not in seen.err, seen.err
    assert seen.touched == []
    assert seen.rss_kib * 1024 < case.rss_mib * MIB
    assert SECRET not in seen.out + seen.err
    assert all(
        each.isprintable() or each in "\n\t" or "\udc80" <= each <= "\udcff" for each in seen.out + seen.err
    )
    if isinstance(case.outcome, Harmless):
        assert seen.status == 0, seen.err
        case.outcome.check(place, seen.out)
    else:
        assert seen.status not in (0, 70), seen.out
        lines = seen.err.splitlines()
        # `obd verify` says all that it finds.
        assert 1 <= len(lines) <= MOST_LINES and all(KIND.search(line) for line in lines), seen.err
        assert case.outcome.words in seen.err
    case.also(place)
    if os.environ.get("HOSTILE_SHOW"):
        took = f"{seen.status} {seen.rss_kib >> 10} MiB {seen.seconds:.2f} s"
        print(f"{case.name}: {took}: {seen.err.strip()}{seen.out[:200].strip()}")


def test_no_server_was_asked_that_only_an_image_names(hostile: Hostile) -> None:
    assert hostile.asked == []


def test_the_names_of_cases_differ() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
