"""Every scenario of the table: an image is opened and read, and what comes of it is what the table says."""

import importlib
import json
import logging
import random
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import obd
import obdcore
from obd.errors import ObdError
from obd.image import Device
from obd.service import Service
from tests.e2e.commands import sha256
from tests.e2e.faults import document
from tests.e2e.faults.scenario import Fails, Outcome, Right, Scenario
from tests.e2e.faults.scenarios import SECTIONS
from tests.e2e.faults.site import PASSWORD, USER, Site
from tests.e2e.tls import Authority

DISK_BYTES = 3 << 20
READ_BYTES = 1000
CHUNK_BYTES = 64 << 10
# Nothing takes longer than one deadline of 30 s for each request that opening an image makes; all of them
# together do on a busy machine.
PATIENCE_S = 300.0
# The first test is done when all scenarios are.
pytestmark = pytest.mark.timeout(400)
# Most requests that the reading of one piece may cost, whatever happens.
MOST_REQUESTS = 45
# Scenarios at a time: most of their time they wait.
SIDE_BY_SIDE = 48


@dataclass(frozen=True)
class Layer:
    """A compressed layer, and the disk that is in it."""

    disk: bytes
    blob: bytes
    digest: str
    authority: Authority


@dataclass(frozen=True)
class Case:
    """One way to try a scenario."""

    section: str
    scenario: Scenario
    lasting: bool
    when: str

    @property
    def outcome(self) -> Outcome:
        outcome = self.scenario.lasting if self.lasting else self.scenario.once
        assert outcome
        return outcome

    def __str__(self) -> str:
        return f"{self.section}: {self.scenario.name}: {'always' if self.lasting else 'passing'}, {self.when}"


CASES = [
    Case(section.title, scenario, lasting, when)
    for section in SECTIONS
    for scenario in section.scenarios
    for lasting in (False, True)
    for when in scenario.when
    if (scenario.lasting if lasting else scenario.once)
]


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Layer:
    disk = random.Random(7).randbytes(DISK_BYTES)
    home = tmp_path_factory.mktemp("layer")
    (home / "disk").write_bytes(disk)
    with (home / "disk").open("rb") as source, (home / "layer").open("xb") as target:
        obdcore.lsmt_import(
            source.fileno(), DISK_BYTES, target.fileno(), compress={"algorithm": "lz4"}, tar=True
        )
    blob = (home / "layer").read_bytes()
    return Layer(disk, blob, f"sha256:{sha256(blob)}", Authority(home / "tls"))


class Lines(logging.Handler):
    """All that was logged, by anybody."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.text: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.text.append(record.getMessage())


@pytest.fixture(scope="module")
def log() -> Iterator[Lines]:
    lines = Lines()
    root = logging.getLogger()
    level = root.level
    root.addHandler(lines)
    root.setLevel(logging.DEBUG)
    yield lines
    root.removeHandler(lines)
    root.setLevel(level)


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest, layer: Layer, log: Lines, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, "Future[None]"]]:
    """What came of each case that was chosen: all of them run side by side, since they mostly wait."""
    # What is imported late is imported now: pytest changes the filters of warnings between tests, and threads
    # share them.
    importlib.import_module("obd.token")
    home = tmp_path_factory.mktemp("faults")
    chosen = [item.callspec.params.get("case") for item in request.session.items if hasattr(item, "callspec")]
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        cases = [case for case in chosen if isinstance(case, Case)]
        # Those that take longest begin first.
        cases.sort(key=lambda case: "timed-out" not in str(case.outcome))
        begun = {
            str(case): pool.submit(run, case, layer, log, home / str(number))
            for number, case in enumerate(cases)
        }
        # Before any test goes on: pytest notes in the environment where it is, and threads read that.
        wait(begun.values(), PATIENCE_S)
        yield begun


@pytest.mark.parametrize("case", CASES, ids=str)
def test_scenario(case: Case, outcomes: dict[str, "Future[None]"]) -> None:
    assert outcomes[str(case)].done(), "takes too long"
    outcomes[str(case)].result()


def test_the_document_tells_what_is_tested() -> None:
    assert document.FILE.read_text() == document.render(), f"write it anew: python -m {document.__name__}"


def test_no_secret_is_logged(outcomes: dict[str, "Future[None]"], log: Lines) -> None:
    for outcome in outcomes.values():
        assert outcome.done()
    assert [line for line in log.text if "hidden" in line] == []


def run(case: Case, layer: Layer, log: Lines, home: Path) -> None:
    """Opens the image at a site that behaves as the scenario says, reads, and has it recover at the end."""
    home.mkdir()
    scenario = case.scenario
    with Site(layer.blob, layer.digest, authority=layer.authority, **scenario.site) as site:
        settings = scenario.prepare(site) if scenario.prepare else None
        service = Service(service_file(home, site, settings or {}))
        config = image_file(home, site)
        if case.when == "open":
            scenario.start(site, case.lasting)
            device = opened(case, site, config, service)
        else:
            device = obd.open(config, service)
            scenario.start(site, case.lasting)
        before = sum(script.seen for script in site.scripts.values())
        if device:
            with device:
                read(case, site, device, layer)
                assert sum(script.seen for script in site.scripts.values()) - before <= MOST_REQUESTS
                if case.lasting or isinstance(case.outcome, Fails):
                    site.heal()
                # Whatever happened, nothing wrong was kept and nothing is left undone.
                assert device.read(0, DISK_BYTES) == layer.disk
        elif scenario.heals:
            site.heal()
            with obd.open(config, service) as device:
                assert device.read(0, DISK_BYTES) == layer.disk
        if scenario.logs:
            logged = site.shown(scenario.logs)
            assert any(logged in line for line in log.text), f"nothing about {logged} in the log"
        # What is another's is not shown to it.
        for part in ("store", "mirror"):
            assert set(site.authorizations[part]) <= {""}, part


def opened(case: Case, site: Site, config: Path, service: Service) -> Device | None:
    """The device, or none after the failure that was announced."""
    result = config.with_name("result")
    if isinstance(case.outcome, Right):
        device = obd.open(config, service)
        assert result.read_text() == "success"
        return device
    try:
        obd.open(config, service).close()
    except ObdError as error:
        check(case.outcome, site, error)
        assert result.read_text().startswith("failed:")
        assert "hidden" not in result.read_text()
    else:
        raise AssertionError("the image was opened")
    return None


def read(case: Case, site: Site, device: Device, layer: Layer) -> None:
    """Reads a piece, with the outcome that was announced."""
    offset = case.scenario.offset
    before = sum(script.seen for script in site.scripts.values())
    if isinstance(case.outcome, Right):
        assert device.read(offset, READ_BYTES) == layer.disk[offset : offset + READ_BYTES]
        if case.scenario.free:
            assert device.statistics()["layers"][0]["failures"] == 0
        return
    try:
        device.read(offset, READ_BYTES)
    except obdcore.Error as error:
        check(case.outcome, site, error)
        cost = sum(script.seen for script in site.scripts.values()) - before
        assert cost in (case.scenario.requests or cost,)
    else:
        raise AssertionError("the bytes were read")


def check(outcome: Fails, site: Site, error: Any) -> None:
    """The error is the one that was announced, names what it is about, and holds no secret."""
    line = str(error)
    assert error.kind == outcome.kind, line
    for piece in (site.blob_url, *map(site.shown, outcome.says)):
        assert piece in line, f"no {piece!r} in: {line}"
    # Which credentials were tried; but not for bytes that came and are wrong.
    assert "(credentials: file " in line or "(anonymous: " in line or "checksum" in line or "magic" in line, (
        line
    )
    assert "hidden" not in line and "\n" not in line, line


def service_file(home: Path, site: Site, settings: dict[str, Any] | Any) -> Path:
    """The service configuration: a cache of its own, and who we are."""
    (home / "cred.json").write_text(
        json.dumps({"auths": {site.host: {"username": USER, "password": PASSWORD}}})
    )
    path = home / "overlaybd.json"
    cache = {
        "cacheType": "file",
        "cacheDir": str(home / "cache"),
        "cacheSizeGB": 1,
        "refillSize": CHUNK_BYTES,
    }
    credentials = {"mode": "file", "path": str(home / "cred.json")}
    # How a fault ends is to be seen; that an outage is waited for is the matter of another test.
    own = {"cacheConfig": cache, "credentialConfig": credentials, "outageTimeout": 0}
    path.write_text(json.dumps({**own, **settings}))
    return path


def image_file(home: Path, site: Site) -> Path:
    """The image configuration: one layer, in the registry."""
    path = home / "config.v1.json"
    lower = {"digest": site.digest, "size": len(site.data)}
    document = {"repoBlobUrl": site.repository_url, "lowers": [lower], "resultFile": str(home / "result")}
    path.write_text(json.dumps(document))
    return path
