"""Names that follow from the content of layers: uuids, keys of records."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping


def uuid_of(chain_id: str) -> str:
    """The uuid of the layer at the end of a chain: the first 32 hexadecimal digits of its ID."""
    digits = chain_id.partition(":")[2]
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:32]))


def key_of(chain_id: str, parameters: Mapping[str, object]) -> str:
    """What a converted layer is known by: 64 hexadecimal digits of its content and of all that shaped it."""
    said = json.dumps({"chain": chain_id, **parameters}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(said.encode()).hexdigest()
