"""What an attachment is called: after its image configuration, and unlike any other."""

import os
import re
from typing import Final

from obd.state import StateDirectory

# Of a file name so much is taken over: the kernel shows names of 31 characters in places.
_STEM_CHARACTERS: Final = 14


def name_of(place: StateDirectory) -> str:
    """The name of the attachment that `place` is the state of."""
    stem = os.path.basename(place.key).removesuffix(".json")
    if stem in ("config", "config.v1"):  # as all images of a snapshotter are called; their directory tells
        stem = os.path.basename(os.path.dirname(place.key))
    stem = re.sub(r"[^A-Za-z0-9]+", "-", stem)[:_STEM_CHARACTERS].strip("-")
    return f"{stem or 'image'}-{place.digest}"
