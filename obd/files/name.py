"""How people name a file in an image: `IMAGE:PATH`, and what may stand for IMAGE."""

from __future__ import annotations

import os
from typing import Final

FORMS: Final = (
    "an image configuration, a layer file, [docker://|http[s]://]HOST/REPOSITORY[:TAG][@DIGEST] "
    "or oci:DIRECTORY[:TAG]"
)
# What may stand before `:/` and is no image.
_SCHEMES: Final = frozenset({"http", "https", "docker", "oci", "oci-archive", "docker-archive"})


def split_name(word: str) -> tuple[str, str]:
    """Image and path of `IMAGE[:PATH]`; the path begins with a slash, and is "/" if none is given.

    A word that is a file of this machine is an image without a path, whatever colons its name has.
    """
    if os.path.exists(word):
        return word, "/"
    at = word.find(":/")
    while at >= 0:
        if word[:at] not in _SCHEMES:
            return word[:at], word[at + 1 :]
        at = word.find(":/", at + 3)
    return word, "/"
