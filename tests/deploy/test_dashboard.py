"""The dashboard asks for nothing that is not exported, by no label that is not there."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

import obd
from obd.metrics import Metrics
from obd.overview import Overview
from obd.service import Service
from obd.snapshotter.metrics import Calls
from tests.deploy.chart import CHART
from tests.e2e.commands import place

DASHBOARD: dict[str, Any] = json.loads((CHART / "dashboards/overlaybd.json").read_text())
PANELS: list[dict[str, Any]] = [each for each in DASHBOARD["panels"] if each["type"] != "row"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]

# Labels that Prometheus adds to all that it scrapes, and those of a histogram's buckets.
ADDED = {"instance", "job", "le"}
# Labels of families of which the device here has no sample.
WITHOUT_SAMPLES = {
    "overlaybd_fetch_retries": {"status"},
    "overlaybd_download_state": {"state", "layer"},
    "overlaybd_cache_used_bytes": {"directory"},
    "overlaybd_cache_capacity_bytes": {"directory"},
}
SUFFIXES = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_sum", "_count"),
}
KEYWORDS = {"by", "without", "and", "or", "unless", "on", "ignoring", "group_left", "group_right", "bool"}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, set[str]]]:
    """Names of the samples that a service of devices and a snapshotter export, with their labels."""
    room: Path = tmp_path_factory.mktemp("device")
    place(room, "lsmt/a.commit")
    config = room / "config.v1.json"
    config.write_text(json.dumps({"lowers": [{"file": str(room / "a.commit")}]}))
    (room / "overlaybd.json").write_text(
        json.dumps({"cacheConfig": {"cacheType": "file", "cacheDir": str(room / "c")}})
    )
    service = Service(room / "overlaybd.json")
    calls = Calls()
    with calls.timed("Prepare") as call:
        call.failed = True
    with obd.open(config, service) as device:
        overview = Overview(service, "test")
        overview.add("disk", device, "nbd://here")
        # The chart does without upstream's names.
        texts = (Metrics(overview, legacy=False).text(), calls.text())
    names: dict[str, set[str]] = {}
    for text in texts:
        for family in text_string_to_metric_families(text.decode()):
            labels = {label for sample in family.samples for label in sample.labels}
            for suffix in SUFFIXES[family.type]:
                names[family.name + suffix] = labels | WITHOUT_SAMPLES.get(family.name, set())
    yield names


def selectors(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Names of metrics in an expression, each with the labels by which it is chosen."""
    for name, chosen in re.findall(r"([a-zA-Z_:]\w*)\s*\{([^}]*)\}", expression):
        yield name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", chosen))
    bare = re.sub(
        r"\{[^}]*\}|\[[^\]]*\]|\b(?:by|without|on|ignoring)\s*\([^)]*\)|\"[^\"]*\"", " ", expression
    )
    for name in re.findall(r"[a-zA-Z_:]\w*(?![\w(]|\s*\()", bare):
        if name not in KEYWORDS:
            yield name, set()


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_metrics_and_labels_exist(expression: str, exported: dict[str, set[str]]) -> None:
    found = list(selectors(expression))
    assert found
    for name, chosen in found:
        assert name in exported, f"nothing exports {name}"
        assert chosen <= exported[name] | ADDED, f"{name} has no label {chosen - exported[name] - ADDED}"
    (grouped,) = {
        tuple(sorted(re.split(r",\s*", each))) for each in re.findall(r"\bby \(([^)]*)\)", expression)
    } or {()}
    for label in set(grouped) - ADDED:
        for name, _ in found:
            assert label in exported[name], f"{name} has no label {label}"


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        (
            'sum by (instance) (rate(a_total{instance=~"$node"}[5m])) / (b + on (x) c_d)',
            {"a_total", "b", "c_d"},
        ),
        ("histogram_quantile(0.99, sum by (le) (rate(h_bucket[$__rate_interval])))", {"h_bucket"}),
    ],
)
def test_names_are_found_in_expressions(expression: str, names: set[str]) -> None:
    assert {name for name, _ in selectors(expression)} == names


def test_legends_name_labels_that_are_left() -> None:
    for panel in PANELS:
        for target in panel["targets"]:
            wanted = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            grouped = set(re.split(r",\s*", ",".join(re.findall(r"\bby \(([^)]*)\)", target["expr"]))))
            if "by (" in target["expr"]:
                assert wanted <= grouped, target["expr"]


def test_counters_are_asked_for_rates() -> None:
    for expression in EXPRESSIONS:
        for name in re.findall(r"(\w+_(?:total|bucket|count))\{", expression):
            assert re.search(rf"rate\({name}\{{", expression), expression


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(numbers) == len(set(numbers))


def test_node_is_chosen_by_a_label_that_the_chart_gives() -> None:
    (node,) = [each for each in DASHBOARD["templating"]["list"] if each["name"] == "node"]
    monitor = (CHART / "templates/service.yaml").read_text()
    assert re.search(
        r"label_values\(is_alive\{job=\"overlaybd-snapshotter\"\}, instance\)", node["query"]["query"]
    )
    assert "targetLabel: instance" in monitor
    assert "replacement: overlaybd-{{ . }}" in monitor
