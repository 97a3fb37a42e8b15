"""The credential mode `kubelet`: a node's credential provider programs, run as the kubelet runs them."""

import json
import os
import threading
from collections.abc import Mapping
from typing import Any, Final

from obd.credentials import program
from obd.credentials.credential import Credential
from obd.credentials.image_match import image_of, matches, most_special
from obd.credentials.kubelet_config import Provider, load_providers, seconds
from obd.credentials.memory import ANSWER_S, Answer, Memory
from obd.credentials.source import LookupFailed, Source, log
from obd.credentials.watched import stamp

# How far an answer reaches, by the name that the program gives it: a key to remember it by.
_KINDS: Final = ("Image", "Registry", "Global")


class KubeletCredentials(Source):
    """The providers that the file `path` lists; their programs are in `bin_dir`."""

    def __init__(self, path: str, bin_dir: str) -> None:
        super().__init__(f"kubelet credential providers of {path}")
        self._path = path
        self._bin_dir = os.path.abspath(bin_dir)
        self._reading = threading.Lock()
        self._seen: object = None
        self._providers: list[Provider] | LookupFailed = []
        self._memory: Memory[Mapping[str, Credential]] = Memory()

    def ask(self, blob_url: str) -> Credential | None:
        """As `Source.ask`: the first provider in the file's order that has something for the image."""
        image = image_of(blob_url)
        failure = None
        for provider in self._load():
            if not any(matches(pattern, image) for pattern in provider.patterns):
                continue
            try:
                keys = _keys(provider, image)
                found = self._memory.get(keys, lambda p=provider: self._run(p, image))  # type: ignore[misc]
            except LookupFailed as error:
                failure = error
                continue
            for pattern in most_special(found, image):
                if failure:
                    self.remark(f"{failure}; {provider.name} gives what is used")
                return found[pattern]
        if failure:
            raise failure
        return None

    def forget(self, blob_url: str) -> None:
        """As `CredentialSource.forget`."""
        image = image_of(blob_url)
        try:
            for provider in self._load():
                self._memory.forget(_keys(provider, image))
        except LookupFailed:
            return

    def describe(self) -> str:
        """As `CredentialSource.describe`; names the programs."""
        said = super().describe()
        try:
            names = ", ".join(provider.name for provider in self._load())
        except LookupFailed:
            return said
        return f"{said} ({names})"

    def _load(self) -> list[Provider]:
        seen = stamp(self._path)
        with self._reading:
            if seen != self._seen:
                self._seen = seen
                self._memory.clear()
                try:
                    self._providers, skipped = load_providers(self._path)
                except LookupFailed as failure:
                    self._providers, skipped = failure, []
                for line in skipped:
                    log.warning("credentials: %s: %s", self._path, line)
            if isinstance(self._providers, LookupFailed):
                raise LookupFailed(*self._providers.args)
            return self._providers

    def _run(self, provider: Provider, image: str) -> Answer[Mapping[str, Credential]]:
        """What a program answers for an image. Raises `LookupFailed`."""
        request = {"apiVersion": provider.api_version, "kind": "CredentialProviderRequest", "image": image}
        command = [os.path.join(self._bin_dir, provider.name), *provider.args]
        env = {**program.environment(), **dict(provider.env)}
        try:
            status, output = program.run(command, json.dumps(request).encode(), env)
            if status:
                raise LookupFailed(f"failed with status {status}")
            return _answer(provider, image, output)
        except LookupFailed as failure:
            raise LookupFailed(f"{provider.name}: {failure}") from None


def _keys(provider: Provider, image: str) -> list[tuple[str, str]]:
    """What an answer for `image` may be remembered by, in the order of `_KINDS`."""
    return [(provider.name, image), (provider.name, image.partition("/")[0]), (provider.name, "")]


def _answer(provider: Provider, image: str, output: bytes) -> Answer[Mapping[str, Credential]]:
    try:
        answer = json.loads(output)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict) or answer.get("kind") != "CredentialProviderResponse":
        raise LookupFailed("its answer is no CredentialProviderResponse")
    if answer.get("apiVersion") != provider.api_version:
        raise LookupFailed(f"its answer is not of {provider.api_version}")
    kind = answer.get("cacheKeyType")
    if kind not in _KINDS:
        raise LookupFailed(f"cacheKeyType of its answer must be one of {', '.join(_KINDS)}")
    life_s = provider.life_s
    if answer.get("cacheDuration") is not None:
        given = seconds(answer["cacheDuration"])
        if given is None:
            raise LookupFailed("cacheDuration of its answer is no duration")
        life_s = given
    key = _keys(provider, image)[_KINDS.index(kind)]
    # Of a program that wants nothing kept, an answer still does for what is read at the same moment.
    if life_s < ANSWER_S:
        life_s, key = ANSWER_S, _keys(provider, image)[0]
    return Answer(_credentials(answer.get("auth")), life_s, key)


def _credentials(auth: Any) -> dict[str, Credential]:
    if auth is None:
        return {}
    if not isinstance(auth, dict):
        raise LookupFailed("auth of its answer is no object")
    found = {}
    for pattern, entry in auth.items():
        username, password = (
            (entry.get("username"), entry.get("password")) if isinstance(entry, dict) else (0, 0)
        )
        if not isinstance(username, str) or not isinstance(password, str):
            raise LookupFailed("auth of its answer holds what is no username and password")
        if username:
            found[pattern] = Credential(username, password)
    return found
