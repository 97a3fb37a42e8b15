"""The kubelet's `CredentialProviderConfig`: which programs there are, and for which images."""

import json
import re
from dataclasses import dataclass, field
from typing import Any, Final

from obd.config.strict_json import MAX_CONFIG_BYTES
from obd.credentials.source import LookupFailed

_CONFIG_VERSIONS: Final = tuple(f"kubelet.config.k8s.io/{v}" for v in ("v1", "v1beta1", "v1alpha1"))
_EXEC_VERSIONS: Final = tuple(f"credentialprovider.kubelet.k8s.io/{v}" for v in ("v1", "v1beta1", "v1alpha1"))

# The longest life of a credential that is believed.
LONGEST_S: Final = 7 * 24 * 3600.0
_DURATION: Final = re.compile(r"(\d{1,12}(?:\.\d{0,9})?|\.\d{1,9})(ns|us|µs|μs|ms|s|m|h)")
_SECONDS: Final = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "μs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}


@dataclass(frozen=True)
class Provider:
    """One program: its file name, what it is run for, and how. The environment may hold secrets."""

    name: str
    patterns: tuple[str, ...]
    life_s: float
    api_version: str
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = field(default=(), repr=False)


def load_providers(path: str) -> tuple[list[Provider], list[str]]:
    """The providers in the file `path`, YAML or JSON, and a line for each that cannot be used here.

    Raises `LookupFailed` with key and place of what is wrong, and no value that may be secret.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise LookupFailed(f"cannot open: {error.strerror}") from None
    if len(data) > MAX_CONFIG_BYTES:
        raise LookupFailed(f"longer than {MAX_CONFIG_BYTES} bytes: not a configuration")
    root = _parse(data)
    if not isinstance(root, dict) or root.get("kind") != "CredentialProviderConfig":
        raise LookupFailed("kind: must be CredentialProviderConfig")
    if root.get("apiVersion") not in _CONFIG_VERSIONS:
        raise LookupFailed(f"apiVersion: must be one of {', '.join(_CONFIG_VERSIONS)}")
    items = root.get("providers")
    if not isinstance(items, list) or not items:
        raise LookupFailed("providers: must be a list with at least one provider")
    providers: list[Provider] = []
    skipped: list[str] = []
    for position, item in enumerate(items):
        where = f"providers[{position}]"
        if not isinstance(item, dict):
            raise LookupFailed(f"{where}: must be an object")
        if item.get("tokenAttributes"):
            skipped.append(f"{where} is passed over: it needs a pod's service account token")
        else:
            providers.append(_provider(item, where))
    return providers, skipped


def _parse(data: bytes) -> Any:
    try:
        # YAML can do that too, but this needs no library.
        return json.loads(data)
    except (ValueError, RecursionError):
        pass
    try:
        import yaml
    except ImportError:
        raise LookupFailed("not JSON, and PyYAML, which YAML needs, is not installed") from None
    try:
        return yaml.safe_load(data)
    except Exception as error:  # besides its own also what its constructors run into: IndexError, KeyError…
        mark = getattr(error, "problem_mark", None)
        raise LookupFailed(f"not YAML{f': line {mark.line + 1}' if mark else ''}") from None


def _provider(item: dict[str, Any], where: str) -> Provider:
    name = item.get("name")
    if not isinstance(name, str) or not name or name in (".", "..") or re.search(r"[/\s\0]", name):
        raise LookupFailed(f"{where}.name: must be the name of a program, without slash or space")
    patterns = _strings(item.get("matchImages"), f"{where}.matchImages")
    if not patterns:
        raise LookupFailed(f"{where}.matchImages: must not be empty")
    version = item.get("apiVersion")
    if version not in _EXEC_VERSIONS:
        raise LookupFailed(f"{where}.apiVersion: must be one of {', '.join(_EXEC_VERSIONS)}")
    life_s = seconds(item.get("defaultCacheDuration"))
    if life_s is None:
        raise LookupFailed(f'{where}.defaultCacheDuration: must be a duration like "12h0m0s"')
    args = _strings(item.get("args") or [], f"{where}.args")
    env = []
    entries = item.get("env") or []
    for entry in entries if isinstance(entries, list) else [None]:
        pair = (entry.get("name"), entry.get("value", "")) if isinstance(entry, dict) else (None, None)
        if not isinstance(pair[0], str) or not isinstance(pair[1], str) or not pair[0] or "=" in pair[0]:
            raise LookupFailed(f"{where}.env: must be a list of objects with the strings name and value")
        env.append((pair[0], pair[1]))
    return Provider(name, patterns, life_s, str(version), args, tuple(env))


def _strings(value: object, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise LookupFailed(f"{where}: must be a list of strings")
    return tuple(value)


def seconds(value: object) -> float | None:
    """A duration as Kubernetes writes it, `12h0m0s`; None if `value` is none. At most `LONGEST_S`."""
    if not isinstance(value, str):
        return None
    if value == "0":
        return 0.0
    parts = _DURATION.findall(value)
    if not parts or "".join(number + unit for number, unit in parts) != value:
        return None
    return min(sum(float(number) * _SECONDS[unit] for number, unit in parts), LONGEST_S)
