"""What a service configuration comes to: every key, the value that counts, and where that is from."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from obd.config.errors import shown
from obd.config.schema import Table
from obd.config.service import ServiceConfig
from obd.secret import without_secrets

# The legacy key that stands behind a member of a new object.
_LEGACY: Final = {
    "logConfig.logLevel": "logLevel",
    "logConfig.logPath": "logPath",
    "cacheConfig.cacheType": "cacheType",
    "cacheConfig.cacheDir": "registryCacheDir",
    "cacheConfig.cacheSizeGB": "registryCacheSizeGB",
    "credentialConfig.mode": "credentialFilePath",
    "credentialConfig.path": "credentialFilePath",
}


class Setting(NamedTuple):
    """One key as `a.b`; `value` is fit for JSON and free of secrets."""

    key: str
    value: Any
    origin: str
    """Where the value is from: "file", "legacy key NAME" or "default"."""


def effective_settings(config: ServiceConfig, root: Mapping[str, Any]) -> list[Setting]:
    """All settings of `config`, which was read from the JSON object `root` ({} for the defaults).

    Legacy keys are not listed: what they bring is under the key that has replaced them.
    """
    counts = _counting(config)
    settings = []
    for field in dataclasses.fields(config):
        key = field.metadata.get("key")
        if key is None or key in _LEGACY.values():
            continue
        value = counts.get(key, getattr(config, field.name))
        for path, member, secret, given in _leaves(key, value, field, root):
            settings.append(Setting(path, _public(member, secret), _origin(path, member, given, root)))
    return settings


def changed_keys(old: ServiceConfig, new: ServiceConfig) -> list[str]:
    """The settings, as `a.b`, that do not come to the same, whichever key brings them."""
    before, after = dict(_values(old)), dict(_values(new))
    # A key may be in one only: that of a registry.
    return [key for key in {**before, **after} if before.get(key, _ABSENT) != after.get(key, _ABSENT)]


def _values(config: ServiceConfig) -> Iterator[tuple[str, Any]]:
    counts = _counting(config)
    for field in dataclasses.fields(config):
        key = field.metadata.get("key")
        if key is not None and key not in _LEGACY.values():
            for path, value, _, _ in _leaves(key, counts.get(key, getattr(config, field.name)), field, {}):
                # That there are no registries is no setting.
                if value != {}:
                    yield path, value


def _counting(config: ServiceConfig) -> dict[str, Table]:
    """What replaces the objects of the file with what counts."""
    return {"logConfig": config.log, "cacheConfig": config.cache, "credentialConfig": config.credentials}


def _leaves(
    path: str, value: Any, field: "dataclasses.Field[Any]", parent: object
) -> Iterator[tuple[str, Any, bool, object]]:
    """Path, value and secrecy of each member, and what the file says there (`_ABSENT` if nothing)."""
    key = field.metadata["key"]
    given = parent.get(key, _ABSENT) if isinstance(parent, Mapping) else _ABSENT
    if isinstance(value, Table):
        yield from _members(path, value, given)
    elif isinstance(value, Mapping):
        if not value:
            yield path, {}, False, given
        for name, item in value.items():
            inside = given.get(name) if isinstance(given, Mapping) else _ABSENT
            yield from _members(f"{path}[{shown(name)}]", item, inside)
    else:
        yield path, value, bool(field.metadata.get("secret")), given


def _members(path: str, value: Table, given: object) -> Iterator[tuple[str, Any, bool, object]]:
    for field in dataclasses.fields(value):  # type: ignore[arg-type]
        member = getattr(value, field.name)
        yield from _leaves(f"{path}.{field.metadata['key']}", member, field, given)


_ABSENT: Final = object()


def _origin(path: str, value: Any, given: object, root: Mapping[str, Any]) -> str:
    # A member that is there may yet not count: `cacheDir` without `cacheType`.
    if given is not _ABSENT and (given == value or path not in _LEGACY or path == "logConfig.logLevel"):
        return "file"
    legacy = _LEGACY.get(path)
    return f"legacy key {legacy}" if legacy in root else "default"


def _public(value: Any, secret: bool) -> Any:
    if isinstance(value, tuple):
        return [_public(item, secret) for item in value]
    return without_secrets(value) if secret and isinstance(value, str) else value
