"""One repository of a registry: its manifests, whether a blob is there, what refers to an image."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from obd.credentials.document import repository
from obd.errors import ObdError
from obd.oci.digest import hasher, is_digest
from obd.oci.manifest import Index, Manifest, parse_manifest
from obd.oci.media import INDEXES, MANIFESTS, OCI_INDEX
from obd.oci.patience import Answer, ask, number, refusal
from obd.registry import PULL, PUSH
from obd.secret import without_secrets

if TYPE_CHECKING:
    from obd.oci.descriptor import Descriptor
    from obd.registry import Registry

_ACCEPT: Final = {"Accept": ", ".join(MANIFESTS + INDEXES)}
# Of those who change the same list of referrers at the same time, each tries so often.
_ATTEMPTS: Final = 5


class Repository:
    """The repository at `url`, such as `https://registry.example/v2/team/app`. Safe for any thread.

    Methods raise `ObdError`: "denied", "io", "timed-out", or "invalid" and "corrupt" for answers that make no
    sense.
    """

    def __init__(self, registry: Registry, url: str) -> None:
        self.registry: Final = registry
        self.url: Final = url.rstrip("/")

    @property
    def host(self) -> str:
        """Scheme, host and port: registries that have it in common are one."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2].lower()}"

    @property
    def repository(self) -> str:
        """The name within the registry: `team/app`."""
        return repository(self.url)

    def manifest(self, reference: str, *, action: str = PULL) -> tuple[str, bytes]:
        """Media type, as the registry says, and bytes of the manifest of a tag or digest."""
        url = f"{self.url}/manifests/{reference}"
        answer = ask(self.registry, "GET", url, action=action, headers=_ACCEPT)
        if answer.status != 200:
            refused = refusal("GET", answer)
            if refused.kind == "denied":
                who = self.registry.describe_credentials(url)
                raise ObdError("denied", f"{refused.what} ({who})")
            raise refused
        told = reference if is_digest(reference) else answer.header("Docker-Content-Digest")
        if is_digest(told):
            proof = hasher(told)
            proof.update(answer.body)
            if proof.hexdigest() != told.partition(":")[2]:
                raise ObdError("corrupt", f"{without_secrets(url)}: the registry sent another manifest")
        return answer.header("Content-Type"), answer.body

    def find_manifest(self, reference: str) -> bytes | None:
        """The manifest of a tag or digest, None if there is none; with the right to push here."""
        try:
            return self.manifest(reference, action=PUSH)[1]
        except ObdError as error:
            if error.kind == "not-found":
                return None
            raise

    def put_manifest(self, reference: str, descriptor: Descriptor, data: bytes) -> None:
        """Stores a manifest, and where the registry does not, lists it with its subject."""
        url = f"{self.url}/manifests/{reference}"
        head = {"Content-Type": descriptor.media_type}
        answer = ask(self.registry, "PUT", url, action=PUSH, headers=head, data=data)
        if not 200 <= answer.status < 300:
            raise refusal("PUT", answer)
        parsed = parse_manifest(data, descriptor.media_type)
        if parsed.subject and answer.header("OCI-Subject") != parsed.subject.digest:
            self._list_referrer(parsed.subject.digest, _as_referrer(descriptor, parsed))

    def blob_size(self, digest: str) -> int | None:
        """The size of a blob, -1 if the registry does not say; None if it is not there."""
        answer = ask(self.registry, "HEAD", f"{self.url}/blobs/{digest}", action=PUSH)
        if answer.status == 404:
            return None
        if answer.status == 200:
            length = number(answer.header("Content-Length"))
            return -1 if length is None else length
        # It lies elsewhere, which is all the same to us.
        if answer.status in (301, 302, 303, 307, 308):
            return -1
        raise refusal("HEAD", answer)

    def referrers(self, digest: str, artifact_type: str = "") -> tuple[Descriptor, ...]:
        """The manifests whose subject has that digest, of one type or all."""
        answer = ask(self.registry, "GET", f"{self.url}/referrers/{digest}", action=PULL)
        found = _index(answer)
        if found is None:
            reference = _referrers_tag(digest)
            answer = ask(
                self.registry, "GET", f"{self.url}/manifests/{reference}", action=PULL, headers=_ACCEPT
            )
            if answer.status not in (200, 404):
                raise refusal("GET", answer)
            found = _index(answer)
        entries = found.manifests if found else ()
        return tuple(entry for entry in entries if artifact_type in ("", entry.artifact_type))

    def _list_referrer(self, subject: str, entry: Descriptor) -> None:
        """Adds to the list that clients keep where a registry does not: an index with a tag of its own.

        Nothing keeps others from changing it meanwhile, so it is looked at afterwards.
        """
        tag = _referrers_tag(subject)
        for _ in range(_ATTEMPTS):
            there = self.find_manifest(tag)
            index = parse_manifest(there) if there else Index(())
            if not isinstance(index, Index):
                raise ObdError("corrupt", f"{without_secrets(self.url)}: {tag} is no list of referrers")
            if any(other.digest == entry.digest for other in index.manifests):
                return
            data = replace(index, manifests=(*index.manifests, entry)).encode()
            head = {"Content-Type": OCI_INDEX}
            answer = ask(
                self.registry, "PUT", f"{self.url}/manifests/{tag}", action=PUSH, headers=head, data=data
            )
            if not 200 <= answer.status < 300:
                raise refusal("PUT", answer)
        raise ObdError("busy", f"{without_secrets(self.url)}: others keep changing {tag}")


def _referrers_tag(digest: str) -> str:
    algorithm, _, digits = digest.partition(":")
    return f"{algorithm[:32]}-{digits[:64]}"


def _as_referrer(descriptor: Descriptor, parsed: Manifest | Index) -> Descriptor:
    """How a list of referrers names a manifest."""
    kind = parsed.artifact_type
    if not kind and isinstance(parsed, Manifest):
        kind = parsed.config.media_type
    return replace(descriptor, artifact_type=kind, annotations=parsed.annotations, platform=None)


def _index(answer: Answer) -> Index | None:
    """The index that an answer has; some registries answer what they do not know with anything."""
    if answer.status != 200:
        return None
    try:
        found = parse_manifest(answer.body, answer.header("Content-Type"))
    except ObdError:
        return None
    return found if isinstance(found, Index) else None
