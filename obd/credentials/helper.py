"""Docker's credential helpers: programs `docker-credential-NAME`, and which of them is for a blob."""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from obd.credentials.credential import Credential
from obd.credentials.document import credential_of, host_of, keys_by_length, known
from obd.credentials.memory import Answer, Memory
from obd.credentials.source import LookupFailed

PREFIX: Final = "docker-credential-"
# A name goes into the name of a program.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# What helpers say on stdout when they have nothing: no failure.
_NOTHING: Final = (b"credentials not found in native keychain", b"no credentials server URL")
# The name under which Docker's tools keep what is for Docker Hub, and the hosts that are it.
_HUB_SERVER: Final = "https://index.docker.io/v1/"
_HUB_HOSTS: Final = frozenset(("docker.io", "index.docker.io", "registry-1.docker.io"))


class Helpers:
    """The helpers that a Docker configuration names in `credHelpers` and `credsStore`."""

    def __init__(self) -> None:
        self._memory: Memory[Credential | None] = Memory()

    def lookup(self, document: Mapping[str, Any], blob_url: str) -> Credential | None:
        """What the helper for a blob has; None if there is none, or it has nothing. Raises `LookupFailed`."""
        chosen = choose(document, blob_url)
        if chosen is None:
            return None
        name, server = chosen
        return self._memory.get([chosen], lambda: Answer(ask(name, server)))

    def forget(self, document: Mapping[str, Any], blob_url: str) -> None:
        """Drops what is remembered for a blob."""
        chosen = choose(document, blob_url)
        if chosen is not None:
            self._memory.forget([chosen])


def choose(document: Mapping[str, Any], blob_url: str) -> tuple[str, str] | None:
    """The name of the helper for a blob, and the server to ask it for."""
    helpers = document.get("credHelpers")
    if isinstance(helpers, dict):
        for key in keys_by_length(helpers, blob_url):
            if isinstance(helpers[key], str) and helpers[key]:
                return helpers[key], _server(key)
    store = document.get("credsStore")
    if isinstance(store, str) and store:
        return store, _server(host_of(blob_url))
    return None


def names_of(document: Mapping[str, Any]) -> list[str]:
    """The programs that a configuration names, in order and once each."""
    helpers = document.get("credHelpers")
    named = [*(helpers.values() if isinstance(helpers, dict) else ()), document.get("credsStore")]
    return list(dict.fromkeys(PREFIX + name for name in named if isinstance(name, str) and name))


def ask(name: str, server: str) -> Credential | None:
    """What the helper `name` has for `server`. Raises `LookupFailed`."""
    import shutil

    from obd.credentials import program

    if not _NAME.fullmatch(name):
        raise LookupFailed(f"{PREFIX}…: the name of a helper must be letters, digits, dot, - and _")
    env = program.environment()
    path = shutil.which(PREFIX + name, path=env["PATH"])
    if path is None:
        raise LookupFailed(f"{PREFIX}{name}: not found on the PATH")
    try:
        status, output = program.run([path, "get"], server.encode(), env)
    except LookupFailed as failure:
        raise LookupFailed(f"{PREFIX}{name}: {failure}") from None
    if status:
        if output.strip().startswith(_NOTHING):
            return None
        # What it wrote may hold anything.
        raise LookupFailed(f"{PREFIX}{name}: failed with status {status}")
    try:
        answer = json.loads(output)
        username, secret = answer["Username"], answer["Secret"]
    except (ValueError, KeyError, TypeError, RecursionError):
        username = secret = None
    if not isinstance(username, str) or not isinstance(secret, str):
        raise LookupFailed(f"{PREFIX}{name}: its answer is not JSON with Username and Secret")
    return known(credential_of(username, secret))


def _server(key: str) -> str:
    host = key.partition("://")[2] or key
    return _HUB_SERVER if host.partition("/")[0].lower() in _HUB_HOSTS else key
