"""Every key of both configurations: its type is held, its name is in the message, and the document has it."""

import dataclasses
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from obd.config import ConfigError, ImageConfig, ServiceConfig, parse_image, parse_service
from obd.config.image import Lower
from obd.config.schema import Table
from obd.config.service import RegistryConfig

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "configuration.md").read_text()

# Values of each JSON type, and such as are out of any range.
VALUES: list[Any] = [None, True, 0, -1, 1 << 70, 1.5, "u:hunter2@\n", [], [1], {}, {"a": []}]
# Keys whose value no message may show.
SECRET = ("path", "address", "mirrors", "repoBlobUrl")


def keys(table: Table, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of each key, through objects but not into arrays."""
    for field in dataclasses.fields(table):  # type: ignore[arg-type]
        if "key" not in field.metadata:
            continue
        path = (*prefix, field.metadata["key"])
        yield path
        member = getattr(table, field.name)
        if isinstance(member, Table):
            yield from keys(member, path)


SERVICE = list(keys(ServiceConfig()))
REGISTRY = [("registries", "h", *path) for path in keys(RegistryConfig())]
IMAGE = list(keys(ImageConfig()))


def nested(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    for key in reversed(path):
        value = {key: value}
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize("path", [*SERVICE, *REGISTRY], ids=".".join)
def test_a_wrong_value_of_a_service_is_refused_by_its_key(path: tuple[str, ...]) -> None:
    refused = 0
    for value in VALUES:
        try:
            parse_service(nested(path, value), "/f")
        except ConfigError as error:
            refused += 1
            line = str(error)
            assert line.startswith("invalid: /f: ") and "\n" not in line
            assert path[-1] in line or f'"{path[-2]}"' in line
            assert path[-1] not in SECRET or "hunter2" not in line
    assert refused >= len(VALUES) // 2


@pytest.mark.parametrize("path", IMAGE, ids=".".join)
def test_a_wrong_value_of_an_image_is_refused_by_its_key(path: tuple[str, ...]) -> None:
    for value in VALUES:
        root = {"lowers": [{"file": "/x"}, {"dir": "/y"}], **nested(path, value)}
        try:
            parse_image(root, "/f")
        except ConfigError as error:
            line = str(error)
            assert line.startswith("invalid: /f: ") and "\n" not in line
            assert path[-1] in line
            assert path[-1] not in SECRET or "hunter2" not in line


def test_no_document_makes_anything_but_a_configuration_or_a_refusal() -> None:
    order = random.Random(1)
    paths = [*SERVICE, *REGISTRY]
    for _ in range(2000):
        root: dict[str, Any] = {}
        for path in order.sample(paths, 4):
            here = root
            for key in path[:-1]:
                inner = here.setdefault(key, {})
                if not isinstance(inner, dict):
                    break
                here = inner
            else:
                here[path[-1]] = order.choice([*VALUES, "file", "http", 4096, "/x", "http://h:1"])
        try:
            config = parse_service(root)
        except ConfigError:
            continue
        assert config.cache.size_bytes >= 1 << 30


def row_of(path: tuple[str, ...]) -> bool:
    """Whether a row of a table, or a list of members, names the key."""
    table, member = path[:-1], path[-1]
    if not table or table[0] == "download":
        return f"`{member}`" in DOCUMENT
    rows = [line for line in DOCUMENT.split("\n") if f"`{table[-1]}." in line]
    return any(f"`{table[-1]}.{member}`" in row or f"`.{member}`" in row for row in rows)


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in SERVICE
        if len(path) > 1
        or path[0]
        not in (
            "logConfig",
            "cacheConfig",
            "gzipCacheConfig",
            "credentialConfig",
            "p2pConfig",
            "exporterConfig",
            "serviceConfig",
            "prefetchConfig",
            "certConfig",
        )
    ],
    ids=".".join,
)
def test_the_document_has_every_key_of_a_service(path: tuple[str, ...]) -> None:
    assert row_of(path)


@pytest.mark.parametrize("cls", [RegistryConfig, ImageConfig, Lower])
def test_the_document_has_every_key_of_the_others(cls: type[Table]) -> None:
    for key, *_ in keys(cls()):
        assert f"`{key}`" in DOCUMENT
