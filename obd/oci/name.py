"""How people name a place with images: a registry's image, a layout, an archive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from obd.errors import ObdError
from obd.oci.fields import shown
from obd.reference import Reference, parse_reference

KINDS: Final = ("oci", "oci-archive", "docker-archive")
FORMS: Final = (
    "[docker://|http[s]://]HOST/REPOSITORY[:TAG][@DIGEST], oci:DIRECTORY[:TAG], oci-archive:FILE[:TAG] "
    "or docker-archive:FILE[:TAG]"
)


@dataclass(frozen=True, slots=True)
class Local:
    """A layout or an archive of this machine: one of `KINDS`, its path, and the tag, "" if none is given."""

    kind: str
    path: str
    tag: str


def parse_name(word: str, *, plain_http: bool = False) -> Reference | Local:
    """What `word` names. Raises `ObdError` "invalid" for what is no name.

    The path of a layout or an archive ends at the first colon; the tag may have more of them.
    """
    kind, colon, rest = word.partition(":")
    if colon and kind in KINDS:
        path, _, tag = rest.partition(":")
        if not path or "\0" in word:
            raise ObdError("invalid", f"{shown(word)}: no path after {kind}:")
        return Local(kind, path, tag)
    reference = parse_reference(word, plain_http=plain_http)
    if reference is None:
        raise ObdError("invalid", f"{shown(word)}: must be {FORMS}")
    return reference
